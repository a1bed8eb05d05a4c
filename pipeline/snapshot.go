package pipeline

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/batch"
	"workos-relay/internal/contain"
	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/state"
)

// Snapshotter reads the objects that the source has now, for a lane that keeps them in state
// topics. Only the goroutine of Lane.Run, and one that it starts and waits for, use it.
type Snapshotter interface {
	// Due reports whether the lane has to read a snapshot, or the rest of one, before it carries
	// events from cp.
	Due(cp checkpoint.Checkpoint) bool
	// Read yields what a snapshot finds, from where cp.Snapshot says, or from the beginning of a
	// new one. It retries inside, and an error that it yields is final. The Snapshot of the last
	// portion is finished. Breaking out of the loop cancels requests in flight and waits for them.
	Read(ctx context.Context, cp checkpoint.Checkpoint) iter.Seq2[SnapshotPortion, error]
	// Begin is called before the lane carries events from cp, for which no snapshot is due.
	//
	// Errors of Read and Begin are those of the source, unless a *StateError says otherwise.
	Begin(ctx context.Context, cp checkpoint.Checkpoint) error
	// Admit reports whether a change that an event makes may be published. The lane asks between
	// Begin and the next Read, before it makes the message of the change, and again if it makes the
	// batch again.
	Admit(e *source.Event, c *state.Change) bool
	// Withdraw is called when another holder has the lease: what an operator has asked of this lane
	// must not be done later, when nobody expects it any more.
	Withdraw()
}

// SnapshotPortion is a part of a snapshot.
type SnapshotPortion struct {
	// Messages set or remove objects. The order of those with the same key counts. Publishing them
	// twice does no harm.
	Messages []sink.Message
	// Snapshot is what the checkpoint records once the messages are durable.
	Snapshot *checkpoint.Snapshot
}

// StateError says that the state that the bus has could not be read, for a snapshot.
type StateError struct {
	Entity string
	Err    error
}

// Error implements error.
func (e *StateError) Error() string {
	return fmt.Sprintf("read the state of %s back: %v", e.Entity, e.Err)
}

// Unwrap returns the cause.
func (e *StateError) Unwrap() error { return e.Err }

// errSnapshotEnded says that a Snapshotter yielded nothing more and did not finish.
var errSnapshotEnded = errors.New("the snapshot ended before its end")

// snapshot publishes the snapshot that is due, if one is, and returns the current checkpoint. The
// position does not move meanwhile. Each Append records how far the snapshot has come, so that it
// continues there after it was ended.
func (c *carrier) snapshot(ctx, work context.Context, cp checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	if c.snapshots == nil || !c.snapshots.Due(cp) {
		return cp, nil
	}
	c.status.claimed(cp)
	c.skipped = nil
	r := startSnapshotReader(ctx, c.snapshots, cp)
	defer r.stop()
	alive, check := c.lease.newRenewal(), newVerification(c.target, c.steering)
	touch := c.newContact(alive)
	for c.snapshots.Due(cp) {
		steered := c.steering.wait()
		if c.steering.asked() {
			return cp, errSteered
		}
		before := cp.Revision
		p, err := r.next(ctx, touch.within(check.within(alive.due())), steered)
		switch {
		case err == nil:
			cp, err = c.publish(ctx, work, cp, &p, alive)
		case errors.Is(err, errIdle):
			err = nil
		}
		if err != nil {
			return cp, err
		}
		if cp.Revision != before {
			touch.made()
		} else if alive.isDue() {
			if cp, err = c.lease.renew(ctx, work, cp, alive); err != nil {
				return cp, err
			}
		}
		if err := check.verify(ctx); err != nil {
			return cp, err
		}
		touch.keep(ctx)
		c.recovered()
	}
	if s := cp.Snapshot; s.Finished() {
		sum := s.Total()
		c.logger.Info("snapshot: finished; events follow", zap.String("run", s.Run), zap.Uint64("objects", sum.Objects), zap.Uint64("removed", sum.Removed),
			zap.Uint64("dropped", sum.Dropped), zap.Uint64("skipped", sum.Skipped), zap.Duration("took", s.FinishedAt.Sub(s.StartedAt).Round(time.Second)))
	}
	return cp, nil
}

