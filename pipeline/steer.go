package pipeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"workos-relay/checkpoint"
)

// Errors of Lane.Move.
var (
	// ErrNotHeld means that the lane does not hold the lease now, so it cannot move the position.
	ErrNotHeld = errors.New("the lane does not hold its position")
	// ErrNotRunning means that Run has not begun or has returned.
	ErrNotRunning = errors.New("the lane does not run")
)

// errSteered ends carrying so that a request of an operator can be carried out.
var errSteered = errors.New("steered")

// steering holds what operators ask of a running lane. The zero value is ready.
type steering struct {
	mu      sync.Mutex
	running bool
	paused  bool
	look    bool // ask what is due
	kept    bool // its place is for the next lane of this process
	moves   []*move
	changed chan struct{} // closed and replaced whenever one of the above changes; nil until somebody waits
}

// move is a request to move the position. The goroutine that takes it from steering answers it
// once.
type move struct {
	to     checkpoint.Position
	keep   func(context.Context, checkpoint.Checkpoint) error // may be nil
	answer chan moveResult
}

type moveResult struct {
	before, after checkpoint.Checkpoint
	err           error
}

// Pause makes the lane read nothing more once the Append in flight is committed. A paused lane
// keeps its lease, so a standby does not take over. A lane that stands by, or has not acquired its
// lease yet, does not acquire it while it is paused. Pause is safe for concurrent use, also before
// Run.
func (l *Lane) Pause() { l.steering.set(true) }

// Resume ends a pause: the lane continues from the current position. Without a pause it does
// nothing.
func (l *Lane) Resume() { l.steering.set(false) }

// Look makes the lane ask its Snapshotter whether a snapshot is due, once the Append in flight is
// committed. It is safe for concurrent use.
func (l *Lane) Look() {
	l.steering.mu.Lock()
	defer l.steering.mu.Unlock()
	l.steering.look = true
	l.steering.signal()
}

// Paused reports whether the lane is to be paused. It may still be finishing an Append.
func (l *Lane) Paused() bool { return l.steering.isPaused() }

// KeepLease makes Run return without releasing the lease, so that the replacement lane, with the
// same Holder and with Follows set, acquires it before any standby can.
func (l *Lane) KeepLease() {
	l.steering.mu.Lock()
	defer l.steering.mu.Unlock()
	l.steering.kept = true
}

// Move makes the lane continue from another position: once the Append in flight is committed, it
// replaces the current position by to, by compare and swap, and reads from there. Move returns the
// checkpoints before and after. It waits until the lane holds the lease or ctx ends. If ctx ends,
// nothing has been moved and nothing will be, unless the error is that of the Append that moves the
// position. It returns ErrNotHeld at once if another holder is active, and ErrNotRunning if the
// lane does not run. keep, if not nil, is called with the current checkpoint just before that is
// replaced, in the goroutine of the lane; if it fails, nothing is moved.
func (l *Lane) Move(ctx context.Context, to checkpoint.Position, keep func(context.Context, checkpoint.Checkpoint) error) (before, after checkpoint.Checkpoint, err error) {
	m := &move{to: to, keep: keep, answer: make(chan moveResult, 1)}
	if !l.steering.request(m) {
		return before, after, ErrNotRunning
	}
	select {
	case a := <-m.answer:
		return a.before, a.after, a.err
	case <-ctx.Done():
	}
	if l.steering.withdraw(m) {
		return before, after, fmt.Errorf("%w: %s: %w", ErrNotHeld, l.describe(), ctx.Err())
	}
	a := <-m.answer // it is being done, by an Append that the lane bounds
	return a.before, a.after, a.err
}

func (s *steering) set(paused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused != paused {
		s.paused = paused
		s.signal()
	}
}

func (s *steering) isPaused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.paused
}

func (s *steering) keepsPlace() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept
}

// asked reports whether there is something to do besides carrying.
func (s *steering) asked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.paused || s.look || len(s.moves) > 0
}

// looked records that the lane asks what is due.
func (s *steering) looked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.look = false
}

