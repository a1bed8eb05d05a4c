package kafka

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
	"workos-relay/sink"
)

// keeping returns a configuration of a separate lane that keeps users, and its topics: one of
// events and one of state.
func keeping(t testing.TB, brokers []string) (cfg Config, events, state string) {
	cfg = uniqueLane(t, brokers)
	events, state = cfg.RelayID+".events", cfg.RelayID+".state.user"
	cfg.State = []sink.StateTopic{{Topic: state, Entity: "user"}}
	cfg.Create.Partitions = 2
	cfg.Create.Config = map[string]string{"retention.ms": "3600000", "cleanup.policy": "delete", "max.message.bytes": "200000"}
	return cfg, events, state
}

// change returns the state message of a user; without a body it removes the user.
func change(topic, event, key, body string) sink.Message {
	m := sink.Message{
		Topic: topic, Entity: "user", Key: []byte(key), Position: checkpoint.Position{EventID: event},
		Headers: []sink.Header{{Key: "event-id", Value: event}, {Key: "entity", Value: "user"}},
	}
	if body != "" {
		m.Body = []byte(body)
	}
	return m
}

func TestStateTopics(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, brokers []string) {
		ctx := within(t, patient)
		cfg, events, state := keeping(t, brokers)
		admin := kadm.NewClient(reader(t, brokers))
		ledger := openLedger(t, cfg, checkpointtest.Identity())

		status, err := ledger.Inspect(ctx, []string{events, state})
		require.NoError(t, err)
		require.True(t, status[1].Creates)
		require.NotContains(t, status[0].Detail, "compact")
		require.Contains(t, status[1].Detail, "cleanup.policy compact")

		require.NoError(t, ledger.Prepare(ctx, []string{events, state}))
		settings, err := admin.DescribeTopicConfigs(ctx, events, state)
		require.NoError(t, err)
		for topic, want := range map[string]map[string]string{
			events: {"cleanup.policy": "delete", "retention.ms": "3600000", "max.message.bytes": "200000"},
			state:  {"cleanup.policy": "compact", "max.message.bytes": "200000"},
		} {
			rc, err := settings.On(topic, nil)
			require.NoError(t, err)
			own := map[string]string{}
			for _, c := range rc.Configs {
				if c.Source.String() == "DYNAMIC_TOPIC_CONFIG" {
					own[c.Key] = c.MaybeValue()
				}
			}
			require.Equal(t, want, own, topic)
		}

		status, err = ledger.Inspect(ctx, []string{events, state})
		require.NoError(t, err)
		require.True(t, status[1].Exists)
		require.Contains(t, status[1].Detail, "cleanup.policy compact")
		for _, w := range status[1].Warnings {
			require.NotContains(t, w, "compact", "it is meant to be compacted")
		}
		differences, err := ledger.Settings(ctx, []string{events, state}, true)
		require.NoError(t, err)
		require.Empty(t, differences, "what create says of events does not hold for state")

		// One transaction has the event, the change and the position; a removal is a null value.
		require.NoError(t, ledger.Fence(ctx))
		cp, err := ledger.Commit(ctx, []sink.Message{
			{Topic: events, Key: []byte("k"), Body: []byte("e1"), Position: checkpoint.Position{EventID: "event_1"}},
			change(state, "event_1", "user_1", `{"v":1}`),
			{Topic: events, Key: []byte("k"), Body: []byte("e2"), Position: checkpoint.Position{EventID: "event_2"}},
			change(state, "event_2", "user_2", `{"v":1}`),
		}, checkpoint.Checkpoint{}, checkpoint.Checkpoint{Source: checkpointtest.Identity(), Mode: checkpoint.ExactlyOnce, Generation: 1, Position: checkpoint.Position{EventID: "event_2"}})
		require.NoError(t, err)
		next := cp
		next.EventID = "event_3"
		_, err = ledger.Commit(ctx, []sink.Message{change(state, "event_3", "user_1", "")}, cp, next)
		require.NoError(t, err)
		s := open(t, cfg)
		require.NoError(t, s.Publish(ctx, []sink.Message{change(state, "event_4", "user_2", `{"v":2}`), change(state, "event_5", "user_3", ""), {Topic: events, Position: checkpoint.Position{EventID: "event_6"}}}))

		last := map[string][]byte{}
		for _, r := range readAll(t, brokers, state) {
			last[string(r.Key)] = r.Value
		}
		require.Equal(t, map[string][]byte{"user_1": nil, "user_2": []byte(`{"v":2}`), "user_3": nil}, last)
		for _, r := range readAll(t, brokers, events) {
			require.NotNil(t, r.Value, "an event without a body is not a removal")
		}

		// What reads it back tells null from empty.
		logs, err := s.Logs(ctx, []string{state}, time.Time{})
		require.NoError(t, err)
		removed := map[string]bool{}
		for _, log := range logs {
			require.True(t, log.Compacted)
			require.NoError(t, s.Scan(ctx, log, func(m *sink.Stored) error {
				removed[string(m.Key)] = m.Body == nil
				return nil
			}))
		}
		require.Equal(t, map[string]bool{"user_1": true, "user_2": false, "user_3": true}, removed)
	})
}

// TestAStateTopicMustBeCompacted: relay does not write state to a topic that deletes it one day.
func TestAStateTopicMustBeCompacted(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, brokers []string) {
		ctx := within(t, patient)
		admin := kadm.NewClient(reader(t, brokers))
		for _, policy := range []string{"delete", "compact,delete"} {
			cfg, events, state := keeping(t, brokers)
			_, err := admin.CreateTopics(ctx, 1, 1, map[string]*string{"cleanup.policy": &policy}, state)
			require.NoError(t, err)
			ledger := openLedger(t, cfg, checkpointtest.Identity())
			for _, d := range []sink.Destination{ledger, open(t, cfg)} {
				err = d.Prepare(ctx, []string{events, state})
				var fatal *sink.FatalError
				require.ErrorAs(t, err, &fatal)
				require.ErrorContains(t, err, state+": its cleanup.policy is ")
				require.ErrorContains(t, err, "so the state of objects that do not change would be deleted one day; set it by kafka-configs")
				status, err := d.Inspect(ctx, []string{events, state})
				require.NoError(t, err)
				require.False(t, status[1].Exists)
				require.Contains(t, status[1].Problems[0], "its cleanup.policy is ")
			}
			require.Empty(t, readAll(t, brokers, state))
		}
	})
}
