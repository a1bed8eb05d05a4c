package pipeline

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"workos-relay/internal/batch"
	"workos-relay/internal/contain"
	"workos-relay/internal/operator"
	"workos-relay/internal/retry"
)

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
)

// Lane carries events from one source to one target. Lanes share nothing that one could hold back
// from another. Set the fields before Run and do not change them afterwards.
type Lane struct {
	Name   string
	Type   string // kind of the target, for Status alone
	Source Source
	Router Router
	Target Target
	// State makes the state messages; nil if the lane keeps no state.
	State StateRouter
	// Snapshots reads the snapshot that is due before the lane carries events. Nil if the lane
	// keeps no state.
	Snapshots Snapshotter

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
	steering steering
	life     lifecycle
	lease    lease
	carrier  carrier
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
	l.life = lifecycle{logger: l.Logger}
	f := &failures{errorAndAction: l.errorAndAction, status: &l.status, observer: l.Observer, logger: l.Logger, bus: l.Type}
	l.lease = lease{target: l.Target, holder: l.Holder, takeoverAfter: l.TakeoverAfter, status: &l.status, steering: &l.steering, life: &l.life, snapshots: l.Snapshots, failures: f}
	m := l.carrier.batches // after a restart the lane remembers how much the bus takes
	m.Router, m.Park, m.MaxEvents, m.MaxBytes, m.MustStop = l.Router, l.Park, l.BatchMessages, l.BatchBytes, f.mustStop
	if m.State, m.Admit = l.State, nil; m.State != nil {
		m.MaxMessages = l.BatchMessages
	}
	if l.Snapshots != nil {
		m.Admit = l.Snapshots.Admit
	}
	l.carrier = carrier{
		lane: l.Name, source: l.Source, target: l.Target, batches: m, prefetch: l.Prefetch,
		lease: &l.lease, status: &l.status, steering: &l.steering, life: &l.life, observer: l.Observer, failures: f,
		snapshots: l.Snapshots, snapshotPart: l.carrier.snapshotPart, snapshotBatches: l.carrier.snapshotBatches,
	}
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
	left := "not held"
	switch {
	case !l.status.acquired() && !l.Follows:
	case l.steering.keepsPlace():
		left = "kept"
	default:
		left = l.lease.release(work)
	}
	l.life.stopped(l.status.position(), left, l.status.committedSoFar())
	if err == nil {
		l.status.stop("", "")
	} else {
		l.status.stop(l.errorAndAction(err))
	}
	return err
}

// run carries events until ctx ends or operator action is required, and returns the reason.
func (l *Lane) run(ctx, work context.Context) error {
	wait := batch.Backoff()
	for {
		before := l.status.committedSoFar()
		cp, err := l.lease.claim(ctx, true)
		if err == nil {
			cp, err = l.steer(ctx, work, cp)
		}
		for err == nil || errors.Is(err, errMoved) {
			if cp, err = l.carrier.snapshot(ctx, work, cp); err == nil {
				cp, err = l.carrier.carry(ctx, work, cp)
			}
			if errors.Is(err, errMoved) {
				l.Logger.Warn("the current position is not one that was read: reading again from there", zap.Stringer("position", cp.Position))
			}
		}
		switch {
		case errors.Is(err, errSteered):
		case errors.Is(err, errStandby):
			l.Logger.Warn("another relay has taken the position over; standing by", zap.Error(err))
		case l.lease.mustStop(err), errors.As(err, new(*contain.PanicError)):
			return err
		case ctx.Err() != nil: // any other error of that moment may pass
			return ctx.Err()
		default:
			if l.status.committedSoFar() != before {
				wait.Reset()
			}
			changed, d := l.steering.wait(), wait.Next()
			doing := Reading
			if errors.As(err, new(*StateError)) {
				doing = ReadingBack
			}
			l.lease.retrying(doing, err, d)
			if !l.steering.asked() {
				_ = retry.SleepUntil(ctx, d, changed)
			}
		}
	}
}

// errorAndAction returns the text of err, and what an operator has to do or should do about it.
func (l *Lane) errorAndAction(err error) (text, action string) {
	if l.Explain != nil {
		return l.Explain(err)
	}
	return err.Error(), operator.Advice(err)
}

// Status returns a snapshot. It is safe for concurrent use.
func (l *Lane) Status() Status {
	s := l.status.snapshot()
	s.Lane, s.Type, s.Holder, s.At = l.Name, l.Type, l.Holder, time.Now()
	return s
}

// describe returns in a few words what the lane is doing.
func (l *Lane) describe() string {
	s := l.Status()
	if s.Reason == "" {
		return "it is " + string(s.State)
	}
	return "it is " + string(s.State) + ": " + s.Reason
}

// ReadRetrying records that a request of the Source has failed for the attempt-th time and is
// repeated after wait. The lane is then Retrying until a page comes. It is safe for concurrent use.
func (l *Lane) ReadRetrying(err error, attempt int, wait time.Duration) {
	text, action := l.errorAndAction(err)
	l.status.readRetrying(readFailure{text: text, action: action, count: attempt}, wait)
}
