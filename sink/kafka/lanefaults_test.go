package kafka_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/sink/kafka"
	"workos-relay/source/sourcetest"
)

// every is a fault that hits each n-th request of a kind, as a whole, and ends after a while: a
// transaction of n requests or more would never get through otherwise. It becomes rarer, so that it
// does not hit the same request of a transaction each time, for which a lane waits ever longer.
func every(n int, key kmsg.Key, err *kerr.Error, topLevel bool) kfake.Fault {
	const most = 12
	var last kmsg.Request
	seen, due, hits, hit := 0, n, 0, false
	return kfake.Fault{Keys: []kmsg.Key{key}, Err: err, TopLevel: topLevel, Count: -1, When: func(r kmsg.Request) bool {
		if r != last { // it is asked once for each partition
			last = r
			seen++
			if hit = seen == due && hits < most; hit {
				hits++
				due += n + hits/2
			}
		}
		return hit
	}}
}

// TestLaneThroughFaults injects what brokers answer when something goes wrong, into each kind of
// request that a transaction is made of, again and again.
func TestLaneThroughFaults(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		key  kmsg.Key
		err  *kerr.Error
	}{
		{"commit not applied, answer unclear", kmsg.EndTxn, kerr.RequestTimedOut},
		{"commit not applied, error unknown", kmsg.EndTxn, kerr.UnknownServerError},
		{"commit while the coordinator moves", kmsg.EndTxn, kerr.NotCoordinator},
		{"commit while the coordinator loads", kmsg.EndTxn, kerr.CoordinatorLoadInProgress},
		{"commit without a coordinator", kmsg.EndTxn, kerr.CoordinatorNotAvailable},
		{"commit during the last one's end", kmsg.EndTxn, kerr.ConcurrentTransactions},
		{"commit fenced", kmsg.EndTxn, kerr.ProducerFenced},
		{"commit in another state", kmsg.EndTxn, kerr.InvalidTxnState},
		{"begin during the last one's end", kmsg.AddPartitionsToTxn, kerr.ConcurrentTransactions},
		{"begin while the coordinator moves", kmsg.AddPartitionsToTxn, kerr.NotCoordinator},
		{"begin with a producer id that expired", kmsg.AddPartitionsToTxn, kerr.InvalidProducerIDMapping},
		{"produce in an old epoch", kmsg.Produce, kerr.InvalidProducerEpoch},
		{"produce without a transaction", kmsg.Produce, kerr.InvalidTxnState},
		{"produce out of order", kmsg.Produce, kerr.OutOfOrderSequenceNumber},
		{"produce applied, answer lost", kmsg.Produce, kerr.RequestTimedOut},
		{"produce to a former leader", kmsg.Produce, kerr.NotLeaderForPartition},
		{"abortable", kmsg.Produce, kerr.TransactionAbortable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := kafka.Fake(t)
			w := newWorld(t, c.ListenAddrs(), 400)
			lane := w.lane(t, "a", w.ledger(t))
			n := 2
			if tt.key == kmsg.AddPartitionsToTxn { // two to a transaction, and both again if the second fails
				n = 3
			}
			if tt.key == kmsg.Produce { // several to a transaction
				n = 7
			}
			handle := c.Fault(every(n, tt.key, tt.err, tt.key == kmsg.EndTxn))
			stop := start(t, lane)
			w.finish(t, lane)
			require.Positive(t, handle.Hits())
			handle.Remove()
			stop()
			w.requireExactlyOnce(t)
		})
	}
}

// TestLaneThroughLateCommits has the broker take up every second commit only when relay has given
// up waiting for the answer: before relay's next epoch, or after it.
func TestLaneThroughLateCommits(t *testing.T) {
	t.Parallel()
	c := kafka.Fake(t)
	w := newWorld(t, c.ListenAddrs(), 800)
	w.cfg.RequestTimeout = 500 * time.Millisecond
	var commits atomic.Int64
	c.ControlKey(kmsg.EndTxn.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if n := commits.Add(1); n%2 == 0 {
			c.SleepControl(func() { time.Sleep(time.Duration(375+125*(n%8)) * time.Millisecond) })
		}
		return nil, nil, false
	})
	lane := w.lane(t, "a", w.ledger(t))
	stop := start(t, lane)
	w.finish(t, lane)
	stop()
	w.requireExactlyOnce(t)
}

