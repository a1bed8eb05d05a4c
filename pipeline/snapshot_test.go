package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"workos-relay/checkpoint"
	"workos-relay/internal/operator"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/state"
)

// shelf is a Snapshotter of n objects, in portions of size. Its record is how many were yielded.
type shelf struct {
	n, size int
	every   time.Duration // before each portion
	fails   func() error  // before each portion; may be nil
	begins  time.Duration // that Begin takes
	begun   []checkpoint.Checkpoint
	yielded int

	withdrawn atomic.Int64 // how often Withdraw was called
}

func (s *shelf) Withdraw() { s.withdrawn.Add(1) }

func (s *shelf) Admit(*source.Event, *state.Change) bool { return true }

func (s *shelf) Due(cp checkpoint.Checkpoint) bool { return !cp.Snapshot.Finished() }

func (s *shelf) Begin(ctx context.Context, cp checkpoint.Checkpoint) error {
	s.begun = append(s.begun, cp)
	select {
	case <-time.After(s.begins):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *shelf) Read(ctx context.Context, cp checkpoint.Checkpoint) iter.Seq2[pipeline.SnapshotPortion, error] {
	return func(yield func(pipeline.SnapshotPortion, error) bool) {
		record := checkpoint.Snapshot{Run: "run_1", Entities: []string{"user"}, Entity: "user", StartedAt: sourceNow}
		if cp.Snapshot != nil {
			record = *cp.Snapshot
		}
		for at := int(record.Count("user").Objects); !record.Finished(); { //nolint:gosec // small
			select {
			case <-time.After(s.every):
			case <-ctx.Done():
				yield(pipeline.SnapshotPortion{}, ctx.Err())
				return
			}
			if s.fails != nil {
				if err := s.fails(); err != nil {
					yield(pipeline.SnapshotPortion{}, err)
					return
				}
			}
			n := min(s.size, s.n-at)
			next := record
			next.Counts = record.Add(checkpoint.SnapshotCount{Entity: "user", Objects: uint64(n)}) //nolint:gosec // small
			if n == 0 {
				next.FinishedAt = sourceNow
			}
			p := pipeline.SnapshotPortion{Snapshot: &next}
			for i := range n {
				p.Messages = append(p.Messages, sink.Message{Topic: "state.user", Key: []byte(object(at + i)), Body: []byte("{}")})
			}
			if at, record = at+n, next; !yield(p, nil) {
				return
			}
			s.yielded++
		}
	}
}

func object(i int) string { return fmt.Sprintf("user_%06d", i) }

// requireSnapshot requires that every object was stored, before the first event, and that each
// object was first stored in order.
func requireSnapshot(t *testing.T, s *shelf, stored []sink.Message) {
	t.Helper()
	seen, order := map[string]bool{}, []string(nil)
	for _, m := range stored {
		if key := string(m.Key); m.Topic == "state.user" && !seen[key] {
			seen[key] = true
			order = append(order, key)
		}
		if m.Topic == "user.created" {
			require.Len(t, order, s.n, "an event before the end of the snapshot")
		}
	}
	want := make([]string, s.n)
	for i := range want {
		want[i] = object(i)
	}
	require.Equal(t, want, order)
}

// recordKeeper requires of each commit that the snapshot does not get past what is stored.
type recordKeeper struct {
	checkpoint.Store
	t   *testing.T
	bus *scriptedBus
}

func (k *recordKeeper) Commit(ctx context.Context, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	cp, err := k.Store.Commit(ctx, prev, next)
	if err == nil {
		k.bus.mu.Lock()
		defer k.bus.mu.Unlock()
		have := map[string]bool{}
		for _, m := range k.bus.stored {
			have[string(m.Key)] = true
		}
		for i := range int(cp.Snapshot.Count("user").Objects) { //nolint:gosec // small
			require.True(k.t, have[object(i)], "the record has passed an object that is not durable")
		}
		for _, p := range cp.Recent.Events {
			require.NotContains(k.t, p.EventID, "snapshot", "what belongs to no event is not remembered as one")
		}
	}
	return cp, err
}

// TestASnapshotComesBeforeTheEvents: in both modes, after any failure and a stop at any moment, all
// objects are stored before the first event, and the events are all there afterwards.
func TestASnapshotComesBeforeTheEvents(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 16))
			src := newSequence(1+rnd.IntN(60), 1+rnd.IntN(30))
			snapshots := &shelf{n: rnd.IntN(400), size: 1 + rnd.IntN(60), every: time.Duration(rnd.IntN(3000)) * time.Millisecond}
			if rnd.IntN(2) == 0 {
				own := rand.New(rand.NewPCG(seed, 17)) // of the goroutine that reads
				snapshots.fails = func() error {
					if own.IntN(5) == 0 {
						return errors.New("the API does not answer")
					}
					return nil
				}
			}
			bus := &scriptedBus{rnd: rnd, failing: rnd.Float64() * 0.8}
			store := &watchedStore{
				Store: &recordKeeper{Store: checkpoint.NewMemory(testIdentity), t: t, bus: bus}, t: t, bus: bus, src: src, rnd: rnd, failing: rnd.Float64() * 0.5,
			}
			for range 10_000 {
				lane := newLane(src, oneToOne{}, bus, store)
				lane.Snapshots, lane.BatchMessages = snapshots, 1+rnd.IntN(120)
				if rnd.IntN(3) == 0 {
					time.AfterFunc(time.Duration(rnd.IntN(2000))*time.Millisecond, lane.Pause)
					time.AfterFunc(time.Duration(2000+rnd.IntN(2000))*time.Millisecond, lane.Resume)
				}
				require.NoError(t, runFor(t, lane, time.Duration(rnd.IntN(20_000))*time.Millisecond), "seed %d", seed)
				if store.highest == len(src.events) {
					break
				}
			}
			time.Sleep(time.Minute) // timers
			require.Equal(t, len(src.events), store.highest, "seed %d: the backlog was never finished", seed)
			requireSnapshot(t, snapshots, bus.stored)
			var events []sink.Message
			for _, m := range bus.stored {
				if m.Topic == "user.created" {
					events = append(events, m)
				}
			}
			requireSourceOrder(t, src.events, events)
			require.NotEmpty(t, snapshots.begun)
			require.True(t, snapshots.begun[0].Snapshot.Finished())
		})
	}
}

