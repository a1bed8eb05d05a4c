package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/batch"
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

// errMoved says that the current position is outside of what is in memory.
var errMoved = errors.New("the position was moved")

// lease acquires the position of a lane, shows that its holder is alive, and releases it. Only the
// goroutine of Lane.Run uses it.
type lease struct {
	target        Target
	holder        string        // as Lane.Holder
	takeoverAfter time.Duration // as Lane.TakeoverAfter
	status        *tracker
	steering      *steering
	life          *lifecycle
	snapshots     Snapshotter // nil if the lane keeps no state
	*failures
}

// claim acquires the target, for as long as it takes. It waits for a bus that is down and, if
// standby is set, for another holder that is alive; without standby it returns errStandby for that.
// It returns an error that mustStop holds for at once. During a pause it acquires only what this
// process holds already, and waits for the rest. Without standby it returns errSteered rather than
// wait while somebody steers the lane.
func (l *lease) claim(ctx context.Context, standby bool) (checkpoint.Checkpoint, error) {
	wait := batch.Backoff()
	w := watch{after: l.takeoverAfter}
	alive := l.newRenewal()
	alive.next = time.Now() // how long ago it was renewed is not known
	for {
		changed := l.steering.wait()
		if standby {
			l.status.setIdle(l.steering.isPaused())
		}
		taking, stop := ctx, func() {}
		if !standby {
			taking, stop = l.steering.untilAsked(ctx, changed)
		}
		cp, err := l.tryAcquire(taking, &w)
		stop()
		if err == nil {
			l.status.holds()
			l.life.acquired(cp, l.status.committedSoFar())
			return cp, nil
		}
		if ctx.Err() != nil {
			return cp, ctx.Err()
		}
		if errors.Is(context.Cause(taking), errSteered) {
			return cp, errSteered
		}
		if l.mustStop(err) {
			return cp, err
		}
		if errors.Is(err, errStandby) {
			if !standby {
				return cp, err
			}
			l.life.standsBy(l.takeoverAfter)
			l.steering.refuseAll(fmt.Errorf("%w: %w", ErrNotHeld, err))
			if l.snapshots != nil {
				l.snapshots.Withdraw()
			}
		}
		if errors.Is(err, errStandby) || errors.Is(err, errPaused) {
			l.recovered() // the bus has answered
			wait.Reset()
			_ = retry.SleepUntil(ctx, l.lookInterval(&w), changed)
			continue
		}
		d := wait.Next()
		l.retrying(Claiming, err, d)
		if !standby && l.steering.asked() {
			return cp, errSteered
		}
		l.keep(ctx, d, alive, changed)
	}
}

// tryAcquire acquires the target if this lane may: the position has no holder, its holder is this
// process, it was released, or its holder has been silent. Otherwise it returns errStandby. During
// a pause it acquires only what this process holds, and returns errPaused if nobody else holds the
// rest. The bus decides: if two try at once, it refuses one of them.
func (l *lease) tryAcquire(ctx context.Context, w *watch) (checkpoint.Checkpoint, error) {
	paused := l.steering.isPaused()
	if l.takeoverAfter <= 0 {
		if paused && !l.status.acquired() {
			return checkpoint.Checkpoint{}, errPaused
		}
		return l.target.Acquire(ctx, nil)
	}
	cp, err := l.target.Load(ctx)
	l.life.reads(cp, err == nil, l.mine(cp) || !l.target.Shared())
	held := l.mine(cp) && !cp.Released
	switch {
	case errors.Is(err, checkpoint.ErrNotFound):
		held = false
	case !l.target.Shared(): // the store lets only one process in, and this is it
		held = l.status.acquired()
	case err != nil:
		return cp, err
	case !l.mine(cp) && !cp.Released && !w.silent(cp, time.Now()),
		!l.mine(cp) && paused:
		l.status.standsBy(cp)
		return cp, fmt.Errorf("%w: holder %s moved the position last, at %s", errStandby, printable.Text(cp.Holder), cp.UpdatedAt.Format(time.RFC3339))
	}
	if paused && !held {
		return cp, errPaused
	}
	acquired, err := l.target.Acquire(ctx, &cp)
	if errors.Is(err, errTaken) {
		l.life.reads(acquired, true, false) // the next look tells who has it, if this one does not
		return acquired, fmt.Errorf("%w: %w", errStandby, err)
	}
	return acquired, err
}

// mine reports whether the position belongs to this lane: this process holds it, or an earlier one
// that used the same checkpoint directory did, whose lock this process has. Once this process has
// held the position, another holder of the same directory is a relay that uses a copy of it.
func (l *lease) mine(cp checkpoint.Checkpoint) bool {
	return cp.Holder == l.holder || !l.status.acquired() && checkpoint.SameStore(cp.Holder, l.holder)
}

