package nats

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

// Why a stream cannot take exactly-once delivery although it may well take at-least-once. Prepare
// returns them within a *sink.FatalError; the error itself says what to do.
var (
	// ErrNoAtomicPublish: the server is older than 2.12 and knows no atomic batches.
	ErrNoAtomicPublish = errors.New("no atomic batches")
	// ErrStreamUnfit: the stream is of a kind that can hold no position, or lacks settings that
	// relay may not change.
	ErrStreamUnfit = errors.New("not fit for exactly_once")
)

// Ledger is a stream that stores the events of a lane and its position in one atomic batch
// (nats-server 2.12 and later). The position is the only message on its subject,
// relay.position.<relay id>.<sink>: each takes the place of the one before it, and names the
// sequence of that one, which the server compares. So a batch that comes late, or from a relay that
// was overtaken, is refused as a whole, however stale the checkpoint is that it was made with.
//
// A Ledger shares the connection of its Sink and ends with it. Its methods are safe for concurrent
// use; commits wait for each other, and for Publish.
type Ledger struct {
	s       *Sink
	id      checkpoint.Identity
	subject string

	mu         sync.Mutex
	latest     uint64 // sequence of the last position seen that is this lane's; 0 if none was
	incomplete int    // batches in a row that the server called incomplete
}

var _ checkpoint.Store = positionStore{}

// positionStore shows that a Ledger keeps positions as a checkpoint.Store does.
type positionStore struct{ *Ledger }

// Commit implements checkpoint.Store.
func (p positionStore) Commit(ctx context.Context, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	return p.Ledger.Commit(ctx, nil, prev, next)
}

// Ledger returns the ledger of the lane that id names. Ids with the same Relay and Lane share one
// position; if they differ in anything else it is foreign to one of them.
func (s *Sink) Ledger(id checkpoint.Identity) *Ledger {
	return &Ledger{s: s, id: id, subject: positionSubject(id)}
}

// Store is the position alone, for whoever moves it without events.
func (l *Ledger) Store() checkpoint.Store { return positionStore{l} }

// positionSubject is where the position of id is. No two lanes share one, for any
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

// Subject is where the position is kept in the stream.
func (l *Ledger) Subject() string { return l.subject }

// Identity implements sink.Destination.
func (l *Ledger) Identity() string { return l.s.Identity() }

// Holds implements sink.Destination.
func (l *Ledger) Holds(ctx context.Context, topics []string) (bool, error) {
	return l.s.Holds(ctx, topics)
}

// Fence does nothing: every commit moves the position to another sequence, which fences all who
// have seen an earlier one only.
func (l *Ledger) Fence(context.Context) error { return nil }

// Load reads the position through the leader of the stream, never from a replica, which may lag. A
// leader that was deposed and does not know it yet may still answer with an earlier position; a
// commit made with that is refused. Besides the errors of checkpoint.Store.Load it returns
// checkpoint.ErrLost if a position that this Ledger has seen is gone.
func (l *Ledger) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	if err := ctx.Err(); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	lk, err := l.s.connected(ctx)
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	return l.load(ctx, lk)
}

func (l *Ledger) load(ctx context.Context, lk *link) (checkpoint.Checkpoint, error) {
	if err := l.s.atHome(ctx, lk); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	m, err := l.s.lastOn(ctx, lk, l.subject)
	switch {
	case isCode(err, codeMessageNotFound):
		return checkpoint.Checkpoint{}, l.missing()
	case isCode(err, codeStreamNotFound) && l.seen() == 0:
		return checkpoint.Checkpoint{}, l.missing()
	case isCode(err, codeStreamNotFound): // perhaps only to a server that starts
		if _, again := l.s.lookAgain(ctx, lk); isCode(again, codeStreamNotFound) {
			return checkpoint.Checkpoint{}, l.missing()
		}
		return checkpoint.Checkpoint{}, fmt.Errorf("reading the position on %s: %w", l.subject, err)
	case err != nil:
		return checkpoint.Checkpoint{}, err
	}
	cp, err := checkpoint.Decode(m.Data)
	if err != nil {
		return checkpoint.Checkpoint{Revision: m.Seq}, fmt.Errorf("message %d of stream %s on %s: %w",
			m.Seq, l.s.cfg.Stream, l.subject, err)
	}
	cp.Revision = m.Seq
	if err := l.id.Check(cp.Source); err != nil {
		return cp, fmt.Errorf("message %d of stream %s on %s: %w", m.Seq, l.s.cfg.Stream, l.subject, err)
	}
	l.saw(m.Seq)
	return cp, nil
}

// Seize reads what is in force, whatever it is, and makes Commit replace it.
func (l *Ledger) Seize(ctx context.Context) (checkpoint.Checkpoint, error) {
	cp, err := l.Load(ctx)
	switch {
	case errors.Is(err, checkpoint.ErrCorrupt), errors.Is(err, checkpoint.ErrForeign):
		l.saw(cp.Revision)
		return cp, nil
	case errors.Is(err, checkpoint.ErrNotFound), errors.Is(err, checkpoint.ErrLost):
		return checkpoint.Checkpoint{}, nil
	}
	return cp, err
}

// Forget makes the ledger one that has seen no position: an operator has decided that what was
// there does not matter.
func (l *Ledger) Forget() { l.saw(0) }

// missing is the error if there is no position. One that was seen before cannot be waiting for
// its first start.
func (l *Ledger) missing() error {
	if seen := l.seen(); seen > 0 {
		return fmt.Errorf("%w: stream %s holds no position on %s, where sequence %d was before: it was purged, or the stream was deleted; "+
			"say where to go on", checkpoint.ErrLost, l.s.cfg.Stream, l.subject, seen)
	}
	return fmt.Errorf("%w: stream %s holds nothing on %s", checkpoint.ErrNotFound, l.s.cfg.Stream, l.subject)
}

func (l *Ledger) seen() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latest
}

func (l *Ledger) saw(sequence uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.latest = sequence
}

// takesNoEvents refuses topics among the positions.
func takesNoEvents(topics []string) error {
	for _, t := range topics {
		if matches(positionSubjects, t) {
			return &sink.FatalError{Err: fmt.Errorf("topic %s lies within %s, where relay keeps positions: route the events elsewhere", t, positionSubjects)}
		}
	}
	return nil
}
