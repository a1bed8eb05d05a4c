//go:build unix

package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"workos-relay/internal/testaddr"
	"workos-relay/tests/testkit"
)

// The listener of each broker that is for proxies, and the advertised one, counted from
// its plain one.
const proxiedPort, advertisedPort = 40, 50

// kafkaBus is a real Kafka of three brokers, which .ci/kafka/start has started, with a link to
// each. Brokers tell clients where the others are, so both relays share the links.
type kafkaBus struct {
	name    string // of the sink; its topics have it before them
	nodes   []*kafkaNode
	brokers []string // that go round the links
	links   []*testkit.Link
	admin   *kadm.Client
	counted int
}

func newKafkaBus(t *testing.T) *kafkaBus {
	t.Helper()
	dir := os.Getenv("RELAY_TEST_KAFKA_CLUSTER")
	if dir == "" {
		t.Skip("needs three real Kafka nodes: run .ci/kafka/start --nodes 3 --dir D, and set RELAY_TEST_KAFKA_CLUSTER to D")
	}
	bootstrap, err := os.ReadFile(filepath.Join(dir, "bootstrap"))
	require.NoError(t, err)
	b := &kafkaBus{name: fmt.Sprintf("chaos%d", time.Now().UnixNano()), brokers: strings.Split(strings.TrimSpace(string(bootstrap)), ",")}
	require.Len(t, b.brokers, 3)
	for i, address := range b.brokers {
		_, text, _ := strings.Cut(address, ":")
		port, err := strconv.Atoi(text)
		require.NoError(t, err)
		b.links = append(b.links, testkit.NewLink(t, testaddr.On(port+advertisedPort), testaddr.On(port+proxiedPort)))
		n := &kafkaNode{number: i + 1, dir: dir}
		b.nodes = append(b.nodes, n)
		t.Cleanup(func() { n.Resume(); n.Start(t) })
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(b.brokers...))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	b.admin = kadm.NewClient(client)
	return b
}

// kafkaNode is one broker, which is controller as well.
type kafkaNode struct {
	number int
	dir    string
	down   bool
}

func (n *kafkaNode) run(action string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	out, err := exec.CommandContext(ctx, "../../.ci/kafka/node", strconv.Itoa(n.number), action, "--dir", n.dir).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (n *kafkaNode) Kill() {
	if err := n.run("kill"); err != nil {
		panic(err)
	}
	n.down = true
}

// Start returns once the broker serves clients.
func (n *kafkaNode) Start(t testing.TB) {
	t.Helper()
	if n.down {
		assert.NoError(t, n.run("start"))
		n.down = false
	}
}

func (n *kafkaNode) signal(s syscall.Signal) {
	text, err := os.ReadFile(filepath.Join(n.dir, fmt.Sprintf("node-%d", n.number), "pid"))
	if err != nil {
		return // it is down
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
		_ = syscall.Kill(pid, s)
	}
}

func (n *kafkaNode) Pause()  { n.signal(syscall.SIGSTOP) }
func (n *kafkaNode) Resume() { n.signal(syscall.SIGCONT) }

func (b *kafkaBus) sink(int) string {
	var brokers []string
	for _, l := range b.links {
		brokers = append(brokers, l.Address)
	}
	return fmt.Sprintf("{name: %s, type: kafka, brokers: [%s], topic_prefix: %s., request_timeout: 4s, transaction_timeout: 10s, "+
		`create: {partitions: 3, replication_factor: 3, config: {min.insync.replicas: "2"}}}`, b.name, strings.Join(brokers, ", "), b.name)
}

func (b *kafkaBus) linksOf(int) []*testkit.Link { return b.links }

func (b *kafkaBus) early() bool { return false } // sequence numbers leave no holes

func (b *kafkaBus) servers() []busServer {
	var all []busServer
	for _, n := range b.nodes {
		all = append(all, n)
	}
	return all
}

func (b *kafkaBus) positionTopic() string { return positionTopics + "workos." + b.name }

// topics returns those of events, and with internal ones every topic that delivery depends on.
func (b *kafkaBus) topics(ctx context.Context, all bool) (kadm.TopicDetails, error) {
	listed, err := b.admin.ListTopicsWithInternal(ctx)
	if err != nil {
		return nil, err
	}
	for name := range listed {
		events := strings.HasPrefix(name, b.name+".")
		if !events && (!all || name != b.positionTopic() && name != "__transaction_state") {
			delete(listed, name)
		}
	}
	return listed, nil
}

func (b *kafkaBus) leader() int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	listed, err := b.topics(ctx, false)
	if err != nil {
		return -1
	}
	if d, found := listed[b.name+".directory"].Partitions[0]; found && d.Leader > 0 {
		return int(d.Leader) - 1
	}
	return -1
}