// lookInterval is the time between two reads of the position of another holder.
func (l *lease) lookInterval(w *watch) time.Duration {
	if w.after <= 0 {
		return batch.RetryMost
	}
	return w.interval()
}

// keep sleeps for d, or until changed is closed, and renews the lease of a lane that holds one
// as often as it is due. A Target that cannot be acquired although it is this lane's, because of a
// topic for example, must not fall to a standby, which could not use it either.
func (l *lease) keep(ctx context.Context, d time.Duration, alive *renewal, changed <-chan struct{}) {
	if !l.status.acquired() || alive.every <= 0 {
		_ = retry.SleepUntil(ctx, d, changed)
		return
	}
	for until := time.Now().Add(d); ; {
		if alive.isDue() {
			l.renewUnclaimed(ctx, alive)
		}
		select {
		case <-changed:
			return
		default:
		}
		left := time.Until(until)
		if left <= 0 || ctx.Err() != nil {
			return
		}
		_ = retry.SleepUntil(ctx, alive.within(left), changed)
	}
}

// renewUnclaimed renews the lease if the position on the bus is this lane's. It reports no failure:
// the next attempt to acquire does.
func (l *lease) renewUnclaimed(ctx context.Context, alive *renewal) {
	bounded, cancel := context.WithTimeout(ctx, alive.every)
	defer cancel()
	cp, err := l.target.Load(bounded)
	if err == nil && cp.Holder == l.holder && !cp.Released {
		cp.WaitedSeconds = l.status.waited()
		_, err = l.target.Append(bounded, cp, nil, cp.Position)
	}
	if err != nil {
		alive.failed()
		return
	}
	alive.done()
}

// renew commits the position unchanged, to show that its holder is alive. If the bus refuses that
// and the holder is still this process, the renewal is due again after a pause. Meanwhile the lane
// delivers what it has read.
func (l *lease) renew(ctx, work context.Context, cp checkpoint.Checkpoint, alive *renewal) (checkpoint.Checkpoint, error) {
	renewed := cp
	renewed.WaitedSeconds = l.status.waited() // tells a standby whether the lane gets on
	now, err := l.target.Append(work, renewed, nil, cp.Position)
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

// waitToRetry renews the lease as often as it is due until the next attempt may start, and once
// more if the attempt would otherwise begin with little time left.
func (l *lease) waitToRetry(ctx, work context.Context, cp checkpoint.Checkpoint, until time.Time, alive *renewal) (checkpoint.Checkpoint, error) {
	for {
		changed := l.steering.wait()
		if l.steering.asked() {
			return cp, nil // deliver sees it
		}
		d := time.Until(until)
		if alive.isDue() || d <= 0 && alive.isLate() {
			var err error
			if cp, err = l.renew(ctx, work, cp, alive); err != nil {
				return cp, err
			}
			d = time.Until(until)
		}
		if d <= 0 {
			return cp, nil
		}
		if err := retry.SleepUntil(ctx, alive.within(d), changed); err != nil {
			return cp, err
		}
	}
}

// release lets a standby take over at once. If it fails, the standby has to wait. It returns what
// has become of the lease, for the log.
func (l *lease) release(work context.Context) string {
	if err := l.target.Release(work); err != nil {
		l.logger.Warn("the checkpoint stays as it is, but could not be marked as released", zap.Error(err))
		return "not released"
	}
	return "released"
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
// holder, was released, is holder's own or that of an earlier process with the same checkpoint
// directory, or has not changed for about after, which is takeover_after. load reads the position.
// AwaitSilence returns the position as it was last read, with the error of load if that fails, and
// an error that matches ErrActive as soon as the position changes. It compares revisions by the
// clock of this process, and does not depend on the clock of another host.
func AwaitSilence(ctx context.Context, after time.Duration, holder string, load func(context.Context) (checkpoint.Checkpoint, error)) (checkpoint.Checkpoint, error) {
	w := watch{after: after}
	var seen uint64
	for {
		cp, err := load(ctx)
		if err != nil || cp.Generation == 0 || cp.Released || cp.Holder == holder || checkpoint.SameStore(cp.Holder, holder) || after <= 0 {
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

func (l *lease) newRenewal() *renewal {
	r := &renewal{}
	if l.target.Shared() {
		r.every = l.takeoverAfter / renewalsPerTakeover
	}
	r.wait = retry.Backoff{First: batch.RetryFirst, Most: r.every}
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
