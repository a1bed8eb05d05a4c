package pipeline

import (
	"context"

	"workos-relay/checkpoint"
	"workos-relay/sink"
	"workos-relay/source"
)

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

// StageObserver is told of each stage as it begins, from the goroutine of the lane. It must not
// block.
type StageObserver interface {
	// Begin returns the context for the stage, and a function that is called with its error when
	// the stage has ended. Begin may add headers to the messages of batch, which is empty for
	// StageCommit. next is the position after the stage. StagePublish does not move the position;
	// next is then where it may be moved to later.
	Begin(ctx context.Context, s Stage, batch []sink.Message, next checkpoint.Position) (context.Context, func(error))
}

// Tracer is told of each delivery as it begins: of everything that is done with some pages, from
// the first attempt until all of them are committed, so that stages can be attributed to it. It is
// called from the goroutine of the lane and must not block.
type Tracer interface {
	// Deliver returns the context for the delivery of the pages, and a function that is called with
	// the error that ended it.
	Deliver(ctx context.Context, pages []source.Page) (context.Context, func(error))
}

// trace tells the tracer, if there is one, of pages with events.
func (l *Lane) trace(ctx context.Context, pages []source.Page) (context.Context, func(error)) {
	if l.Tracer == nil || len(pages) == 0 || len(pages[0].Events) == 0 && len(pages) == 1 {
		return ctx, func(error) {}
	}
	return l.Tracer.Deliver(ctx, pages)
}

// begin tells the observer, if there is one.
func (o *Ownership) begin(ctx context.Context, s Stage, batch []sink.Message, next checkpoint.Position) (context.Context, func(error)) {
	if o.Stages == nil {
		return ctx, func(error) {}
	}
	return o.Stages.Begin(ctx, s, batch, next)
}
