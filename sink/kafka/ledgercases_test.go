package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

func adminOf(t testing.TB, brokers []string) *kadm.Client { return kadm.NewClient(reader(t, brokers)) }

func TestPositionTopicIsCompacted(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, brokers []string) {
		cfg := uniqueLane(t, brokers)
		cfg.Create.Config = map[string]string{"cleanup.policy": "delete", "retention.ms": "3600000"} // meant for events
		l := fenced(t, cfg, cfg.RelayID+".a")
		configs, err := adminOf(t, brokers).DescribeTopicConfigs(within(t, patient), l.topic)
		require.NoError(t, err)
		for _, c := range configs[0].Configs {
			if c.Key == "cleanup.policy" {
				require.Equal(t, "compact", c.MaybeValue())
			}
		}
		status, err := l.Inspect(within(t, patient), []string{cfg.RelayID + ".a"})
		require.NoError(t, err)
		require.Len(t, status, 2)
		require.Equal(t, l.topic, status[1].Topic)
		require.True(t, status[1].Exists, status[1].Problems)
	})
}

// TestPositionThatCannotBeUsed: it is refused, and replaced by who names its revision.
func TestPositionThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, brokers []string) {
		cfg := uniqueLane(t, brokers)
		id := checkpoint.Identity{Relay: cfg.RelayID, Lane: cfg.Lane, Destination: cfg.Identity()}
		other := id
		other.Organization = "org_other"
		next := checkpoint.Checkpoint{Generation: 1, Holder: "h", Source: other, Mode: checkpoint.ExactlyOnce, UpdatedAt: time.Now().UTC()}
		theirs := openLedger(t, cfg, other)
		require.NoError(t, theirs.Prepare(t.Context(), nil))
		require.NoError(t, theirs.Fence(t.Context()))
		_, err := theirs.Commit(t.Context(), nil, checkpoint.Checkpoint{}, next)
		require.NoError(t, err)

		l := openLedger(t, cfg, id)
		require.NoError(t, l.Prepare(t.Context(), nil))
		next.Source = id
		replace := func(want error, generation uint64) {
			t.Helper()
			require.NoError(t, l.Fence(t.Context()))
			found, err := l.Load(t.Context())
			require.ErrorIs(t, err, want)
			_, err = l.Commit(t.Context(), nil, found, next)
			require.ErrorIs(t, err, want, "nobody has decided yet")
			prev, err := l.LoadForReplace(t.Context())
			require.NoError(t, err)
			require.Equal(t, generation, prev.Generation)
			now, err := l.Commit(t.Context(), nil, prev, next)
			require.NoError(t, err)
			loaded, err := l.Load(t.Context())
			require.NoError(t, err)
			require.Equal(t, now, loaded)
		}
		replace(checkpoint.ErrForeign, 1)
		res := reader(t, brokers).ProduceSync(t.Context(), &kgo.Record{Topic: l.topic, Key: positionKey, Value: []byte("{}")})
		require.NoError(t, res.FirstErr())
		replace(checkpoint.ErrCorrupt, 0)
	})
}

func TestPositionTopicRefused(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, brokers []string) {
		for name, tt := range map[string]struct {
			partitions int32
			policy     string
			says       string
		}{
			"deleted by time":        {1, "delete", `cleanup.policy is "delete"`},
			"compacted and deleted":  {1, "compact,delete", `cleanup.policy is "compact,delete"`},
			"more than one place":    {2, "compact", "2 partitions"},
			"as wrong as it can be":  {3, "delete", "3 partitions"},
			"as relay would make it": {1, "compact", ""},
		} {
			t.Run(name, func(t *testing.T) {
				l := openLedger(t, uniqueLane(t, brokers), checkpointtest.Identity())
				_, err := adminOf(t, brokers).CreateTopic(within(t, patient), tt.partitions, 1, map[string]*string{"cleanup.policy": &tt.policy}, l.topic)
				require.NoError(t, err)
				err = l.Prepare(within(t, patient), nil)
				status, inspectErr := l.Inspect(within(t, patient), nil)
				require.NoError(t, inspectErr)
				if tt.says == "" {
					require.NoError(t, err)
					require.True(t, status[0].Exists)
					return
				}
				var fatal *sink.FatalError
				require.ErrorAs(t, err, &fatal)
				require.ErrorContains(t, err, tt.says)
				require.False(t, status[0].Exists)
				require.Contains(t, fmt.Sprint(status[0].Problems), tt.says)
			})
		}
	})
}

