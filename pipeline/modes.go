package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/operator"
	"workos-relay/internal/printable"
	"workos-relay/sink"
)

// AtLeastOnce is the Target that publishes through a Sink and then commits to a Store. After a
// crash between the two it publishes again what was not committed: at most one Append.
type AtLeastOnce struct {
	Ownership
	Sink  sink.Sink
	Store checkpoint.Store

	// uncommitted holds the ids of events that are durable although their commit failed. They are
	// not published again: while the disk is full, the bus must not fill with copies.
	uncommitted map[string]struct{}
}

func (t *AtLeastOnce) place() place {
	return place{mode: checkpoint.AtLeastOnce, store: t.Store, dest: t.Sink}
}

// Load implements Target.
func (t *AtLeastOnce) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	return t.load(ctx, t.place())
}

// Acquire implements Target. It compares nothing: the lock of the store lets only one process in.
func (t *AtLeastOnce) Acquire(ctx context.Context, _ *checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	if err := t.Verify(ctx); err != nil { // before Prepare makes again what is missing
		return checkpoint.Checkpoint{}, err
	}
	if err := t.Sink.Prepare(ctx, t.Topics); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	cp, err := t.acquire(ctx, t.place(), nil)
	if err == nil {
		t.Guard.acquired(ctx, &t.Ownership, t.Sink, cp)
	}
	return cp, err
}

// Verify implements Target.
func (t *AtLeastOnce) Verify(ctx context.Context) error {
	return t.Guard.examine(ctx, &t.Ownership, t.Sink, nil)
}

// Made records topics that Sink has made for its messages: see sink.TopicMaker.
func (t *AtLeastOnce) Made(ctx context.Context, topics []string) error {
	return t.Guard.made(ctx, &t.Ownership, t.Sink, topics)
}

// Ping implements Target.
func (t *AtLeastOnce) Ping(ctx context.Context) error { return t.Sink.Ping(ctx) }

// Shared implements Target. It returns false: the lock of the store lets only one process in.
func (*AtLeastOnce) Shared() bool { return false }

// Release implements Target.
func (t *AtLeastOnce) Release(ctx context.Context) error { return t.release(ctx, t.place()) }

// Append implements Target. It is the only place that acknowledges an event of an at_least_once
// lane.
func (t *AtLeastOnce) Append(ctx context.Context, prev checkpoint.Checkpoint, batch []sink.Message, next checkpoint.Position) (checkpoint.Checkpoint, error) {
	t.Guard.using(ctx, batch)
	err := t.publish(ctx, batch, t.alreadyDurable(batch))
	if back := (*sink.WentBackError)(nil); errors.As(err, &back) {
		if lost := t.Guard.wentBack(ctx, &t.Ownership, back); lost != nil {
			return prev, lost
		}
		return prev, err // the lane acquires its position again, and verifies before
	}
	durable := wholeEvents(batch, sink.Durable(err, len(batch)))
	if err != nil && (durable == 0 || next.Equal(prev.Position)) {
		return prev, err // a batch that does not move the position is committed as a whole
	}
	to, after := next, moved(prev, batch[:durable], next)
	if err != nil {
		to = batch[durable-1].Position
		updated := after.UpdatedAt
		after = prev.MovedPartly(sink.Passed(batch[:durable]), next)
		after.UpdatedAt = updated
	}
	// P1: to is the position of the last event whose messages are all durable, and no further.
	committing, committed := t.begin(ctx, StageCommit, nil, to)
	cp, commitErr := t.Store.Commit(committing, prev, after)
	committed(commitErr)
	if commitErr != nil {
		// P7: what is durable is not published again, however often the commit fails.
		t.addUncommitted(batch[:durable])
		return prev, errors.Join(fmt.Errorf("committing the checkpoint at %s: %w", to, commitErr), err)
	}
	t.forget(batch[:durable])
	t.Guard.moved(ctx, cp, batch[:durable])
	return cp, err
}

