package pipeline_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/sink"
)

// after waits in the bubble, and until everything has come to rest.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// TestAPausedLaneKeepsItsPlace: for an hour nothing is read and nothing published, the standby
// stays one, and then it goes on without a gap and without a copy.
func TestAPausedLaneKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
		src := slowSource(120)
		a, b := twin("a", src, ledger), twin("b", src, ledger)
		stopA := run(t, a)
		after(time.Second)
		stopB := run(t, b)
		after(20 * time.Second)
		a.Pause()
		synctest.Wait()
		s := a.Status()
		require.Equal(t, pipeline.Paused, s.State)
		require.Empty(t, s.Reason)
		require.Equal(t, s.Checkpoint.Position, s.Read)
		require.True(t, s.Unacked.IsZero())
		committed, opened, revision := len(ledger.log), src.opened.Load(), s.Checkpoint.Revision

		after(time.Hour)
		require.Equal(t, pipeline.Paused, a.Status().State)
		require.Equal(t, pipeline.Standby, b.Status().State, "a paused holder is alive")
		require.Len(t, ledger.log, committed)
		require.Equal(t, opened, src.opened.Load())
		require.GreaterOrEqual(t, a.Status().Checkpoint.Revision, revision+uint64(time.Hour/takeover), "it renews")

		a.Resume()
		after(5 * time.Minute)
		require.Equal(t, pipeline.Running, a.Status().State)
		stopB()
		stopA()
		requireOnce(t, src, ledger)
	})
}

func TestAPausedStandbyTakesNothingOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
		src := slowSource(60)
		a, b := twin("a", src, ledger), twin("b", src, ledger)
		stopA := run(t, a)
		after(time.Second)
		b.Pause()
		stopB := run(t, b)
		after(10 * time.Second)
		require.Equal(t, pipeline.Paused, b.Status().State)
		require.Equal(t, "holder a is active", b.Status().Reason)
		_, _, err := b.Move(t.Context(), checkpoint.Position{}, nil)
		require.ErrorIs(t, err, pipeline.ErrNotHeld)

		stopA() // in order: the place is free
		after(time.Hour)
		require.Equal(t, pipeline.Paused, b.Status().State)
		require.Equal(t, "holder a has stopped, and this one is paused", b.Status().Reason)
		b.Resume()
		after(2 * time.Minute)
		require.Equal(t, pipeline.Running, b.Status().State)
		stopB()
		requireOnce(t, src, ledger)
	})
}

// TestALaneThatStartsPausedWaits: nothing is there yet, and nothing is claimed.
func TestALaneThatStartsPausedWaits(t *testing.T) {
	for name, makeLane := range map[string]func(*sequence) (*pipeline.Lane, checkpoint.Store){
		"shared": func(src *sequence) (*pipeline.Lane, checkpoint.Store) {
			store := checkpoint.NewMemory(testIdentity)
			return twin("a", src, &memoryLedger{store: store}), store
		},
		"not shared": func(src *sequence) (*pipeline.Lane, checkpoint.Store) {
			store := checkpoint.NewMemory(testIdentity)
			return newLane(src, oneToOne{}, &scriptedBus{rnd: fixedRand()}, store), store
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := newSequence(10, 100)
				lane, store := makeLane(src)
				lane.Pause()
				stop := run(t, lane)
				after(time.Hour)
				require.Equal(t, pipeline.Paused, lane.Status().State)
				require.Zero(t, src.opened.Load())
				_, err := store.Load(t.Context())
				require.ErrorIs(t, err, checkpoint.ErrNotFound)
				lane.Resume()
				after(time.Minute)
				require.EqualValues(t, 10, lane.Status().Events)
				stop()
			})
		})
	}
}

// TestAPausedLaneStopsInOrder: it releases, so that a standby need not wait.
func TestAPausedLaneStopsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
		lane := twin("a", newSequence(10, 100), ledger)
		stop := run(t, lane)
		after(time.Second)
		lane.Pause()
		after(time.Minute)
		stop()
		cp, err := ledger.Load(t.Context())
		require.NoError(t, err)
		require.True(t, cp.Released)
		require.Equal(t, pipeline.Stopped, lane.Status().State)
	})
}

// brokenBus takes nothing while broken.
type brokenBus struct {
	*scriptedBus
	broken atomic.Bool
}

func (b *brokenBus) Publish(ctx context.Context, batch []sink.Message) error {
	if b.broken.Load() {
		return errors.New("the bus is down")
	}
	return b.scriptedBus.Publish(ctx, batch)
}

