package kafka

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"
	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
	"workos-relay/sink/kafka/internal/client"
)

// placed returns a delivery to topic "a" with its messages in the queues of partitions that these
// brokers lead.
func placed(t *testing.T, leaders ...int32) *delivery {
	t.Helper()
	d := newDelivery(t.Context(), open(t, config(t, []string{"127.0.0.1:1"})).publisher, messages(0, 40, "a"))
	t.Cleanup(func() { _ = d.stop() })
	d.placer.sort()
	d.layout = &client.Layout{Topics: map[string]client.TopicLayout{"a": {Leaders: leaders, Limit: client.Limit{Bytes: client.DefaultMessageBytes}}}}
	d.locating.wanted = false
	d.placer.assignPartitions()
	require.Len(t, d.sender.queues, len(leaders))
	return d
}

// TestLeaderIsLookedForBesideOtherRequests: what is under way to another broker may take as long as
// request_timeout.
func TestLeaderIsLookedForBesideOtherRequests(t *testing.T) {
	t.Parallel()
	d := placed(t, 1, -1)
	d.p.session = client.Session{ID: 7}
	d.launch(time.Now())
	require.Equal(t, map[int32]int{1: 1}, d.sender.busy)
	require.True(t, d.locating.busy)
}

// TestFailedTransactionSendsNothingMore: what is under way is waited for, and nothing is sent that
// would only be aborted.
func TestFailedTransactionSendsNothingMore(t *testing.T) {
	t.Parallel()
	d := placed(t, 1, 2)
	d.p.session = client.Session{ID: 7}
	d.txn = &transaction{coordinator: &client.Coordinator{}, enlisted: true}
	d.fail(30, errors.New("too large"))
	d.launch(time.Now())
	require.Empty(t, d.sender.busy)
	require.True(t, d.finished())
}

// TestSessionThatAPartitionForgot: another epoch of the same producer id is not a new session. The
// leader may remember batches of it.
func TestSessionThatAPartitionForgot(t *testing.T) {
	t.Parallel()
	d := placed(t, 1)
	d.p.session = client.Session{ID: 7}
	q := d.sender.queues[0]
	q.place.Adopt(d.p.session)
	q.place.Restart()
	q.pending = &recordBatch{session: q.place.Session, records: 1}
	d.sender.reorder(q, kafkago.UnknownProducerId, false)
	require.False(t, d.sender.enrolled(q), "goes on as %+v", q.place.Session)
	require.True(t, d.sender.opening.wanted)
}

// watchedCodec calls begin before it compresses.
type watchedCodec struct {
	compress.Codec
	begin func()
}

func (c *watchedCodec) NewWriter(w io.Writer) io.WriteCloser {
	c.begin()
	return c.Codec.NewWriter(w)
}

// TestNothingReadsTheBatchAfterwards ends the context while messages are encoded: their memory is
// the caller's again afterwards, so what reads it is waited for.
func TestNothingReadsTheBatchAfterwards(t *testing.T) {
	t.Parallel()
	c := fake(t)
	l := fenced(t, uniqueLane(t, c.ListenAddrs()), "a")
	s := prepared(t, c, "a")
	for name, tt := range map[string]struct {
		sink *Sink
		send func(ctx context.Context) error
	}{
		"publish": {s, func(ctx context.Context) error { return s.Publish(ctx, messages(0, 20, "a")) }},
		"commit": {l.sink, func(ctx context.Context) error {
			_, err := l.Commit(ctx, messages(0, 20, "a"), checkpoint.Checkpoint{}, checkpointtest.Full(1))
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			returned := make(chan struct{})
			var encoded, late atomic.Int32
			tt.sink.publisher.codec = &watchedCodec{tt.sink.publisher.codec, func() {
				cancel()
				encoded.Add(1)
				select {
				case <-returned:
					late.Add(1)
				case <-time.After(50 * time.Millisecond):
				}
			}}
			require.ErrorIs(t, tt.send(ctx), context.Canceled)
			close(returned)
			require.Positive(t, encoded.Load())
			require.Zero(t, late.Load())
		})
	}
}
