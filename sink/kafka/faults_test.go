package kafka

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// TestPassingFaults injects what a broker answers when something passes by itself, on the first
// message of a partition and in the middle of the flow: nothing is lost, stored twice or reordered,
// and Publish reports no error.
func TestPassingFaults(t *testing.T) {
	t.Parallel()
	for _, err := range []*kerr.Error{
		kerr.RequestTimedOut,              // kfake stores the batch
		kerr.NotEnoughReplicasAfterAppend, // kfake stores the batch
		kerr.NotEnoughReplicas,
		kerr.NotLeaderForPartition,
		kerr.LeaderNotAvailable,
		kerr.UnknownTopicOrPartition,
		kerr.KafkaStorageError,
		kerr.NetworkException,
		kerr.CoordinatorLoadInProgress,
		kerr.FencedLeaderEpoch,
		kerr.UnknownServerError,
		kerr.TopicAuthorizationFailed, // an authorizer that starts late
		kerr.CorruptMessage,
	} {
		t.Run(err.Message, func(t *testing.T) {
			t.Parallel()
			c := fake(t)
			s := prepared(t, c, "a", "b")
			ctx := within(t, patient)
			handle := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "a", Err: err, Count: 3})
			batch := messages(0, 400, "a", "b")
			require.NoError(t, s.Publish(ctx, batch[:200]))
			require.NoError(t, handle.Wait(ctx, 3))
			handle = c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: err, Count: 5})
			require.NoError(t, s.Publish(ctx, batch[200:]))
			require.NoError(t, handle.Wait(ctx, 5))
			requireStored(t, c.ListenAddrs(), batch, "a", "b")
		})
	}
}

func TestProducerIDFaultsPass(t *testing.T) {
	t.Parallel()
	c := fake(t)
	s := prepared(t, c, "a")
	handle := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, TopLevel: true, Err: kerr.CoordinatorLoadInProgress, Count: 3})
	batch := messages(0, 50, "a")
	require.NoError(t, s.Publish(within(t, patient), batch))
	require.NoError(t, handle.Wait(t.Context(), 3))
	requireStored(t, c.ListenAddrs(), batch, "a")
}

// moveLeaders moves the leaders of all partitions at every n-th produce request, and counts how
// often. It follows the traffic and not a clock, by which a slow machine would never reach a leader
// before that has moved.
func moveLeaders(c *kfake.Cluster, n int) *atomic.Int64 {
	var moves atomic.Int64
	requests := 0
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		if requests++; requests%n == 0 {
			c.ShufflePartitionLeaders()
			moves.Add(1)
		}
		return nil, nil, false
	})
	return &moves
}

// TestLeadersMove moves leaders all the while.
func TestLeadersMove(t *testing.T) {
	t.Parallel()
	c := fake(t)
	s := prepared(t, c, "a", "b", "c")
	ctx := within(t, patient)
	moved := moveLeaders(c, 5)
	var sent []sink.Message
	for moved.Load() < 15 {
		batch := messages(len(sent), 100, "a", "b", "c")
		require.NoError(t, s.Publish(ctx, batch))
		sent = append(sent, batch...)
	}
	t.Logf("%d messages", len(sent))
	requireStored(t, c.ListenAddrs(), sent, "a", "b", "c")
}

// TestConnectionsDrop cuts connections at every stage: before the request is through, and after the
// broker has stored the batch but before its answer is through.
func TestConnectionsDrop(t *testing.T) {
	t.Parallel()
	var cut atomic.Int64
	c := fake(t, kfake.ListenFn(func(network, address string) (net.Listener, error) {
		l, err := net.Listen(network, address)
		return newCuttingListener(l, &cut, nil), err
	}))
	s := prepared(t, c, "a", "b")
	ctx := within(t, patient)
	var sent []sink.Message
	for i := range 20 {
		cut.Store(int64(1 + i%5)) // bytes of answers or reads from now on
		batch := messages(i*50, 50, "a", "b")
		require.NoError(t, s.Publish(ctx, batch))
		sent = append(sent, batch...)
	}
	cut.Store(0)
	requireStored(t, c.ListenAddrs(), sent, "a", "b")
}

// cuttingListener makes connections of which one breaks at the n-th read or write after n was set:
// once, or for as long as again sets the next n.
type cuttingListener struct {
	net.Listener
	after *atomic.Int64
	again func() int64 // nil: once
}

func newCuttingListener(l net.Listener, after *atomic.Int64, again func() int64) net.Listener {
	return cuttingListener{l, after, again}
}

func (l cuttingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &cuttingConn{Conn: c, after: l.after, again: l.again}, nil
}

type cuttingConn struct {
	net.Conn
	after *atomic.Int64
	again func() int64
}

func (c *cuttingConn) tick() bool {
	for {
		n := c.after.Load()
		if n <= 0 {
			return false
		}
		next := n - 1
		if next == 0 && c.again != nil {
			next = c.again()
		}
		if c.after.CompareAndSwap(n, next) {
			return n == 1
		}
	}
}

