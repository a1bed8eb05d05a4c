package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/source/sourcetest"
)

// spread is a population over the ten hours before noon of a day, one event every so often.
func spread(events int, seed uint64) sourcetest.Option {
	return sourcetest.WithPopulation(sourcetest.Population{
		Seed: seed, Start: time.Date(2026, 11, 1, 2, 0, 0, 0, time.UTC),
		Profile: []sourcetest.Span{{Length: 10 * time.Hour, Events: events}},
	})
}

const (
	spreadStart = "2026-11-01T02:00:00Z"
	spreadEnd   = "2026-11-01T12:00:00Z"
)

// between chooses the events from one moment to another, both included.
func between(t *testing.T, from, to string) sourcetest.Filter {
	t.Helper()
	return sourcetest.Filter{From: instant(t, from), To: instant(t, to).Add(time.Nanosecond)}
}

func instant(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	return at
}

func eventIDs(messages []*jetstream.RawStreamMsg) []string {
	var ids []string
	for _, m := range messages {
		ids = append(ids, m.Header.Get("event-id"))
	}
	return ids
}

func TestReplayBesideARunningRelay(t *testing.T) {
	t.Parallel()
	api := newAPI(t, spread(3000, 7))
	url, js := newNATS(t)
	dir := t.TempDir()
	config := writeConfig(t, natsConfig(api.URL(), url, dir, ""))
	r := start(t, "run", "--config", config)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") == 3000 }, patient, often, &r.stderr)

	want := api.IDs(between(t, "2026-11-01T04:00:00Z", "2026-11-01T06:00:00Z"))
	require.Greater(t, len(want), 400)
	code, _, stderr := do(t, "replay", "--since", "2026-11-01T04:00:00Z", "--until", "2026-11-01T06:00:00Z", "--config", config)
	require.Equal(t, exitDone, code, stderr)
	got := stored(t, js, "WORKOS")[3000:]
	require.Equal(t, want, eventIDs(got))
	run := got[0].Header.Get("relay-replay")
	require.NotEmpty(t, run)
	require.Contains(t, stderr, run)
	for _, m := range got {
		require.Equal(t, run, m.Header.Get("relay-replay"))
		require.Empty(t, m.Header.Get("Nats-Msg-Id"))
	}

	users := []string{"dsync.user.created"}
	want = api.IDs(sourcetest.Filter{Types: users})
	before := messages(js, "WORKOS")
	code, _, stderr = do(t, "replay", "--since", "earliest", "--until", "latest", "--events", "dsync.user.created", "--config", config)
	require.Equal(t, exitDone, code, stderr)
	require.Equal(t, want, eventIDs(stored(t, js, "WORKOS")[before:]))

	before = messages(js, "WORKOS")
	code, _, stderr = do(t, "replay", "--since", want[2], "--until", "latest", "--events", "dsync.user.*", "--config", config)
	require.Equal(t, exitDone, code, stderr)
	require.NotEqual(t, want[2], eventIDs(stored(t, js, "WORKOS")[before:])[0], "an event id begins behind it")

	require.Equal(t, exitDone, r.stop(t))
	_, stdout, _ := do(t, "checkpoint", "show", unhurried, "--config", config)
	ids := api.IDs(sourcetest.Filter{})
	require.Contains(t, stdout, ids[len(ids)-1], "no replay moves the checkpoint")
}

func TestReplayInterruptedSaysHowToGoOn(t *testing.T) {
	t.Parallel()
	api := newAPI(t, spread(20_000, 8))
	api.Fail(20, sourcetest.OK())
	api.Fail(1, sourcetest.Hang()) // so that it is interrupted before the end, however late that is
	url, js := newNATS(t)
	config := writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), ""))
	r := start(t, "replay", "--since", spreadStart, "--until", spreadEnd, "--config", config)
	require.Eventually(t, func() bool { return messages(js, "WORKOS") > 0 }, patient, often, &r.stderr)
	require.Equal(t, exitFailed, r.stop(t))
	api.ClearFaults()
	done := messages(js, "WORKOS")
	require.Less(t, done, 20_000)
	command := regexp.MustCompile(`go on with: relay (.*)`).FindStringSubmatch(r.stderr.String())
	require.NotNil(t, command, &r.stderr)

	code, _, stderr := do(t, append(strings.Fields(command[1]), "--config", config)...)
	require.Equal(t, exitDone, code, stderr)
	require.Equal(t, api.IDs(sourcetest.Filter{}), eventIDs(stored(t, js, "WORKOS")), "nothing is left out, and nothing comes twice")
}

