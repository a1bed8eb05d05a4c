package republish

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"workos-relay/internal/operator"
	"workos-relay/sink"
	"workos-relay/source"
)

// Bounds of what one Publish of a sink is given; a page is never divided, so one that is larger
// goes alone. They are those of a lane.
const (
	BatchEvents = 999
	BatchBytes  = 4 << 20

	retryFirst = 100 * time.Millisecond
	retryMost  = 15 * time.Second
)

// Router turns an event into its messages; see router.Router.
type Router interface {
	Append(batch []sink.Message, e *source.Event) ([]sink.Message, error)
	DeadLetter(e *source.Event, topic, reason string, size, limit int) (sink.Message, error)
}

// Publisher publishes events with a mark, each message with the header Mark and without an id, so
// that no bus takes it for a second copy and drops it. Its fields are not changed while it is in
// use; one goroutine uses it.
type Publisher struct {
	Sink            sink.Sink
	Router          Router
	Mark            sink.Header
	Park            bool          // send what can never be published to the dead letter topic instead of stopping there
	ShutdownTimeout time.Duration // how long a batch in flight may continue after ctx has ended
	Logger          *zap.Logger

	counts Counts
}

// Counts says how much a Publisher has done.
type Counts struct {
	Events   int // durable, or left out
	Messages int // durable, dead letters included
	Parked   int // events that became a dead letter
	Dropped  int // events that a route leaves out
}

// Counts returns how much was done so far.
func (p *Publisher) Counts() Counts { return p.counts }

// StopError says that an event can never be published: it may not be parked, or its dead letter can
// never be published either.
type StopError struct {
	EventID, Type string
	Parks         bool // a dead letter topic is configured
	Err           error
}

func cannotPark(e *source.Event, why, letter error) *StopError {
	return &StopError{EventID: e.ID, Type: e.Event, Parks: true, Err: fmt.Errorf("%w; nor can its dead letter: %w", why, letter)}
}

// Error implements error.
func (e *StopError) Error() string {
	return fmt.Sprintf("event %s (%s): %v; %s", e.EventID, e.Type, e.Err, e.OperatorAction())
}

// OperatorAction says what an operator has to do.
func (e *StopError) OperatorAction() string {
	remedy := "configure dead_letter to park such events"
	if e.Parks {
		remedy = "let the bus accept it"
	}
	return fmt.Sprintf("%s, or leave it out: --since %s goes on behind it", remedy, e.EventID)
}

// Unwrap returns the cause.
func (e *StopError) Unwrap() error { return e.Err }

// Publish makes the messages of events durable, in order, and returns of how many events, from the
// first, they are. It retries what may pass until ctx ends. A batch in flight then has
// ShutdownTimeout to finish. Other errors are a *StopError, and what only an operator can resolve.
// After a failure of the bus some messages may be stored twice, each with the mark.
func (p *Publisher) Publish(ctx context.Context, events []source.Event) (done int, err error) {
	work, stop := p.outlive(ctx)
	defer stop()
	parked := map[string]*parking{}
	for wait := time.Duration(0); done < len(events); {
		b, err := p.route(events[done:], parked)
		if err != nil && len(b.ends) == 0 {
			return done, err
		}
		failure := p.Sink.Publish(work, b.messages)
		n := b.whole(sink.Durable(failure, len(b.messages)))
		p.count(&b, n, parked)
		if done += n; n > 0 {
			wait = 0
		}
		if failure == nil {
			continue
		}
		if err := p.classify(&b, failure, parked); err != nil {
			return done, err
		}
		if ctx.Err() != nil {
			return done, ctx.Err()
		}
		if parked[b.events[min(n, len(b.events)-1)].ID] != nil {
			continue
		}
		wait = min(max(2*wait, retryFirst), retryMost)
		p.Logger.Warn("publishing failed, will try again", zap.Duration("in", wait), zap.Error(failure))
		pause(ctx, wait)
	}
	return done, nil
}

