package examples

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"workos-relay/router"
	"workos-relay/sink"
)

func TestKafkaConsumersHandleEachCommittedEventOnce(t *testing.T) {
	brokers := os.Getenv("RELAY_TEST_KAFKA")
	if brokers == "" {
		t.Skip("needs a real Kafka: set RELAY_TEST_KAFKA to the address that .ci/kafka/start prints")
	}
	for language, p := range programs(t) {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			name := fmt.Sprintf("example-%s-%d", language, time.Now().UnixNano())
			client, err := kgo.NewClient(
				kgo.SeedBrokers(strings.Split(brokers, ",")...), kgo.TransactionalID(name),
				kgo.ProducerBatchCompression(kgo.Lz4Compression()), // relay's own
				kgo.UnknownTopicRetries(-1),                        // a broker hears of a new topic in its own time
			)
			require.NoError(t, err)
			t.Cleanup(client.Close)
			admin := kadm.NewClient(client)
			_, err = admin.CreateTopic(t.Context(), 2, 1, nil, name)
			require.NoError(t, err)

			env := []string{"KAFKA_BROKERS=" + brokers, "CONSUMER=" + name, "TOPIC=" + name}
			c := &consumer{program: p, bus: "kafka", data: t.TempDir(), env: env}
			l := newLoad(t, router.Kafka)
			l.run(t, c, func(batch []sink.Message) {
				transaction(t, client, name, aborted(batch), kgo.TryAbort)
				transaction(t, client, name, batch, kgo.TryCommit)
			})
			l.check(t, c, false)
			committed, err := admin.FetchOffsets(t.Context(), name)
			require.NoError(t, err)
			for partition := range int32(2) {
				at, ok := committed.Lookup(name, partition)
				require.True(t, ok, "partition %d has no committed offset", partition)
				require.Positive(t, at.At, "partition %d", partition)
			}
		})
	}
}

// transaction produces the messages of the topic that the consumers read, under the name that it
// has for this test.
func transaction(t *testing.T, client *kgo.Client, name string, batch []sink.Message, end kgo.TransactionEndTry) {
	t.Helper()
	require.NoError(t, client.BeginTransaction())
	for _, m := range batch {
		if m.Topic != topic {
			continue
		}
		r := &kgo.Record{Topic: name, Key: m.Key, Value: m.Body}
		for _, h := range m.Headers {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Key, Value: []byte(h.Value)})
		}
		require.NoError(t, client.ProduceSync(t.Context(), r).FirstErr())
	}
	require.NoError(t, client.EndTransaction(t.Context(), end))
}

// aborted are events that nobody may handle.
func aborted(batch []sink.Message) []sink.Message {
	var out []sink.Message
	for _, m := range batch {
		headers := append([]sink.Header{{Key: router.HeaderID, Value: "event_aborted"}}, m.Headers[1:]...)
		out = append(out, sink.Message{Topic: m.Topic, Key: m.Key, Headers: headers, Body: m.Body})
	}
	return out
}
