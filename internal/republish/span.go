// Package republish reads a span of the source and publishes its events independently of the lanes:
// it marks each message and changes no checkpoint.
package republish

import (
	"context"
	"iter"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/source"
)

// disorder is how far reading goes on past the end of a span, for the times of events do not follow
// the order of the list strictly.
const disorder = time.Minute

// Source yields pages in order from a position; see source.Stream.
type Source interface {
	Pages(ctx context.Context, after checkpoint.Position) iter.Seq2[source.Page, error]
}

// Span is the events that follow Since in the list and were created at Until or before.
type Span struct {
	Since checkpoint.Position
	Until time.Time
	// Through, if not empty, is the id of the last event of the span, among several with the same
	// time.
	Through string
}

// Pages reads the events of the span from src, oldest first, and ends when the tip is reached, or
// when an event is over a minute past Until. Pages without an event of the span are left out. An
// error is final, as in source.Stream.
func (s Span) Pages(ctx context.Context, src Source) iter.Seq2[source.Page, error] {
	return func(yield func(source.Page, error) bool) {
		for page, err := range src.Pages(ctx, s.Since) {
			if err != nil {
				yield(page, err)
				return
			}
			last := s.cut(&page)
			if len(page.Events) > 0 && !yield(page, nil) || last {
				return
			}
		}
	}
}

// cut leaves in page what belongs to the span, and reports whether nothing more of it can follow.
func (s Span) cut(page *source.Page) (last bool) {
	within := page.Events[:0:0]
	for i := range page.Events {
		e := &page.Events[i]
		if !e.CreatedAt.After(s.Until) {
			within = append(within, *e)
		} else if e.CreatedAt.Sub(s.Until) > disorder {
			last = true
		}
		if e.ID == s.Through {
			last = true
			break
		}
	}
	page.Events = within
	return last || page.Tip
}

// Fraction is how far into the span an event of the time at is, from 0 to 1. first is the time of
// its first event, for a span that does not say when it begins.
func (s Span) Fraction(first, at time.Time) float64 {
	if !s.Since.CreatedAt.IsZero() {
		first = s.Since.CreatedAt
	}
	whole := s.Until.Sub(first)
	if whole <= 0 {
		return 1
	}
	return min(max(float64(at.Sub(first))/float64(whole), 0), 1)
}
