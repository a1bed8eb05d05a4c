package pipeline

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/batch"
	"workos-relay/internal/retry"
	"workos-relay/sink"
	"workos-relay/source"
)

// carrier reads from a checkpoint and delivers what it reads, while the lane holds its lease. Only
// the goroutine of Lane.Run uses it.
type carrier struct {
	lane     string // as Lane.Name
	source   Source
	target   Target
	batches  batch.Maker
	prefetch int // as Lane.Prefetch
	lease    *lease
	status   *tracker
	steering *steering
	life     *lifecycle
	observer Observer
	*failures

	snapshots       Snapshotter                // nil if the lane keeps no state
	snapshotPart    int                        // bounds the messages of one Append of a snapshot, after the bus has not taken more; 0 if it takes all
	snapshotBatches int                        // counts them
	skipped         []checkpoint.SnapshotCount // what the reader of the snapshot counts, since reading began, and the bus can never take
}

// carry reads from the position of cp and delivers what it reads until something ends it. It
// returns the current checkpoint.
func (c *carrier) carry(ctx, work context.Context, cp checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	cp, err := c.beginEvents(ctx, work, cp)
	if err != nil {
		return cp, err
	}
	c.status.claimed(cp)
	r := startReader(ctx, c.source, c.prefetch, c.status, cp)
	defer r.stop()
	alive, rec, check := c.lease.newRenewal(), newRecord(cp), newVerification(c.target, c.steering)
	touch := c.newContact(alive)
	for {
		steered := c.steering.wait()
		if c.steering.asked() {
			return cp, errSteered
		}
		pages, err := r.gather(ctx, c.batches.MaxEvents, c.batches.MaxBytes, touch.within(check.within(alive.due())), steered)
		if err != nil && !errors.Is(err, errIdle) {
			if ctx.Err() != nil {
				cp = c.keepRecord(work, cp, rec)
			}
			return cp, err
		}
		before := cp.Revision
		delivering, delivered := c.beginDelivery(work, pages)
		cp, err = c.deliver(ctx, delivering, cp, c.batches.Join(pages), courseOf(pages), alive)
		if delivered(err); err != nil {
			return cp, err
		}
		if cp.Revision != before {
			rec.done(cp)
			touch.made()
		}
		if cp = recordedBy(cp, pages); cp.Revision == before && alive.isDue() || rec.isDue(cp) {
			rec.tried()
			if cp, err = c.lease.renew(ctx, work, cp, alive); err != nil {
				return cp, err
			}
			rec.done(cp)
		}
		c.life.delivered(cp, c.status.delivered(pages), c.status.committedSoFar())
		c.batches.Forget()
		r.release(pages)
		if err := check.verify(ctx); err != nil {
			return cp, err
		}
		touch.keep(ctx)
		c.recovered()
	}
}

// beginDelivery tells the observer of pages with events.
func (c *carrier) beginDelivery(ctx context.Context, pages []source.Page) (context.Context, func(error)) {
	if len(pages) == 0 || len(pages[0].Events) == 0 && len(pages) == 1 {
		return ctx, func(error) {}
	}
	return c.observer.BeginDelivery(ctx, pages)
}

// deliver appends events until all of them are committed. After a failure it asks the Target which
// position is in effect and continues from there; it never guesses what the last attempt did. It
// starts no further attempt if the lane is being steered. Events before one that stops the lane are
// committed before it returns the *StopError. While the bus refuses a batch, deliver renews the
// lease.
func (c *carrier) deliver(ctx, work context.Context, cp checkpoint.Checkpoint, events []source.Event, way course, alive *renewal) (checkpoint.Checkpoint, error) {
	wait := batch.Backoff()
	for queue := c.batches.Queue(events); queue.Len() > 0; {
		if c.steering.asked() {
			return cp, errSteered
		}
		b, err := queue.Next()
		if err != nil {
			return cp, c.stopError(err, way)
		}
		now, took, failure := c.attempt(work, way.from(cp, &b), b.Messages, way.to(cp, &b), alive)
		v := queue.Judge(&b, failure)
		var until time.Time // of the pause before the next attempt
		if failure != nil {
			if v.Retry != nil {
				until = c.backOff(ctx, v.Retry, wait.Next(), alive)
			}
			if ctx.Err() != nil {
				return cp, ctx.Err()
			}
			if now, err = c.lease.claim(ctx, false); err != nil {
				if v.Culprit > 0 {
					return cp, err // what precedes the culprit is not committed yet
				}
				return cp, errors.Join(c.stopError(v.Stop, way), err)
			}
		}
		done, found := way.progress(b.Events, cp, now)
		if !found {
			return now, errMoved
		}
		if now.Revision != cp.Revision {
			alive.done()
		}
		stop := queue.Done(&b, done, took, failure, v)
		c.committed(&b, done, now, took)
		cp = now
		switch {
		case done > 0:
			wait.Reset()
		case v.Retry != nil:
			if cp, err = c.lease.waitToRetry(ctx, work, cp, until, alive); err != nil {
				return cp, err
			}
		}
		if stop != nil {
			return cp, c.stopError(stop, way)
		}
	}
	return cp, nil
}

// errLeaseDue is why an attempt is given up: it must not keep the lane from renewing its lease.
var errLeaseDue = errors.New("given up so that the lease can be renewed")

