package app

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/republish"
	"workos-relay/internal/verify"
	"workos-relay/sink"
	"workos-relay/source"
)

// Due is what the checkpoint of a lane says of a span of events that is compared with the bus.
type Due struct {
	Until *time.Time      // the end of the span now; nil if it did not change
	Mode  checkpoint.Mode // of delivery; empty if nothing tells it
	// Known is false if the checkpoint cannot be read here, or has no time.
	Known bool
	// Refused are the event types of which the lane has yet to publish events, since WorkOS refused
	// them for a while. They are not compared.
	Refused []string
}

// Due ends span at the checkpoint cp of the lane if that is earlier, since later events are not due
// on the bus. err is that of reading cp.
func (l *Lane) Due(cp checkpoint.Checkpoint, err error, span *republish.Span) Due {
	var d Due
	if want := checkpoint.Mode(l.Sink.Delivery); IsMode(want) {
		d.Mode = want
	}
	if err != nil {
		return d
	}
	d.Mode = cp.Mode // what is recorded decides, as for the lane
	for _, r := range cp.Refused {
		d.Refused = append(d.Refused, r.Type)
	}
	if cp.EventID != "" && cp.CreatedAt.IsZero() {
		return d
	}
	d.Known = true
	at := cp.CreatedAt.UTC()
	if cp.EventID == "" {
		at = at.Add(-1) // everything before it
	}
	if at.After(span.Until) {
		return d
	}
	span.Until, span.Through = at, cp.EventID
	d.Until = &at
	return d
}

// EventCheck returns what compares a span of the lane's events with its bus, or an error if that
// keeps nothing that could be read back.
func (l *Lane) EventCheck(client *source.Client, bus *Bus, span republish.Span, due *Due) (*verify.Check, error) {
	scanner, ok := bus.Sink.(sink.Scanner)
	if !ok {
		return nil, l.CannotReadBack()
	}
	stream := l.Stream(client, nil)
	stream.Events = slices.DeleteFunc(slices.Clone(l.Types), func(name string) bool { return slices.Contains(due.Refused, name) })
	var events republish.Source = stream
	if len(stream.Events) == 0 {
		events = noEvents{}
	}
	return &verify.Check{
		Source: events,
		Span:   span,
		Router: l.Router,
		Bus:    scanner,
		Topics: l.EveryTopic(),
		Mode:   due.Mode, MayComeEarly: l.Sink.Kind.MayComeEarly,
		NotDue: due.Refused,
	}, nil
}

// noEvents is a source without any event.
type noEvents struct{}

// Pages implements republish.Source.
func (noEvents) Pages(context.Context, checkpoint.Position) iter.Seq2[source.Page, error] {
	return func(func(source.Page, error) bool) {}
}

// CannotReadBack says that the bus of the lane keeps no messages. It is a *UsageError.
func (l *Lane) CannotReadBack() error {
	return Usage(fmt.Errorf("sink %s is of type %s, which keeps nothing that could be read back", l.Sink.Name, l.Sink.Type))
}

// KeepsNoState says that a lane has no state topics. It is a *UsageError.
func KeepsNoState(lane string) error {
	return Usage(fmt.Errorf("lane %s keeps no state: name entities in state.entities of the sink", lane))
}

// pingTime bounds how long a command waits for the answer of a bus before it reads anything else.
const pingTime = 30 * time.Second

// Answers asks a bus that OpenFromOutside returned whether it answers, so that nothing is read in
// vain for a bus that is down.
func (l *Lane) Answers(ctx context.Context, bus *Bus) error {
	bounded, cancel := context.WithTimeoutCause(ctx, pingTime, fmt.Errorf("no answer within %s", pingTime))
	defer cancel()
	err := bus.Ping(bounded)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = context.Cause(bounded)
	}
	return l.ExplainFromOutside(err)
}
