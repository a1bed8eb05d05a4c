package pipeline

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/batch"
	"workos-relay/internal/contain"
	"workos-relay/internal/operator"
	"workos-relay/internal/retry"
	"workos-relay/sink"
	"workos-relay/source"
)

// Source yields pages in order after a checkpoint, without end, and then an error. The lane stops at
// an error that only an operator can resolve. After any other error it reads again from its
// checkpoint. Breaking out of the loop cancels requests in flight and waits for them.
type Source interface {
	Resume(ctx context.Context, from checkpoint.Checkpoint) iter.Seq2[source.Page, error]
}

// Router turns an event into its messages.
type Router interface {
	// Append appends the messages of e to batch. It appends none if the routes drop the event.
	Append(batch []sink.Message, e *source.Event) ([]sink.Message, error)
	// DeadLetter returns the message that parks an event which could not go to topic. limit is the
	// maximum size that the bus accepts, or 0 if unknown.
	DeadLetter(e *source.Event, topic, reason string, size, limit int) (sink.Message, error)
}

// Defaults for the fields of a Lane that are zero.
const (
	// DefaultBatchMessages leaves room for the position within the limit of 1,000 messages of an
	// atomic batch of JetStream (nats-server 2.12 and later).
	DefaultBatchMessages = 999
	DefaultBatchBytes    = 4 << 20
	// DefaultPrefetch is about three batches of events of 1 kB. A larger value does not make a lane
	// faster, and costs up to twice as much memory until that is collected.
	DefaultPrefetch        = 3 << 20
	DefaultShutdownTimeout = 30 * time.Second

	retryFirst = 100 * time.Millisecond
	retryMost  = 15 * time.Second
)

// Lane carries events from one source to one target. Lanes share nothing that one could hold back
// from another. Set the fields before Run and do not change them afterwards.
type Lane struct {
	Name   string
	Type   string // kind of the target, for Status alone
	Source Source
	Router Router
	Target Target

	// Park sends an event that can never be published to the dead letter topic. Without it the lane
	// stops at such an event.
	Park bool
	// BatchMessages and BatchBytes bound how much is gathered from several pages into one Append
	// while the lane is behind. A page is never divided: a larger page is appended alone.
	BatchMessages, BatchBytes int
	// Prefetch bounds, in bytes of responses, what is read and not yet committed. It may always be
	// exceeded by one page.
	Prefetch int
	// TakeoverAfter makes the lane stand by while another holder is active, and take over once that
	// has been silent for about this time. 0 means never. It applies only if Target.Shared returns
	// true. Holder names this process to the Target.
	TakeoverAfter time.Duration
	Holder        string
	// Follows is set when this lane replaces another lane of the same process. It inherits the
	// lease and releases it on exit, even if it never acquired it itself.
	Follows bool
	// ShutdownTimeout bounds how long an Append in flight may continue after ctx has ended.
	ShutdownTimeout time.Duration

	// Explain returns the text of an error for Status and the log, and what an operator has to do
	// or, if the error may pass, should do about it. It is for programs that know more about that
	// than the error. Nil takes both from the error.
	Explain  func(err error) (text, action string)
	Observer Observer // is given to the Target too; nil observes nothing
	Logger   *zap.Logger

	status   tracker
	batches  batch.Maker
	steering steering
}

