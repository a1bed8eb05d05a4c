//go:build linux

package field

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAReaderThatEndsEarly as in `relay help | head -1`: the command ends with the exit code that
// it would have had, and without an error text.
func TestAReaderThatEndsEarly(t *testing.T) {
	t.Parallel()
	api := newAPI(t, backlog(200))
	r := newRelay(t, "relay", sourceConfig(api.URL())+"sinks: [{name: out, type: stdout}]\n")
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"--help"}, exitDone},
		{[]string{"help"}, exitDone},
		{[]string{"help", "guarantees"}, exitDone},
		{[]string{"help", "troubleshoot", "so this is not a first start"}, exitDone},
		{[]string{"types"}, exitDone},
		{[]string{"completion", "bash"}, exitDone},
		{[]string{"checkpoint", "show"}, exitDone},
		{[]string{"version"}, exitDone},
		{[]string{"replay", "--dry-run", "--since", "earliest", "--until", "latest"}, exitDone},
		{[]string{"status"}, exitFailed}, // no relay runs
		{[]string{"status", "--watch", "--interval", "10ms"}, exitDone},
		{[]string{"tail", "--since", "earliest"}, exitDone},
	} {
		reader, writer, err := os.Pipe()
		require.NoError(t, err)
		require.NoError(t, reader.Close())
		ctx, cancel := context.WithTimeout(t.Context(), patient)
		cmd := exec.CommandContext(ctx, relayBinary, append([]string{"--config", r.Config}, c.args...)...)
		var errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = writer, &errs
		_ = cmd.Run()
		require.NoError(t, ctx.Err(), "relay %v ends", c.args)
		cancel()
		require.NoError(t, writer.Close())
		require.Equal(t, c.want, cmd.ProcessState.ExitCode(), "relay %v: %s", c.args, &errs)
		require.NotContains(t, errs.String(), "broken pipe")
		require.NotContains(t, errs.String(), "goroutine")
		if c.want == exitDone {
			require.NotContains(t, errs.String(), "relay:", c.args)
		}
	}
}

// TestHelpUsesAPagerOnATerminal: that of PAGER, and none if that is not wanted or does not exist.
func TestHelpUsesAPagerOnATerminal(t *testing.T) {
	t.Parallel()
	for env, paged := range map[string]bool{"PAGER=sed s/^/paged:/": true, "PAGER=cat": false, "PAGER=": false, "PAGER=/nonexistent": false, "NO_PAGER=1": false} {
		control, terminal := openTerminal(t)
		cmd := exec.CommandContext(t.Context(), relayBinary, "help")
		cmd.Stdout, cmd.Env = terminal, append(os.Environ(), "TERM=xterm", "PAGER=sed s/^/paged:/", env)
		shown := runOnTerminal(t, cmd, control, terminal)
		require.Zero(t, cmd.ProcessState.ExitCode(), env)
		require.Contains(t, shown, "troubleshoot ")
		require.Equal(t, paged, strings.Contains(shown, "paged:"), "%s: %s", env, shown)
	}
}