// beginEvents prepares the Snapshotter for events from cp, and returns the current checkpoint. That
// may take long after a restart: the lane renews its lease meanwhile, and can be steered.
func (c *carrier) beginEvents(ctx, work context.Context, cp checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	if c.snapshots == nil {
		return cp, nil
	}
	reading, cancel := context.WithCancel(ctx)
	begun := make(chan error, 1)
	from := cp
	go func() { begun <- contain.Do(func() error { return c.snapshots.Begin(reading, from) }) }()
	wait := func() error { cancel(); return <-begun }
	defer cancel()
	alive := c.lease.newRenewal()
	for {
		steered := c.steering.wait()
		if c.steering.asked() {
			_ = wait() // it was ended
			return cp, errSteered
		}
		var due <-chan time.Time
		if d := alive.due(); d > 0 {
			due = time.After(d)
		}
		select {
		case err := <-begun:
			return cp, err
		case <-steered:
		case <-due:
			var err error
			if cp, err = c.lease.renew(ctx, work, cp, alive); err != nil {
				_ = wait() // it was ended
				return cp, err
			}
		}
	}
}

// publish appends a portion of a snapshot until all of it is committed. Like deliver it asks the
// Target after a failure what is in effect, renews the lease while the bus refuses the messages,
// and starts no further attempt if the lane is being steered. A portion that the bus does not take
// as a whole is divided. The last part alone records how far the snapshot has come: what is
// published and not recorded is published again after a restart.
func (c *carrier) publish(ctx, work context.Context, cp checkpoint.Checkpoint, p *SnapshotPortion, alive *renewal) (checkpoint.Checkpoint, error) {
	wait := batch.Backoff()
	messages, recorded, failures := p.Messages, without(p.Snapshot, c.skipped), 0
	for fresh := true; ; {
		if c.steering.asked() {
			return cp, errSteered
		}
		part := c.partOf(messages)
		if fresh {
			c.nameBatch(part)
		}
		next, last := cp, len(part) == len(messages)
		if last {
			next.Snapshot = recorded
		}
		now, _, failure := c.attempt(work, next, part, cp.Position, alive)
		if failure == nil {
			c.snapshotPart *= 2
			if messages = messages[len(part):]; c.snapshotPart > len(p.Messages) {
				c.snapshotPart = 0
			}
			cp, fresh, failures = now, true, 0
			alive.done()
			wait.Reset()
			c.status.snapshotted(cp)
			if last {
				return cp, nil
			}
			continue
		}
		var rejected *sink.RejectedError
		var fatal *sink.FatalError
		skips := errors.As(failure, &rejected) && !errors.As(failure, &fatal) && !c.mustStop(failure)
		var until time.Time
		if !skips && !c.mustStop(failure) {
			until = c.backOff(ctx, failure, wait.Next(), alive)
		}
		if ctx.Err() != nil {
			return cp, ctx.Err()
		}
		now, err := c.lease.claim(ctx, false)
		switch {
		case c.mustStop(failure):
			return cp, errors.Join(failure, err)
		case err != nil:
			return cp, err
		case !now.Equal(cp.Position), !now.Snapshot.Equal(cp.Snapshot) && !now.Snapshot.Equal(next.Snapshot):
			return now, errMoved
		}
		c.status.reloaded(now)
		if now.Revision != cp.Revision {
			alive.done()
		}
		stored := last && now.Snapshot.Equal(recorded) && !cp.Snapshot.Equal(recorded)
		cp = now
		if stored {
			return cp, nil
		}
		if skips {
			n := min(sink.Durable(failure, len(part)), len(part)-1)
			if err := c.skip(p.Snapshot.Entity, &part[n], rejected); err != nil {
				return cp, err
			}
			recorded = without(p.Snapshot, c.skipped)
			messages, fresh = append(messages[:n:n], messages[n+1:]...), true
			continue
		}
		failures++
		var refused *sink.PublishError // a commit that fails alone says nothing about the size
		if maySize := c.target.Shared() || errors.As(failure, &refused); len(part) > 1 && (errors.Is(failure, sink.ErrTimeout) || failures > 1 && maySize) {
			c.snapshotPart, fresh = max(1, len(part)/2), true
		} else {
			fresh = false
		}
		if cp, err = c.lease.waitToRetry(ctx, work, cp, until, alive); err != nil {
			return cp, err
		}
	}
}

// partOf returns the first of the messages that go into one Append: as many as those of events at
// most, or fewer after the bus has not taken more.
func (c *carrier) partOf(messages []sink.Message) []sink.Message {
	most := c.batches.MaxEvents
	if c.snapshotPart > 0 {
		most = min(most, c.snapshotPart)
	}
	size := 0
	for i := range messages {
		if size += len(messages[i].Body); i > 0 && (i >= most || size > c.batches.MaxBytes) {
			return messages[:i]
		}
	}
	return messages
}