func (l *Lane) init() {
	setDefault(&l.BatchMessages, DefaultBatchMessages)
	setDefault(&l.BatchBytes, DefaultBatchBytes)
	setDefault(&l.Prefetch, DefaultPrefetch)
	setDefault(&l.ShutdownTimeout, DefaultShutdownTimeout)
	if l.Observer == nil {
		l.Observer = NopObserver{}
	}
	if l.Logger == nil {
		l.Logger = zap.NewNop()
	}
	l.Target.Observe(l.Observer)
	m := &l.batches
	m.Router, m.Park, m.MaxEvents, m.MaxBytes, m.MustStop = l.Router, l.Park, l.BatchMessages, l.BatchBytes, l.mustStop
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Run carries events until ctx ends, which is not an error, or until operator action is required:
// then some error in its tree has a method OperatorAction() string. When ctx ends, Run stops
// reading at once, lets the Append in flight finish within ShutdownTimeout, and releases the lease,
// unless KeepLease was called.
func (l *Lane) Run(ctx context.Context) error {
	l.init()
	l.steering.begin()
	defer l.steering.end()
	work, stopWork := batch.Outlive(ctx, l.ShutdownTimeout)
	defer stopWork()

	// P13: a fault of relay in one lane ends that lane alone.
	err := contain.Do(func() error { return l.run(ctx, work) })
	if fault := (*contain.PanicError)(nil); errors.As(err, &fault) {
		l.Logger.Error("the lane stops because of a fault of relay itself; the others go on", zap.Error(err), zap.String("stack", fault.Stack))
	}
	if ctx.Err() != nil && (errors.Is(err, ctx.Err()) || work.Err() != nil) {
		err = nil
	}
	if (l.status.acquired() || l.Follows) && !l.steering.keepsPlace() {
		l.release(work)
	}
	if err == nil {
		l.status.stop("", "")
	} else {
		l.status.stop(l.explain(err))
	}
	return err
}

// release lets a standby take over at once. If it fails, the standby has to wait.
func (l *Lane) release(work context.Context) {
	if err := l.Target.Release(work); err != nil {
		l.Logger.Warn("the checkpoint stays as it is, but could not be marked as released", zap.Error(err))
	}
}

// run carries events until ctx ends or operator action is required, and returns the reason.
func (l *Lane) run(ctx, work context.Context) error {
	wait := retry.Backoff{First: retryFirst, Most: retryMost}
	for {
		before := l.status.committedSoFar()
		cp, err := l.claim(ctx, true)
		if err == nil {
			cp, err = l.steer(ctx, work, cp)
		}
		for err == nil || errors.Is(err, errMoved) {
			cp, err = l.carry(ctx, work, cp)
			if errors.Is(err, errMoved) {
				l.Logger.Warn("the position in force is not one that was read: reading again from there", zap.Stringer("position", cp.Position))
			}
		}
		switch {
		case errors.Is(err, errSteered):
		case errors.Is(err, errStandby):
			l.Logger.Warn("another relay has taken the position over; standing by", zap.Error(err))
		case l.mustStop(err), errors.As(err, new(*contain.PanicError)):
			return err
		case ctx.Err() != nil: // whatever else came at that moment may pass
			return ctx.Err()
		default:
			if l.status.committedSoFar() != before {
				wait.Reset()
			}
			changed, d := l.steering.wait(), wait.Next()
			l.retrying(Reading, err, d)
			if !l.steering.asked() {
				_ = retry.SleepUntil(ctx, d, changed)
			}
		}
	}
}

// carry reads from the position of cp and delivers what it reads until something ends it. It
// returns the current checkpoint.
func (l *Lane) carry(ctx, work context.Context, cp checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	l.status.claimed(cp)
	r := l.read(ctx, cp)
	defer r.stop()
	alive, rec, check := l.newRenewal(), newRecord(cp), l.newVerification()
	for {
		steered := l.steering.wait()
		if l.steering.asked() {
			return cp, errSteered
		}
		pages, err := r.gather(ctx, l.BatchMessages, l.BatchBytes, check.within(alive.due()), steered)
		if err != nil && !errors.Is(err, errIdle) {
			if ctx.Err() != nil {
				cp = l.keepRecord(work, cp, rec)
			}
			return cp, err
		}
		before := cp.Revision
		delivering, delivered := l.beginDelivery(work, pages)
		cp, err = l.deliver(ctx, delivering, cp, l.batches.Join(pages), courseOf(pages), alive)
		if delivered(err); err != nil {
			return cp, err
		}
		if cp.Revision != before {
			rec.done(cp)
		}
		if cp = recordedBy(cp, pages); cp.Revision == before && alive.isDue() || rec.isDue(cp) {
			rec.tried()
			if cp, err = l.renew(ctx, work, cp, alive); err != nil {
				return cp, err
			}
			rec.done(cp)
		}
		l.status.delivered(pages)
		l.batches.Forget()
		r.release(pages)
		if err := check.verify(ctx, steered); err != nil {
			return cp, err
		}
	}
}

// beginDelivery tells the observer of pages with events.
func (l *Lane) beginDelivery(ctx context.Context, pages []source.Page) (context.Context, func(error)) {
	if len(pages) == 0 || len(pages[0].Events) == 0 && len(pages) == 1 {
		return ctx, func(error) {}
	}
	return l.Observer.BeginDelivery(ctx, pages)
}

// errMoved says that the current position is outside of what is in memory.
var errMoved = errors.New("the position was moved")

// deliver appends events until all of them are committed. After a failure it asks the Target which
// position is in effect and continues from there; it never guesses what the last attempt did. It
// starts no further attempt if the lane is being steered. Events before one that stops the lane are
// committed before it returns the *StopError. While the bus refuses a batch, deliver renews the
// lease.
func (l *Lane) deliver(ctx, work context.Context, cp checkpoint.Checkpoint, events []source.Event, way course, alive *renewal) (checkpoint.Checkpoint, error) {
	wait := retry.Backoff{First: retryFirst, Most: retryMost}
	for queue := l.batches.Queue(events); queue.Len() > 0; {
		if l.steering.asked() {
			return cp, errSteered
		}
		b, err := queue.Next()
		if err != nil {
			return cp, l.stopError(err, way)
		}
		now, took, failure := l.attempt(work, way.from(cp, &b), &b, way.to(cp, &b), alive)
		v := queue.Judge(&b, failure)
		var until time.Time // of the pause before the next attempt
		if failure != nil {
			if v.Retry != nil {
				until = l.backOff(ctx, v.Retry, wait.Next(), alive)
			}
			if ctx.Err() != nil {
				return cp, ctx.Err()
			}
			if now, err = l.claim(ctx, false); err != nil {
				if v.Culprit > 0 {
					return cp, err // what precedes the culprit is not committed yet
				}
				return cp, errors.Join(l.stopError(v.Stop, way), err)
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
		l.committed(&b, done, now, took)
		cp = now
		switch {
		case done > 0:
			wait.Reset()
		case v.Retry != nil:
			if cp, err = l.waitToRetry(ctx, work, cp, until, alive); err != nil {
				return cp, err
			}
		}
		if stop != nil {
			return cp, l.stopError(stop, way)
		}
	}
	return cp, nil
}

// errLeaseDue is why an attempt is given up: it must not keep the lane from renewing its lease.
var errLeaseDue = errors.New("given up so that the lease can be renewed")

// attempt appends a batch once. It bounds the attempt if a standby would take over meanwhile.
func (l *Lane) attempt(work context.Context, cp checkpoint.Checkpoint, b *batch.Batch, to checkpoint.Position, alive *renewal) (now checkpoint.Checkpoint, took time.Duration, failure error) {
	ctx := work
	if d := alive.attemptTime(); d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(work, d, errLeaseDue)
		defer cancel()
	}
	started := time.Now()
	now, failure = l.Target.Append(ctx, cp, b.Messages, to)
	took = time.Since(started)
	var rejected *sink.RejectedError
	if failure != nil && ctx.Err() != nil && work.Err() == nil && !errors.As(failure, &rejected) {
		failure = &sink.TimeoutError{Setting: "takeover_after", Value: l.TakeoverAfter, Err: fmt.Errorf("%w, after %s: %w",
			errLeaseDue, took.Round(time.Millisecond), failure)}
	}
	return now, took, failure
}

// progress returns how many of events lie between the positions prev and now. It is not found if
// now is neither prev nor the position of one of the events.
func progress(events []source.Event, prev, now checkpoint.Position) (int, bool) {
	for i := len(events) - 1; i >= 0; i-- {
		if now.EventID == events[i].ID {
			return i + 1, true
		}
	}
	return 0, now.Equal(prev)
}

// backOff reports a failure that may pass, and sleeps until the next attempt or until the lease
// must be renewed. It returns when the next attempt may start.
func (l *Lane) backOff(ctx context.Context, failure error, d time.Duration, alive *renewal) time.Time {
	changed := l.steering.wait()
	var fatal *sink.FatalError
	if errors.As(failure, &fatal) {
		d = retryMost
	}
	l.retrying(Publishing, failure, d)
	until := time.Now().Add(d)
	if !l.steering.asked() {
		_ = retry.SleepUntil(ctx, alive.within(d), changed)
	}
	return until
}

// waitToRetry renews the lease as often as it is due until the next attempt may start, and once
// more if the attempt would otherwise begin with little time left.
func (l *Lane) waitToRetry(ctx, work context.Context, cp checkpoint.Checkpoint, until time.Time, alive *renewal) (checkpoint.Checkpoint, error) {
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

// claim acquires the target, for as long as it takes. It waits for a bus that is down and, if
// standby is set, for another holder that is alive; without standby it returns errStandby for that.
// It returns an error that mustStop holds for at once. During a pause it acquires only what this
// process holds already, and waits for the rest. Without standby it returns errSteered rather than
// wait while somebody steers the lane.
func (l *Lane) claim(ctx context.Context, standby bool) (checkpoint.Checkpoint, error) {
	wait := retry.Backoff{First: retryFirst, Most: retryMost}
	w := watch{after: l.TakeoverAfter}
	alive := l.newRenewal()
	alive.next = time.Now() // how long ago it was renewed is not known
	for {
		changed := l.steering.wait()
		if standby {
			l.status.setIdle(l.steering.isPaused())
		}
		taking, stop := ctx, func() {}
		if !standby {
			taking, stop = l.untilSteered(ctx, changed)
		}
		cp, err := l.tryAcquire(taking, &w)
		stop()
		if err == nil {
			l.status.holds()
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
			l.steering.refuseAll(fmt.Errorf("%w: %w", ErrNotHeld, err))
		}
		if errors.Is(err, errStandby) || errors.Is(err, errPaused) {
			wait.Reset()
			_ = retry.SleepUntil(ctx, l.lookInterval(&w), changed)
			continue
		}
		d := wait.Next()
		l.retrying(Claiming, err, d)
		if !standby && l.steering.asked() {
			return cp, errSteered
		}
		l.keepLease(ctx, d, alive, changed)
	}
}

// keepLease sleeps for d, or until changed is closed, and renews the lease of a lane that holds one
// as often as it is due. A Target that cannot be acquired although it is this lane's, because of a
// topic for example, must not fall to a standby, which could not use it either.
func (l *Lane) keepLease(ctx context.Context, d time.Duration, alive *renewal, changed <-chan struct{}) {
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
func (l *Lane) renewUnclaimed(ctx context.Context, alive *renewal) {
	bounded, cancel := context.WithTimeout(ctx, alive.every)
	defer cancel()
	cp, err := l.Target.Load(bounded)
	if err == nil && cp.Holder == l.Holder && !cp.Released {
		cp.WaitedSeconds = l.status.waited()
		_, err = l.Target.Append(bounded, cp, nil, cp.Position)
	}
	if err != nil {
		alive.failed()
		return
	}
	alive.done()
}

// untilSteered returns a context that also ends when somebody steers the lane, which must not wait
// for a bus that does not answer. changed is closed at the next change. stop waits for what watches
// it.
func (l *Lane) untilSteered(ctx context.Context, changed <-chan struct{}) (steered context.Context, stop func()) {
	steered, cancel := context.WithCancelCause(ctx)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		for ; !l.steering.asked(); changed = l.steering.wait() {
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

// mustStop reports whether only an operator can resolve err, so that the lane stops. A
// *sink.FatalError stops a lane only if it has never acquired its position: later the operator may
// repair the bus while relay runs.
func (l *Lane) mustStop(err error) bool {
	for _, e := range operator.Find(err) {
		fatal, isFatal := e.(*sink.FatalError) //nolint:errorlint // what it wraps is not the question
		if !isFatal || !l.status.acquired() || l.mustStop(fatal.Err) {
			return true
		}
	}
	return false
}

// explain returns the text of err, and what an operator has to do or should do about it.
func (l *Lane) explain(err error) (text, action string) {
	if l.Explain != nil {
		return l.Explain(err)
	}
	return err.Error(), operator.Advice(err)
}

func (l *Lane) retrying(doing string, err error, wait time.Duration) {
	text, action := l.explain(err)
	l.Logger.Warn(doing+" failed, will try again", zap.Duration("in", wait), zap.String("error", text))
	l.status.retrying(doing, text, action)
	l.Observer.Retrying(doing, err)
}

func (l *Lane) committed(b *batch.Batch, events int, cp checkpoint.Checkpoint, took time.Duration) {
	if events == 0 {
		l.status.reloaded(cp)
		return
	}
	l.status.committed(cp, events)
	l.Observer.Committed(outcome(b, events, took), cp)
}

// StopError says that the lane stopped at an event that can never be published: no dead letter
// topic is configured, or the dead letter is refused too. Everything before the event is committed,
// unless Unwrap also returns why it could not be.
type StopError struct {
	Lane          string // as Lane.Name
	EventID, Type string
	Parks         bool // a dead letter topic is configured
	Late          bool // the event is late: the position is already past it
	Err           error
}

// stopError returns err as the lane stops with it: a *StopError if it is about one event of way.
func (l *Lane) stopError(err error, way course) error {
	var at *batch.EventError
	if !errors.As(err, &at) {
		return err
	}
	return &StopError{Lane: l.Name, EventID: at.EventID, Type: at.Type, Parks: at.Parks, Late: way.late != "", Err: at.Err}
}

// Error implements error.
func (e *StopError) Error() string {
	return fmt.Sprintf("stopped at event %s (%s): %v; %s", e.EventID, e.Type, e.Err, e.OperatorAction())
}

// OperatorAction says what an operator has to do.
func (e *StopError) OperatorAction() string {
	remedy := batch.Remedy(e.Parks)
	if e.Late {
		return fmt.Sprintf("%s, or take %s out of source.events", remedy, e.Type)
	}
	return remedy + ", or skip this one event"
}

// Unwrap returns the cause.
func (e *StopError) Unwrap() error { return e.Err }
