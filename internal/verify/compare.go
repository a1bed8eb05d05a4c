package verify

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"
)

// slotBytes is the size of an entry in the order file: which event the copy is of, and its offset.
const slotBytes = 16

// again marks, in an entry, a copy that is not the first of its event.
const again = 1 << 63

// expected is an event while its part is compared.
type expected struct {
	event
	copies int    // on its topic, not counting replays
	first  copied // of those
}

// compare goes through the parts, then looks at the order of what each log holds, then at what was
// not found.
func (r *run) compare(ctx context.Context) (err error) {
	order, err := os.Create(filepath.Join(r.dir, "order")) //nolint:gosec // inside the temporary folder
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := order.Close(); err == nil {
			err = closeErr
		}
	}()
	for n := range r.parts {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.comparePart(n, order); err != nil {
			return err
		}
		r.progress(StageCompare, float64(n+1)/float64(r.parts), r.report.Events)
	}
	breaks, err := r.compareOrder(ctx, order)
	if err != nil {
		return err
	}
	if err := r.compareKeys(ctx); err != nil {
		return err
	}
	return r.finish(ctx, breaks)
}

func (r *run) comparePart(n int, order *os.File) error {
	events := make(map[string]*expected)
	var e event
	if err := readAll(r.eventsPart(n), &e, func() error {
		events[e.id] = &expected{event: e}
		return nil
	}); err != nil {
		return err
	}
	var c copied
	return readAll(r.copiesPart(n), &c, func() error {
		if x := events[c.id]; x != nil {
			return r.classify(x, &c, order)
		}
		return nil // a stranger that passed the filter
	})
}

// classify decides what one message on the bus is. Copies are in the order of the scan.
func (r *run) classify(x *expected, c *copied, order *os.File) error {
	r.found.set(x.index)
	r.report.Messages++
	if c.topic != x.topic && r.names[c.topic] == r.check.Router.DeadLetterTopic() {
		r.report.Parked++
		return nil
	}
	ex := func() Example { return r.example(x, c) }
	if c.sum != x.sum {
		r.report.Altered.add(ex)
	}
	switch {
	case c.topic != x.topic:
		r.report.Misrouted.add(ex)
		return nil
	case c.mark == byReplay:
		r.report.Replayed++
		return nil
	case c.mark == byRepair:
		r.report.Repaired++
	case c.mark == late:
		r.report.Late++
	}
	first := x.copies == 0
	if x.copies++; !first {
		r.report.Duplicate.add(func() Example {
			found := ex()
			found.FirstLog, found.FirstOffset = r.lanes[x.first.lane].Name, x.first.offset
			return found
		})
	} else {
		x.first = *c
	}
	if c.mark != byLane || !first && !r.check.MayComeEarly {
		return nil
	}
	number := x.index + 1
	if first {
		ln := &r.lanes[c.lane]
		ln.lowest = min(ln.lowest, x.index)
		if h := r.held[c.topic]; h != nil {
			h.lowest = min(h.lowest, x.index)
		}
	} else {
		number |= again
	}
	var slot [slotBytes]byte
	binary.BigEndian.PutUint64(slot[:], number)
	binary.BigEndian.PutUint64(slot[8:], uint64(c.offset))    //nolint:gosec // its bits
	_, err := order.WriteAt(slot[:], int64(c.scan)*slotBytes) //nolint:gosec // no disk holds as much
	return err
}

func (r *run) example(x *expected, c *copied) Example {
	return Example{
		EventID: x.id, CreatedAt: time.Unix(0, x.created).UTC(), Topic: r.names[c.topic], Expected: r.names[x.topic],
		Log: r.lanes[c.lane].Name, Offset: c.offset,
	}
}

// orderBreak is an event that follows directly on one that is later in the source.
type orderBreak struct {
	index, behind uint64
	lane          int
	offset        int64
}

