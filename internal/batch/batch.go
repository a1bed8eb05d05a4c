package batch

import (
	"fmt"

	"workos-relay/checkpoint"
	"workos-relay/sink"
	"workos-relay/source"
)

// Batch is the content of one attempt on the bus: events in order, and their messages in the same
// order. It is valid until the next call of Queue.Next on a queue of the same Maker.
type Batch struct {
	Events   []source.Event
	Messages []sink.Message
	Ends     []int // Messages[:Ends[i]] are those of Events[:i+1]

	parked map[string]*parking // by event id
}

// Next returns the position after the batch.
func (b *Batch) Next() checkpoint.Position { return b.Events[len(b.Events)-1].Position() }

// Owner returns the index of the event that Messages[i] belongs to.
func (b *Batch) Owner(i int) int {
	for e, end := range b.Ends {
		if i < end {
			return e
		}
	}
	return len(b.Events) - 1
}

// Whole returns how many of the first events have all of their messages among the first n.
func (b *Batch) Whole(n int) int {
	events := 0
	for events < len(b.Ends) && b.Ends[events] <= n {
		events++
	}
	return events
}

// Tally counts what became of some events of a batch.
type Tally struct {
	Messages int      // of these events, dead letters included
	Bytes    int      // of the messages' bodies
	Dropped  int      // events that the routes drop
	Parked   []Parked // events whose message is a dead letter
}

// Parked is an event whose message is a dead letter.
type Parked struct{ EventID, Type, Reason string }

// Tally counts the first n events.
func (b *Batch) Tally(n int) Tally {
	var t Tally
	for i, end := range b.Ends[:n] {
		if end == t.Messages {
			t.Dropped++
		}
		if p := b.parked[b.Events[i].ID]; p != nil {
			t.Parked = append(t.Parked, Parked{EventID: b.Events[i].ID, Type: b.Events[i].Event, Reason: p.reason().Reason})
		}
		for _, m := range b.Messages[t.Messages:end] {
			t.Bytes += len(m.Body)
		}
		t.Messages = end
	}
	return t
}

// parking is an event that goes to the dead letter topic.
type parking struct {
	why    *sink.RejectedError // why its topic cannot take it; nil if only its state message was refused
	state  *sink.RejectedError // why its state message was refused; nil if it was not
	letter *sink.RejectedError // why its dead letter was refused with the event in it; nil if it was not
}

// reason returns what the dead letter says.
func (p *parking) reason() *sink.RejectedError {
	if p.why == nil {
		return p.state
	}
	return p.why
}

// park returns the parking of e, and makes it if there is none.
func (b *Batch) park(e *source.Event) *parking {
	if b.parked[e.ID] == nil {
		b.parked[e.ID] = &parking{}
	}
	return b.parked[e.ID]
}

// bareLimit is a limit that no event fits into, so that the dead letter omits the event.
const bareLimit = 1

// EventError says that an event can never be published: dead letters are not allowed, or its dead
// letter can never be published either.
type EventError struct {
	EventID, Type string
	Parks         bool // dead letters are allowed
	Err           error
}

// Error implements error.
func (e *EventError) Error() string {
	return fmt.Sprintf("event %s (%s): %v", e.EventID, e.Type, e.Err)
}

// Unwrap returns the cause.
func (e *EventError) Unwrap() error { return e.Err }

func cannotPark(e *source.Event, why, letter error) *EventError {
	return &EventError{EventID: e.ID, Type: e.Event, Parks: true, Err: fmt.Errorf("%w; nor can its dead letter: %w", why, letter)}
}

// Remedy returns what an operator has to do about an event that can never be published. parks is
// EventError.Parks.
func Remedy(parks bool) string {
	if parks {
		return "let the bus accept it"
	}
	return "configure dead_letter to park such events"
}
