package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHelp(t *testing.T) {
	t.Parallel()
	code, stdout, _ := do(t, "help")
	require.Equal(t, exitDone, code)
	require.Regexp(t, `(?m)^  guarantees +What relay guarantees`, stdout)

	code, stdout, _ = do(t, "help", "guarantees")
	require.Equal(t, exitDone, code)
	require.Contains(t, stdout, "## At least once")

	code, stdout, _ = do(t, "help", "troubleshoot", "no NATS server", "answers at nats://somewhere: is one running there?")
	require.Equal(t, exitDone, code)
	require.Regexp(t, `^R1401 No NATS server answers \(NATS\)\n\n`, stdout)

	code, stdout, _ = do(t, "help", "troubleshoot", "r1401")
	require.Equal(t, exitDone, code)
	require.Regexp(t, `^R1401 No NATS server answers \(NATS\)\n\n`, stdout)
	require.NotContains(t, stdout, "one of these codes", "a code is exact")

	code, _, stderrOf := do(t, "help", "troubleshoot", "R1999")
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderrOf, "no message has the code R1999")

	code, _, stderr := do(t, "help", "troubleshoot", "all is well")
	require.Equal(t, exitFailed, code)
	require.Contains(t, stderr, "says nothing")

	for _, command := range []string{"replay", "checkpoint", "checkpoint set"} {
		code, stdout, stderr = do(t, "help", command)
		require.Equal(t, exitDone, code, stderr)
		require.Contains(t, stdout, "Usage: relay "+command)
	}
	for _, args := range [][]string{{"help", "nothing"}, {"help", "kafka", "message"}} {
		code, _, _ = do(t, args...)
		require.Equal(t, exitUsage, code)
	}
}
