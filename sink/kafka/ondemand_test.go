package kafka

import (
	"context"
	"errors"
	"testing"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

// onDemandSink returns a sink that is prepared for the topics of a pattern, at most three.
func onDemandSink(t *testing.T, c *kfake.Cluster) *Sink {
	t.Helper()
	cfg := config(t, c.ListenAddrs())
	cfg.Lane, cfg.Create.MaxTopics, cfg.Create.Partitions = "kafka", 3, 2
	s := open(t, cfg)
	require.NoError(t, s.Prepare(within(t, patient), []string{"p.*"}))
	return s
}

// TestTopicsOnDemand: topics of a pattern are created before the first message that goes there, up
// to a bound that also counts those of an earlier process. What precedes a message without a topic
// is published, and nothing behind it.
func TestTopicsOnDemand(t *testing.T) {
	t.Parallel()
	c := fake(t)
	require.NoError(t, c.CreateTopic("p_x", 1, nil))
	s := onDemandSink(t, c)
	var told []string
	fails := errors.New("not now")
	s.OnTopics(func(_ context.Context, topics []string) error {
		require.Empty(t, readAll(t, c.ListenAddrs(), topics...), "nothing is stored there yet")
		told = append(told, topics...)
		return fails
	})
	first := messages(0, 6, "p.a", "p.b")
	var at *sink.PublishError
	err := s.Publish(within(t, patient), first)
	require.ErrorIs(t, err, fails)
	require.ErrorAs(t, err, &at)
	require.Zero(t, at.Durable)
	fails = nil
	require.NoError(t, s.Publish(within(t, patient), first))
	require.Equal(t, []string{"p.a", "p.b", "p.a", "p.b"}, told)
	requireStored(t, c.ListenAddrs(), first, "p.a", "p.b")
	parts, err := s.Survey(within(t, patient), []string{"p.*"}, nil)
	require.NoError(t, err)
	require.Len(t, parts, 2)
	require.Equal(t, []int{2, 2}, []int{len(parts[0].Ends), len(parts[1].Ends)})
	gone := checkpoint.Part{Name: "kafka topic p.gone", Topic: "p.gone", Used: true}
	now, err := s.Survey(within(t, patient), []string{"p.*"}, append(parts, gone))
	require.NoError(t, err)
	require.Equal(t, parts, now, "the one that was deleted is left out")

	s = onDemandSink(t, c) // a restart
	require.NoError(t, s.Publish(within(t, patient), messages(6, 1, "p.c")))
	next := messages(7, 3, "p.a")
	next[1].Topic = "p.d"
	err = s.Publish(within(t, patient), next)
	require.ErrorAs(t, err, &at)
	require.Equal(t, 1, at.Durable)
	var fatal *sink.FatalError
	require.ErrorAs(t, err, &fatal)
	require.ErrorContains(t, err, "kafka topic p.d is not created: sinks[kafka].create.max_topics is 3, and the routes have made 3 topics already")
	require.Contains(t, fatal.OperatorAction(), "raise sinks[kafka].create.max_topics")
	next[1].Topic = "p.x"
	err = s.Publish(within(t, patient), next[1:])
	require.ErrorAs(t, err, &at)
	require.Zero(t, at.Durable)
	require.ErrorAs(t, err, new(*sink.RejectedError))
	require.ErrorContains(t, err, "it differs from p_x only by '.' and '_'")
	require.Len(t, readAll(t, c.ListenAddrs(), "p.a"), 4)

	holds, err := s.Holds(within(t, patient), []string{"p.*"})
	require.NoError(t, err)
	require.True(t, holds)
	holds, err = s.Holds(within(t, patient), []string{"q.>"})
	require.NoError(t, err)
	require.False(t, holds)
	status, err := s.Inspect(within(t, patient), []string{"p.*"})
	require.NoError(t, err)
	require.Len(t, status, 1)
	require.True(t, status[0].Exists)
	require.Contains(t, status[0].Detail, "3 topics of at most 3")
	require.Contains(t, status[0].Warnings[len(status[0].Warnings)-1], "raise create.max_topics")
}

// TestCreationThatFails: what the cluster answers to the creation of a topic decides whether the
// event waits or an operator must act. Nothing is lost, and the order stays.
func TestCreationThatFails(t *testing.T) {
	t.Parallel()
	for _, exactly := range []bool{false, true} {
		for code, wants := range map[kafkago.Error]string{
			kafkago.RequestTimedOut:          "creating kafka topic p.b",
			kafkago.TopicAuthorizationFailed: "p.b: does not exist, and relay may not create it; create it, or grant relay that by kafka-acls",
			kafkago.PolicyViolation:          "a policy of the cluster forbids it",
		} {
			c := fake(t)
			cfg := config(t, c.ListenAddrs())
			cfg.RelayID, cfg.Lane = "workos", "kafka"
			id := checkpoint.Identity{Relay: "workos", Lane: "kafka"}
			l, err := NewLedger(cfg, id)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, l.Close()) })
			require.NoError(t, l.Prepare(within(t, patient), []string{"p.*"}))
			require.NoError(t, l.Fence(within(t, patient)))
			at := checkpoint.Checkpoint{Generation: 1, Source: id, Mode: checkpoint.ExactlyOnce}
			next := func(batch []sink.Message) checkpoint.Checkpoint {
				n := at
				n.Position = batch[len(batch)-1].Position
				return n
			}
			prev := checkpoint.Checkpoint{}
			publish := func(batch []sink.Message) error {
				if !exactly {
					return l.sink.Publish(within(t, patient), batch)
				}
				kept, err := l.Commit(within(t, patient), batch, prev, next(batch))
				if err == nil {
					prev = kept
				}
				return err
			}
			require.NoError(t, publish(messages(0, 1, "p.a")))
			refuses := true
			c.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				if !refuses {
					return nil, nil, false
				}
				res := req.ResponseKind().(*kmsg.CreateTopicsResponse)
				for _, topic := range req.(*kmsg.CreateTopicsRequest).Topics {
					rt := kmsg.NewCreateTopicsResponseTopic()
					rt.Topic, rt.ErrorCode = topic.Topic, int16(code)
					res.Topics = append(res.Topics, rt)
				}
				return res, nil, true
			})
			batch := messages(1, 3, "p.a")
			batch[1].Topic = "p.b"
			err = publish(batch)
			require.ErrorContains(t, err, wants)
			require.Equal(t, code != kafkago.RequestTimedOut, errors.As(err, new(*sink.FatalError)))
			require.NotErrorAs(t, err, new(*sink.RejectedError))
			var named *sink.PublishError
			if exactly && code == kafkago.RequestTimedOut {
				require.NotErrorAs(t, err, &named, "a plain retry")
			} else {
				require.ErrorAs(t, err, &named)
				require.Equal(t, 1, named.Durable)
			}
			refuses = false
			if exactly {
				require.NoError(t, publish(batch))
			} else {
				require.NoError(t, publish(batch[1:]))
			}
			if exactly {
				require.Equal(t, batch[2].Position.EventID, prev.EventID)
			}
			requireStored(t, c.ListenAddrs(), append(messages(0, 1, "p.a"), batch...), "p.a", "p.b")
		}
	}
}

