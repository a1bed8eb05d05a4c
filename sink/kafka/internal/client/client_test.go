package client

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
)

// onBrokers runs a test with a new topic of two partitions on kfake, and on the Apache Kafka that
// RELAY_TEST_KAFKA names, if there is one.
func onBrokers(t *testing.T, test func(t *testing.T, c *Cluster, topic string)) {
	run := func(name string, brokers func(t *testing.T) []string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addrs := brokers(t)
			topic := fmt.Sprintf("client.%s.%d", strings.ReplaceAll(t.Name(), "/", "."), time.Now().UnixNano())
			cl, err := kgo.NewClient(kgo.SeedBrokers(addrs...))
			require.NoError(t, err)
			t.Cleanup(cl.Close)
			admin := kadm.NewClient(cl)
			_, err = admin.CreateTopic(within(t, patient), 2, 1, nil, topic)
			require.NoError(t, err)
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patient)
				defer cancel()
				_, _ = admin.DeleteTopics(ctx, topic)
			})
			c := connectTo(t, addrs)
			require.Eventually(t, func() bool { // until its leaders are there
				c.Refresh()
				l, err := c.Locate(within(t, patient), []string{topic}, time.Time{})
				return err == nil && len(l.Topics[topic].Leaders) == 2 && min(l.Topics[topic].Leaders[0], l.Topics[topic].Leaders[1]) >= 0
			}, patient, 50*time.Millisecond)
			require.Eventually(t, func() bool { // a broker that has only just started gives no producer ids yet
				_, err := c.OpenSession(within(t, patient))
				return err == nil
			}, patient, 50*time.Millisecond)
			test(t, c, topic)
		})
	}
	run("fake", func(t *testing.T) []string { return fake(t).ListenAddrs() })
	run("real", func(t *testing.T) []string {
		addrs := os.Getenv("RELAY_TEST_KAFKA")
		if addrs == "" {
			t.Skip("needs a real Kafka: set RELAY_TEST_KAFKA to the address that .ci/kafka/start prints")
		}
		return strings.Split(addrs, ",")
	})
}

// batchOf encodes one record for each value.
func batchOf(t *testing.T, s *Sequence, transactional bool, values ...string) []byte {
	t.Helper()
	session, sequence := s.Take()
	spec := BatchSpec{Session: session, Sequence: sequence, Transactional: transactional, Time: time.Now()}
	set, err := EncodeBatch(spec, len(values), func(n int) ProducerRecord {
		return &givenRecord{key: []byte("key"), value: []byte(values[n])}
	})
	require.NoError(t, err)
	return set
}

// produced sends one batch and returns what its leader answers.
func produced(t *testing.T, c *Cluster, transactionalID string, p Partition, set []byte) Acknowledgement {
	t.Helper()
	var a Acknowledgement
	require.Eventually(t, func() bool { // a partition may ask its coordinator first
		out, err := c.Produce(within(t, patient), transactionalID, []Batch{{p, set}})
		require.NoError(t, err)
		require.Contains(t, out.Of, p)
		a = out.Of[p]
		return a.Verdict != Again && a.Verdict != Elsewhere
	}, patient, 20*time.Millisecond)
	return a
}

// valuesIn reads a partition from its beginning.
func valuesIn(t *testing.T, c *Cluster, p Partition, isolation int8) (values []string, aborted int) {
	t.Helper()
	ends, err := c.Offsets(within(t, patient), isolation, []Partition{p}, LatestOffset)
	require.NoError(t, err)
	for at := int64(0); at < ends[p]; {
		f, err := c.Fetch(within(t, patient), p, isolation, at)
		require.NoError(t, err)
		aborted = max(aborted, len(f.Aborted))
		at, err = Walk(f, at, MessageBounds, func(r Record) error {
			if !r.Control {
				values = append(values, string(r.Value))
			}
			return nil
		})
		require.NoError(t, err)
	}
	return values, aborted
}