func (c *cuttingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.tick() {
		_ = c.Close()
	}
	return n, err
}

func (c *cuttingConn) Write(b []byte) (int, error) {
	if c.tick() {
		_ = c.Close()
		return 0, net.ErrClosed
	}
	return c.Conn.Write(b)
}

// TestSlowBroker answers late, so that relay gives up on requests that the broker stores after all.
func TestSlowBroker(t *testing.T) {
	t.Parallel()
	c := fake(t, kfake.NumBrokers(1))
	prepared(t, c, "a")
	cfg := config(t, c.ListenAddrs())
	cfg.RequestTimeout = 500 * time.Millisecond
	s := open(t, cfg)
	ctx := within(t, patient)
	var slow atomic.Int64
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if slow.Add(1)%3 == 1 {
			c.SleepControl(func() { time.Sleep(600 * time.Millisecond) })
		}
		return nil, nil, false
	})
	var sent []sink.Message
	for i := range 6 {
		batch := messages(i*50, 50, "a")
		require.NoError(t, s.Publish(ctx, batch))
		sent = append(sent, batch...)
	}
	requireStored(t, c.ListenAddrs(), sent, "a")
}

// TestStuckLeaderHoldsBackNobody stops one partition only: the others go on, and the durable prefix
// ends before the first message of the stuck one.
func TestStuckLeaderHoldsBackNobody(t *testing.T) {
	t.Parallel()
	c := fake(t)
	s := prepared(t, c, "a", "b")
	handle := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "b", Err: kerr.NotEnoughReplicas, Count: -1})
	batch := append(messages(0, 10, "a"), messages(10, 1, "b")...)
	batch = append(batch, messages(11, 30, "a")...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	published := make(chan error, 1)
	go func() { published <- s.Publish(ctx, batch) }()
	require.Eventually(t, func() bool { return len(readAll(t, c.ListenAddrs(), "a")) == 40 }, patient, 20*time.Millisecond)
	require.NoError(t, handle.Wait(within(t, patient), handle.Hits()+3)) // by then the answers for a are through
	cancel()
	err := <-published
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "fewer replicas in sync")
	require.Equal(t, 10, sink.Durable(err, len(batch)))
	handle.Remove()
	require.NoError(t, s.Publish(t.Context(), batch[10:11]))
	require.Len(t, readAll(t, c.ListenAddrs(), "b"), 1)
}

// TestDoubtAfterCancel ends the context while a batch is stored but not acknowledged. What is
// published again is recognised, and nothing is there twice.
func TestDoubtAfterCancel(t *testing.T) {
	t.Parallel()
	c := fake(t, kfake.NumBrokers(1))
	s := prepared(t, c, "a")
	require.NoError(t, s.Publish(t.Context(), messages(0, 20, "a")))
	handle := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut, Count: -1})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	batch := messages(20, 20, "a")
	published := make(chan error, 1)
	go func() { published <- s.Publish(ctx, batch) }()
	require.NoError(t, handle.Wait(within(t, patient), 2))
	cancel()
	err := <-published
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, sink.Durable(err, len(batch)))
	handle.Remove()
	require.NoError(t, s.Publish(t.Context(), batch))
	require.NoError(t, s.Publish(t.Context(), messages(40, 20, "a")))
	requireStored(t, c.ListenAddrs(), messages(0, 60, "a"), "a")
}

// TestTopicMadeAnew deletes and creates a topic between two batches: the partition no longer knows
// the sequence numbers.
func TestTopicMadeAnew(t *testing.T) {
	t.Parallel()
	c := fake(t)
	s := prepared(t, c, "a")
	require.NoError(t, s.Publish(t.Context(), messages(0, 100, "a")))
	require.NoError(t, c.DeleteTopic("a"))
	require.NoError(t, c.CreateTopic("a", 6, nil))
	batch := messages(100, 200, "a")
	rest := batch
	for tries := 0; len(rest) > 0; tries++ {
		// An error is right if a former leader was asked first, since that leaves a doubt.
		require.Less(t, tries, 3)
		rest = rest[sink.Durable(s.Publish(within(t, patient), rest), len(rest)):]
	}
	require.GreaterOrEqual(t, len(readAll(t, c.ListenAddrs(), "a")), len(batch))
}

