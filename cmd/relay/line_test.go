package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// lineWith runs a command line with these variables.
func lineWith(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = execute(t.Context(), args, func(name string) (string, bool) { v, ok := env[name]; return v, ok }, &out, &errs)
	return code, out.String(), errs.String()
}

func TestVersionFlag(t *testing.T) {
	_, want, _ := lineWith(t, nil, "version")
	for _, args := range [][]string{{"--version"}, {"run", "--version"}} {
		code, out, errs := lineWith(t, nil, args...)
		require.Equal(t, exitDone, code, errs)
		require.Equal(t, want, out)
	}
}

// Who mistypes a flag is sent to the help of the command that they wanted.
func TestTryTheHelpOfTheCommand(t *testing.T) {
	for line, try := range map[string]string{
		"--wat":                       "relay --help",
		"nonsense":                    "relay --help",
		"replay --wat":                "relay replay --help",
		"checkpoint set --wat":        "relay checkpoint set --help",
		"status --interval xyz":       "relay status --help",
		"verify --since":              "relay verify --help",
		"check --log-level sometimes": "relay check --help",
	} {
		code, _, errs := lineWith(t, nil, strings.Fields(line)...)
		require.Equal(t, exitUsage, code, line)
		require.Contains(t, errs, "\nTry: "+try+"\n", line)
	}
}

func TestVariablesOfTheEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "other.yaml")
	require.NoError(t, os.WriteFile(file, []byte("id: '?'\n"), 0o600))
	env := map[string]string{"RELAY_CONFIG": file, "WORKOS_API_KEY": "sk_test_1"}
	code, _, errs := lineWith(t, env, "types")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, file)

	code, _, errs = lineWith(t, map[string]string{"RELAY_CONFIG": ""}, "version")
	require.Equal(t, exitDone, code, errs)
	_, _, errs = lineWith(t, env, "--config", "/nonexistent/relay.yaml", "check")
	require.Contains(t, errs, "/nonexistent/relay.yaml", "the command line decides")

	for name, value := range map[string]string{"RELAY_LOG_LEVEL": "loud", "RELAY_LOG_FORMAT": "xml"} {
		code, _, errs := lineWith(t, map[string]string{name: value}, "check")
		require.Equal(t, exitUsage, code)
		require.Contains(t, errs, value)
	}
}

func TestTheFormOfTheLog(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	require.NoError(t, os.WriteFile(file, []byte("source: {endpoint: 'http://127.0.0.1:1'}\nsinks: [{name: out, type: stdout}]\nadmin: {listen: ''}\n"+
		"checkpoint: {dir: '"+filepath.Join(dir, "data")+"'}\n"), 0o600))
	stopped, stop := context.WithCancel(t.Context())
	stop() // relay starts, says so, and stops
	env := map[string]string{"WORKOS_API_KEY": "sk_test_1"}
	for format, isJSON := range map[string]bool{"": false, "auto": true, "json": true, "console": false} {
		env["RELAY_LOG_FORMAT"] = format
		var out, errs bytes.Buffer
		execute(stopped, []string{"--config", file, "run"}, func(name string) (string, bool) { v, ok := env[name]; return v, ok }, &out, &errs)
		require.Contains(t, errs.String(), "relay is starting")
		logged := false
		for line := range strings.Lines(errs.String()) {
			var entry struct{ Level, Msg, Time string }
			if json.Unmarshal([]byte(line), &entry) == nil {
				logged = logged || entry.Level != "" && entry.Msg != "" && entry.Time != ""
			}
		}
		require.Equal(t, isJSON, logged, "%q: %s", format, &errs)
	}
}

func TestAConfigurationThatSetsNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	for _, text := range []string{"", "\n\n", "# id: workos\n", "---\n# nothing\n...\n", "\ufeff"} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		code, _, errs := lineWith(t, map[string]string{"WORKOS_API_KEY": "sk_test_1"}, "--config", file, "check")
		require.Equal(t, exitUsage, code, "%q", text)
		require.Contains(t, errs, file+": the file sets nothing; write at least id and sinks into it, or let `relay init` write one")
	}
}
