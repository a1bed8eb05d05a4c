package republish

import (
	"context"

	"workos-relay/source"
)

// Replay publishes every event of the span, in batches gathered from several pages. progress, if
// not nil, is called after each batch with its last event. When ctx ends, no further batch is
// begun, and the error is that of ctx. It returns the last event that is durable together with all
// before it; nil if there is none.
func Replay(ctx context.Context, src Source, span Span, p *Publisher, progress func(last *source.Event)) (last *source.Event, err error) {
	r := replay{publisher: p, progress: progress}
	for page, err := range span.Pages(ctx, src) {
		if err != nil {
			return r.last, err
		}
		if n := len(r.events); n > 0 && (n+len(page.Events) > BatchEvents || r.size+page.Size > BatchBytes) {
			if err := r.flush(ctx); err != nil {
				return r.last, err
			}
		}
		r.events = append(r.events, page.Events...)
		r.size += page.Size
	}
	return r.last, r.flush(ctx)
}

// replay is a run of Replay.
type replay struct {
	publisher *Publisher
	progress  func(*source.Event)
	events    []source.Event // gathered
	size      int            // bytes of their pages
	last      *source.Event
}

// flush publishes what is gathered, unless ctx has ended.
func (r *replay) flush(ctx context.Context) error {
	if len(r.events) == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	done, err := r.publisher.Publish(ctx, r.events)
	if done > 0 {
		last := r.events[done-1]
		last.Data, last.Raw = nil, nil // they would keep its page in memory
		r.last = &last
		if r.progress != nil {
			r.progress(r.last)
		}
	}
	r.events, r.size = r.events[:0:0], 0
	return err
}
