//go:build unix

package field

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"workos-relay/internal/admin"
	"workos-relay/internal/testaddr"
	"workos-relay/pipeline"
	"workos-relay/sink"
)

// natsCreate is a configuration file for one NATS sink with more keys.
func natsCreate(api, url, more string) string {
	return sourceConfig(api) + fmt.Sprintf("sinks: [{name: nats, type: nats, url: %q%s}]\n", url, more)
}

// rewrite replaces the configuration of a relay, which keeps its directory and its address.
func (r *relay) rewrite(t testing.TB, text string) {
	t.Helper()
	r.WriteConfig(t, text+fmt.Sprintf("checkpoint: {dir: %q}\nadmin: {listen: %q}\n", r.Dir, r.Admin))
}

func outcomes(settings []sink.Setting) map[string]sink.Outcome {
	out := map[string]sink.Outcome{}
	for _, s := range settings {
		out[s.Key] = s.Outcome
	}
	return out
}

func streamConfig(t testing.TB, js jetstream.JetStream) jetstream.StreamConfig {
	t.Helper()
	var conf jetstream.StreamConfig
	require.Eventually(t, func() bool { // a question is lost if the server has just been started again
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s, err := js.Stream(ctx, stream)
		if err == nil {
			conf = s.CachedInfo().Config
		}
		return err == nil
	}, patient, often)
	return conf
}