// TestAPauseDoesNotWaitForABusThatIsDown, and the other way round a lane at rest does not try.
func TestAPauseDoesNotWaitForABusThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSequence(50, 10)
		bus := &brokenBus{scriptedBus: &scriptedBus{rnd: fixedRand()}}
		bus.broken.Store(true)
		lane := newLane(src, oneToOne{}, bus, checkpoint.NewMemory(testIdentity))
		stop := run(t, lane)
		after(time.Minute)
		require.Equal(t, pipeline.Retrying, lane.Status().State)
		lane.Pause()
		synctest.Wait()
		require.Equal(t, pipeline.Paused, lane.Status().State)
		bus.broken.Store(false)
		after(time.Hour)
		require.Empty(t, bus.stored)
		lane.Resume()
		after(time.Second)
		stop()
		require.Len(t, bus.stored, 50)
	})
}

func TestLagOfAPausedLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lane := newLane(newSequence(10, 100), oneToOne{}, &scriptedBus{rnd: fixedRand()}, checkpoint.NewMemory(testIdentity))
		stop := run(t, lane)
		defer stop()
		after(time.Minute)
		s := lane.Status()
		require.Zero(t, s.Lag(), "at the tip, with any age of the last event")
		lane.Pause()
		after(10 * time.Minute)
		s = lane.Status()
		require.InDelta(t, 600, s.Lag().Seconds(), 1.5, "what came since the last poll may wait")
		lane.Resume()
		after(2 * time.Second)
		s = lane.Status()
		require.Zero(t, s.Lag())
	})
}

// TestSteeringLosesNothing pauses, resumes and stops at random, under failures of bus and store.
// watchedStore checks every commit.
func TestSteeringLosesNothing(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 2))
			src := newSequence(1+rnd.IntN(300), 1+rnd.IntN(30))
			bus := &scriptedBus{rnd: rnd, failing: rnd.Float64() * 0.8}
			store := &watchedStore{Store: checkpoint.NewMemory(testIdentity), t: t, bus: bus, src: src, rnd: rnd, failing: rnd.Float64() * 0.5}
			batch := 1 + rnd.IntN(120)
			steer := rand.New(rand.NewPCG(seed, 3))
			for range 10_000 {
				lane := newLane(src, oneToOne{}, bus, store)
				lane.BatchMessages = batch
				stop := run(t, lane)
				for range steer.IntN(10) {
					time.Sleep(time.Duration(steer.IntN(2000)) * time.Millisecond)
					if steer.IntN(2) == 0 {
						lane.Pause()
					} else {
						lane.Resume()
					}
				}
				stop()
				if store.highest == len(src.events) {
					break
				}
			}
			require.Equal(t, len(src.events), store.highest, "seed %d", seed)
			requireSourceOrder(t, src.events, bus.stored)
		})
	}
}

func TestMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
		src := slowSource(100)
		lane := twin("a", src, ledger)
		_, _, err := lane.Move(t.Context(), checkpoint.Position{}, nil)
		require.ErrorIs(t, err, pipeline.ErrNotRunning)
		stop := run(t, lane)
		after(20*time.Second + 500*time.Millisecond)

		to := src.events[79].Position()
		var kept checkpoint.Checkpoint
		before, now, err := lane.Move(t.Context(), to, func(ctx context.Context, cp checkpoint.Checkpoint) error { // forward, while it runs
			kept = cp
			inForce, err := lane.Target.Load(ctx)
			require.Equal(t, cp, inForce, "it is kept before it is replaced")
			return err
		})
		require.NoError(t, err)
		require.Equal(t, before, kept)
		require.Equal(t, src.events[20].ID, before.EventID)
		require.Equal(t, to, now.Position)
		require.Equal(t, before.Revision+1, now.Revision)
		after(5 * time.Second)
		require.Equal(t, src.events[80].ID, ledger.log[21].ID, "it reads on from there")

		lane.Pause()
		synctest.Wait()
		at := lane.Status().Checkpoint
		_, _, err = lane.Move(t.Context(), to, func(context.Context, checkpoint.Checkpoint) error { return errors.New("the disk is full") })
		require.ErrorContains(t, err, "nothing was moved")
		require.ErrorContains(t, err, "the disk is full")
		inForce, err := lane.Target.Load(t.Context())
		require.NoError(t, err)
		require.Equal(t, at, inForce)
		_, _, err = lane.Move(t.Context(), src.events[4].Position(), nil) // back, in a pause
		require.NoError(t, err)
		after(time.Minute)
		s := lane.Status()
		require.Equal(t, pipeline.Paused, s.State)
		require.Equal(t, src.events[4].ID, s.Checkpoint.EventID)
		n := len(ledger.log)
		lane.Resume()
		after(3 * time.Minute)
		stop()
		require.Equal(t, src.events[5].ID, ledger.log[n].ID)
		require.Len(t, ledger.log, n+95)
		_, _, err = lane.Move(t.Context(), to, nil)
		require.ErrorIs(t, err, pipeline.ErrNotRunning)
	})
}

