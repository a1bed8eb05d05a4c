//go:build unix

package field

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/source/sourcetest"
)

// TestOneRateLimit: every request of a relay counts against source.rate_limit, also those that
// moving a lane by hand makes, and those that follow a redirect.
func TestOneRateLimit(t *testing.T) {
	t.Parallel()
	const rate = 3 // requests a second; the lane alone would make five
	api := newAPI(t, backlog(300))
	bus := newNATS(t, nil)
	js := bus.connect(t)
	r := newRelay(t, "relay", strings.Replace(natsConfig(api.URL(), bus.URL), "source: {", "source: {rate_limit: 3, ", 1))
	r.Start(t)
	r.Await(t, func() bool { return countEvents(js, stream) == 300 }, "the backlog is on the stream")
	for range 4 {
		code, out, errs := r.Run(t, "checkpoint", "set", "latest", "--skip")
		require.Equal(t, exitDone, code, out+errs)
		api.Fail(5, sourcetest.Redirect(api.URL()+"/events"))
	}
	time.Sleep(3 * time.Second)
	require.Equal(t, exitDone, r.Stop(t))
	requests := api.Requests()
	require.Greater(t, len(requests), 20)
	for i, first := range requests {
		n := 0
		for _, q := range requests[i:] {
			if q.Time.Sub(first.Time) < 4*time.Second {
				n++
			}
		}
		require.LessOrEqual(t, n, 4*rate+2, "within 4 s of request %d", i) // one may be early, and a clock is read twice
	}
}
