package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"workos-relay/checkpoint"
	"workos-relay/internal/hint"
	"workos-relay/internal/operator"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
)

var nopLogger = zap.NewNop()

// runFor runs the lane for d of the bubble's clock, then stops it and returns what Run returned.
func runFor(t *testing.T, lane *pipeline.Lane, d time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	return lane.Run(ctx)
}

// TestCommittedNeverPassesUnacknowledged runs the engine through random acknowledgements, failures
// of the bus and of the store, and stops. watchedStore checks every commit; at the end every event
// must have arrived, in order.
//
// P1: acknowledgements, failures and stops at random.
func TestCommittedNeverPassesUnacknowledged(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			src := newSequence(1+rnd.IntN(400), 1+rnd.IntN(30))
			bus := &scriptedBus{rnd: rnd, failing: rnd.Float64() * 0.9}
			store := &watchedStore{Store: checkpoint.NewMemory(testIdentity), t: t, bus: bus, src: src, rnd: rnd, failing: rnd.Float64() * 0.5}
			batch, prefetch := 1+rnd.IntN(120), 100+rnd.IntN(10_000)

			for range 10_000 {
				lane := newLane(src, oneToOne{}, bus, store)
				lane.BatchMessages, lane.Prefetch = batch, prefetch
				require.NoError(t, runFor(t, lane, time.Duration(rnd.IntN(20_000))*time.Millisecond), "seed %d", seed)
				if store.highest == len(src.events) {
					break
				}
			}
			require.Equal(t, len(src.events), store.highest, "seed %d: the backlog was never finished", seed)
			requireSourceOrder(t, src.events, bus.stored)
		})
	}
}

// requireSourceOrder requires that the first copies of stored are all of events in order. Copies
// that come again after a failure are runs of events that were stored before.
func requireSourceOrder(t *testing.T, events []source.Event, stored []sink.Message) {
	t.Helper()
	seen := map[string]bool{}
	var first []string
	for _, m := range stored {
		if !seen[m.ID] {
			seen[m.ID] = true
			first = append(first, m.ID)
		}
	}
	var want []string
	for i := range events {
		want = append(want, events[i].ID)
	}
	require.Equal(t, want, first)
}

// P7: no copies while only the commit fails.
func TestNoCopiesWhileOnlyTheStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(7, 7))
		src, bus := newSequence(1000, 10), &scriptedBus{rnd: rnd}
		store := &watchedStore{Store: checkpoint.NewMemory(testIdentity), t: t, bus: bus, src: src, rnd: rnd, failing: 0.6}
		require.NoError(t, runFor(t, newLane(src, oneToOne{}, bus, store), time.Hour))
		require.Equal(t, 1000, store.highest)
		require.Len(t, bus.stored, 1000, "a failing store must not make the lane publish again")
	})
}

// P9: parked with its reason, or stopped at.
func TestPoison(t *testing.T) {
	poison := map[string]bool{"event_000000": true, "event_000037": true, "event_000099": true}
	for name, ends := range map[string]struct {
		bus    *scriptedBus
		router oneToOne
	}{
		"refused by the bus":    {&scriptedBus{poison: poison}, oneToOne{}},
		"refused by the router": {&scriptedBus{}, oneToOne{refuse: poison}},
	} {
		t.Run(name+", parked", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := newSequence(100, 10)
				ends.bus.rnd, ends.bus.stored = rand.New(rand.NewPCG(1, 1)), nil
				store := &watchedStore{Store: checkpoint.NewMemory(testIdentity), t: t, bus: ends.bus, src: src, rnd: ends.bus.rnd}
				lane := newLane(src, ends.router, ends.bus, store)
				lane.Park = true
				seen := &recorder{}
				lane.Observer = seen
				require.NoError(t, runFor(t, lane, time.Minute))
				require.Equal(t, 100, store.highest)
				requireSourceOrder(t, src.events, ends.bus.stored)
				require.Len(t, ends.bus.stored, 100)
				for _, m := range ends.bus.stored {
					require.Equal(t, poison[m.ID], m.Topic == "dead", m.ID)
				}
				require.Equal(t, []string{"event_000000", "event_000037", "event_000099"}, seen.parked)
				require.Equal(t, 100, seen.events)
			})
		})
		t.Run(name+", stopped", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := newSequence(100, 10)
				ends.bus.rnd, ends.bus.stored = rand.New(rand.NewPCG(1, 1)), nil
				store := &watchedStore{Store: checkpoint.NewMemory(testIdentity), t: t, bus: ends.bus, src: src, rnd: ends.bus.rnd}
				// Move past the first, so that the stop is in the middle of a page.
				cp, err := store.Store.Commit(t.Context(), checkpoint.Checkpoint{}, checkpoint.Checkpoint{
					Position: src.events[0].Position(), Source: testIdentity, Mode: checkpoint.AtLeastOnce,
				})
				require.NoError(t, err)
				store.highest, store.dropped = src.index(cp.Position), 1
				lane := newLane(src, ends.router, ends.bus, store)
				err = runFor(t, lane, time.Minute)
				var stop *pipeline.StopError
				require.ErrorAs(t, err, &stop)
				require.Equal(t, "event_000037", stop.EventID)
				require.Equal(t, 37, store.highest, "everything before the event is committed, nothing of it and after it")
				require.Len(t, ends.bus.stored, 36)
				require.Equal(t, pipeline.Stopped, lane.Status().State)
				require.Contains(t, lane.Status().Reason, "event_000037")
			})
		})
	}
}

