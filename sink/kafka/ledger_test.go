package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/batchtest"
	"workos-relay/sink/kafka/internal/client"
)

// worlds are the clusters that a ledger is tried on. A fake at 3.9 does not have what KIP-890 added
// in Kafka 4.
func worlds(t *testing.T, test func(t *testing.T, brokers []string)) {
	t.Run("fake", func(t *testing.T) { test(t, fake(t).ListenAddrs()) })
	t.Run("fake at 3.9", func(t *testing.T) { test(t, fake(t, kfake.MaxVersions(kversion.V3_9_0())).ListenAddrs()) })
	t.Run("real", func(t *testing.T) { test(t, realBrokers(t)) })
}

var laneNumber atomic.Int64

// uniqueLane returns a configuration whose lane no other test and no other run has.
func uniqueLane(t testing.TB, brokers []string) Config {
	cfg := config(t, brokers)
	cfg.RelayID = fmt.Sprintf("test-%d-%d", time.Now().UnixNano(), laneNumber.Add(1))
	cfg.Lane = "kafka"
	return cfg
}

func openLedger(t testing.TB, cfg Config, id checkpoint.Identity) *Ledger {
	t.Helper()
	l, err := NewLedger(cfg, id)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// fenced returns a ledger that is ready to commit.
func fenced(t testing.TB, cfg Config, topics ...string) *Ledger {
	t.Helper()
	l := openLedger(t, cfg, checkpointtest.Identity())
	ctx := within(t, patient)
	require.NoError(t, l.Prepare(ctx, topics))
	require.NoError(t, l.Fence(ctx))
	return l
}

// asStore is a ledger that fences if it finds that another has, as a checkpoint.Store.
type asStore struct{ *Ledger }

func (s asStore) Commit(ctx context.Context, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	c, err := s.Ledger.Commit(ctx, nil, prev, next)
	if errors.Is(err, errNoSession) || errors.Is(err, checkpoint.ErrConflict) {
		if err := s.Fence(ctx); err != nil {
			return c, err
		}
		return s.Ledger.Commit(ctx, nil, prev, next)
	}
	return c, err
}

// lanePlace opens stores that take UNKNOWN_SERVER_ERROR, with which a broker may answer a commit
// that a rival overtakes, for no decision.
type lanePlace struct{ cfg Config }

func (p lanePlace) Open(t *testing.T, id checkpoint.Identity) checkpoint.Store {
	l := openLedger(t, p.cfg, id)
	require.NoError(t, l.Prepare(within(t, patient), nil))
	return checkpointtest.Settled{Store: asStore{l}, Undecided: func(err error) bool { return errors.Is(err, kafkago.Unknown) }}
}

func TestLedgerIsAStore(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, brokers []string) {
		checkpointtest.Run(t, checkpointtest.Harness{
			NewPlace: func(t *testing.T) checkpointtest.Place { return lanePlace{uniqueLane(t, brokers)} },
			Durable:  true,
			Shared:   true,
		})
	})
}

// TestPlacesGoOnWithoutADecision: what lanePlace opens finds out what became of a commit that a
// broker did not decide on.
func TestPlacesGoOnWithoutADecision(t *testing.T) {
	t.Parallel()
	c := fake(t)
	place := lanePlace{uniqueLane(t, c.ListenAddrs())}
	store := place.Open(t, checkpointtest.Identity())
	first, err := store.Commit(within(t, patient), checkpoint.Checkpoint{}, checkpointtest.Full(1))
	require.NoError(t, err)
	fault := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: kerr.UnknownServerError})
	second, err := store.Commit(within(t, patient), first, checkpointtest.Full(2))
	require.NoError(t, err)
	require.NoError(t, fault.Wait(within(t, patient), 1))
	checkpointtest.RequireEqual(t, checkpointtest.Full(2), second)
	have, err := place.Open(t, checkpointtest.Identity()).Load(within(t, patient))
	require.NoError(t, err)
	require.Equal(t, second.Revision, have.Revision)
}

// FuzzPosition reads any bytes as the value of a position, and as the mark that ends a transaction.
func FuzzPosition(f *testing.F) {
	whole := checkpoint.Encode(checkpointtest.Full(1))
	f.Add(whole, []byte{0, 0, 0, 1})
	f.Add(whole[:len(whole)/2], []byte{0, 0, 0, 0})
	f.Add([]byte{}, []byte{0})
	f.Fuzz(func(t *testing.T, document, mark []byte) {
		set := slices.Concat(
			batchtest.Batch(batchtest.Header{Base: 1, Producer: 5, Flags: batchtest.Transactional}, kmsg.Record{Key: positionKey, Value: document}),
			batchtest.Batch(batchtest.Header{Base: 2, Producer: 5, Flags: batchtest.Transactional | batchtest.Control}, kmsg.Record{Key: mark}),
			batchtest.Batch(batchtest.Header{Base: 3, Producer: 6, Flags: batchtest.Transactional}, kmsg.Record{Key: positionKey, Value: mark}))
		s := scan{own: -1, open: make(map[int64]found), last: found{offset: -1}}
		next, err := client.Walk(&client.Fetched{Records: set}, 0, positionBounds, s.record)
		if err != nil {
			require.NotEqual(t, controlKeyBytes, len(mark))
			return
		}
		require.EqualValues(t, 4, next)
		committed := mark[2] == 0 && mark[3] == controlCommit
		require.Equal(t, committed, s.last.offset == 1)
		if !committed {
			return
		}
		l := &positionLog{topic: "position", id: checkpointtest.Identity()}
		c, err := l.decode(s.last.document, revisionOf(s.last.offset))
		require.EqualValues(t, 2, c.Revision)
		if err == nil {
			_, err = checkpoint.Decode(checkpoint.Encode(c))
			require.NoError(t, err)
		}
	})
}

