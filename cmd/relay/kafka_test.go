package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"workos-relay/checkpoint"
	"workos-relay/sink/kafka"
	"workos-relay/source/sourcetest"
)

// kafkaBus is a Kafka and an independent client of it. Its topics have their own prefix.
type kafkaBus struct {
	brokers []string
	id      string // of the relay: its position is on the cluster under this name, which tests that share one must not share
	prefix  string
	client  *kgo.Client
	admin   *kadm.Client
}

// newKafka is the real Kafka that RELAY_TEST_KAFKA names, and one inside this process without it.
func newKafka(t *testing.T) *kafkaBus {
	t.Helper()
	if addrs := os.Getenv("RELAY_TEST_KAFKA"); addrs != "" {
		return newKafkaBus(t, strings.Split(addrs, ","))
	}
	c, err := kfake.NewCluster(kfake.NumBrokers(3))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return newKafkaBus(t, c.ListenAddrs())
}

func newKafkaBus(t *testing.T, brokers []string) *kafkaBus {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.MetadataMinAge(10*time.Millisecond), // so that new topics are seen at once
		kgo.FetchMaxBytes(1<<30), kgo.BrokerMaxReadBytes(1<<30))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	id := fmt.Sprintf("test%d", time.Now().UnixNano())
	return &kafkaBus{brokers: brokers, id: id, prefix: id + ".", client: client, admin: kadm.NewClient(client)}
}

// offsets returns the end of every partition of the relay's topics.
func (b *kafkaBus) offsets(ctx context.Context) (kadm.ListedOffsets, error) {
	topics, err := b.admin.ListTopics(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, name := range topics.Names() {
		if strings.HasPrefix(name, b.prefix) {
			names = append(names, name)
		}
	}
	if names == nil {
		return nil, nil
	}
	return b.admin.ListEndOffsets(ctx, names...)
}

// count returns how many messages are stored; where the cluster does not answer, what it said last
// stands.
func (b *kafkaBus) count(last int) int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	listed, err := b.offsets(ctx)
	if err != nil {
		return last
	}
	n := 0
	listed.Each(func(o kadm.ListedOffset) {
		if o.Err == nil {
			n += int(o.Offset)
		}
	})
	return max(n, last)
}

// read returns every message that is committed, by topic and partition, in the partition's order.
func (b *kafkaBus) read(t *testing.T) map[string][]*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	ends, err := b.offsets(ctx)
	require.NoError(t, err)
	from, left := map[string]map[int32]kgo.Offset{}, map[string]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		require.NoError(t, o.Err)
		if from[o.Topic] == nil {
			from[o.Topic] = map[int32]kgo.Offset{}
		}
		from[o.Topic][o.Partition] = kgo.NewOffset().AtStart()
		if o.Offset > 0 {
			left[at(o.Topic, o.Partition)] = o.Offset
		}
	})
	// Control records are kept, so that the reader sees the end of each partition.
	client, err := kgo.NewClient(kgo.SeedBrokers(b.brokers...), kgo.ConsumePartitions(from), kgo.FetchMaxBytes(1<<30), kgo.BrokerMaxReadBytes(1<<30),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	require.NoError(t, err)
	defer client.Close()
	out := map[string][]*kgo.Record{}
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		require.Empty(t, fetches.Errors())
		fetches.EachRecord(func(r *kgo.Record) {
			partition := at(r.Topic, r.Partition)
			if !r.Attrs.IsControl() {
				out[partition] = append(out[partition], r)
			}
			if r.Offset+1 >= left[partition] {
				delete(left, partition)
			}
		})
	}
	return out
}

func at(topic string, partition int32) string { return topic + "/" + strconv.Itoa(int(partition)) }