// publish sends batch[already:]. Its error counts messages from the start of batch.
func (t *AtLeastOnce) publish(ctx context.Context, batch []sink.Message, already int) error {
	if already == len(batch) {
		return nil
	}
	publishing, published := t.begin(ctx, StagePublish, batch[already:], batch[len(batch)-1].Position)
	err := t.Sink.Publish(publishing, batch[already:])
	published(err)
	if err == nil {
		return nil
	}
	cause := err
	var pe *sink.PublishError
	if errors.As(err, &pe) {
		cause = pe.Err
	}
	return &sink.PublishError{Durable: already + sink.Durable(err, len(batch)-already), Err: cause}
}

func (t *AtLeastOnce) alreadyDurable(batch []sink.Message) int {
	n := 0
	for n < len(batch) {
		if _, ok := t.uncommitted[batch[n].Position.EventID]; !ok {
			break
		}
		n++
	}
	return n
}

// addUncommitted adds events that are durable and not committed. It keeps what is known of later
// events, since the next attempt may be smaller.
func (t *AtLeastOnce) addUncommitted(durable []sink.Message) {
	if t.uncommitted == nil {
		t.uncommitted = make(map[string]struct{}, len(durable))
	}
	for _, m := range durable {
		t.uncommitted[m.Position.EventID] = struct{}{}
	}
}

// forget removes events that are committed now. A commit without messages moves the position
// elsewhere, and everything after that is new.
func (t *AtLeastOnce) forget(committed []sink.Message) {
	for _, m := range committed {
		delete(t.uncommitted, m.Position.EventID)
	}
	if len(committed) == 0 || len(t.uncommitted) == 0 {
		t.uncommitted = nil
	}
}

// wholeEvents returns how many of the first n messages belong to events all of whose messages are
// among them.
func wholeEvents(batch []sink.Message, n int) int {
	if n == len(batch) {
		return n
	}
	for n > 0 && batch[n-1].Position.EventID == batch[n].Position.EventID {
		n--
	}
	return n
}

// ExactlyOnce is the Target whose position is on the bus itself, committed together with the
// events.
type ExactlyOnce struct {
	Ownership
	Ledger sink.Ledger
	// Patience bounds how long Acquire prepares topics that were ready once, if it is not zero: a
	// topic that the bus refuses must not keep the holder from renewing its lease.
	Patience time.Duration

	prepared bool // the topics were ready once
}

// Shared implements Target. It returns true: every process that reaches the bus may hold the lease.
func (*ExactlyOnce) Shared() bool { return true }

func (t *ExactlyOnce) place() place {
	return place{mode: checkpoint.ExactlyOnce, store: sink.Positions(t.Ledger), dest: t.Ledger}
}

// Load implements Target.
func (t *ExactlyOnce) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	return t.load(ctx, t.place())
}

// Acquire implements Target.
func (t *ExactlyOnce) Acquire(ctx context.Context, seen *checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	if err := t.Verify(ctx); err != nil { // before Prepare makes again what is missing
		return checkpoint.Checkpoint{}, err
	}
	if err := t.prepare(ctx); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	if seen != nil && seen.Holder != t.Holder { // the time since the look may be long, and a fence disturbs a relay that writes
		switch now, err := t.Ledger.Load(ctx); {
		case err == nil && t.isTaken(now, seen):
			return checkpoint.Checkpoint{}, takenError(now)
		case err != nil && ctx.Err() != nil:
			return checkpoint.Checkpoint{}, err
		} // any other error comes again after the fence
	}
	if err := t.Ledger.Fence(ctx); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	cp, err := t.acquire(ctx, t.place(), seen)
	if err == nil {
		t.Guard.acquired(ctx, &t.Ownership, t.Ledger, cp)
	}
	return cp, err
}

// Verify implements Target.
func (t *ExactlyOnce) Verify(ctx context.Context) error {
	return t.Guard.examine(ctx, &t.Ownership, t.Ledger, t.Ledger.Load)
}

