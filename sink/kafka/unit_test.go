package kafka

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// TestPartitionOf holds the partitioning against vectors of the Java client's own tests and against
// franz-go's rendering of it.
func TestPartitionOf(t *testing.T) {
	t.Parallel()
	// murmur2 of these keys as in org.apache.kafka.common.utils.UtilsTest.
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
	} {
		for _, n := range []int{1, 6, 7, 1000} {
			require.EqualValues(t, int(hash&math.MaxInt32)%n, partitionOf([]byte(key), partitionNumbers(n)), "%s of %d", key, n)
		}
	}
	java := kgo.StickyKeyPartitioner(nil).ForTopic("a")
	random := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		key := make([]byte, random.IntN(40))
		for i := range key {
			key[i] = byte(random.Uint32())
		}
		n := 1 + random.IntN(64)
		require.EqualValues(t, java.Partition(&kgo.Record{Key: key}, n), partitionOf(key, partitionNumbers(n)), "%x of %d", key, n)
	}
}

func TestTopicNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"dsync.user.created", "A_b-9", strings.Repeat("x", 249), "...", "-"} {
		require.Empty(t, illegalTopicName(name), name)
	}
	for _, name := range []string{"", ".", "..", "a b", "a/b", "é", "a\n", "a*", strings.Repeat("x", 250)} {
		require.NotEmpty(t, illegalTopicName(name), name)
	}
	require.Empty(t, collisions([]string{"a.b", "a-b", "a.b", "c"}))
	require.Equal(t, map[string]string{"a.b": "a_b", "a_b": "a.b"}, collisions([]string{"c", "a_b", "a.b"}))
}

// TestASizeCostsNoMemory holds for every message, whose size is asked for several times.
func TestASizeCostsNoMemory(t *testing.T) {
	m := sink.Message{Key: []byte("org_1"), Headers: []sink.Header{{Key: "event-id", Value: "event_1"}}, Body: []byte("{}")}
	require.Zero(t, testing.AllocsPerRun(100, func() { _ = messageSize(&m, 3) }))
	batch := []sink.Message{m, m, m, m, m, m, m, m}
	encode := func(index ...int) float64 {
		c, spec := &common{}, client.BatchSpec{Time: time.Unix(0, 0)}
		return testing.AllocsPerRun(100, func() { _, _ = c.encodeMessages(spec, batch, index) })
	}
	require.InDelta(t, encode(0), encode(0, 1, 2, 3, 4, 5, 6, 7), 0.5, "the records of a batch share one")
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	require.NoError(t, config(t, []string{"127.0.0.1:9092", "[::1]:9092", "kafka-1.example.com:9094"}).Validate())
	for key, change := range map[string]func(*Config){
		"brokers":                   func(c *Config) { c.Brokers = nil },
		"brokers ":                  func(c *Config) { c.Brokers = []string{"kafka"} },
		"brokers  ":                 func(c *Config) { c.Brokers = []string{"kafka:0"} },
		"brokers   ":                func(c *Config) { c.Brokers = []string{":9092"} },
		"topic_prefix":              func(c *Config) { c.TopicPrefix = "a b" },
		"compression":               func(c *Config) { c.Compression = "brotli" },
		"request_timeout":           func(c *Config) { c.RequestTimeout = 0 },
		"transaction_timeout":       func(c *Config) { c.TransactionTimeout = time.Hour },
		"create.partitions":         func(c *Config) { c.Create.Partitions = 0 },
		"create.replication_factor": func(c *Config) { c.Create.ReplicationFactor = 0 },
		"sasl.mechanism":            func(c *Config) { c.SASL.Mechanism = "gssapi" },
		"sasl.mechanism ":           func(c *Config) { c.SASL.User = "u" },
		"sasl.user":                 func(c *Config) { c.SASL = SASL{Mechanism: "plain", Password: "p"} },
		"sasl.password":             func(c *Config) { c.SASL = SASL{Mechanism: "scram-sha-256", User: "u"} },
		"sasl.token_file":           func(c *Config) { c.SASL = SASL{Mechanism: "oauthbearer"} },
	} {
		cfg := config(t, []string{"127.0.0.1:9092"})
		change(&cfg)
		err := cfg.Validate()
		var keyed interface{ Key() string }
		require.ErrorAs(t, err, &keyed, key)
		require.Equal(t, strings.TrimSpace(key), keyed.Key())
		_, err = New(cfg)
		require.Error(t, err, key)
	}
}

