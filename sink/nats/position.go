package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

// positionReader reads the position of a lane in the stream, and knows which one it has seen last.
// Its methods are safe for concurrent use.
type positionReader struct {
	cfg     *Config
	conn    *connection
	stream  *stream
	id      checkpoint.Identity
	subject string

	mu     sync.Mutex
	latest uint64 // sequence of the last position seen that is this lane's; 0 if none was
}

// positionSubject returns the subject of the position of id. No two lanes share one, for any
// characters in their names.
func positionSubject(id checkpoint.Identity) string {
	return strings.TrimSuffix(positionSubjects, ">") + token(id.Relay) + "." + token(id.Lane)
}

// token writes s with nothing but letters, digits, _ and - as they are.
func token(s string) string {
	if s == "" {
		return "%"
	}
	var b strings.Builder
	for _, c := range []byte(s) {
		if c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// takesNoEvents refuses topics among the positions.
func takesNoEvents(topics []string) error {
	for _, t := range topics {
		if sink.Matches(positionSubjects, t) {
			return &sink.FatalError{Err: fmt.Errorf("topic %s lies within %s, where relay keeps positions: route the events elsewhere", t, positionSubjects)}
		}
	}
	return nil
}

// load implements Ledger.Load.
func (p *positionReader) load(ctx context.Context) (checkpoint.Checkpoint, error) {
	if err := ctx.Err(); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	lk, err := p.conn.connected(ctx)
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	return p.loadFrom(ctx, lk)
}

func (p *positionReader) loadFrom(ctx context.Context, lk *link) (checkpoint.Checkpoint, error) {
	if err := p.stream.checkDomain(ctx, lk); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	m, err := p.stream.lastOn(ctx, lk, p.subject)
	switch {
	case isCode(err, jetstream.JSErrCodeMessageNotFound):
		return checkpoint.Checkpoint{}, p.missingError()
	case isCode(err, jetstream.JSErrCodeStreamNotFound) && p.seen() == 0:
		return checkpoint.Checkpoint{}, p.missingError()
	case isCode(err, jetstream.JSErrCodeStreamNotFound): // perhaps only to a server that starts
		if _, again := p.stream.lookAgain(ctx, lk); isCode(again, jetstream.JSErrCodeStreamNotFound) {
			return checkpoint.Checkpoint{}, p.missingError()
		}
		return checkpoint.Checkpoint{}, fmt.Errorf("reading the position on %s: %w", p.subject, err)
	case err != nil:
		return checkpoint.Checkpoint{}, err
	}
	cp, err := checkpoint.Decode(m.Data)
	if err != nil {
		return checkpoint.Checkpoint{Revision: m.Seq}, fmt.Errorf("message %d of stream %s on %s: %w",
			m.Seq, p.cfg.Stream, p.subject, err)
	}
	cp.Revision = m.Seq
	if err := p.id.Check(cp.Source); err != nil {
		return cp, fmt.Errorf("message %d of stream %s on %s: %w", m.Seq, p.cfg.Stream, p.subject, err)
	}
	p.saw(m.Seq)
	return cp, nil
}

// loadForReplace implements Ledger.LoadForReplace.
func (p *positionReader) loadForReplace(ctx context.Context) (checkpoint.Checkpoint, error) {
	cp, err := p.load(ctx)
	switch {
	case errors.Is(err, checkpoint.ErrCorrupt), errors.Is(err, checkpoint.ErrForeign):
		p.saw(cp.Revision)
		return cp, nil
	case errors.Is(err, checkpoint.ErrNotFound), errors.Is(err, checkpoint.ErrLost):
		return checkpoint.Checkpoint{}, nil
	}
	return cp, err
}

// missingError returns the error if there is no position. One that was seen before cannot be
// waiting for its first start.
func (p *positionReader) missingError() error {
	if seen := p.seen(); seen > 0 {
		return fmt.Errorf("%w: stream %s holds no position on %s, where sequence %d was before: it was purged, or the stream was deleted; "+
			"say where to go on", checkpoint.ErrLost, p.cfg.Stream, p.subject, seen)
	}
	return fmt.Errorf("%w: stream %s holds nothing on %s", checkpoint.ErrNotFound, p.cfg.Stream, p.subject)
}

func (p *positionReader) seen() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.latest
}

func (p *positionReader) saw(sequence uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latest = sequence
}

// verify makes sure that what would be replaced is this lane's. It asks only about a sequence that
// p has not seen last.
func (p *positionReader) verify(ctx context.Context, lk *link, expected uint64) error {
	if expected == 0 || expected == p.seen() {
		return nil
	}
	have, err := p.loadFrom(ctx, lk)
	switch {
	case errors.Is(err, checkpoint.ErrNotFound):
		return p.conflict(expected, "there is none")
	case err != nil:
		return err
	case have.Revision != expected:
		return p.conflict(expected, fmt.Sprintf("sequence %d is", have.Revision))
	}
	return nil
}

func (p *positionReader) conflict(expected uint64, inForce string) error {
	want := fmt.Sprintf("sequence %d", expected)
	if expected == 0 {
		want = "none"
	}
	return fmt.Errorf("%w: %s the current position on %s, not %s as expected; load it again and go on from there",
		checkpoint.ErrConflict, inForce, p.subject, want)
}

// message is the message that carries the position: it takes the place of the one at sequence
// expected, 0 for none, and of no other, and never expires.
func (p *positionReader) message(expected uint64, document []byte) sink.Message {
	// P5: the position is the last message of the batch of its events, which is stored as a whole
	// or not at all. P6: the server refuses the batch unless the position that it replaces is the
	// one that this relay knows.
	return sink.Message{Topic: p.subject, Body: document, Headers: []sink.Header{
		{Key: jetstream.MsgRollup, Value: jetstream.MsgRollupSubject},
		{Key: "Nats-TTL", Value: "never"},
		{Key: jetstream.ExpectedLastSubjSeqHeader, Value: strconv.FormatUint(expected, 10)},
	}}
}
