package pipeline

import (
	"errors"
	"slices"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/sink"
	"workos-relay/source"
)

// batch is the content of one Append: events in order, and their messages in the same order.
type batch struct {
	events   []source.Event
	messages []sink.Message
	ends     []int               // messages[:ends[i]] are those of events[:i+1]
	parked   map[string]*parking // by event id
}

// parking is an event that goes to the dead letter topic.
type parking struct {
	why    *sink.RejectedError // why it cannot go where it is routed
	letter *sink.RejectedError // why its dead letter was refused with the event in it; nil if it was not
}

// buffers are reused from batch to batch to avoid allocating.
type buffers struct {
	events   []source.Event
	messages []sink.Message
	ends     []int
}

// join returns the events of the pages in one slice. It may be the slice of the only page.
func (b *buffers) join(pages []source.Page) []source.Event {
	if len(pages) == 1 {
		return pages[0].Events
	}
	b.events = b.events[:0]
	for i := range pages {
		b.events = append(b.events, pages[i].Events...)
	}
	return b.events
}

// forget releases what the last batch held, so that its pages do not stay in memory until the next
// batch.
func (b *buffers) forget() {
	clear(b.events)
	messages := b.messages[:cap(b.messages)]
	for i := range messages {
		headers := messages[i].Headers
		clear(headers)
		messages[i] = sink.Message{Headers: headers[:0]}
	}
}

// route makes a batch of events. Each parked event becomes a dead letter. If an event cannot be
// routed and the lane has no dead letter topic, the batch ends before that event; if it is the
// first event, route returns a *StopError. The batch is valid until the next call of route.
func (l *Lane) route(events []source.Event, parked map[string]*parking) (batch, error) {
	b := batch{
		events: events, parked: parked,
		messages: slices.Grow(l.buffers.messages[:0], len(events)), ends: slices.Grow(l.buffers.ends[:0], len(events)),
	}
	defer func() { l.buffers.messages, l.buffers.ends = b.messages, b.ends }()
	for i := range events {
		if err := l.routeOne(&b, &events[i]); err != nil {
			if i == 0 {
				return b, err
			}
			b.events = events[:i]
			break
		}
		b.ends = append(b.ends, len(b.messages))
	}
	return b, nil
}

// bareLimit is a limit that no event fits into, so that the dead letter omits the event.
const bareLimit = 1

func (l *Lane) routeOne(b *batch, e *source.Event) error {
	if b.parked[e.ID] == nil {
		messages, err := l.Router.Append(b.messages, e)
		if err == nil {
			b.messages = messages
			return nil
		}
		var rejected *sink.RejectedError
		if !errors.As(err, &rejected) {
			rejected = &sink.RejectedError{Topic: e.Event, Reason: err.Error()}
		}
		if !l.Park {
			return l.stopAt(e, rejected)
		}
		b.parked[e.ID] = &parking{why: rejected}
	}
	p := b.parked[e.ID]
	limit := p.why.Limit
	if p.letter != nil {
		limit = bareLimit
	}
	// P1: an event that cannot be published moves the position only with its dead letter.
	letter, err := l.Router.DeadLetter(e, p.why.Topic, p.why.Reason, p.why.Size, limit)
	if err != nil {
		return l.cannotPark(e, p.why, err)
	}
	b.messages = append(b.messages, letter)
	return nil
}

// next returns the position after the batch.
func (b *batch) next() checkpoint.Position { return b.events[len(b.events)-1].Position() }

// owner returns the index of the event that messages[i] belongs to.
func (b *batch) owner(i int) int {
	for e, end := range b.ends {
		if i < end {
			return e
		}
	}
	return len(b.events) - 1
}

// outcome returns what became of the first n events.
func (b *batch) outcome(n int, took time.Duration) Outcome {
	o := Outcome{Events: b.events[:n], Ends: b.ends[:n], Messages: b.ends[n-1], Took: took}
	before := 0
	for i, end := range b.ends[:n] {
		if end == before {
			o.Dropped++
		}
		if p := b.parked[b.events[i].ID]; p != nil {
			o.Parked = append(o.Parked, Parked{EventID: b.events[i].ID, Type: b.events[i].Event, Reason: p.why.Reason})
		}
		for _, m := range b.messages[before:end] {
			o.Bytes += len(m.Body)
		}
		before = end
	}
	return o
}