func TestReplayOfAPoisonEvent(t *testing.T) {
	t.Parallel()
	load := func(t *testing.T) *sourcetest.Server {
		api := newAPI(t)
		big := fmt.Sprintf(`{"object":"event","id":"event_01J0000000000000000000000D","event":"dsync.group.created","data":{"blob":%q},"created_at":"2026-01-01T00:00:00.004Z"}`, strings.Repeat("x", 2<<20))
		require.NoError(t, api.Append([]byte(odd[0]), []byte(big)))
		require.NoError(t, api.Append([]byte(`{"object":"event","id":"event_01J0000000000000000000000E","event":"user.created","data":{},"created_at":"2026-01-01T00:00:00.005Z"}`)))
		return api
	}
	t.Run("is parked if a dead letter topic is configured", func(t *testing.T) {
		api := load(t)
		url, js := newNATS(t)
		code, _, stderr := do(t, "replay", "--since", "earliest", "--until", "latest", "--config",
			writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), "dead_letter: {topic: relay.dead_letter}")))
		require.Equal(t, exitDone, code, stderr)
		got := stored(t, js, "WORKOS")
		require.Len(t, got, 3)
		require.Equal(t, "relay.dead_letter", got[1].Subject)
		require.NotEmpty(t, got[1].Header.Get("relay-replay"))
	})
	t.Run("stops if none is, by name", func(t *testing.T) {
		api := load(t)
		url, js := newNATS(t)
		config := writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), ""))
		code, _, stderr := do(t, "replay", "--since", "earliest", "--until", "latest", "--config", config)
		require.Equal(t, exitOperator, code)
		require.Contains(t, stderr, "event_01J0000000000000000000000D")
		require.Equal(t, 1, messages(js, "WORKOS"))
		code, _, stderr = do(t, "replay", "--since", "event_01J0000000000000000000000D", "--until", "latest", "--config", config)
		require.Equal(t, exitDone, code, stderr)
		require.Equal(t, 2, messages(js, "WORKOS"))
	})
}

func TestReplayUsage(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	config := writeConfig(t, natsConfig(api.URL(), "nats://127.0.0.1:1", t.TempDir(), ""))
	span := []string{"--since", spreadStart, "--until", spreadEnd}
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no span":       {[]string{"replay"}, "--since"},
		"bad since":     {[]string{"replay", "--since", "last week", "--until", "latest"}, "last week"},
		"latest since":  {[]string{"replay", "--since", "latest", "--until", "latest"}, "latest"},
		"id as end":     {[]string{"replay", "--since", "earliest", "--until", "event_01J0000000000000000000000D"}, "not a place to end"},
		"backwards":     {[]string{"replay", "--since", spreadEnd, "--until", spreadStart}, "before"},
		"other type":    {append([]string{"replay", "--events", "vault.data.read"}, span...), "vault.data.read"},
		"unknown type":  {append([]string{"replay", "--events", "dsync.nope"}, span...), "dsync.nope"},
		"unknown lane":  {append([]string{"replay", "--lane", "other"}, span...), "other"},
		"negative rate": {append([]string{"replay", "--rate-limit=-1"}, span...), "negative"},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := do(t, append(c.args, "--config", config)...)
			require.Equal(t, exitUsage, code, stderr)
			require.Contains(t, stderr, c.says)
		})
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var out strings.Builder
	p := &progress{out: &out, now: func() time.Time { return at }}
	for i := range 21 {
		p.show("working", float64(i)/20, i*1000)
		at = at.Add(time.Second)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 4)
	require.Equal(t, " 50% working, 10,000, 1,000/s, 10s left, ends 00:00:20", lines[1])
	out.Reset()
	p = &progress{out: &out, terminal: true, now: p.now}
	p.show("working", 0.1, 100)
	at = at.Add(time.Second)
	p.show("working", 0.6, 600)
	require.Contains(t, out.String(), "[##############..........]  60% working, 600, 500/s, 1s left", "the rate is that since the first look")
	_, err := p.Write([]byte("a line\n"))
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(out.String(), "\r\x1b[Ka line\n"))
	p.finish()
	require.True(t, strings.HasSuffix(out.String(), "a line\n"), "there is no bar to take away")
}
