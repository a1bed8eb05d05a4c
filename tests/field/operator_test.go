//go:build unix

package field

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/admin"
	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
)

// TestRelayExitsWith3IfOnlyAnOperatorCanHelp shows each fault that a restart does not mend: relay
// exits with the code after which systemd does not start it again, and says what to do. `relay
// check` finds the fault before the start, says the same, and leaves everything as it was.
func TestRelayExitsWith3IfOnlyAnOperatorCanHelp(t *testing.T) {
	t.Parallel()
	type world struct {
		api *sourcetest.Server
		bus *natsServer
		js  jetstream.JetStream
	}
	for name, c := range map[string]struct {
		config func(w *world) string
		before func(t *testing.T, w *world, r *relay) // before the start that fails
		says   string                                 // what to do
		asks   bool                                   // check asks an operator where to go on, too, and exits with 3
		unseen bool                                   // check reads one page, and does not see it
		alive  bool                                   // another relay changes files meanwhile
	}{
		"an event is larger than max_response": {
			config: func(w *world) string {
				return strings.Replace(natsConfig(w.api.URL(), w.bus.URL), "api_key:", "max_response: 64KiB, api_key:", 1)
			},
			before: func(t *testing.T, w *world, _ *relay) { appendEvents(t, w.api, "user.created", 1, 100_000) },
			says:   "raise source.max_response",
			unseen: true,
		},
		"the API answers newest first": {
			before: func(_ *testing.T, w *world, _ *relay) { w.api.FailRandomly(1, 1, sourcetest.Descending()) },
			says:   "start relay again once it answers oldest first",
		},
		"another relay has the directory": {
			before: func(t *testing.T, _ *world, r *relay) {
				other := r.twin(t, "other")
				text, err := os.ReadFile(other.Config)
				require.NoError(t, err)
				other.WriteConfig(t, strings.Replace(string(text), other.Dir, r.Dir, 1))
				other.Start(t)
				other.AwaitState(t, "nats", pipeline.Running)
			},
			says:  "stop it or give one another checkpoint.dir",
			alive: true,
		},
		"another relay has the directory, with an embedded server": {
			config: func(w *world) string {
				_, port, _ := net.SplitHostPort(w.api.URL()[len("http://"):]) // taken, as the other relay's would be
				return sourceConfig(w.api.URL()) + fmt.Sprintf("sinks: [{name: nats, type: nats, url: embedded, embedded: {listen: \"127.0.0.1:%s\"}}]\n", port)
			},
			before: func(t *testing.T, w *world, r *relay) {
				other := r.twin(t, "other")
				text, err := os.ReadFile(r.Config)
				require.NoError(t, err)
				_, rest, found := strings.Cut(string(text), "\ncheckpoint:")
				require.True(t, found)
				other.WriteConfig(t, natsConfig(w.api.URL(), w.bus.URL)+"\ncheckpoint:"+rest)
				text, err = os.ReadFile(other.Config)
				require.NoError(t, err)
				other.WriteConfig(t, strings.Replace(string(text), r.Admin, other.Admin, 1))
				other.Start(t)
				other.AwaitState(t, "nats", pipeline.Running)
			},
			says:  "stop it or give one another checkpoint.dir",
			alive: true,
		},
		"something else listens where the embedded server is to": {
			config: func(w *world) string {
				return sourceConfig(w.api.URL()) + fmt.Sprintf("sinks: [{name: nats, type: nats, url: embedded, embedded: {listen: %q}}]\n", w.api.URL()[len("http://"):])
			},
			says: "embedded.listen to another address",
		},
		"the directory cannot be used": {
			config: func(w *world) string {
				return natsConfig(w.api.URL(), w.bus.URL) + "checkpoint: {dir: /dev/null/relay}\n"
			},
			says: "correct checkpoint.dir",
		},
		"the checkpoint is corrupt": {
			config: func(w *world) string { return natsConfig(w.api.URL(), w.bus.URL) + "delivery: at_least_once\n" },
			before: func(t *testing.T, _ *world, r *relay) {
				runOnce(t, r)
				files, err := fs.Glob(os.DirFS(r.Dir), "*.checkpoint")
				require.NoError(t, err)
				require.Len(t, files, 1)
				require.NoError(t, os.WriteFile(filepath.Join(r.Dir, files[0]), []byte("{"), 0o600))
			},
			says: "relay checkpoint set",
			asks: true,
		},
		"the checkpoint is of another source": {
			before: func(t *testing.T, w *world, r *relay) {
				runOnce(t, r)
				text, err := os.ReadFile(r.Config)
				require.NoError(t, err)
				r.WriteConfig(t, strings.Replace(string(text), w.api.URL(), w.api.URL()+"/v2", 1))
			},
			says: "relay checkpoint set",
			asks: true,
		},
		"the mode of delivery would change": {
			before: func(t *testing.T, _ *world, r *relay) {
				runOnce(t, r)
				text, err := os.ReadFile(r.Config)
				require.NoError(t, err)
				r.WriteConfig(t, string(text)+"delivery: at_least_once\n")
			},
			says: "relay checkpoint set --lane nats --from bus",
			asks: true,
		},
		"the stream may not be created": {
			config: func(w *world) string {
				return strings.Replace(natsConfig(w.api.URL(), w.bus.URL), "type: nats,", "type: nats, create: {enabled: false},", 1)
			},
			says: "set create.enabled",
		},
		"the stream is of somebody else": {
			before: func(t *testing.T, w *world, _ *relay) {
				_, err := w.js.CreateStream(context.Background(), jetstream.StreamConfig{Name: "OTHERS", Subjects: []string{"user.>"}})
				require.NoError(t, err)
			},
			says: "Set `stream` to that stream",
		},
		"an event can never be published": {
			before: func(t *testing.T, w *world, _ *relay) { appendEvents(t, w.api, "user.created", 1, 2_000_000) },
			says:   "relay checkpoint set event_",
			unseen: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &world{api: newAPI(t, backlog(20)), bus: newNATS(t, nil)}
			w.js = w.bus.connect(t)
			text := natsConfig(w.api.URL(), w.bus.URL)
			if c.config != nil {
				text = c.config(w)
			}
			r := newRelay(t, "relay", text)
			if c.before != nil {
				c.before(t, w, r)
			}
			if !c.unseen {
				js := w.js
				if c.alive {
					js = nil
				}
				checkSays(t, r, js, c.says, c.asks)
			}
			for range 2 { // a restart changes nothing
				r.Start(t)
				require.Equal(t, exitDecides, r.Wait(t), r.Tail(3000))
				require.Contains(t, r.Tail(3000), c.says)
			}
		})
	}
}

