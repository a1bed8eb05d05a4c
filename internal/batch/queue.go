package batch

import (
	"errors"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/sink"
	"workos-relay/source"
)

// Queue is events that are to be delivered in order, batch after batch: Next makes a batch, the
// caller attempts it, Judge says what a failure means, and Done removes what was delivered.
type Queue struct {
	maker  *Maker
	events []source.Event
	parked map[string]*parking
	first  int // how many events precede one that the bus has refused; 0 if none is known
}

// Queue returns a queue of events.
func (m *Maker) Queue(events []source.Event) *Queue {
	return &Queue{maker: m, events: events, parked: map[string]*parking{}}
}

// Len returns how many events are not delivered yet.
func (q *Queue) Len() int { return len(q.events) }

// Next returns the next batch. If its first event can never be published, Next returns an
// *EventError.
func (q *Queue) Next() (Batch, error) {
	n := q.maker.portion.cut(q.events)
	if q.first > 0 {
		n = min(n, q.first)
	}
	return q.maker.route(q.events[:n], q.parked)
}

// Verdict is what a failed attempt means.
type Verdict struct {
	Culprit int   // index of the event that the failure names; those before it go first. 0 if it names none
	Stop    error // ends the delivery once the events before the culprit are delivered; nil if it goes on
	Retry   error // why to try again after a pause; nil if no pause is needed
}

// Judge returns what a failed attempt means. A message that can never be published becomes a dead
// letter, in its shorter form if the longer one was refused, or ends the delivery with an
// *EventError. Without a failure the Verdict is zero.
func (q *Queue) Judge(b *Batch, failure error) Verdict {
	var rejected *sink.RejectedError
	var fatal *sink.FatalError
	switch {
	case failure == nil:
		return Verdict{}
	case q.maker.MustStop(failure):
		return Verdict{Stop: failure, Culprit: culprit(b, failure)}
	case errors.As(failure, &fatal): // also if a RejectedError is its cause: it is not about one event
		if i := culprit(b, failure); i > 0 {
			return Verdict{Culprit: i}
		}
	case errors.As(failure, &rejected):
		return q.reject(b, refusedMessage(b, failure), rejected)
	case len(b.Events) == 1 && errors.Is(failure, sink.ErrTimeout):
		failure = explainAlone(&b.Events[0], failure)
	}
	return Verdict{Retry: failure}
}

// culprit returns the index of the event that a failure names by its message, 0 if it names none.
func culprit(b *Batch, failure error) int {
	var at *sink.PublishError
	if !errors.As(failure, &at) {
		return 0
	}
	return b.Owner(refusedMessage(b, failure))
}

// refusedMessage returns the index of the message that a failure names, 0 if it names none.
func refusedMessage(b *Batch, failure error) int {
	return min(sink.Durable(failure, len(b.Messages)), max(0, len(b.Messages)-1))
}

// reject records that the bus refuses message n of b for ever: that of its event, its dead letter,
// or its state message.
func (q *Queue) reject(b *Batch, n int, rejected *sink.RejectedError) Verdict {
	i := b.Owner(n)
	e := &b.Events[i]
	// P9: without a topic of dead letters the lane stops at this event by name.
	if !q.maker.Park {
		return Verdict{Culprit: i, Stop: &EventError{EventID: e.ID, Type: e.Event, Err: rejected}}
	}
	first := n == 0 || b.Owner(n-1) != i
	p := b.park(e)
	switch {
	case n < len(b.Messages) && b.Messages[n].Entity != "":
		p.state = rejected
	case p.why == nil && (p.state == nil || first): // else it is the letter, which comes last
		p.why = rejected
	case p.letter == nil:
		p.letter = rejected
	default:
		return Verdict{Culprit: i, Stop: cannotPark(e, p.reason(), rejected)}
	}
	return Verdict{}
}

// Done removes the first done events of b, which are delivered, and adapts the size of the next
// batch to the attempt, which took that long, failed with failure and was judged v. It returns the
// error that ends the delivery, if that is to end now.
func (q *Queue) Done(b *Batch, done int, took time.Duration, failure error, v Verdict) error {
	q.maker.measure(b, done, took, failure)
	q.events, q.first = q.events[done:], max(0, q.first-done)
	if v.Culprit > done {
		q.first = v.Culprit - done
		return nil
	}
	return v.Stop
}

// measure adapts the size of the next batch to the result of this one.
func (m *Maker) measure(b *Batch, done int, took time.Duration, failure error) {
	var rejected *sink.RejectedError
	timedOut := errors.Is(failure, sink.ErrTimeout)
	switch {
	case failure == nil, done > 0 && !timedOut:
		m.portion.succeeded(b.Events, done, took, m.MaxEvents, m.MaxBytes)
	case errors.As(failure, &rejected), errors.Is(failure, checkpoint.ErrConflict) && !timedOut:
	default:
		taken := 0
		var timeout *sink.TimeoutError
		if errors.As(failure, &timeout) && timeout.Taken > 0 {
			taken = b.Owner(min(timeout.Taken, len(b.Messages)-1))
		}
		m.portion.failed(b.Events, took, timedOut, taken)
	}
}
