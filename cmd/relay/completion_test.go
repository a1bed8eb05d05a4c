package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// typed returns what relay offers for a line.
func typed(t *testing.T, line string) []string {
	t.Helper()
	t.Setenv(completionLine, line)
	var out output
	require.Equal(t, exitDone, execute(t.Context(), nil, os.LookupEnv, &out, &out))
	return strings.Fields(out.String())
}

func TestCompletion(t *testing.T) {
	t.Chdir(t.TempDir())
	other := writeConfig(t, "sinks: [{name: other}, {name: more, url: \"${NOT_SET}\"}]\nnonsense: 1")
	require.NoError(t, os.WriteFile("config.yaml", []byte("sinks: [{name: nats}, {name: kafka}]"), 0o600))
	for line, want := range map[string][]string{
		"relay che":                                            {"check", "checkpoint"},
		"relay checkpoint ":                                    {"show", "set", "reset"},
		"relay verify --rep":                                   {"--repair"},
		"relay --log-format ":                                  {"auto", "console", "json"},
		"relay checkpoint show --lane ":                        {"nats", "kafka"},
		"relay checkpoint show --lane k":                       {"kafka"},
		"relay checkpoint set --from ":                         {"file", "bus", "nats", "kafka"},
		"relay --config " + other + " replay --lane ":          {"other", "more"},
		"relay --config=" + other + " replay --lane ":          {"other", "more"},
		"relay replay --lane o --config " + other + " --lane ": {"other", "more"},
		"relay --config /missing replay --lane ":               nil,
		"relay replay --events dsync.group.u":                  {"dsync.group.updated", "dsync.group.user_added", "dsync.group.user_removed"},
		"relay tail --events user.*,waitlist":                  {"user.*,waitlist_user.*", "user.*,waitlist_user.approved", "user.*,waitlist_user.created", "user.*,waitlist_user.denied"},
		"relay replay --since ":                                {"earliest", "latest"},
		"relay verify --until ":                                {"latest"},
		"relay help trou":                                      {"troubleshoot"},
		"relay pause ":                                         {"nats", "kafka"},
		"relay resume nats ":                                   {"kafka"},
		"relay poll --lane k":                                  {"kafka"},
		"relay completion ":                                    {"bash", "zsh", "fish"},
	} {
		require.ElementsMatch(t, want, typed(t, line), line)
	}
	for _, line := range []string{"relay ", "relay replay ", "relay nonsense ", "relay checkpoint set", "'", "relay --config " + t.TempDir() + " tail --sink "} {
		typed(t, line) // none fails
	}
}

// shellWithCompletion is the environment of a shell that has relay's completion, and the text that
// loads it.
func shellWithCompletion(t *testing.T, shell string) (load string, env []string) {
	t.Helper()
	code, load, stderr := do(t, "completion", shell)
	require.Equal(t, exitDone, code, stderr)
	exe, err := os.Executable()
	require.NoError(t, err)
	bin := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bin, "relay"), fmt.Appendf(nil, "#!/bin/sh\n%s=1 exec %q \"$@\"\n", asRelay, exe), 0o700))
	return load, append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "TERM=dumb", "INPUTRC=/dev/null", "HOME="+t.TempDir())
}

// TestCompletionInBash presses Tab in a real bash.
func TestCompletionInBash(t *testing.T) {
	t.Parallel()
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash")
	}
	load, env := shellWithCompletion(t, "bash")
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.yaml"), []byte("sinks: [{name: nats}, {name: kafka}]"), 0o600))
	rc := filepath.Join(dir, "rc")
	require.NoError(t, os.WriteFile(rc, []byte(load+"\nrelay() { echo \"RAN <$*>\"; }\n"), 0o600))
	cmd := exec.CommandContext(t.Context(), bash, "--noprofile", "--rcfile", rc, "-i")
	cmd.Dir, cmd.Env = dir, env
	cmd.Stdin = strings.NewReader("relay checkp\tse\t--la\tka\tear\t\nrelay replay --events waitlist_user.d\t\nexit\n")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "RAN <checkpoint set --lane kafka earliest")
	require.Contains(t, string(out), "RAN <replay --events waitlist_user.denied")
}

func TestCompletionInFish(t *testing.T) {
	t.Parallel()
	fish, err := exec.LookPath("fish")
	if err != nil {
		t.Skip("no fish")
	}
	load, env := shellWithCompletion(t, "fish")
	cmd := exec.CommandContext(t.Context(), fish, "--no-config", "-c", load+"\ncomplete -C 'relay checkpoint '")
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.ElementsMatch(t, []string{"show", "set", "reset"}, strings.Fields(string(out)))
}

// zshTab runs zsh on its own terminal, presses Tab there, and prints what is on it.
const zshTab = `
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z 'autoload -Uz compinit; compinit -u -D; source %q; relay() { print "RAN <$*>" }; print REA""DY'
while zpty -r z line; do [[ $line == *READY* ]] && break; done
zpty -w -n z $'relay checkp\tse\t--la\t\n'
zpty -w z 'print END-""OF-IT; exit'
while zpty -r z line; do print -r -- "$line"; [[ $line == *END-OF-IT* ]] && break; done
`

func TestCompletionInZsh(t *testing.T) {
	t.Parallel()
	zsh, err := exec.LookPath("zsh")
	if err != nil {
		t.Skip("no zsh")
	}
	load, env := shellWithCompletion(t, "zsh")
	file := filepath.Join(t.TempDir(), "_relay")
	require.NoError(t, os.WriteFile(file, []byte(load), 0o600))
	cmd := exec.CommandContext(t.Context(), zsh, "-f", "-c", fmt.Sprintf(zshTab, file))
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Regexp(t, `RAN <checkpoint set --lane`, string(out))
}
