package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// roleArgument makes this program play a role for another one of it: see play.
const roleArgument = "role"

// process is a child.
type process struct {
	name    string
	cmd     *exec.Cmd
	stdin   io.Closer     // its end tells a role to stop
	stdout  *bufio.Reader // nil for relay
	stderr  tail
	started time.Time
	exited  chan struct{} // closed once waited for
	err     error         // how it ended
}

// usage is what a process has cost.
type usage struct {
	cpu    time.Duration // user and system
	peak   int64         // bytes of resident memory at most; 0 where the system does not tell
	mapped int64         // those of them that are pages of the program's file, at the end
}

// startRole starts this program again in a role. What it prints first is decoded into ready.
func startRole(ctx context.Context, ready any, role string, args ...string) (*process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{name: role, cmd: exec.CommandContext(ctx, exe, append([]string{roleArgument, role}, args...)...)}
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.stdout = bufio.NewReader(stdout)
	if err := p.start(); err != nil {
		return nil, err
	}
	line, err := p.stdout.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, ready)
	}
	if err != nil {
		_, stopErr := p.stop()
		return nil, errors.Join(fmt.Errorf("starting %s: %w", role, err), stopErr)
	}
	return p, nil
}

// startRelay starts `relay run`, with env beside this program's own environment.
func startRelay(ctx context.Context, exe, config string, env []string) (*process, error) {
	p := &process{name: "relay", cmd: exec.CommandContext(ctx, exe, "run", "--log-level", "warn", "--config", config)}
	p.cmd.Env = append(os.Environ(), env...)
	return p, p.start()
}

func (p *process) start() error {
	p.cmd.Stderr = &p.stderr
	p.exited = make(chan struct{})
	p.started = time.Now()
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", p.name, err)
	}
	if p.stdout == nil { // else stop waits, after all output was read
		go p.wait()
	}
	return nil
}

func (p *process) wait() {
	defer close(p.exited)
	if err := p.cmd.Wait(); err != nil {
		p.err = fmt.Errorf("%s: %w: %s", p.name, err, p.stderr.String())
	}
}

// stop ends the process in order, waits for it, and returns what it has cost.
func (p *process) stop() (usage, error) {
	u := memory(p.cmd.Process.Pid)
	if p.stdout == nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		<-p.exited
	} else {
		_ = p.stdin.Close()
		_, _ = io.Copy(io.Discard, p.stdout)
		p.wait()
	}
	u.cpu = p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()
	return u, p.err
}

var memoryLines = regexp.MustCompile(`(?m)^(VmHWM|RssFile):\s+(\d+) kB$`)

// memory reads what a running process has used. What wait4 reports of a child does not help: it
// counts the memory of the parent, which a child shares until it executes its own program.
func memory(pid int) (u usage) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u
	}
	for _, m := range memoryLines.FindAllSubmatch(status, -1) {
		n, _ := strconv.ParseInt(string(m[2]), 10, 64)
		switch string(m[1]) {
		case "VmHWM":
			u.peak = n << 10
		case "RssFile":
			u.mapped = n << 10
		}
	}
	return u
}

// tail keeps the end of what is written to it. It may be read at any time.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const most = 4 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-most):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}
