//go:build unix

package mistakes

import (
	"fmt"
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
	dir, err := os.MkdirTemp("", "relay-mistakes")
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
