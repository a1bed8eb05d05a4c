package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"workos-relay/source"
)

// restartAfter is how long a lane that the Events API refused waits before it is started again.
const restartAfter = 5 * time.Minute

// Group runs lanes side by side. A lane that stops leaves the others running, and each may be
// stopped and replaced while they run. A lane that stopped with a *source.RefusalError is started
// again every 5 minutes as long as other lanes run or Hold keeps the group, since the API may
// accept its requests by then. A Group is safe for concurrent use.
type Group struct {
	ctx     context.Context
	stopped func(*LaneError)

	mu      sync.Mutex
	changed *sync.Cond
	running map[*Lane]*running
	failed  []*LaneError          // of lanes that have stopped by themselves and were not replaced
	waiting map[*Lane]*time.Timer // lanes that have stopped and are to be started again
	holds   int
}

type running struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// NewGroup returns a group whose lanes run until ctx ends. stopped, if not nil, is called with each
// lane that stops with an error, from the goroutine of that lane.
func NewGroup(ctx context.Context, stopped func(*LaneError)) *Group {
	g := &Group{ctx: ctx, stopped: stopped, running: map[*Lane]*running{}, waiting: map[*Lane]*time.Timer{}}
	g.changed = sync.NewCond(&g.mu)
	return g
}

// Start runs a lane. It replaces a stopped lane of the same name.
func (g *Group) Start(l *Lane) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.start(l)
}

// start runs a lane. The caller holds g.mu.
func (g *Group) start(l *Lane) {
	ctx, cancel := context.WithCancel(g.ctx)
	r := &running{cancel: cancel, done: make(chan struct{})}
	g.running[l] = r
	g.forget(l.Name)
	go func() {
		defer cancel()
		g.ended(l, r, l.Run(ctx)) //nolint:contextcheck // a lane that it starts again runs as long as the group
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
	if refusal := (*source.RefusalError)(nil); errors.As(err, &refusal) {
		g.waiting[l] = time.AfterFunc(restartAfter, func() { g.restart(l) })
	}
	close(r.done)
	g.changed.Broadcast()
}

// restart starts a lane again, unless it was forgotten or the group has ended.
func (g *Group) restart(l *Lane) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting[l] != nil && (len(g.running) > 0 || g.holds > 0) && g.ctx.Err() == nil {
		g.start(l)
	}
}

// forget discards what is known of a stopped lane, and does not start it again. The caller holds
// g.mu.
func (g *Group) forget(name string) {
	for l, timer := range g.waiting {
		if l.Name == name {
			timer.Stop()
			delete(g.waiting, l)
		}
	}
	g.failed = slices.DeleteFunc(g.failed, func(e *LaneError) bool { return e.Lane == name })
}

// Stop stops a lane in order and waits until it has ended. Wait does not return its error any more.
// If the lane has already ended, Stop forgets it in the same way.
func (g *Group) Stop(l *Lane) {
	for {
		g.mu.Lock()
		g.forget(l.Name)
		r := g.running[l]
		g.mu.Unlock()
		if r == nil {
			return
		}
		r.cancel()
		<-r.done
	}
}

// Runs reports whether a lane was started and has not ended.
func (g *Group) Runs(l *Lane) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running[l] != nil
}

// Hold keeps Wait from returning while no lane runs, until release is called. It is for a caller
// that stops a lane to start another.
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

// Wait waits until no lane runs: ctx has ended, or every lane has stopped. It returns their errors
// joined, sorted by name, each a *LaneError.
func (g *Group) Wait() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.running) > 0 || g.holds > 0 {
		g.changed.Wait()
	}
	for _, timer := range g.waiting {
		timer.Stop()
	}
	clear(g.waiting)
	slices.SortStableFunc(g.failed, func(a, b *LaneError) int { return cmp.Compare(a.Lane, b.Lane) })
	errs := make([]error, len(g.failed))
	for i, e := range g.failed {
		errs[i] = e
	}
	return errors.Join(errs...)
}

// LaneError is the reason why a lane has stopped.
type LaneError struct {
	Lane string
	Err  error
}

// Error implements error.
func (e *LaneError) Error() string { return fmt.Sprintf("lane %s: %v", e.Lane, e.Err) }

// Unwrap returns the cause.
func (e *LaneError) Unwrap() error { return e.Err }
