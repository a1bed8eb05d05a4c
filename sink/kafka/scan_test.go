package kafka

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"workos-relay/sink"
)

// scanAll returns what a scan of the topics hands on, by log.
func scanAll(t *testing.T, s *Sink, since time.Time, topics ...string) (logs []sink.Log, found map[string][]sink.Stored) {
	t.Helper()
	logs, err := s.Logs(within(t, patient), topics, since)
	require.NoError(t, err)
	found = make(map[string][]sink.Stored)
	for _, l := range logs {
		require.NoError(t, s.Scan(within(t, patient), l, func(m *sink.Stored) error {
			found[l.Name] = append(found[l.Name], *m)
			return nil
		}))
	}
	return logs, found
}

func TestScanReturnsWhatWasPublished(t *testing.T) {
	t.Parallel()
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			c := fake(t)
			cfg := config(t, c.ListenAddrs())
			cfg.Compression = codec
			s := open(t, cfg)
			require.NoError(t, s.Prepare(within(t, patient), []string{"users", "groups"}))
			batch := messages(0, 3000, "users", "groups")
			require.NoError(t, s.Publish(within(t, patient), batch))
			_, found := scanAll(t, s, time.Time{}, "users", "groups", "not.there")
			want := make(map[string][]sink.Message)
			for _, m := range batch {
				name := fmt.Sprintf("%s/%d", m.Topic, partitionOf(m.Key, partitionNumbers(6)))
				want[name] = append(want[name], m)
			}
			require.Len(t, found, len(want))
			for name, list := range found {
				require.Len(t, list, len(want[name]))
				for i, m := range list {
					w := want[name][i]
					require.Equal(t, []any{w.Topic, string(w.Body), w.Headers, int64(i)}, []any{m.Topic, string(m.Body), m.Headers, m.Offset})
					require.WithinDuration(t, time.Now(), m.Time, time.Minute)
				}
			}
		})
	}
}

// begin opens a transaction and publishes one record for each value.
func begin(t *testing.T, cl *kgo.Client, values ...string) {
	t.Helper()
	require.NoError(t, cl.BeginTransaction())
	more(t, cl, values...)
}

func more(t *testing.T, cl *kgo.Client, values ...string) {
	t.Helper()
	for _, v := range values {
		require.NoError(t, cl.ProduceSync(within(t, patient), &kgo.Record{Topic: "users", Value: []byte(v)}).FirstErr())
	}
}

func end(t *testing.T, cl *kgo.Client, how kgo.TransactionEndTry) {
	t.Helper()
	require.NoError(t, cl.EndTransaction(within(t, patient), how))
}

func bodies(list []sink.Stored) []string {
	var out []string
	for _, m := range list {
		out = append(out, string(m.Body))
	}
	return out
}

// TestScanReadsCommitted interleaves transactions of two producers with records outside of any, and
// ends with one that is open.
func TestScanReadsCommitted(t *testing.T) {
	t.Parallel()
	c := fake(t)
	cfg := config(t, c.ListenAddrs())
	cfg.Create.Partitions = 1
	s := open(t, cfg)
	require.NoError(t, s.Prepare(within(t, patient), []string{"users"}))
	one := reader(t, c.ListenAddrs(), kgo.TransactionalID("one"), kgo.DefaultProduceTopic("users"))
	two := reader(t, c.ListenAddrs(), kgo.TransactionalID("two"))
	plain := reader(t, c.ListenAddrs())

	begin(t, one, "aborted 1")
	begin(t, two, "committed 1")
	more(t, plain, "plain 1")
	more(t, one, "aborted 2")
	end(t, one, kgo.TryAbort)
	more(t, two, "committed 2")
	begin(t, one, "committed 3")
	end(t, two, kgo.TryCommit)
	end(t, one, kgo.TryCommit)
	begin(t, two, "aborted 3")
	more(t, plain, "plain 2")
	end(t, two, kgo.TryAbort)
	more(t, plain, "plain 3")
	begin(t, one, "open")
	more(t, plain, "behind an open one")

	want := []string{"committed 1", "plain 1", "committed 2", "committed 3", "plain 2", "plain 3"}
	_, found := scanAll(t, s, time.Time{}, "users")
	require.Equal(t, want, bodies(found["users/0"]))
	end(t, one, kgo.TryAbort)
	_, found = scanAll(t, s, time.Time{}, "users")
	require.Equal(t, append(want, "behind an open one"), bodies(found["users/0"]))
}