// Made records topics that Ledger has made for its messages: see sink.TopicMaker.
func (t *ExactlyOnce) Made(ctx context.Context, topics []string) error {
	return t.Guard.made(ctx, &t.Ownership, t.Ledger, topics)
}

// Ping implements Target.
func (t *ExactlyOnce) Ping(ctx context.Context) error { return t.Ledger.Ping(ctx) }

// prepare makes the topics ready. If they were ready once, and it cannot be found out within
// Patience whether they still are, the next batch tells.
func (t *ExactlyOnce) prepare(ctx context.Context) error {
	if !t.prepared || t.Patience <= 0 {
		err := t.Ledger.Prepare(ctx, t.Topics)
		t.prepared = t.prepared || err == nil
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, t.Patience)
	defer cancel()
	err := t.Ledger.Prepare(bounded, t.Topics)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}

// Append implements Target. It is the only place that acknowledges an event of an exactly_once
// lane.
func (t *ExactlyOnce) Append(ctx context.Context, prev checkpoint.Checkpoint, batch []sink.Message, next checkpoint.Position) (checkpoint.Checkpoint, error) {
	stage := StageAtomic
	if len(batch) == 0 {
		stage = StageCommit
	}
	t.Guard.using(ctx, batch)
	storing, stored := t.begin(ctx, stage, batch, next)
	// P1: the position moves in the same act that stores the events.
	cp, err := t.Ledger.Commit(storing, batch, prev, moved(prev, batch, next))
	stored(err)
	if err != nil {
		return prev, err
	}
	t.Guard.moved(ctx, cp, batch)
	return cp, nil
}

// Release implements Target.
func (t *ExactlyOnce) Release(ctx context.Context) error {
	return t.release(ctx, t.place())
}

// ErrOrigin means that a lane could not find out where to begin at its first start. It has a method
// OperatorAction() string.
var ErrOrigin = operator.New("cannot find where to start", "correct source.start, or say where to begin")

// Ownership says whose a position is and how a process acquires it: the part that does not depend
// on the place that keeps the position.
type Ownership struct {
	Topics   []string            // every topic that the lane can publish to, the dead letter included
	Identity checkpoint.Identity // whose the position is
	Holder   string              // this process
	Events   []string            // the current filter, sorted
	// Origin returns where the lane begins. It is called once, at the first start.
	Origin func(ctx context.Context) (checkpoint.Position, error)
	// StateFromStart is recorded in the checkpoint of a first start.
	StateFromStart bool
	// Newest returns the newest event of the lane that the destination holds, for the question
	// where to go on; nil if it finds none. It is called if there is no position although the
	// destination holds messages. A nil Newest finds none.
	Newest func(ctx context.Context) *FoundEvent
	Guard  *Guard // remembers the destination; nil for not at all
	Logger *zap.Logger

	observer Observer // nil observes nothing
}

// Observe implements Target.
func (o *Ownership) Observe(observer Observer) { o.observer = observer }

// Flush implements Target.
func (o *Ownership) Flush(ctx context.Context) { o.Guard.flush(ctx) }

// begin tells the observer, if there is one, of a stage.
func (o *Ownership) begin(ctx context.Context, s Stage, batch []sink.Message, next checkpoint.Position) (context.Context, func(error)) {
	if o.observer == nil {
		return ctx, func(error) {}
	}
	return o.observer.BeginStage(ctx, s, batch, next)
}

// place is where a mode of delivery keeps the position, and the bus whose position it is.
type place struct {
	mode  checkpoint.Mode
	store checkpoint.Store
	dest  sink.Destination
}

// load reads the position and claims nothing.
func (o *Ownership) load(ctx context.Context, at place) (checkpoint.Checkpoint, error) {
	cp, err := at.store.Load(ctx)
	if errors.Is(err, checkpoint.ErrNotFound) || errors.Is(err, checkpoint.ErrLost) {
		cp, err = o.missingPosition(ctx, at, err)
	}
	switch {
	case err != nil:
		return cp, err
	case cp.Mode != at.mode:
		return cp, &checkpoint.ForeignError{Field: "delivery mode", Want: string(at.mode), Have: string(cp.Mode)}
	}
	o.Guard.watches(ctx, o, at.dest, cp)
	return cp, nil
}

