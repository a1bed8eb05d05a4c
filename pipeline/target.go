package pipeline

import (
	"context"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

// Target is where a lane's events and its position go. It is one operation, whatever the mode of delivery: append these
// messages and move the position. A Target is used by one lane, from one goroutine, except that Load may be called at any time.
type Target interface {
	// Load reads the checkpoint in force and claims nothing: for status and standby. Errors are those of checkpoint.Store.Load,
	// and checkpoint.ErrLost where there is none although the destination already holds messages.
	Load(ctx context.Context) (checkpoint.Checkpoint, error)
	// Acquire makes this process the holder and returns the checkpoint to go on from. Every earlier writer is fenced when it
	// returns nil. At a first start it commits the origin position, so that a position which is missing later was lost.
	Acquire(ctx context.Context) (checkpoint.Checkpoint, error)
	// Append makes the batch durable and moves the position from prev to next, and returns the checkpoint now in force. An empty
	// batch moves the position alone. What prev says of Seen and Refused is committed along with it, so the caller sets there what
	// is to hold afterwards; prev is compared by its Revision alone. If next is prev's own position, the batch is committed as a
	// whole or not at all. After any error the position in force is prev, next, or that of an event between them
	// whose messages, and those of all before it, are durable; the caller Loads and goes on from there. Where a message can never
	// be published the error carries a *sink.PublishError whose Durable is that message's index and whose cause is a
	// *sink.RejectedError.
	Append(ctx context.Context, prev checkpoint.Checkpoint, batch []sink.Message, next checkpoint.Position) (checkpoint.Checkpoint, error)
	// Release says that the holder stopped in order, so that another may take over at once. It moves nothing.
	Release(ctx context.Context) error
}

// Verifier is a Target that can tell whether its destination still holds what was published.
type Verifier interface {
	// Verify returns an error that matches checkpoint.ErrLost if it does not, and another one if that could not be found out. It is
	// called from the goroutine that calls Append.
	Verify(ctx context.Context) error
}