// TestLaneStartsThroughFaults injects faults into what a lane asks before the first event.
func TestLaneStartsThroughFaults(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		key kmsg.Key
		err *kerr.Error
	}{
		{kmsg.InitProducerID, kerr.ConcurrentTransactions},
		{kmsg.InitProducerID, kerr.CoordinatorLoadInProgress},
		{kmsg.InitProducerID, kerr.CoordinatorNotAvailable},
		{kmsg.InitProducerID, kerr.NotCoordinator},
		{kmsg.FindCoordinator, kerr.CoordinatorNotAvailable},
		{kmsg.ListOffsets, kerr.OffsetNotAvailable},
		{kmsg.ListOffsets, kerr.NotLeaderForPartition},
		{kmsg.Fetch, kerr.NotLeaderForPartition},
	} {
		t.Run(fmt.Sprint(kmsg.NameForKey(tt.key.Int16()), " ", tt.err.Message), func(t *testing.T) {
			t.Parallel()
			c := kafka.Fake(t)
			w := newWorld(t, c.ListenAddrs(), 300)
			for _, holder := range []string{"a", "b"} { // b finds what a has left
				handle := c.Fault(kfake.Fault{
					Keys: []kmsg.Key{tt.key}, Err: tt.err, Count: 2,
					TopLevel: tt.key == kmsg.InitProducerID,
				})
				lane := w.lane(t, holder, w.ledger(t))
				stop := start(t, lane)
				w.finish(t, lane)
				if holder == "b" || tt.key != kmsg.Fetch { // nothing to fetch at a first start
					require.Positive(t, handle.Hits())
				}
				handle.Remove()
				stop()
			}
			w.requireExactlyOnce(t)
		})
	}
}

// TestLaneWhileLeadersMove moves leaders, and with them everything that a broker is asked for, all
// the while.
func TestLaneWhileLeadersMove(t *testing.T) {
	t.Parallel()
	c := kafka.Fake(t)
	w := newWorld(t, c.ListenAddrs(), 1500)
	lane := w.lane(t, "a", w.ledger(t))
	moves := kafka.MoveLeaders(c, 5)
	stop := start(t, lane)
	w.finish(t, lane)
	stop()
	require.Positive(t, moves.Load())
	w.requireExactlyOnce(t)
}

// TestLaneWhileConnectionsDrop cuts a connection at every few reads and writes, so that requests of
// every kind are lost on the way there, and answers on the way back. The cuts follow the traffic
// and not a clock, so that there are as many on a fast machine.
func TestLaneWhileConnectionsDrop(t *testing.T) {
	t.Parallel()
	var cut, cuts atomic.Int64
	next := func() int64 {
		if n := cuts.Add(1); n < 12 { // a lane waits longer after each failure in a row
			return 10 + (37*n)%120
		}
		return 0
	}
	c := kafka.Fake(t, kfake.ListenFn(func(network, address string) (net.Listener, error) {
		l, err := net.Listen(network, address)
		return kafka.NewCuttingListener(l, &cut, next), err
	}))
	w := newWorld(t, c.ListenAddrs(), 6000)
	lane := w.lane(t, "a", w.ledger(t))
	cut.Store(3)
	stop := start(t, lane)
	w.finish(t, lane)
	cut.Store(0)
	t.Logf("%d connections cut", cuts.Load())
	require.Positive(t, cuts.Load())
	stop()
	w.requireExactlyOnce(t)
}

// sleeper is a ledger in a process that is stopped in mid-page: after the first pages, one Commit
// of events waits before it begins until the process is woken.
type sleeper struct {
	*kafka.Ledger
	pages  int           // before it falls asleep
	asleep chan struct{} // closed when it has
	wake   chan struct{} // closed to wake it
	woke   chan error    // what became of the Commit that waited
}

func newSleeper(l *kafka.Ledger, pages int) *sleeper {
	return &sleeper{Ledger: l, pages: pages, asleep: make(chan struct{}), wake: make(chan struct{}), woke: make(chan error, 1)}
}

func (l *sleeper) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	if len(batch) == 0 { // a renewal, or the taking over
		return l.Ledger.Commit(ctx, batch, prev, next)
	}
	l.pages--
	if l.pages != 0 {
		return l.Ledger.Commit(ctx, batch, prev, next)
	}
	close(l.asleep)
	ctx = context.WithoutCancel(ctx) // a process that is stopped does not notice that its time is over
	select {
	case <-l.wake:
	case <-time.After(kafka.Patient):
	}
	c, err := l.Ledger.Commit(ctx, batch, prev, next)
	l.woke <- err
	return c, err
}

func goroutines() []byte {
	b := make([]byte, 4<<20)
	return b[:runtime.Stack(b, true)]
}

