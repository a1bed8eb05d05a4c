//go:build linux

package field

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAServiceManagerIsTold runs relay as the unit of systemd does, with a service manager of this
// test: relay is ready once it answers, says that it is alive, says when it stops, and says nothing
// if it cannot start.
func TestAServiceManagerIsTold(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "sd")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = manager.Close() })
	next := func() string {
		t.Helper()
		require.NoError(t, manager.SetReadDeadline(time.Now().Add(patient)))
		buffer := make([]byte, 256)
		n, err := manager.Read(buffer)
		require.NoError(t, err)
		return string(buffer[:n])
	}
	api := newAPI(t)
	r := newRelay(t, "relay", sourceConfig(api.URL())+"sinks: [{name: out, type: stdout}]\n", "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=600000")
	r.Start(t)
	require.Equal(t, "READY=1", next())
	_, ok := r.Status()
	require.True(t, ok, "it answers once it says that it is ready")
	for range 3 {
		require.Equal(t, "WATCHDOG=1", next())
	}
	require.Zero(t, r.Stop(t))
	for state := next(); state != "STOPPING=1"; state = next() {
		require.Equal(t, "WATCHDOG=1", state)
	}

	// A watchdog that hears nothing sends SIGABRT. With the environment of the unit that is not
	// taken for exit code 2.
	unit, err := os.ReadFile("../../deploy/systemd/relay.service")
	require.NoError(t, err)
	_, environment, found := strings.Cut(string(unit), "\nEnvironment=")
	require.True(t, found)
	environment, _, _ = strings.Cut(environment, "\n")
	var core syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_CORE, &core))
	core.Cur = 0 // as in the unit
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_CORE, &core))
	crashing := exec.CommandContext(t.Context(), relayBinary, "run", "--config", r.Config)
	crashing.Env = append(os.Environ(), "NOTIFY_SOCKET="+path, environment)
	var said bytes.Buffer
	crashing.Stdout, crashing.Stderr = &said, &said
	require.NoError(t, crashing.Start())
	require.Equal(t, "READY=1", next())
	require.NoError(t, crashing.Process.Signal(syscall.SIGABRT))
	require.Error(t, crashing.Wait())
	status, ok := crashing.ProcessState.Sys().(syscall.WaitStatus)
	require.True(t, ok)
	require.True(t, status.Signaled(), "it ended with exit code %d", status.ExitStatus())
	require.Contains(t, said.String(), "goroutine ", "it says what it was doing")

	// A configuration that is invalid is never ready.
	r.WriteConfig(t, "sinks: [{name: out}]\n")
	starting := exec.CommandContext(t.Context(), relayBinary, "run", "--config", r.Config)
	starting.Env = append(os.Environ(), "NOTIFY_SOCKET="+path)
	require.Error(t, starting.Run())
	require.Equal(t, 2, starting.ProcessState.ExitCode())
	require.NoError(t, manager.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	_, err = manager.Read(make([]byte, 256))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}
