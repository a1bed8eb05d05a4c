//go:build linux

package field

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"workos-relay/internal/testaddr"
	"workos-relay/pipeline"
	"workos-relay/tests/testkit"
)

// initialize runs relay init in dir and returns its exit code and what it wrote. in is its standard
// input; nil is an empty one.
func initialize(t *testing.T, dir string, in *os.File, args ...string) (code int, out string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), relayBinary, append([]string{"init"}, args...)...)
	cmd.Dir = dir
	if in != nil {
		cmd.Stdin = in
	}
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	err := cmd.Run()
	require.NotNil(t, cmd.ProcessState, err)
	return cmd.ProcessState.ExitCode(), text.String()
}

// TestInit writes a configuration for each bus. relay itself takes it as it stands.
func TestInit(t *testing.T) {
	t.Parallel()
	for _, bus := range []string{"kafka", "nats", "embedded"} {
		dir := t.TempDir()
		code, out := initialize(t, dir, nil, "--bus", bus)
		require.Equal(t, exitDone, code, out)
		path := filepath.Join(dir, "config.yaml")
		require.Contains(t, out, path)
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, e := range entries {
			info, err := e.Info()
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), info.Mode(), e.Name())
		}
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Greater(t, strings.Count(string(text), "# "), 10)

		types := exec.CommandContext(t.Context(), relayBinary, "types", "--config", path) // reads the configuration
		said, err := types.CombinedOutput()
		require.NoError(t, err, string(said))

		code, out = initialize(t, dir, nil, "--bus", bus)
		require.Equal(t, exitUsage, code)
		require.Contains(t, out, "exists already")
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, text, after)
	}
}

// TestInitOfAnEmbeddedServer starts relay with what init wrote: the server takes the token that was
// shown and nobody without it.
func TestInitOfAnEmbeddedServer(t *testing.T) {
	t.Parallel()
	api := newAPI(t, backlog(10))
	dir := t.TempDir()
	listen := testaddr.Free(t)
	code, out := initialize(t, dir, nil, "--bus", "embedded", "--address", strings.Replace(listen, "127.0.0.1", "0.0.0.0", 1))
	require.Equal(t, exitDone, code, out)
	token := regexp.MustCompile(`(?m)^  ([A-Z0-9]{20,})$`).FindStringSubmatch(out)
	require.Len(t, token, 2, out)
	text, err := os.ReadFile(filepath.Join(dir, "config.yaml"))
	require.NoError(t, err)
	require.NotContains(t, string(text), token[1])
	config := strings.NewReplacer("source:\n", fmt.Sprintf("source:\n  endpoint: %q\n", api.URL()), "127.0.0.1:8080", testaddr.Free(t), "./relay-data", filepath.Join(dir, "data")).Replace(string(text))
	r := testkit.NewRelay(t, relayBinary, "relay", config, "WORKOS_API_KEY="+apiKey)
	r.Admin = regexp.MustCompile(`listen: (127\.0\.0\.1:\d+)`).FindStringSubmatch(config)[1]
	r.Start(t)
	r.AwaitState(t, "nats", pipeline.Running)
	testkit.Eventually(t, func() bool { // a client that is slow may find the connection closed before it reads why
		_, err := nats.Connect("nats://"+listen, nats.Timeout(patient))
		require.Error(t, err)
		return errors.Is(err, nats.ErrAuthorization)
	}, "it does not say that it wants a token")
	(&natsServer{URL: "nats://" + listen}).connect(t, nats.Token(token[1]))
	require.Equal(t, exitDone, r.Stop(t))
	require.NotContains(t, r.Output(), token[1])
}

// TestInitRefuses what it cannot do, and leaves nothing behind.
func TestInitRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no bus":            {nil, "--bus embedded"},
		"another bus":       {[]string{"--bus", "rabbitmq"}, "rabbitmq"},
		"no address":        {[]string{"--bus", "embedded", "--address", "here"}, "is not an address"},
		"credentials in it": {[]string{"--bus", "nats", "--address", "nats://relay:s3cret@nats-1:4222"}, "under auth"},
		"no such directory": {[]string{"--bus", "embedded", "--config", "missing/config.yaml"}, "missing/config.yaml"},
	} {
		dir := t.TempDir()
		code, out := initialize(t, dir, nil, c.args...)
		require.Equal(t, exitUsage, code, name)
		require.Contains(t, strings.ReplaceAll(out, ".nats-token", ".yaml"), c.says, name)
		require.NotContains(t, out, "s3cret")
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, entries, name)
	}
	for _, taken := range []string{"config.yaml", "config.nats-token"} {
		dir := t.TempDir()
		target := filepath.Join(dir, "target")
		require.NoError(t, os.Symlink(target, filepath.Join(dir, taken)))
		code, out := initialize(t, dir, nil, "--bus", "embedded")
		require.Equal(t, exitUsage, code)
		require.Contains(t, out, taken+" exists already")
		require.NoFileExists(t, target)
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 1)
	}
}

// TestInitAsksOnATerminal answers its question there.
func TestInitAsksOnATerminal(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]int{"what?\n Kafka \n": exitDone, "a\nb\nc\n": exitUsage, "\x04": exitUsage} {
		control, terminal := openTerminal(t)
		_, err := io.WriteString(control, answer)
		require.NoError(t, err)
		dir := t.TempDir()
		code, out := initialize(t, dir, terminal)
		require.Equal(t, want, code, out)
		require.Contains(t, out, "Which bus")
		text, err := os.ReadFile(filepath.Join(dir, "config.yaml"))
		require.Equal(t, want == exitDone, err == nil)
		require.Equal(t, want == exitDone, strings.Contains(string(text), "type: kafka"))
	}
}

// openTerminal returns both ends of a pseudo terminal.
func openTerminal(t *testing.T) (control, terminal *os.File) {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no pseudo terminal can be opened here: ", err)
	}
	t.Cleanup(func() { _ = control.Close() })
	fd := int(control.Fd()) //nolint:gosec // a file descriptor fits
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = terminal.Close() })
	return control, terminal
}