// TestADeadLetterThatIsRefusedToo stops the lane, and the message does not advise what is
// configured already.
func TestADeadLetterThatIsRefusedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, bus := newSequence(10, 10), &scriptedBus{rnd: fixedRand(), poison: map[string]bool{"event_000003": true}, strict: true}
		lane := newLane(src, oneToOne{}, bus, checkpoint.NewMemory(testIdentity))
		lane.Park = true
		err := runFor(t, lane, time.Minute)
		var stop *pipeline.StopError
		require.ErrorAs(t, err, &stop)
		require.Equal(t, "stopped at event event_000003 (user.created): cannot be published to user.created: poison; nor can its dead letter: "+
			"cannot be published to dead: poison; let the bus accept it, or skip this one event; `relay checkpoint set event_000003 --lane lane --skip` skips it", hint.Text("lane", err))
		require.Len(t, bus.stored, 3)
	})
}

type recorder struct {
	pipeline.NopObserver
	events, retries int
	parked          []string
}

func (r *recorder) Committed(o pipeline.Outcome, _ checkpoint.Checkpoint) {
	r.events += len(o.Events)
	for _, p := range o.Parked {
		r.parked = append(r.parked, p.EventID)
	}
}
func (r *recorder) Retrying(string, error) { r.retries++ }

// dropRecorder tells dropped events from others by what an Outcome says of each.
type dropRecorder struct {
	recorder
	dropped map[string]bool
}

func (r *dropRecorder) Committed(o pipeline.Outcome, cp checkpoint.Checkpoint) {
	r.recorder.Committed(o, cp)
	before := 0
	for i, end := range o.Ends {
		if end == before {
			r.dropped[o.Events[i].ID] = true
		}
		before = end
	}
}

func TestDroppedEventsMoveThePosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, bus := newSequence(50, 10), &scriptedBus{rnd: rand.New(rand.NewPCG(1, 1))}
		drop := map[string]bool{}
		for i := range src.events {
			drop[src.events[i].ID] = i%7 != 3
		}
		store := &watchedStore{Store: checkpoint.NewMemory(testIdentity), t: t, bus: bus, src: src, rnd: bus.rnd, dropped: 43}
		lane := newLane(src, oneToOne{drop: drop}, bus, store)
		told := &dropRecorder{dropped: map[string]bool{}}
		lane.Observer = told
		require.NoError(t, runFor(t, lane, time.Minute))
		require.Equal(t, 50, store.highest)
		require.Len(t, bus.stored, 7)
		require.Equal(t, 50, told.events)
		for id, dropped := range drop {
			require.Equal(t, dropped, told.dropped[id], id)
		}
	})
}

