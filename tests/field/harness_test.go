//go:build unix

package field

import (
	"fmt"
	"net/http"
	"os"
	"testing"

	"workos-relay/internal/testrun"
	"workos-relay/tests/testkit"
)

// Exit codes of relay.
const (
	exitDone    = 0
	exitFailed  = 1
	exitUsage   = 2
	exitDecides = 3
)

const (
	patient = testkit.Patient
	often   = testkit.Often
)

var relayBinary string // built once by TestMain

func TestMain(m *testing.M) {
	testrun.ManyAtOnce()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "relay-field")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if relayBinary, err = testkit.Build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// relay is the built binary with a configuration file: see testkit.Relay.
type relay struct{ *testkit.Relay }

// newRelay prepares a relay: see testkit.NewRelay.
func newRelay(t testing.TB, name, text string, env ...string) *relay {
	t.Helper()
	return &relay{testkit.NewRelay(t, relayBinary, name, text, env...)}
}

// awaitReady waits until /readyz says that relay is ready: what is slow for a moment may make it
// say otherwise.
func (r *relay) awaitReady(t testing.TB) {
	t.Helper()
	r.Await(t, func() bool { code, _ := r.Ready(); return code == http.StatusOK }, "it is ready")
}

// twin prepares a second relay with the configuration of r: see testkit.Relay.Twin.
func (r *relay) twin(t testing.TB, name string) *relay {
	t.Helper()
	return &relay{r.Twin(t, name)}
}
