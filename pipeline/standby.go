package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/printable"
	"workos-relay/internal/retry"
)

const (
	renewalsPerTakeover = 3 // the active one moves its position at least so often within TakeoverAfter
	looksPerTakeover    = 5
	fewestLooks         = 3 // without a change, before a holder counts as silent
)

// errStandby says that another holder is active.
var errStandby = errors.New("another relay is active")

// errPaused says that the lane is paused and does not hold the lease.
var errPaused = errors.New("paused, without holding the position")

// tryAcquire acquires the target if this lane may: the position has no holder, its holder is this
// process, it was released, or its holder has been silent. Otherwise it returns errStandby. During
// a pause it acquires only what this process holds, and returns errPaused if nobody else holds the
// rest. The bus decides: if two try at once, it refuses one of them.
func (l *Lane) tryAcquire(ctx context.Context, w *watch) (checkpoint.Checkpoint, error) {
	paused := l.steering.isPaused()
	if l.TakeoverAfter <= 0 {
		if paused && !l.status.acquired() {
			return checkpoint.Checkpoint{}, errPaused
		}
		return l.Target.Acquire(ctx)
	}
	cp, err := l.Target.Load(ctx)
	held := cp.Holder == l.Holder && !cp.Released
	switch {
	case errors.Is(err, checkpoint.ErrNotFound):
		held = false
	case !l.Target.Shared(): // the store lets only one process in, and this is it
		held = l.status.acquired()
	case err != nil:
		return cp, err
	case cp.Holder != l.Holder && !cp.Released && !w.silent(cp, time.Now()),
		cp.Holder != l.Holder && paused:
		l.status.standsBy(cp)
		return cp, fmt.Errorf("%w: holder %s moved the position last, at %s", errStandby, printable.Text(cp.Holder), cp.UpdatedAt.Format(time.RFC3339))
	}
	if paused && !held {
		return cp, errPaused
	}
	return l.Target.Acquire(ctx)
}

// lookInterval is the time between two reads of the position of another holder.
func (l *Lane) lookInterval(w *watch) time.Duration {
	if w.after <= 0 {
		return retryMost
	}
	return w.interval()
}

// watch finds out whether a holder has fallen silent, by the monotonic clock of this process and
// without trusting any other clock.
type watch struct {
	after time.Duration // TakeoverAfter

	revision uint64
	last     time.Time     // of the last look
	late     bool          // that look came long after the one before it
	quiet    time.Duration // how long the revision was seen to be the same
	looks    int           // at this revision
}

// interval returns the time between two reads.
func (w *watch) interval() time.Duration { return w.after / looksPerTakeover }

// silent reports whether the position has not moved for so long, over several reads, that its
// holder must be dead. A gap between reads means that this process itself was stopped; what it did
// not see does not count. Gaps one after the other mean that the bus is slow to answer. Then each
// counts as one interval: a slow bus may delay a takeover and must not prevent it.
func (w *watch) silent(cp checkpoint.Checkpoint, now time.Time) bool {
	since, before := now.Sub(w.last), w.late
	w.last, w.late = now, since > 2*w.interval()
	if w.looks == 0 || cp.Revision != w.revision || w.late && !before {
		w.revision, w.quiet, w.looks = cp.Revision, 0, 0
	} else {
		w.quiet += min(since, w.interval())
	}
	w.looks++
	return w.looks >= fewestLooks && w.quiet >= w.after-w.interval()
}

// ErrActive means that another relay holds a position and has moved or renewed it while this
// process watched.
var ErrActive = errors.New("another relay is active")

