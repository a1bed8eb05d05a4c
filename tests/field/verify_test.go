//go:build unix

package field

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/pipeline"
)

// verified is what `relay verify --json` says.
type verified struct {
	Mode          string `json:"mode"`
	Strict        bool   `json:"strict"`
	Events        int    `json:"events"`
	Faults        int    `json:"faults"`
	AllowedCopies int    `json:"allowed_copies"`
	Compacted     int    `json:"compacted"`
	Displaced     int    `json:"displaced"`
	Expired       int    `json:"expired"`
	Parked        int    `json:"parked"`
	Missing       struct {
		Count int `json:"count"`
	} `json:"missing"`
	Duplicate struct {
		Count int `json:"count"`
	} `json:"duplicate"`
}

// verify runs relay verify over everything.
func (r *relay) verify(t testing.TB, want int, flags ...string) verified {
	t.Helper()
	code, out, errs := r.Run(t, append([]string{"verify", "--since", "earliest", "--until", "latest", "--json"}, flags...)...)
	require.Equal(t, want, code, "%s\n%s", out, errs)
	var v verified
	require.NoError(t, json.Unmarshal([]byte(out), &v), out)
	return v
}

// storeAgain publishes the first n messages of the stream once more, as a relay does that has died
// before its checkpoint.
func storeAgain(t testing.TB, js jetstream.JetStream, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	require.NoError(t, err)
	for seq := uint64(1); n > 0; seq++ {
		m, err := s.GetMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue // the place of an earlier position
		}
		require.NoError(t, err)
		if m.Header.Get("event-id") == "" {
			continue
		}
		header := nats.Header{}
		for k, v := range m.Header {
			if !strings.HasPrefix(k, "Nats-") {
				header[k] = v
			}
		}
		_, err = js.PublishMsg(ctx, &nats.Msg{Subject: m.Subject, Header: header, Data: m.Data})
		require.NoError(t, err)
		n--
	}
}

// TestVerifyAsAnAlarm: what the mode of delivery and the bus's own settings explain is not a fault.
func TestVerifyAsAnAlarm(t *testing.T) {
	t.Parallel()
	const events = 300
	t.Run("copies in at_least_once", func(t *testing.T) {
		t.Parallel()
		api := newAPI(t, backlog(events))
		bus := newNATS(t, nil)
		js := bus.connect(t)
		r := newRelay(t, "relay", natsCreate(api.URL(), bus.URL, ", delivery: at_least_once"))
		r.Start(t)
		r.Await(t, func() bool { return countEvents(js, stream) == events }, "all events are on the stream")
		r.AwaitState(t, "nats", pipeline.Running)
		require.Equal(t, exitDone, r.Stop(t))
		storeAgain(t, js, 7)
		v := r.verify(t, exitDone)
		require.Equal(t, verified{Mode: "at_least_once", Events: events, AllowedCopies: 7, Missing: v.Missing, Duplicate: v.Duplicate}, v)
		require.Equal(t, 7, v.Duplicate.Count)
		_, out, _ := r.Run(t, "verify", "--since", "earliest", "--until", "latest")
		require.Contains(t, out, "at_least_once allows")
		require.Contains(t, out, "No fault found.")
		v = r.verify(t, exitFailed, "--strict")
		require.Equal(t, 7, v.Faults)
		require.True(t, v.Strict)
	})
	t.Run("copies in exactly_once", func(t *testing.T) {
		t.Parallel()
		api := newAPI(t, backlog(events))
		bus := newNATS(t, nil)
		js := bus.connect(t)
		r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL))
		r.Start(t)
		r.Await(t, func() bool { return countEvents(js, stream) == events }, "all events are on the stream")
		require.Zero(t, r.verify(t, exitDone).Faults)
		storeAgain(t, js, 7)
		v := r.verify(t, exitFailed)
		require.Equal(t, "exactly_once", v.Mode)
		require.Equal(t, 7, v.Faults)
		require.Equal(t, exitDone, r.Stop(t))
	})
	for _, delivery := range []string{"at_least_once", "exactly_once"} {
		t.Run("a compacted topic in "+delivery, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, backlog(events))
			bus := newKfake(t)
			r := newRelay(t, "relay", bus.config(api.URL(), ", delivery: "+delivery+", create: {config: {cleanup.policy: compact}}"))
			r.Start(t)
			r.Await(t, func() bool { return bus.count(t) == events }, "all events are in the topics")
			require.Equal(t, exitDone, r.Stop(t))
			bus.Fake.Compact()
			left := bus.count(t)
			require.Less(t, left, events)
			v := r.verify(t, exitDone)
			require.Equal(t, events-left, v.Compacted)
			require.Zero(t, v.Faults)
			require.Zero(t, v.Missing.Count)
		})
	}
	t.Run("a limit for each subject", func(t *testing.T) {
		t.Parallel()
		api := newAPI(t, backlog(events))
		bus := newNATS(t, nil)
		js := bus.connect(t)
		r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL))
		r.Start(t)
		r.Await(t, func() bool { return countEvents(js, stream) == events }, "all events are on the stream")
		conf := streamConfig(t, js)
		conf.MaxMsgsPerSubject = 2
		_, err := js.UpdateStream(t.Context(), conf)
		require.NoError(t, err)
		left := countEvents(js, stream)
		require.Less(t, left, events)
		v := r.verify(t, exitDone)
		require.Equal(t, events-left, v.Displaced)
		_, out, _ := r.Run(t, "verify", "--since", "earliest", "--until", "latest")
		require.Contains(t, out, "are gone by max_msgs_per_subject")
		require.Equal(t, exitDone, r.Stop(t))
	})
	t.Run("an age and a purge", func(t *testing.T) {
		t.Parallel()
		api := newAPI(t, backlog(events))
		bus := newNATS(t, nil)
		js := bus.connect(t)
		r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL))
		r.Start(t)
		r.Await(t, func() bool { return countEvents(js, stream) == events }, "all events are on the stream")
		s, err := js.Stream(t.Context(), stream)
		require.NoError(t, err)
		require.NoError(t, s.Purge(t.Context(), jetstream.WithPurgeSequence(100)))
		left := countEvents(js, stream)
		v := r.verify(t, exitDone)
		require.Equal(t, events-left, v.Expired)
		require.NoError(t, s.DeleteMsg(t.Context(), 150))
		v = r.verify(t, exitFailed)
		require.Equal(t, 1, v.Missing.Count)
		require.Equal(t, exitDone, r.Stop(t))
	})
}

