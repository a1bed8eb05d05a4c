package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	redrawEvery = 200 * time.Millisecond // on a terminal
	lineEvery   = 5 * time.Second        // elsewhere
	barWidth    = 24
)

// progress shows how far a command is: on a terminal by a bar that is redrawn, else by a line every
// few seconds. Log lines written through it do not mix with the bar.
type progress struct {
	out      io.Writer
	terminal bool
	now      func() time.Time

	mu      sync.Mutex
	stage   string
	started time.Time // the stage started, with done and seen as they were
	begun   float64
	before  int
	shown   time.Time
	drawn   bool // the last line is a bar
}

func newProgress(out io.Writer) *progress {
	return &progress{out: out, terminal: isTerminal(out), now: time.Now}
}

// logger returns a logger that writes through p.
func (p *progress) logger(env *environment) (*zap.Logger, error) {
	if !p.terminal {
		return env.log, nil
	}
	return env.newLogger(p, env.logging.level)
}

// Write writes b after it has removed the bar.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	return beneath(p.out).Write(b) // a logger makes texts printable itself
}

func (p *progress) clear() {
	if p.drawn {
		control(p.out, "\r\x1b[K")
		p.drawn = false
	}
}

// finish removes the bar.
func (p *progress) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

// show reports the progress of a stage: done is from 0 to 1, seen is a number of events or
// messages.
func (p *progress) show(stage string, done float64, seen int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	every := lineEvery
	if p.terminal {
		every = redrawEvery
	}
	if stage != p.stage {
		p.stage, p.started, p.begun, p.before = stage, now, done, seen
		p.shown = now
	}
	if now.Sub(p.shown) < every {
		return
	}
	p.shown = now
	text := p.text(done, seen, now)
	if !p.terminal {
		fmt.Fprintln(p.out, text)
		return
	}
	p.clear()
	full := int(done * barWidth)
	fmt.Fprintf(p.out, "[%s%s] %s", strings.Repeat("#", full), strings.Repeat(".", barWidth-full), text)
	p.drawn = true
}

// text returns the text of a line: how much, how fast, and when the stage ends at this speed.
func (p *progress) text(done float64, seen int, now time.Time) string {
	text := fmt.Sprintf("%3d%% %s, %s", int(done*100), p.stage, thousands(seen))
	elapsed := now.Sub(p.started)
	if elapsed <= 0 {
		return text
	}
	text += fmt.Sprintf(", %s/s", thousands(int(float64(seen-p.before)/elapsed.Seconds())))
	advanced := done - p.begun
	if advanced < 0.005 || done >= 1 {
		return text
	}
	left := time.Duration(float64(elapsed) * (1 - done) / advanced)
	return text + fmt.Sprintf(", %s left, ends %s", left.Round(time.Second), now.Add(left).Format(time.TimeOnly))
}
