//go:build unix

package field

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/doctest"
	"workos-relay/internal/testaddr"
	"workos-relay/tests/testkit"
)

// TestWalkThroughs takes the walk-through of each page that has one: its commands as they are
// written, one after the other, in one directory and with the built binary. Only ports are added.
func TestWalkThroughs(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "awk"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("there is no " + tool)
		}
	}
	pages, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	walked := 0
	for _, page := range pages {
		var walk []doctest.Block
		for _, b := range doctest.Blocks(t, page) {
			if b.Mark == "walk" || strings.HasPrefix(b.Mark, "walk, ") {
				walk = append(walk, b)
			}
		}
		if len(walk) == 0 {
			continue
		}
		walked++
		t.Run(filepath.Base(page), func(t *testing.T) {
			t.Parallel()
			newWalker(t).walk(t, walk)
		})
	}
	require.Positive(t, walked)
}

// walker is somebody who follows a page with two terminals.
type walker struct {
	dir  string
	path string // PATH, with relay in front
	here *strings.Replacer
	stay []*step // what runs behind the other commands
}

func newWalker(t *testing.T) *walker {
	t.Helper()
	bin := t.TempDir()
	require.NoError(t, os.Symlink(relayBinary, filepath.Join(bin, "relay")))
	return &walker{
		dir:  t.TempDir(),
		path: "PATH=" + bin + ":" + os.Getenv("PATH"),
		here: strings.NewReplacer("relay demo", "relay demo --listen "+testaddr.Free(t)+" --admin "+testaddr.Free(t)),
	}
}

var (
	walkExit  = regexp.MustCompile(`^exit (\d)$`)
	walkUntil = regexp.MustCompile(`^(stays )?until "(.*)"$`)
)

func (w *walker) walk(t *testing.T, blocks []doctest.Block) {
	for i := range blocks {
		b := &blocks[i]
		_, option, _ := strings.Cut(b.Mark, ", ")
		s := w.start(t, b)
		want := exitDone
		switch exit, until := walkExit.FindStringSubmatch(option), walkUntil.FindStringSubmatch(option); {
		case exit != nil:
			want, _ = strconv.Atoi(exit[1])
		case until != nil:
			testkit.Eventually(t, func() bool { return s.ended() || strings.Contains(s.says(), until[2]) }, "%s:%d does not print %q", b.Page, b.Line, until[2])
			require.Contains(t, s.says(), until[2], "%s:%d has ended before", b.Page, b.Line)
			if until[1] != "" {
				w.stay = append(w.stay, s)
				continue
			}
			s.interrupt(t)
		default:
			require.Empty(t, option, doctest.Marks)
		}
		require.Equal(t, want, s.wait(t), "%s:%d\n%s\n%s", b.Page, b.Line, b.Text, s.says())
		require.Regexp(t, doctest.Shape(b.Output), doctest.Squeeze(s.says()), "%s:%d prints something else than the page says", b.Page, b.Line)
	}
	for _, s := range w.stay {
		require.False(t, s.ended(), s.says())
		s.interrupt(t)
		require.Equal(t, exitDone, s.wait(t), s.says())
	}
}

// step is one block of commands.
type step struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// start runs the commands of a block in a shell, with what earlier ones have exported. They are
// killed when the test ends.
func (w *walker) start(t *testing.T, b *doctest.Block) *step {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s := &step{log: filepath.Join(t.TempDir(), "output"), done: make(chan struct{})}
	script := "if [ -f .exported ]; then . ./.exported; fi\n" + w.here.Replace(b.Text)
	if !strings.Contains(b.Mark, "until") {
		script += "\nexport -p >.exported"
	}
	s.cmd = exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	s.cmd.Dir = w.dir
	s.cmd.Env = append(os.Environ(), w.path)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches all of a terminal's group
	s.cmd.Cancel = func() error { return syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) }
	log, err := os.Create(s.log)
	require.NoError(t, err)
	defer func() { _ = log.Close() }()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	require.NoError(t, s.cmd.Start())
	go func() {
		_ = s.cmd.Wait()
		close(s.done)
	}()
	t.Cleanup(func() { cancel(); <-s.done })
	return s
}

func (s *step) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func (s *step) says() string {
	text, _ := os.ReadFile(s.log)
	return string(text)
}

func (s *step) interrupt(t *testing.T) {
	t.Helper()
	require.NoError(t, syscall.Kill(-s.cmd.Process.Pid, syscall.SIGINT))
}

// wait returns the exit code.
func (s *step) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-s.done:
	case <-time.After(patient):
		require.Fail(t, "it does not end", s.says())
	}
	return s.cmd.ProcessState.ExitCode()
}

// TestTheMessageOfTheReadme: a consumer gets the message that the README shows, if WorkOS has the
// event in it.
func TestTheMessageOfTheReadme(t *testing.T) {
	t.Parallel()
	var shown string
	for _, b := range doctest.Blocks(t, "../../README.md") {
		if strings.HasPrefix(b.Text, "subject: ") {
			shown = b.Text
			break
		}
	}
	head, body, found := strings.Cut(shown, "\n\n")
	require.True(t, found, "the README shows no message")
	subject, headers, _ := strings.Cut(strings.TrimPrefix(head, "subject: "), "\n")

	api := newAPI(t)
	require.NoError(t, api.Append([]byte(strings.TrimSpace(body))))
	bus := newNATS(t, nil)
	js := bus.connect(t)
	r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL))
	r.Start(t)
	var m *jetstream.RawStreamMsg
	r.Await(t, func() bool {
		s, err := js.Stream(t.Context(), stream)
		if err != nil {
			return false
		}
		m, err = s.GetLastMsgForSubject(t.Context(), subject)
		return err == nil
	}, "the event is on the stream")
	got := ""
	for line := range strings.Lines(headers) {
		name, _, _ := strings.Cut(line, ":")
		got += name + ": " + m.Header.Get(name) + "\n"
		m.Header.Del(name)
	}
	require.Equal(t, headers, strings.TrimSuffix(got, "\n"))
	require.Equal(t, strings.TrimSuffix(body, "\n"), string(m.Data))
	for name := range m.Header {
		require.True(t, strings.HasPrefix(name, "Nats-"), "the README does not show the header %s", name)
	}
	require.Equal(t, exitDone, r.Stop(t))
}