// attempt appends messages once. It bounds the attempt if a standby would take over meanwhile.
func (c *carrier) attempt(work context.Context, cp checkpoint.Checkpoint, messages []sink.Message, to checkpoint.Position, alive *renewal) (now checkpoint.Checkpoint, took time.Duration, failure error) {
	ctx := work
	if d := alive.attemptTime(); d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(work, d, errLeaseDue)
		defer cancel()
	}
	started := time.Now()
	now, failure = c.target.Append(ctx, cp, messages, to)
	took = time.Since(started)
	var rejected *sink.RejectedError
	if failure != nil && ctx.Err() != nil && work.Err() == nil && !errors.As(failure, &rejected) {
		failure = &sink.TimeoutError{Setting: "takeover_after", Value: c.lease.takeoverAfter, Err: fmt.Errorf("%w, after %s (takeover_after is %s; raise it if the bus usually takes that long): %w",
			errLeaseDue, took.Round(time.Millisecond), c.lease.takeoverAfter, failure)}
	}
	return now, took, failure
}

// backOff reports a failure that may pass, and sleeps until the next attempt or until the lease
// must be renewed. It returns when the next attempt may start.
func (c *carrier) backOff(ctx context.Context, failure error, d time.Duration, alive *renewal) time.Time {
	changed := c.steering.wait()
	var fatal *sink.FatalError
	if errors.As(failure, &fatal) {
		d = batch.RetryMost
	}
	c.retrying(Publishing, failure, d)
	until := time.Now().Add(d)
	if !c.steering.asked() {
		_ = retry.SleepUntil(ctx, alive.within(d), changed)
	}
	return until
}

// committed records and tells how many events of b are committed now.
func (c *carrier) committed(b *batch.Batch, events int, cp checkpoint.Checkpoint, took time.Duration) {
	if events == 0 {
		c.status.reloaded(cp)
		return
	}
	c.status.committed(cp, events)
	c.observer.Committed(outcome(b, events, took), cp)
}

// stopError returns err as the lane stops with it: a *StopError if it is about one event of way.
func (c *carrier) stopError(err error, way course) error {
	var at *batch.EventError
	if !errors.As(err, &at) {
		return err
	}
	return &StopError{Lane: c.lane, EventID: at.EventID, Type: at.Type, Parks: at.Parks, Late: way.late != "", Err: at.Err}
}

// recordEvery is how often a lane without events commits its checkpoint to keep what the source
// says about it.
const recordEvery = time.Minute

// record knows what is committed of Checkpoint.Seen and Refused. While a lane has events, or renews
// its lease, each commit includes them. Otherwise a commit for them is due: at once for Refused,
// and every recordEvery for Seen.
type record struct {
	seen    time.Time            // as committed
	refused []checkpoint.Refused // as committed
	tries   time.Time            // when it was last committed by itself, or tried to be
}

func newRecord(cp checkpoint.Checkpoint) *record {
	return &record{seen: cp.Seen, refused: cp.Refused}
}

// isDue reports whether a commit is due for Seen or Refused of cp alone.
func (r *record) isDue(cp checkpoint.Checkpoint) bool {
	return !sameRefused(cp.Refused, r.refused) || cp.Seen.After(r.seen) && (r.tries.IsZero() || time.Since(r.tries) >= recordEvery)
}

func (r *record) tried() { r.tries = time.Now() }

// done records that cp is committed.
func (r *record) done(cp checkpoint.Checkpoint) { r.seen, r.refused = cp.Seen, cp.Refused }

// recordedBy returns cp as it is once the events of the pages are committed, with what the source
// says: up to when it has returned everything, and which types it refuses.
func recordedBy(cp checkpoint.Checkpoint, pages []source.Page) checkpoint.Checkpoint {
	if len(pages) == 0 {
		return cp
	}
	last := &pages[len(pages)-1]
	if last.Seen.After(cp.Seen) {
		cp.Seen = last.Seen
	}
	if last.Refused != nil {
		cp.Refused = last.Refused
	}
	return cp
}

// keepRecord commits Seen of cp before the lane ends. If that fails, the next start knows less.
func (c *carrier) keepRecord(work context.Context, cp checkpoint.Checkpoint, rec *record) checkpoint.Checkpoint {
	if !cp.Seen.After(rec.seen) && sameRefused(cp.Refused, rec.refused) {
		return cp
	}
	now, err := c.target.Append(work, cp, nil, cp.Position)
	if err != nil {
		c.logger.Debug("up to when everything was seen could not be recorded", zap.Error(err))
		return cp
	}
	return now
}

// verification knows when a lane has to ask its target whether the destination still holds what was
// published.
type verification struct {
	target   Target
	steering *steering
	next     time.Time
}

func newVerification(target Target, s *steering) *verification {
	return &verification{target: target, steering: s, next: time.Now().Add(surveyEvery)}
}

// within returns the time until the next check if that is less than d. A d of 0 means no limit.
func (v *verification) within(d time.Duration) time.Duration { return untilDue(v.next, d) }

// untilDue returns the time until next if that is less than d. A d of 0 means no limit, and so the
// result is never 0.
func untilDue(next time.Time, d time.Duration) time.Duration {
	due := max(time.Until(next), 1)
	if d == 0 {
		return due
	}
	return min(d, due)
}

// verify checks if that is due, and returns an error if an operator must decide. A failed check is
// repeated at the next time: if the bus cannot be asked, publishing fails as well. verify ends
// early when somebody steers the lane.
func (v *verification) verify(ctx context.Context) error {
	if time.Now().Before(v.next) {
		v.target.Flush(ctx)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, surveyEvery)
	defer cancel()
	ctx, stop := v.steering.untilAsked(ctx, v.steering.wait())
	err := v.target.Verify(ctx)
	stop()
	v.next = time.Now().Add(surveyEvery)
	if errors.Is(err, checkpoint.ErrLost) || errors.Is(err, checkpoint.ErrForeign) || errors.Is(err, checkpoint.ErrCorrupt) {
		return err
	}
	return nil
}