// TestPositionBehindOpenTransaction has somebody else hold a transaction open on the position's own
// partition: the last stable offset stands still, the position does not.
func TestPositionBehindOpenTransaction(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, brokers []string) {
		cfg := uniqueLane(t, brokers)
		l := fenced(t, cfg)
		prev, err := l.Commit(within(t, patient), nil, checkpoint.Checkpoint{}, checkpointtest.Full(1))
		require.NoError(t, err)
		other := reader(t, brokers, kgo.TransactionalID(cfg.RelayID+"-other"), kgo.TransactionTimeout(5*time.Minute), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		require.NoError(t, other.BeginTransaction())
		require.NoError(t, other.ProduceSync(within(t, patient), &kgo.Record{Topic: l.topic, Key: positionKey, Value: checkpoint.Encode(checkpointtest.Full(99))}).FirstErr())
		for n := 2; n < 100; n++ {
			prev, err = l.Commit(within(t, patient), nil, prev, checkpointtest.Full(n))
			require.NoError(t, err)
		}
		stable, err := adminOf(t, brokers).ListCommittedOffsets(within(t, patient), l.topic)
		require.NoError(t, err)
		at, _ := stable.Lookup(l.topic, 0)
		require.Less(t, at.Offset, int64(4), "the transaction does not hold the last stable offset back")
		have, err := openLedger(t, cfg, checkpointtest.Identity()).Load(within(t, patient))
		require.NoError(t, err)
		// The last one's end may not be written yet, for which nobody waits who only looks.
		require.GreaterOrEqual(t, have.Revision, prev.Revision-2)
		require.NoError(t, other.EndTransaction(within(t, patient), kgo.TryAbort))
	})
}

// TestAmbiguousCommit loses the answer of the commit: every reader sees as current what the cluster
// did.
func TestAmbiguousCommit(t *testing.T) {
	t.Parallel()
	for name, applied := range map[string]bool{"applied": true, "not applied": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := fake(t)
			cfg := uniqueLane(t, c.ListenAddrs())
			l := fenced(t, cfg, "a")
			first, err := l.Commit(t.Context(), messages(0, 20, "a"), checkpoint.Checkpoint{}, checkpointtest.Full(1))
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			gaveUp := make(chan struct{})
			c.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
				cancel()
				if applied {
					c.SleepControl(func() { <-gaveUp }) // the answer comes too late
				}
				return nil, errors.New("cut"), !applied
			})
			commits := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Observe: true, Count: -1})
			_, err = l.Commit(ctx, messages(20, 20, "a"), first, checkpointtest.Full(2))
			require.Error(t, err)
			close(gaveUp)
			if applied {
				require.NoError(t, commits.Wait(within(t, patient), 1))
			}
			require.NotErrorIs(t, err, checkpoint.ErrConflict)
			_, err = l.Commit(t.Context(), nil, first, checkpointtest.Full(3))
			require.ErrorIs(t, err, errNoSession, "a session that went wrong goes on")

			watch := openLedger(t, cfg, checkpointtest.Identity())
			want := checkpointtest.Full(1)
			if applied {
				want = checkpointtest.Full(2)
			}
			require.NoError(t, watch.Fence(t.Context()))
			have, err := watch.Load(t.Context())
			require.NoError(t, err)
			checkpointtest.RequireEqual(t, want, have)
			_, err = watch.Commit(t.Context(), messages(40, 20, "a"), have, checkpointtest.Full(4))
			require.NoError(t, err)
		})
	}
}