// runOnce lets relay carry what there is, and stops it in order.
func runOnce(t *testing.T, r *relay) {
	t.Helper()
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("").AtTip }, "the backlog is carried")
	require.Equal(t, exitDone, r.Stop(t))
}

// TestAFaultThatAnOperatorHasToMendIsToldEverywhere: state, readiness, status and page of a lane
// that has run say the same while the bus is set up wrongly, the other lane goes on, and the lane
// goes on by itself once the fault is mended.
//
// P4: status, readiness, page and log.
func TestAFaultThatAnOperatorHasToMendIsToldEverywhere(t *testing.T) {
	t.Parallel()
	api := newAPI(t, backlog(20))
	bus, well := newNATS(t, nil), newNATS(t, nil)
	js, wellJS := bus.connect(t), well.connect(t)
	create := jetstream.StreamConfig{Name: stream, Subjects: []string{"workos.>", "relay.position.>"}, AllowAtomicPublish: true, AllowRollup: true, AllowMsgTTL: true}
	s, err := js.CreateStream(context.Background(), create)
	require.NoError(t, err)
	r := newRelay(t, "relay", sourceConfig(api.URL())+fmt.Sprintf("sinks: [{name: broken, type: nats, url: %q, topic_prefix: workos.}, {name: well, type: nats, url: %q}]\n", bus.URL, well.URL))
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("broken").AtTip && r.Lane("well").AtTip }, "both lanes are at the tip")
	r.awaitReady(t)

	narrow := s.CachedInfo().Config
	narrow.Subjects = []string{"workos.organization.>", "relay.position.>"} // the backlog's users are no longer bound
	_, err = js.UpdateStream(context.Background(), narrow)
	require.NoError(t, err)
	appendEvents(t, api, "user.created", 5, 0)
	r.Await(t, func() bool { return countEvents(wellJS, stream) == 25 }, "the other lane goes on")
	r.Await(t, func() bool {
		lane := r.Lane("broken")
		return strings.Contains(lane.Action, "workos.user.created") && lane.State == pipeline.Retrying && !lane.Ready
	}, "the lane says what to do")
	require.Empty(t, r.Lane("well").Action)
	code, body := r.Ready()
	require.Equal(t, 503, code)
	require.Contains(t, body, `"action": "`)
	exit, out, _ := r.Run(t, "status", "--json")
	require.Equal(t, exitDecides, exit)
	var told admin.Status
	require.NoError(t, json.Unmarshal([]byte(out), &told))
	require.Contains(t, told.Lanes[0].Action, "workos.user.created")
	_, out, _ = r.Run(t, "status")
	require.Contains(t, out, "action needed: lane broken: ")
	require.Contains(t, out, "workos.user.created")

	require.Contains(t, statusPage(t, r), "workos.user.created")

	_, err = js.UpdateStream(context.Background(), create)
	require.NoError(t, err)
	r.Await(t, func() bool { return countEvents(js, stream) == 25 }, "the lane goes on by itself")
	r.Await(t, func() bool { l := r.Lane("broken"); return l.Action == "" && l.Ready && l.State == pipeline.Running }, "and is well")
	require.Equal(t, exitDone, r.Stop(t))
}