func TestFinalErrorOfTheSourceComesAfterItsPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		final := operator.New("the cursor was lost", "choose another")
		src, bus := newSequence(95, 10), &scriptedBus{rnd: rand.New(rand.NewPCG(1, 1))}
		src.final = final
		store := &watchedStore{Store: checkpoint.NewMemory(testIdentity), t: t, bus: bus, src: src, rnd: bus.rnd}
		require.ErrorIs(t, runFor(t, newLane(src, oneToOne{}, bus, store), time.Hour), final)
		require.Equal(t, 95, store.highest)
	})
}

func TestPagesAreReadOnceWhileTheBusFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(3, 3))
		src, bus := newSequence(500, 10), &scriptedBus{rnd: rnd, failing: 0.8}
		store := &watchedStore{Store: checkpoint.NewMemory(testIdentity), t: t, bus: bus, src: src, rnd: rnd}
		require.NoError(t, runFor(t, newLane(src, oneToOne{}, bus, store), time.Hour))
		require.Equal(t, 500, store.highest)
		require.EqualValues(t, 1, src.opened.Load(), "a failure of the bus must not make the lane read again what it holds")
	})
}

func TestPositionMovedByAnotherHandIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, bus := newSequence(100, 10), &scriptedBus{rnd: rand.New(rand.NewPCG(1, 1))}
		memory := checkpoint.NewMemory(testIdentity)
		store := &movedOnce{Store: memory, to: src.events[79].Position()}
		lane := newLane(src, oneToOne{}, bus, store)
		lane.BatchMessages = 10
		require.NoError(t, runFor(t, lane, time.Hour))
		cp, err := memory.Load(t.Context())
		require.NoError(t, err)
		require.Equal(t, "event_000099", cp.EventID)
		require.EqualValues(t, 2, src.opened.Load())
		require.Equal(t, "event_000080", bus.stored[len(bus.stored)-20].ID)
	})
}

// movedOnce lets another hand move the position just before the third commit.
type movedOnce struct {
	checkpoint.Store
	to    checkpoint.Position
	calls int
}

func (s *movedOnce) Commit(ctx context.Context, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	if s.calls++; s.calls == 3 {
		other := prev
		other.Position = s.to
		if _, err := s.Store.Commit(ctx, prev, other); err != nil {
			return checkpoint.Checkpoint{}, err
		}
	}
	return s.Store.Commit(ctx, prev, next)
}

func TestStartsThatOnlyAPersonCanDecide(t *testing.T) {
	other := testIdentity
	other.Relay = "another"
	for name, c := range map[string]struct {
		have *checkpoint.Checkpoint
		held []sink.Message
		want error
	}{
		"lost":    {held: []sink.Message{{ID: "event_000001"}}, want: checkpoint.ErrLost},
		"foreign": {have: &checkpoint.Checkpoint{Source: other, Mode: checkpoint.AtLeastOnce}, want: checkpoint.ErrForeign},
		"mode":    {have: &checkpoint.Checkpoint{Source: testIdentity, Mode: checkpoint.ExactlyOnce}, want: checkpoint.ErrForeign},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src, bus := newSequence(10, 10), &scriptedBus{rnd: rand.New(rand.NewPCG(1, 1)), stored: c.held}
				store := &presetStore{Memory: checkpoint.NewMemory(testIdentity), have: c.have}
				err := runFor(t, newLane(src, oneToOne{}, bus, store), 10*time.Second)
				require.ErrorIs(t, err, c.want)
				require.Len(t, bus.stored, len(c.held), "nothing may be published")
				require.Zero(t, src.opened.Load(), "nothing may be read")
			})
		})
	}
}

type presetStore struct {
	*checkpoint.Memory
	have *checkpoint.Checkpoint
}

func (s *presetStore) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	if s.have == nil {
		return s.Memory.Load(ctx)
	}
	return *s.have, testIdentity.Check(s.have.Source)
}

