//go:build unix

package field

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/pipeline"
	"workos-relay/tests/testkit"
)

// twoLanes starts a relay with the lanes slow, whose bus is behind the link, and well. Both are at
// the tip.
func twoLanes(t *testing.T) (r *relay, link *testkit.Link, arrived func() (slow, well int), serve func(n int) (last string)) {
	t.Helper()
	api := newAPI(t, backlog(20))
	bus, other := newNATS(t, nil), newNATS(t, nil)
	js, otherJS := bus.connect(t), other.connect(t)
	link = testkit.NewLink(t, "127.0.0.1:0", strings.TrimPrefix(bus.URL, "nats://"))
	r = newRelay(t, "relay", sourceConfig(api.URL())+fmt.Sprintf(
		"sinks: [{name: slow, type: nats, url: \"nats://%s\"}, {name: well, type: nats, url: %q}]\nlog: {level: debug}\n", link.Address, other.URL))
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("slow").AtTip && r.Lane("well").AtTip }, "both lanes are at the tip")
	return r, link, func() (int, int) { return countEvents(js, stream), countEvents(otherJS, stream) },
		func(n int) string { return appendEvents(t, api, "user.created", n, 0)[n-1] }
}

// inBackground runs a command of relay. The channel is closed when it has ended.
func inBackground(t *testing.T, r *relay, args ...string) (ended chan struct{}, code *int) {
	t.Helper()
	ended, code = make(chan struct{}), new(int)
	go func() {
		defer close(ended)
		*code, _, _ = r.Run(t, args...)
	}()
	t.Cleanup(func() { <-ended })
	return ended, code
}

// controlled steers the lane well, and requires that each command is done while what runs in the
// background is not.
func controlled(t *testing.T, r *relay, ended chan struct{}) {
	t.Helper()
	for _, c := range []struct {
		args  []string
		state pipeline.State
	}{
		{[]string{"pause", "well"}, pipeline.Paused},
		{[]string{"status", "--json"}, pipeline.Paused},
		{[]string{"checkpoint", "set", "latest", "--lane", "well"}, pipeline.Paused},
		{[]string{"resume", "well"}, pipeline.Running},
		{[]string{"poll", "well"}, pipeline.Running},
	} {
		code, out, errs := r.Run(t, c.args...)
		if c.args[0] == "status" {
			require.Equal(t, exitFailed, code, "a paused lane is not healthy")
		} else {
			require.Equal(t, exitDone, code, "%v: %s%s", c.args, out, errs)
		}
		r.AwaitState(t, "well", c.state)
		select {
		case <-ended:
			require.Fail(t, "it waited for the other lane", "%v", c.args)
		default:
		}
	}
}

// TestControlOfALaneWaitsForNoOther: neither a move of another lane whose bus does not answer nor a
// reload that waits for its stop holds up what is asked of a lane.
func TestControlOfALaneWaitsForNoOther(t *testing.T) {
	t.Parallel()
	t.Run("move", func(t *testing.T) {
		t.Parallel()
		r, link, arrived, serve := twoLanes(t)
		link.Set(testkit.Weather{Silent: true})
		serve(5) // an Append is in flight
		r.Await(t, func() bool { _, well := arrived(); return well == 25 }, "the other lane goes on")
		ended, code := inBackground(t, r, "checkpoint", "set", "earliest", "--lane", "slow")
		controlled(t, r, ended)
		link.Set(testkit.Weather{})
		<-ended
		t.Logf("the move ended with %d", *code)
		serve(5)
		r.Await(t, func() bool { slow, _ := arrived(); return slow >= 30 }, "the slow lane goes on")
		require.Equal(t, exitDone, r.Stop(t))
	})
	t.Run("reload", func(t *testing.T) {
		t.Parallel()
		r, link, arrived, serve := twoLanes(t)
		link.Set(testkit.Weather{Silent: true})
		serve(5)
		r.Await(t, func() bool { _, well := arrived(); return well == 25 }, "the other lane goes on")
		moved, _ := inBackground(t, r, "checkpoint", "set", "earliest", "--lane", "slow")
		r.Says(t, "/api/v1/lanes/slow/checkpoint")
		text, err := os.ReadFile(r.Config)
		require.NoError(t, err)
		r.WriteConfig(t, strings.Replace(string(text), "name: slow, ", "name: slow, ack_timeout: 7s, ", 1))
		reloaded, code := inBackground(t, r, "reload") // it waits for the bus, and then for the move
		r.Says(t, "/api/v1/reload")
		controlled(t, r, reloaded)
		// What is asked of the lane itself is not lost with the one that is replaced.
		inBackground(t, r, "pause", "slow")
		r.Says(t, `{"request": "POST /api/v1/pause", "lanes": ["slow"]`)
		link.Set(testkit.Weather{})
		<-moved
		<-reloaded
		require.Equal(t, exitDone, *code)
		r.AwaitState(t, "slow", pipeline.Paused)
		resumed, _, errs := r.Run(t, "resume", "slow")
		require.Equal(t, exitDone, resumed, errs)
		r.Await(t, func() bool { slow, _ := arrived(); return slow >= 25 }, "the slow lane goes on")
		require.Equal(t, exitDone, r.Stop(t))
	})
}

// TestReloadsAndMovesOfOneLaneComeOneAfterTheOther: with requests at the same time, the lane
// runs in the end, with the last configuration, and nothing is lost.
func TestReloadsAndMovesOfOneLaneComeOneAfterTheOther(t *testing.T) {
	t.Parallel()
	r, _, arrived, serve := twoLanes(t)
	text, err := os.ReadFile(r.Config)
	require.NoError(t, err)
	for round := range 3 {
		r.WriteConfig(t, strings.Replace(string(text), "name: slow, ", fmt.Sprintf("name: slow, ack_timeout: %ds, ", 10+round), 1))
		var ended []chan struct{}
		var codes []*int
		for _, args := range [][]string{
			{"reload"}, {"checkpoint", "set", "earliest", "--lane", "slow"}, {"reload"}, {"checkpoint", "set", "earliest", "--lane", "slow"}, {"pause", "slow"},
		} {
			e, c := inBackground(t, r, args...)
			ended, codes = append(ended, e), append(codes, c)
		}
		for i := range ended {
			<-ended[i]
			require.Equal(t, exitDone, *codes[i], "command %d: %s", i, r.Tail(3000))
		}
		r.AwaitState(t, "slow", pipeline.Paused)
		code, _, errs := r.Run(t, "resume", "slow")
		require.Equal(t, exitDone, code, errs)
		last := serve(5)
		for _, lane := range []string{"slow", "well"} {
			r.Await(t, func() bool { return r.Lane(lane).Position.EventID == last }, "lane %s goes on", lane)
		}
	}
	for lane, want := range map[string]string{"slow": `(?m)^missing +0 `, "well": `(?m)^duplicate +0 `} { // the moves publish again
		_, out, errs := r.Run(t, "verify", "--lane", lane, "--since", "earliest", "--until", time.Now().UTC().Format(time.RFC3339Nano))
		require.Regexp(t, want, out, errs)
	}
	_, well := arrived()
	require.Equal(t, 35, well)
	require.Equal(t, exitDone, r.Stop(t))
}