// untilAsked returns a context that also ends when somebody steers the lane, which must not wait
// for a bus that does not answer. changed is closed at the next change. stop waits for what watches
// it.
func (s *steering) untilAsked(ctx context.Context, changed <-chan struct{}) (steered context.Context, stop func()) {
	steered, cancel := context.WithCancelCause(ctx)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		for ; !s.asked(); changed = s.wait() {
			select {
			case <-changed:
			case <-steered.Done():
				return
			}
		}
		cancel(errSteered)
	}()
	return steered, func() { cancel(nil); <-watching }
}

// signal wakes all waiters. The caller holds s.mu.
func (s *steering) signal() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// wait returns a channel that is closed at the next change. Read the state after calling wait.
func (s *steering) wait() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

func (s *steering) request(m *move) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		s.moves = append(s.moves, m)
		s.signal()
	}
	return s.running
}

// withdraw removes a move that has not been taken yet.
func (s *steering) withdraw(m *move) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.moves {
		if s.moves[i] == m {
			s.moves = append(s.moves[:i:i], s.moves[i+1:]...)
			return true
		}
	}
	return false
}

// next takes the oldest move, or nil if there is none.
func (s *steering) next() *move {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.moves) == 0 {
		return nil
	}
	m := s.moves[0]
	s.moves = s.moves[1:]
	return m
}

// begin and end bound Run. What is asked for and not done at the end is refused.
func (s *steering) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = true
}

func (s *steering) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = false
	s.rejectAll(ErrNotRunning)
}

// refuseAll answers every move with err.
func (s *steering) refuseAll(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rejectAll(err)
}

func (s *steering) rejectAll(err error) {
	for _, m := range s.moves {
		m.answer <- moveResult{err: err}
	}
	s.moves = nil
}

// steer carries out what is asked, from the current checkpoint cp, and returns the current
// checkpoint when the lane is to continue. During a pause it renews the lease.
func (l *Lane) steer(ctx, work context.Context, cp checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	alive := l.lease.newRenewal()
	for {
		changed := l.steering.wait()
		for m := l.steering.next(); m != nil; m = l.steering.next() {
			var err error
			before := cp.Revision
			if cp, err = l.moveTo(ctx, work, cp, m); err != nil {
				return cp, err
			}
			if cp.Revision != before {
				alive.done()
			}
		}
		if !l.steering.isPaused() {
			l.steering.looked()
			return cp, nil
		}
		l.status.pauses(cp)
		if err := l.await(ctx, changed, alive); err != nil {
			return cp, err
		}
		if alive.isDue() {
			var err error
			if cp, err = l.lease.renew(ctx, work, cp, alive); err != nil && !errors.Is(err, errMoved) {
				return cp, err
			}
		}
	}
}

// await waits until something is asked for, or a renewal is due.
func (l *Lane) await(ctx context.Context, changed <-chan struct{}, alive *renewal) error {
	due := make(<-chan time.Time)
	if d := alive.due(); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-changed:
	case <-due:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// moveTo carries out m and answers it. Its error ends what the lane does: after a failed Append the
// current position must be read again.
func (l *Lane) moveTo(ctx, work context.Context, cp checkpoint.Checkpoint, m *move) (checkpoint.Checkpoint, error) {
	if m.keep != nil {
		if err := m.keep(work, cp); err != nil {
			m.answer <- moveResult{before: cp, err: fmt.Errorf("nothing was moved, since the current checkpoint could not be kept: %w", err)}
			return cp, nil
		}
	}
	now, err := l.Target.Append(work, cp.Placed(m.to), nil, m.to)
	if err == nil && !now.Equal(m.to) {
		err = fmt.Errorf("the current position is %s", now.Position)
	}
	if err == nil {
		m.answer <- moveResult{before: cp, after: now}
		return now, nil
	}
	m.answer <- moveResult{before: cp, err: fmt.Errorf("moving the position to %s, which may have taken effect all the same: %w", m.to, err)}
	if ctx.Err() != nil {
		return cp, ctx.Err()
	}
	l.lease.retrying(Moving, err, 0)
	return l.lease.claim(ctx, false)
}
