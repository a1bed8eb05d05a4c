package app

import "context"

// gate admits one goroutine at a time. Unlike with a mutex, a caller can stop waiting if its
// context ends.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

// enter waits until the gate is free. It returns the error of ctx if ctx ends first.
func (g gate) enter(ctx context.Context) error {
	select {
	case g <- struct{}{}:
		return nil
	default:
	}
	select {
	case g <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leave frees the gate.
func (g gate) leave() { <-g }
