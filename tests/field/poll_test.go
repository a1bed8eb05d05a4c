//go:build unix

package field

import (
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/source"
)

// pollIntervals returns what each lane says of the time between its polls.
func pollIntervals(r *relay) []float64 {
	var out []float64
	for _, m := range regexp.MustCompile(`(?m)^relay_source_poll_interval_seconds\{.*\} (\S+)$`).FindAllStringSubmatch(r.Metrics(), -1) {
		n, _ := strconv.ParseFloat(m[1], 64)
		out = append(out, n)
	}
	return out
}

// TestPollsFollowTheEvents runs relays without poll_fastest while events come and after that. With
// the defaults they poll more often meanwhile, together at most five times a second; with another
// poll_interval they keep to it.
func TestPollsFollowTheEvents(t *testing.T) {
	t.Parallel()
	const lanes = "sinks: [{name: a, type: stdout}, {name: b, type: stdout}]\n"
	for name, c := range map[string]struct {
		interval string
		quiet    float64
		early    bool
	}{
		"defaults":           {"", 1, true},
		"an interval of 2 s": {", poll_interval: 2s", 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			r := newRelay(t, "relay", fmt.Sprintf("source: {endpoint: %q, api_key: %s%s}\n", api.URL(), apiKey, c.interval)+lanes)
			r.Start(t)
			at := func(want float64) bool {
				got := pollIntervals(r)
				return len(got) == 2 && got[0] == want && got[1] == want
			}
			r.Await(t, func() bool { return at(c.quiet) }, "both lanes are at the tip, and nothing happens")
			begin, before := time.Now(), api.Count()
			fastest := c.quiet
			for i := range 40 {
				appendEvents(t, api, source.UserCreated, 1, i)
				time.Sleep(50 * time.Millisecond)
				for _, now := range pollIntervals(r) {
					require.NotZero(t, now)
					fastest = min(fastest, now)
				}
			}
			polls, long := api.Count()-before, time.Since(begin).Seconds()
			if c.early {
				require.Less(t, fastest, c.quiet)
				require.LessOrEqual(t, float64(polls), 5*long+10)
			} else {
				require.GreaterOrEqual(t, fastest, c.quiet)
				require.LessOrEqual(t, float64(polls), 2*long/c.quiet+4)
			}
			r.Await(t, func() bool { return at(c.quiet) }, "both lanes are back at poll_interval")
			require.Zero(t, r.Stop(t))
		})
	}
}
