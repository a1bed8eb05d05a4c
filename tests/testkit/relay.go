//go:build unix

package testkit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/admin"
	"workos-relay/internal/testaddr"
	"workos-relay/pipeline"
)

// Relay is the built binary with a configuration file. It can be started and stopped several times.
// Its process methods are for one goroutine.
type Relay struct {
	*Process
	Config string // path of the configuration file
	Admin  string // address of status, probes and control
	Dir    string // checkpoint.dir
	binary string
	env    []string // added to the environment
}

// NewRelay prepares a relay whose configuration file is text, to which the id, the checkpoint
// directory and the admin address are added unless text has these keys. env entries have the form
// NAME=value.
func NewRelay(t testing.TB, binary, name, text string, env ...string) *Relay {
	t.Helper()
	dir := t.TempDir()
	r := &Relay{binary: binary, Config: filepath.Join(dir, "config.yaml"), Dir: filepath.Join(dir, "data"), Admin: testaddr.Free(t), env: env}
	if !hasKey(text, "checkpoint") {
		text += fmt.Sprintf("\ncheckpoint: {dir: %q}\n", r.Dir)
	}
	if !hasKey(text, "admin") {
		text += fmt.Sprintf("\nadmin: {listen: %q}\n", r.Admin)
	}
	r.WriteConfig(t, text)
	r.Process = NewProcess(t, name, binary, env, "run", "--config", r.Config)
	return r
}

// Twin prepares a second relay with the configuration of r, but with another data directory and
// admin address.
func (r *Relay) Twin(t testing.TB, name string) *Relay {
	t.Helper()
	text, err := os.ReadFile(r.Config)
	require.NoError(t, err)
	dir := t.TempDir()
	next := &Relay{binary: r.binary, Config: filepath.Join(dir, "config.yaml"), Dir: filepath.Join(dir, "data"), Admin: testaddr.Free(t), env: r.env}
	next.WriteConfig(t, strings.NewReplacer(r.Dir, next.Dir, r.Admin, next.Admin).Replace(string(text)))
	next.Process = NewProcess(t, name, r.binary, r.env, "run", "--config", next.Config)
	return next
}

func hasKey(text, key string) bool {
	return strings.HasPrefix(text, key+":") || strings.Contains(text, "\n"+key+":")
}

// WriteConfig replaces the configuration file. A running relay reads it at the next reload.
func (r *Relay) WriteConfig(t testing.TB, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(r.Config, []byte(text), 0o600))
}

// Run runs another command of relay with the same configuration, and returns its exit code and what
// it wrote.
func (r *Relay) Run(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patient)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.binary, append([]string{"--config", r.Config}, args...)...)
	cmd.Env = environment(r.env)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil || !cmd.ProcessState.Exited() {
		require.NoError(t, err, "relay %s", strings.Join(args, " "))
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// Check runs relay check with these flags and a --timeout for a loaded machine. Use Run if the bus
// or the API cannot be reached, for which check waits that long.
func (r *Relay) Check(t testing.TB, flags ...string) (code int, stdout, stderr string) {
	t.Helper()
	return r.Run(t, append([]string{"check", "--timeout", "2m"}, flags...)...)
}

// Status asks the running relay for its status, and reports whether it answered.
func (r *Relay) Status() (s admin.Status, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), AnswerTime)
	defer cancel()
	body, code := r.get(ctx, "/api/v1/status")
	return s, code == http.StatusOK && json.Unmarshal(body, &s) == nil
}

// Lane returns the status of a lane, or of the only one if name is empty. The zero value means that
// relay did not answer.
func (r *Relay) Lane(name string) admin.LaneStatus {
	s, _ := r.Status()
	for _, l := range s.Lanes {
		if name == "" || l.Name == name {
			return l
		}
	}
	return admin.LaneStatus{}
}

// Ready returns the status code of /readyz and its body; 0 if nothing answers.
func (r *Relay) Ready() (code int, body string) {
	ctx, cancel := context.WithTimeout(context.Background(), AnswerTime)
	defer cancel()
	b, code := r.get(ctx, "/readyz")
	return code, string(b)
}

// Metrics returns the body of /metrics.
func (r *Relay) Metrics() string {
	ctx, cancel := context.WithTimeout(context.Background(), AnswerTime)
	defer cancel()
	b, _ := r.get(ctx, "/metrics")
	return string(b)
}

func (r *Relay) get(ctx context.Context, path string) (body []byte, code int) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.Admin+path, nil)
	if err != nil {
		return nil, 0
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, 0
	}
	defer func() { _ = resp.Body.Close() }()
	body, err = io.ReadAll(resp.Body)
	if err != nil {
		return nil, 0
	}
	return body, resp.StatusCode
}

// Await waits until cond holds. It fails at once if relay ends meanwhile.
func (r *Relay) Await(t testing.TB, cond func() bool, what string, args ...any) {
	t.Helper()
	for began := time.Now(); !cond(); time.Sleep(Interval(began)) {
		if !r.Runs() && !cond() {
			require.Fail(t, "relay ended before: "+fmt.Sprintf(what, args...), r.Tail(3000))
		}
		if time.Since(began) > Patient {
			require.Fail(t, fmt.Sprintf("not within %v: ", Patient)+fmt.Sprintf(what, args...), r.Tail(3000))
		}
	}
}

// AwaitState waits until the lane is in the state.
func (r *Relay) AwaitState(t testing.TB, lane string, state pipeline.State) {
	t.Helper()
	r.Await(t, func() bool { return r.Lane(lane).State == state }, "lane %q is %s", lane, state)
}

// Says waits until the current life of relay has written text.
func (r *Relay) Says(t testing.TB, text string) {
	t.Helper()
	Eventually(t, func() bool { return strings.Contains(r.Output(), text) }, "relay does not say %q", text)
}
