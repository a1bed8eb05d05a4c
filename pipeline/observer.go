package pipeline

import (
	"context"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/batch"
	"workos-relay/sink"
	"workos-relay/source"
)

// Outcome is the result of one Append.
type Outcome struct {
	Events   []source.Event // committed by it, in order; valid only during the call
	Ends     []int          // Ends[i] is the number of messages of Events[:i+1]: Ends[i-1] if event i was dropped; valid only during the call
	Messages int            // durable on the bus
	Bytes    int            // of the messages' bodies
	Dropped  int            // events that the routes drop
	Parked   []Parked       // events that went to the dead letter topic
	Took     time.Duration  // publishing and committing, retries not counted
}

// outcome returns what became of the first n events of b.
func outcome(b *batch.Batch, n int, took time.Duration) Outcome {
	t := b.Tally(n)
	o := Outcome{Events: b.Events[:n], Ends: b.Ends[:n], Messages: t.Messages, Bytes: t.Bytes, Dropped: t.Dropped, Took: took}
	for _, p := range t.Parked {
		o.Parked = append(o.Parked, Parked(p))
	}
	return o
}

// Parked is an event that went to the dead letter topic.
type Parked struct{ EventID, Type, Reason string }

// The activities that Observer.Retrying names. They are few and fixed, so that they can label a
// metric.
const (
	Reading    = "reading"
	Publishing = "publishing"
	Claiming   = "taking up the position"
	Renewing   = "renewing the position"
	Moving     = "moving the position by hand"
	Reaching   = "asking the bus whether it answers"
	// ReadingBack is reading the state that the bus has, for a snapshot. It fails by a StateError.
	ReadingBack = "reading the state back"
)

// Activities returns every activity.
func Activities() []string {
	return []string{Reading, Publishing, Claiming, Renewing, Moving, Reaching, ReadingBack}
}

// Stage is a step of an Append on the bus or the store. Stages are few and fixed, so that they can
// label a metric.
type Stage string

// The stages. What an exactly_once lane does in one act is one stage.
const (
	StagePublish Stage = "publish"            // at_least_once: until the bus has acknowledged the messages
	StageCommit  Stage = "commit"             // until the position is stored, no message with it
	StageAtomic  Stage = "publish_and_commit" // exactly_once: until the bus has stored messages and position, or neither
)

// Stages returns every Stage.
func Stages() []Stage { return []Stage{StagePublish, StageCommit, StageAtomic} }

// Observer is told what a lane and its target do, as it happens, from the goroutine of the lane. It
// must not block. Embed NopObserver, or the next observer, to implement only a part of it.
type Observer interface {
	// Acquired is called each time that the target has acquired the lease.
	Acquired()
	// BeginDelivery is called before pages with events are delivered. It returns the context for
	// everything that is done until all of them are committed, and a function that is called with
	// the error that ended it.
	BeginDelivery(ctx context.Context, pages []source.Page) (context.Context, func(error))
	// BeginStage is called before each Stage of an Append. It returns the context for the stage,
	// and a function that is called with its error when the stage has ended. It may add headers to
	// the messages of batch, which is empty for StageCommit. next is the position after the stage.
	// StagePublish does not move the position; next is then the position that a later stage may
	// commit.
	BeginStage(ctx context.Context, s Stage, batch []sink.Message, next checkpoint.Position) (context.Context, func(error))
	// Committed is called after each Append that has committed events. cp is the checkpoint after
	// it.
	Committed(o Outcome, cp checkpoint.Checkpoint)
	// Retrying is called when doing, one of Activities, has failed with err and will be tried
	// again.
	Retrying(doing string, err error)
}

// NopObserver is an Observer that does nothing.
type NopObserver struct{}

// Acquired implements Observer.
func (NopObserver) Acquired() {}

// BeginDelivery implements Observer. It returns ctx.
func (NopObserver) BeginDelivery(ctx context.Context, _ []source.Page) (context.Context, func(error)) {
	return ctx, func(error) {}
}

// BeginStage implements Observer. It returns ctx.
func (NopObserver) BeginStage(ctx context.Context, _ Stage, _ []sink.Message, _ checkpoint.Position) (context.Context, func(error)) {
	return ctx, func(error) {}
}

// Committed implements Observer.
func (NopObserver) Committed(Outcome, checkpoint.Checkpoint) {}

// Retrying implements Observer.
func (NopObserver) Retrying(string, error) {}
