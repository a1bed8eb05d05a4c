package verify

import (
	"context"
	"errors"
)

// headerLate marks an event that the lane published long after its place, because the API refused
// its type for a while.
const headerLate = "relay-late"

// unseen is before every event.
const unseen = -1 << 63

// compareKeys finds out which of the events that were not found a compacted topic may have removed:
// those of which a message with the same key is on the bus whose event is not older. It works
// through the keys one part at a time.
func (r *run) compareKeys(ctx context.Context) error {
	if r.compacted == nil {
		return nil
	}
	r.newer = newBits(r.count)
	if err := r.splitLost(ctx); err != nil {
		return err
	}
	for n := range r.parts {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.compareKeysOf(n); err != nil {
			return err
		}
	}
	return nil
}

// splitLost divides the events on compacted topics that were not found among the parts, by their
// keys.
func (r *run) splitLost(ctx context.Context) (err error) {
	ws, err := newWriters(r.parts, r.lostPart)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ws.close()) }()
	var e event
	return readAll(r.eventsFile(), &e, func() error {
		if e.index%progressEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if r.found.has(e.index) || !r.compacted[e.topic] {
			return nil
		}
		return ws[r.part(e.key)].write(&e)
	})
}

func (r *run) compareKeysOf(n int) error {
	newest := map[uint64]int64{} // by key of an event that was not found: when the newest event on the bus was made
	var e event
	err := readAll(r.lostPart(n), &e, func() error {
		newest[e.key] = unseen
		return nil
	})
	if err != nil || len(newest) == 0 {
		return err
	}
	var k keyed
	err = readAll(r.keysPart(n), &k, func() error {
		if at, ok := newest[k.key]; ok {
			newest[k.key] = max(at, k.created)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return readAll(r.lostPart(n), &e, func() error {
		if newest[e.key] >= e.created {
			r.newer.set(e.index)
		}
		return nil
	})
}