// statusPage is the page that a browser shows.
func statusPage(t *testing.T, r *relay) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.Admin+"/", nil)
	require.NoError(t, err)
	req.Header.Set("Accept", "text/html")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode)
	return string(body)
}

// TestALaneThatOnlyAnOperatorCanHelpLeavesTheOthersRunning: one lane stops for good; the other goes
// on, and relay exits with 3 when it is stopped in the end.
//
// P13: a lane that stops.
func TestALaneThatOnlyAnOperatorCanHelpLeavesTheOthersRunning(t *testing.T) {
	t.Parallel()
	api := newAPI(t, backlog(20))
	bus := newNATS(t, func(o *server.Options) { o.MaxPayload = 200_000 })
	big := newKfake(t)
	r := newRelay(t, "relay", sourceConfig(api.URL())+fmt.Sprintf("id: %s\nsinks: [{name: nats, type: nats, url: %q}, {name: kafka, type: kafka, brokers: [%s], topic_prefix: %s}]\n",
		big.ID, bus.URL, strings.Join(big.Brokers, ", "), big.Prefix))
	appendEvents(t, api, "user.created", 1, 400_000)
	appendEvents(t, api, "user.created", 5, 0)
	r.Start(t)
	r.AwaitState(t, "nats", pipeline.Stopped)
	r.Await(t, func() bool { return r.Lane("kafka").AtTip }, "the other lane goes on")
	lane := r.Lane("nats")
	require.Contains(t, lane.Action, "relay checkpoint set event_")
	require.Equal(t, []string{"stopped: " + lane.Reason}, lane.Reasons, "what to do is said once")
	code, body := r.Ready()
	require.Equal(t, 503, code)
	require.Contains(t, body, lane.Action)
	time.Sleep(time.Second) // nothing starts it again
	require.Equal(t, pipeline.Stopped, r.Lane("nats").State)
	require.Equal(t, exitDecides, r.Stop(t), r.Tail(2000))
}
