//go:build unix

package chaos

import (
	"flag"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"workos-relay/tests/testkit"
)

const (
	defaultKills = 3 // of a plain `go test ./...`
	patient      = 4 * time.Minute
	often        = 20 * time.Millisecond
)

var (
	seedFlag  = flag.Uint64("chaos.seed", fromEnv("RELAY_CHAOS_SEED", uint64(time.Now().UnixNano())), "the schedule of faults")
	killsFlag = flag.Uint64("chaos.kills", fromEnv("RELAY_CHAOS_KILLS", defaultKills), "how many times a profile kills a relay or a server")
	twinsFlag = flag.Duration("chaos.twins", durationFromEnv("RELAY_CHAOS_TWINS"), "how long twins are paused by turns; 0 leaves it out")

	relayBinary string
)

func TestMain(m *testing.M) {
	if os.Getenv(asNode) != "" {
		runNode()
		return
	}
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if testing.Short() {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "relay-chaos")
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

func fromEnv(name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		panic(name + " is not a number: " + text)
	}
	return n
}

func durationFromEnv(name string) time.Duration {
	text := os.Getenv(name)
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		panic(name + " is not a duration: " + text)
	}
	return d
}

func skipIfShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts and kills processes")
	}
}
