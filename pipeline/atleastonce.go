package pipeline

import (
	"context"
	"errors"
	"fmt"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

// Bus is a complete sink; see sink.Bus.
type Bus = sink.Bus

// AtLeastOnce is the Target that publishes through a Sink and then commits to a Store. After a
// crash between the two it publishes again what was not committed: at most one Append.
type AtLeastOnce struct {
	Ownership
	Sink  Bus
	Store checkpoint.Store

	// uncommitted holds the ids of events that are durable although their commit failed. They are
	// not published again: while the disk is full, the bus must not fill with copies.
	uncommitted map[string]struct{}
}

// Load implements Target.
func (t *AtLeastOnce) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	return t.load(ctx, checkpoint.AtLeastOnce, t.Store, t.Sink)
}

// Acquire implements Target.
func (t *AtLeastOnce) Acquire(ctx context.Context) (checkpoint.Checkpoint, error) {
	if err := t.Verify(ctx); err != nil { // before Prepare makes again what is missing
		return checkpoint.Checkpoint{}, err
	}
	if err := t.Sink.Prepare(ctx, t.Topics); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	cp, err := t.acquire(ctx, checkpoint.AtLeastOnce, t.Store, t.Sink)
	if err == nil {
		t.Guard.acquired(ctx, &t.Ownership, t.Sink, cp)
	}
	return cp, err
}

// Verify implements Target.
func (t *AtLeastOnce) Verify(ctx context.Context) error {
	return t.Guard.examine(ctx, &t.Ownership, t.Sink, nil)
}

// Shared implements Target. It returns false: the lock of the store lets only one process in.
func (*AtLeastOnce) Shared() bool { return false }

// Release implements Target.
func (t *AtLeastOnce) Release(ctx context.Context) error { return t.release(ctx, t.Store, t.Sink) }

// Append implements Target. It is the only place that acknowledges an event of an at_least_once
// lane.
func (t *AtLeastOnce) Append(ctx context.Context, prev checkpoint.Checkpoint, batch []sink.Message, next checkpoint.Position) (checkpoint.Checkpoint, error) {
	t.Guard.using(ctx, batch)
	err := t.publish(ctx, batch, t.alreadyDurable(batch))
	durable := wholeEvents(batch, sink.Durable(err, len(batch)))
	if err != nil && (durable == 0 || next.Equal(prev.Position)) {
		return prev, err // a batch that does not move the position is committed as a whole
	}
	to := next
	if err != nil {
		to = batch[durable-1].Position
	}
	// P1: to is the position of the last event whose messages are all durable, and no further.
	committing, committed := t.begin(ctx, StageCommit, nil, to)
	cp, commitErr := t.Store.Commit(committing, prev, moved(prev, batch[:durable], to))
	committed(commitErr)
	if commitErr != nil {
		// P7: what is durable is not published again, however often the commit fails.
		t.remember(batch[:durable])
		return prev, errors.Join(fmt.Errorf("committing the checkpoint at %s: %w", to, commitErr), err)
	}
	t.forget(batch[:durable])
	t.Guard.moved(ctx, cp, batch[:durable])
	return cp, err
}

// publish sends batch[already:]. Its error counts messages from the start of batch.
func (t *AtLeastOnce) publish(ctx context.Context, batch []sink.Message, already int) error {
	if already == len(batch) {
		return nil
	}
	publishing, published := t.begin(ctx, StagePublish, batch[already:], batch[len(batch)-1].Position)
	err := t.Sink.Publish(publishing, batch[already:])
	published(err)
	if err == nil {
		return nil
	}
	cause := err
	var pe *sink.PublishError
	if errors.As(err, &pe) {
		cause = pe.Err
	}
	return &sink.PublishError{Durable: already + sink.Durable(err, len(batch)-already), Err: cause}
}

func (t *AtLeastOnce) alreadyDurable(batch []sink.Message) int {
	n := 0
	for n < len(batch) {
		if _, ok := t.uncommitted[batch[n].Position.EventID]; !ok {
			break
		}
		n++
	}
	return n
}

// remember adds events that are durable and not committed. It keeps what is known of later events,
// since the next attempt may be smaller.
func (t *AtLeastOnce) remember(durable []sink.Message) {
	if t.uncommitted == nil {
		t.uncommitted = make(map[string]struct{}, len(durable))
	}
	for _, m := range durable {
		t.uncommitted[m.Position.EventID] = struct{}{}
	}
}

// forget removes events that are committed now. A commit without messages moves the position
// elsewhere, and everything after that is new.
func (t *AtLeastOnce) forget(committed []sink.Message) {
	for _, m := range committed {
		delete(t.uncommitted, m.Position.EventID)
	}
	if len(committed) == 0 || len(t.uncommitted) == 0 {
		t.uncommitted = nil
	}
}

// wholeEvents returns how many of the first n messages belong to events all of whose messages are
// among them.
func wholeEvents(batch []sink.Message, n int) int {
	if n == len(batch) {
		return n
	}
	for n > 0 && batch[n-1].Position.EventID == batch[n].Position.EventID {
		n--
	}
	return n
}
