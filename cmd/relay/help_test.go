package main

import (
	"strings"
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
	code, stdout, stderr = do(t, "verify", "--help")
	require.Equal(t, exitDone, code, stderr)
	require.Contains(t, stdout, "Usage: relay verify (--since=TIME --until=TIME | --state) [flags]\n")
	for line, says := range map[string]string{
		"get user":                   "an argument is missing: <key>; write `relay get <entity> <key> [flags]` [R1015]\n",
		"get":                        "an argument is missing: <entity> <key>; write `relay get <entity> <key> [flags]` [R1015]\n",
		"list":                       "an argument is missing: <entity>; write `relay list <entity> [flags]` [R1015]\n",
		"deadletter show":            "an argument is missing: <id>; write `relay deadletter show <id> [flags]` [R1015]\n",
		"verify":                     "missing flags: --since=TIME, --until=TIME, or --state [R1015]\n",
		"verify --since 1h":          "missing flags: --until=TIME, or --state [R1015]\n",
		"replay --until latest":      "missing flags: --since=TIME [R1015]\n",
		"verify --state --since 1h ": "--since and --state can't be used together",
	} {
		code, _, stderr = do(t, strings.Fields(line)...)
		require.Equal(t, exitUsage, code, line)
		require.Contains(t, stderr, says, line)
	}
	code, _, stderr = do(t, "get", "user", "")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "the key of the object is empty: write its id; `relay list user` shows the keys [R1015]")
	for _, args := range [][]string{{"help", "nothing"}, {"help", "kafka", "message"}} {
		code, _, _ = do(t, args...)
		require.Equal(t, exitUsage, code)
	}
}
