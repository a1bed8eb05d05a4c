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
	"workos-relay/sink"
)

// ErrOrigin means that a lane could not find out where to begin at its first start. It has a method
// OperatorAction() string.
var ErrOrigin = operator.New("cannot find where to start", "correct source.start, or say where to begin")

// Ownership is whose a position is, and how a process acquires it: the part that is the same
// wherever the position is kept.
type Ownership struct {
	Topics   []string            // every topic that the lane can publish to, the dead letter included
	Identity checkpoint.Identity // whose the position is
	Holder   string              // this process
	Events   []string            // the current filter, sorted
	// Origin returns where the lane begins. It is called once, at the first start.
	Origin func(ctx context.Context) (checkpoint.Position, error)
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

// holder reports whether the destination already holds messages. It is the part of sink.Destination
// that is needed here.
type holder interface {
	Holds(ctx context.Context, topics []string) (bool, error)
}

// load reads the position and claims nothing.
func (o *Ownership) load(ctx context.Context, mode checkpoint.Mode, store checkpoint.Store, dest holder) (checkpoint.Checkpoint, error) {
	cp, err := store.Load(ctx)
	if errors.Is(err, checkpoint.ErrNotFound) || errors.Is(err, checkpoint.ErrLost) {
		cp, err = o.missing(ctx, store, dest, err)
	}
	switch {
	case err != nil:
		return cp, err
	case cp.Mode != mode:
		return cp, &checkpoint.ForeignError{Field: "delivery mode", Want: string(mode), Have: string(cp.Mode)}
	}
	o.Guard.watches(ctx, o, dest, cp)
	return cp, nil
}

// missing returns checkpoint.ErrNotFound if there is no position because this is a first start, and
// an error that matches checkpoint.ErrLost if there was one before. A bus that was starting may
// have a position by now.
func (o *Ownership) missing(ctx context.Context, store checkpoint.Store, dest holder, missing error) (checkpoint.Checkpoint, error) {
	known, err := o.Guard.recall(ctx, o.Identity)
	if err == nil && known != nil {
		err = o.Guard.examine(ctx, o, dest, nil)
	}
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	if known == nil && errors.Is(missing, checkpoint.ErrLost) {
		return checkpoint.Checkpoint{}, missing
	}
	if known == nil {
		return o.firstStart(ctx, store, dest, missing)
	}
	cp, err := store.Load(ctx)
	if errors.Is(err, checkpoint.ErrNotFound) {
		err = o.Guard.forgotten(ctx, o, err)
	}
	return cp, err
}

// firstStart returns notFound at a first start, and checkpoint.ErrLost if the position went
// missing. The messages of the destination may also be from another relay that has started in
// between: then there is a position now.
func (o *Ownership) firstStart(ctx context.Context, store checkpoint.Store, dest holder, notFound error) (checkpoint.Checkpoint, error) {
	holds, err := dest.Holds(ctx, o.Topics)
	if err != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("asking %s whether it already holds events: %w", o.Identity.Destination, err)
	}
	if !holds {
		return checkpoint.Checkpoint{}, notFound
	}
	// P3: no position although messages are there is not a first start.
	cp, err := store.Load(ctx)
	if errors.Is(err, checkpoint.ErrNotFound) { // the error must not match that any more
		err = operator.Require(fmt.Errorf("%w: %s, but %s already holds messages on the topics of lane %s, so this is no first start",
			checkpoint.ErrLost, err.Error(), o.Identity.Destination, o.Identity.Lane), "say where to go on")
	}
	return cp, err
}

// acquire makes this process the holder. At a first start the position is the origin.
func (o *Ownership) acquire(ctx context.Context, mode checkpoint.Mode, store checkpoint.Store, dest holder) (checkpoint.Checkpoint, error) {
	cp, err := o.tryAcquire(ctx, mode, store, dest)
	if err == nil && o.observer != nil {
		o.observer.Acquired()
	}
	return cp, err
}

func (o *Ownership) tryAcquire(ctx context.Context, mode checkpoint.Mode, store checkpoint.Store, dest holder) (checkpoint.Checkpoint, error) {
	cp, err := o.load(ctx, mode, store, dest)
	if errors.Is(err, checkpoint.ErrNotFound) {
		return o.commitOrigin(ctx, mode, store)
	}
	if err != nil {
		return checkpoint.Checkpoint{}, err
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
	return store.Commit(ctx, cp, next)
}

func (o *Ownership) commitOrigin(ctx context.Context, mode checkpoint.Mode, store checkpoint.Store) (checkpoint.Checkpoint, error) {
	origin, err := o.Origin(ctx)
	if err != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("%w: %w", ErrOrigin, err)
	}
	o.Logger.Info("first start: no checkpoint yet, and the destination holds nothing", zap.Stringer("start", origin))
	return store.Commit(ctx, checkpoint.Checkpoint{}, checkpoint.Checkpoint{
		Position:   origin,
		Generation: 1,
		Holder:     o.Holder,
		Source:     o.Identity,
		Mode:       mode,
		Events:     o.Events,
		UpdatedAt:  time.Now().UTC(),
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
	var passed []checkpoint.Position
	for i := range batch {
		if n := len(passed); n == 0 || passed[n-1].EventID != batch[i].Position.EventID {
			passed = append(passed, batch[i].Position)
		}
	}
	next := prev.Moved(to, passed)
	next.UpdatedAt = time.Now().UTC()
	return next
}

// release marks the position as released if it still belongs to this process.
func (o *Ownership) release(ctx context.Context, store checkpoint.Store, dest holder) error {
	defer o.Guard.released(ctx, o, dest) // also if the destination is gone
	cp, err := store.Load(ctx)
	if err != nil {
		return fmt.Errorf("releasing the checkpoint: %w", err)
	}
	if cp.Holder != o.Holder || cp.Released {
		return nil
	}
	next := moved(cp, nil, cp.Position)
	next.Released = true
	if _, err := store.Commit(ctx, cp, next); err != nil {
		return fmt.Errorf("releasing the checkpoint: %w", err)
	}
	return nil
}
