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
	"workos-relay/sink"
)

// ErrOrigin means that it could not be found out, at a first start, where the lane begins.
var ErrOrigin = errors.New("cannot find where to start")

// Bus is all of a sink: how to publish, and what to ask before.
type Bus interface {
	sink.Sink
	sink.Destination
}

// AtLeastOnce is the Target that publishes through a Sink and then commits to a Store. After a crash between the two, what was
// published and not yet committed is published again: at most one Append.
type AtLeastOnce struct {
	Sink     Bus
	Store    checkpoint.Store
	Topics   []string            // every topic that the lane can publish to, the dead letter included
	Identity checkpoint.Identity // whose the position is
	Holder   string              // this process
	Events   []string            // the filter in force, sorted
	// Origin is asked once, at a first start: where the lane begins.
	Origin func(ctx context.Context) (checkpoint.Position, error)
	Logger *zap.Logger

	// uncommitted holds the event ids at the head of the next batch that are durable although their commit failed. They are not
	// published again: a full disk must not fill the bus with copies.
	uncommitted map[string]struct{}
}

// Load implements Target.
func (t *AtLeastOnce) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	cp, err := t.Store.Load(ctx)
	switch {
	case errors.Is(err, checkpoint.ErrNotFound):
		return cp, t.firstStart(ctx, err)
	case err != nil:
		return cp, err
	case cp.Mode != checkpoint.AtLeastOnce:
		return cp, &checkpoint.ForeignError{Field: "delivery mode", Want: string(checkpoint.AtLeastOnce), Have: string(cp.Mode)}
	}
	return cp, nil
}

// firstStart tells a first start, which it reports as notFound, from a position that went missing.
func (t *AtLeastOnce) firstStart(ctx context.Context, notFound error) error {
	holds, err := t.Sink.Holds(ctx, t.Topics)
	if err != nil {
		return fmt.Errorf("asking %s whether it already holds events: %w", t.Identity.Destination, err)
	}
	if holds {
		return fmt.Errorf("%w: %v, but %s already holds messages on the topics of lane %s, so this is no first start; "+
			"say where to go on with `relay checkpoint set`", checkpoint.ErrLost, notFound, //nolint:errorlint // it must not match ErrNotFound
			t.Identity.Destination, t.Identity.Lane)
	}
	return notFound
}

// Acquire implements Target.
func (t *AtLeastOnce) Acquire(ctx context.Context) (checkpoint.Checkpoint, error) {
	if err := t.Sink.Prepare(ctx, t.Topics); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	cp, err := t.Load(ctx)
	if errors.Is(err, checkpoint.ErrNotFound) {
		return t.commitOrigin(ctx)
	}
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	if cp.Holder == t.Holder && !cp.Released && slices.Equal(cp.Events, t.Events) {
		return cp, nil
	}
	t.logChangedFilter(cp)
	next := cp
	next.Holder, next.Released, next.Events = t.Holder, false, t.Events
	next.Generation++
	next.UpdatedAt = time.Now().UTC()
	return t.Store.Commit(ctx, cp, next)
}

func (t *AtLeastOnce) commitOrigin(ctx context.Context) (checkpoint.Checkpoint, error) {
	origin, err := t.Origin(ctx)
	if err != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("%w: %w", ErrOrigin, err)
	}
	t.Logger.Info("first start: no checkpoint yet, and the destination holds nothing", zap.Stringer("start", origin))
	return t.Store.Commit(ctx, checkpoint.Checkpoint{}, checkpoint.Checkpoint{
		Position:   origin,
		Generation: 1,
		Holder:     t.Holder,
		Source:     t.Identity,
		Mode:       checkpoint.AtLeastOnce,
		Events:     t.Events,
		UpdatedAt:  time.Now().UTC(),
	})
}

// logChangedFilter says what a changed event filter means: types that were added start here, and their earlier events are
// fetched by a replay.
func (t *AtLeastOnce) logChangedFilter(cp checkpoint.Checkpoint) {
	if len(cp.Events) == 0 || slices.Equal(cp.Events, t.Events) {
		return
	}
	added := difference(t.Events, cp.Events)
	fields := []zap.Field{zap.Strings("added", added), zap.Strings("removed", difference(cp.Events, t.Events))}
	if len(added) > 0 {
		fields = append(fields, zap.String("earlier_events_with", replayCommand(added, cp.Position)))
	}
	t.Logger.Warn("the event filter differs from the one that the checkpoint was made with; added types start at the checkpoint", fields...)
}

func replayCommand(types []string, until checkpoint.Position) string {
	s := "relay replay --since TIME"
	if !until.CreatedAt.IsZero() {
		s += " --until " + until.CreatedAt.UTC().Format(time.RFC3339)
	}
	return s + " --events " + strings.Join(types, ",")
}

// difference returns what of a is not in b; both are sorted.
func difference(a, b []string) []string {
	var out []string
	for _, s := range a {
		if _, found := slices.BinarySearch(b, s); !found {
			out = append(out, s)
		}
	}
	return out
}

// Append implements Target. This is the one place where an event of an at_least_once lane is acknowledged.
func (t *AtLeastOnce) Append(ctx context.Context, prev checkpoint.Checkpoint, batch []sink.Message, next checkpoint.Position) (checkpoint.Checkpoint, error) {
	err := t.publish(ctx, batch, t.alreadyDurable(batch))
	durable := wholeEvents(batch, sink.Durable(err, len(batch)))
	if err != nil && durable == 0 {
		return prev, err
	}
	to := next
	if err != nil {
		to = batch[durable-1].Position
	}
	cp, commitErr := t.commit(ctx, prev, to)
	if commitErr != nil {
		t.remember(batch[:durable])
		return prev, errors.Join(fmt.Errorf("committing the checkpoint at %s: %w", to, commitErr), err)
	}
	t.uncommitted = nil
	return cp, err
}

// publish sends batch[already:], and speaks of the whole batch in its error.
func (t *AtLeastOnce) publish(ctx context.Context, batch []sink.Message, already int) error {
	if already == len(batch) {
		return nil
	}
	err := t.Sink.Publish(ctx, batch[already:])
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

func (t *AtLeastOnce) commit(ctx context.Context, prev checkpoint.Checkpoint, to checkpoint.Position) (checkpoint.Checkpoint, error) {
	next := prev
	next.Position = to
	next.UpdatedAt = time.Now().UTC()
	return t.Store.Commit(ctx, prev, next)
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

func (t *AtLeastOnce) remember(durable []sink.Message) {
	t.uncommitted = make(map[string]struct{}, len(durable))
	for _, m := range durable {
		t.uncommitted[m.Position.EventID] = struct{}{}
	}
}

// wholeEvents returns how many of the first n messages belong to events whose messages are all among them.
func wholeEvents(batch []sink.Message, n int) int {
	if n == len(batch) {
		return n
	}
	for n > 0 && batch[n-1].Position.EventID == batch[n].Position.EventID {
		n--
	}
	return n
}

// Release implements Target.
func (t *AtLeastOnce) Release(ctx context.Context) error {
	cp, err := t.Store.Load(ctx)
	if err != nil {
		return fmt.Errorf("releasing the checkpoint: %w", err)
	}
	if cp.Holder != t.Holder || cp.Released {
		return nil
	}
	next := cp
	next.Released = true
	next.UpdatedAt = time.Now().UTC()
	if _, err := t.Store.Commit(ctx, cp, next); err != nil {
		return fmt.Errorf("releasing the checkpoint: %w", err)
	}
	return nil
}
