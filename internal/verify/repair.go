package verify

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"workos-relay/internal/republish"
	"workos-relay/source"
)

// errEnough ends a walk early.
var errEnough = errors.New("enough")

// missing walks through the ids of the missing events, in the order of the source.
func (r *Result) missing() iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		if r.run.count == 0 {
			return
		}
		var e event
		err := readAll(r.run.eventsFile(), &e, func() error {
			if r.run.whereabouts(&e) == missing && !yield(e.id, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield("", err)
		}
	}
}

// Repair reads the span again and hands the events that are missing to publish, in order and in
// batches as a lane makes them. It returns how many are durable. publish returns how many of the
// events, from the first, are. An error is one of publish or of the source, or says that the source
// no longer lists what it listed before.
func (r *Result) Repair(ctx context.Context, publish func(ctx context.Context, events []source.Event) (int, error)) (repaired int, err error) {
	next, stop := iter.Pull2(r.missing())
	defer stop()
	rp := repair{check: r.check, next: next, publish: publish}
	if err := rp.advance(); err != nil || !rp.more {
		return 0, err
	}
	for page, err := range r.check.Span.Pages(ctx, r.check.Source) {
		if err != nil {
			return rp.repaired, err
		}
		if err := rp.collectMissing(ctx, page.Events); err != nil {
			return rp.repaired, err
		}
		if !rp.more {
			break
		}
	}
	if err := rp.flush(ctx); err != nil {
		return rp.repaired, err
	}
	if rp.more {
		return rp.repaired, fmt.Errorf("the source no longer lists event %s, which it listed a moment ago; the events that follow it were not repaired", rp.want)
	}
	return rp.repaired, nil
}

// repair is a run of Repair.
type repair struct {
	check    *Check
	next     func() (string, error, bool)
	publish  func(context.Context, []source.Event) (int, error)
	want     string // the next event that is missing
	more     bool   // there is one
	events   []source.Event
	size     int
	repaired int
}

func (r *repair) advance() (err error) {
	r.want, err, r.more = r.next()
	return err
}

// collectMissing picks what is missing out of a page.
func (r *repair) collectMissing(ctx context.Context, events []source.Event) error {
	for i := range events {
		e := &events[i]
		m, id, err := r.check.carrier(e)
		if err != nil {
			return err
		}
		if m == nil || !r.more || id != r.want {
			continue
		}
		// A copy, for the event's own bytes would keep its whole page in memory.
		own := *e
		own.Data, own.Raw = slices.Clone(e.Data), slices.Clone(e.Raw)
		r.events, r.size = append(r.events, own), r.size+len(own.Raw)
		if len(r.events) >= republish.BatchEvents || r.size >= republish.BatchBytes {
			if err := r.flush(ctx); err != nil {
				return err
			}
		}
		if err := r.advance(); err != nil {
			return err
		}
	}
	return nil
}

// flush publishes what was picked, unless ctx has ended.
func (r *repair) flush(ctx context.Context) error {
	if len(r.events) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	n, err := r.publish(ctx, r.events)
	r.repaired += n
	r.events, r.size = nil, 0
	return err
}
