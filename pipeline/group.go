package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Group runs lanes side by side. A lane that stops leaves the others running, and each may be stopped and replaced by another while
// they go on. It is safe for concurrent use.
type Group struct {
	ctx     context.Context
	stopped func(*LaneError)

	mu      sync.Mutex
	changed *sync.Cond
	running map[*Lane]*running
	failed  []*LaneError // of lanes that have stopped by themselves and were not replaced
	holds   int
}

type running struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// NewGroup returns a group whose lanes run until ctx ends. stopped, if not nil, is told of each lane that stops with an error, as it
// happens, from the lane's goroutine.
func NewGroup(ctx context.Context, stopped func(*LaneError)) *Group {
	g := &Group{ctx: ctx, stopped: stopped, running: map[*Lane]*running{}}
	g.changed = sync.NewCond(&g.mu)
	return g
}

// Start runs a lane. It takes the place of one of the same name that has stopped.
func (g *Group) Start(l *Lane) {
	g.mu.Lock()
	defer g.mu.Unlock()
	ctx, cancel := context.WithCancel(g.ctx)
	r := &running{cancel: cancel, done: make(chan struct{})}
	g.running[l] = r
	g.forget(l.Name)
	go func() {
		defer cancel()
		g.ended(l, r, l.Run(ctx))
	}()
}

func (g *Group) ended(l *Lane, r *running, err error) {
	if err != nil {
		e := &LaneError{Lane: l.Name, Err: err}
		if g.stopped != nil {
			g.stopped(e)
		}
		g.mu.Lock()
		g.failed = append(g.failed, e)
		g.mu.Unlock()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.running, l)
	close(r.done)
	g.changed.Broadcast()
}

// forget drops what is remembered of a lane that has stopped; g.mu is held.
func (g *Group) forget(name string) {
	g.failed = slices.DeleteFunc(g.failed, func(e *LaneError) bool { return e.Lane == name })
}

// Stop stops a lane in order and waits for its end; why it stopped does not count any more. A lane that has ended already is
// forgotten in the same way.
func (g *Group) Stop(l *Lane) {
	g.mu.Lock()
	r := g.running[l]
	g.mu.Unlock()
	if r != nil {
		r.cancel()
		<-r.done
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.forget(l.Name)
}

// Runs reports whether a lane has been started and has not ended.
func (g *Group) Runs(l *Lane) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running[l] != nil
}

// Hold keeps Wait from returning while no lane runs, until release is called: for whoever stops a lane to start another.
func (g *Group) Hold() (release func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holds++
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.holds--
		g.changed.Broadcast()
	})
}

// Wait returns when no lane runs: after ctx has ended, or because each has stopped. It returns their errors, joined, in the order of
// their names, each a *LaneError.
func (g *Group) Wait() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.running) > 0 || g.holds > 0 {
		g.changed.Wait()
	}
	slices.SortStableFunc(g.failed, func(a, b *LaneError) int { return cmp.Compare(a.Lane, b.Lane) })
	errs := make([]error, len(g.failed))
	for i, e := range g.failed {
		errs[i] = e
	}
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
