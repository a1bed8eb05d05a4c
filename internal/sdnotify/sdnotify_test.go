//go:build unix

package sdnotify

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// listen is a service manager; the channel has what it is told.
func listen(t *testing.T) (path string, told <-chan string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd") // t.TempDir may be too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path = filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	all := make(chan string, 100)
	go func() {
		defer close(all)
		buffer := make([]byte, 1024)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			all <- string(buffer[:n])
		}
	}()
	return path, all
}

func variables(v map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { text, ok := v[name]; return text, ok }
}

func TestStart(t *testing.T) {
	path, told := listen(t)
	stop := Start(t.Context(), variables(map[string]string{
		"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "30000", "WATCHDOG_PID": strconv.Itoa(os.Getpid()),
	}), func() {}, zap.NewNop())
	require.Equal(t, "READY=1", <-told)
	for range 3 {
		require.Equal(t, "WATCHDOG=1", <-told)
	}
	stop()
	for state := range told {
		if state == "STOPPING=1" {
			return
		}
		require.Equal(t, "WATCHDOG=1", state)
	}
}

// TestTheEndOfTheContextIsToldAtOnce: what relay does until it has stopped may take long.
func TestTheEndOfTheContextIsToldAtOnce(t *testing.T) {
	path, told := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	stop := Start(ctx, variables(map[string]string{"NOTIFY_SOCKET": path}), func() {}, zap.NewNop())
	require.Equal(t, "READY=1", <-told)
	cancel()
	require.Equal(t, "STOPPING=1", <-told)
	stop()
	time.Sleep(50 * time.Millisecond)
	require.Empty(t, told, "it is told once")
}

// TestWhatHangsIsNotAlive: the watchdog hears nothing more, and a stop does not wait.
func TestWhatHangsIsNotAlive(t *testing.T) {
	path, told := listen(t)
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	calls := 0
	stop := Start(t.Context(), variables(map[string]string{"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "3000"}), func() {
		if calls++; calls > 2 {
			<-hang
		}
	}, zap.NewNop())
	for _, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1"} {
		require.Equal(t, want, <-told)
	}
	time.Sleep(100 * time.Millisecond)
	require.Empty(t, told)
	stop()
	require.Equal(t, "STOPPING=1", <-told)
}

func TestWithoutAServiceManager(t *testing.T) {
	for _, v := range []map[string]string{{}, {"NOTIFY_SOCKET": ""}, {"WATCHDOG_USEC": "1000"}} {
		Start(t.Context(), variables(v), func() { t.Error("asked whether it lives") }, zap.NewNop())()
	}
	// One that is gone does no harm.
	Start(t.Context(), variables(map[string]string{"NOTIFY_SOCKET": filepath.Join(t.TempDir(), "gone")}), func() {}, zap.NewNop())()
}

func TestInterval(t *testing.T) {
	for usec, want := range map[string]time.Duration{"": 0, "x": 0, "0": 0, "-5": 0, "2000000": 2 * time.Second, "9223372036854775807": 0} {
		require.Equal(t, want, interval(variables(map[string]string{"WATCHDOG_USEC": usec})), usec)
	}
	require.Zero(t, interval(variables(map[string]string{"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"})), "for another process")
}
