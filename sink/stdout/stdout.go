// Package stdout writes messages as JSON lines to standard output, for jq and for trying things
// out.
package stdout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/term"

	"workos-relay/checkpoint"
	"workos-relay/internal/operator"
	"workos-relay/internal/printable"
	"workos-relay/sink"
)

var errClosed = errors.New("the sink is closed")

// Sink writes one line per message. It implements sink.Sink and sink.Destination; all methods may
// be called from any goroutine.
type Sink struct {
	cfg    Config
	out    io.Writer
	mu     sync.Mutex // guards what follows, and a write under way
	buf    bytes.Buffer
	ends   []int // ends[i] is the offset in buf at which the line of message i ends
	broken error // a write failed: the place in the output is lost
	stop   chan struct{}
	once   sync.Once
}

var (
	_ sink.Sink = (*Sink)(nil)
)

// New returns a sink that writes to out, or to standard output if out is nil. Bodies keep their
// bytes, unless out is a terminal: then what could control the terminal is escaped. Close does not
// close out.
func New(cfg Config, out io.Writer) *Sink {
	if out == nil {
		out = os.Stdout
	}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) { //nolint:gosec // a file descriptor fits
		out = printable.NewWriter(f)
	}
	return &Sink{cfg: cfg, out: out, stop: make(chan struct{})}
}

// actOnBroken is what an operator has to do once a write has failed. It also makes a lane that has
// run stop, which a *sink.FatalError alone does not: standard output cannot be repaired while relay
// runs.
const actOnBroken = "start relay again with standard output connected to a reader"

// chunk is about how much is gathered before it is written, so that a batch takes few writes and
// little memory.
const chunk = 64 << 10

// Publish implements sink.Sink. A message is durable once the write that carried its whole line has
// returned. A reader that is gone (a broken pipe) is a *sink.FatalError, and so is any other failed
// write: what was written of a line cannot be taken back. Only a restart helps, so the lane stops.
func (s *Sink) Publish(ctx context.Context, batch []sink.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	durable := 0
	for durable < len(batch) {
		if err := s.mayWrite(ctx); err != nil {
			return &sink.PublishError{Durable: durable, Err: err}
		}
		rejected := s.fill(batch[durable:])
		lines, err := s.flush()
		durable += lines
		if err == nil && rejected != nil {
			err = rejected
		}
		if err != nil {
			return &sink.PublishError{Durable: durable, Err: err}
		}
	}
	return nil
}

func (s *Sink) mayWrite(ctx context.Context) error {
	select {
	case <-s.stop:
		return errClosed
	default:
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("writing to standard output: %w", err)
	}
	return s.broken
}

// fill gathers the lines of messages until there is enough for a write, or a message cannot be made
// a line.
func (s *Sink) fill(batch []sink.Message) error {
	s.buf.Reset()
	s.ends = s.ends[:0]
	for i := range batch {
		if s.buf.Len() >= chunk {
			return nil
		}
		start := s.buf.Len()
		if err := s.line(&batch[i]); err != nil {
			s.buf.Truncate(start)
			return &sink.RejectedError{Topic: batch[i].Topic, Reason: err.Error()}
		}
		s.ends = append(s.ends, s.buf.Len())
	}
	return nil
}

// flush writes what fill has gathered, and returns how many whole lines of it went out.
func (s *Sink) flush() (lines int, err error) {
	if s.buf.Len() == 0 {
		return 0, nil
	}
	n, err := s.out.Write(s.buf.Bytes())
	for lines < len(s.ends) && s.ends[lines] <= n {
		lines++
	}
	if err == nil && lines < len(s.ends) {
		err = io.ErrShortWrite
	}
	if err != nil {
		if errors.Is(err, syscall.EPIPE) {
			err = fmt.Errorf("the reader of standard output is gone: %w", err)
		}
		s.broken = operator.Require(&sink.FatalError{Err: fmt.Errorf("writing to standard output: %w", err)}, actOnBroken)
	}
	return lines, s.broken
}

type header struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

type envelope struct {
	Topic   string   `json:"topic"`
	Key     string   `json:"key,omitempty"`
	Headers []header `json:"headers"`
}

// line appends one message and a line feed. A body that is one line keeps its bytes. Other JSON
// loses only the blanks between its tokens.
func (s *Sink) line(m *sink.Message) error {
	if s.cfg.Envelope {
		env := envelope{Topic: m.Topic, Key: string(m.Key), Headers: make([]header, len(m.Headers))}
		for i, h := range m.Headers {
			env.Headers[i] = header(h)
		}
		front, err := json.Marshal(env)
		if err != nil {
			return fmt.Errorf("its envelope is not JSON: %w", err)
		}
		s.buf.Write(front[:len(front)-1]) // the body follows before the closing brace
		s.buf.WriteString(`,"body":`)
	}
	if err := s.body(m); err != nil {
		return err
	}
	if s.cfg.Envelope {
		s.buf.WriteByte('}')
	}
	s.buf.WriteByte('\n')
	return nil
}

func (s *Sink) body(m *sink.Message) error {
	body := m.Body
	switch {
	case len(body) == 0 && (s.cfg.Envelope || m.Removes()):
		s.buf.WriteString("null")
	case s.cfg.Envelope || bytes.ContainsAny(body, "\r\n"):
		if err := json.Compact(&s.buf, body); err != nil {
			return fmt.Errorf("its body is not JSON, so it cannot be made one line: %w", err)
		}
	default:
		s.buf.Write(body)
	}
	return nil
}

// Close implements sink.Sink. A Publish in flight ends after its current write, which takes as long
// as the reader does.
func (s *Sink) Close() error {
	s.once.Do(func() { close(s.stop) })
	return nil
}

// Identity implements sink.Destination.
func (s *Sink) Identity() string { return s.cfg.Identity() }

// Prepare implements sink.Destination: there is nothing to prepare.
func (s *Sink) Prepare(context.Context, []string) error { return nil }

// Holds implements sink.Destination: what was written is gone, so nothing is ever held.
func (s *Sink) Holds(context.Context, []string) (bool, error) { return false, nil }

// Ping implements sink.Destination: a stream of the process is always there.
func (s *Sink) Ping(context.Context) error { return nil }

// Survey implements sink.Destination: what was written cannot be asked for.
func (s *Sink) Survey(context.Context, []string, []checkpoint.Part) ([]checkpoint.Part, error) {
	return nil, nil
}

// Inspect implements sink.Destination.
func (s *Sink) Inspect(_ context.Context, topics []string) ([]sink.TopicStatus, error) {
	status := make([]sink.TopicStatus, len(topics))
	for i, t := range topics {
		status[i] = sink.TopicStatus{
			Topic: t, Exists: true, Detail: "standard output",
			Warnings: []string{"only the reader keeps what was written"},
		}
	}
	return status, nil
}