// nameBatch makes the messages of a batch of a snapshot adjacent messages of one event that no
// other batch has, since a Target and a Sink stores and recognizes the messages of an event
// together. A batch that is tried again keeps its name.
func (c *carrier) nameBatch(messages []sink.Message) {
	c.snapshotBatches++
	name := fmt.Sprintf("snapshot %d %d", time.Now().UnixNano(), c.snapshotBatches)
	for i := range messages {
		messages[i].Position, messages[i].Snapshot = checkpoint.Position{EventID: name}, true
	}
}

// skip leaves out an object that the bus can never take. Without a dead letter topic it returns a
// *SnapshotStopError: the lane stops, as it does at such an event.
func (c *carrier) skip(entity string, m *sink.Message, why *sink.RejectedError) error {
	if !c.batches.Park {
		return &SnapshotStopError{Lane: c.lane, Topic: m.Topic, Key: string(m.Key), Err: why}
	}
	c.logger.Error("an object of the snapshot cannot be published and is left out of its state topic",
		zap.String("topic", m.Topic), zap.ByteString("key", m.Key), zap.Error(why))
	left := checkpoint.SnapshotCount{Entity: entity, Objects: 1}
	if m.Body == nil {
		left.Objects, left.Removed = 0, 1
	}
	c.skipped = (&checkpoint.Snapshot{Counts: c.skipped}).Add(left)
	return nil
}

// without returns s with what the lane has skipped since reading began, which the reader of the
// snapshot counts as published or removed.
func without(s *checkpoint.Snapshot, skipped []checkpoint.SnapshotCount) *checkpoint.Snapshot {
	if len(skipped) == 0 {
		return s
	}
	next := *s
	next.Counts = slices.Clone(s.Counts)
	for _, n := range skipped {
		for i := range next.Counts {
			if c := &next.Counts[i]; c.Entity == n.Entity {
				c.Objects, c.Removed, c.Skipped = c.Objects-min(n.Objects, c.Objects), c.Removed-min(n.Removed, c.Removed), c.Skipped+n.Objects+n.Removed
			}
		}
	}
	return &next
}

// SnapshotStopError says that a lane has stopped at an object of a snapshot that can never be
// published.
type SnapshotStopError struct {
	Lane       string // as Lane.Name
	Topic, Key string // of the object
	Err        error
}

// Error implements error.
func (e *SnapshotStopError) Error() string {
	return fmt.Sprintf("stopped at object %s of the snapshot: %v; %s", e.Key, e.Err, e.OperatorAction())
}

// OperatorAction says what an operator has to do.
func (*SnapshotStopError) OperatorAction() string {
	return "raise the limit, leave the entity out of state.entities, or configure a dead letter topic, with which such objects are left out"
}

// Unwrap returns the cause.
func (e *SnapshotStopError) Unwrap() error { return e.Err }

// snapshotReader reads one portion of a snapshot ahead of the lane.
type snapshotReader struct {
	cancel   context.CancelFunc
	done     chan struct{}
	portions chan SnapshotPortion
	err      error // why there are no more portions; set before portions is closed
}

// startSnapshotReader starts a reader of the snapshot that is due. The caller must call stop, which
// waits for it.
func startSnapshotReader(ctx context.Context, s Snapshotter, cp checkpoint.Checkpoint) *snapshotReader {
	ctx, cancel := context.WithCancel(ctx)
	r := &snapshotReader{cancel: cancel, done: make(chan struct{}), portions: make(chan SnapshotPortion)}
	go func() {
		defer close(r.done)
		defer close(r.portions)
		r.err = contain.Do(func() error { return r.run(ctx, s, cp) })
	}()
	return r
}

func (r *snapshotReader) run(ctx context.Context, s Snapshotter, cp checkpoint.Checkpoint) error {
	for p, err := range s.Read(ctx, cp) {
		if err != nil {
			return err
		}
		select {
		case r.portions <- p:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errSnapshotEnded
}

// next returns the next portion. It waits at most idle, if that is not zero, and then returns
// errIdle. If steered is closed it returns errSteered. After the last portion it returns the error
// that ended the snapshot.
func (r *snapshotReader) next(ctx context.Context, idle time.Duration, steered <-chan struct{}) (SnapshotPortion, error) {
	waited := make(<-chan time.Time)
	if idle > 0 {
		t := time.NewTimer(idle)
		defer t.Stop()
		waited = t.C
	}
	select {
	case p, ok := <-r.portions:
		if !ok {
			return p, r.err
		}
		return p, nil
	case <-waited:
		return SnapshotPortion{}, errIdle
	case <-steered:
		return SnapshotPortion{}, errSteered
	case <-ctx.Done():
		return SnapshotPortion{}, ctx.Err()
	}
}

func (r *snapshotReader) stop() {
	r.cancel()
	<-r.done
}
