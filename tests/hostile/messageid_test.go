//go:build linux

package hostile

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/tests/testkit"
)

// TestAnEventIDTakesNoOtherMessagesPlace serves events whose ids are those of other messages as the
// bus has them: the dead letter of an event that is too large, and another event with a blank at
// the end. The stream drops none of them as a second copy.
func TestAnEventIDTakesNoOtherMessagesPlace(t *testing.T) {
	t.Parallel()
	event := func(id, eventType string, at int, padding int) hostileEvent {
		e := newEvent(at, eventType, 60-at)
		return hostileEvent{id, strings.Replace(strings.Replace(e.raw, e.id, id, 1), `"user_1"`, fmt.Sprintf(`"user_1","pad":%q`, strings.Repeat("x", padding)), 1)}
	}
	for name, events := range map[string][]hostileEvent{
		"behind it": {event("event_X", "user.created", 0, 1<<20), event("dead_letter.event_X", "user.updated", 1, 0), event("event_Y", "user.updated", 2, 0),
			event("event_Y ", "user.updated", 3, 0), event("event.dead_letter.event_X", "user.updated", 4, 0)},
		"before it": {event("event.dead_letter.event_X", "user.updated", 0, 0), event("dead_letter.event_X", "user.updated", 1, 0), event(" event_Y", "user.updated", 2, 0),
			event("event_Y", "user.updated", 3, 0), event("event_X", "user.created", 4, 1<<20)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bus, js := newNATS(t)
			r := testkit.NewRelay(t, relayBinary, "relay", fmt.Sprintf("source: {endpoint: %q, api_key: %s, poll_interval: 200ms}\nsinks: [{name: nats, type: nats, url: %q}]\n",
				serveAnything(t, events, 0), apiKey, bus)+"delivery: at_least_once\ndead_letter: {}\n")
			r.Start(t)
			r.Await(t, func() bool { return r.Lane("nats").AtTip }, "everything is published")
			require.Equal(t, map[string]uint64{"user.updated": 4, "relay.dead_letter": 1}, subjects(js))
			require.Zero(t, r.Stop(t))
		})
	}
}