// receive waits for what must come from c. It says where everything stands if it does not.
func receive[T any](t testing.TB, c <-chan T, what string, lanes ...*pipeline.Lane) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(kafka.Patient):
		for _, l := range lanes {
			t.Logf("%+v", l.Status())
		}
		require.Fail(t, what, "%s", goroutines())
	}
	return v
}

// TestRivals stops one relay in mid-page for so long that another takes over. When it wakes up its
// commit is refused, and it stands by.
//
// P6: on Kafka.
func TestRivals(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, brokers []string) {
		w := newWorld(t, brokers, 4000)
		ledger := newSleeper(w.ledger(t), 6)
		first, second := w.lane(t, "a", ledger), w.lane(t, "b", w.ledger(t))
		// A fifth of it is the time between two looks of the standby, which count only if they
		// come that often.
		first.TakeoverAfter, second.TakeoverAfter = 2500*time.Millisecond, 2500*time.Millisecond
		stopA := start(t, first)
		receive(t, ledger.asleep, "the first did not get as far as to fall asleep", first)
		stopB := start(t, second)
		require.Eventually(t, func() bool { return second.Status().Events > 0 }, kafka.Patient, time.Millisecond, "the second did not take over")
		close(ledger.wake)
		err := receive(t, ledger.woke, "the commit of the one that woke up has no end", first, second)
		require.ErrorIs(t, err, checkpoint.ErrConflict)
		w.finish(t, first, second)
		stopB()
		stopA()
		w.requireExactlyOnce(t)
	})
}

// TestPoisonIsParked has the source hold events that are larger than their topic takes: they go to
// the dead letter topic in the transaction of their page.
func TestPoisonIsParked(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, brokers []string) {
		w := newWorld(t, brokers, 0)
		w.cfg.Create.Config = map[string]string{"max.message.bytes": "20000"}
		w.cfg.Compression = "none"
		w.park = true
		for i := range 300 {
			size := 100
			if i%50 == 20 {
				size = 30_000
			}
			require.NoError(t, w.api.Append(fmt.Appendf(nil, `{"object":"event","id":"event_%026d","event":"dsync.user.created","created_at":"2026-11-01T00:00:%02d.%03dZ","data":{"directory_id":"d%d","filler":%q}}`,
				i, i/10, i%10, i%7, strings.Repeat("x", size))))
		}
		lane := w.lane(t, "a", w.ledger(t))
		stop := start(t, lane)
		w.finish(t, lane)
		stop()
		w.requireExactlyOnce(t)
		require.Len(t, committed(t, brokers, w.topics()[2]), 6)
	})
}

// TestLostPosition takes the position away from a lane whose topics hold events: nothing is sent
// until an operator has decided.
func TestLostPosition(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, brokers []string) {
		for _, how := range []string{"deleted", "truncated"} {
			t.Run(how, func(t *testing.T) {
				w := newWorld(t, brokers, 300)
				lane := w.lane(t, "a", w.ledger(t))
				stop := start(t, lane)
				w.finish(t, lane)
				stop()
				w.losePosition(t, how)
				again := w.lane(t, "a", w.ledger(t))
				require.ErrorIs(t, again.Run(kafka.Within(t, kafka.Patient)), checkpoint.ErrLost)
				standby := w.lane(t, "b", w.ledger(t))
				standby.TakeoverAfter = time.Minute
				require.ErrorIs(t, standby.Run(kafka.Within(t, kafka.Patient)), checkpoint.ErrLost)
				w.requireExactlyOnce(t)
			})
		}
	})
}

// TestPositionLostWhileRunning deletes the position's topic under a lane that is at work.
func TestPositionLostWhileRunning(t *testing.T) {
	t.Parallel()
	c := kafka.Fake(t)
	w := newWorld(t, c.ListenAddrs(), 300)
	w.cfg.TransactionTimeout = time.Second
	lane := w.lane(t, "a", w.ledger(t))
	done := make(chan error, 1)
	ctx := kafka.Within(t, kafka.Patient)
	go func() { done <- lane.Run(ctx) }()
	w.finish(t, lane)
	require.NoError(t, c.DeleteTopic(kafka.PositionTopic(w.cfg.RelayID, w.cfg.Lane)))
	more := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Events: 5, Seed: 99}))
	for raw := range more.Events(sourcetest.Filter{}) {
		require.NoError(t, w.api.Append(raw))
	}
	require.ErrorIs(t, <-done, checkpoint.ErrLost)
	require.Equal(t, pipeline.Stopped, lane.Status().State)
}
