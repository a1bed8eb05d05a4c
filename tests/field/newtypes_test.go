//go:build unix

package field

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/source/sourcetest"
)

// TestNewTypesAnnounceThemselves sends signed webhooks of event types that relay does not ask for:
// one that it does not know, and one that the configuration leaves out. relay names both, with what
// adds them. Once the configuration asks for the new type, its events are published and nothing is
// announced any more.
func TestNewTypesAnnounceThemselves(t *testing.T) {
	t.Parallel()
	const secret, unknown, known = "whsec_field", "future.thing.created", "role.updated"
	api, bus := newAPI(t), newNATS(t, nil)
	js := bus.connect(t)
	listen := testaddr.Free(t)
	config := func(events string) string {
		return fmt.Sprintf("source: {endpoint: %q, api_key: %s, poll_interval: 200ms, events: [%s], webhook: {listen: %q, secret: %s}}\n"+
			"sinks: [{name: nats, type: nats, url: %q}]\n", api.URL(), apiKey, events, listen, secret, bus.URL)
	}
	sent := 0
	send := func(eventType, secret string) int {
		sent++ // another webhook each time, and not a replay
		body := fmt.Appendf(nil, `{"id":"wh_%d","data":{"event":"user.created"},"event":%q}`, sent, eventType)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+listen+"/workos/webhook", bytes.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("WorkOS-Signature", sourcetest.SignWebhook(secret, time.Now(), body))
		resp, err := onceClient.Do(req)
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	r := newRelay(t, "relay", config(`"user.*"`))
	r.Start(t)
	r.Await(t, func() bool { return send("user.created", secret) == http.StatusOK }, "webhooks are taken")
	require.Equal(t, http.StatusUnauthorized, send("forged.type", "whsec_other"))
	for range 3 {
		require.Equal(t, http.StatusOK, send(unknown, secret))
	}
	require.Equal(t, http.StatusOK, send(known, secret))
	require.Equal(t, http.StatusOK, send("Not A Type", secret))

	s, ok := r.Status()
	require.True(t, ok)
	require.Len(t, s.Unasked, 2)
	require.Equal(t, unknown, s.Unasked[0].Type)
	require.Equal(t, "+"+unknown, s.Unasked[0].Add)
	require.Equal(t, 3, s.Unasked[0].Webhooks)
	require.Equal(t, known, s.Unasked[1].Add)
	require.Equal(t, 1, strings.Count(r.Output(), `"+future.thing.created"`)+strings.Count(r.Output(), "+future.thing.created]"), "it warns once")
	_, out, _ := r.Run(t, "status")
	require.Contains(t, out, "source.events: [..., +future.thing.created]")
	require.Contains(t, r.Metrics(), `relay_webhook_unasked_total{type="other"} 3`)
	require.Contains(t, r.Metrics(), `relay_webhook_unasked_total{type="role.updated"} 1`)

	text, err := os.ReadFile(r.Config)
	require.NoError(t, err)
	r.WriteConfig(t, strings.Replace(string(text), `"user.*"`, `"user.*", "role.*", "+future.thing.created"`, 1))
	code, out, errs := r.Run(t, "reload")
	require.Zero(t, code, out+errs)
	s, ok = r.Status()
	require.True(t, ok)
	require.Empty(t, s.Unasked)
	ids := appendEvents(t, api, unknown, 3, 10)
	r.Await(t, func() bool { return countEvents(js, stream) == 3 }, "the events of the new type are published")
	require.Equal(t, ids, eventIDs(t, js, stream))
	_, out, _ = r.Run(t, "types", "--asyncapi")
	require.Contains(t, out, unknown)
	code, out, errs = r.Run(t, "verify", "--since", time.Now().Add(-time.Hour).UTC().Format(time.RFC3339), "--until", time.Now().UTC().Format(time.RFC3339Nano))
	require.Zero(t, code, out+errs)
	require.Equal(t, exitDone, r.Stop(t))
}