// TestVerifyOnKafka lets a real Kafka compact a topic, after its settings were changed by relay.
func TestVerifyOnKafka(t *testing.T) {
	t.Parallel()
	const events = 1000
	bus := realKafka(t)
	api := newAPI(t, backlog(events))
	config := func(create string) string {
		return bus.config(api.URL(), ", create: {partitions: 1, "+create+"}") + "routes: [{events: [\"*\"], topic: all}]\n"
	}
	r := newRelay(t, "relay", config("replication_factor: 1"))
	r.Start(t)
	r.Await(t, func() bool { return bus.count(t) == events }, "all events are in the topic")
	require.Zero(t, r.verify(t, exitDone).Faults)

	compact := "replication_factor: 3, config: {cleanup.policy: compact, segment.ms: \"1000\", min.cleanable.dirty.ratio: \"0.001\"}"
	topic := bus.Prefix + "all"
	r.rewrite(t, config(compact))
	code, out, errs := r.Run(t, "reload")
	require.Equal(t, exitDone, code, errs)
	require.Contains(t, out, "create.config.cleanup.policy is delete, not compact as configured: this would delete stored messages")
	require.Contains(t, out, "create.replication_factor is 1, not 3 as configured: only 1 broker up")
	r.Await(t, func() bool { return bus.topicSetting(t, topic, "segment.ms") == "1000" }, "what deletes nothing is applied")
	require.Equal(t, "delete", bus.topicSetting(t, topic, "cleanup.policy"))
	r.rewrite(t, config("allow_deletion: true, "+compact))
	code, _, errs = r.Run(t, "reload")
	require.Equal(t, exitDone, code, errs)
	r.Await(t, func() bool { return bus.topicSetting(t, topic, "cleanup.policy") == "compact" }, "the operator has confirmed it")

	// Kafka compacts a segment once a later one was begun, and looks every 15 seconds.
	var v verified
	r.Await(t, func() bool {
		appendEvents(t, api, "user.created", 1, 10)
		time.Sleep(3 * time.Second)
		v = r.verify(t, exitDone)
		return v.Compacted > 0
	}, "Kafka has compacted the topic")
	require.Zero(t, v.Faults)
	require.Zero(t, v.Missing.Count)
	require.Equal(t, exitDone, r.Stop(t))
}
