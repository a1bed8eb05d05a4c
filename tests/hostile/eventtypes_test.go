//go:build linux

package hostile

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/tests/testkit"
)

// newNATS starts a NATS server with JetStream in this process.
func newNATS(t testing.TB) (url string, js jetstream.JetStream) {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: testaddr.Port(t), JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		AuthTimeout: patient.Seconds()})
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(patient))
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	nc, err := nats.Connect(s.ClientURL(), nats.Timeout(patient))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(patient))
	require.NoError(t, err)
	return s.ClientURL(), js
}

// subjects returns how many messages each subject of the stream holds.
func subjects(js jetstream.JetStream) map[string]uint64 {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	s, err := js.Stream(ctx, "WORKOS")
	if err != nil {
		return nil
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(">"))
	if err != nil {
		return nil
	}
	return info.State.Subjects
}

// TestAnEventTypeDoesNotChooseWhereToWrite serves events of types that nobody asked for: one that
// would become a topic of the company's, the position of this lane, that of another relay, and a
// subject of the server's own, an object of the state, and the topic of dead letters. By default
// all are left out and named. If they are to be relayed, no event ever goes where positions are.
//
// P15: on the built binary.
func TestAnEventTypeDoesNotChooseWhereToWrite(t *testing.T) {
	t.Parallel()
	hostile := []string{"payments.orders", "relay.position.workos.nats", "relay.position.other.kafka", "relay.position", "state.user.user_01", "relay.dead_letter", "$JS.API.STREAM.DELETE.WORKOS"}
	serve := func(t *testing.T) string {
		var events []hostileEvent
		for i, name := range append(append([]string{"user.created"}, hostile...), "user.updated") {
			events = append(events, newEvent(i, name, 60-i))
		}
		return serveAnything(t, events, 0)
	}
	config := func(api, bus, more string) string {
		return fmt.Sprintf("source: {endpoint: %q, api_key: %s, poll_interval: 200ms%s}\nsinks: [{name: nats, type: nats, url: %q}]\n", api, apiKey, more, bus)
	}
	t.Run("left out", func(t *testing.T) {
		t.Parallel()
		api := serve(t)
		bus, js := newNATS(t)
		r := testkit.NewRelay(t, relayBinary, "relay", config(api, bus, ""))
		r.Start(t)
		r.Await(t, func() bool { return subjects(js)["user.updated"] == 1 }, "the events asked for are published")
		require.Equal(t, map[string]uint64{"user.created": 1, "user.updated": 1, "relay.position.workos.nats": 1}, subjects(js))
		for _, name := range hostile {
			require.Contains(t, r.Output(), name)
		}
		require.Contains(t, r.Metrics(), `relay_source_unexpected_events_total{lane="nats"} 7`)
		require.Zero(t, r.Stop(t))
		r.Start(t)
		r.Await(t, func() bool { return r.Lane("nats").AtTip }, "a restart goes on")
		require.Equal(t, map[string]uint64{"user.created": 1, "user.updated": 1, "relay.position.workos.nats": 1}, subjects(js))
		require.Zero(t, r.Stop(t))
	})
	t.Run("relayed", func(t *testing.T) {
		t.Parallel()
		api := serve(t)
		bus, js := newNATS(t)
		r := testkit.NewRelay(t, relayBinary, "relay", config(api, bus, ", unexpected: relay")+"dead_letter: {topic: relay.dead_letter}\n")
		r.Start(t)
		r.Says(t, "payments.orders")
		require.Eventually(t, func() bool {
			s := subjects(js)
			return s["relay.position.other.kafka"] == 0 && s["relay.position"] == 0 && s["relay.position.workos.nats"] <= 1
		}, patient, often)
		time.Sleep(2 * time.Second) // nothing more comes of it
		s := subjects(js)
		require.Zero(t, s["relay.position.other.kafka"]+s["relay.position"]+s["state.user.user_01"]+s["$JS.API.STREAM.DELETE.WORKOS"])
		require.Equal(t, uint64(1), s["relay.position.workos.nats"])
		r.Kill()
	})
}
