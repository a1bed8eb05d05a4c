package kafka

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/zap"

	"workos-relay/sink"
)

// BenchmarkPublish publishes pages of lifelike events of about 1.5 KB over eight topics: by relay
// with each codec, by a bare kafka.Writer at its best setting for pages, and by franz-go's
// synchronous produce with its defaults (idempotent, all acks), on kfake and, where
// RELAY_TEST_KAFKA is set, on a real broker. One iteration is one page by each of them in turn, so
// that other load on the machine affects all alike; what is reported is the rate of each one's
// median page.
func BenchmarkPublish(b *testing.B) {
	b.Run("kfake", func(b *testing.B) {
		c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DefaultNumPartitions(6))
		require.NoError(b, err)
		defer c.Close()
		benchmarkOn(b, c.ListenAddrs())
	})
	b.Run("real", func(b *testing.B) {
		if os.Getenv("RELAY_TEST_KAFKA") == "" {
			b.Skip("needs a real Kafka: set RELAY_TEST_KAFKA")
		}
		benchmarkOn(b, strings.Split(os.Getenv("RELAY_TEST_KAFKA"), ","))
	})
}

type publishFunc func(ctx context.Context, page []sink.Message) error

func benchmarkOn(b *testing.B, brokers []string) {
	topics := make([]string, 8)
	for i := range topics {
		topics[i] = fmt.Sprintf("bench-%d.topic-%d", time.Now().UnixNano(), i)
	}
	cfg := config(b, brokers)
	cfg.Logger = zap.NewNop()
	s := open(b, cfg)
	require.NoError(b, s.Prepare(b.Context(), topics))
	b.Cleanup(func() {
		_, _ = kadm.NewClient(reader(b, brokers)).DeleteTopics(cleaningUp(b), topics...)
	})
	for _, size := range []int{100, 999} {
		page := lifelike(size, topics)
		names := []string{}
		publishers := []publishFunc{}
		add := func(name string, p publishFunc) {
			require.NoError(b, p(b.Context(), page)) // connections, producer id
			names, publishers = append(names, name), append(publishers, p)
		}
		for _, codec := range []string{"none", "snappy", "lz4", "zstd", "gzip"} {
			cfg.Compression = codec
			add("relay-"+codec, open(b, cfg).Publish)
		}
		for _, codec := range []string{"none", "snappy", "lz4", "zstd"} {
			add("writer-"+codec, bareWriter(b, brokers, size, codec))
			add("franz-"+codec, franz(b, brokers, codec))
		}
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			took := make([][]time.Duration, len(names))
			for range b.N {
				for i, publish := range publishers {
					started := time.Now()
					require.NoError(b, publish(b.Context(), page))
					took[i] = append(took[i], time.Since(started))
				}
			}
			for i, name := range names {
				slices.Sort(took[i])
				b.ReportMetric(float64(size)/took[i][len(took[i])/2].Seconds(), name+"-events/s")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func bareWriter(b *testing.B, brokers []string, size int, codec string) publishFunc {
	w := &kafkago.Writer{
		Addr: kafkago.TCP(brokers...), Balancer: &kafkago.Murmur2Balancer{}, RequiredAcks: kafkago.RequireAll,
		BatchSize: size, BatchBytes: 1 << 20, BatchTimeout: time.Millisecond,
		Compression: map[string]kafkago.Compression{"snappy": kafkago.Snappy, "lz4": kafkago.Lz4, "zstd": kafkago.Zstd}[codec],
		Transport:   &kafkago.Transport{},
	}
	b.Cleanup(func() { _ = w.Close() })
	return func(ctx context.Context, page []sink.Message) error {
		messages := make([]kafkago.Message, len(page))
		for i, m := range page {
			messages[i] = kafkago.Message{Topic: m.Topic, Key: m.Key, Value: m.Body}
			for _, h := range m.Headers {
				messages[i].Headers = append(messages[i].Headers, kafkago.Header{Key: h.Key, Value: []byte(h.Value)})
			}
		}
		return w.WriteMessages(ctx, messages...)
	}
}

func franz(b *testing.B, brokers []string, codec string) publishFunc {
	codecs := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()}
	cl := reader(b, brokers, kgo.ProducerBatchCompression(codecs[codec]), kgo.ProducerLinger(0))
	return func(ctx context.Context, page []sink.Message) error {
		records := make([]*kgo.Record, len(page))
		for i, m := range page {
			records[i] = &kgo.Record{Topic: m.Topic, Key: m.Key, Value: m.Body}
			for _, h := range m.Headers {
				records[i].Headers = append(records[i].Headers, kgo.RecordHeader{Key: h.Key, Value: []byte(h.Value)})
			}
		}
		return cl.ProduceSync(ctx, records...).FirstErr()
	}
}

// lifelike makes a page of events that compress about as well as those of WorkOS: JSON with many
// ids and names.
func lifelike(n int, topics []string) []sink.Message {
	random := rand.New(rand.NewPCG(1, 2))
	id := func(prefix string) string {
		const alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
		b := make([]byte, 26)
		for i := range b {
			b[i] = alphabet[random.IntN(len(alphabet))]
		}
		return prefix + "_" + string(b)
	}
	orgs := make([]string, 40)
	for i := range orgs {
		orgs[i] = id("org")
	}
	page := make([]sink.Message, n)
	for i := range page {
		org, event := orgs[random.IntN(len(orgs))], id("event")
		first, last := id("")[1:8], id("")[1:9]
		body := fmt.Sprintf(`{"object":"event","id":%q,"event":"dsync.user.updated","created_at":"2026-11-24T09:%02d:%02d.%03dZ","data":{"id":%q,"directory_id":%q,"organization_id":%q,"idp_id":%q,"emails":[{"primary":true,"type":"work","value":"%s.%s@example.com"}],"first_name":%q,"last_name":%q,"job_title":"Software Engineer","username":"%s.%s@example.com","state":"active","role":{"slug":"member"},"groups":[{"object":"directory_group","id":%q,"name":"Engineering"},{"object":"directory_group","id":%q,"name":"Everyone"}],"custom_attributes":{"department":"Engineering","manager_id":%q,"employee_number":"%d","cost_center":"CC-%d"},"raw_attributes":{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User","urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"],"externalId":%q,"userName":"%s.%s@example.com","name":{"givenName":%q,"familyName":%q},"active":true,"meta":{"resourceType":"User","location":"https://api.example.com/scim/v2/Users/%s"}},"previous_attributes":{"job_title":"Engineer"},"created_at":"2025-03-01T10:00:00.000Z","updated_at":"2026-11-24T09:00:00.000Z"}}`,
			event, random.IntN(60), random.IntN(60), random.IntN(1000), id("directory_user"), id("directory"), org, id("idp"), first, last, first, last, first, last,
			id("directory_group"), id("directory_group"), id("manager"), random.IntN(1e6), random.IntN(1e4), id("ext"), first, last, first, last, id("u"))
		page[i] = sink.Message{
			Topic: topics[random.IntN(len(topics))], Key: []byte(org), ID: event, Body: []byte(body),
			Headers: []sink.Header{{Key: "event-id", Value: event}, {Key: "event-type", Value: "dsync.user.updated"},
				{Key: "event-created-at", Value: "2026-11-24T09:00:00.000Z"}, {Key: "organization-id", Value: org}},
		}
	}
	return page
}
