//go:build unix

package mistakes

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// secretMark is part of every secret that a row gives to relay. No output may hold it.
const secretMark = "s3cr3t"

// apiKey is the key that the fake Events API takes.
const apiKey = "sk_test_" + secretMark

// mistake is one mistake of an operator and what relay says of it. In every text {name} stands for
// an address of the stage, and {dir} for the directory of the row.
type mistake struct {
	name string
	// line is the command line behind relay. Words are separated by spaces, and '' is an empty
	// word.
	line string
	// config is ./config.yaml, which relay finds by itself; empty for none.
	config string
	// files are further files, by their path below {dir}.
	files map[string]string
	// env is added to the environment, which has the API key.
	env []string
	// before are command lines that work, and that run first.
	before []string
	// prepare does what files cannot. It may be nil.
	prepare func(t *testing.T, dir string)

	code int
	// what, where and next are regular expressions that the output matches.
	what, where, next string
}

// goSyntax is what no operator should have to read: values and types of Go, stacks, and errors of
// its libraries that say nothing of the cause.
var goSyntax = regexp.MustCompile(`&\{|%!|0x[0-9a-f]{6,}|map\[|goroutine \d|panic:|<nil>|\(nil\)|nil pointer|\.go:\d|` +
	`strconv\.|\*[a-z]+\.[A-Z]|interface \{|unmarshal|Unmarshal|invalid character '|context deadline exceeded|context canceled|` +
	`looking for beginning|struct \{|\bfunc\(|\[\]string|\byaml: line|\bjson: |\[\]byte|\btime: (invalid|missing|unknown)|proto: |EOF$`)

// run runs the row and judges exit code and output.
func (m mistake) run(t *testing.T, s *stage) {
	t.Helper()
	dir := t.TempDir()
	fill := func(text string) string { return s.fill(strings.ReplaceAll(text, "{dir}", dir)) }
	if m.config != "" {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(fill(m.config)), 0o600))
	}
	for name, text := range m.files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(fill(text)), 0o600))
	}
	if m.prepare != nil {
		m.prepare(t, dir)
	}
	env := make([]string, len(m.env))
	for i, e := range m.env {
		env[i] = fill(e)
	}
	for _, line := range m.before {
		code, output := runRelay(t, dir, env, words(fill(line))...)
		require.Equal(t, exitDone, code, "relay %s\n%s", line, output)
	}
	code, output := runRelay(t, dir, env, words(fill(m.line))...)
	t.Logf("relay %s: exit code %d\n%s", fill(m.line), code, output)
	assert.Equal(t, m.code, code, "the exit code")
	m.judge(t, output, fill)
}

func (m mistake) judge(t *testing.T, output string, fill func(string) string) {
	t.Helper()
	flat := strings.Join(strings.Fields(output), " ")
	for name, pattern := range map[string]string{"what is wrong": m.what, "where": m.where, "what to do next": m.next} {
		if assert.NotEmpty(t, pattern, "the row does not say what names %s", name) {
			assert.Regexp(t, fill(pattern), flat, "the message does not name %s", name)
		}
	}
	harmless(t, output)
}

// harmless checks what holds for all output of relay.
func harmless(t *testing.T, output string) {
	t.Helper()
	assert.NotContains(t, output, secretMark, "a secret is shown")
	assert.Empty(t, goSyntax.FindString(output), "the output speaks Go")
}

// words splits a command line at spaces. "”" stands for an empty word.
func words(line string) []string {
	list := strings.Fields(line)
	for i, w := range list {
		if w == "''" {
			list[i] = ""
		}
	}
	return list
}

// runRelay runs relay in dir and returns its exit code and everything that it wrote.
func runRelay(t *testing.T, dir string, env []string, args ...string) (code int, output string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	cmd := exec.CommandContext(ctx, relayBinary, args...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "WORKOS_API_KEY=" + apiKey, "RELAY_LOG_FORMAT=console",
		"HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9"}, env...) // nothing leaves this machine
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if cmd.ProcessState == nil || !cmd.ProcessState.Exited() {
		require.NoError(t, err, "relay %s\n%s", strings.Join(args, " "), out.String())
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// runAll runs rows in parallel.
func runAll(t *testing.T, s *stage, rows []mistake) {
	t.Helper()
	for _, m := range rows {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			m.run(t, s)
		})
	}
}
