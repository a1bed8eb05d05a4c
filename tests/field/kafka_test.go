//go:build unix

package field

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// kafka is a cluster and a client of it. Topics of the relay begin with Prefix, so that tests can
// share a cluster.
type kafka struct {
	Brokers []string
	ID      string         // of the relay
	Prefix  string         // topic_prefix
	Fake    *kfake.Cluster // nil with a real broker
	Client  *kgo.Client
	Admin   *kadm.Client
}

// newKfake starts a cluster in this process.
func newKfake(t testing.TB, opts ...kfake.Opt) *kafka {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	k := newKafka(t, c.ListenAddrs())
	k.Fake = c
	return k
}

// realKafka is the Apache Kafka that RELAY_TEST_KAFKA names. The test is skipped without one.
func realKafka(t testing.TB) *kafka {
	t.Helper()
	addrs := os.Getenv("RELAY_TEST_KAFKA")
	if addrs == "" {
		t.Skip("needs a real Kafka: run .ci/kafka/start --dir D, and set RELAY_TEST_KAFKA to what it prints")
	}
	return newKafka(t, strings.Split(addrs, ","))
}

func newKafka(t testing.TB, brokers []string) *kafka {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.MetadataMinAge(10*time.Millisecond), // so that new topics are seen at once
		kgo.FetchMaxBytes(1<<30), kgo.BrokerMaxReadBytes(1<<30))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	id := fmt.Sprintf("field%d", time.Now().UnixNano())
	return &kafka{Brokers: brokers, ID: id, Prefix: id + ".", Client: client, Admin: kadm.NewClient(client)}
}

// kafkaConfig is a configuration file for one Kafka sink with the defaults that users get. more is
// added to the sink's keys, such as ", compression: none".
func (k *kafka) config(api, more string) string {
	return fmt.Sprintf("id: %s\n", k.ID) + sourceConfig(api) +
		fmt.Sprintf("sinks: [{name: kafka, type: kafka, brokers: [%s], topic_prefix: %s%s}]\n", strings.Join(k.Brokers, ", "), k.Prefix, more)
}

// topics returns the names of the relay's topics, without those of positions.
func (k *kafka) topics(ctx context.Context) ([]string, error) {
	listed, err := k.Admin.ListTopics(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, name := range listed.Names() {
		if strings.HasPrefix(name, k.Prefix) {
			names = append(names, name)
		}
	}
	return names, nil
}

// read returns every committed record of the relay's topics, by "topic/partition", in the order of
// the partition.
func (k *kafka) read(t testing.TB) map[string][]*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	out := map[string][]*kgo.Record{}
	names, err := k.topics(ctx)
	require.NoError(t, err)
	if names == nil {
		return out
	}
	ends, err := k.Admin.ListCommittedOffsets(ctx, names...)
	require.NoError(t, err)
	from, left := map[string]map[int32]kgo.Offset{}, map[string]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		require.NoError(t, o.Err)
		if o.Offset > 0 {
			if from[o.Topic] == nil {
				from[o.Topic] = map[int32]kgo.Offset{}
			}
			from[o.Topic][o.Partition] = kgo.NewOffset().AtStart()
			left[fmt.Sprintf("%s/%d", o.Topic, o.Partition)] = o.Offset
		}
	})
	// Control records are kept, so that the reader sees the end of each partition.
	client, err := kgo.NewClient(kgo.SeedBrokers(k.Brokers...), kgo.ConsumePartitions(from), kgo.FetchMaxBytes(1<<30), kgo.BrokerMaxReadBytes(1<<30),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	require.NoError(t, err)
	defer client.Close()
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		require.Empty(t, fetches.Errors())
		fetches.EachRecord(func(r *kgo.Record) {
			at := fmt.Sprintf("%s/%d", r.Topic, r.Partition)
			if !r.Attrs.IsControl() {
				out[at] = append(out[at], r)
			}
			if r.Offset+1 >= left[at] {
				delete(left, at)
			}
		})
	}
	return out
}

// count returns how many committed records the relay's topics hold.
func (k *kafka) count(t testing.TB) int {
	n := 0
	for _, records := range k.read(t) {
		n += len(records)
	}
	return n
}