// TestCreateSettingsOfAStreamThatExists changes what create says while relay runs and while it
// stands still.
func TestCreateSettingsOfAStreamThatExists(t *testing.T) {
	t.Parallel()
	const events = 100
	api := newAPI(t, backlog(events))
	bus := newNATS(t, nil)
	js := bus.connect(t)
	r := newRelay(t, "relay", natsCreate(api.URL(), bus.URL, ", create: {max_age: 24h}"))
	r.Start(t)
	r.Await(t, func() bool { return countEvents(js, stream) == events }, "all events are on the stream")
	r.AwaitState(t, "nats", pipeline.Running)
	require.Equal(t, 24*time.Hour, streamConfig(t, js).MaxAge)

	r.rewrite(t, natsCreate(api.URL(), bus.URL, ", create: {replicas: 3, max_age: 720h, max_bytes: 1GiB}, duplicate_window: 1h"))
	code, out, _ := r.Check(t)
	require.Equal(t, exitDone, code, out)
	require.Contains(t, out, "changes  stream WORKOS: create.max_age is 24h and changes to 720h")
	require.Contains(t, out, "changes  stream WORKOS: create.max_bytes is 0 (no limit) and changes to 1GiB")
	require.Contains(t, out, "changes  stream WORKOS: duplicate_window is 2m and changes to 1h")
	require.Contains(t, out, "warning  stream WORKOS: create.replicas is 1, not 3 as configured: the NATS server is not part of a cluster")
	require.Equal(t, 24*time.Hour, streamConfig(t, js).MaxAge, "check changed the stream")

	code, out, errs := r.Run(t, "reload")
	require.Equal(t, exitDone, code, errs)
	require.Contains(t, out, "create.max_age is 24h and changes to 720h")
	require.Contains(t, out, "create.replicas is 1, not 3 as configured")
	r.Await(t, func() bool {
		conf := streamConfig(t, js)
		return conf.MaxAge == 720*time.Hour && conf.MaxBytes == 1<<30 && conf.Duplicates == time.Hour
	}, "the stream is as configured")
	require.Equal(t, 1, streamConfig(t, js).Replicas)
	r.Says(t, "changed a setting of the stream")
	r.Await(t, func() bool { return len(r.Lane("nats").Settings) == 4 }, "status names the settings")
	require.Equal(t, map[string]sink.Outcome{
		"create.max_age": sink.Changed, "create.max_bytes": sink.Changed, "duplicate_window": sink.Changed, "create.replicas": sink.Unchanged,
	}, outcomes(r.Lane("nats").Settings))
	code, out, _ = r.Run(t, "status")
	require.Equal(t, exitDone, code)
	require.Contains(t, out, "setting: lane nats: stream WORKOS: changed create.max_age from 24h to 720h")
	require.Contains(t, statusPage(t, r), "setting: stream WORKOS: changed create.max_age from 24h to 720h")
	require.Contains(t, out, "setting: lane nats: stream WORKOS: create.replicas is 1, not 3 as configured")

	// A lower limit would delete messages.
	lower := ", create: {max_age: 1h, max_bytes: 64KiB%s}"
	r.rewrite(t, natsCreate(api.URL(), bus.URL, fmt.Sprintf(lower, "")))
	code, out, _ = r.Check(t)
	require.Equal(t, exitDone, code)
	require.Contains(t, out, "warning  stream WORKOS: create.max_age is 720h, not 1h as configured: this would delete stored messages")
	require.Contains(t, out, "warning  stream WORKOS: create.max_bytes is 1GiB, not 64KiB as configured: this would delete stored messages")
	code, out, errs = r.Run(t, "reload")
	require.Equal(t, exitDone, code, errs)
	require.Contains(t, out, "set create.allow_deletion: true to confirm it")
	r.Await(t, func() bool { return len(r.Lane("nats").Settings) == 2 }, "status names the settings")
	require.Equal(t, map[string]sink.Outcome{"create.max_age": sink.HeldBack, "create.max_bytes": sink.HeldBack}, outcomes(r.Lane("nats").Settings))
	require.Equal(t, 720*time.Hour, streamConfig(t, js).MaxAge)
	require.Equal(t, events, countEvents(js, stream))
	require.Equal(t, exitDone, r.Stop(t))

	// While relay does not run, status compares by itself.
	_, out, _ = r.Run(t, "status", "--json")
	var seen admin.Status
	require.NoError(t, json.Unmarshal([]byte(out), &seen), out)
	require.Equal(t, map[string]sink.Outcome{"create.max_age": sink.HeldBack, "create.max_bytes": sink.HeldBack}, outcomes(seen.Lanes[0].Settings))

	// The operator confirms it.
	r.rewrite(t, natsCreate(api.URL(), bus.URL, fmt.Sprintf(lower, ", allow_deletion: true")))
	r.Start(t)
	r.Await(t, func() bool { return streamConfig(t, js).MaxAge == time.Hour && streamConfig(t, js).MaxBytes == 64<<10 }, "the stream is as configured")
	require.Equal(t, time.Hour, streamConfig(t, js).Duplicates, "it was not named, and stays")
	require.Equal(t, exitDone, r.Stop(t))

	// The position is never deleted by it.
	r.rewrite(t, natsCreate(api.URL(), bus.URL, ", create: {max_bytes: 1KiB, allow_deletion: true}"))
	r.Start(t)
	r.Await(t, func() bool { return outcomes(r.Lane("nats").Settings)["create.max_bytes"] == sink.Unchanged }, "status names the settings")
	require.EqualValues(t, 64<<10, streamConfig(t, js).MaxBytes)
	require.Equal(t, exitDone, r.Stop(t))

	// What is not named stays.
	r.rewrite(t, natsCreate(api.URL(), bus.URL, ""))
	r.Start(t)
	r.AwaitState(t, "nats", pipeline.Running)
	code, out, _ = r.Check(t)
	require.Equal(t, exitDone, code)
	require.NotContains(t, out, "as configured")
	require.NotContains(t, out, "changes")
	require.Equal(t, time.Hour, streamConfig(t, js).MaxAge)
	require.Equal(t, exitDone, r.Stop(t))
}

// TestCreateSettingsOfAStreamOfOthers names what differs and changes nothing.
func TestCreateSettingsOfAStreamOfOthers(t *testing.T) {
	t.Parallel()
	const events = 50
	api := newAPI(t, backlog(events))
	bus := newNATS(t, nil)
	js := bus.connect(t)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: stream, Subjects: []string{"user.>", "relay.position.>"},
		MaxAge: time.Hour, Duplicates: time.Minute, AllowAtomicPublish: true, AllowRollup: true, AllowMsgTTL: true})
	require.NoError(t, err)
	r := newRelay(t, "relay", natsCreate(api.URL(), bus.URL, ", events: [\"user.*\"], create: {max_age: 720h}, duplicate_window: 30m"))
	r.Start(t)
	r.AwaitState(t, "nats", pipeline.Running)
	r.Await(t, func() bool { return len(r.Lane("nats").Settings) == 2 }, "status names the settings")
	require.Equal(t, map[string]sink.Outcome{"create.max_age": sink.Unchanged, "duplicate_window": sink.Unchanged}, outcomes(r.Lane("nats").Settings))
	_, out, _ := r.Check(t)
	require.Contains(t, out, "create.max_age is 1h, not 720h as configured: relay did not create the stream and leaves it as it is")
	require.Equal(t, time.Hour, streamConfig(t, js).MaxAge)
	require.Equal(t, exitDone, r.Stop(t))
}

