//go:build unix

package chaos

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

// process is a program that is started, killed, paused and started again. Its methods are for one goroutine.
type process struct {
	name string
	path string
	args []string
	env  []string
	log  string // file of what it writes, over all its lives

	cmd    *exec.Cmd
	begin  int64         // where the log of cmd begins
	ended  chan struct{} // closed when cmd has ended
	paused bool
	cmdErr error // of cmd.Wait, once ended is closed
}

// newProcess prepares a process, which t ends at last, and whose end of the log it shows where it fails.
func newProcess(t *testing.T, name, path string, env []string, args ...string) *process {
	p := &process{name: name, path: path, args: args, env: env, log: filepath.Join(t.ArtifactDir(), name+".log")}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("the end of %s's log:\n%s", name, p.tail(6000))
		}
	})
	return p
}

func (p *process) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer func() { _ = log.Close() }()
	p.begin, err = log.Seek(0, io.SeekEnd)
	require.NoError(t, err)
	cmd := exec.Command(p.path, p.args...)
	cmd.Env = append(os.Environ(), p.env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = diesWithParent()
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	p.cmd, p.ended, p.paused = cmd, ended, false
	go func() {
		p.cmdErr = cmd.Wait()
		close(ended)
	}()
}

// runs reports whether the process has not ended; it may be paused.
func (p *process) runs() bool {
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

func (p *process) kill() {
	if p.runs() {
		_ = p.cmd.Process.Signal(syscall.SIGKILL)
		<-p.ended
	}
	p.cmd, p.paused = nil, false
}

func (p *process) pause() { p.paused = true; _ = p.cmd.Process.Signal(syscall.SIGSTOP) }

func (p *process) resume() {
	if p.runs() {
		_ = p.cmd.Process.Signal(syscall.SIGCONT)
	}
	p.paused = false
}

// wait waits for an end and returns the exit code.
func (p *process) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patient):
		require.Fail(t, p.name+" does not end")
	}
	code := p.cmd.ProcessState.ExitCode()
	p.cmd = nil
	return code
}

// stop asks relay for an orderly end and returns the exit code. A relay that was only just started does not listen to signals before
// it says so.
func (p *process) stop(t *testing.T) int {
	t.Helper()
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(p.log)
		return !p.runs() || err == nil && bytes.Contains(text[p.begin:], []byte("relay is starting"))
	}, patient, often, "%s does not say that it is starting", p.name)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	return p.wait(t)
}

func (p *process) tail(n int64) string {
	f, err := os.Open(p.log)
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