// snapshotTwins runs two lanes with 20 events on one ledger, and with these snapshots; a starts
// first.
func snapshotTwins(t *testing.T, ofA, ofB *shelf) (src *sequence, ledger *memoryLedger, a, b *pipeline.Lane, stopA, stopB func()) {
	t.Helper()
	ledger = &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
	src = newSequence(20, 5)
	a, b = twin("a", src, ledger), twin("b", src, ledger)
	a.Snapshots, b.Snapshots = ofA, ofB
	stopA = run(t, a)
	after(time.Second)
	return src, ledger, a, b, stopA, run(t, b)
}

// TestASnapshotSurvivesATakeover: the lane renews its lease while the API does not answer, a
// standby continues the snapshot of a lane that was stopped, and nothing that was recorded is
// published again.
func TestASnapshotSurvivesATakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &shelf{n: 100, size: 10, every: 3 * takeover}
		src, ledger, a, b, stopA, stopB := snapshotTwins(t, slow, slow)
		after(10 * takeover)
		require.Equal(t, pipeline.Running, a.Status().State)
		require.Equal(t, pipeline.Standby, b.Status().State, "a lane that waits for the API is alive")
		require.Equal(t, uint64(30), a.Status().Checkpoint.Snapshot.Count("user").Objects)

		a.Pause()
		after(time.Second)
		require.Equal(t, pipeline.Paused, a.Status().State)
		a.Resume()
		before, moved, err := a.Move(t.Context(), checkpoint.Position{EventID: src.events[4].ID}, nil)
		require.NoError(t, err)
		require.True(t, before.Snapshot.Equal(moved.Snapshot), "a move leaves the snapshot as it is")

		stopA()
		after(time.Hour)
		require.Equal(t, pipeline.Running, b.Status().State)
		require.True(t, b.Status().Checkpoint.Snapshot.Finished())
		require.Equal(t, src.events[19].ID, b.Status().Checkpoint.EventID)
		stopB()
		requireSnapshot(t, slow, ledger.log)
		objects := 0
		for _, m := range ledger.log {
			if m.Topic == "state.user" {
				require.True(t, m.Snapshot)
				objects++
			}
		}
		require.Equal(t, 100, objects)
	})
}

// TestASnapshotNamesWhatFails: the bus if the state could not be read back, else the source.
func TestASnapshotNamesWhatFails(t *testing.T) {
	for _, test := range []struct {
		err           error
		failing, says string
	}{
		{errors.New("the API does not answer"), pipeline.Reading, "Events API: reading failed"},
		{fmt.Errorf("compare: %w", &pipeline.StateError{Entity: "user", Err: errors.New("no broker")}), pipeline.ReadingBack, "kafka: reading the state back failed"},
	} {
		synctest.Test(t, func(t *testing.T) {
			lane := newLane(newSequence(5, 5), oneToOne{}, &scriptedBus{rnd: fixedRand()}, checkpoint.NewMemory(testIdentity))
			core, logged := observer.New(zap.InfoLevel)
			failed := &failedDoings{}
			lane.Type, lane.Logger, lane.Observer = "kafka", zap.New(core), failed
			lane.Snapshots = &shelf{n: 10, size: 10, fails: func() error { return test.err }}
			stop := run(t, lane)
			after(time.Minute)
			s := lane.Status()
			require.Equal(t, pipeline.Retrying, s.State)
			require.Equal(t, test.failing, s.Failing)
			require.Equal(t, test.failing+": "+test.err.Error(), s.Reason)
			stop()
			require.NotEmpty(t, failed.doings)
			for _, doing := range failed.doings {
				require.Equal(t, test.failing, doing)
			}
			require.Equal(t, 1, logged.FilterMessage(test.says+", will try again").Len())
		})
	}
}

