package router

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/printable"
	"workos-relay/source"
)

// TestHeadersArePrintable makes messages of events whose ids hold what no header should.
func TestHeadersArePrintable(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{
		"org_1":                         "org_1",
		"org é漢":                        "org é漢",
		"a\r\nNats-Rollup: all":         "a%0D%0ANats-Rollup: all",
		"\x1b[2J\x7f\u009b":             "%1B[2J%7F%C2%9B",
		"\u202e\u2028\ufeff\U000e0041":  "%E2%80%AE%E2%80%A8%EF%BB%BF%F3%A0%81%81",
		"\xff":                          "%EF%BF%BD",
		strings.Repeat("x", 512):        strings.Repeat("x", 512),
		strings.Repeat("x", 513):        "",
		strings.Repeat("\u202e", 100):   "",
		strings.Repeat("o\r", 100_000):  "",
		strings.Repeat("x", 900_000):    "",
		"\U0010ffff" + "private \ue000": "%F4%8F%BF%BFprivate %EE%80%80",
	} {
		for _, encoding := range []Encoding{Raw, CloudEvents, CloudEventsStructured} {
			for _, bus := range []Binding{NATS, Kafka} {
				r, err := New(Config{Relay: "workos", Encoding: encoding, Binding: bus, Headers: Headers{Actor: true}, DeadLetter: "relay.dead_letter"})
				require.NoError(t, err)
				quoted, err := json.Marshal(id)
				require.NoError(t, err)
				if id == "\xff" {
					quoted = []byte("\"\xff\"")
				}
				data := []byte(`{"id":` + string(quoted) + `,"organization_id":` + string(quoted) + `}`)
				e := &source.Event{
					ID: "event_1", Event: "user.created", Data: data, CreatedAt: time.Unix(1, 0),
					Raw: []byte(`{"id":"event_1","event":"user.created","data":` + string(data) + `,"context":{"actor":{"id":` + string(quoted) + `}}}`),
				}
				messages, err := r.Route(e)
				require.NoError(t, err)
				dead, err := r.DeadLetter(e, "user.created\x1b", "no\x1b\u202e"+strings.Repeat("y", 900_000), 0, 0)
				require.NoError(t, err)
				for _, m := range append(messages, dead) {
					values := map[string]string{}
					for _, h := range m.Headers {
						require.True(t, utf8.ValidString(h.Value), "%s: %q", h.Key, h.Value)
						require.NotContains(t, h.Value, "\n")
						for _, c := range h.Value {
							require.True(t, printable.Safe(c), "%s: %q", h.Key, h.Value)
						}
						require.LessOrEqual(t, len(h.Value), 3*maxHeaderValue)
						values[h.Key] = h.Value
					}
					if m.Topic == "user.created" {
						require.Equal(t, want, values[HeaderOrganization], "%.40q", id)
						require.Equal(t, want, values[HeaderActor], "%.40q", id)
					}
				}
				var body struct{ Reason, Topic string }
				require.NoError(t, json.Unmarshal(dead.Body, &body))
				require.Contains(t, body.Reason, `no\u001b\u202eyyy`)
				require.LessOrEqual(t, len(body.Reason), maxReason)
				require.Equal(t, `user.created\u001b`, body.Topic)
			}
		}
	}
}

// TestRedacted compares what Redacted leaves of events with what their messages hold.
func TestRedacted(t *testing.T) {
	t.Parallel()
	r, err := New(Config{Routes: []Route{{Events: []string{"user.*"}, Redact: []string{"data.email"}, Pseudonymize: []string{"data.organization_id"}}}, RedactionKey: "0123456789abcdef"})
	require.NoError(t, err)
	event := func(eventType, raw string) *source.Event {
		return &source.Event{ID: "event_1", Event: eventType, Raw: []byte(raw), Data: []byte(`{"email":"Hidden","organization_id":"Hidden"}`)}
	}
	const raw = `{"id":"event_1","data":{"email":"Hidden","organization_id":"Hidden"}}`
	shown := r.Redacted(event("user.created", raw))
	require.NotContains(t, string(shown.Raw)+string(shown.Data), "Hidden")
	require.Contains(t, Organization(shown), pseudonymPrefix)
	bare := r.Redacted(event("user.created", raw+"x"))
	require.Equal(t, "event_1", bare.ID)
	require.Empty(t, bare.Raw)
	require.Empty(t, bare.Data)
	other := event("group.created", raw)
	require.Equal(t, other, r.Redacted(other))
}