// TestIdempotentProduce: a batch that is sent twice is stored once, and both answers say that it is
// stored. A gap in the sequence is refused.
func TestIdempotentProduce(t *testing.T) {
	t.Parallel()
	onBrokers(t, func(t *testing.T, c *Cluster, topic string) {
		session, err := c.OpenSession(within(t, patient))
		require.NoError(t, err)
		require.True(t, session.Valid())
		p := Partition{Topic: topic, Number: 1}
		var place Sequence
		place.Adopt(session)
		first := batchOf(t, &place, false, "a", "b")
		for range 2 {
			require.Equal(t, Stored, produced(t, c, "", p, bytes.Clone(first)).Verdict)
		}
		place.Advance(2)
		a := produced(t, c, "", p, batchOf(t, &place, false, "c"))
		require.Equal(t, Stored, a.Verdict)
		require.EqualValues(t, 2, a.BaseOffset)
		place.Advance(7)
		a = produced(t, c, "", p, batchOf(t, &place, false, "gap"))
		require.Equal(t, Outcome{Verdict: Unordered}, a.Outcome)
		require.ErrorIs(t, a.Err, kafkago.OutOfOrderSequenceNumber)
		values, _ := valuesIn(t, c, p, ReadCommitted)
		require.Equal(t, []string{"a", "b", "c"}, values)
		other := Partition{Topic: topic, Number: 0}
		ends, err := c.Offsets(within(t, patient), ReadUncommitted, []Partition{p, other}[:1], EarliestOffset)
		require.NoError(t, err)
		require.EqualValues(t, 0, ends[p])
		values, _ = valuesIn(t, c, other, ReadCommitted)
		require.Empty(t, values)
	})
}

// TestTransactions: what a coordinator commits is there, what it aborts is named as aborted, and a
// session that was fenced stores nothing more.
func TestTransactions(t *testing.T) {
	t.Parallel()
	onBrokers(t, func(t *testing.T, c *Cluster, topic string) {
		p := Partition{Topic: topic, Number: 0}
		coordinator := NewCoordinator(c, topic)
		silent, err := coordinator.Probe(within(t, patient), patient, p)
		require.NoError(t, err)
		require.False(t, silent)
		begin := func() *Sequence {
			session, err := coordinator.Fence(within(t, patient), time.Minute)
			require.NoError(t, err)
			place := &Sequence{}
			place.Adopt(session)
			require.NoError(t, coordinator.Add(within(t, patient), session, []Partition{p}))
			return place
		}
		one := begin()
		require.Equal(t, Stored, produced(t, c, coordinator.ID, p, batchOf(t, one, true, "committed")).Verdict)
		one.Advance(1)
		tries, err := coordinator.Commit(within(t, patient), one.Session)
		require.NoError(t, err)
		require.Equal(t, 1, tries)

		require.NoError(t, coordinator.Add(within(t, patient), one.Session, []Partition{p}))
		require.Equal(t, Stored, produced(t, c, coordinator.ID, p, batchOf(t, one, true, "aborted")).Verdict)
		one.Advance(1)
		two := begin() // aborts it
		a := produced(t, c, coordinator.ID, p, batchOf(t, one, true, "late"))
		require.Equal(t, Unordered, a.Verdict)
		require.True(t, IsFenced(a.Err), a.Err)
		_, err = coordinator.Commit(within(t, patient), one.Session)
		require.True(t, IsFenced(err), err)
		require.Equal(t, Stored, produced(t, c, coordinator.ID, p, batchOf(t, two, true, "second")).Verdict)
		_, err = coordinator.Commit(within(t, patient), two.Session)
		require.NoError(t, err)

		require.Eventually(t, func() bool { // the marks are written after the answer
			values, aborted := valuesIn(t, c, p, ReadCommitted)
			return aborted == 1 && strings.Join(values, " ") == "committed aborted second"
		}, patient, 50*time.Millisecond)
	})
}

