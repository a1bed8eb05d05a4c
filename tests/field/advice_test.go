//go:build unix

package field

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"workos-relay/pipeline"
)

// TestRefusedCredentialsAreAdvisedAndRetried: a bus refuses the credentials at the start and again
// later. The lane says what to do and goes on trying, so that a server that accepts them later
// needs no restart of relay.
func TestRefusedCredentialsAreAdvisedAndRetried(t *testing.T) {
	t.Parallel()
	const advice = "correct auth of this sink, or the user on the NATS server"
	api := newAPI(t, backlog(20))
	bus := newNATS(t, func(o *server.Options) { o.Username, o.Password = "relay", "another" })
	r := newRelay(t, "relay", sourceConfig(api.URL())+fmt.Sprintf("sinks: [{name: nats, type: nats, url: %q, auth: {user: relay, password: right}}]\n", bus.URL))
	r.Start(t)
	advised := func() {
		t.Helper()
		r.Await(t, func() bool { return r.Lane("nats").Action == advice && r.Lane("nats").State == pipeline.Retrying }, "the lane says what to do")
		code, body := r.Ready()
		require.Equal(t, http.StatusServiceUnavailable, code)
		require.Contains(t, body, advice)
		code, out, errs := r.Run(t, "status")
		require.Equal(t, exitDecides, code, "relay goes on trying, and somebody has to act")
		require.Contains(t, out, "action needed: lane nats: ")
		require.Contains(t, out+errs, advice)
		require.Contains(t, statusPage(t, r), advice)
		require.Contains(t, r.Output(), advice)
	}
	advised()
	bus.opts.Password = "right"
	bus.restart(t)
	js := bus.connect(t, nats.UserInfo("relay", "right"))
	r.Await(t, func() bool { return countEvents(js, stream) == 20 }, "the lane goes on by itself")
	r.Await(t, func() bool { return r.Lane("nats").Action == "" && r.Lane("nats").State == pipeline.Running }, "it needs nobody any more")

	bus.opts.Password = "changed"
	bus.restart(t)
	appendEvents(t, api, "user.created", 5, 0)
	advised()
	bus.opts.Password = "right"
	bus.restart(t)
	js = bus.connect(t, nats.UserInfo("relay", "right"))
	r.Await(t, func() bool { return countEvents(js, stream) == 25 }, "the lane goes on by itself")
	require.Equal(t, exitDone, r.Stop(t))
}

// TestAMoveMayWatchForTakeoverAfter moves a stopped lane of a running relay to a position that a
// dead relay has not released, with a takeover_after that is longer than any other answer of relay
// takes.
func TestAMoveMayWatchForTakeoverAfter(t *testing.T) {
	t.Parallel()
	const takeover = 40 * time.Second
	api := newAPI(t, backlog(20))
	bus := newNATS(t, nil)
	js := bus.connect(t)
	text := sourceConfig(api.URL()) + fmt.Sprintf("takeover_after: %s\nsinks: [{name: out, type: stdout}, {name: nats, type: nats, url: %q", takeover, bus.URL)
	once := newRelay(t, "once", text+", delivery: at_least_once}]\n")
	once.Start(t)
	once.Await(t, func() bool { return once.Lane("nats").AtTip }, "the file holds the position")
	require.Equal(t, exitDone, once.Stop(t))

	dead := newRelay(t, "dead", text+"}]\n")
	code, out, errs := dead.Run(t, "checkpoint", "set", "latest", "--lane", "nats", "--skip")
	require.Equal(t, exitDone, code, out+errs)
	dead.Start(t)
	dead.AwaitState(t, "nats", pipeline.Running)
	dead.Kill()

	r := once.twin(t, "both")
	r.WriteConfig(t, text+fmt.Sprintf("}]\ncheckpoint: {dir: %q}\nadmin: {listen: %q}\n", once.Dir, r.Admin))
	r.Start(t)
	r.AwaitState(t, "nats", pipeline.Stopped)
	require.Contains(t, r.Lane("nats").Action, "--from")
	code, out, errs = r.Run(t, "status")
	require.Equal(t, exitDecides, code, out+errs)
	require.Contains(t, errs, "action needed; lane nats: ")

	began := time.Now()
	code, out, errs = r.Run(t, "checkpoint", "set", "--from", "bus", "--lane", "nats")
	require.Equal(t, exitDone, code, out+errs+r.Tail(2000))
	require.Greater(t, time.Since(began), takeover*3/4, "it was watched")
	require.Contains(t, errs, "that takes takeover_after")
	appendEvents(t, api, "user.created", 5, 0)
	r.Await(t, func() bool { return countEvents(js, stream) == 25 }, "the lane goes on")
	code, out, errs = r.Run(t, "status")
	require.Equal(t, exitDone, code, out+errs)
	require.Equal(t, exitDone, r.Stop(t))
}