// config is the configuration of one Kafka lane with a few topics, so that many events share a
// partition.
func (b *kafkaBus) config(delivery, apiURL, dir, create string) string {
	return fmt.Sprintf(`
id: %s
source: {endpoint: %q, api_key: %s, poll_interval: 20ms, rate_limit: 5000}
sinks: [{name: kafka, type: kafka, brokers: [%s], topic_prefix: %q, create: %s}]
routes: [{events: [dsync.*], topic: directory}, {events: [session.*], topic: sessions}, {events: ["*"], topic: others}]
checkpoint: {dir: %q}
admin: {listen: ""}
delivery: %s
`, b.id, apiURL, testKey, strings.Join(b.brokers, ", "), b.prefix, create, dir, delivery)
}

// requireAll requires that every event is there, in the order of the source within each partition,
// and returns how many copies there are beside the first ones.
func (b *kafkaBus) requireAll(t *testing.T, want []string) (copies int) {
	t.Helper()
	at := make(map[string]int, len(want))
	for i, id := range want {
		at[id] = i
	}
	seen := make(map[string]bool, len(want))
	for partition, records := range b.read(t) {
		last := -1
		for _, r := range records {
			id := recordHeader(r, "event-id")
			i, known := at[id]
			require.True(t, known, "%s holds %q, which the source never had", partition, id)
			if seen[id] {
				copies++
				continue
			}
			seen[id] = true
			require.Greater(t, i, last, "%s is out of order at %s", partition, id)
			last = i
		}
	}
	require.Len(t, seen, len(want), "events are missing")
	return copies
}

func recordHeader(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return ""
}

// TestCrashKafka is TestCrashNATS for Kafka: order is that of each partition, and what a crash
// repeats is bounded by one commit. It runs on a Kafka inside the process unless RELAY_TEST_KAFKA
// names a real one.
func TestCrashKafka(t *testing.T) {
	t.Parallel()
	const events, kills = 50_000, 30
	var readers backfills
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: events, Seed: 12}))
	bus := newKafka(t)
	dir := t.TempDir()
	config := writeConfig(t, bus.config("at_least_once", api.URL(), dir, "{partitions: 3}"))
	id := checkpoint.Identity{Relay: bus.id, Lane: "kafka", Endpoint: api.URL(), Destination: "kafka topics " + bus.prefix + "*"}
	want := api.IDs(sourcetest.Filter{})

	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	have := 0
	for kill := range kills {
		var stderr output
		began := time.Now()
		cmd := child(t, &stderr, "run", "--config", config)
		goal := min(have+1+rnd.IntN(events/kills), events-1)
		require.Eventually(t, func() bool { have = bus.count(have); return have >= goal }, patient, time.Millisecond, "kill %d: %s", kill, &stderr)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // reports the kill
		readers.look(api, began)
		_, err := checkpoint.ReadFile(dir, id)
		require.NoError(t, err, "kill %d: the checkpoint must be readable", kill)
	}
	finish(t, config, dir, id, want)
	copies := bus.requireAll(t, want)
	require.LessOrEqual(t, copies, kills*kafka.BatchMessages, "a crash repeats at most one commit")
	readers.require(t)
	t.Logf("%d kills, %d of them after several readers were at work on the backlog, %d events, 0 lost, %d copies", kills, readers, events, copies)
}

// TestCrashKafkaExactlyOnce kills relay as TestCrashKafka does, with the position in the
// transaction of the events: a consumer that reads committed sees every event once, in the order of
// the source within each partition.
//
// P5: 30 kills on Kafka.
func TestCrashKafkaExactlyOnce(t *testing.T) {
	t.Parallel()
	const events, kills = 50_000, 30
	var readers backfills
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: events, Seed: 15}))
	bus := newKafka(t)
	admin := freeAddress(t)
	config := writeConfig(t, strings.Replace(bus.config("exactly_once", api.URL(), t.TempDir(), "{partitions: 3}"), `listen: ""`, "listen: "+admin, 1))
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	have := 0
	for kill := range kills {
		var stderr output
		began := time.Now()
		cmd := child(t, &stderr, "run", "--config", config)
		goal := min(have+1+rnd.IntN(events/kills), events)
		require.Eventually(t, func() bool { have = bus.count(have); return have >= goal }, patient, time.Millisecond, "kill %d: %s", kill, &stderr)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // reports the kill
		readers.look(api, began)
	}
	r := start(t, "run", "--config", config)
	require.Eventually(t, func() bool { return atTip(admin) }, 2*patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	require.Zero(t, bus.requireAll(t, api.IDs(sourcetest.Filter{})), "copies")
	readers.require(t)
	t.Logf("%d kills, %d of them after several readers were at work on the backlog, %d events, 0 lost, 0 copies", kills, readers, events)
}

