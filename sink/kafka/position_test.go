package kafka

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
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

// unaware makes the brokers of c answer the first looks requests for topics as if they did not know
// any of them, as brokers do that have just started.
func unaware(t *testing.T, c *kfake.Cluster, looks int32) {
	t.Helper()
	cluster, err := kadm.NewClient(reader(t, c.ListenAddrs())).BrokerMetadata(within(t, patient))
	require.NoError(t, err)
	var told atomic.Int32
	c.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		asked := req.(*kmsg.MetadataRequest)
		if len(asked.Topics) == 0 || told.Add(1) > looks {
			return nil, nil, false
		}
		res := asked.ResponseKind().(*kmsg.MetadataResponse)
		res.ControllerID = cluster.Controller
		for _, known := range cluster.Brokers {
			b := kmsg.NewMetadataResponseBroker()
			b.NodeID, b.Host, b.Port = known.NodeID, known.Host, known.Port
			res.Brokers = append(res.Brokers, b)
		}
		for _, topic := range asked.Topics {
			unknown := kmsg.NewMetadataResponseTopic()
			unknown.Topic, unknown.ErrorCode = topic.Topic, kerr.UnknownTopicOrPartition.Code
			res.Topics = append(res.Topics, unknown)
		}
		return res, nil, true
	})
}

// TestTheControllerSaysThatThereIsNoPosition counts the requests of a Load that finds no topic of
// the position. The controller's word is enough; without it the brokers are asked again.
func TestTheControllerSaysThatThereIsNoPosition(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		create bool
		denied bool
		late   time.Duration // of the controller's answer
		looks  int32         // requests for the topic
	}{
		"the controller answers":          {create: true, looks: 1},
		"relay is not to create topics":   {looks: missingLooks},
		"relay may not create topics":     {create: true, denied: true, looks: missingLooks},
		"the controller leaves it unsaid": {create: true, late: 2 * controllerWait, looks: missingLooks},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := fake(t)
			cfg := uniqueLane(t, c.ListenAddrs())
			cfg.Create.Enabled = tc.create
			topic := PositionTopic(cfg.RelayID, cfg.Lane)
			var looks, asked atomic.Int32
			c.Control(func(req kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				switch req := req.(type) {
				case *kmsg.MetadataRequest:
					if len(req.Topics) == 1 && *req.Topics[0].Topic == topic {
						looks.Add(1)
					}
				case *kmsg.CreateTopicsRequest:
					asked.Add(1)
					c.SleepControl(func() { time.Sleep(tc.late) })
					if tc.denied {
						refused := kmsg.NewCreateTopicsResponseTopic()
						refused.Topic, refused.ErrorCode = topic, kerr.TopicAuthorizationFailed.Code
						res := req.ResponseKind().(*kmsg.CreateTopicsResponse)
						res.Topics = append(res.Topics, refused)
						return res, nil, true
					}
				}
				return nil, nil, false
			})
			ledger, began := openLedger(t, cfg, checkpointtest.Identity()), time.Now()
			_, err := ledger.Load(within(t, patient))
			took := time.Since(began)
			require.ErrorIs(t, err, checkpoint.ErrNotFound)
			const refresh = 6 * time.Second // of the transport
			most := tc.looks + 1 + int32(took/refresh)
			if took >= controllerWait { // the machine stood still, and the controller did not answer in time
				most += missingLooks - tc.looks
			}
			require.GreaterOrEqual(t, looks.Load(), tc.looks)
			require.LessOrEqual(t, looks.Load(), most, "after a request for topics the transport looks, too")
			require.Equal(t, tc.create, asked.Load() == 1)
			listed, err := kadm.NewClient(reader(t, c.ListenAddrs())).ListTopics(within(t, patient))
			require.NoError(t, err)
			require.NotContains(t, listed.Names(), topic, "asking creates nothing")
		})
	}
}

// TestABrokerThatDoesNotKnowTheTopicYet: brokers that have just started do not know the topic of
// the position for longer than they are asked without the controller's word. It is waited for.
func TestABrokerThatDoesNotKnowTheTopicYet(t *testing.T) {
	t.Parallel()
	c := fake(t)
	cfg := uniqueLane(t, c.ListenAddrs())
	_, err := fenced(t, cfg).Commit(t.Context(), nil, checkpoint.Checkpoint{}, checkpointtest.Full(1))
	require.NoError(t, err)
	unaware(t, c, 2*missingLooks)
	have, err := openLedger(t, cfg, checkpointtest.Identity()).Load(within(t, patient))
	require.NoError(t, err)
	checkpointtest.RequireEqual(t, checkpointtest.Full(1), have)
}
