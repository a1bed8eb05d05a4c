package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// RunAll runs the lanes side by side until ctx ends or none runs any more. A lane that stops leaves the others running. It returns
// the errors of all lanes, joined, each as a *LaneError; stopped, if not nil, is told of each as it happens.
func RunAll(ctx context.Context, stopped func(*LaneError), lanes ...*Lane) error {
	errs := make([]error, len(lanes))
	var wg sync.WaitGroup
	for i, l := range lanes {
		wg.Go(func() {
			if err := l.Run(ctx); err != nil {
				e := &LaneError{Lane: l.Name, Err: err}
				if errs[i] = e; stopped != nil {
					stopped(e)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// LaneError is why a lane has stopped.
type LaneError struct {
	Lane string
	Err  error
}

// Error implements error.
func (e *LaneError) Error() string { return fmt.Sprintf("lane %s: %v", e.Lane, e.Err) }

// Unwrap returns the cause.
func (e *LaneError) Unwrap() error { return e.Err }
