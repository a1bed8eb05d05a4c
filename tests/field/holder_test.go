//go:build unix

package field

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/pipeline"
)

// TestTheNamesOfHolders: two relays of the same instance are told apart by names that people can
// read, which are the same in status, page, metrics and on the bus. One that was killed finds its
// lease again at once, under another name, although a standby waits for an hour.
func TestTheNamesOfHolders(t *testing.T) {
	t.Parallel()
	api, bus := newAPI(t), newNATS(t, nil)
	appendEvents(t, api, "user.created", 3, 0)
	a := newRelay(t, "a", "instance: web-7f9c\ntakeover_after: 1h\n"+natsConfig(api.URL(), bus.URL))
	b := a.twin(t, "b")
	a.Start(t)
	a.Await(t, func() bool { return a.Lane("nats").Active }, "it is active")
	first := a.Lane("nats").Self
	require.Regexp(t, fmt.Sprintf(`^web-7f9c/%d@20[0-9T:-]+Z#[0-9a-f]{12}$`, a.Pid()), first)
	require.Equal(t, first, a.Lane("nats").Holder)
	require.Contains(t, a.Metrics(), fmt.Sprintf(`relay_lane_holder_info{holder=%q,lane="nats",self=%[1]q} 1`, first))

	b.Start(t)
	b.AwaitState(t, "nats", pipeline.Standby)
	require.Equal(t, first, b.Lane("nats").Holder)
	require.NotEqual(t, first, b.Lane("nats").Self)
	_, out, _ := b.Run(t, "status")
	require.Regexp(t, "holder "+regexp.QuoteMeta(first)+" is active|"+regexp.QuoteMeta(first), out)

	a.Kill()
	a.Start(t)
	a.Await(t, func() bool { return a.Lane("nats").Active }, "it takes its own lease up at once")
	again := a.Lane("nats").Self
	require.NotEqual(t, first, again)
	require.Regexp(t, fmt.Sprintf(`^web-7f9c/%d@`, a.Pid()), again)
	require.Equal(t, again, a.Lane("nats").Holder)
	require.Equal(t, pipeline.Standby, b.Lane("nats").State)
	require.Equal(t, exitDone, a.Stop(t))
	require.Equal(t, exitDone, b.Stop(t))

	a.WriteConfig(t, "instance: web 7f9c\n"+natsConfig(api.URL(), bus.URL))
	code, _, errs := a.Check(t)
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, `config.yaml:1:11: instance: "web 7f9c" is not a valid name`)
}
