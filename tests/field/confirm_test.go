//go:build linux

package field

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAMoveIsConfirmedOnATerminal: it shows what would be skipped, asks, and does exactly that.
func TestAMoveIsConfirmedOnATerminal(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	ids := appendEvents(t, api, "user.created", 20, 0)
	r, _ := stoppedRelay(t, api, 20)
	code, out, errs := r.Run(t, "checkpoint", "set", ids[9])
	require.Equal(t, exitDone, code, out+errs)
	ask := func(answer string, args ...string) (code int, out, shown string) {
		control, terminal := openTerminal(t)
		_, err := io.WriteString(control, answer)
		require.NoError(t, err)
		cmd := exec.CommandContext(t.Context(), relayBinary, append([]string{"checkpoint", "--config", r.Config}, args...)...)
		var stdout bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, &stdout, terminal
		shown = runOnTerminal(t, cmd, control, terminal)
		return cmd.ProcessState.ExitCode(), stdout.String(), shown
	}
	for _, no := range []string{"n\n", "\n", "yes please\n", "\x04"} {
		code, out, shown := ask(no, "set", ids[14])
		require.Equal(t, exitFailed, code, out+shown)
		require.Contains(t, shown, "would skip 5 events that followed its position, from "+ids[10]+" to "+ids[14])
		require.Contains(t, shown, "Move lane nats and skip that? [y/N]")
	}
	require.Contains(t, positionOf(t, r), ids[9])
	code, out, shown := ask("y\n", "set", ids[14])
	require.Equal(t, exitDone, code, out+shown)
	require.Contains(t, out, "skipped 5 events")
	code, out, shown = ask("", "reset") // nothing is skipped
	require.Equal(t, exitDone, code, out+shown)
	require.NotContains(t, shown, "[y/N]")
}

// runOnTerminal runs a command that uses a terminal, and returns what the terminal has shown.
func runOnTerminal(t *testing.T, cmd *exec.Cmd, control, terminal *os.File) string {
	t.Helper()
	shown := make(chan string, 1)
	go func() {
		text, _ := io.ReadAll(control) // up to the error once nobody has the terminal open any more
		shown <- string(text)
	}()
	err := cmd.Run()
	require.NotNil(t, cmd.ProcessState, err)
	require.NoError(t, terminal.Close())
	return <-shown
}