// compareOrder walks through what the lane itself published, in the order of each log, and returns
// the breaks to be named.
func (r *run) compareOrder(ctx context.Context, order *os.File) ([]orderBreak, error) {
	var breaks []orderBreak
	in := bufio.NewReaderSize(io.NewSectionReader(order, 0, int64(r.scans)*slotBytes), 256<<10) //nolint:gosec // no disk holds as much
	for n := range r.lanes {
		last := uint64(0) // number of the event before, from 1
		for i := range r.lanes[n].endScan - r.lanes[n].firstScan {
			if i%progressEvery == 0 && ctx.Err() != nil {
				return nil, ctx.Err()
			}
			var slot [slotBytes]byte
			if _, err := io.ReadFull(in, slot[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				break // the last copies had no place
			} else if err != nil {
				return nil, err
			}
			number := binary.BigEndian.Uint64(slot[:])
			if number == 0 || number&again != 0 {
				continue // a copy whose place does not count
			}
			if number < last {
				if r.report.OutOfOrder.Count++; len(breaks) < r.report.OutOfOrder.limit {
					offset := int64(binary.BigEndian.Uint64(slot[8:])) //nolint:gosec // its bits
					breaks = append(breaks, orderBreak{index: number - 1, behind: last - 1, lane: n, offset: offset})
				}
			}
			last = number
		}
	}
	if r.report.OutOfOrder.Count > 0 && r.check.MayComeEarly && r.report.Allows() {
		inPlace, err := r.allInPlace(ctx, order)
		if err != nil {
			return nil, err
		}
		if inPlace {
			r.report.AllowedEarly = r.report.OutOfOrder.Count
		}
	}
	return breaks, nil
}

// allInPlace reports whether each event of each log has a copy after one of each event before it.
// So it is if what came too early, behind a hole that an election or a broken connection left, came
// again in its place.
func (r *run) allInPlace(ctx context.Context, order *os.File) (bool, error) {
	for n := range r.lanes {
		l := &r.lanes[n]
		copies := func(fn func(index uint64)) error {
			begin, end := int64(l.firstScan)*slotBytes, int64(l.endScan)*slotBytes //nolint:gosec // no disk holds as much
			in := bufio.NewReaderSize(io.NewSectionReader(order, begin, end-begin), 256<<10)
			for i := 0; ; i++ {
				if i%progressEvery == 0 && ctx.Err() != nil {
					return ctx.Err()
				}
				var slot [slotBytes]byte
				if _, err := io.ReadFull(in, slot[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
					return nil
				} else if err != nil {
					return err
				}
				if number := binary.BigEndian.Uint64(slot[:]) &^ again; number != 0 {
					fn(number - 1)
				}
			}
		}
		awaited := newBits(r.count)
		if err := copies(awaited.set); err != nil {
			return false, err
		}
		next := awaited.next(0)
		if err := copies(func(index uint64) {
			if index == next {
				next = awaited.next(index + 1)
			}
		}); err != nil {
			return false, err
		}
		if next != noEvent {
			return false, nil
		}
	}
	return true, nil
}

// finish finds out what is missing, and names the events of the breaks.
func (r *run) finish(ctx context.Context, breaks []orderBreak) error {
	examples := make([]Example, len(breaks))
	var e event
	err := readAll(r.eventsFile(), &e, func() error {
		if e.index%progressEvery == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		for i, b := range breaks {
			if b.index == e.index {
				examples[i].EventID, examples[i].CreatedAt = e.id, time.Unix(0, e.created).UTC()
				examples[i].Topic, examples[i].Log, examples[i].Offset = r.names[e.topic], r.lanes[b.lane].Name, b.offset
			}
			if b.behind == e.index {
				examples[i].Behind = e.id
			}
		}
		switch r.whereabouts(&e) {
		case here:
		case expired:
			r.report.Expired++
		case compacted:
			r.report.Compacted++
		case displaced:
			r.report.Displaced++
		default:
			r.report.Missing.add(func() Example {
				return Example{EventID: e.id, CreatedAt: time.Unix(0, e.created).UTC(), Topic: r.names[e.topic]}
			})
		}
		return nil
	})
	r.report.OutOfOrder.Examples = examples
	if r.report.Allows() {
		r.report.AllowedCopies = r.report.Duplicate.Count
	}
	r.report.Total = r.report.Faults()
	for i := range r.lanes {
		if l := &r.lanes[i]; r.report.Expired > 0 && l.Trimmed {
			r.report.trimmed(l.Name, l.oldest)
		}
	}
	return err
}

// whereabouts says where an event was found.
type whereabouts int

const (
	missing   whereabouts = iota
	here                  // a message carries it
	expired               // the log may have held it, and has let go of it by age or size
	compacted             // its topic is compacted, and has a newer message with its key
	displaced             // its topic holds as many messages as it may, and all of them are newer
)

func (r *run) whereabouts(e *event) whereabouts {
	h := r.held[e.topic]
	switch {
	case r.found.has(e.index):
		return here
	case r.compacted[e.topic] && r.newer.has(e.index):
		return compacted
	case r.mayHaveExpired(e):
		return expired
	case h != nil && h.messages >= r.maxPerTopic() && e.index < h.lowest:
		return displaced
	default:
		return missing
	}
}

func (r *run) maxPerTopic() int64 {
	for i := range r.lanes {
		if n := r.lanes[i].MaxPerTopic; n > 0 {
			return n
		}
	}
	return noEvent >> 1
}

// mayHaveExpired reports whether an event that was not found may have stood before what a log still
// keeps: it was made before the oldest message there was stored, and comes before every event that
// is there.
func (r *run) mayHaveExpired(e *event) bool {
	for i := range r.lanes {
		l := &r.lanes[i]
		if !l.Trimmed || l.Topic != "" && l.Topic != r.names[e.topic] {
			continue
		}
		if e.index < l.lowest && (l.oldest.IsZero() || time.Unix(0, e.created).Before(l.oldest)) {
			return true
		}
	}
	return false
}
