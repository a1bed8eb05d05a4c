package kafka

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"

	"workos-relay/sink"
)

// realCluster is the three-node Apache Kafka that .ci/kafka/start has started.
type realCluster struct {
	dir     string
	brokers []string
	admin   *kadm.Client
}

func newRealCluster(t *testing.T) *realCluster {
	dir := os.Getenv("RELAY_TEST_KAFKA_CLUSTER")
	if dir == "" {
		t.Skip("needs three real Kafka nodes: run .ci/kafka/start --nodes 3 --dir D, and set RELAY_TEST_KAFKA_CLUSTER to D")
	}
	addrs, err := os.ReadFile(filepath.Join(dir, "bootstrap"))
	require.NoError(t, err)
	c := &realCluster{dir: dir, brokers: strings.Split(strings.TrimSpace(string(addrs)), ",")}
	c.admin = kadm.NewClient(reader(t, c.brokers))
	return c
}

func (c *realCluster) node(t *testing.T, number int32, action string) {
	t.Helper()
	script, err := filepath.Abs("../../.ci/kafka/node")
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), script, fmt.Sprint(number), action, "--dir", c.dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// Brokers are the addresses of the cluster.
func (c *realCluster) Brokers() []string { return c.brokers }

// KillAndStart kills a node and returns once it is up again and every replica of the topics is in
// sync.
func (c *realCluster) KillAndStart(t *testing.T, number int32, topics ...string) {
	c.node(t, number, "kill")
	c.node(t, number, "start")
	require.Eventually(t, func() bool { return c.inSync(t, topics...) }, patient, 100*time.Millisecond, "node %d does not catch up", number)
}

// leaders returns the leader of each partition of a topic.
func (c *realCluster) leaders(t *testing.T, topic string) map[int32]int32 {
	t.Helper()
	details, err := c.admin.ListTopics(within(t, patient), topic)
	require.NoError(t, err)
	leaders := make(map[int32]int32)
	for p, d := range details[topic].Partitions {
		leaders[p] = d.Leader
	}
	return leaders
}

func (c *realCluster) inSync(t *testing.T, topics ...string) bool {
	details, err := c.admin.ListTopics(within(t, patient), topics...)
	if err != nil || len(details) < len(topics) {
		return false
	}
	for _, d := range details {
		if d.Err != nil || len(d.Partitions) == 0 { // a node that has just started may not know of it
			return false
		}
		for _, p := range d.Partitions {
			if len(p.ISR) != 3 {
				return false
			}
		}
	}
	return true
}

// open returns a sink for topics of this test, which keep every acknowledged message through the
// loss of one node.
func (c *realCluster) open(t *testing.T, topics ...string) *Sink {
	cfg := config(t, c.brokers)
	cfg.RequestTimeout = 5 * time.Second
	cfg.Create.ReplicationFactor = 3
	cfg.Create.Config = map[string]string{"min.insync.replicas": "2"}
	s := open(t, cfg)
	require.Eventually(t, func() bool { return s.Prepare(within(t, patient), topics) == nil }, patient, 100*time.Millisecond)
	t.Cleanup(func() { _, _ = c.admin.DeleteTopics(cleaningUp(t), topics...) })
	return s
}

// publishWhile publishes page after page until trouble has returned and a few more are through, and
// returns what it published.
func publishWhile(t *testing.T, s *Sink, topics []string, trouble func()) []sink.Message {
	over := make(chan struct{})
	go func() { defer close(over); trouble() }()
	var sent []sink.Message
	for after := 0; after < 5; {
		batch := messages(len(sent), 200, topics...)
		require.NoError(t, s.Publish(within(t, patient), batch))
		sent = append(sent, batch...)
		select {
		case <-over:
			after++
		default:
		}
	}
	return sent
}

// TestRealLeadersMove hands the leadership of every partition around while pages are published.
func TestRealLeadersMove(t *testing.T) {
	c := newRealCluster(t)
	topics := unique(t, "a", "b")
	s := c.open(t, topics...)
	moves := 0
	sent := publishWhile(t, s, topics, func() {
		for round := range 3 {
			before := c.leaders(t, topics[0])
			preferred := make(map[int32]int32)
			everything := make(kadm.TopicsSet)
			var req kadm.AlterPartitionAssignmentsReq
			for _, topic := range topics {
				for p := range int32(6) {
					first := (p + int32(round)) % 3
					req.Assign(topic, p, []int32{1 + first, 1 + (first+1)%3, 1 + (first+2)%3})
					preferred[p] = 1 + first
					everything.Add(topic, p)
				}
			}
			if res, err := c.admin.AlterPartitionAssignments(t.Context(), req); err != nil || res.Error() != nil {
				t.Error("assigning replicas", err, res.Error())
				return
			}
			elected := func() bool { // once the brokers have taken the new order of replicas
				_, err := c.admin.ElectLeaders(t.Context(), kadm.ElectPreferredReplica, everything)
				return err == nil && maps.Equal(c.leaders(t, topics[0]), preferred) && maps.Equal(c.leaders(t, topics[1]), preferred)
			}
			if !assert.Eventually(t, elected, patient, 100*time.Millisecond, "leaders do not move") {
				return
			}
			for p, l := range preferred {
				if before[p] != l {
					moves++
				}
			}
		}
	})
	require.Positive(t, moves)
	t.Logf("%d messages, %d leaderships moved", len(sent), moves)
	requireStored(t, c.brokers, sent, topics...)
}

// TestRealBrokerKilled kills one node after the other by SIGKILL in mid-publish and starts it
// again: nothing acknowledged is lost, nothing is stored twice by a retry, and the order of each
// key is kept.
func TestRealBrokerKilled(t *testing.T) {
	c := newRealCluster(t)
	topics := unique(t, "a", "b")
	s := c.open(t, topics...)
	kills := 5
	sent := publishWhile(t, s, topics, func() {
		for i := range kills {
			var victim int32
			require.Eventually(t, func() bool {
				victim = c.leaders(t, topics[i%2])[int32(i)]
				return victim > 0
			}, patient, 100*time.Millisecond, "nobody leads")
			c.KillAndStart(t, victim, topics...)
		}
	})
	t.Logf("%d messages, %d brokers killed", len(sent), kills)
	requireStored(t, c.brokers, sent, topics...)
}

// unique returns topic names that no other run has used.
func unique(t *testing.T, names ...string) []string {
	topics := make([]string, len(names))
	for i, n := range names {
		topics[i] = fmt.Sprintf("test-%s-%d.%s", path.Base(t.Name()), time.Now().UnixNano(), n)
		topics[i] = strings.Map(func(r rune) rune {
			if illegalTopicCharacters(string(r)) != "" {
				return '-'
			}
			return r
		}, topics[i])
	}
	return topics
}
