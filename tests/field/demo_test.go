//go:build unix

package field

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/tests/testkit"
)

// TestDemoFromASecondTerminal: with the configuration that a demo writes, the other commands work
// against it. Its default ports may be taken: the demos of this test all begin with them.
func TestDemoFromASecondTerminal(t *testing.T) {
	t.Parallel()
	var starting sync.Mutex // two demos that look for a port at the same moment may find the same
	for name, sink := range map[string]func(*testing.T) string{
		"embedded": func(*testing.T) string { return "" },
		"NATS":     func(t *testing.T) string { return newNATS(t, nil).URL },
		"Kafka":    func(t *testing.T) string { return "kafka://" + strings.Join(newKfake(t).Brokers, ",") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file, api := filepath.Join(t.TempDir(), "a demo.yaml"), testaddr.Free(t)
			args := []string{"demo", "--backlog", "300", "--config-out", file, "--api", api}
			if url := sink(t); url != "" {
				args = append(args, "--sink", url)
			}
			demo := testkit.NewProcess(t, "demo", relayBinary, nil, args...)
			starting.Lock()
			demo.Start(t)
			up := func() bool { return !demo.Runs() || strings.Contains(demo.Output(), "Stop with Ctrl-C") }
			for deadline := time.Now().Add(patient); !up() && time.Now().Before(deadline); time.Sleep(often) {
			}
			starting.Unlock()
			require.Eventually(t, func() bool { return !demo.Runs() || strings.Contains(demo.Output(), "lag none") }, patient, often)
			require.True(t, demo.Runs(), demo.Output())
			for _, hint := range []string{"'" + file + "'", relayBinary + " tail --from-sink", "status --watch", " pause", "http://" + api} {
				require.Contains(t, demo.Output(), hint)
			}

			for _, line := range []string{
				"check", "status", "checkpoint show", "verify --since earliest --until latest", "replay --since earliest --until latest --dry-run",
				"replay --since earliest --until latest", "pause", "resume", "poll",
			} {
				code, output := runWith(t, file, strings.Fields(line)...)
				require.Equal(t, exitDone, code, "relay %s\n%s", line, output)
			}
			tail := testkit.NewProcess(t, "tail", relayBinary, []string{"RELAY_CONFIG=" + file}, "tail", "--from-sink", "--since", "earliest", "--envelope")
			tail.Start(t)
			require.Eventually(t, func() bool { return len(tailed(t, tail)) >= 600 }, patient, often, "the events and the replay")
			tail.Signal(t, syscall.SIGTERM)
			require.Equal(t, exitDone, tail.Wait(t))

			code, output := runWith(t, file, "demo", "--config-out", file)
			require.Equal(t, exitUsage, code)
			require.Contains(t, output, "the demo overwrites nothing: name another file")
			demo.Signal(t, syscall.SIGINT)
			require.Equal(t, exitDone, demo.Wait(t), demo.Output())
			require.NoFileExists(t, file, "a configuration that leads nowhere")
		})
	}
}

// TestDemoWithAWrongBus names what --sink takes.
func TestDemoWithAWrongBus(t *testing.T) {
	t.Parallel()
	code, output := runWith(t, "", "demo", "--sink", "http://127.0.0.1:4222")
	require.Equal(t, exitUsage, code)
	require.Contains(t, output, "write for example nats://127.0.0.1:4222 or kafka://127.0.0.1:9092")
}

// runWith runs a command with the configuration in the environment, and returns its exit code and
// what it wrote.
func runWith(t *testing.T, config string, args ...string) (code int, output string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	cmd := exec.CommandContext(ctx, relayBinary, args...)
	cmd.Env = append(os.Environ(), "RELAY_CONFIG="+config)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); cmd.ProcessState == nil || !cmd.ProcessState.Exited() {
		require.NoError(t, err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}