func TestChangedFilterIsLoggedWithTheReplayThatFillsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, bus := newSequence(10, 10), &scriptedBus{rnd: rand.New(rand.NewPCG(1, 1))}
		store := checkpoint.NewMemory(testIdentity)
		require.NoError(t, runFor(t, newLane(src, oneToOne{}, bus, store), time.Minute))

		core, logs := observer.New(zap.WarnLevel)
		lane := newLane(src, oneToOne{}, bus, store)
		target := lane.Target.(*pipeline.AtLeastOnce)
		target.Events, target.Logger = []string{"role.created", "user.created", "user.deleted"}, zap.New(core)
		require.NoError(t, runFor(t, lane, time.Minute))
		require.Equal(t, 1, logs.Len())
		require.Equal(t, "relay replay --since TIME --until 2026-01-01T00:00:09Z --events role.created,user.deleted",
			logs.All()[0].ContextMap()["earlier_events_with"])
		require.Len(t, bus.stored, 10, "a changed filter is not a reason to start over")
	})
}

func TestStopFinishesWhatIsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSequence(100, 10)
		bus := &slowBus{scriptedBus: scriptedBus{rnd: rand.New(rand.NewPCG(1, 1))}, takes: 10 * time.Second}
		store := checkpoint.NewMemory(testIdentity)
		lane := newLane(src, oneToOne{}, bus, store)
		lane.BatchMessages = 10
		require.NoError(t, runFor(t, lane, 15*time.Second)) // in the middle of the second batch
		cp, err := store.Load(t.Context())
		require.NoError(t, err)
		require.Equal(t, "event_000019", cp.EventID)
		require.True(t, cp.Released)
		require.Len(t, bus.stored, 20)
	})
}

func TestStopGivesUpAfterItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSequence(100, 10)
		bus := &slowBus{scriptedBus: scriptedBus{rnd: rand.New(rand.NewPCG(1, 1))}, takes: time.Hour}
		store := checkpoint.NewMemory(testIdentity)
		lane := newLane(src, oneToOne{}, bus, store)
		lane.ShutdownTimeout = 5 * time.Second
		started := time.Now()
		require.NoError(t, runFor(t, lane, 15*time.Second))
		require.Equal(t, 20*time.Second, time.Since(started))
		cp, err := store.Load(t.Context())
		require.NoError(t, err)
		require.True(t, cp.IsZero(), "nothing was acknowledged, so nothing is committed")
	})
}

// slowBus takes its time for each batch, and gives up when its context does.
type slowBus struct {
	scriptedBus
	takes time.Duration
}

func (b *slowBus) Publish(ctx context.Context, batch []sink.Message) error {
	select {
	case <-time.After(b.takes):
		return b.scriptedBus.Publish(ctx, batch)
	case <-ctx.Done():
		return &sink.PublishError{Err: ctx.Err()}
	}
}

// deadBus acknowledges nothing.
type deadBus struct{ scriptedBus }

func (*deadBus) Publish(context.Context, []sink.Message) error {
	return &sink.PublishError{Err: errors.New("scripted failure")}
}

func TestPrefetchIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSequence(10_000, 10) // pages of 1,000 bytes
		bus := &slowBus{scriptedBus: scriptedBus{rnd: rand.New(rand.NewPCG(1, 1))}, takes: time.Hour}
		lane := newLane(src, oneToOne{}, bus, checkpoint.NewMemory(testIdentity))
		lane.Prefetch, lane.ShutdownTimeout = 5_000, time.Nanosecond
		require.NoError(t, runFor(t, lane, time.Minute))
		read := src.index(lane.Status().Read)
		require.LessOrEqual(t, read, 60, "the budget holds five pages, and one more may have been read")
		require.GreaterOrEqual(t, read, 50)
	})
}

func TestStatusTellsProgressFromConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, bus := newSequence(25, 10), &scriptedBus{rnd: rand.New(rand.NewPCG(1, 1))}
		lane := newLane(src, oneToOne{}, bus, checkpoint.NewMemory(testIdentity))
		require.Equal(t, pipeline.Starting, lane.Status().State)
		require.NoError(t, runFor(t, lane, time.Minute))
		s := lane.Status()
		require.True(t, s.AtTip)
		require.Zero(t, s.Lag())
		require.True(t, s.Unacked.IsZero())
		require.EqualValues(t, 25, s.Events)

		stuck := newLane(newSequence(25, 10), oneToOne{}, &deadBus{}, checkpoint.NewMemory(testIdentity))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		began := time.Now()
		go func() { done <- stuck.Run(ctx) }()
		time.Sleep(90 * time.Second)
		synctest.Wait()
		s = stuck.Status()
		require.False(t, s.AtTip)
		require.Equal(t, pipeline.Retrying, s.State)
		require.Contains(t, s.Reason, "scripted failure")
		require.WithinDuration(t, began, s.Unacked, time.Second)
		require.Equal(t, 2500, s.Prefetched)
		cancel()
		require.NoError(t, <-done)
		s = stuck.Status()
		require.Zero(t, s.Prefetched)
	})
}