// TestABatchThatDoesNotMoveThePositionIsStoredAsAWhole is about late events, whose places lie
// before the position: none of them becomes the position, however large a transaction may be.
func TestABatchThatDoesNotMoveThePositionIsStoredAsAWhole(t *testing.T) {
	t.Parallel()
	brokers := fake(t).ListenAddrs()
	cfg := uniqueLane(t, brokers)
	l := fenced(t, cfg, cfg.TopicPrefix+"events")
	ctx := within(t, patient)
	at := func(n int) checkpoint.Position { return checkpoint.Position{EventID: fmt.Sprintf("event_%03d", n)} }
	batch := make([]sink.Message, 50)
	for i := range batch {
		batch[i] = sink.Message{Topic: cfg.TopicPrefix + "events", Key: []byte("org_1"), Body: make([]byte, 200), Position: at(i)}
	}
	next := checkpointtest.Full(1)
	next.Position = at(900)
	first, err := l.Commit(ctx, nil, checkpoint.Checkpoint{}, next)
	require.NoError(t, err)
	l.transactor.publisher.pace.Transaction = 1000 // bytes
	late, err := l.Commit(ctx, batch, first, first)
	require.NoError(t, err)
	require.Equal(t, at(900).EventID, late.EventID)
	for _, r := range readAll(t, brokers, l.topic) {
		if string(r.Key) == string(positionKey) {
			kept, err := checkpoint.Decode(r.Value)
			require.NoError(t, err)
			require.Equal(t, at(900).EventID, kept.EventID)
		}
	}
	next.Position = at(950)
	moved, err := l.Commit(ctx, batch, late, next)
	require.NoError(t, err)
	require.Equal(t, at(950).EventID, moved.EventID)
	require.Len(t, readAll(t, brokers, cfg.TopicPrefix+"events"), 100)
}

// TestAPartOfABatchIsRecordedWithItsEvents: each transaction of a batch that goes in several ones
// leaves a position that knows the events before it. Otherwise they come twice if the lane goes on
// from there and the API repeats them. A refused type that takes part in the batch again is
// published no further than that.
func TestAPartOfABatchIsRecordedWithItsEvents(t *testing.T) {
	t.Parallel()
	brokers := fake(t).ListenAddrs()
	cfg := uniqueLane(t, brokers)
	l := fenced(t, cfg, cfg.TopicPrefix+"events")
	ctx := within(t, patient)
	at := func(n int) checkpoint.Position {
		return checkpoint.Position{EventID: fmt.Sprintf("event_%03d", n), CreatedAt: time.Unix(1_000_000, 0).UTC()}
	}
	batch := make([]sink.Message, 40)
	for i := range batch {
		batch[i] = sink.Message{Topic: cfg.TopicPrefix + "events", Key: []byte("org_1"), Body: make([]byte, 200), Position: at(i)}
	}
	prev, err := l.Commit(ctx, nil, checkpoint.Checkpoint{}, checkpoint.Checkpoint{Generation: 1, Holder: "a", Source: checkpointtest.Identity()})
	require.NoError(t, err)
	prev.Refused = []checkpoint.Refused{{Type: "joins", Position: at(39)}, {Type: "missing", Position: at(100)}} // as after the whole batch
	l.transactor.publisher.pace.Transaction = 1000                                                               // bytes
	_, err = l.Commit(ctx, batch, prev, prev.Moved(at(39), sink.Passed(batch)))
	require.NoError(t, err)
	parts := 0
	for _, r := range readAll(t, brokers, l.topic) {
		if string(r.Key) != string(positionKey) {
			continue
		}
		part, err := checkpoint.Decode(r.Value)
		require.NoError(t, err)
		n := slices.IndexFunc(batch, func(m sink.Message) bool { return m.Position.EventID == part.EventID })
		if n < 0 {
			continue // the origin
		}
		parts++
		require.Equal(t, prev.Moved(at(n), sink.Passed(batch[:n+1])).Recent, part.Recent)
		require.Equal(t, []checkpoint.Refused{{Type: "joins", Position: at(n)}, {Type: "missing", Position: at(100)}}, part.Refused)
	}
	require.Greater(t, parts, 2)
}