// failedDoings collects what failed, in the goroutine of the lane.
type failedDoings struct {
	pipeline.NopObserver
	doings []string
}

func (f *failedDoings) Retrying(doing string, _ error) { f.doings = append(f.doings, doing) }

// TestAStandbyWithdrawsRequests: what was asked of a lane is not done once another one is active.
func TestAStandbyWithdrawsRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		of := [2]*shelf{{n: 10, size: 10}, {n: 10, size: 10}}
		_, _, _, b, stopA, stopB := snapshotTwins(t, of[0], of[1])
		after(takeover)
		require.Equal(t, pipeline.Standby, b.Status().State)
		require.Zero(t, of[0].withdrawn.Load(), "the active one does what it was asked for")
		require.NotZero(t, of[1].withdrawn.Load())
		stopA()
		stopB()
	})
}

// TestALaneThatReadsItsStateBackIsAlive: it renews its lease meanwhile, and can be paused and
// stopped.
func TestALaneThatReadsItsStateBackIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &shelf{n: 10, size: 10, begins: 10 * takeover}
		src, _, a, b, stopA, stopB := snapshotTwins(t, slow, slow)
		after(8 * takeover)
		require.Equal(t, pipeline.Standby, b.Status().State, "the other one is alive")
		require.Len(t, slow.begun, 1)
		a.Pause()
		after(time.Second)
		require.Equal(t, pipeline.Paused, a.Status().State)
		a.Resume()
		after(20 * takeover)
		require.Equal(t, src.events[19].ID, a.Status().Checkpoint.EventID)
		stopA()
		stopB()
	})
}

// TestAFullDiskMakesNoCopiesOfASnapshot: what is durable is not published again, however often the
// commit fails.
func TestAFullDiskMakesNoCopiesOfASnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(7, 7))
		src, bus := newSequence(5, 5), &scriptedBus{rnd: rnd}
		store := &watchedStore{Store: checkpoint.NewMemory(testIdentity), t: t, bus: bus, src: src, rnd: rnd, failing: 0.7}
		lane := newLane(src, oneToOne{}, bus, store)
		snapshots := &shelf{n: 300, size: 20}
		lane.Snapshots = snapshots
		require.NoError(t, runFor(t, lane, 10*time.Hour))
		requireSnapshot(t, snapshots, bus.stored)
		require.Equal(t, 305, len(bus.stored)) //nolint:testifylint // they are many to print
		require.Equal(t, 5, store.highest)
	})
}

// tightBus takes no more than most messages at once, and never one of refused.
type tightBus struct {
	scriptedBus
	most    int
	refused string
	largest int
}

func (b *tightBus) Publish(ctx context.Context, batch []sink.Message) error {
	for i := range batch {
		if b.refused != "" && string(batch[i].Key) == b.refused {
			return &sink.PublishError{Durable: i, Err: &sink.RejectedError{Topic: batch[i].Topic, Reason: "too large"}}
		}
	}
	if len(batch) > b.most {
		return &sink.PublishError{Err: &sink.TimeoutError{Setting: "ack_timeout", Err: errors.New("too slow")}}
	}
	b.largest = max(b.largest, len(batch))
	return b.scriptedBus.Publish(ctx, batch)
}

func TestASnapshotIsDividedForABusThatTakesLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, bus := newSequence(5, 5), &tightBus{scriptedBus: scriptedBus{rnd: fixedRand()}, most: 7}
		lane := newLane(src, oneToOne{}, bus, checkpoint.NewMemory(testIdentity))
		snapshots := &shelf{n: 100, size: 50}
		lane.Snapshots = snapshots
		require.NoError(t, runFor(t, lane, time.Hour))
		requireSnapshot(t, snapshots, bus.stored)
		require.LessOrEqual(t, bus.largest, 7)
	})
}

// TestAnObjectThatNoBusTakes is left out and counted if events of that kind become dead letters,
// and stops the lane otherwise.
func TestAnObjectThatNoBusTakes(t *testing.T) {
	for _, park := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			src, bus := newSequence(5, 5), &tightBus{scriptedBus: scriptedBus{rnd: fixedRand()}, most: 100, refused: object(13)}
			store := checkpoint.NewMemory(testIdentity)
			lane := newLane(src, oneToOne{}, bus, store)
			lane.Snapshots, lane.Park = &shelf{n: 40, size: 20}, park
			err := runFor(t, lane, time.Hour)
			cp, loadErr := store.Load(t.Context())
			require.NoError(t, loadErr)
			if park {
				require.NoError(t, err)
				require.Equal(t, checkpoint.SnapshotCount{Entity: "user", Objects: 39, Skipped: 1}, cp.Snapshot.Count("user"))
				require.Equal(t, 39+5, bus.count())
				return
			}
			var stop *pipeline.SnapshotStopError
			require.ErrorAs(t, err, &stop)
			require.Equal(t, object(13), stop.Key)
			require.True(t, strings.HasPrefix(operator.Action(err), "raise the limit"), operator.Action(err))
			require.Empty(t, cp.EventID)
			require.False(t, cp.Snapshot.Finished())
		})
	}
}
