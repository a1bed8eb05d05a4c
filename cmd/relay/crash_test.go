package main

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
)

// TestCrashNATS kills relay with SIGKILL at random points while events flow into JetStream. It shows that no event is lost, that
// the order stays the source's, that a crash repeats at most what one commit holds, and that the checkpoint is readable and never
// goes back. The stream's duplicate window is as short as the server allows, so that copies are seen and not swallowed. It does
// not show what a power failure does: the operating system survives here, and with it what was written and not yet synced.
func TestCrashNATS(t *testing.T) {
	const events, kills = 50_000, 30
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: events, Seed: 11}))
	url, js := newNATS(t)
	dir := t.TempDir()
	config := writeConfig(t, shortWindow(natsConfig(api.URL(), url, dir, "")))
	id := checkpoint.Identity{Relay: "workos", Lane: "nats", Endpoint: api.URL(), Destination: "nats stream WORKOS"}

	want := api.IDs(sourcetest.Filter{})
	require.Len(t, want, events)
	at := make(map[string]int, events)
	for i, eventID := range want {
		at[eventID] = i
	}
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	committed := -1
	for kill := range kills {
		var stderr output
		cmd := child(t, &stderr, "run", "--config", config)
		goal := min(messages(js, "WORKOS")+1+rnd.IntN(events/kills), events-1)
		require.Eventually(t, func() bool { return messages(js, "WORKOS") >= goal }, patient, time.Millisecond, "kill %d: %s", kill, &stderr)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // reports the kill

		cp, err := checkpoint.ReadFile(dir, id)
		require.NoError(t, err, "kill %d: the checkpoint must be readable", kill)
		now := -1
		if cp.EventID != "" {
			now = at[cp.EventID]
		}
		require.GreaterOrEqual(t, now, committed, "kill %d: the checkpoint went back", kill)
		committed = now
		require.GreaterOrEqual(t, messages(js, "WORKOS"), committed+1, "kill %d: the checkpoint has passed what is stored", kill)
	}

	finish(t, config, dir, id, want)
	copies := requireAllInOrder(t, js, want)
	require.LessOrEqual(t, copies, kills*pipeline.DefaultBatchMessages, "a crash repeats at most one commit")
	t.Logf("%d kills, %d events, 0 lost, %d copies", kills, events, copies)
}

// shortWindow makes the stream's duplicate window as short as the server allows, so that copies are seen and not swallowed.
func shortWindow(config string) string {
	return strings.Replace(config, "type: nats,", "type: nats, duplicate_window: 100ms,", 1)
}

// requireAllInOrder requires that the stream holds every event in the order of the source, and returns how many copies there are
// beside the first ones.
func requireAllInOrder(t *testing.T, js jetstream.JetStream, want []string) (copies int) {
	t.Helper()
	seen := make(map[string]bool, len(want))
	var first []string
	for _, m := range stored(t, js, "WORKOS") {
		id := m.Header.Get("event-id")
		switch {
		case strings.HasPrefix(m.Subject, "relay.position."):
		case seen[id]:
			copies++
		default:
			seen[id] = true
			first = append(first, id)
		}
	}
	require.Equal(t, want, first, "every event, in the order of the source")
	return copies
}

// TestCrashNATSExactlyOnce kills relay as TestCrashNATS does, with the position in the stream: then nothing is lost and nothing comes
// twice, although the duplicate window is over long before a relay starts again. Each relay has a folder of its own, as a pod
// without a volume has, so every start is a takeover.
func TestCrashNATSExactlyOnce(t *testing.T) {
	const events, kills = 50_000, 30
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: events, Seed: 14}))
	url, js := newNATS(t)
	want := api.IDs(sourcetest.Filter{})
	config := func() string {
		return writeConfig(t, shortWindow(natsConfigFor("exactly_once", api.URL(), url, t.TempDir(), "takeover_after: 3s")))
	}
	same := config()
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	for kill := range kills {
		var stderr output
		path := same
		if kill%10 == 9 {
			path = config()
		}
		cmd := child(t, &stderr, "run", "--config", path)
		goal := min(messages(js, "WORKOS")+1+rnd.IntN(events/kills), events)
		require.Eventually(t, func() bool { return messages(js, "WORKOS") >= goal }, patient, time.Millisecond, "kill %d: %s", kill, &stderr)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // reports the kill
	}
	r := start(t, "run", "--config", same)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == events+1 }, patient, often, &r.stderr) // and the position
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	require.Zero(t, requireAllInOrder(t, js, want), "copies")
	t.Logf("%d kills, %d events, 0 lost, 0 copies", kills, events)
}