// stepDown hands every partition to the next of its replicas.
func (b *kafkaBus) stepDown() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	listed, err := b.topics(ctx, true)
	if err != nil {
		return
	}
	var req kadm.AlterPartitionAssignmentsReq
	set := kadm.TopicsSet{}
	listed.EachPartition(func(d kadm.PartitionDetail) {
		if len(d.Replicas) == 3 {
			req.Assign(d.Topic, d.Partition, []int32{d.Replicas[1], d.Replicas[2], d.Replicas[0]})
			set.Add(d.Topic, d.Partition)
		}
	})
	if _, err := b.admin.AlterPartitionAssignments(ctx, req); err != nil {
		return
	}
	time.Sleep(300 * time.Millisecond) // for the brokers to take the new order of replicas
	_, _ = b.admin.ElectLeaders(ctx, kadm.ElectPreferredReplica, set)
}

func (b *kafkaBus) whole() bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	listed, err := b.topics(ctx, true)
	if err != nil {
		return false
	}
	whole := true
	listed.EachPartition(func(d kadm.PartitionDetail) {
		whole = whole && d.Err == nil && d.Leader > 0 && len(d.ISR) == len(b.nodes)
	})
	return whole
}

func (b *kafkaBus) ends(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
	listed, err := b.admin.ListEndOffsets(ctx, topics...)
	if err == nil {
		err = listed.Error()
	}
	return listed, err
}

func (b *kafkaBus) eventEnds(ctx context.Context) (kadm.ListedOffsets, error) {
	listed, err := b.topics(ctx, false)
	if err != nil || len(listed) == 0 {
		return nil, err
	}
	return b.ends(ctx, listed.Names()...)
}

// count counts what ends transactions as well.
func (b *kafkaBus) count() int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	listed, err := b.eventEnds(ctx)
	if err != nil {
		return b.counted
	}
	n := 0
	listed.Each(func(o kadm.ListedOffset) { n += int(o.Offset) })
	b.counted = max(n, b.counted)
	return b.counted
}

func (b *kafkaBus) watch(context.Context) {} // the topic keeps every position until it is compacted

func (b *kafkaBus) positions(t *testing.T) []testkit.Position {
	t.Helper()
	var all []testkit.Position
	again(t, func(ctx context.Context) error {
		all = nil
		ends, err := b.ends(ctx, b.positionTopic())
		if err != nil {
			return err
		}
		return b.readCommitted(ctx, ends, func(r *kgo.Record) {
			p, err := testkit.ReadPosition(uint64(r.Offset), r.Value)
			require.NoError(t, err)
			all = append(all, p)
		})
	})
	return all
}

func (b *kafkaBus) read(ctx context.Context, o *testkit.Oracle) error {
	ends, err := b.eventEnds(ctx)
	if err != nil {
		return err
	}
	return b.readCommitted(ctx, ends, func(r *kgo.Record) {
		id := ""
		for _, h := range r.Headers {
			if h.Key == "event-id" {
				id = string(h.Value)
			}
		}
		o.See(fmt.Sprintf("%s/%d", r.Topic, r.Partition), uint64(r.Offset), id, r.Value)
	})
}

// readCommitted yields what a consumer that reads committed sees before ends.
func (b *kafkaBus) readCommitted(ctx context.Context, ends kadm.ListedOffsets, yield func(*kgo.Record)) error {
	type partition struct {
		topic string
		n     int32
	}
	left := map[partition]int64{} // to the end that is to be reached
	from := map[string]map[int32]kgo.Offset{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset == 0 {
			return
		}
		left[partition{o.Topic, o.Partition}] = o.Offset
		if from[o.Topic] == nil {
			from[o.Topic] = map[int32]kgo.Offset{}
		}
		from[o.Topic][o.Partition] = kgo.NewOffset().AtStart()
	})
	client, err := kgo.NewClient(kgo.SeedBrokers(b.brokers...), kgo.ConsumePartitions(from), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(), kgo.FetchMaxBytes(1<<30), kgo.BrokerMaxReadBytes(1<<30))
	if err != nil {
		return err
	}
	defer client.Close()
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		var failed []error
		fetches.EachError(func(topic string, p int32, err error) {
			failed = append(failed, fmt.Errorf("%s/%d: %w", topic, p, err))
		})
		if len(failed) > 0 {
			return errors.Join(failed...)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			at := partition{r.Topic, r.Partition}
			end, open := left[at]
			if open && r.Offset < end && !r.Attrs.IsControl() {
				yield(r)
			}
			if r.Offset+1 >= end {
				delete(left, at)
			}
		})
	}
	return nil
}