// outlive returns the context of work that may go on for ShutdownTimeout after ctx has ended.
func (p *Publisher) outlive(ctx context.Context) (context.Context, context.CancelFunc) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	over := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-over:
			return
		case <-ctx.Done():
		}
		t := time.NewTimer(p.ShutdownTimeout)
		defer t.Stop()
		select {
		case <-over:
		case <-t.C:
			cancel()
		}
	}()
	return work, func() {
		close(over)
		<-stopped
		cancel()
	}
}

// classify returns an error if failure ends the run. It notes a message that was rejected in
// parked, if parking is allowed.
func (p *Publisher) classify(b *batch, failure error, parked map[string]*parking) error {
	var rejected *sink.RejectedError
	switch {
	case operator.Required(failure): // also if a RejectedError is its cause: it is not about one event
		return failure
	case errors.As(failure, &rejected):
		e := b.owner(sink.Durable(failure, len(b.messages)))
		if !p.Park {
			return &StopError{EventID: e.ID, Type: e.Event, Err: rejected}
		}
		switch have := parked[e.ID]; {
		case have == nil:
			parked[e.ID] = &parking{why: rejected}
		case !have.bare:
			have.bare = true
		default:
			return cannotPark(e, have.why, rejected)
		}
		return nil
	default:
		return nil
	}
}

func (p *Publisher) count(b *batch, events int, parked map[string]*parking) {
	p.counts.Events += events
	before := 0
	for i, end := range b.ends[:events] {
		switch {
		case end == before:
			p.counts.Dropped++
		case parked[b.events[i].ID] != nil:
			p.counts.Parked++
		}
		before = end
	}
	p.counts.Messages += before
}

// parking is an event that goes to the dead letter topic.
type parking struct {
	why  *sink.RejectedError // why its topic cannot take it
	bare bool                // its dead letter leaves the event out, since the one with the event was refused
}

// bareLimit is a limit that no event fits, so that a dead letter leaves it out.
const bareLimit = 1

// batch is events and their messages in the same order.
type batch struct {
	events   []source.Event
	messages []sink.Message
	ends     []int // messages[:ends[i]] are those of events[:i+1]
}

// route makes a batch of events. If an event cannot be routed and must not be parked, the batch
// ends before it.
func (p *Publisher) route(events []source.Event, parked map[string]*parking) (batch, error) {
	b := batch{messages: make([]sink.Message, 0, len(events))}
	for i := range events {
		messages, err := p.append(b.messages, &events[i], parked)
		if err != nil {
			b.events = events[:i]
			return b, err
		}
		for n := len(b.messages); n < len(messages); n++ {
			m := &messages[n]
			m.ID = ""
			m.Headers = append(m.Headers[:len(m.Headers):len(m.Headers)], p.Mark)
		}
		b.messages = messages
		b.ends = append(b.ends, len(messages))
	}
	b.events = events
	return b, nil
}

func (p *Publisher) append(to []sink.Message, e *source.Event, parked map[string]*parking) ([]sink.Message, error) {
	have := parked[e.ID]
	if have == nil {
		messages, err := p.Router.Append(to, e)
		if err == nil {
			return messages, nil
		}
		why := &sink.RejectedError{Topic: e.Event, Reason: err.Error()}
		if !p.Park {
			return nil, &StopError{EventID: e.ID, Type: e.Event, Err: why}
		}
		have = &parking{why: why}
		parked[e.ID] = have
	}
	limit := have.why.Limit
	if have.bare {
		limit = bareLimit
	}
	letter, err := p.Router.DeadLetter(e, have.why.Topic, have.why.Reason, have.why.Size, limit)
	if err != nil {
		return nil, cannotPark(e, have.why, err)
	}
	return append(to, letter), nil
}

// whole returns how many of the first events have all of their messages among the first n.
func (b *batch) whole(n int) int {
	events := 0
	for events < len(b.ends) && b.ends[events] <= n {
		events++
	}
	return events
}

// owner returns the event that messages[i] belongs to.
func (b *batch) owner(i int) *source.Event {
	for e, end := range b.ends {
		if i < end {
			return &b.events[e]
		}
	}
	return &b.events[len(b.events)-1]
}

// pause waits for about d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d/2 + rand.N(d/2+1)) //nolint:gosec // jitter, not a secret
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