// TestBatchesUnderTheLimit publishes more to one partition than its limit takes at once: it is cut,
// in order, and each piece is below the limit.
func TestBatchesUnderTheLimit(t *testing.T) {
	t.Parallel()
	c := fake(t)
	require.NoError(t, c.CreateTopic("a", 1, map[string]string{"max.message.bytes": "5000"}))
	var largest, batches atomic.Int64
	c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		batches.Add(1)
		largest.Store(max(largest.Load(), int64(len(req.(*kmsg.ProduceRequest).Topics[0].Partitions[0].Records))))
		return nil, nil, false
	})
	cfg := config(t, c.ListenAddrs())
	cfg.Compression = "none"
	s := open(t, cfg)
	batch := messages(0, 500, "a")
	require.NoError(t, s.Publish(within(t, patient), batch))
	requireStored(t, c.ListenAddrs(), batch, "a")
	require.LessOrEqual(t, largest.Load(), int64(4500))
	require.Greater(t, largest.Load(), int64(4000))
	require.Greater(t, batches.Load(), int64(20))
}

// TestLimitChanges lowers and raises a topic's limit behind the sink's back.
func TestLimitChanges(t *testing.T) {
	t.Parallel()
	c := fake(t)
	require.NoError(t, c.CreateTopic("a", 1, map[string]string{"max.message.bytes": "20000"}))
	cfg := config(t, c.ListenAddrs())
	cfg.Compression = "none"
	s := open(t, cfg)
	ctx := within(t, patient)
	require.NoError(t, s.Publish(ctx, messages(0, 100, "a")))

	setTopicConfig(t, c, "a", "max.message.bytes", "3000")
	require.NoError(t, s.Publish(ctx, messages(100, 100, "a")), "divided again")
	requireStored(t, c.ListenAddrs(), messages(0, 200, "a"), "a")

	batch := messages(200, 30, "a")
	batch[10].Body = bytes.Repeat([]byte("x"), 4000)
	err := s.Publish(ctx, batch)
	var rejected *sink.RejectedError
	require.ErrorAs(t, err, &rejected)
	require.Equal(t, 10, sink.Durable(err, len(batch)))
	require.Greater(t, rejected.Size, 4000)
	require.Equal(t, 3000, rejected.Limit)
	require.ErrorContains(t, err, "max.message.bytes of the topic is 3000")

	setTopicConfig(t, c, "a", "max.message.bytes", "6000")
	require.NoError(t, s.Publish(ctx, batch[10:]), "a limit that was raised is read before a message is rejected")
	requireStored(t, c.ListenAddrs(), append(messages(0, 200, "a"), batch...), "a")
}

// TestCompressionDecides accepts a message that only compression brings under the limit.
func TestCompressionDecides(t *testing.T) {
	t.Parallel()
	c := fake(t)
	require.NoError(t, c.CreateTopic("a", 1, map[string]string{"max.message.bytes": "4000"}))
	s := open(t, config(t, c.ListenAddrs()))
	batch := messages(0, 3, "a")
	batch[1].Body = bytes.Repeat([]byte("x"), 100_000)
	require.NoError(t, s.Publish(within(t, patient), batch))
	requireStored(t, c.ListenAddrs(), batch, "a")
}

// TestBrokerFindsTheCulprit has the broker refuse what the sink held for small enough, as where the
// limit cannot be read.
func TestBrokerFindsTheCulprit(t *testing.T) {
	t.Parallel()
	c := fake(t)
	s := prepared(t, c, "a")
	setTopicConfig(t, c, "a", "max.message.bytes", "9000")
	batch := messages(0, 60, "a")
	for i := range batch {
		batch[i].Key = []byte("one")
	}
	random := rand.NewChaCha8([32]byte{})
	for _, i := range []int{37, 44} {
		batch[i].Body = make([]byte, 12_000)
		_, _ = random.Read(batch[i].Body)
	}
	ctx := within(t, patient)
	err := s.Publish(ctx, batch)
	var rejected *sink.RejectedError
	require.ErrorAs(t, err, &rejected)
	require.Equal(t, 37, sink.Durable(err, len(batch)))
	require.Greater(t, rejected.Size, 12_000)
	require.Len(t, readAll(t, c.ListenAddrs(), "a"), 37)
	err = s.Publish(ctx, batch[38:])
	require.ErrorAs(t, err, &rejected)
	require.Equal(t, 6, sink.Durable(err, 22))
	require.NoError(t, s.Publish(ctx, batch[45:]))
	requireStored(t, c.ListenAddrs(), append(append(append([]sink.Message{}, batch[:37]...), batch[38:44]...), batch[45:]...), "a")
}

