//go:build unix

package testkit

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Process is a program that a test starts, kills, pauses and starts again. Its methods are for one
// goroutine.
type Process struct {
	Name string
	Log  string // file of everything that it writes, over all its lives

	path string
	args []string
	env  []string

	cmd   *exec.Cmd
	begin int64         // where the log of cmd begins
	ended chan struct{} // closed when cmd has ended
}

// NewProcess prepares a process. It is killed when the test ends; if the test fails, the end of its
// log is shown.
func NewProcess(t testing.TB, name, path string, env []string, args ...string) *Process {
	p := &Process{Name: name, path: path, args: args, env: env, Log: filepath.Join(t.ArtifactDir(), name+".log")}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("the end of %s's log:\n%s", name, p.Tail(6000))
		}
	})
	return p
}

// environment is that of the tests, with a log for people unless env says otherwise.
func environment(env []string) []string {
	return append(append(os.Environ(), "RELAY_LOG_FORMAT=console"), env...)
}

// Start starts the program.
func (p *Process) Start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer func() { _ = log.Close() }()
	p.begin, err = log.Seek(0, io.SeekEnd)
	require.NoError(t, err)
	cmd := exec.Command(p.path, p.args...)
	cmd.Env = environment(p.env)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = diesWithParent()
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	p.cmd, p.ended = cmd, ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
}

// Started reports whether Start was called and neither Kill nor Wait since.
func (p *Process) Started() bool { return p.cmd != nil }

// Runs reports whether the process has not ended. A paused process runs.
func (p *Process) Runs() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Pid returns the process id while the process runs.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Kill sends SIGKILL and waits for the end.
func (p *Process) Kill() {
	if p.Runs() {
		_ = p.cmd.Process.Signal(syscall.SIGKILL)
		<-p.ended
	}
	p.cmd = nil
}

// Pause sends SIGSTOP.
func (p *Process) Pause() { _ = p.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume sends SIGCONT.
func (p *Process) Resume() {
	if p.Runs() {
		_ = p.cmd.Process.Signal(syscall.SIGCONT)
	}
}

// Signal sends a signal.
func (p *Process) Signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	require.NoError(t, p.cmd.Process.Signal(s))
}

// Wait waits for the end and returns the exit code.
func (p *Process) Wait(t testing.TB) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(Patient):
		require.Fail(t, p.Name+" does not end")
	}
	code := p.cmd.ProcessState.ExitCode()
	p.cmd = nil
	return code
}

// Stop asks relay for an orderly end and returns the exit code. It waits until relay says that it
// is starting, since before that it does not listen to signals.
func (p *Process) Stop(t testing.TB) int {
	t.Helper()
	Eventually(t, func() bool {
		return !p.Runs() || bytes.Contains([]byte(p.Output()), []byte("relay is starting"))
	}, "%s does not say that it is starting", p.Name)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	return p.Wait(t)
}

// Output returns everything that the current or last life has written.
func (p *Process) Output() string {
	text, err := os.ReadFile(p.Log)
	if err != nil || int64(len(text)) < p.begin {
		return ""
	}
	return string(text[p.begin:])
}

// Tail returns the last n bytes of the log.
func (p *Process) Tail(n int64) string {
	f, err := os.Open(p.Log)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		_, _ = f.Seek(max(size-n, 0), io.SeekStart)
	}
	b, _ := io.ReadAll(f)
	return string(b)
}

// SetArgs replaces the arguments of the program, for the next Start.
func (p *Process) SetArgs(args ...string) { p.args = args }