func TestScanFromATimeAndBehindRetention(t *testing.T) {
	t.Parallel()
	c := fake(t)
	s := prepared(t, c, "users")
	old := messages(0, 60, "users")
	require.NoError(t, s.Publish(within(t, patient), old))
	require.Eventually(t, func() bool { return time.Now().UnixMilli()%10 == 0 }, patient, time.Millisecond)
	cut := time.Now().Add(5 * time.Millisecond)
	require.Eventually(t, func() bool { return time.Now().After(cut) }, patient, time.Millisecond)
	require.NoError(t, s.Publish(within(t, patient), messages(60, 60, "users")))
	logs, found := scanAll(t, s, cut, "users")
	n := 0
	for _, list := range found {
		n += len(list)
	}
	require.Equal(t, 60, n)
	for _, l := range logs {
		require.False(t, l.Trimmed)
	}

	admin := kadm.NewClient(reader(t, c.ListenAddrs()))
	gone := kadm.Offsets{}
	gone.Add(kadm.Offset{Topic: "users", Partition: logs[0].Partition, At: logs[0].From + 1, LeaderEpoch: -1})
	_, err := admin.DeleteRecords(within(t, patient), gone)
	require.NoError(t, err)
	for _, since := range []time.Time{{}, cut} {
		again, _ := scanAll(t, s, since, "users")
		for _, l := range again {
			require.Equal(t, l.Name == logs[0].Name, l.Trimmed, l.Name)
		}
	}
	far, _ := scanAll(t, s, time.Now().Add(time.Hour), "users")
	require.Empty(t, far)

	err = s.Scan(within(t, patient), logs[0], func(*sink.Stored) error { return nil })
	require.ErrorContains(t, err, "retention", "what was to be read first is gone")
}

// TestScanGoesOnThroughFaults: leaders move and answers fail while the topic is read.
func TestScanGoesOnThroughFaults(t *testing.T) {
	t.Parallel()
	c := fake(t)
	s := prepared(t, c, "users")
	batch := messages(0, 2000, "users")
	require.NoError(t, s.Publish(within(t, patient), batch))
	logs, err := s.Logs(within(t, patient), []string{"users"}, time.Time{})
	require.NoError(t, err)
	n := 0
	for _, l := range logs {
		require.NoError(t, c.MoveTopicPartition("users", l.Partition, (c.LeaderFor("users", l.Partition)+1)%3))
		require.NoError(t, s.Scan(within(t, patient), l, func(*sink.Stored) error { n++; return nil }))
	}
	require.Equal(t, len(batch), n)

	t.Run("an error of the caller ends it", func(t *testing.T) {
		err := s.Scan(within(t, patient), logs[0], func(*sink.Stored) error { return kerr.UnknownServerError })
		require.ErrorIs(t, err, kerr.UnknownServerError)
	})
	t.Run("so does the context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, s.Scan(ctx, logs[0], func(*sink.Stored) error { return nil }), context.Canceled)
	})
	t.Run("and a topic that is gone", func(t *testing.T) {
		_, err := kadm.NewClient(reader(t, c.ListenAddrs())).DeleteTopics(within(t, patient), "users")
		require.NoError(t, err)
		require.Error(t, s.Scan(within(t, patient), logs[0], func(*sink.Stored) error { return nil }))
	})
}
