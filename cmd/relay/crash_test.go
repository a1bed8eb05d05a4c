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

// TestCrashNATS kills relay with SIGKILL at random points while events flow into JetStream from a
// backlog that several readers read. It shows that no event is lost, that the order stays the
// source's, that a crash repeats at most what one commit holds, and that the checkpoint is readable
// and never goes back. The stream's duplicate window is as short as the server allows, so that
// copies are seen and not swallowed. It does not show what a power failure does: the operating
// system survives here, and with it what was written and not yet synced.
//
// P7: 30 kills in at_least_once.
func TestCrashNATS(t *testing.T) {
	t.Parallel()
	const events, kills = 50_000, 30
	var readers backfills
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
		began := time.Now()
		cmd := child(t, &stderr, "run", "--config", config)
		goal := min(messages(js, "WORKOS")+1+rnd.IntN(events/kills), events-1)
		require.Eventually(t, func() bool { return messages(js, "WORKOS") >= goal }, patient, time.Millisecond, "kill %d: %s", kill, &stderr)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // reports the kill
		readers.look(api, began)

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
	readers.require(t)
	t.Logf("%d kills, %d of them after several readers were at work on the backlog, %d events, 0 lost, %d copies", kills, readers, events, copies)
}

// backfills counts the relays that read the backlog with several readers: they ask by time, which
// the plain cursor does not.
type backfills int

// look counts the relay that began then.
func (b *backfills) look(api *sourcetest.Server, began time.Time) {
	for _, r := range api.Requests() {
		if !r.Time.Before(began) && strings.Contains(r.RawQuery, "range_start") {
			*b++
			return
		}
	}
}

// require is about any at all: how many there are is a matter of how fast the machine carries
// 50,000 events.
func (b *backfills) require(t *testing.T) {
	t.Helper()
	require.Positive(t, int(*b), "no relay was killed while it read with several readers")
}

// shortWindow makes the stream's duplicate window as short as the server allows, so that copies are
// seen and not swallowed.
func shortWindow(config string) string {
	return strings.Replace(config, "type: nats,", "type: nats, duplicate_window: 100ms,", 1)
}

// requireAllInOrder requires that the stream holds every event in the order of the source, and
// returns how many copies there are beside the first ones.
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

// TestCrashNATSExactlyOnce kills relay as TestCrashNATS does, with the position in the stream: then
// nothing is lost and nothing comes twice, although the duplicate window is over long before a
// relay starts again. Each relay has its own directory, as a pod without a volume has, so every
// start is a takeover.
//
// P5: 30 kills on JetStream.
func TestCrashNATSExactlyOnce(t *testing.T) {
	t.Parallel()
	const events, kills = 50_000, 30
	var readers backfills
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
		began := time.Now()
		cmd := child(t, &stderr, "run", "--config", path)
		goal := min(messages(js, "WORKOS")+1+rnd.IntN(events/kills), events)
		require.Eventually(t, func() bool { return messages(js, "WORKOS") >= goal }, patient, time.Millisecond, "kill %d: %s", kill, &stderr)
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // reports the kill
		readers.look(api, began)
	}
	r := start(t, "run", "--config", same)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == events+1 }, patient, often, &r.stderr) // and the position
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	require.Zero(t, requireAllInOrder(t, js, want), "copies")
	readers.require(t)
	t.Logf("%d kills, %d of them after several readers were at work on the backlog, %d events, 0 lost, 0 copies", kills, readers, events)
}
