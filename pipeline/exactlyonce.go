package pipeline

import (
	"context"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

// Ledger is a bus that stores messages and position in one atomic act; see sink.Ledger.
type Ledger = sink.Ledger

// ExactlyOnce is the Target whose position is on the bus itself, committed together with the
// events.
type ExactlyOnce struct {
	Ownership
	Ledger Ledger
	// Patience bounds how long Acquire prepares topics that were ready once, if it is not zero: a
	// topic that the bus refuses must not keep the holder from renewing its lease.
	Patience time.Duration

	prepared bool // the topics were ready once
}

// Shared implements Target. It returns true: every process that reaches the bus may hold the lease.
func (*ExactlyOnce) Shared() bool { return true }

// Load implements Target.
func (t *ExactlyOnce) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	return t.load(ctx, checkpoint.ExactlyOnce, positionOnly{t.Ledger}, t.Ledger)
}

// Acquire implements Target.
func (t *ExactlyOnce) Acquire(ctx context.Context) (checkpoint.Checkpoint, error) {
	if err := t.Verify(ctx); err != nil { // before Prepare makes again what is missing
		return checkpoint.Checkpoint{}, err
	}
	if err := t.prepare(ctx); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	if err := t.Ledger.Fence(ctx); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	cp, err := t.acquire(ctx, checkpoint.ExactlyOnce, positionOnly{t.Ledger}, t.Ledger)
	if err == nil {
		t.Guard.acquired(ctx, &t.Ownership, t.Ledger, cp)
	}
	return cp, err
}

// Verify implements Target.
func (t *ExactlyOnce) Verify(ctx context.Context) error {
	return t.Guard.examine(ctx, &t.Ownership, t.Ledger, t.Ledger.Load)
}

// prepare makes the topics ready. If they were ready once, and it cannot be found out within
// Patience whether they still are, the next batch tells.
func (t *ExactlyOnce) prepare(ctx context.Context) error {
	if !t.prepared || t.Patience <= 0 {
		err := t.Ledger.Prepare(ctx, t.Topics)
		t.prepared = t.prepared || err == nil
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, t.Patience)
	defer cancel()
	err := t.Ledger.Prepare(bounded, t.Topics)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}

// Append implements Target. It is the only place that acknowledges an event of an exactly_once
// lane.
func (t *ExactlyOnce) Append(ctx context.Context, prev checkpoint.Checkpoint, batch []sink.Message, next checkpoint.Position) (checkpoint.Checkpoint, error) {
	stage := StageAtomic
	if len(batch) == 0 {
		stage = StageCommit
	}
	t.Guard.using(ctx, batch)
	storing, stored := t.begin(ctx, stage, batch, next)
	// P1: the position moves in the same act that stores the events.
	cp, err := t.Ledger.Commit(storing, batch, prev, moved(prev, batch, next))
	stored(err)
	if err != nil {
		return prev, err
	}
	t.Guard.moved(ctx, cp, batch)
	return cp, nil
}

// Release implements Target.
func (t *ExactlyOnce) Release(ctx context.Context) error {
	return t.release(ctx, positionOnly{t.Ledger}, t.Ledger)
}

// Positions returns a ledger as a store of positions, to move a position without events.
func Positions(l Ledger) checkpoint.Store { return positionOnly{l} }

type positionOnly struct{ Ledger }

// Commit implements checkpoint.Store.
func (p positionOnly) Commit(ctx context.Context, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	return p.Ledger.Commit(ctx, nil, prev, next)
}
