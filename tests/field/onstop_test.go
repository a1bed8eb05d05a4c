//go:build unix

package field

import (
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/admin"
	"workos-relay/internal/testaddr"
	"workos-relay/pipeline"
)

// TestConsumersKeepTheEmbeddedServerOfAStoppedLane: the server inside relay is the bus of a whole
// team. A lane that stops does not take it away.
func TestConsumersKeepTheEmbeddedServerOfAStoppedLane(t *testing.T) {
	t.Parallel()
	api, listen := newAPI(t), testaddr.Free(t)
	appendEvents(t, api, "user.created", 3, 10)
	appendEvents(t, api, "user.created", 1, 9_000_000) // larger than the server takes
	r := newRelay(t, "relay", sourceConfig(api.URL())+fmt.Sprintf("sinks: [{name: nats, type: nats, url: embedded, embedded: {listen: %q}}]\n", listen))
	r.Start(t)
	r.AwaitState(t, "nats", pipeline.Stopped)
	l := agree(t, r, admin.ActionNeeded, "stopped")
	require.Nil(t, l.LagSeconds, "nobody knows how far it is behind by now")
	require.Contains(t, statusPage(t, r), "<b>unknown</b>")
	code, _ := r.Ready()
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, r.Output(), "relay goes on serving everything else")

	js := (&natsServer{URL: "nats://" + listen}).connect(t)
	require.Equal(t, 3, countEvents(js, stream), "what was published before is there")
	require.True(t, r.Runs())

	text := sourceConfig(api.URL()) + fmt.Sprintf("sinks: [{name: nats, type: nats, url: embedded, embedded: {listen: %q}}]\n", listen)
	r.WriteConfig(t, text+fmt.Sprintf("checkpoint: {dir: %q}\nadmin: {listen: %q}\ndead_letter: {topic: relay.dead_letter}\n", r.Dir, r.Admin))
	r.Signal(t, syscall.SIGHUP)
	r.AwaitState(t, "nats", pipeline.Running)
	r.Await(t, func() bool { return r.Lane("nats").AtTip }, "it goes on once somebody has acted")
	require.Equal(t, exitDone, r.Stop(t))
}

// TestOnStop: what relay does once no lane runs is the operator's choice.
func TestOnStop(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		onStop, sink string
		waits        bool
	}{
		{"wait", "external", true},
		{"exit", "external", false},
		{"", "external", false},
		{"exit", "embedded", false},
	} {
		t.Run(strings.TrimPrefix(c.onStop+" "+c.sink, " "), func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			appendEvents(t, api, "user.created", 1, 9_000_000)
			text := sourceConfig(api.URL()) + fmt.Sprintf("sinks: [{name: nats, type: nats, url: embedded, embedded: {listen: %q}}]\n", testaddr.Free(t))
			if c.sink == "external" {
				text = natsConfig(api.URL(), newNATS(t, nil).URL)
			}
			if c.onStop != "" {
				text += "on_stop: " + c.onStop + "\n"
			}
			r := newRelay(t, "relay", text)
			r.Start(t)
			if !c.waits {
				require.Equal(t, exitDecides, r.Wait(t))
				return
			}
			r.AwaitState(t, "nats", pipeline.Stopped)
			agree(t, r, admin.ActionNeeded, "stopped")
			require.Equal(t, exitDecides, r.Stop(t), "that is still so when somebody ends it")
		})
	}
}
