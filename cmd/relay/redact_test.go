package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// TestWhatIsRedactedReachesNoBus follows marked values through a lane, a replay, a repair and a
// dead letter, and checks that verify knows the redaction.
//
// P11: on both buses, dead letters included.
func TestWhatIsRedactedReachesNoBus(t *testing.T) {
	t.Parallel()
	const event = `{"object":"event","id":"event_01J%022d","event":"%s","data":{"id":"user_%d","organization_id":"org_1","email":"Hidden-%d@example.com",` +
		`"raw_attributes":{"a":"Hidden"},"emails":[{"value":"Hidden","primary":true}],"email":"Hidden-again"%s},"created_at":"2026-01-01T00:00:00.00%dZ"}`
	api := newAPI(t)
	for i, eventType := range []string{"dsync.user.created", "dsync.user.updated", "user.created"} {
		require.NoError(t, api.Append(fmt.Appendf(nil, event, i, eventType, i, i, "", i)))
	}
	require.NoError(t, api.Append(fmt.Appendf(nil, event, 3, "dsync.user.deleted", 3, 3, `,"blob":"`+strings.Repeat("x", 2<<20)+`"`, 3)))

	for _, encoding := range []string{"raw", "cloudevents", "cloudevents_structured"} {
		t.Run(encoding, func(t *testing.T) {
			url, js := newNATS(t)
			config := writeConfig(t, natsConfig(api.URL(), url, t.TempDir(), "encoding: "+encoding+`
dead_letter: {}
redaction: {key: 0123456789abcdef}
routes:
  - events: [dsync.user.*]
    topic: people
    key: data.email
    redact: [data.raw_attributes, data.emails.value]
    pseudonymize: [data.email]
`))
			r := start(t, "run", "--config", config)
			require.Eventually(t, func() bool { return messages(js, "WORKOS") == 4 }, patient, often, &r.stderr)
			require.Equal(t, exitDone, r.stop(t), &r.stderr)

			clean := func(code int, stdout, stderr string) {
				require.Equal(t, exitDone, code, stdout+stderr)
				require.NotContains(t, stdout+stderr, "Hidden")
			}
			clean(do(t, "verify", "--since", "earliest", "--until", "latest", "--config", config))
			clean(do(t, "replay", "--since", "earliest", "--until", "latest", "--config", config))
			s, err := js.Stream(t.Context(), "WORKOS")
			require.NoError(t, err)
			require.NoError(t, s.DeleteMsg(t.Context(), 2))
			require.NoError(t, s.Purge(t.Context(), jetstream.WithPurgeSubject("relay.position.>")))
			replayed := stored(t, js, "WORKOS")
			for _, m := range replayed { // a replay counts as present, so repair needs the event to be wholly gone
				if m.Header.Get("event-id") == fmt.Sprintf("event_01J%022d", 1) {
					require.NoError(t, s.DeleteMsg(t.Context(), m.Sequence))
				}
			}
			clean(do(t, "verify", "--repair", "--since", "earliest", "--until", "latest", "--config", config))

			got := stored(t, js, "WORKOS")
			people := 0
			for _, m := range got {
				if m.Subject == "user.created" {
					require.Contains(t, string(m.Data), "Hidden-2@example.com", "no route redacts it")
					continue
				}
				people++
				require.NotContains(t, string(m.Data)+fmt.Sprint(m.Header), "Hidden", m.Subject)
				if m.Subject == "people" {
					require.Contains(t, string(m.Data), "hmac-sha256:")
					require.True(t, bytes.Contains(m.Data, []byte(`"emails":[{"primary":true}]`)), "%s", m.Data)
				}
			}
			require.Equal(t, 5, people, "%v", subjectsOf(got))
			require.Contains(t, subjectsOf(got), "relay.dead_letter")

			other, err := os.ReadFile(config)
			require.NoError(t, err)
			code, stdout, _ := do(t, "verify", "--since", "earliest", "--until", "latest", "--config",
				writeConfig(t, strings.Replace(string(other), "0123456789abcdef", "another-key-0123", 1)))
			require.Equal(t, exitFailed, code)
			require.Regexp(t, `altered +3`, stdout)
		})
	}
}

func subjectsOf(messages []*jetstream.RawStreamMsg) []string {
	out := make([]string, len(messages))
	for i, m := range messages {
		out[i] = m.Subject
	}
	return out
}