// TestNothingBehindARejectedMessage checks that what can be known beforehand stops what comes after
// it in every topic.
func TestNothingBehindARejectedMessage(t *testing.T) {
	t.Parallel()
	c := fake(t)
	s := prepared(t, c, "a", "b")
	batch := messages(0, 60, "a", "b")
	batch[31].Body = make([]byte, 2<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(batch[31].Body)
	err := s.Publish(within(t, patient), batch)
	require.Equal(t, 31, sink.Durable(err, len(batch)))
	requireStored(t, c.ListenAddrs(), batch[:31], "a", "b")
}

// TestOlderBrokers speaks the protocol versions of older releases.
func TestOlderBrokers(t *testing.T) {
	t.Parallel()
	for name, versions := range map[string]*kversion.Versions{
		"1.0": kversion.V1_0_0(), "2.0": kversion.V2_0_0(), "2.8": kversion.V2_8_0(), "3.9": kversion.V3_9_0(), "4.0": kversion.V4_0_0(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := fake(t, kfake.MaxVersions(versions))
			topics := []string{"a", "b"}
			s := prepared(t, c, topics...)
			batch := messages(0, 300, topics...)
			require.NoError(t, s.Publish(within(t, patient), batch))
			require.NoError(t, s.Publish(within(t, patient), messages(300, 300, topics...)))
			requireStored(t, c.ListenAddrs(), append(batch, messages(300, 300, topics...)...), topics...)
			holds, err := s.Holds(t.Context(), topics)
			require.NoError(t, err)
			require.True(t, holds)
			_, err = s.Inspect(t.Context(), topics)
			require.NoError(t, err)
		})
	}
}

func TestPrepareNamesEveryFault(t *testing.T) {
	t.Parallel()
	c := fake(t, kfake.SeedTopics(2, "there"))
	cfg := config(t, c.ListenAddrs())
	var fatal *sink.FatalError
	s := open(t, cfg)
	err := s.Prepare(t.Context(), []string{"a.b", "a_b", "there"})
	require.ErrorAs(t, err, &fatal)
	require.ErrorContains(t, err, "a.b: differs from a_b only by '.' and '_'")
	require.ErrorContains(t, err, "a_b: differs from a.b only by '.' and '_'")
	require.NotContains(t, err.Error(), "there:")

	cfg.Create.Enabled = false
	err = open(t, cfg).Prepare(t.Context(), []string{"missing.one", "there", "missing.two"})
	require.ErrorAs(t, err, &fatal)
	require.EqualError(t, err, "kafka topics that cannot be used: missing.one, missing.two: does not exist, and create.enabled is false; create it or let relay do so")

	cfg = config(t, c.ListenAddrs())
	cfg.Create.ReplicationFactor = 5
	err = open(t, cfg).Prepare(t.Context(), []string{"new"})
	require.ErrorAs(t, err, &fatal)
	require.ErrorContains(t, err, "create.replication_factor 5")
}

func TestInspect(t *testing.T) {
	t.Parallel()
	c := fake(t)
	require.NoError(t, c.CreateTopic("compacted", 4, map[string]string{"cleanup.policy": "compact", "max.message.bytes": "777777", "min.insync.replicas": "1"}))
	s := open(t, config(t, c.ListenAddrs()))
	status, err := s.Inspect(t.Context(), []string{"compacted", "new", "a b", "x.y", "x_y"})
	require.NoError(t, err)
	require.True(t, status[0].Exists)
	for _, part := range []string{"4 partitions", "min.insync.replicas 1", "max.message.bytes 777777", "relay may write"} {
		require.Contains(t, status[0].Detail, part)
	}
	require.Contains(t, fmt.Sprint(status[0].Warnings), "compact")
	require.Contains(t, fmt.Sprint(status[0].Warnings), "min.insync.replicas 1")
	require.True(t, status[1].Creates)
	require.Contains(t, status[1].Detail, "to be created: 6 partitions, replication 1")
	require.Contains(t, fmt.Sprint(status[1].Warnings), "one replica")
	require.NotEmpty(t, status[2].Problems)
	for _, st := range status[3:] {
		require.False(t, st.Creates)
		require.Contains(t, fmt.Sprint(st.Problems), "only by '.' and '_'")
	}
}
