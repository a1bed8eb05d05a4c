package pipeline

import (
	"context"

	"workos-relay/checkpoint"
	"workos-relay/sink"
	"workos-relay/source"
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
	// headers to the messages of batch, which is empty for StageCommit. next is where the position is to be afterwards; for
	// StagePublish, which does not move it, where it may then be moved to.
	Begin(ctx context.Context, s Stage, batch []sink.Message, next checkpoint.Position) (context.Context, func(error))
}

// Tracer is told of each delivery as it begins: of everything that is done with some pages, from the first attempt until all of it
// is committed, so that the stages within can be put down to it. It is called from the lane's own goroutine, and must not block.
type Tracer interface {
	// Deliver returns the context that the pages are to be delivered in, and what is called with the error that ended it.
	Deliver(ctx context.Context, pages []source.Page) (context.Context, func(error))
}

// trace tells the tracer of pages that bring events, where there is one.
func (l *Lane) trace(ctx context.Context, pages []source.Page) (context.Context, func(error)) {
	if l.Tracer == nil || len(pages) == 0 || len(pages[0].Events) == 0 && len(pages) == 1 {
		return ctx, func(error) {}
	}
	return l.Tracer.Deliver(ctx, pages)
}

// begin tells the observer, where there is one.
func (o *Ownership) begin(ctx context.Context, s Stage, batch []sink.Message, next checkpoint.Position) (context.Context, func(error)) {
	if o.Stages == nil {
		return ctx, func(error) {}
	}
	return o.Stages.Begin(ctx, s, batch, next)
}
