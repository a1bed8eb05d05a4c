//go:build unix

package field

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/tests/testkit"
)

// slow is the rate of the link in bytes per second.
const slow = 64 << 10

// TestSlowLinkToNATS: on a link that takes minutes for a full batch events get through all the
// time, once and in order. The link becomes fast later, and so does relay.
func TestSlowLinkToNATS(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"auto", "at_least_once"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			ids := appendEvents(t, api, "user.created", 5000, 3000)
			bus := newNATS(t, nil)
			js := bus.connect(t)
			link := testkit.NewLink(t, "127.0.0.1:0", strings.TrimPrefix(bus.URL, "nats://"))
			link.Set(testkit.Weather{Rate: slow})
			r := newRelay(t, "relay", strings.Replace(natsConfig(api.URL(), "nats://"+link.Address), "}]", ", delivery: "+mode+"}]", 1))
			r.Start(t)
			began := time.Now()
			have, moved := 0, began
			for ; have <= 300; time.Sleep(200 * time.Millisecond) {
				if n := countEvents(js, stream); n > have {
					have, moved = n, time.Now()
				}
				require.Less(t, time.Since(began), patient, "%d events", have)
				require.Less(t, time.Since(moved), 2*time.Minute, "it stands at %d events\n%s", have, r.Tail(3000)) // a full batch takes longer
			}
			t.Logf("%d events in %s", have, time.Since(began).Round(time.Second))
			link.Set(testkit.Weather{})
			r.Await(t, func() bool { return countEvents(js, stream) == len(ids) }, "all events are on the stream")
			require.Equal(t, ids, eventIDs(t, js, stream))
			require.Equal(t, 1, link.Opened(), "the connection was never lost")
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}

// TestAnEventTooLargeForASlowLink is named, with the setting to raise, and what comes before it
// gets through. In exactly_once it is found if it arrived late.
func TestAnEventTooLargeForASlowLink(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"auto", "at_least_once"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			ids := eventsWithSize(t, api, 20, 10, 400<<10)
			bus := newNATS(t, nil)
			js := bus.connect(t)
			link := testkit.NewLink(t, "127.0.0.1:0", strings.TrimPrefix(bus.URL, "nats://"))
			link.Set(testkit.Weather{Rate: slow})
			config := func(timeout string) string {
				return strings.Replace(natsConfig(api.URL(), "nats://"+link.Address), "}]", fmt.Sprintf(", delivery: %s, ack_timeout: %s}]", mode, timeout), 1)
			}
			r := newRelay(t, "relay", config("3s"))
			r.Start(t)
			if mode == "auto" {
				r.Await(t, func() bool { return countEvents(js, stream) == len(ids) }, "everything gets through")
				require.Equal(t, ids, eventIDs(t, js, stream))
				require.Equal(t, exitDone, r.Stop(t))
				return
			}
			r.Await(t, func() bool { return countEvents(js, stream) >= 10 }, "what comes before the event is on the stream")
			var reason string
			r.Await(t, func() bool {
				reason = r.Lane("nats").Reason
				return strings.Contains(reason, "does not get through in time even alone")
			}, "the event is named")
			require.Contains(t, reason, ids[10])
			require.Contains(t, reason, "raise ack_timeout, which is 3s")
			require.Equal(t, exitDone, r.Stop(t))
			text := config("30s") + fmt.Sprintf("\ncheckpoint: {dir: %q}\nadmin: {listen: %q}\n", r.Dir, r.Admin)
			r.WriteConfig(t, text)
			r.Start(t)
			r.Await(t, func() bool { return countEvents(js, stream) == len(ids) }, "the rest follows")
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}
