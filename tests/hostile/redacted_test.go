//go:build linux

package hostile

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/tests/testkit"
)

// TestWhatIsRedactedIsNotShown carries events whose route removes or pseudonymizes values, some of
// which relay itself reads: the organization, the actor, the key. The bus, the page with payloads
// and its stream, status, metrics, the log at debug, tail, verify and replay show none of the
// values, also of an event that becomes a dead letter. A reload that adds a route hides what was
// shown before.
func TestWhatIsRedactedIsNotShown(t *testing.T) {
	t.Parallel()
	const hidden = "Hidden"
	event := func(n int, eventType, more string) hostileEvent {
		e := newEvent(n, eventType, 60-n)
		data := fmt.Sprintf(`{"id":"user_%d","organization_id":"org_%s","email":"%s@example.com","directory_id":"directory_%s","names":[{"value":%q}]%s}`, n, hidden, hidden, hidden, hidden, more)
		e.raw = strings.Replace(e.raw, `{"id":"user_1"}`, data, 1)
		e.raw = strings.TrimSuffix(e.raw, "}") + fmt.Sprintf(`,"context":{"actor":{"id":"actor_%s","name":%q}}}`, hidden, hidden)
		return e
	}
	events := []hostileEvent{
		event(1, "dsync.user.created", ""), event(2, "dsync.user.updated", ""), event(3, "dsync.user.deleted", `,"blob":"`+strings.Repeat("x", 2<<20)+`"`), event(4, "group.created", ""),
	}
	url := serveAnything(t, events, 0)
	bus, js := newNATS(t)
	r := testkit.NewRelay(t, relayBinary, "relay", "")
	config := func(types string) string {
		return fmt.Sprintf(`
source: {endpoint: %q, api_key: %s, poll_interval: 200ms}
headers: {actor: true}
encoding: cloudevents
dead_letter: {topic: relay.dead_letter}
admin: {listen: %q, show_payloads: true}
checkpoint: {dir: %q}
redaction: {key: 0123456789abcdef}
routes:
  - events: [%s]
    topic: people
    key: data.email
    redact: [data.names, context, data.directory_id]
    pseudonymize: [data.email, data.organization_id]
sinks: [{name: nats, type: nats, url: %q}]
`, url, apiKey, r.Admin, r.Dir, types, bus)
	}
	r.WriteConfig(t, config("dsync.user.*"))
	r.SetArgs("--log-level", "debug", "run", "--config", r.Config)
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("nats").AtTip && r.Lane("nats").Position.EventID == events[3].id }, "every event is settled")
	page := func() string { return read(t, "http://"+r.Admin+"/") }
	r.Await(t, func() bool { return strings.Contains(page(), "org_"+hidden) }, "no route redacts groups") // a page is made once a second

	r.WriteConfig(t, config("dsync.user.*, group.*"))
	code, out, errs := r.Run(t, "reload")
	require.Zero(t, code, out+errs)
	require.Eventually(t, func() bool { return !strings.Contains(page(), hidden) }, patient, often, "what the reload hides is forgotten")
	for path, from := range map[string]string{"stream": "/api/v1/stream", "status": "/api/v1/status", "metrics": "/metrics", "readiness": "/readyz"} {
		require.NotContains(t, read(t, "http://"+r.Admin+from), hidden, path)
	}
	for _, args := range [][]string{
		{"status"}, {"check"}, {"checkpoint", "show"}, {"verify", "--since", "earliest", "--until", "latest"}, {"replay", "--since", "earliest", "--until", "latest"}, {"types"},
		{"deadletter", "list"}, {"deadletter", "list", "--json"}, {"deadletter", "replay", "--all"},
	} {
		_, out, errs := r.Run(t, args...)
		require.NotContains(t, out+errs, hidden, args)
	}
	for _, args := range [][]string{{"tail", "--since", "earliest"}, {"tail", "--since", "earliest", "--envelope"}} {
		require.NotContains(t, piped(t, r, len(events), args...), hidden, args)
	}
	require.Zero(t, r.Stop(t))
	log, err := os.ReadFile(r.Log)
	require.NoError(t, err)
	require.NotContains(t, string(log), hidden)

	require.Positive(t, subjects(js)["relay.dead_letter"])
	tailed := piped(t, r, 3, "tail", "--from-sink", "--since", "earliest", "--events", "people", "--envelope")
	require.NotContains(t, tailed, hidden)
	require.Contains(t, tailed, "hmac-sha256:")
	require.NotContains(t, piped(t, r, 1, "tail", "--from-sink", "--since", "earliest", "--events", "relay.dead_letter", "--envelope"), hidden)
}
