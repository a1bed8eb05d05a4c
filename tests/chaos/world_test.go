//go:build unix

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

const apiKey = "sk_test_chaos"

// busServer is one server of the bus.
type busServer interface {
	Kill()
	Start(t testing.TB)
	Pause()
	Resume()
}

// bus is what relays publish to, with the links to it, and a way round them for the test.
type bus interface {
	sink(relay int) string             // its configuration, as YAML in one line
	linksOf(relay int) []*testkit.Link // that relay reaches it through
	servers() []busServer
	leader() int // index of the server that leads the stream or a partition, -1 if unknown
	stepDown()   // moves the leader
	whole() bool // every server has everything
	count() int  // rises as messages are stored
	early() bool // in at_least_once what was sent behind a hole is stored, and once more when the hole is filled
	watch(ctx context.Context)
	positions(t *testing.T) []testkit.Position
	read(ctx context.Context, o *testkit.Oracle) error // everything, to the end there is when it begins
}

// world is everything that a schedule breaks.
type world struct {
	t      *testing.T
	bus    bus
	api    *sourcetest.Server
	apiVia *testkit.Link
	relays []*testkit.Process
	config []string // path of the configuration file, by relay

	rnd     *rand.Rand
	began   time.Time
	mending map[string]mend // by what is broken
	did     map[string]int
}

// mend ends a fault, not before its time.
type mend struct {
	at time.Time
	do func()
}

// newWorld starts an API with a backlog and, around it and the bus, as many relays.
func newWorld(t *testing.T, b bus, delivery string, relays int, backlog int) *world {
	t.Helper()
	api := sourcetest.New(sourcetest.WithAPIKey(apiKey), sourcetest.WithLedger(0), sourcetest.WithPopulation(sourcetest.Population{Events: backlog, Seed: 1}))
	require.NoError(t, api.Start(""))
	t.Cleanup(func() { require.NoError(t, api.Close()) })
	w := &world{t: t, bus: b, api: api, began: time.Now(), mending: map[string]mend{}, did: map[string]int{}}
	w.apiVia = testkit.NewLink(t, testaddr.Free(t), strings.TrimPrefix(api.URL(), "http://"))
	for i := range relays {
		w.relays = append(w.relays, w.newRelay(i, delivery))
	}
	return w
}

// newRelay prepares a relay with its own directory.
func (w *world) newRelay(i int, delivery string) *testkit.Process {
	dir := w.t.TempDir()
	path := filepath.Join(dir, "config.yaml")
	config := fmt.Sprintf(`
source: {endpoint: "http://%s", api_key: %s, poll_interval: 50ms, rate_limit: 1000}
sinks: [%s]
routes: [{events: ["dsync.*"], topic: directory}, {events: ["session.*"], topic: sessions}, {events: ["*"], topic: others}]
checkpoint: {dir: %q}
admin: {listen: ""}
delivery: %s
takeover_after: 3s
`, w.apiVia.Address, apiKey, w.bus.sink(i), filepath.Join(dir, "data"), delivery)
	require.NoError(w.t, os.WriteFile(path, []byte(config), 0o600))
	w.config = append(w.config, path)
	return testkit.NewProcess(w.t, fmt.Sprintf("relay%d", i), relayBinary, nil, "run", "--config", path, "--log-format", "json")
}

func (w *world) start() {
	for _, r := range w.relays {
		r.Start(w.t)
	}
}

// live makes events until stop is called.
func (w *world) live(rate float64, seed uint64) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	made := make(chan error, 1)
	go func() { made <- w.api.Live(ctx, sourcetest.LiveConfig{Rate: rate, Seed: seed}) }()
	return func() {
		cancel()
		require.NoError(w.t, <-made)
	}
}

// append makes so many events at once.
func (w *world) append(events int) {
	w.t.Helper()
	require.NoError(w.t, w.api.Live(w.t.Context(), sourcetest.LiveConfig{Rate: 1e6, Seed: uint64(w.api.Len()), Max: events}))
}

// flows waits until the bus has taken so many messages more. Nothing is broken by then.
func (w *world) flows(more int) {
	w.t.Helper()
	goal := w.bus.count() + more
	for deadline := time.Now().Add(patient); w.bus.count() < goal; time.Sleep(often) {
		w.requireAlive()
		require.True(w.t, time.Now().Before(deadline), "nothing flows: %d of %d messages", w.bus.count(), goal)
	}
}

// leader waits until the servers agree on who leads, and returns the index of that one.
func (w *world) leader() (i int) {
	w.t.Helper()
	require.Eventually(w.t, func() bool { i = w.bus.leader(); return i >= 0 }, patient, often, "nobody leads")
	return i
}

// requireAlive requires that no relay has ended but by our hand.
func (w *world) requireAlive() {
	w.t.Helper()
	for _, r := range w.relays {
		require.False(w.t, r.Started() && !r.Runs(), "%s ended by itself", r.Name)
	}
}

// finish waits until the bus has everything, stops the relays in order, and lets the oracle judge
// what was delivered.
func (w *world) finish() *testkit.Oracle {
	w.t.Helper()
	require.Eventually(w.t, w.bus.whole, patient, often, "the servers of the bus do not come together again")
	deadline := time.Now().Add(2 * patient)
	for {
		w.requireAlive()
		if w.bus.count() >= w.api.Len() {
			if o := w.read(); len(o.Lost()) == 0 {
				break
			}
		}
		if time.Now().After(deadline) {
			w.t.Logf("not everything arrived within %v", 2*patient)
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	for _, r := range w.relays {
		require.Zero(w.t, r.Stop(w.t), "%s: an orderly stop exits with 0", r.Name)
	}
	return w.read()
}

// read shows the bus to an oracle, again if a reader does not get to the end: it may be on a
// replica that lags.
func (w *world) read() *testkit.Oracle {
	w.t.Helper()
	var o *testkit.Oracle
	again(w.t, func(ctx context.Context) error {
		o = testkit.NewOracle(w.api)
		return w.bus.read(ctx, o)
	})
	return o
}

// again reads the bus until that succeeds.
func again(t *testing.T, read func(context.Context) error) {
	t.Helper()
	for deadline := time.Now().Add(2 * patient); ; time.Sleep(often) {
		ctx, cancel := context.WithTimeout(t.Context(), patient/2)
		err := read(ctx)
		cancel()
		if err == nil {
			return
		}
		t.Logf("reading again: %v", err)
		require.True(t, time.Now().Before(deadline), "the bus cannot be read: %v", err)
	}
}

// note counts and logs what was done.
func (w *world) note(kind, format string, args ...any) {
	w.did[kind]++
	w.t.Logf("%7.2fs %s", time.Since(w.began).Seconds(), kind+fmt.Sprintf(format, args...))
}

func (w *world) summary() string {
	var parts []string
	for kind, n := range w.did {
		parts = append(parts, fmt.Sprintf("%d × %s", n, kind))
	}
	sort.Strings(parts)
	return strings.Join(parts, ", ")
}
