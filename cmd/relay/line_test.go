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
	for format, isJSON := range map[string]bool{"": true, "auto": true, "json": true, "console": false} {
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

// TestWhatDecidesTheLog: flags, then variables, then the configuration, then the defaults.
func TestWhatDecidesTheLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stopped, stop := context.WithCancel(t.Context())
	stop() // relay starts, says so at info, and stops
	run := func(file string, env map[string]string, args ...string) (code int, errs string) {
		path := filepath.Join(dir, "config.yaml")
		require.NoError(t, os.WriteFile(path, []byte("source: {endpoint: 'http://127.0.0.1:1', api_key: sk_test_1}\nsinks: [{name: out, type: stdout}]\nadmin: {listen: ''}\n"+
			"checkpoint: {dir: '"+filepath.Join(dir, "data")+"'}\n"+file), 0o600))
		var out, err bytes.Buffer
		code = execute(stopped, append([]string{"--config", path}, args...), func(name string) (string, bool) { v, ok := env[name]; return v, ok }, &out, &err)
		return code, err.String()
	}
	jsonLine, warn := `{"level":"info"`, map[string]string{"RELAY_LOG_LEVEL": "warn", "RELAY_LOG_FORMAT": "console"}

	_, errs := run("", nil, "run")
	require.Contains(t, errs, jsonLine)
	_, errs = run("log: {format: console}\n", nil, "run")
	require.Contains(t, errs, " INFO relay is starting")
	_, errs = run("log: {level: error}\n", nil, "run")
	require.Empty(t, errs)
	_, errs = run("log: {level: info, format: json}\n", warn, "run")
	require.Empty(t, errs, "a variable goes before the file")
	_, errs = run("log: {level: error, format: json}\n", warn, "--log-level", "info", "run")
	require.Contains(t, errs, " INFO relay is starting", "a flag goes before a variable")

	for _, c := range []struct{ file, says string }{
		{"log: {level: loud}\n", `config.yaml:5:14: log.level: \"loud\" is none of debug, info, warn, error`},
		{"log: {format: xml}\n", `config.yaml:5:15: log.format: \"xml\" is none of auto, console, json`},
		{"log: {levels: info}\n", `config.yaml:5:7: log.levels: unknown key; did you mean \"level\"?`},
		{"log: [\n", "no YAML"},
	} {
		code, errs := run(c.file, nil, "run")
		require.Equal(t, exitUsage, code)
		require.Contains(t, errs, c.says)
		for line := range strings.Lines(errs) {
			var entry map[string]any
			require.NoError(t, json.Unmarshal([]byte(line), &entry), line)
			require.Equal(t, "error", entry["level"])
			require.EqualValues(t, exitUsage, entry["exit_code"])
		}
		_, errs = run(c.file, nil, "check")
		require.True(t, strings.HasPrefix(errs, "relay: "), "a command tells it in words: %s", errs)
		_, errs = run(c.file, nil, "--log-format", "json", "check")
		require.True(t, strings.HasPrefix(errs, `{"level":"error"`), "unless JSON was asked for: %s", errs)
	}
	_, errs = run("log: {format: console}\nid: ''\n", nil, "run")
	require.True(t, strings.HasPrefix(errs, "relay: "), "a mistake elsewhere hides no choice: %s", errs)

	code, errs := run("", nil, "run", "--nonsense")
	require.Equal(t, exitUsage, code)
	var entry map[string]any
	require.NoError(t, json.Unmarshal([]byte(errs), &entry), errs)
	require.Equal(t, "relay run --help", entry["try"])
	require.Contains(t, entry["error"], "--nonsense")
	_, errs = run("", nil, "check", "--nonsense")
	require.Contains(t, errs, "Try: relay check --help")
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

// TestVariablesDecideTheLogOfAMistake: also if the command line is not understood.
func TestVariablesDecideTheLogOfAMistake(t *testing.T) {
	t.Parallel()
	for format, json := range map[string]bool{"console": false, "json": true, "": true, "xml": true} {
		var out, errs bytes.Buffer
		code := execute(t.Context(), []string{"run", "fast"}, func(name string) (string, bool) { return format, name == "RELAY_LOG_FORMAT" }, &out, &errs)
		require.Equal(t, exitUsage, code)
		require.Equal(t, json, strings.HasPrefix(errs.String(), "{"), "%q: %s", format, errs.String())
	}
}
