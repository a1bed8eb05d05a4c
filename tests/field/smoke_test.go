//go:build unix

package field

import (
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
)

// TestDefaults carries a backlog with the defaults on each bus, over HTTP/1 and over HTTP/2.
func TestDefaults(t *testing.T) {
	t.Parallel()
	const events = 500
	t.Run("nats", func(t *testing.T) {
		t.Parallel()
		api, url, trust := newTLSAPI(t, backlog(events))
		bus := newNATS(t, nil)
		js := bus.connect(t)
		r := newRelay(t, "relay", natsConfig(url, bus.URL), trust)
		r.Start(t)
		r.Await(t, func() bool { return countEvents(js, stream) == events }, "all events are on the stream")
		r.AwaitState(t, "nats", pipeline.Running)
		require.Equal(t, api.IDs(sourcetest.Filter{}), eventIDs(t, js, stream))
		require.Equal(t, exitDone, r.Stop(t))
	})
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		api := newAPI(t, backlog(events))
		bus := newKfake(t)
		r := newRelay(t, "relay", bus.config(api.URL(), ""))
		r.Start(t)
		r.Await(t, func() bool { return bus.count(t) == events }, "all events are in the topics")
		require.Equal(t, exitDone, r.Stop(t))
	})
}