// TestACreationThatFailsAsAWhole: no topic of the request counts as created, so nothing is waited
// for, and messages to a topic that exists go out.
func TestACreationThatFailsAsAWhole(t *testing.T) {
	t.Parallel()
	c := fake(t)
	s := onDemandSink(t, c)
	require.NoError(t, c.CreateTopic("p.x", 1, nil)) // by another one meanwhile
	c.ControlKey(int16(kmsg.CreateTopics), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		return nil, errors.New("the connection breaks"), true
	})
	batch := messages(0, 3, "p.x")
	batch[1].Topic, batch[2].Topic = "p.t0", "p.t1"
	var at *sink.PublishError
	err := s.Publish(within(t, patient), batch)
	require.ErrorAs(t, err, &at)
	require.Equal(t, 1, at.Durable)
	require.ErrorContains(t, err, "p.t0: does not exist, and relay cannot create it: the cluster answers other requests")
	require.ErrorAs(t, err, new(*sink.FatalError))
	requireStored(t, c.ListenAddrs(), batch[:1], "p.x")
}

// TestPatternsThatCannotBe: a start names a cluster, or a configuration, that creates no topics.
func TestPatternsThatCannotBe(t *testing.T) {
	t.Parallel()
	c := fake(t)
	cfg := config(t, c.ListenAddrs())
	require.NoError(t, cfg.TakesPatterns())
	cfg.Create.Enabled = false
	require.ErrorContains(t, cfg.TakesPatterns(), "create.enabled is false")
	s := open(t, cfg)
	require.ErrorAs(t, s.Prepare(within(t, patient), []string{"p.>"}), new(*sink.FatalError))

	cfg.Create = Create{Enabled: true, Partitions: 1, ReplicationFactor: 9}
	s = open(t, cfg)
	err := s.Prepare(within(t, patient), []string{"p.>"})
	require.ErrorContains(t, err, "p.relay-check: cannot be created with create.replication_factor 9")
	status, err := s.Inspect(within(t, patient), []string{"p.>"})
	require.NoError(t, err)
	require.False(t, status[0].Exists)
	require.Contains(t, status[0].Problems[0], "its topics cannot be created, such as p.relay-check")
}

func TestSelection(t *testing.T) {
	t.Parallel()
	_, err := newSelection([]string{"a.user.created", "a.w.*.>"}, "a.", []string{"no.*"})
	require.ErrorContains(t, err, `no topic of this sink matches "no.*"`)
	s, err := newSelection([]string{"a.user.created", "a.w.*.>"}, "a.", []string{"w.*.session.*"})
	require.NoError(t, err)
	s.add([]string{"a.w.org_1.session.created", "a.w.org_1.user.created", "a.x.org_1.session.created", "w.org_1.session.created"})
	s.add([]string{"a.w.org_1.session.created"})
	require.Equal(t, []string{"a.w.org_1.session.created"}, s.topics)
	s, err = newSelection([]string{"b", "a"}, "", nil)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b"}, s.topics)
}