// atTip reports whether the relay at an admin address has committed everything there is.
func atTip(admin string) bool {
	_, body := get(admin, "/metrics")
	return strings.Contains(body, "\nrelay_at_tip{lane=\"kafka\"} 1\n")
}

// finish runs relay until the last event is committed, and stops it in order.
func finish(t *testing.T, config, dir string, id checkpoint.Identity, want []string) {
	t.Helper()
	var stderr output
	cmd := child(t, &stderr, "run", "--config", config)
	require.Eventually(t, func() bool { return strings.Contains(stderr.String(), "relay is starting") }, patient, often, "it listens to signals by then")
	requireCommitted(t, &stderr, dir, id, want[len(want)-1])
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait(), "an orderly stop exits with 0: %s", &stderr)
}

func requireCommitted(t *testing.T, stderr *output, dir string, id checkpoint.Identity, eventID string) {
	t.Helper()
	require.Eventually(t, func() bool {
		cp, err := checkpoint.ReadFile(dir, id)
		return err == nil && cp.EventID == eventID
	}, 2*patient, often, stderr)
}

// TestClusterCrashKafkaBrokers kills brokers of a real three-node Kafka with SIGKILL while events
// flow. Relay lives, so nothing may be lost, and no retry may become a copy. It does not show the
// loss of two brokers at once.
func TestClusterCrashKafkaBrokers(t *testing.T) {
	cluster := os.Getenv("RELAY_TEST_KAFKA_CLUSTER")
	if cluster == "" {
		t.Skip("needs three real Kafka nodes: run .ci/kafka/start --nodes 3 --dir D, and set RELAY_TEST_KAFKA_CLUSTER to D")
	}
	const kills = 5
	addrs, err := os.ReadFile(filepath.Join(cluster, "bootstrap"))
	require.NoError(t, err)
	bus := newKafkaBus(t, strings.Split(strings.TrimSpace(string(addrs)), ","))
	api := newAPI(t)
	ctx, enough := context.WithCancel(t.Context())
	made := make(chan error, 1)
	go func() { made <- api.Live(ctx, sourcetest.LiveConfig{Rate: 300, Seed: 13}) }()
	dir := t.TempDir()
	config := writeConfig(t, bus.config("at_least_once", api.URL(), dir, `{partitions: 3, replication_factor: 3, config: {min.insync.replicas: "2"}}`))
	id := checkpoint.Identity{Relay: bus.id, Lane: "kafka", Endpoint: api.URL(), Destination: "kafka topics " + bus.prefix + "*"}

	var stderr output
	cmd := child(t, &stderr, "run", "--config", config)
	have := 0
	for kill := range kills {
		flows := func(more int) {
			goal := have + more
			require.Eventually(t, func() bool { have = bus.count(have); return have >= goal }, 2*patient, often, "kill %d: %s", kill, &stderr)
		}
		flows(500)
		node(t, cluster, 1+kill%3, "kill")
		flows(1)
		node(t, cluster, 1+kill%3, "start")
	}
	enough()
	require.NoError(t, <-made)
	want := api.IDs(sourcetest.Filter{})
	requireCommitted(t, &stderr, dir, id, want[len(want)-1])
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait(), &stderr)
	require.Zero(t, bus.requireAll(t, want), "a retry became a copy")
	t.Logf("%d brokers killed, %d events, 0 lost, 0 copies", kills, len(want))
}

func node(t *testing.T, cluster string, number int, action string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "../../.ci/kafka/node", strconv.Itoa(number), action, "--dir", cluster).CombinedOutput()
	require.NoError(t, err, "%s", out)
}
