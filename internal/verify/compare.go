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

// expected is an event while its part is compared.
type expected struct {
	event
	copies int    // on its topic, replays apart
	first  copied // of those
}

// compare goes through the parts, then looks at the order of what each log holds, then at what was not found.
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
	breaks, err := r.compareOrder(order)
	if err != nil {
		return err
	}
	return r.finish(breaks)
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
			return r.judge(x, &c, order)
		}
		return nil // a stranger that passed the filter
	})
}

// judge decides what one message on the bus is. Copies come in the order of their scan.
func (r *run) judge(x *expected, c *copied, order *os.File) error {
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
	}
	if x.copies++; x.copies > 1 {
		r.report.Duplicate.add(func() Example {
			found := ex()
			found.FirstLog, found.FirstOffset = r.lanes[x.first.lane].Name, x.first.offset
			return found
		})
		return nil
	}
	x.first = *c
	if c.mark == byRepair {
		return nil
	}
	ln := &r.lanes[c.lane]
	ln.lowest = min(ln.lowest, x.index)
	var slot [slotBytes]byte
	binary.BigEndian.PutUint64(slot[:], x.index+1)
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

// orderBreak is an event that stands directly behind one that comes later in the source.
type orderBreak struct {
	index, behind uint64
	lane          int
	offset        int64
}

// compareOrder walks through what the lane itself published, in the order of each log, and returns the breaks to be named.
func (r *run) compareOrder(order *os.File) ([]orderBreak, error) {
	var breaks []orderBreak
	in := bufio.NewReaderSize(io.NewSectionReader(order, 0, int64(r.scans)*slotBytes), 256<<10) //nolint:gosec // no disk holds as much
	for n := range r.lanes {
		last := uint64(0) // number of the event before, from 1
		for range r.lanes[n].endScan - r.lanes[n].firstScan {
			var slot [slotBytes]byte
			if _, err := io.ReadFull(in, slot[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				break // the last copies had no place
			} else if err != nil {
				return nil, err
			}
			number := binary.BigEndian.Uint64(slot[:])
			if number == 0 {
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
	return breaks, nil
}

// finish finds out what is missing, and names the events of the breaks.
func (r *run) finish(breaks []orderBreak) error {
	examples := make([]Example, len(breaks))
	var e event
	err := readAll(r.eventsFile(), &e, func() error {
		for i, b := range breaks {
			if b.index == e.index {
				examples[i].EventID, examples[i].CreatedAt = e.id, time.Unix(0, e.created).UTC()
				examples[i].Topic, examples[i].Log, examples[i].Offset = r.names[e.topic], r.lanes[b.lane].Name, b.offset
			}
			if b.behind == e.index {
				examples[i].Behind = e.id
			}
		}
		switch {
		case r.found.has(e.index):
		case r.expired(&e):
			r.report.Expired++
		default:
			r.report.Missing.add(func() Example {
				return Example{EventID: e.id, CreatedAt: time.Unix(0, e.created).UTC(), Topic: r.names[e.topic]}
			})
		}
		return nil
	})
	r.report.OutOfOrder.Examples = examples
	for i := range r.lanes {
		if l := &r.lanes[i]; r.report.Expired > 0 && l.Trimmed {
			r.report.trimmed(l.Name, l.oldest)
		}
	}
	return err
}

// expired reports whether an event that was not found may have stood before what a log still keeps: it was made before the oldest
// message there was stored, and comes before every event that is there.
func (r *run) expired(e *event) bool {
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
