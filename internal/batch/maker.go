package batch

import (
	"context"
	"errors"
	"slices"
	"time"

	"workos-relay/internal/retry"
	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/state"
)

// Router turns an event into its messages; see pipeline.Router.
type Router interface {
	Append(batch []sink.Message, e *source.Event) ([]sink.Message, error)
	DeadLetter(e *source.Event, topic, reason string, size, limit int) (sink.Message, error)
}

// StateRouter turns the change that an event makes into its state message; see
// pipeline.StateRouter.
type StateRouter interface {
	AppendState(batch []sink.Message, e *source.Event, admit func(*source.Event, *state.Change) bool) ([]sink.Message, error)
}

// Maker makes batches. It remembers from one queue to the next how much the bus takes at once. The
// zero value is ready once the exported fields are set. One goroutine uses it.
type Maker struct {
	Router Router
	// State makes the state messages, each after the message of its event; nil if there are none.
	State StateRouter
	// Admit is asked about each change of a state before it is put into a batch. It may be asked
	// again about the same event. nil admits every change.
	Admit func(*source.Event, *state.Change) bool
	// MaxMessages is how many messages a batch has at most, unless those of its first event are
	// more; 0 for no limit.
	MaxMessages int
	// Park turns an event that can never be published into a dead letter.
	Park bool
	// MaxEvents and MaxBytes are how much the caller puts into a queue. A Maker whose batches have
	// grown to that size bounds them no more.
	MaxEvents, MaxBytes int
	// MustStop reports whether a failed attempt ends the delivery, because only an operator can
	// resolve its error.
	MustStop func(error) bool

	buffers buffers
	portion portion
}

// buffers are reused from batch to batch to avoid allocating.
type buffers struct {
	events   []source.Event
	messages []sink.Message
	ends     []int
}

// Join returns the events of the pages in one slice. It may be the slice of the only page. It is
// valid until the next call of Join or Forget.
func (m *Maker) Join(pages []source.Page) []source.Event {
	if len(pages) == 1 {
		return pages[0].Events
	}
	b := &m.buffers
	b.events = b.events[:0]
	for i := range pages {
		b.events = append(b.events, pages[i].Events...)
	}
	return b.events
}

// Forget releases what the last batch held, so that its pages do not stay in memory until the next
// batch.
func (m *Maker) Forget() {
	b := &m.buffers
	clear(b.events)
	messages := b.messages[:cap(b.messages)]
	for i := range messages {
		headers := messages[i].Headers
		clear(headers)
		messages[i] = sink.Message{Headers: headers[:0]}
	}
}

// route makes a batch of events. Each parked event becomes a dead letter. If an event cannot be
// routed and dead letters are not allowed, the batch ends before that event; if it is the first
// event, route returns an *EventError.
func (m *Maker) route(events []source.Event, parked map[string]*parking) (Batch, error) {
	b := Batch{
		Events: events, parked: parked,
		Messages: slices.Grow(m.buffers.messages[:0], len(events)), Ends: slices.Grow(m.buffers.ends[:0], len(events)),
	}
	defer func() { m.buffers.messages, m.buffers.ends = b.Messages, b.Ends }()
	for i := range events {
		before := len(b.Messages)
		err := m.routeOne(&b, &events[i])
		if err != nil && i == 0 {
			return b, err
		}
		if err != nil || i > 0 && m.MaxMessages > 0 && len(b.Messages) > m.MaxMessages {
			b.Events, b.Messages = events[:i], b.Messages[:before]
			break
		}
		b.Ends = append(b.Ends, len(b.Messages))
	}
	return b, nil
}

// routeOne appends the messages of e: its own one, its state message, and its dead letter if one of
// the two can never be published and was left out.
func (m *Maker) routeOne(b *Batch, e *source.Event) error {
	before := len(b.Messages)
	p := b.parked[e.ID]
	if p == nil || p.why == nil {
		messages, err := m.Router.Append(b.Messages, e)
		switch {
		case err == nil:
			b.Messages = messages
		case !m.Park:
			return &EventError{EventID: e.ID, Type: e.Event, Err: asRejected(err, e.Event)}
		default:
			p = b.park(e)
			p.why = asRejected(err, e.Event)
		}
	}
	dropped := p == nil && len(b.Messages) == before
	if m.State != nil && !dropped && (p == nil || p.state == nil) {
		messages, err := m.State.AppendState(b.Messages, e, m.Admit)
		switch {
		case err == nil:
			b.Messages = messages
		case !m.Park:
			return &EventError{EventID: e.ID, Type: e.Event, Err: asRejected(err, e.Event)}
		default:
			p = b.park(e)
			p.state = asRejected(err, e.Event)
		}
	}
	if p == nil {
		return nil
	}
	return m.appendLetter(b, e, p)
}

// appendLetter appends the dead letter of e.
func (m *Maker) appendLetter(b *Batch, e *source.Event, p *parking) error {
	why := p.reason()
	limit := why.Limit
	if p.letter != nil {
		limit = bareLimit
	}
	// P1: an event that cannot be published moves the position only with its dead letter.
	letter, err := m.Router.DeadLetter(e, why.Topic, why.Reason, why.Size, limit)
	if err != nil {
		return cannotPark(e, why, err)
	}
	b.Messages = append(b.Messages, letter)
	return nil
}

// asRejected returns the refusal that err is. topic is named if err names none.
func asRejected(err error, topic string) *sink.RejectedError {
	var rejected *sink.RejectedError
	if !errors.As(err, &rejected) {
		rejected = &sink.RejectedError{Topic: topic, Reason: err.Error()}
	}
	return rejected
}

// The shortest and the longest pause between attempts at something that fails.
const (
	RetryFirst = 100 * time.Millisecond
	RetryMost  = 15 * time.Second
)

// Backoff returns the pauses between attempts at something that fails.
func Backoff() retry.Backoff { return retry.Backoff{First: RetryFirst, Most: RetryMost} }

// Outlive returns a context for an attempt that may continue for d after ctx has ended. The caller
// must call stop.
func Outlive(ctx context.Context, d time.Duration) (work context.Context, stop func()) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	timer := make(chan *time.Timer, 1)
	unregister := context.AfterFunc(ctx, func() { timer <- time.AfterFunc(d, cancel) })
	return work, func() {
		if !unregister() {
			(<-timer).Stop()
		}
		cancel()
	}
}
