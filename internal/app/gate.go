package app

import "context"

// gate lets one goroutine in at a time. Unlike a mutex it can be waited for with a context.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

// enter waits until nobody else is in. It returns the error of ctx if that ends first.
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

// leave lets the next one in.
func (g gate) leave() { <-g }
