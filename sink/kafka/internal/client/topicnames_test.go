package client

import (
	"testing"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestNamesOfTopicsWithoutIDs: a topic exists if the cluster names it, also if it has no id,
// because the brokers still speak an older protocol to each other, or no leader for the moment.
func TestNamesOfTopicsWithoutIDs(t *testing.T) {
	t.Parallel()
	res := kmsg.NewMetadataResponse()
	res.Version = metadataVersion
	for name, code := range map[string]kafkago.Error{
		"with.id": 0, "without.id": 0, "without.leader": kafkago.LeaderNotAvailable, "gone": kafkago.UnknownTopicOrPartition,
	} {
		topic := kmsg.NewMetadataResponseTopic()
		topic.Topic, topic.ErrorCode = kmsg.StringPtr(name), int16(code)
		if name == "with.id" {
			topic.TopicID = [16]byte{1}
		}
		res.Topics = append(res.Topics, topic)
	}
	d := &wireReader{data: res.AppendTo(nil)}
	m := &metadataWithIDs{}
	m.decode(d)
	require.False(t, d.short)
	require.Equal(t, []string{"with.id", "without.id", "without.leader"}, m.names())
}