// TestWhatAClusterTells: metadata, ids and settings of topics that are there and of one that is
// not.
func TestWhatAClusterTells(t *testing.T) {
	t.Parallel()
	onBrokers(t, func(t *testing.T, c *Cluster, topic string) {
		ctx := within(t, patient)
		missing := topic + ".missing"
		m, err := c.Describe(ctx, []string{topic, missing})
		require.NoError(t, err)
		require.Len(t, m.Topics, 2)
		require.Len(t, m.Topics[0].Partitions, 2)
		require.Equal(t, kafkago.UnknownTopicOrPartition, kafkago.Error(m.Topics[1].ErrorCode))
		ids, gone, err := c.TopicIDs(ctx, []string{topic, missing})
		require.NoError(t, err)
		require.Len(t, ids[topic], 32)
		require.True(t, gone[missing])
		require.False(t, gone[topic])
		names, err := c.TopicNames(ctx)
		require.NoError(t, err)
		require.Contains(t, names, topic)
		require.NotContains(t, names, missing)
		c.mu.Lock()
		c.topicIDsKnown = false
		c.requests = maps.Clone(c.requests)
		c.requests[protocol.Metadata] = Versions{Most: metadataVersion - 1} // as a broker before Kafka 2.8 says
		c.mu.Unlock()
		_, err = c.TopicNames(ctx)
		require.ErrorIs(t, err, ErrNoTopicNames)
		c.Refresh() // as with the connections to a broker that is upgraded
		_, err = c.Describe(ctx, nil)
		require.NoError(t, err)
		names, err = c.TopicNames(ctx)
		require.NoError(t, err)
		require.Contains(t, names, topic)
		settings, err := c.Settings(ctx, []string{topic}, "cleanup.policy")
		require.NoError(t, err)
		require.Equal(t, map[string]string{"cleanup.policy": "delete"}, settings[topic].Values)
		l, err := c.Locate(ctx, []string{topic, missing}, time.Time{})
		require.NoError(t, err)
		require.Positive(t, l.Topics[topic].Limit.Bytes)
		require.ErrorIs(t, l.Topics[missing].Err, kafkago.UnknownTopicOrPartition)
		_, err = c.Fetch(ctx, Partition{Topic: topic, Number: 0}, ReadCommitted, 99)
		require.ErrorIs(t, err, kafkago.OffsetOutOfRange)
	})
}

// TestProbesStoreNothing: both are answered, and nothing is there afterwards.
func TestProbesStoreNothing(t *testing.T) {
	t.Parallel()
	onBrokers(t, func(t *testing.T, c *Cluster, topic string) {
		answers, err := c.ProbePermission(within(t, patient), []string{topic})
		require.NoError(t, err)
		require.Contains(t, answers, topic)
		require.False(t, IsDenied(answers[topic]))
		codecs, err := CodecsOf("zstd")
		require.NoError(t, err)
		answers, err = c.ProbeCodec(within(t, patient), []string{topic}, codecs[0])
		require.NoError(t, err)
		require.Contains(t, answers, topic)
		require.False(t, IsCodecRefused(answers[topic]))
		for n := range int32(2) {
			values, _ := valuesIn(t, c, Partition{Topic: topic, Number: n}, ReadUncommitted)
			require.Empty(t, values)
		}
	})
}

// TestRequestThatBrokersDoNotKnow is not sent: most brokers would close the connection on it.
func TestRequestThatBrokersDoNotKnow(t *testing.T) {
	t.Parallel()
	versions := kversion.V2_8_0()
	versions.SetMaxKeyVersion(int16(protocol.InitProducerId), -1)
	c := connectTo(t, fake(t, kfake.MaxVersions(versions)).ListenAddrs())
	_, err := c.OpenSession(within(t, patient))
	require.True(t, IsNoRequest(err), err)
	require.True(t, IsUnsupported(err))
	missing, err := c.MissingRequests(within(t, patient), protocol.InitProducerId, protocol.Produce)
	require.NoError(t, err)
	require.Equal(t, []string{"InitProducerId"}, missing)
}
