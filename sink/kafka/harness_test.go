package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap/zaptest"

	"workos-relay/checkpoint"
	"workos-relay/internal/retry"
	"workos-relay/internal/testrun"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// patient is how long what must come is waited for; passing does not depend on how soon it does.
const patient = 4 * time.Minute

func TestMain(m *testing.M) {
	testrun.ManyAtOnce()
	client.DialTimeout = patient
	os.Exit(m.Run())
}

// realBrokers returns the address of the Apache Kafka that RELAY_TEST_KAFKA names, and skips the
// test without one.
func realBrokers(t testing.TB) []string {
	addrs := os.Getenv("RELAY_TEST_KAFKA")
	if addrs == "" {
		t.Skip("needs a real Kafka: set RELAY_TEST_KAFKA to the address that .ci/kafka/start prints")
	}
	return strings.Split(addrs, ",")
}

// fake starts an in-process cluster, three brokers unless opts say otherwise.
func fake(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(3)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// config is a configuration with its defaults, for the given brokers.
func config(t testing.TB, brokers []string) Config {
	return Config{
		Brokers:            brokers,
		Create:             Create{Enabled: true, Partitions: 6, ReplicationFactor: 1},
		Compression:        "lz4",
		ClientID:           "relay-test",
		RequestTimeout:     30 * time.Second,
		TransactionTimeout: patient,
		Logger:             zaptest.NewLogger(t),
	}
}

func open(t testing.TB, cfg Config) *Sink {
	t.Helper()
	s, err := New(cfg)
	require.NoError(t, err)
	s.publisher.bounds = bounds{begin: patient, idle: patient, quit: patient, away: patient}
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// prepared returns a sink on c with the topics in place. Like a lane it prepares them again after a
// failure that may pass, such as a connection that a machine that stood still has lost.
func prepared(t testing.TB, c *kfake.Cluster, topics ...string) *Sink {
	t.Helper()
	s, ctx := open(t, config(t, c.ListenAddrs())), within(t, patient)
	for err := s.Prepare(ctx, topics); err != nil; err = s.Prepare(ctx, topics) {
		var fatal *sink.FatalError
		require.False(t, errors.As(err, &fatal) || ctx.Err() != nil, "%v", err)
		t.Log(err)
		time.Sleep(10 * time.Millisecond)
	}
	return s
}

// cleaningUp bounds what a test does after its end, when t.Context is over.
func cleaningUp(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patient)
	t.Cleanup(cancel)
	return ctx
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// messages makes n messages, numbered from first, over the topics and a handful of keys.
func messages(first, n int, topics ...string) []sink.Message {
	batch := make([]sink.Message, n)
	for i := range batch {
		number := first + i
		id := fmt.Sprintf("event_%07d", number)
		batch[i] = sink.Message{
			Topic:    topics[number%len(topics)],
			Key:      fmt.Appendf(nil, "org_%d", number%17),
			ID:       id,
			Headers:  []sink.Header{{Key: "event-id", Value: id}, {Key: "event-type", Value: "dsync.user.created"}},
			Body:     fmt.Appendf(nil, `{"id":%q,"event":"dsync.user.created","data":{"number":%d,"filler":%q}}`, id, number, strings.Repeat("x", number%300)),
			Position: checkpoint.Position{EventID: id},
		}
	}
	return batch
}

// reader is franz-go, which shares nothing with what the sink is built on.
func reader(t testing.TB, brokers []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(brokers...), kgo.FetchMaxBytes(1<<30 - 1024), kgo.FetchMaxPartitionBytes(1 << 29), kgo.BrokerMaxReadBytes(1 << 30),
		kgo.MetadataMinAge(10 * time.Millisecond), // kadm answers from this cache
	}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(cl.Close)
	return cl
}

// ends returns where the partitions of the topics end. A topic that is missing has none; a
// partition whose leader does not answer now is asked about again, until ctx ends.
func ends(ctx context.Context, admin *kadm.Client, topics ...string) (kadm.ListedOffsets, error) {
	for {
		found, err := admin.ListEndOffsets(ctx, topics...)
		if err != nil {
			return nil, err
		}
		for topic, partitions := range found {
			for p, o := range partitions {
				if errors.Is(o.Err, kerr.UnknownTopicOrPartition) {
					delete(found[topic], p)
				}
			}
		}
		if err = found.Error(); err == nil {
			return found, nil
		}
		if retry.Sleep(ctx, 10*time.Millisecond) != nil {
			return nil, err
		}
	}
}

// readAll returns what the topics hold, each partition in its order.
func readAll(t testing.TB, brokers []string, topics ...string) []*kgo.Record {
	t.Helper()
	ctx := within(t, patient)
	admin := kadm.NewClient(reader(t, brokers))
	ends, err := ends(ctx, admin, topics...)
	require.NoError(t, err)
	want := int64(0)
	partitions := make(map[string]map[int32]kgo.Offset)
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset == 0 {
			return
		}
		want += o.Offset
		if partitions[o.Topic] == nil {
			partitions[o.Topic] = make(map[int32]kgo.Offset)
		}
		partitions[o.Topic][o.Partition] = kgo.NewOffset().At(0)
	})
	var records []*kgo.Record
	if want == 0 {
		return nil
	}
	cl := reader(t, brokers, kgo.ConsumePartitions(partitions), kgo.KeepControlRecords())
	for int64(len(records)) < want {
		fetches := cl.PollFetches(ctx)
		require.NoError(t, fetches.Err0())
		fetches.EachError(func(topic string, p int32, err error) { require.NoError(t, err, "%s/%d", topic, p) })
		records = append(records, fetches.Records()...)
	}
	return slices.DeleteFunc(records, func(r *kgo.Record) bool { return r.Attrs.IsControl() })
}

// requireStored checks that the topics hold exactly the messages, each once, those of a topic and
// key in order, with their bytes.
func requireStored(t testing.TB, brokers []string, want []sink.Message, topics ...string) {
	t.Helper()
	got := readAll(t, brokers, topics...)
	require.Len(t, got, len(want))
	type lane struct{ topic, key string }
	lanes := make(map[lane][]*kgo.Record)
	for _, r := range got {
		l := lane{r.Topic, string(r.Key)}
		lanes[l] = append(lanes[l], r)
	}
	for _, m := range want {
		l := lane{m.Topic, string(m.Key)}
		require.NotEmpty(t, lanes[l], "message %s is missing", m.ID)
		r := lanes[l][0]
		lanes[l] = lanes[l][1:]
		require.Equal(t, string(m.Body), string(r.Value), "order or body of %s", m.ID)
		require.Len(t, r.Headers, len(m.Headers))
		for i, h := range m.Headers {
			require.Equal(t, h.Key, r.Headers[i].Key)
			require.Equal(t, h.Value, string(r.Headers[i].Value))
		}
	}
}

func portsOf(t testing.TB, addrs []string) []int {
	t.Helper()
	var ports []int
	for _, a := range addrs {
		_, port, err := net.SplitHostPort(a)
		require.NoError(t, err)
		n, err := strconv.Atoi(port)
		require.NoError(t, err)
		ports = append(ports, n)
	}
	return ports
}

func kafkaError(e *kerr.Error) kafkago.Error { return kafkago.Error(e.Code) }

func setTopicConfig(t testing.TB, c *kfake.Cluster, topic, key, value string) {
	t.Helper()
	admin := kadm.NewClient(reader(t, c.ListenAddrs()))
	res, err := admin.AlterTopicConfigs(within(t, patient), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: key, Value: &value}}, topic)
	require.NoError(t, err)
	for _, r := range res {
		require.NoError(t, r.Err)
	}
}