// TestPartitionsChange raises the count of a topic, and then makes it again with fewer: the sink
// goes on, and says what it means.
func TestPartitionsChange(t *testing.T) {
	t.Parallel()
	c := fake(t)
	logs, seen := observer.New(zapcore.WarnLevel)
	cfg := config(t, c.ListenAddrs())
	cfg.Logger = zap.New(logs)
	s := open(t, cfg)
	require.NoError(t, s.Prepare(t.Context(), []string{"a"}))
	require.NoError(t, s.Publish(t.Context(), messages(0, 100, "a")))
	admin := kadm.NewClient(reader(t, c.ListenAddrs()))
	_, err := admin.UpdatePartitions(t.Context(), 12, "a")
	require.NoError(t, err)
	s.cluster.Refresh() // as happens within seconds
	require.NoError(t, s.Publish(t.Context(), messages(100, 100, "a")))
	require.NotZero(t, seen.FilterMessageSnippet("number of partitions has changed").Len())
	require.Len(t, readAll(t, c.ListenAddrs(), "a"), 200)

	require.NoError(t, c.DeleteTopic("a"))
	require.NoError(t, c.CreateTopic("a", 2, nil))
	batch := messages(200, 100, "a")
	for tries := 0; len(batch) > 0; tries++ {
		require.Less(t, tries, 3)
		batch = batch[sink.Durable(s.Publish(within(t, patient), batch), len(batch)):]
	}
	require.GreaterOrEqual(t, len(readAll(t, c.ListenAddrs(), "a")), 100)
}

// TestPartitionsOutOfSight: a layout that is out of date shows fewer partitions for a moment. In
// those that come back the numbers go on; beginning again, the broker would take the next record
// for a second copy of the first and store nothing.
func TestPartitionsOutOfSight(t *testing.T) {
	t.Parallel()
	s := open(t, config(t, []string{"127.0.0.1:1"}))
	batch := messages(0, 40, "a")
	places := func(partitions int) map[int32]*client.Sequence {
		d := newDelivery(t.Context(), s.publisher, batch)
		defer d.cancel()
		d.placer.sort()
		d.placer.distribute(d.placer.waiting["a"], client.TopicLayout{Leaders: make([]int32, partitions)})
		found := make(map[int32]*client.Sequence)
		for _, q := range d.sender.queues {
			found[q.partition] = q.place
		}
		return found
	}
	before := places(6)
	require.Greater(t, len(before), 2)
	for _, place := range before {
		place.Adopt(client.Session{ID: 1})
		place.Advance(1)
	}
	places(2)
	for p, place := range places(6) {
		require.EqualValues(t, 1, place.Next, "partition %d", p)
	}
}

// TestSequenceErrors covers answers about the sequence number: in no doubt the sink goes on by
// itself, in doubt it hands the question to its caller.
func TestSequenceErrors(t *testing.T) {
	t.Parallel()
	for _, answer := range []*kerr.Error{kerr.OutOfOrderSequenceNumber, kerr.UnknownProducerID, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping} {
		t.Run(answer.Message, func(t *testing.T) {
			t.Parallel()
			c := fake(t)
			s := prepared(t, c, "a")
			batch := messages(0, 300, "a")
			require.NoError(t, s.Publish(t.Context(), batch[:100]))
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "a", Err: answer})
			require.NoError(t, s.Publish(within(t, patient), batch[100:200]))
			requireStored(t, c.ListenAddrs(), batch[:200], "a")

			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "a", Partitions: []int32{1}, Err: kerr.RequestTimedOut},
				kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "a", Partitions: []int32{1}, Err: answer})
			err := s.Publish(within(t, patient), batch[200:])
			require.ErrorIs(t, err, kafkaError(answer))
			durable := sink.Durable(err, 100)
			require.Less(t, durable, 100)
			require.EqualValues(t, 1, partitionOf(batch[200+durable].Key, partitionNumbers(6)))
			require.NoError(t, s.Publish(within(t, patient), batch[200+durable:]))
		})
	}
}

// TestDuplicateSequenceCounts takes the answer of a broker that has stored the batch already as an
// acknowledgement.
func TestDuplicateSequenceCounts(t *testing.T) {
	t.Parallel()
	c := fake(t)
	s := prepared(t, c, "a")
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "a", Err: kerr.RequestTimedOut},
		kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "a", Err: kerr.DuplicateSequenceNumber})
	batch := messages(0, 1, "a")
	require.NoError(t, s.Publish(within(t, patient), batch))
	requireStored(t, c.ListenAddrs(), batch, "a")
}

// TestTopicAppearsLater publishes to a topic that somebody else creates only afterwards.
func TestTopicAppearsLater(t *testing.T) {
	t.Parallel()
	c := fake(t)
	s := prepared(t, c, "a")
	batch := messages(0, 40, "a", "late")
	done := make(chan error, 1)
	go func() { done <- s.Publish(within(t, patient), batch) }()
	require.Eventually(t, func() bool { return len(readAll(t, c.ListenAddrs(), "a")) == 20 }, patient, 20*time.Millisecond)
	select {
	case err := <-done:
		require.Fail(t, "published to a topic that is not there", "%v", err)
	default:
	}
	require.NoError(t, c.CreateTopic("late", 2, nil))
	require.NoError(t, <-done)
	requireStored(t, c.ListenAddrs(), batch, "a", "late")
}
