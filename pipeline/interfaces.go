package pipeline

import (
	"context"
	"iter"

	"workos-relay/checkpoint"
	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/state"
)

// Source yields pages in order after a checkpoint, without end, and then an error. The lane stops
// at an error that only an operator can resolve. After any other error it reads again from its
// checkpoint. Breaking out of the loop cancels requests in flight and waits for them.
type Source interface {
	Resume(ctx context.Context, from checkpoint.Checkpoint) iter.Seq2[source.Page, error]
}

// Router turns an event into its messages.
type Router interface {
	// Append appends the messages of e to batch. It appends none if the routes drop the event.
	Append(batch []sink.Message, e *source.Event) ([]sink.Message, error)
	// DeadLetter returns the message that parks an event which could not go to topic. limit is the
	// maximum size that the bus accepts, or 0 if unknown.
	DeadLetter(e *source.Event, topic, reason string, size, limit int) (sink.Message, error)
}

// StateRouter turns the change that an event makes to an object into its state message.
type StateRouter interface {
	// AppendState appends the state message of e to batch, behind the message of e. It appends none
	// if e changes no object that is kept, or if admit returns false. A nil admit admits every
	// change. The lane does not call it for an event that the routes drop.
	AppendState(batch []sink.Message, e *source.Event, admit func(*source.Event, *state.Change) bool) ([]sink.Message, error)
}

// Target is where the events and the position of a lane go. It has one operation in every mode of
// delivery: append these messages and move the position. One lane uses a Target from one goroutine,
// except that Load and Shared may be called at any time.
type Target interface {
	// Observe sets who is told of stages and of each acquisition. The lane calls it before any
	// other method but Load.
	Observe(o Observer)
	// Load reads the current checkpoint and claims nothing. It is for status and standby. It
	// returns the errors of checkpoint.Store.Load, and checkpoint.ErrLost if there is no checkpoint
	// although the destination already holds messages.
	Load(ctx context.Context) (checkpoint.Checkpoint, error)
	// Acquire makes this process the holder and returns the checkpoint to continue from. When it
	// returns nil, every earlier writer is fenced. At a first start it commits the origin, so that
	// a position that is missing later is known to be lost.
	//
	// seen is the checkpoint on which the caller has decided, the zero value if there was none. If
	// another process has taken the position or moved it since, Acquire changes nothing and returns
	// an error that matches checkpoint.ErrConflict. A nil seen does not compare.
	Acquire(ctx context.Context, seen *checkpoint.Checkpoint) (checkpoint.Checkpoint, error)
	// Append makes the batch durable, moves the position from prev to next, and returns the current
	// checkpoint. An empty batch only moves the position. Seen, Refused and Snapshot of prev are
	// committed along with it, so the caller sets them to what is to hold afterwards; prev is
	// compared by its Revision alone. If only a part of the batch is committed, a type of Refused
	// whose position is next is committed with the position of that part. If next is the position
	// of prev, the batch is committed as a whole or not at all. After an error the current position
	// is prev, next, or that of an event between them whose messages, and those of all events
	// before it, are durable; the caller calls Load and continues from there. If a message can
	// never be published, the error contains a *sink.PublishError whose Durable is the index of
	// that message and whose cause is a *sink.RejectedError.
	Append(ctx context.Context, prev checkpoint.Checkpoint, batch []sink.Message, next checkpoint.Position) (checkpoint.Checkpoint, error)
	// Release records that the holder stopped in order, so that another may take over at once. It
	// moves nothing.
	Release(ctx context.Context) error
	// Shared reports whether another process may acquire the position at any time, so that the lane
	// has to stand by while another holder is active, and to renew its lease. It is false while
	// that is not known.
	Shared() bool
	// Verify returns an error that matches checkpoint.ErrLost if the destination no longer holds
	// what was published, and another error if that could not be checked.
	Verify(ctx context.Context) error
	// Flush saves what the Target remembers of its destination if it was not saved for a while. The
	// lane calls it after each delivery that Verify does not follow.
	Flush(ctx context.Context)
	// Ping asks the bus, at the least cost, whether it answers.
	Ping(ctx context.Context) error
}
