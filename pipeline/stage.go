package pipeline

import (
	"context"

	"workos-relay/sink"
)

// Stage is an act on the bus or the store, as part of an Append: few and fixed, so that they can label a metric.
type Stage string

// The stages. What an exactly_once lane does in one act is one stage, not two.
const (
	StagePublish Stage = "publish"            // at_least_once: until the bus has acknowledged the messages
	StageCommit  Stage = "commit"             // until the position is stored, no message with it
	StageAtomic  Stage = "publish_and_commit" // exactly_once: until the bus has stored messages and position, or neither
)

// Stages returns every Stage.
func Stages() []Stage { return []Stage{StagePublish, StageCommit, StageAtomic} }

// StageObserver is told of each stage as it begins, from the lane's own goroutine: it must not block.
type StageObserver interface {
	// Begin returns the context that the stage is to be done in, and what is called with its error when it has ended. It may add
	// headers to the messages of batch, which is empty for StageCommit.
	Begin(ctx context.Context, s Stage, batch []sink.Message) (context.Context, func(error))
}

// begin tells the observer, where there is one.
func (o *Ownership) begin(ctx context.Context, s Stage, batch []sink.Message) (context.Context, func(error)) {
	if o.Stages == nil {
		return ctx, func(error) {}
	}
	return o.Stages.Begin(ctx, s, batch)
}
