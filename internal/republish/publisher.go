package republish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"workos-relay/internal/batch"
	"workos-relay/internal/operator"
	"workos-relay/internal/retry"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
)

// Bounds of what Publish is given at once. A page is never divided, so a larger one goes alone.
const (
	BatchEvents = pipeline.DefaultBatchMessages
	BatchBytes  = pipeline.DefaultBatchBytes
)

// Sink is the part of a sink.Sink that a Publisher needs.
type Sink interface {
	Publish(ctx context.Context, batch []sink.Message) error
}

// Publisher publishes events with a mark, each message with the header Mark and without an id, so
// that no bus takes it for a second copy and drops it. Its fields are not changed while it is in
// use; one goroutine uses it.
type Publisher struct {
	Sink            Sink
	Router          pipeline.Router
	Mark            sink.Header
	Park            bool          // send what can never be published to the dead letter topic instead of stopping there
	ShutdownTimeout time.Duration // how long a batch in flight may continue after ctx has ended
	Logger          *zap.Logger

	batches batch.Maker
	counts  Counts
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

// Error implements error.
func (e *StopError) Error() string {
	return fmt.Sprintf("event %s (%s): %v; %s", e.EventID, e.Type, e.Err, e.OperatorAction())
}

// OperatorAction says what an operator has to do.
func (e *StopError) OperatorAction() string {
	return fmt.Sprintf("%s, or leave it out: --since %s goes on behind it", batch.Remedy(e.Parks), e.EventID)
}

// Unwrap returns the cause.
func (e *StopError) Unwrap() error { return e.Err }

// Publish makes the messages of events durable, in order, and returns of how many events, from the
// first, they are. It retries what may pass until ctx ends. A batch in flight then has
// ShutdownTimeout to finish, and no further batch is begun. Other errors are a *StopError, and what
// only an operator can resolve. After a failure of the bus some messages may be stored twice, each
// with the mark.
func (p *Publisher) Publish(ctx context.Context, events []source.Event) (done int, err error) {
	work, stop := batch.Outlive(ctx, p.ShutdownTimeout)
	defer stop()
	m := &p.batches
	defer m.Forget()
	m.Router, m.Park, m.MaxEvents, m.MaxBytes, m.MustStop = marking{p.Router, p.Mark}, p.Park, BatchEvents, BatchBytes, operator.Required
	wait := batch.Backoff()
	for queue := m.Queue(events); queue.Len() > 0; {
		b, err := queue.Next()
		if err != nil {
			return done, stopError(err)
		}
		began := time.Now()
		failure := p.Sink.Publish(work, b.Messages)
		n := b.Whole(sink.Durable(failure, len(b.Messages)))
		p.count(&b, n)
		done += n
		v := queue.Judge(&b, failure)
		if err := queue.Done(&b, n, time.Since(began), failure, v); err != nil {
			return done, stopError(err)
		}
		if n > 0 {
			wait.Reset()
		}
		if queue.Len() > 0 && ctx.Err() != nil {
			return done, ctx.Err()
		}
		if v.Retry != nil {
			d := wait.Next()
			p.Logger.Warn("publishing failed, will try again", zap.Duration("in", d), zap.Error(v.Retry))
			if err := retry.Sleep(ctx, d); err != nil {
				return done, err
			}
		}
	}
	return done, nil
}

// stopError returns err as a run ends with it: a *StopError if it is about one event.
func stopError(err error) error {
	var at *batch.EventError
	if !errors.As(err, &at) {
		return err
	}
	return &StopError{EventID: at.EventID, Type: at.Type, Parks: at.Parks, Err: at.Err}
}

func (p *Publisher) count(b *batch.Batch, events int) {
	t := b.Tally(events)
	p.counts.Events += events
	p.counts.Messages += t.Messages
	p.counts.Dropped += t.Dropped
	p.counts.Parked += len(t.Parked)
}

// marking is a router that gives each message the mark and takes its id.
type marking struct {
	pipeline.Router
	mark sink.Header
}

// Append implements pipeline.Router.
func (r marking) Append(messages []sink.Message, e *source.Event) ([]sink.Message, error) {
	n := len(messages)
	messages, err := r.Router.Append(messages, e)
	for i := n; i < len(messages); i++ {
		r.apply(&messages[i])
	}
	return messages, err
}

// DeadLetter implements pipeline.Router.
func (r marking) DeadLetter(e *source.Event, topic, reason string, size, limit int) (sink.Message, error) {
	m, err := r.Router.DeadLetter(e, topic, reason, size, limit)
	r.apply(&m)
	return m, err
}

func (r marking) apply(m *sink.Message) {
	m.ID = ""
	m.Headers = append(m.Headers[:len(m.Headers):len(m.Headers)], r.mark)
}
