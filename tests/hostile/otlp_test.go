//go:build linux

package hostile

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

// TestCollectorsThatMisbehave has a collector that refuses and repeats the token, one that
// redirects to somebody else, one that takes requests and never answers, and none at all. Events
// flow, the log tells of each signal once and without the token, nobody else gets a request, and
// relay ends.
func TestCollectorsThatMisbehave(t *testing.T) {
	t.Parallel()
	const token, events = "token-of-the-collector", 200
	never := make(chan struct{})
	hangs := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-never }))
	t.Cleanup(hangs.Close)
	t.Cleanup(func() { close(never) })
	refuses := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "not by "+r.Header.Get("X-Token"))
	}))
	t.Cleanup(refuses.Close)
	var stray atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { stray.Add(1) }))
	t.Cleanup(elsewhere.Close)
	t.Cleanup(func() { require.Zero(t, stray.Load(), "relay followed a redirect") })
	redirects := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := http.StatusTemporaryRedirect
		if strings.HasSuffix(r.URL.Path, "/metrics") {
			status = http.StatusFound
		}
		http.Redirect(w, r, elsewhere.URL+r.URL.Path+"?token="+r.Header.Get("X-Token"), status)
	}))
	t.Cleanup(redirects.Close)
	for name, c := range map[string]struct {
		endpoint string
		environ  bool     // endpoint and header come from the environment
		says     bool     // soon, not only after the timeout of a request
		answers  []string // the log names these
	}{
		"it refuses":                   {refuses.URL, false, true, []string{"403 Forbidden"}},
		"it refuses, by environment":   {refuses.URL, true, true, []string{"403 Forbidden"}},
		"it redirects":                 {redirects.URL, false, true, []string{"307 Temporary Redirect", "302 Found"}},
		"it redirects, by environment": {redirects.URL, true, true, []string{"307 Temporary Redirect", "302 Found"}},
		"it hangs":                     {hangs.URL, false, false, nil},
		"nobody listens":               {"http://" + testaddr.Free(t), false, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: events, Seed: 1}))
			headers := fmt.Sprintf("headers: [{name: x-token, value: %s}]", token)
			text, env := stdoutConfig(api.URL(), ""), []string{"OTEL_BSP_SCHEDULE_DELAY=100", "OTEL_METRIC_EXPORT_INTERVAL=1000"}
			if c.environ {
				env = append(env, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.endpoint, "OTEL_EXPORTER_OTLP_HEADERS=x-token=Bearer%20"+token)
			} else {
				text += fmt.Sprintf("telemetry: {traces: {endpoint: %q, %s}, metrics: {endpoint: %q, interval: 1s, %s}}\n", c.endpoint, headers, c.endpoint, headers)
			}
			if c.answers != nil { // a timeout on a slow machine would be the failure that the log tells of
				env = append(env, "OTEL_EXPORTER_OTLP_TIMEOUT=300000")
			}
			r := testkit.NewRelay(t, relayBinary, "relay", text, env...)
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("out").Events >= events }, "every event is carried")
			said := []string{"spans could not be handed to the collector", "metrics could not be handed to the collector"}
			for _, text := range said {
				if c.says {
					r.Says(t, text)
				}
			}
			for _, text := range c.answers {
				r.Says(t, text)
			}
			require.Zero(t, r.Stop(t))
			for _, text := range said {
				require.LessOrEqual(t, strings.Count(r.Output(), text), 1, "the log repeats: %s", text)
			}
			require.NotContains(t, r.Output(), token)
		})
	}
}
