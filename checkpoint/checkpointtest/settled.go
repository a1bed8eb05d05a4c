package checkpointtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"workos-relay/checkpoint"
)

// Settled is a store on a bus that may end a call without a decision, as in an election or at a
// fault of the server: it asks for the current position and goes on from there until there is one,
// as a lane does. Several goroutines may use it if they may use Store.
type Settled struct {
	checkpoint.Store
	Undecided func(error) bool // of an error that is none of package checkpoint's; nil for all of those
}

// decided reports whether trying again is of no use.
func (s Settled) decided(ctx context.Context, err error) bool {
	for _, is := range []error{nil, checkpoint.ErrNotFound, checkpoint.ErrLost, checkpoint.ErrCorrupt, checkpoint.ErrForeign, checkpoint.ErrConflict} {
		if errors.Is(err, is) {
			return true
		}
	}
	return ctx.Err() != nil || s.Undecided != nil && !s.Undecided(err)
}

// Load implements checkpoint.Store.
func (s Settled) Load(ctx context.Context) (cp checkpoint.Checkpoint, err error) {
	for {
		if cp, err = s.Store.Load(ctx); s.decided(ctx, err) {
			return cp, err
		}
		rest(ctx)
	}
}

// Commit implements checkpoint.Store.
func (s Settled) Commit(ctx context.Context, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	for first := true; ; first = false {
		cp, err := s.Store.Commit(ctx, prev, next)
		conflict := errors.Is(err, checkpoint.ErrConflict) // after the first it may be one with next itself
		if s.decided(ctx, err) && (first || !conflict) {
			return cp, err
		}
		inForce, loadErr := s.Load(ctx)
		switch {
		case loadErr != nil && !errors.Is(loadErr, checkpoint.ErrNotFound):
			return cp, loadErr
		case inForce.Revision != prev.Revision && bytes.Equal(document(inForce), document(next)):
			return inForce, nil
		case conflict || inForce.Revision != prev.Revision:
			return cp, fmt.Errorf("%w, after: %w", checkpoint.ErrConflict, err)
		}
		rest(ctx)
	}
}

func rest(ctx context.Context) {
	select {
	case <-time.After(10 * time.Millisecond):
	case <-ctx.Done():
	}
}

// document is all of cp but its revision.
func document(cp checkpoint.Checkpoint) []byte {
	cp.Revision = 0
	return checkpoint.Encode(cp)
}
