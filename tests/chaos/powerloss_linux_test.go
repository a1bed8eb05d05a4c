package chaos

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/powercut"
	"workos-relay/internal/testaddr"
	"workos-relay/tests/testkit"
)

// TestPowerLossNATS lets the power of a server fail while relay publishes. What the server has not
// synced is lost: with sync_interval: always nothing but what it has just been given, otherwise
// also what it has acknowledged lately. relay runs all the while.
func TestPowerLossNATS(t *testing.T) {
	skipIfShort(t)
	t.Parallel()
	for name, test := range map[string]struct {
		delivery string
		sync     bool
	}{
		"exactly_once/always":    {exactlyOnce, true},
		"at_least_once/always":   {atLeastOnce, true},
		"exactly_once/interval":  {exactlyOnce, false},
		"at_least_once/interval": {atLeastOnce, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newPoweredServer(t, test.sync)
			w := newWorld(t, s.bus, test.delivery, 1, 1000)
			relay := w.relays[0]
			relay.Start(t)
			w.flows(1000)
			require.Eventually(t, func() bool { // the server answers before it writes
				info := s.bus.info()
				return info != nil && uint64(s.process.Written()) > info.State.Bytes //nolint:gosec // not negative
			}, patient, often)
			older := s.process.Ops()
			stop := w.live(300, 1)
			w.flows(500)
			cut := powercut.Cut{Journal: true}
			if !test.sync { // what is older is on the disk by now
				cut.Written, cut.Names = older, older
			}
			lost := s.fail(t, cut)
			t.Logf("the power fails: %d messages were there, %d are left", s.bus.counted, lost)
			stop()
			allowed := testkit.Allowance{Copies: test.delivery == atLeastOnce, Early: test.delivery == atLeastOnce}
			if !test.sync {
				w.append(2000) // more than was lost
				settleLoss(t, w, test.delivery)
			}
			w.finish().RequireNothingWrong(t, allowed)
		})
	}
}

// settleLoss requires that relay stops with a question, unless it has everything on the bus again,
// and answers: go on after the last event before the loss.
func settleLoss(t *testing.T, w *world, delivery string) {
	t.Helper()
	const look = 3 * time.Second // each leaves a consumer on the server for a while
	relay := w.relays[0]
	for deadline := time.Now().Add(patient); relay.Runs() && len(w.read().Lost()) > 0; time.Sleep(look) {
		require.True(t, time.Now().Before(deadline), "relay neither asks nor has everything stored\n%s", relay.Tail(3000))
	}
	if relay.Runs() {
		t.Log("relay has stored everything again")
		return
	}
	asks := func() {
		require.Equal(t, exitOperator, relay.Wait(t), relay.Tail(3000))
		require.Regexp(t, `stream WORKOS ends [0-9]+ messages before the end that it had`, relay.Output())
		require.Contains(t, relay.Output(), "relay checkpoint set")
	}
	asks()
	if delivery == atLeastOnce {
		relay.Start(t)
		asks() // again, although the end is far behind the loss by now
	}
	o := w.read()
	last := o.IDs[slices.Index(o.IDs, o.Lost()[0])-1]
	answer := exec.CommandContext(t.Context(), relayBinary, "checkpoint", "set", last, "--config", w.config[0])
	said, err := answer.CombinedOutput()
	require.NoError(t, err, string(said))
	relay.Start(t)
}

// poweredServer is a server of which the power can fail.
type poweredServer struct {
	bus     *natsBus
	process *powercut.Process
	root    string
	options nodeOptions
	exe     string
}

func newPoweredServer(t *testing.T, sync bool) *poweredServer {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	s := &poweredServer{root: filepath.Join(t.TempDir(), "store"), exe: exe}
	s.options = nodeOptions{Name: "node", Dir: s.root, Port: testaddr.Port(t), Sync: sync}
	log, err := os.Create(filepath.Join(t.ArtifactDir(), "traced.log"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = log.Close() })
	s.process, err = powercut.Start(s.root, []string{exe}, append(os.Environ(), asNode+"="+s.encoded(t)), log)
	if errors.Is(err, powercut.ErrNotPermitted) {
		t.Skipf("SKIPPED: this test traces a process: %v", err)
	}
	require.NoError(t, err)
	t.Cleanup(s.process.Kill)
	url := "nats://" + testaddr.On(s.options.Port)
	nc, err := nats.Connect(url, nats.Timeout(patient), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	s.bus = &natsBus{cluster: &cluster{js: js, ports: []int{s.options.Port}}, seen: map[testkit.Position]struct{}{}}
	s.options.Dir = filepath.Join(t.TempDir(), "restored")
	s.bus.nodes = []*testkit.Process{testkit.NewProcess(t, "node", exe, []string{asNode + "=" + s.encoded(t)})}
	for i := range s.bus.links {
		s.bus.links[i] = []*testkit.Link{testkit.NewLink(t, testaddr.Free(t), strings.TrimPrefix(url, "nats://"))}
	}
	return s
}

func (s *poweredServer) encoded(t *testing.T) string {
	t.Helper()
	text, err := json.Marshal(s.options)
	require.NoError(t, err)
	return string(text)
}

// fail lets the power fail, and starts a server on what the disk holds then. It returns how many
// messages that has.
func (s *poweredServer) fail(t *testing.T, cut powercut.Cut) int {
	t.Helper()
	before := s.bus.count()
	s.process.Kill()
	record, _, err := s.process.Record()
	require.NoError(t, err)
	cut.Ops = len(record.Ops)
	require.NoError(t, record.After(cut).Restore(record.Root, s.options.Dir))
	s.bus.nodes[0].Start(t)
	s.bus.counted = 0
	require.Eventually(t, func() bool { return s.bus.js.Conn().IsConnected() }, patient, often)
	n := s.bus.count()
	s.bus.counted = before
	return n
}
