package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/internal/config"
	"workos-relay/internal/retry"
	"workos-relay/internal/snapshot"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
)

// The admin server controls a Relay.
var _ admin.Control = (*Relay)(nil)

// Pause implements admin.Control.
func (r *Relay) Pause(lane string) error {
	return r.steer(lane, func(m *member) { m.run.Pause() })
}

// Resume implements admin.Control.
func (r *Relay) Resume(lane string) error {
	return r.steer(lane, func(m *member) { m.run.Resume() })
}

// Poll implements admin.Control.
func (r *Relay) Poll(lane string) error {
	return r.steer(lane, func(m *member) { m.waker.Wake() })
}

// Snapshot implements admin.Control.
func (r *Relay) Snapshot(lane string, entities []string) error {
	var err error
	found := r.steer(lane, func(m *member) {
		s := m.status()
		switch {
		case m.snapshots == nil:
			err = &admin.Refusal{Code: http.StatusBadRequest, Err: KeepsNoState(lane)}
		case s.State == pipeline.Standby:
			err = &admin.Refusal{Code: http.StatusConflict, Err: fmt.Errorf("lane %s stands by: %s; ask the active relay", lane, s.Reason)}
		case s.Checkpoint.Snapshot != nil && !s.Checkpoint.Snapshot.Finished():
			err = &admin.Refusal{Code: http.StatusConflict, Err: fmt.Errorf("lane %s reads a snapshot already; relay status shows how far it is", lane)}
		default:
			err = m.snapshots.Request(entities)
			switch {
			case errors.Is(err, snapshot.ErrRequested):
				err = &admin.Refusal{Code: http.StatusConflict, Err: fmt.Errorf("lane %s: %w; relay status shows what it waits for", lane, err)}
			case err != nil:
				err = &admin.Refusal{Code: http.StatusBadRequest, Err: err}
			default:
				m.run.Look()
			}
		}
	})
	return errors.Join(found, err)
}

// steer calls do with a running lane. do must not block. steer never waits for a reload or a move.
// It holds r.mu, so that the effect of do is not lost if another member takes the place of the
// lane.
func (r *Relay) steer(lane string, do func(*member)) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	m, err := r.find(lane)
	if err != nil {
		return err
	}
	if s := m.run.Status(); s.State == pipeline.Stopped && !m.restarting.Load() {
		return &admin.Refusal{Code: http.StatusConflict, Err: fmt.Errorf("lane %s has stopped: %s", lane, s.Reason)}
	}
	do(m)
	return nil
}

// find returns a lane of a running relay. The caller holds r.mu.
func (r *Relay) find(lane string) (*member, error) {
	if !r.running {
		return nil, errNotServing
	}
	for _, m := range r.members {
		if m.run.Name == lane {
			return m, nil
		}
	}
	return nil, &admin.Refusal{Code: http.StatusNotFound, Err: fmt.Errorf("there is no lane %q", lane)}
}

// errNotServing rejects requests to a relay that is still starting, or is stopping.
var errNotServing = &admin.Refusal{Code: http.StatusServiceUnavailable, Err: errors.New("relay is starting or stopping")}

// enter waits for the gate of a lane and returns the lane as it is then. The caller must call
// leave.
func (r *Relay) enter(ctx context.Context, lane string) (m *member, leave func(), err error) {
	find := func() (*member, error) {
		r.mu.RLock()
		defer r.mu.RUnlock()
		return r.find(lane)
	}
	if _, err := find(); err != nil { // no gate for a lane that does not exist
		return nil, nil, err
	}
	g := r.gate(lane)
	if err := g.enter(ctx); err != nil {
		return nil, nil, &admin.Refusal{
			Code: http.StatusConflict, Err: fmt.Errorf("lane %s is being moved or restarted by another request: try again: %w", lane, err),
		}
	}
	if m, err = find(); err != nil {
		g.leave()
		return nil, nil, err
	}
	return m, g.leave, nil
}

// SetCheckpoint implements admin.Control. A running lane moves its position itself and keeps its
// lease. A stopped lane is started again afterwards. SetCheckpoint waits for a reload or another
// move of the same lane, never for another lane.
func (r *Relay) SetCheckpoint(ctx context.Context, lane string, to admin.Destination) (admin.Moved, error) {
	ctx, cancel := context.WithTimeout(ctx, moveTime(r.config()))
	defer cancel()
	m, leave, err := r.enter(ctx, lane)
	if err != nil {
		return admin.Moved{}, err
	}
	defer leave()
	var done admin.Moved
	stopped := !r.group.Runs(m.run)
	if !stopped {
		done, err = r.moveRunning(ctx, m, to)
		stopped = errors.Is(err, pipeline.ErrNotRunning)
	}
	if stopped {
		defer r.group.Hold()()
		r.group.Stop(m.run) // it may have stopped only just now, and its goroutine not have ended
		done, err = r.moveStopped(ctx, m, to)
	}
	var usage *UsageError
	var skip *skipError
	var lost *notFoundError
	if err != nil && !to.DryRun {
		r.log.Info("the position was not moved", zap.String("lane", lane), zap.String("by", admin.Caller(ctx)), zap.Error(err))
	}
	switch {
	case errors.As(err, &skip):
		return done, &admin.Refusal{Code: http.StatusConflict, Err: err}
	case errors.As(err, &usage):
		return done, &admin.Refusal{Code: http.StatusBadRequest, Err: err}
	case errors.As(err, &lost):
		return done, &admin.Refusal{Code: http.StatusBadGateway, Err: err}
	case errors.Is(err, pipeline.ErrNotHeld), errors.Is(err, pipeline.ErrNotRunning):
		return done, &admin.Refusal{Code: http.StatusConflict, Err: fmt.Errorf("lane %s: %w", lane, err)}
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil:
		return done, fmt.Errorf("moving lane %s was given up after %s (40s and takeover_after): %w", lane, moveTime(r.config()), err)
	case err == nil && !to.DryRun:
		r.log.Warn("the position was moved by hand", zap.String("lane", lane), zap.String("by", admin.Caller(ctx)), zap.Any("moved", done))
	}
	return done, err
}

