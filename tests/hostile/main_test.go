//go:build linux

package hostile

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/testrun"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

const (
	apiKey  = "sk_test_hostile"
	patient = testkit.Patient
	often   = testkit.Often
)

var relayBinary string // built once by TestMain

func TestMain(m *testing.M) {
	testrun.ManyAtOnce()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "relay-hostile")
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

// newAPI starts a fake Events API.
func newAPI(t testing.TB, opts ...sourcetest.Option) *sourcetest.Server {
	t.Helper()
	api := sourcetest.New(append([]sourcetest.Option{sourcetest.WithAPIKey(apiKey)}, opts...)...)
	require.NoError(t, api.Start(""))
	t.Cleanup(func() { require.NoError(t, api.Close()) })
	return api
}

// stdoutConfig is a configuration with a sink that needs no server.
func stdoutConfig(api, more string) string {
	return fmt.Sprintf("source: {endpoint: %q, api_key: %s, poll_interval: 200ms%s}\nsinks: [{name: out, type: stdout}]\n", api, apiKey, more)
}

// peakMemory returns the largest resident size of a process so far, in bytes.
func peakMemory(t testing.TB, pid int) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			require.NoError(t, err)
			return kib << 10
		}
	}
	require.Fail(t, "the kernel says no peak")
	return 0
}

// descriptors returns how many files and sockets a process has open.
func descriptors(t testing.TB, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "fd"))
	require.NoError(t, err)
	return len(entries)
}
