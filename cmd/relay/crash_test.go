package main

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

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
	config := writeConfig(t, fmt.Sprintf(`
source: {endpoint: %q, api_key: %s, poll_interval: 20ms, rate_limit: 5000}
sinks: [{name: nats, type: nats, url: %q, duplicate_window: 100ms}]
checkpoint: {dir: %q}
admin: {listen: ""}
`, api.URL(), testKey, url, dir))
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
	seen := make(map[string]bool, events)
	var first []string
	copies := 0
	for _, m := range stored(t, js, "WORKOS") {
		eventID := m.Header.Get("event-id")
		if seen[eventID] {
			copies++
			continue
		}
		seen[eventID] = true
		first = append(first, eventID)
	}
	require.Equal(t, want, first, "every event, in the order of the source")
	require.LessOrEqual(t, copies, kills*pipeline.DefaultBatchMessages, "a crash repeats at most one commit")
	t.Logf("%d kills, %d events, %d lost, %d copies", kills, len(first), events-len(first), copies)
}