// moveTime bounds a move. A position that another relay has not released is watched for
// takeover_after
// first.
func moveTime(cfg *config.Config) time.Duration { return admin.MoveTime + cfg.TakeoverAfter }

func (r *Relay) moveRunning(ctx context.Context, m *member, to admin.Destination) (admin.Moved, error) {
	if to.From == InFile || to.From == OnBus {
		return admin.Moved{}, Usage(errors.New("the place of a position changes with the mode of delivery, and only while the lane does not run: stop relay first"))
	}
	client, err := r.client(m.lane)
	if err != nil {
		return admin.Moved{}, err
	}
	committed := m.committed(ctx) // the lane only moves it forward, so that no more than this is skipped
	compared := committed.Revision > 0
	position, err := m.lane.destination(ctx, client, committed.Position, to, r.lanes())
	if err != nil {
		return admin.Moved{}, err
	}
	var effect moveEffect
	if compared {
		if effect, err = m.lane.mayMove(ctx, client, standing{position: committed.Position}, position, to.Skip || to.DryRun); err != nil {
			return admin.Moved{}, err
		}
	}
	if to.DryRun {
		if !compared {
			return admin.Moved{}, &admin.Refusal{Code: http.StatusConflict, Err: fmt.Errorf("lane %s has not acquired its position yet; try again", m.run.Name)}
		}
		done := m.moved(committed, "", position)
		done.DryRun = true
		effect.tell(&done)
		return done, nil
	}
	var kept string
	moves := false
	before, after, err := m.run.Move(ctx, position, func(ctx context.Context, cp checkpoint.Checkpoint) (err error) {
		if !compared && !to.Skip {
			return errors.New("the lane has only now acquired its position; try again")
		}
		if kept, err = m.store.Keep(ctx, cp); err != nil {
			return err
		}
		moves = true
		m.verifier.moved() // events are skipped or come again from now on, before the lane says so
		return nil
	})
	if moves { // or may have moved, if there is an error
		m.verifier.moved()
	}
	if err != nil {
		return admin.Moved{}, err
	}
	before.Mode = after.Mode
	done := m.moved(before, kept, after.Position)
	if compared {
		effect.tell(&done)
	}
	return done, nil
}

// moved describes a move of a running lane, in the place that its mode of delivery uses.
func (m *member) moved(before checkpoint.Checkpoint, kept string, after checkpoint.Position) admin.Moved {
	p := m.positions()
	at := p.file
	if before.Mode == checkpoint.ExactlyOnce {
		at = p.bus
	}
	return p.moved(at, before, kept, after)
}

func (r *Relay) moveStopped(ctx context.Context, m *member, to admin.Destination) (admin.Moved, error) {
	client, err := r.client(m.lane)
	if err != nil {
		return admin.Moved{}, err
	}
	positions := m.positions()
	positions.moves = m.verifier.moved
	done, err := positions.Move(ctx, client, to, r.lanes())
	if err != nil || to.DryRun {
		return done, err
	}
	if bus, ok := m.bus.Sink.(sink.Forgetter); ok { // as the record of the destination is forgotten
		bus.Forget()
	}
	r.replace(m, r.successor(ctx, m, m.lane, client, m.bus)) //nolint:contextcheck // the group was given a context
	return done, nil
}

// committed returns the position that the lane has committed. If the lane has just been started, as
// after a reload, it waits until the lane has read its position. The Revision is 0 if ctx ends or
// the lane stops before that.
func (m *member) committed(ctx context.Context) checkpoint.Checkpoint {
	const look = 10 * time.Millisecond
	for {
		s := m.run.Status()
		if s.Checkpoint.Revision > 0 || s.State == pipeline.Stopped || retry.Sleep(ctx, look) != nil {
			return s.Checkpoint
		}
	}
}

// client returns a client for requests of a lane: see share.
func (r *Relay) client(l *Lane) (*source.Client, error) {
	c, err := NewClient(l.Config)
	if err != nil {
		return nil, err
	}
	r.share(c)
	return c, nil
}

// share makes a client one of this process: it shares the rate limit and the budget of early polls
// of all lanes, and its requests are counted.
func (r *Relay) share(c *source.Client) {
	c.Limiter, c.Polls, c.OnRequest = r.limiter, r.polls, r.metrics.RequestSent
}

// lanes returns the lanes of the running configuration.
func (r *Relay) lanes() []*Lane {
	var out []*Lane
	for _, m := range r.now() {
		out = append(out, m.lane)
	}
	return out
}

// positions returns both places where the position of an open lane may be.
func (m *member) positions() *Positions {
	p := &Positions{
		lane: m.lane, disk: m.store, holder: m.lane.Holder(m.store), holding: m.bus, Close: func() error { return nil },
		file: &place{name: InFile, mode: checkpoint.AtLeastOnce, store: m.store},
	}
	if p.ledger = m.bus.Ledger; p.ledger != nil {
		p.bus = &place{name: OnBus, mode: checkpoint.ExactlyOnce, store: sink.Positions(p.ledger)}
	}
	return p
}
