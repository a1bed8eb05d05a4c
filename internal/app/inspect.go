package app

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/sink"
)

// ModeFinder returns a Delivery that finds the mode of the lane and changes nothing. fit reports
// whether the bus can do exactly_once.
func (l *Lane) ModeFinder(b *Bus, fit func(context.Context) error) *pipeline.Delivery {
	owner := pipeline.Ownership{Topics: l.Topics, Identity: l.Identity(), Logger: zap.NewNop()}
	return &pipeline.Delivery{
		Want:        checkpoint.Mode(l.Sink.Delivery),
		AtLeastOnce: &pipeline.AtLeastOnce{Ownership: owner, Sink: b, Store: readOnly{dir: l.Config.Checkpoint.Dir, id: l.Identity()}},
		ExactlyOnce: &pipeline.ExactlyOnce{Ownership: owner, Ledger: b.Ledger},
		Incapable:   l.Incapable,
		Fit:         fit,
	}
}

// readOnly reads a checkpoint file that a running relay may have locked.
type readOnly struct {
	dir string
	id  checkpoint.Identity
}

// Load implements checkpoint.Store.
func (s readOnly) Load(context.Context) (checkpoint.Checkpoint, error) {
	return checkpoint.ReadFile(s.dir, s.id)
}

// Commit implements checkpoint.Store. It always fails.
func (readOnly) Commit(context.Context, checkpoint.Checkpoint, checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	return checkpoint.Checkpoint{}, errors.ErrUnsupported
}

// StillHolds returns an error that requires an operator if the bus has lost what relay stored on
// it. `relay run` would stop with the same error.
func (l *Lane) StillHolds(ctx context.Context, b *Bus, mode checkpoint.Mode) error {
	var dest sink.Destination = b
	if mode == checkpoint.ExactlyOnce {
		dest = b.Ledger
	}
	return pipeline.Examine(ctx, &pipeline.Ownership{
		Topics: l.Topics, Identity: l.Identity(), Logger: l.Log,
		Guard: &pipeline.Guard{Store: readOnlyDestination{l.Config.Checkpoint.Dir, l.Identity()}, Logger: l.Log},
	}, dest)
}

// readOnlyDestination reads what relay remembers of a bus, and never writes it.
type readOnlyDestination struct {
	dir string
	id  checkpoint.Identity
}

// LoadDestination implements pipeline.DestinationStore.
func (d readOnlyDestination) LoadDestination(context.Context) (checkpoint.Destination, error) {
	return checkpoint.ReadDestination(d.dir, d.id)
}

// SaveDestination implements pipeline.DestinationStore.
func (readOnlyDestination) SaveDestination(context.Context, checkpoint.Destination) error { return nil }