// AwaitSilence watches a position that another holder may have until it may be moved: it has no
// holder, was released, is holder's own, or has not changed for about after, which is
// takeover_after. load reads the position. AwaitSilence returns the position as it was last read,
// with the error of load if that fails, and an error that matches ErrActive as soon as the position
// changes. It compares revisions by the clock of this process, and does not depend on the clock of
// another host.
func AwaitSilence(ctx context.Context, after time.Duration, holder string, load func(context.Context) (checkpoint.Checkpoint, error)) (checkpoint.Checkpoint, error) {
	w := watch{after: after}
	var seen uint64
	for {
		cp, err := load(ctx)
		if err != nil || cp.Generation == 0 || cp.Released || cp.Holder == holder || after <= 0 {
			return cp, err
		}
		if seen != 0 && cp.Revision != seen {
			return cp, fmt.Errorf("%w: holder %s has moved or renewed the position just now", ErrActive, printable.Text(cp.Holder))
		}
		seen = cp.Revision
		if w.silent(cp, time.Now()) {
			return cp, nil
		}
		if err := retry.Sleep(ctx, min(w.interval(), time.Second)); err != nil {
			return cp, fmt.Errorf("there was not enough time to see whether holder %s is active; that takes %s (takeover_after): %w", printable.Text(cp.Holder), after, err)
		}
	}
}

// renewal knows when the active lane must move its position so that no standby takes it for dead.
type renewal struct {
	every time.Duration // 0 for never
	last  time.Time     // when the position was moved or renewed
	next  time.Time
	wait  retry.Backoff // between attempts that fail
}

func (l *Lane) newRenewal() *renewal {
	r := &renewal{}
	if l.Target.Shared() {
		r.every = l.TakeoverAfter / renewalsPerTakeover
	}
	r.wait = retry.Backoff{First: retryFirst, Most: r.every}
	r.done()
	r.last = r.last.Add(-r.every / 2) // the last renewal was some time ago
	return r
}

func (r *renewal) done() {
	r.wait.Reset()
	r.last = time.Now()
	r.next = r.last.Add(r.every)
}

// failed returns how long it is until the next attempt.
func (r *renewal) failed() time.Duration {
	d := r.wait.Next()
	r.next = time.Now().Add(d)
	return d
}

func (r *renewal) isDue() bool { return r.every > 0 && time.Until(r.next) <= 0 }

// isLate reports whether an attempt that starts now has less than most of its time.
func (r *renewal) isLate() bool { return r.every > 0 && time.Since(r.last) > r.every/2 }

// attemptTime returns how long an attempt that starts now may take: until half of takeover_after
// has passed since the last renewal, so that there is time for the next one. 0 means no bound.
func (r *renewal) attemptTime() time.Duration {
	if r.every <= 0 {
		return 0
	}
	return max(time.Until(r.last.Add(r.every*renewalsPerTakeover/2)), r.every/4)
}

// within returns d, or the time until the renewal is due if that is shorter.
func (r *renewal) within(d time.Duration) time.Duration {
	if r.every <= 0 {
		return d
	}
	return max(min(d, time.Until(r.next)), 1)
}

// due returns the time until the renewal is due. It is never zero if a renewal is ever due, since
// zero stands for never.
func (r *renewal) due() time.Duration {
	if r.every <= 0 {
		return 0
	}
	return max(time.Until(r.next), 1)
}

// renew commits the position unchanged, to show that its holder is alive. If the bus refuses that
// and the holder is still this process, the renewal is due again after a pause. Meanwhile the lane
// delivers what it has read.
func (l *Lane) renew(ctx, work context.Context, cp checkpoint.Checkpoint, alive *renewal) (checkpoint.Checkpoint, error) {
	renewed := cp
	renewed.WaitedSeconds = l.status.waited() // tells a standby whether the lane gets on
	now, err := l.Target.Append(work, renewed, nil, cp.Position)
	if err != nil {
		if ctx.Err() != nil {
			return cp, ctx.Err()
		}
		l.retrying(Renewing, err, alive.failed())
		if now, err = l.claim(ctx, false); err != nil {
			return cp, err
		}
	}
	if !now.Equal(cp.Position) {
		return now, errMoved
	}
	if now.Revision != cp.Revision {
		alive.done()
		l.status.renewed(now)
	}
	return now, nil
}