// missingPosition returns checkpoint.ErrNotFound if there is no position because this is a first
// start, and an error that matches checkpoint.ErrLost if there was one before. A bus that was
// starting may have a position by now.
func (o *Ownership) missingPosition(ctx context.Context, at place, missing error) (checkpoint.Checkpoint, error) {
	known, err := o.Guard.recall(ctx, o.Identity)
	if err == nil && known != nil {
		err = o.Guard.examine(ctx, o, at.dest, nil)
	}
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	if known == nil && errors.Is(missing, checkpoint.ErrLost) {
		return checkpoint.Checkpoint{}, missing
	}
	if known == nil {
		return o.firstStart(ctx, at, missing)
	}
	cp, err := at.store.Load(ctx)
	if errors.Is(err, checkpoint.ErrNotFound) {
		err = o.Guard.forgotten(ctx, o, err)
	}
	return cp, err
}

// firstStart returns notFound at a first start, and checkpoint.ErrLost if the position went
// missing. The messages of the destination may also be from another relay that has started in
// between: then there is a position now.
func (o *Ownership) firstStart(ctx context.Context, at place, notFound error) (checkpoint.Checkpoint, error) {
	holds, err := at.dest.Holds(ctx, o.Topics)
	if err != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("asking %s whether it already holds events: %w", o.Identity.Destination, err)
	}
	if !holds {
		return checkpoint.Checkpoint{}, notFound
	}
	// P3: no position although messages are there is not a first start.
	cp, err := at.store.Load(ctx)
	if errors.Is(err, checkpoint.ErrNotFound) { // the error must not match that any more
		held := &HeldError{Lane: o.Identity.Lane, Destination: o.Identity.Destination, Reason: err.Error()}
		if o.Newest != nil {
			held.Newest = o.Newest(ctx)
		}
		err = held
	}
	return cp, err
}

// HeldError says that a lane has no position, although its destination already holds messages, so
// that this is not a first start. It matches checkpoint.ErrLost.
type HeldError struct {
	Lane        string
	Destination string
	Reason      string      // says that there is no position
	Newest      *FoundEvent // the newest event of the lane that was found in the destination; nil if none was
}

// FoundEvent is an event that a destination holds. Events before it may be missing there.
type FoundEvent struct {
	ID, Type  string
	CreatedAt time.Time
}

// Error implements error.
func (e *HeldError) Error() string {
	return fmt.Sprintf("%v: %s, but %s already holds messages on the topics of lane %s, so this is not a first start; %s",
		checkpoint.ErrLost, e.Reason, e.Destination, e.Lane, e.OperatorAction())
}

// Is makes errors.Is(err, checkpoint.ErrLost) hold.
func (*HeldError) Is(target error) bool { return target == checkpoint.ErrLost }

// OperatorAction says what an operator has to do.
func (*HeldError) OperatorAction() string { return "say where to go on" }

// acquire makes this process the holder. At a first start the position is the origin.
func (o *Ownership) acquire(ctx context.Context, at place, seen *checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	cp, err := o.tryAcquire(ctx, at, seen)
	if err == nil && o.observer != nil {
		o.observer.Acquired()
	}
	return cp, err
}

// isTaken reports whether another process has taken or moved the position since this one saw it.
func (o *Ownership) isTaken(now checkpoint.Checkpoint, seen *checkpoint.Checkpoint) bool {
	return seen != nil && now.Holder != o.Holder && !now.Released && now.Revision != seen.Revision
}

// errTaken matches checkpoint.ErrConflict too.
var errTaken = fmt.Errorf("%w: it was taken or moved between the look at it and the claim", checkpoint.ErrConflict)