// TestAMoveThatIsGivenUpMovesNothing: the bus cannot be reached, so that the lane has not taken its
// position up.
func TestAMoveThatIsGivenUpMovesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &failingStore{Store: checkpoint.NewMemory(testIdentity)}
		store.broken.Store(true)
		lane := twin("a", newSequence(10, 100), &memoryLedger{store: store})
		stop := run(t, lane)
		after(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, _, err := lane.Move(ctx, checkpoint.Position{EventID: "event_000009"}, nil)
		require.ErrorIs(t, err, pipeline.ErrNotHeld)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "it is retrying: taking up the position")
		store.broken.Store(false)
		after(time.Minute)
		stop()
		require.EqualValues(t, 10, lane.Status().Events, "all events, from the beginning")
	})
}

// failingStore fails while broken.
type failingStore struct {
	checkpoint.Store
	broken atomic.Bool
}

func (s *failingStore) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	if s.broken.Load() {
		return checkpoint.Checkpoint{}, errors.New("out of reach")
	}
	return s.Store.Load(ctx)
}

// TestAMoveThatFailsIsSaid to the caller, and the lane goes on as the store has it.
func TestAMoveThatFailsIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSequence(10, 100)
		store := &refusingStore{Store: checkpoint.NewMemory(testIdentity)}
		lane := twin("a", src, &memoryLedger{store: store})
		stop := run(t, lane)
		after(time.Second)
		store.refuse.Store("event_000003")
		_, _, err := lane.Move(t.Context(), src.events[3].Position(), nil)
		require.ErrorContains(t, err, "may have taken effect all the same: refused")
		after(time.Minute)
		s := lane.Status()
		require.Equal(t, src.events[9].ID, s.Checkpoint.EventID, "it goes on from the current position")
		require.Equal(t, pipeline.Running, s.State)
		stop()
	})
}

// refusingStore commits no position of the event refuse.
type refusingStore struct {
	checkpoint.Store
	refuse atomic.Value // string
}

func (s *refusingStore) Commit(ctx context.Context, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	if next.EventID == s.refuse.Load() {
		return prev, errors.New("refused")
	}
	return s.Store.Commit(ctx, prev, next)
}

// TestALaneThatKeepsItsPlaceIsFollowed by the next one of its process, and not by a standby that
// waits for just that.
func TestALaneThatKeepsItsPlaceIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
		src := slowSource(60)
		a, b := twin("a", src, ledger), twin("b", src, ledger)
		stopA := run(t, a)
		after(time.Second)
		stopB := run(t, b)
		after(10 * time.Second)
		a.KeepLease()
		stopA()
		after(takeover / 2)
		next := twin("a", src, ledger)
		stopA = run(t, next)
		after(2 * time.Minute)
		require.Equal(t, pipeline.Running, next.Status().State)
		require.Equal(t, pipeline.Standby, b.Status().State)
		stopB()
		stopA()
		requireOnce(t, src, ledger)
	})
}

// TestSteeringWhileTheLaneLooksIsSeenAtOnce: a pause ends after the lane has seen that it is
// paused, and before it waits.
func TestSteeringWhileTheLaneLooksIsSeenAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &hookedStore{Store: checkpoint.NewMemory(testIdentity)}
		lane := twin("a", newSequence(10, 100), &memoryLedger{store: store})
		store.onLoad = lane.Resume
		lane.Pause()
		stop := run(t, lane)
		synctest.Wait() // no time passes
		require.Equal(t, pipeline.Running, lane.Status().State)
		stop()
	})
}

// hookedStore calls onLoad before each Load.
type hookedStore struct {
	checkpoint.Store
	onLoad func()
}

func (s *hookedStore) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	s.onLoad()
	return s.Store.Load(ctx)
}

// TestAKeptPlaceIsReleasedByALaneThatNeverTookItUp: the process ends between two lanes, and the
// standby need not wait for it to be silent.
func TestAKeptPlaceIsReleasedByALaneThatNeverTookItUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
		src := slowSource(60)
		a := twin("a", src, ledger)
		stopA := run(t, a)
		after(10 * time.Second)
		a.KeepLease()
		stopA()
		cp, err := ledger.Load(t.Context())
		require.NoError(t, err)
		require.False(t, cp.Released)

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		next := twin("a", src, ledger)
		next.Follows = true
		require.NoError(t, next.Run(ended))
		cp, err = ledger.Load(t.Context())
		require.NoError(t, err)
		require.True(t, cp.Released)
		require.Equal(t, a.Status().Checkpoint.Position, cp.Position)
	})
}