// TestCommitCutShort ends the context in the middle of a transaction. It must not be gone on with:
// what it stored already would be committed together with what comes next.
func TestCommitCutShort(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]kfake.Fault{
		"not begun":  {Keys: []kmsg.Key{kmsg.AddPartitionsToTxn}, Err: kerr.CoordinatorLoadInProgress, Count: -1},
		"not stored": {Keys: []kmsg.Key{kmsg.Produce}, Topic: "a", Partitions: []int32{1}, Err: kerr.NotEnoughReplicas, Count: -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := fake(t)
			l := fenced(t, uniqueLane(t, c.ListenAddrs()), "a")
			first, err := l.Commit(t.Context(), messages(0, 60, "a"), checkpoint.Checkpoint{}, checkpointtest.Full(1))
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(within(t, patient))
			handle := c.Fault(fault)
			go func() {
				_ = handle.Wait(ctx, 3)
				cancel()
			}()
			batch := messages(60, 60, "a")
			_, err = l.Commit(ctx, batch, first, checkpointtest.Full(2))
			require.ErrorIs(t, err, context.Canceled)
			handle.Remove()
			_, err = l.Commit(t.Context(), batch, first, checkpointtest.Full(2))
			require.ErrorIs(t, err, errNoSession)

			require.NoError(t, l.Fence(t.Context()))
			have, err := l.Load(t.Context())
			require.NoError(t, err)
			checkpointtest.RequireEqual(t, checkpointtest.Full(1), have)
			_, err = l.Commit(t.Context(), batch, have, checkpointtest.Full(2))
			require.NoError(t, err)
			_, found := scanAll(t, l.sink, time.Time{}, "a")
			n := 0
			for _, list := range found {
				n += len(list)
			}
			require.Equal(t, 120, n)
		})
	}
}

// TestCommitWhileARivalTakesOver: the coordinator asks for patience first, and then knows the rival
// alone.
func TestCommitWhileARivalTakesOver(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		answer   *kerr.Error
		conflict bool
	}{
		{kerr.ConcurrentTransactions, true},
		{kerr.NotCoordinator, false}, // it may have been the answer to a commit that was written
	} {
		t.Run(tt.answer.Message, func(t *testing.T) {
			t.Parallel()
			c := fake(t)
			cfg := uniqueLane(t, c.ListenAddrs())
			l := fenced(t, cfg, "a")
			first, err := l.Commit(t.Context(), messages(0, 20, "a"), checkpoint.Checkpoint{}, checkpointtest.Full(1))
			require.NoError(t, err)
			rival := openLedger(t, cfg, checkpointtest.Identity())
			handle := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: tt.answer, Count: -1})
			taken := make(chan error, 1)
			go func() {
				err := handle.Wait(t.Context(), 1)
				taken <- errors.Join(err, rival.Fence(t.Context()))
				handle.Remove()
			}()
			_, err = l.Commit(t.Context(), messages(20, 20, "a"), first, checkpointtest.Full(2))
			require.NoError(t, <-taken)
			require.Error(t, err)
			require.Equal(t, tt.conflict, errors.Is(err, checkpoint.ErrConflict), "%v", err)
			have, err := rival.Load(t.Context())
			require.NoError(t, err)
			checkpointtest.RequireEqual(t, checkpointtest.Full(1), have)
		})
	}
}

// TestPositionFarFromTheEnd puts several hundred aborted positions behind the current one.
func TestPositionFarFromTheEnd(t *testing.T) {
	t.Parallel()
	c := fake(t)
	cfg := uniqueLane(t, c.ListenAddrs())
	l := fenced(t, cfg)
	first, err := l.Commit(t.Context(), nil, checkpoint.Checkpoint{}, checkpointtest.Full(1))
	require.NoError(t, err)
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.EndTxn}, TopLevel: true, Err: kerr.UnknownServerError, Count: -1})
	for n := range 200 {
		_, err := l.Commit(t.Context(), nil, first, checkpointtest.Full(2+n))
		require.Error(t, err)
		require.NoError(t, l.Fence(t.Context()))
	}
	have, err := openLedger(t, cfg, checkpointtest.Identity()).Load(t.Context())
	require.NoError(t, err)
	checkpointtest.RequireEqual(t, checkpointtest.Full(1), have)
	require.Equal(t, first.Revision, have.Revision)
}