// topicSetting returns a setting of a topic that the cluster has in effect.
func (k *kafka) topicSetting(t testing.TB, topic, name string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	configs, err := k.Admin.DescribeTopicConfigs(ctx, topic)
	require.NoError(t, err)
	config, err := configs.On(topic, nil)
	require.NoError(t, err)
	for _, c := range config.Configs {
		if c.Key == name {
			return c.MaybeValue()
		}
	}
	return ""
}

// TestCreateSettingsOfTopicsThatExist changes what create says of topics that relay has created.
func TestCreateSettingsOfTopicsThatExist(t *testing.T) {
	t.Parallel()
	const events = 100
	for _, delivery := range []string{"exactly_once", "at_least_once"} {
		t.Run(delivery, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			appendEvents(t, api, "user.created", events, 10)
			bus := newKfake(t, kfake.NumBrokers(3))
			config := func(create string) string {
				return bus.config(api.URL(), ", events: [user.created], delivery: "+delivery+", create: {"+create+"}")
			}
			r := newRelay(t, "relay", config("partitions: 2, config: {retention.ms: \"86400000\"}"))
			r.Start(t)
			r.AwaitState(t, "kafka", pipeline.Running)
			topic, position := bus.Prefix+"user.created", "relay.position."+bus.ID+".kafka"
			r.Await(t, func() bool { return bus.count(t) == events }, "all events are in the topic")
			require.Equal(t, "86400000", bus.topicSetting(t, topic, "retention.ms"))
			var asked sync.Map // topics of which more replicas were asked for; kfake takes the request and does nothing
			bus.Fake.ControlKey(int16(kmsg.AlterPartitionAssignments), func(req kmsg.Request) (kmsg.Response, error, bool) {
				bus.Fake.KeepControl()
				for _, topic := range req.(*kmsg.AlterPartitionAssignmentsRequest).Topics {
					for _, p := range topic.Partitions {
						asked.Store(topic.Topic, len(p.Replicas))
					}
				}
				return nil, nil, false
			})
			replicas := func(topic string) int {
				n, _ := asked.Load(topic)
				have, _ := n.(int)
				return have
			}

			raised := config("partitions: 4, replication_factor: 3, config: {retention.ms: \"172800000\", segment.ms: \"3600000\"}")
			r.rewrite(t, raised)
			code, out, _ := r.Check(t)
			require.Equal(t, exitDone, code, out)
			require.Contains(t, out, "create.config.retention.ms is 86400000 and changes to 172800000")
			require.Contains(t, out, "create.replication_factor is 1 and changes to 3")
			require.Contains(t, out, "create.partitions is 2, not 4 as configured: more partitions send keys elsewhere")
			require.Equal(t, "86400000", bus.topicSetting(t, topic, "retention.ms"), "check changed a topic")
			code, out, errs := r.Run(t, "reload")
			require.Equal(t, exitDone, code, errs)
			require.Contains(t, out, "create.config.retention.ms is 86400000 and changes to 172800000")
			r.Await(t, func() bool {
				return bus.topicSetting(t, topic, "retention.ms") == "172800000" && bus.topicSetting(t, topic, "segment.ms") == "3600000" && replicas(topic) == 3
			}, "the topics are as configured")
			if delivery == "exactly_once" {
				r.Await(t, func() bool { return replicas(position) == 3 }, "the position is as safe as the events")
				require.Equal(t, "compact", bus.topicSetting(t, position, "cleanup.policy"))
				require.NotEqual(t, "172800000", bus.topicSetting(t, position, "retention.ms"), "that is meant for events")
			}
			r.Await(t, func() bool { return outcomes(r.Lane("kafka").Settings)["create.config.retention.ms"] == sink.Changed }, "status names the settings")
			require.Equal(t, sink.Unchanged, outcomes(r.Lane("kafka").Settings)["create.partitions"])
			r.Says(t, "changed a setting of kafka topics")

			// What would delete messages waits for the operator.
			lower := "config: {retention.ms: \"3600000\", cleanup.policy: compact}"
			r.rewrite(t, config(lower))
			code, out, errs = r.Run(t, "reload")
			require.Equal(t, exitDone, code, errs)
			require.Contains(t, out, "create.config.retention.ms is 172800000, not 3600000 as configured: this would delete stored messages")
			require.Contains(t, out, "create.config.cleanup.policy is delete, not compact as configured: this would delete stored messages")
			r.Await(t, func() bool {
				return outcomes(r.Lane("kafka").Settings)["create.config.cleanup.policy"] == sink.HeldBack
			}, "status names the settings")
			require.Equal(t, "172800000", bus.topicSetting(t, topic, "retention.ms"))
			require.Equal(t, exitDone, r.Stop(t))
			r.rewrite(t, config("allow_deletion: true, "+lower))
			r.Start(t)
			r.Await(t, func() bool {
				return bus.topicSetting(t, topic, "retention.ms") == "3600000" && bus.topicSetting(t, topic, "cleanup.policy") == "compact"
			}, "the topics are as configured")
			require.Equal(t, exitDone, r.Stop(t))

			// What relay does not remember to have created may be another's.
			files, err := filepath.Glob(filepath.Join(r.Dir, "*.topics"))
			require.NoError(t, err)
			require.Len(t, files, 1)
			require.NoError(t, os.Remove(files[0]))
			r.rewrite(t, raised)
			r.Start(t)
			r.Await(t, func() bool { return outcomes(r.Lane("kafka").Settings)["create.config.retention.ms"] == sink.Unchanged }, "status names the settings")
			_, out, _ = r.Check(t)
			require.Contains(t, out, "relay does not remember creating the topic")
			require.Equal(t, "3600000", bus.topicSetting(t, topic, "retention.ms"))
			require.Equal(t, exitDone, r.Stop(t))
			r.rewrite(t, config("adopt: true, config: {retention.ms: \"172800000\"}"))
			r.Start(t)
			r.Await(t, func() bool { return bus.topicSetting(t, topic, "retention.ms") == "172800000" }, "the topic is adopted")
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}

// TestCreateSettingsOfTheEmbeddedServer changes them over a restart, since a reload leaves the
// embedded server alone and says so.
func TestCreateSettingsOfTheEmbeddedServer(t *testing.T) {
	t.Parallel()
	const events = 50
	api := newAPI(t, backlog(events))
	listen := testaddr.Free(t)
	config := func(create string) string {
		return sourceConfig(api.URL()) + fmt.Sprintf("sinks: [{name: nats, type: nats, url: embedded, embedded: {listen: %q}%s}]\n", listen, create)
	}
	r := newRelay(t, "relay", config(""))
	r.Start(t)
	r.AwaitState(t, "nats", pipeline.Running)
	js := (&natsServer{URL: "nats://" + listen}).connect(t)
	r.Await(t, func() bool { return countEvents(js, stream) == events }, "all events are on the stream")
	r.rewrite(t, config(", create: {max_age: 720h, replicas: 3}"))
	_, out, _ := r.Check(t)
	require.Contains(t, out, "create.max_age is 0s (no limit) and changes to 720h")
	require.Contains(t, out, "create.replicas is 1, not 3 as configured")
	code, _, errs := r.Run(t, "reload")
	require.NotEqual(t, exitDone, code)
	require.Contains(t, errs, "restart it")
	require.Equal(t, exitDone, r.Stop(t))
	r.Start(t)
	r.Await(t, func() bool { return streamConfig(t, js).MaxAge == 720*time.Hour }, "the stream is as configured")
	require.Equal(t, exitDone, r.Stop(t))
}
