package pipeline_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/retry"
	"workos-relay/pipeline"
	"workos-relay/sink"
)

// memoryLedger is a bus that stores messages and checkpoint together, in memory, with compare and
// swap.
type memoryLedger struct {
	store checkpoint.Store

	mu      sync.Mutex
	log     []sink.Message
	holders []string // of each message in log
}

func (l *memoryLedger) Identity() string                        { return testIdentity.Destination }
func (l *memoryLedger) Prepare(context.Context, []string) error { return nil }
func (l *memoryLedger) Fence(context.Context) error             { return nil }
func (l *memoryLedger) Inspect(context.Context, []string) ([]sink.TopicStatus, error) {
	return nil, nil
}

func (*memoryLedger) Ping(context.Context) error { return nil }

func (*memoryLedger) Survey(context.Context, []string, []checkpoint.Part) ([]checkpoint.Part, error) {
	return nil, nil
}

// LoadForReplace implements sink.Ledger. No lane calls it.
func (l *memoryLedger) LoadForReplace(ctx context.Context) (checkpoint.Checkpoint, error) {
	return l.Load(ctx)
}

// Forget implements sink.Ledger. No lane calls it.
func (*memoryLedger) Forget() {}

func (l *memoryLedger) Holds(context.Context, []string) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.log) > 0, nil
}

func (l *memoryLedger) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	return l.store.Load(ctx)
}

func (l *memoryLedger) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	cp, err := l.store.Commit(ctx, prev, next)
	if err == nil {
		for _, m := range batch {
			l.log, l.holders = append(l.log, m), append(l.holders, next.Holder)
		}
	}
	return cp, err
}

// stopped is a ledger seen from a process that is stopped for a while: every call begins only when
// it runs again.
type stopped struct {
	*memoryLedger
	from, until time.Time
}

func (s *stopped) wait() {
	if now := time.Now(); now.After(s.from) {
		time.Sleep(s.until.Sub(now))
	}
}

func (s *stopped) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	s.wait()
	return s.memoryLedger.Load(ctx)
}

func (s *stopped) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	s.wait()
	return s.memoryLedger.Commit(ctx, batch, prev, next)
}

const takeover = 15 * time.Second

// twin is one of two relays with the same configuration.
func twin(holder string, src pipeline.Source, ledger sink.Ledger) *pipeline.Lane {
	return &pipeline.Lane{
		Name: "lane", Source: src, Router: oneToOne{}, Holder: holder, TakeoverAfter: takeover,
		Target: &pipeline.ExactlyOnce{Ledger: ledger, Ownership: pipeline.Ownership{
			Topics: []string{"user.created"}, Identity: testIdentity, Holder: holder, Events: []string{"user.created"},
			Origin: func(context.Context) (checkpoint.Position, error) { return checkpoint.Position{}, nil },
			Logger: nopLogger,
		}},
	}
}

// run starts a lane; the returned function stops it and requires that it stopped in order.
func run(t *testing.T, lane *pipeline.Lane) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- lane.Run(ctx) }()
	return func() {
		cancel()
		require.NoError(t, <-done)
	}
}

// slowSource serves one event a second, so that a lane is at work all the time.
func slowSource(n int) *sequence {
	src := newSequence(n, 1)
	src.every = time.Second
	return src
}

func requireOnce(t *testing.T, src *sequence, ledger *memoryLedger) {
	t.Helper()
	require.Len(t, ledger.log, len(src.events))
	for i, m := range ledger.log {
		require.Equal(t, src.events[i].ID, m.ID, "every event once, in order")
	}
}

func TestStandbyTakesOverFromOneThatIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
		src := slowSource(200)
		died := time.Now().Add(60 * time.Second)
		a := twin("a", src, &stopped{ledger, died, died.Add(60 * time.Second)})
		b := twin("b", src, ledger)
		stopA := run(t, a)
		time.Sleep(time.Second)
		stopB := run(t, b)
		time.Sleep(time.Until(died))
		require.Equal(t, pipeline.Standby, b.Status().State)
		require.Contains(t, b.Status().Reason, "holder a")

		time.Sleep(takeover)
		synctest.Wait()
		require.Equal(t, pipeline.Running, b.Status().State, "the standby must be active within takeover_after")
		time.Sleep(time.Minute) // a has woken up meanwhile, with its own Append still to send
		require.Equal(t, pipeline.Standby, a.Status().State, "one that lost its place must not go on")
		time.Sleep(5 * time.Minute)
		stopA()
		stopB()
		requireOnce(t, src, ledger)
		require.Contains(t, ledger.holders, "a")
		require.Contains(t, ledger.holders, "b")
	})
}

func TestStandbyTakesOverAtOnceAfterAnOrderlyStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
		src := slowSource(60)
		stopA := run(t, twin("a", src, ledger))
		time.Sleep(time.Second)
		b := twin("b", src, ledger)
		stopB := run(t, b)
		time.Sleep(20 * time.Second)
		stopA()
		time.Sleep(takeover / 5)
		synctest.Wait()
		require.Equal(t, pipeline.Running, b.Status().State)
		time.Sleep(time.Minute)
		stopB()
		requireOnce(t, src, ledger)
	})
}

func TestAQuietActiveOneKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
		src := newSequence(10, 100) // all at once, then nothing for an hour
		a, b := twin("a", src, ledger), twin("b", src, ledger)
		stopA := run(t, a)
		time.Sleep(time.Second)
		stopB := run(t, b)
		time.Sleep(time.Hour)
		require.Equal(t, pipeline.Running, a.Status().State)
		require.Equal(t, pipeline.Standby, b.Status().State)
		require.EqualValues(t, 1, src.opened.Load(), "a standby does not read from the API")
		stopB()
		stopA()
		requireOnce(t, src, ledger)
	})
}

// TestAStandbyThatWasStoppedItselfDoesNotJump: both were stopped, as on a host that sleeps, and the
// active one wakes up later. What the standby did not see does not count as silence.
func TestAStandbyThatWasStoppedItselfDoesNotJump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
		src := newSequence(10, 100)
		asleep := time.Now().Add(63 * time.Second) // after b has looked once at what a renewed last
		woken := asleep.Add(time.Minute)
		a := twin("a", src, &stopped{ledger, asleep, woken.Add(takeover * 2 / 3)})
		b := twin("b", src, &stopped{ledger, asleep, woken})
		stopA := run(t, a)
		time.Sleep(time.Second)
		stopB := run(t, b)
		time.Sleep(time.Until(woken.Add(time.Minute)))
		require.Equal(t, pipeline.Running, a.Status().State)
		require.Equal(t, pipeline.Standby, b.Status().State)
		require.EqualValues(t, 1, src.opened.Load(), "nobody has taken over in between")
		stopB()
		stopA()
	})
}

// slow is a ledger on a bus that takes long to answer.
type slow struct {
	*memoryLedger
	answer time.Duration
}

func (s *slow) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	cp, err := s.memoryLedger.Load(ctx)
	time.Sleep(s.answer)
	return cp, err
}

// TestASlowBusDoesNotPreventATakeover: a slow bus delays a takeover, and causes none while the
// active relay is alive.
func TestASlowBusDoesNotPreventATakeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
		src := newSequence(10, 100)
		died := time.Now().Add(time.Hour)
		a := twin("a", src, &stopped{ledger, died, died.Add(time.Hour)})
		b := twin("b", src, &slow{ledger, takeover / 2})
		stopA := run(t, a)
		time.Sleep(time.Second)
		stopB := run(t, b)
		time.Sleep(time.Until(died))
		synctest.Wait()
		require.Equal(t, pipeline.Standby, b.Status().State)
		require.EqualValues(t, 1, src.opened.Load(), "nobody has taken over while the active one was alive")
		time.Sleep(10 * takeover)
		require.Equal(t, pipeline.Running, b.Status().State)
		stopB()
		stopA()
	})
}

func TestTwoFirstStartsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
		src := slowSource(30)
		a, b := twin("a", src, ledger), twin("b", src, ledger)
		stopA, stopB := run(t, a), run(t, b)
		time.Sleep(time.Minute)
		states := []pipeline.State{a.Status().State, b.Status().State}
		require.ElementsMatch(t, []pipeline.State{pipeline.Running, pipeline.Standby}, states)
		stopA()
		stopB()
		requireOnce(t, src, ledger)
	})
}

// overtaken is a ledger on which a rival starts, and stores what it has, just after this process
// has found no position.
type overtaken struct {
	*memoryLedger
	start func()
}

func (l *overtaken) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	cp, err := l.memoryLedger.Load(ctx)
	l.start()
	return cp, err
}

// TestAFirstStartThatIsOvertaken: the messages of the one that was faster are not those of a
// position that was lost.
func TestAFirstStartThatIsOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
		src := newSequence(10, 100)
		faster := twin("a", src, ledger)
		var stop func()
		slower := twin("b", src, &overtaken{ledger, sync.OnceFunc(func() {
			stop = run(t, faster)
			time.Sleep(time.Second)
		})})
		stopSlower := run(t, slower)
		time.Sleep(time.Minute)
		require.Equal(t, pipeline.Running, faster.Status().State)
		require.Equal(t, pipeline.Standby, slower.Status().State, slower.Status().Reason)
		stopSlower()
		stop()
		requireOnce(t, src, ledger)
	})
}

func TestAKilledRelayDoesNotWaitForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
		src := newSequence(10, 100)
		stop := run(t, twin("a", src, &noRelease{ledger}))
		time.Sleep(time.Second)
		stop()
		again := twin("a", src, ledger)
		stop = run(t, again)
		synctest.Wait()
		require.Equal(t, pipeline.Running, again.Status().State)
		stop()
	})
}

// noRelease never marks the position as released, as a killed process does not.
type noRelease struct{ *memoryLedger }

func (l *noRelease) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	if next.Released {
		return prev, nil
	}
	return l.memoryLedger.Commit(ctx, batch, prev, next)
}

// slowToPrepare takes long to make its topics ready, as a cluster may at a start.
type slowToPrepare struct {
	*memoryLedger
	fenced atomic.Int64
}

func (l *slowToPrepare) Prepare(ctx context.Context, _ []string) error {
	return retry.Sleep(ctx, 5*time.Second)
}

func (l *slowToPrepare) Fence(ctx context.Context) error {
	l.fenced.Add(1)
	return l.memoryLedger.Fence(ctx)
}

// TestALookThatIsOutOfDateTakesNothingOver: between the look of a relay at the position and its
// claim another relay has taken the position. That one keeps it, and is not fenced.
//
// P6: one relay writes at a time.
func TestALookThatIsOutOfDateTakesNothingOver(t *testing.T) {
	for name, released := range map[string]bool{"first start": false, "the position was released": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
				src := newSequence(100, 10)
				if released {
					stop := run(t, twin("before", newSequence(10, 10), ledger))
					time.Sleep(time.Second)
					stop()
				}
				slow := &slowToPrepare{memoryLedger: ledger}
				slower, faster := twin("b", src, slow), twin("a", src, ledger)
				stopSlower := run(t, slower)
				time.Sleep(2 * time.Second)
				stopFaster := run(t, faster)
				time.Sleep(time.Minute)
				require.Equal(t, pipeline.Running, faster.Status().State)
				require.Equal(t, pipeline.Standby, slower.Status().State)
				require.Zero(t, slow.fenced.Load())
				stopSlower()
				stopFaster()
				require.NotContains(t, ledger.holders, "b")
				requireOnce(t, src, ledger)
			})
		})
	}
}