func takenError(cp checkpoint.Checkpoint) error {
	return fmt.Errorf("%w, by holder %s", errTaken, printable.Text(cp.Holder))
}

func (o *Ownership) tryAcquire(ctx context.Context, at place, seen *checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	cp, err := o.load(ctx, at)
	if errors.Is(err, checkpoint.ErrNotFound) {
		return o.commitOrigin(ctx, at)
	}
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	if o.isTaken(cp, seen) {
		return checkpoint.Checkpoint{}, takenError(cp)
	}
	if cp.Holder == o.Holder && !cp.Released && slices.Equal(cp.Events, o.Events) && cp.Source == o.Identity {
		return cp, nil
	}
	o.logChangedFilter(cp)
	next := cp.Asking(o.Events)
	next.Holder, next.Released = o.Holder, false
	next.Source = o.Identity // an earlier version may have named the destination less exactly
	next.Generation++
	next.UpdatedAt = time.Now().UTC()
	return at.store.Commit(ctx, cp, next)
}

func (o *Ownership) commitOrigin(ctx context.Context, at place) (checkpoint.Checkpoint, error) {
	origin, err := o.Origin(ctx)
	if err != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("%w: %w", ErrOrigin, err)
	}
	o.Logger.Info("first start: no checkpoint yet, and the destination holds nothing", zap.Stringer("start", origin))
	return at.store.Commit(ctx, checkpoint.Checkpoint{}, checkpoint.Checkpoint{
		Position:   origin,
		Generation: 1,
		Holder:     o.Holder,
		Source:     o.Identity,
		Mode:       at.mode,
		Events:     o.Events,
		UpdatedAt:  time.Now().UTC(),

		StateFromStart: o.StateFromStart,
	})
}

// logChangedFilter logs what a changed event filter means: types that were added start here.
func (o *Ownership) logChangedFilter(cp checkpoint.Checkpoint) {
	if len(cp.Events) == 0 || slices.Equal(cp.Events, o.Events) {
		return
	}
	added := difference(o.Events, cp.Events)
	fields := []zap.Field{zap.Strings("added", added), zap.Strings("removed", difference(cp.Events, o.Events))}
	if len(added) > 0 {
		fields = append(fields, zap.String("earlier_events_with", replayCommand(added, cp.Position)))
	}
	o.Logger.Warn("the event filter differs from the one that the checkpoint was made with; added types start at the checkpoint", fields...)
}

func replayCommand(types []string, until checkpoint.Position) string {
	s := "relay replay --since TIME"
	if !until.CreatedAt.IsZero() {
		s += " --until " + until.CreatedAt.UTC().Format(time.RFC3339Nano)
	}
	return s + " --events " + strings.Join(types, ",")
}

// difference returns the elements of a that are not in b. Both are sorted.
func difference(a, b []string) []string {
	var out []string
	for _, s := range a {
		if _, found := slices.BinarySearch(b, s); !found {
			out = append(out, s)
		}
	}
	return out
}

// moved returns prev at another position, by the same holder, after the messages of batch were
// published.
func moved(prev checkpoint.Checkpoint, batch []sink.Message, to checkpoint.Position) checkpoint.Checkpoint {
	next := prev.Moved(to, sink.Passed(batch))
	next.UpdatedAt = time.Now().UTC()
	return next
}

// release marks the position as released if it still belongs to this process.
func (o *Ownership) release(ctx context.Context, at place) error {
	defer o.Guard.released(ctx, o, at.dest) // also if the destination is gone
	cp, err := at.store.Load(ctx)
	if err != nil {
		return fmt.Errorf("releasing the checkpoint: %w", err)
	}
	if cp.Holder != o.Holder || cp.Released {
		return nil
	}
	next := moved(cp, nil, cp.Position)
	next.Released = true
	if _, err := at.store.Commit(ctx, cp, next); err != nil {
		return fmt.Errorf("releasing the checkpoint: %w", err)
	}
	return nil
}
