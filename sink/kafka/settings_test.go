package kafka

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

func TestWhichTopicSettingsDelete(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, have, want string
		deletes          bool
	}{
		{retentionTime, "1000", "2000", false}, {retentionTime, "2000", "1000", true}, {retentionTime, "-1", "1000", true},
		{retentionTime, "1000", "-1", false}, {retentionBytes, "-1", "1", true}, {retentionBytes, "1", "2", false},
		{retentionTime, "?", "1", true}, {cleanupPolicy, "delete", "compact", true}, {cleanupPolicy, "compact", "delete", true},
		{"segment.ms", "2000", "1000", false}, {minInSyncReplicas, "2", "1", false},
	} {
		require.Equal(t, c.deletes, deletes(c.name, c.have, c.want), c)
	}
}

func TestSameValueOfATopicSetting(t *testing.T) {
	t.Parallel()
	for _, same := range [][2]string{{"compact,delete", "delete, compact"}, {"0.5", "0.50"}, {"1000", "1000"}, {"producer", "producer"}} {
		require.True(t, sameValue(same[0], same[1]), same)
	}
	for _, differ := range [][2]string{{"compact,delete", "delete"}, {"1000", "1001"}, {"", "1"}, {"true", "false"}} {
		require.False(t, sameValue(differ[0], differ[1]), differ)
	}
}

func topicOf(replicas ...[]int32) metadata.ResponseTopic {
	t := metadata.ResponseTopic{Name: "a"}
	for i, r := range replicas {
		t.Partitions = append(t.Partitions, metadata.ResponsePartition{PartitionIndex: int32(i), LeaderID: r[0], ReplicaNodes: r, IsrNodes: r}) //nolint:gosec // few
	}
	return t
}

func TestMoreReplicasAreSpread(t *testing.T) {
	t.Parallel()
	c := &comparison{brokers: []metadata.ResponseBroker{{NodeID: 1, Rack: "x"}, {NodeID: 2, Rack: "x"}, {NodeID: 3, Rack: "y"}, {NodeID: 4, Rack: "z"}}}
	got := c.enlarge(topicOf([]int32{1}, []int32{2}, []int32{3}), 3)
	require.Equal(t, [][]int32{{1, 4, 3}, {2, 4, 3}, {3, 1, 4}}, got, "present replicas stay first, and each rack has one")
	c.brokers = c.brokers[:2]
	require.Equal(t, [][]int32{{1, 2}}, c.enlarge(topicOf([]int32{1}), 2))
}

// TestMinInsyncReplicasWaitForReplicas: raised before the replicas are in sync, it would stop the
// lane.
func TestMinInsyncReplicasWaitForReplicas(t *testing.T) {
	t.Parallel()
	brokers := []metadata.ResponseBroker{{NodeID: 1}, {NodeID: 2}, {NodeID: 3}}
	now := client.TopicSettings{Values: map[string]string{minInSyncReplicas: "1"}}
	judged := func(t *testing.T, topic metadata.ResponseTopic, replication int) sink.Setting {
		t.Helper()
		shared := &common{explainer: explainer{cfg: Config{Brokers: []string{"b:1"}}}, log: zap.NewNop()}
		c := &comparison{common: shared, memory: newTopicMemory(shared), brokers: brokers, owned: map[string]string{"a": ""},
			spec: Create{Enabled: true, ReplicationFactor: replication, Config: map[string]string{minInSyncReplicas: "2"}}}
		c.topic(topic, now, []string{minInSyncReplicas}, false)
		for _, d := range c.found {
			if d.Key == keyConfig+minInSyncReplicas {
				return d.Setting
			}
		}
		require.Fail(t, "not found")
		return sink.Setting{}
	}
	require.Equal(t, sink.Unchanged, judged(t, topicOf([]int32{1}), 0).Outcome, "there are too few, and nobody asks for more")
	require.Equal(t, sink.Waits, judged(t, topicOf([]int32{1}), 3).Outcome)
	behind := topicOf([]int32{1, 2, 3})
	behind.Partitions[0].IsrNodes = []int32{1}
	require.Equal(t, sink.Waits, judged(t, behind, 3).Outcome)
	require.Equal(t, sink.Changes, judged(t, topicOf([]int32{1, 2, 3}), 3).Outcome)
}

// TestATopicMadeAgainIsAnothers: who deletes a topic of relay and makes one with its name owns
// that.
func TestATopicMadeAgainIsAnothers(t *testing.T) {
	t.Parallel()
	outcome := func(remembered, now map[string]string) sink.Outcome {
		c := &comparison{memory: newTopicMemory(&common{}), spec: Create{Enabled: true}, owned: remembered, ids: now}
		c.add(topicDifference{topic: "a", Setting: sink.Setting{Key: "k", Have: "1", Want: "2", Outcome: sink.Changes}})
		return c.found[0].Outcome
	}
	one := map[string]string{"a": "1"}
	require.Equal(t, sink.Changes, outcome(one, one))
	require.Equal(t, sink.Unchanged, outcome(one, map[string]string{"a": "2"}))
	require.Equal(t, sink.Changes, outcome(one, nil), "a cluster that tells no ids")
	require.Equal(t, sink.Changes, outcome(map[string]string{"a": ""}, one), "it told none then")
	require.Equal(t, sink.Unchanged, outcome(nil, one))
}

func TestTopicsThatDifferAlikeAreOneSetting(t *testing.T) {
	t.Parallel()
	c := &comparison{}
	for _, topic := range []string{"e", "a", "d", "b", "c"} {
		c.found = append(c.found, topicDifference{topic: topic, Setting: sink.Setting{Key: "k", Have: "1", Want: "2"}})
	}
	c.found = append(c.found, topicDifference{topic: "f", Setting: sink.Setting{Key: "k", Have: "3", Want: "2"}})
	got := c.settings()
	require.Len(t, got, 2)
	require.Equal(t, "topics a, b, c and 2 more", got[0].Of)
	require.Equal(t, "topic f", got[1].Of)
}

func TestOwnedTopics(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "data", "topics")
	o := &ownedTopics{path: path}
	none, err := o.of("c1")
	require.NoError(t, err)
	require.Empty(t, none)
	require.NoError(t, o.add("c1", map[string]string{"a": ""}))
	require.NoError(t, o.add("c1", map[string]string{"b": "id"}))
	require.NoError(t, o.add("c2", map[string]string{"a": ""}))
	again := &ownedTopics{path: path}
	have, err := again.of("c1")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"a": "", "b": "id"}, have)
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1, "no temporary file is left")

	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	_, err = again.of("c1")
	require.ErrorContains(t, err, path)
	require.Error(t, again.add("c1", map[string]string{"c": ""}), "what cannot be read is not replaced")
	require.NoError(t, (&ownedTopics{}).add("c1", map[string]string{"a": ""}))
}
