//go:build unix

package field

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// TestRepeatedEvents: pages that overlap bring each event to the bus once, in a backlog, at the tip
// and after a restart.
func TestRepeatedEvents(t *testing.T) {
	t.Parallel()
	for name, overlap := range map[string]int{"an inclusive cursor": 1, "pages that overlap by twenty": 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, sourcetest.WithOverlap(overlap),
				sourcetest.WithPopulation(sourcetest.Population{Seed: 1, Profile: []sourcetest.Span{{Length: 24 * time.Hour, Events: 6000}, {Length: time.Hour}}}))
			bus := newNATS(t, nil)
			js := bus.connect(t)
			r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL))
			r.Start(t)
			r.Await(t, func() bool { return countEvents(js, stream) == 6000 }, "the backlog is on the stream")
			appendEvents(t, api, source.UserCreated, 2, 0)
			r.Await(t, func() bool { return countEvents(js, stream) == 6002 }, "two events at the tip are on the stream")
			appendEvents(t, api, source.UserCreated, 1, 0)
			r.Await(t, func() bool { return countEvents(js, stream) == 6003 }, "the next one is on the stream")
			require.NotContains(t, r.Metrics(), `relay_source_repeated_events_total{lane="nats"} 0`)
			require.Equal(t, exitDone, r.Stop(t))

			appendEvents(t, api, source.UserCreated, 3, 0)
			api.Fail(1, sourcetest.Twice())
			r.Start(t)
			r.Await(t, func() bool { return countEvents(js, stream) == 6006 }, "what happened meanwhile is on the stream")
			require.Equal(t, api.IDs(sourcetest.Filter{}), eventIDs(t, js, stream))
			r.verify(t, exitDone)
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}
