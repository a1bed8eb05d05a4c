//go:build unix

package field

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTheLogOfAService: a relay whose standard error is not a terminal logs
// JSON, from the first line to the reason of its end, with durations as numbers.
func TestTheLogOfAService(t *testing.T) {
	t.Parallel()
	api, bus := newAPI(t), newNATS(t, nil)
	appendEvents(t, api, "user.created", 1, 9_000_000)                             // larger than the bus takes
	r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL), "RELAY_LOG_FORMAT=") // no choice
	r.Start(t)
	require.Equal(t, exitDecides, r.Wait(t))
	lines := strings.Split(strings.TrimSpace(r.Output()), "\n")
	require.Greater(t, len(lines), 3)
	var last map[string]any
	for _, line := range lines {
		last = nil
		require.NoError(t, json.Unmarshal([]byte(line), &last), line)
		for _, key := range []string{"time", "level", "msg"} {
			require.NotEmpty(t, last[key], line)
		}
		_, err := time.Parse(time.RFC3339, last["time"].(string))
		require.NoError(t, err)
	}
	require.Equal(t, "error", last["level"])
	require.Equal(t, "nats", last["lane"])
	require.EqualValues(t, exitDecides, last["exit_code"])
	require.Contains(t, last["error"], "--lane nats --skip", "all of it, with what to do")
}

// TestTheLogTellsAnOutageInNumbers: the wait between attempts is a number of milliseconds.
func TestTheLogTellsAnOutageInNumbers(t *testing.T) {
	t.Parallel()
	api, bus := newAPI(t), newNATS(t, nil)
	appendEvents(t, api, "user.created", 1, 10)
	r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL), "RELAY_LOG_FORMAT=json")
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("nats").AtTip }, "it has caught up")
	bus.Shutdown()
	bus.WaitForShutdown()
	r.Says(t, `will try again`)
	r.Says(t, `"retry_in_ms":`)
	bus.start(t)
	r.Says(t, `"msg":"the outage is over"`)
	r.Says(t, `"outage_ms":`)
	require.Equal(t, exitDone, r.Stop(t))
}