func TestLag(t *testing.T) {
	polled := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) // by a local clock that is a month behind the API's
	for name, c := range map[string]struct {
		change func(*pipeline.Status)
		want   time.Duration
	}{
		"of the oldest event that waits":          {func(*pipeline.Status) {}, time.Hour},
		"runs on while the API gives no answer":   {func(s *pipeline.Status) { s.At = polled.Add(48 * time.Hour) }, 49 * time.Hour},
		"of the committed position":               {func(s *pipeline.Status) { s.UnackedAt = time.Time{} }, 2 * time.Hour},
		"none at the tip":                         {func(s *pipeline.Status) { s.AtTip, s.At = true, polled.Add(time.Hour) }, 0},
		"none as long as the API has not spoken":  {func(s *pipeline.Status) { s.SourceNow = time.Time{} }, 0},
		"none where the local clock was set back": {func(s *pipeline.Status) { s.UnackedAt, s.At = sourceNow, polled.Add(-time.Hour) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := pipeline.Status{LastPoll: polled, At: polled, SourceNow: sourceNow, UnackedAt: sourceNow.Add(-time.Hour)}
			s.Checkpoint.CreatedAt = sourceNow.Add(-2 * time.Hour)
			c.change(&s)
			require.Equal(t, c.want, s.Lag())
		})
	}
}

// stageRecorder writes down stages and how they ended, and lends each its own context.
type stageRecorder struct {
	pipeline.NopObserver
	seen []string
}

func (r *stageRecorder) BeginStage(ctx context.Context, s pipeline.Stage, batch []sink.Message, next checkpoint.Position) (context.Context, func(error)) {
	at := fmt.Sprintf("%s of %d to %s", s, len(batch), next.EventID)
	return ctx, func(err error) {
		if err != nil {
			at += " failed"
		}
		r.seen = append(r.seen, at)
	}
}

func TestStages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, bus := newSequence(20, 10), &scriptedBus{rnd: rand.New(rand.NewPCG(1, 1)), poison: map[string]bool{"event_000012": true}}
		src.every = time.Second
		lane := newLane(src, oneToOne{drop: map[string]bool{"event_000019": true}}, bus, checkpoint.NewMemory(testIdentity))
		lane.Park = true
		told := &stageRecorder{}
		lane.Observer = told
		require.NoError(t, runFor(t, lane, time.Minute))
		require.Equal(t, []string{
			"publish of 10 to event_000009", "commit of 0 to event_000009",
			"publish of 9 to event_000018 failed", "commit of 0 to event_000011", // of what stands before the poison
			"publish of 7 to event_000018", "commit of 0 to event_000019", // the last one is dropped
		}, told.seen)
	})
}

func TestLanesDoNotHoldEachOtherBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(1, 1))
		broken := newLane(newSequence(30, 10), oneToOne{}, &scriptedBus{poison: map[string]bool{"event_000000": true}}, checkpoint.NewMemory(testIdentity))
		broken.Name = "broken"
		down := newLane(newSequence(30, 10), oneToOne{}, &slowBus{takes: time.Hour}, checkpoint.NewMemory(testIdentity))
		down.ShutdownTimeout = time.Second
		well := &scriptedBus{rnd: rnd}
		works := newLane(newSequence(30, 10), oneToOne{}, well, checkpoint.NewMemory(testIdentity))

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var told []string
		group := pipeline.NewGroup(ctx, func(e *pipeline.LaneError) { told = append(told, e.Lane) })
		for _, l := range []*pipeline.Lane{broken, down, works} {
			group.Start(l)
		}
		err := group.Wait()
		var stop *pipeline.StopError
		require.ErrorAs(t, err, &stop)
		require.Equal(t, []string{"broken"}, told)
		require.Len(t, well.stored, 30)
	})
}
