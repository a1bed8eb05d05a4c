//go:build linux

package hostile

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

// TestCollectorsThatMisbehave has a collector that refuses and repeats the token, one that takes
// requests and never answers, and none at all. Events flow, the log tells of each signal once and
// without the token, and relay ends.
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
	for name, c := range map[string]struct {
		endpoint string
		says     bool // soon, not only after the timeout of a request
	}{
		"it refuses":     {refuses.URL, true},
		"it hangs":       {hangs.URL, false},
		"nobody listens": {"http://" + testaddr.Free(t), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: events, Seed: 1}))
			headers := fmt.Sprintf("headers: [{name: x-token, value: %s}]", token)
			text := stdoutConfig(api.URL(), "") +
				fmt.Sprintf("telemetry: {traces: {endpoint: %q, %s}, metrics: {endpoint: %q, interval: 1s, %s}}\n", c.endpoint, headers, c.endpoint, headers)
			r := testkit.NewRelay(t, relayBinary, "relay", text, "OTEL_BSP_SCHEDULE_DELAY=100")
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("out").Events >= events }, "every event is carried")
			said := []string{"spans could not be handed to the collector", "metrics could not be handed to the collector"}
			for _, text := range said {
				if c.says {
					r.Says(t, text)
				}
			}
			require.Zero(t, r.Stop(t))
			for _, text := range said {
				require.LessOrEqual(t, strings.Count(r.Output(), text), 1, "the log repeats: %s", text)
			}
			require.NotContains(t, r.Output(), token)
		})
	}
}