// TestCommitRejectsWhatIsTooLarge finds the message before anything is begun, so that the session
// goes on.
func TestCommitRejectsWhatIsTooLarge(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, brokers []string) {
		cfg := uniqueLane(t, brokers)
		cfg.Compression = "none"
		topic := cfg.RelayID + ".a"
		cfg.Create.Config = map[string]string{"max.message.bytes": "20000"}
		l := fenced(t, cfg, topic)
		batch := messages(0, 300, topic)
		for i := range batch {
			batch[i].Body = append(batch[i].Body, make([]byte, 2000)...) // several record batches for each partition
		}
		small := batch[17].Body
		batch[17].Body = make([]byte, 30_000)
		_, err := l.Commit(within(t, patient), batch, checkpoint.Checkpoint{}, checkpointtest.Full(1))
		var rejected *sink.RejectedError
		require.ErrorAs(t, err, &rejected)
		require.Equal(t, 17, sink.Durable(err, len(batch)))
		require.Equal(t, 20000, rejected.Limit)
		require.Empty(t, readAll(t, brokers, topic))
		batch[17].Body = small
		_, err = l.Commit(within(t, patient), batch, checkpoint.Checkpoint{}, checkpointtest.Full(1))
		require.NoError(t, err, "the session is over although nothing was begun")
		require.Len(t, readAllControlled(t, brokers, topic), len(batch))
	})
}

// readAllControlled counts the records of a topic that transactions wrote to.
func readAllControlled(t testing.TB, brokers []string, topic string) []*kgo.Record {
	cl := reader(t, brokers, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	ctx := within(t, patient)
	var records []*kgo.Record
	for len(records) < 300 && ctx.Err() == nil {
		records = append(records, cl.PollFetches(ctx).Records()...)
	}
	return records
}

// TestWhoCannotDoTransactions tells a cluster without transactions from one that does not let relay
// use them now.
func TestWhoCannotDoTransactions(t *testing.T) {
	t.Parallel()
	t.Run("old cluster", func(t *testing.T) {
		c := fake(t, kfake.MaxVersions(kversion.V0_10_2()))
		err := openLedger(t, uniqueLane(t, c.ListenAddrs()), checkpointtest.Identity()).Transactions(within(t, patient))
		require.ErrorIs(t, err, ErrNoTransactions)
	})
	for _, tt := range []struct {
		err  *kerr.Error
		none bool
		says string
	}{
		{kerr.UnsupportedVersion, true, "at_least_once"},
		{kerr.TransactionalIDAuthorizationFailed, false, "--operation Write --operation Describe --transactional-id relay-"},
		{kerr.InvalidTransactionTimeout, false, "transaction.max.timeout.ms"},
	} {
		t.Run(tt.err.Message, func(t *testing.T) {
			c := fake(t)
			l := openLedger(t, uniqueLane(t, c.ListenAddrs()), checkpointtest.Identity())
			require.NoError(t, l.Prepare(t.Context(), nil))
			require.NoError(t, l.Transactions(t.Context()))
			c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, TopLevel: true, Err: tt.err, Count: -1})
			err := l.Fence(within(t, patient))
			var fatal *sink.FatalError
			require.ErrorAs(t, err, &fatal)
			require.ErrorContains(t, err, tt.says)
			if tt.none {
				require.ErrorIs(t, err, ErrNoTransactions)
				return
			}
			require.NotErrorIs(t, err, ErrNoTransactions)
		})
	}
}

