package kafka

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
	"workos-relay/sink/kafka/internal/client"
)

// TestPositionTopicBecomesShorter: an election of a replica that was behind takes away the end that
// the old leader named. The position is looked for again, and not waited for if nothing will
// come.
func TestPositionTopicBecomesShorter(t *testing.T) {
	t.Parallel()
	c := fake(t)
	cfg := uniqueLane(t, c.ListenAddrs())
	l := fenced(t, cfg)
	_, err := l.Commit(t.Context(), nil, checkpoint.Checkpoint{}, checkpointtest.Full(1))
	require.NoError(t, err)
	var told atomic.Bool
	c.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		asked := req.(*kmsg.ListOffsetsRequest)
		if asked.Topics[0].Partitions[0].Timestamp != client.LatestOffset || told.Swap(true) {
			return nil, nil, false
		}
		res := asked.ResponseKind().(*kmsg.ListOffsetsResponse)
		p := kmsg.NewListOffsetsResponseTopicPartition()
		p.Offset = 10
		topic := kmsg.NewListOffsetsResponseTopic()
		topic.Topic, topic.Partitions = l.topic, []kmsg.ListOffsetsResponseTopicPartition{p}
		res.Topics = append(res.Topics, topic)
		return res, nil, true
	})
	have, err := openLedger(t, cfg, checkpointtest.Identity()).Load(within(t, patient))
	require.NoError(t, err)
	require.True(t, told.Load())
	checkpointtest.RequireEqual(t, checkpointtest.Full(1), have)
}