// TestTransactionTimesOut leaves a transaction open until the coordinator aborts it: the session is
// refused as if it had been fenced, the position is the last one, and the next Fence goes on.
func TestTransactionTimesOut(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, brokers []string) {
		cfg := uniqueLane(t, brokers)
		cfg.TransactionTimeout = 5 * time.Second // for the commits, too
		topic := cfg.RelayID + ".a"
		l := fenced(t, cfg, topic)
		first, err := l.Commit(within(t, patient), messages(0, 10, topic), checkpoint.Checkpoint{}, checkpointtest.Full(1))
		require.NoError(t, err)
		require.NoError(t, l.coordinator.Add(within(t, patient), l.sink.publisher.session, []client.Partition{{Topic: topic}, {Topic: l.topic}}))
		admin := adminOf(t, brokers)
		require.Eventually(t, func() bool {
			described, err := admin.DescribeTransactions(within(t, patient), l.coordinator.ID)
			return err == nil && described[l.coordinator.ID].Err == nil && described[l.coordinator.ID].State != "Ongoing"
		}, patient, 100*time.Millisecond, "the transaction stays open")
		_, err = l.Commit(within(t, patient), nil, first, checkpointtest.Full(2))
		require.ErrorIs(t, err, checkpoint.ErrConflict)
		have, err := l.Load(within(t, patient))
		require.NoError(t, err)
		require.Equal(t, first.Revision, have.Revision)
		require.NoError(t, l.Fence(within(t, patient)))
		_, err = l.Commit(within(t, patient), messages(10, 10, topic), have, checkpointtest.Full(2))
		require.NoError(t, err)
	})
}

// TestRealLedgerPermissions gives relay first everything but the transactional id.
func TestRealLedgerPermissions(t *testing.T) {
	plain := realBrokers(t)
	cfg := uniqueLane(t, plain)
	topic := cfg.RelayID + ".a"
	require.NoError(t, openLedger(t, cfg, checkpointtest.Identity()).Prepare(within(t, patient), []string{topic}))
	admin := adminOf(t, plain)
	grant := func(b *kadm.ACLBuilder) {
		_, err := admin.CreateACLs(within(t, patient), b.ResourcePatternType(kadm.ACLPatternLiteral).Allow("User:relay").AllowHosts("*"))
		require.NoError(t, err)
	}
	grant(kadm.NewACLs().Topics(topic, PositionTopic(cfg.RelayID, cfg.Lane)).Operations(kadm.OpWrite, kadm.OpDescribe))
	grant(kadm.NewACLs().Topics(PositionTopic(cfg.RelayID, cfg.Lane)).Operations(kadm.OpRead, kadm.OpDescribeConfigs))
	host, port, err := net.SplitHostPort(plain[0])
	require.NoError(t, err)
	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	cfg.Brokers = []string{net.JoinHostPort(host, strconv.Itoa(number+20))}
	cfg.SASL = SASL{Mechanism: saslSCRAM256, User: "relay", Password: "relay-secret"}
	l := openLedger(t, cfg, checkpointtest.Identity())
	for _, err := range []error{l.Prepare(within(t, patient), []string{topic}), l.Transactions(within(t, patient)), l.Fence(within(t, patient))} {
		var fatal *sink.FatalError
		require.ErrorAs(t, err, &fatal)
		require.NotErrorIs(t, err, ErrNoTransactions)
		require.ErrorContains(t, err, "--transactional-id relay-")
	}
	grant(kadm.NewACLs().TransactionalIDs(l.coordinator.ID).Operations(kadm.OpWrite, kadm.OpDescribe))
	require.Eventually(t, func() bool { return l.Fence(within(t, patient)) == nil }, patient, 100*time.Millisecond)
	require.NoError(t, l.Transactions(within(t, patient)))
	require.Eventually(t, func() bool { return l.Prepare(within(t, patient), []string{topic}) == nil }, patient, 100*time.Millisecond)
	c, err := l.Commit(within(t, patient), messages(0, 50, topic), checkpoint.Checkpoint{}, checkpointtest.Full(1))
	require.NoError(t, err)
	have, err := l.Load(within(t, patient))
	require.NoError(t, err)
	require.Equal(t, c.Revision, have.Revision)
}
