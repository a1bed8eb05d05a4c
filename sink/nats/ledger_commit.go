package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"workos-relay/checkpoint"
	"workos-relay/internal/operator"
	"workos-relay/sink"
)

// MaxBatch is how many messages Commit takes: a server takes 1,000 in an atomic batch, and the last
// is the position.
const MaxBatch = 999

// askAfter is after how many batches in a row that were called incomplete the next one asks about
// each of its messages.
const askAfter = 2

// How long commitInTurn waits, at first and at most.
const (
	turnFirst = 2 * time.Millisecond
	turnMost  = 500 * time.Millisecond
)

// Error codes of JetStream about atomic batches and what they stand on, from the server's
// errors.json.
const (
	codeWrongLastSequence jetstream.ErrorCode = 10071 // with the sequence in force
	codeWrongLast         jetstream.ErrorCode = 10164 // another message on the subject is being stored
	codeIncompleteBatch   jetstream.ErrorCode = 10176
)

// Commit stores batch, which may be empty, and replaces prev by next, in one atomic act. The
// revision of the checkpoint that it returns is the sequence of the position in the stream. Nothing
// is sent twice inside, and no message carries an id to be recognised by: a second copy anywhere in
// a batch would have all of it refused.
//
// If a message can never be stored nothing is, and the error is a *sink.PublishError with its
// index and a *sink.RejectedError (or a *sink.FatalError where the stream does not bind its topic).
// checkpoint.ErrConflict means that the current position is not prev. After any other error either
// prev or next is in effect; Load tells, and a commit that is late finds that out itself.
func (l *Ledger) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	none := checkpoint.Checkpoint{}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if err := l.id.Check(next.Source); err != nil {
		return none, fmt.Errorf("refused to commit for another: %w", err)
	}
	next.Revision = 0
	document := checkpoint.Encode(next)
	kept, err := checkpoint.Decode(document)
	if err != nil { // told and not wrapped: what is in force is not corrupt
		return none, operator.New("refused to commit what could not be read again: "+err.Error(), "report it: relay cannot record this position")
	}
	if len(batch) > MaxBatch {
		return none, &sink.FatalError{Err: fmt.Errorf("%d messages in one batch: the server takes %d beside the position; route an event to fewer topics",
			len(batch), MaxBatch)}
	}
	done, err := l.s.begin(ctx)
	if err != nil {
		return none, err
	}
	defer done()
	sequence, err := l.commitInTurn(ctx, batch, prev.Revision, document)
	if err != nil {
		return none, err
	}
	l.saw(sequence)
	kept.Revision = sequence
	return kept, nil
}

// commitInTurn commits again, for a second or two, if nothing was stored for a reason that
// passes. One is that nobody answers for the stream, as in an election or just after it was made.
// The other is that another message on the subject of the position was on its way into the stream.
// That may be a rival's, and then the current position has changed; but the leader of a replicated
// stream also says so for a moment after it has acknowledged the one before.
func (l *Ledger) commitInTurn(ctx context.Context, batch []sink.Message, expected uint64, document []byte) (uint64, error) {
	for wait := turnFirst; ; wait *= 2 {
		sequence, err := l.commit(ctx, batch, expected, document)
		passes := isCode(err, codeWrongLast) || errors.Is(err, nats.ErrNoResponders)
		if !passes || wait > turnMost {
			return sequence, err
		}
		if err := pause(ctx, wait); err != nil {
			return 0, err
		}
		lk, err := l.s.connected(ctx)
		if err != nil {
			return 0, err
		}
		have, err := l.load(ctx, lk)
		switch {
		case errors.Is(err, checkpoint.ErrNotFound) && expected == 0:
		case err != nil:
			return 0, err
		case have.Revision != expected:
			return 0, l.conflict(expected, fmt.Sprintf("sequence %d is", have.Revision))
		}
	}
}

// commit returns the sequence at which the position is stored, the last message of the batch.
func (l *Ledger) commit(ctx context.Context, batch []sink.Message, expected uint64, document []byte) (uint64, error) {
	lk, err := l.s.connected(ctx)
	if err != nil {
		return 0, fmt.Errorf("committing to stream %s: %w", l.s.cfg.Stream, err)
	}
	if err := l.verify(ctx, lk, expected); err != nil {
		return 0, err
	}
	l.s.attempts++
	c := newCommit(l.s.attempts, batch, expected, l.position(expected, document))
	c.askAll = l.incompleteSoFar() >= askAfter
	if err := l.check(ctx, lk, c); err != nil {
		return 0, err
	}
	lost := lk.lostSignal()
	started := time.Now()
	l.s.committing.Store(c)
	overtaken := func() error { return l.overtaken(ctx, lk, expected) }
	err = l.s.sendCommit(ctx, lk, c, lost, overtaken)
	if err == nil {
		err = l.s.awaitCommit(ctx, c, len(batch)+1, lost, overtaken)
	}
	c.took = time.Since(started)
	if isCode(err, codeIncompleteBatch) {
		c.awaitDenial(ctx)
	}
	l.s.committing.Store(nil)
	sequence, index, failure := c.outcome(err)
	if failure != nil {
		l.s.flow.failed()
	}
	l.noteIncomplete(isCode(failure, codeIncompleteBatch))
	if failure != nil {
		return 0, c.tellTaken(l.explain(ctx, lk, c, index, failure))
	}
	return sequence, nil
}

// verify makes sure that what would be replaced is this lane's. It asks only about a sequence that
// this Ledger has not seen last.
func (l *Ledger) verify(ctx context.Context, lk *link, expected uint64) error {
	if expected == 0 || expected == l.seen() {
		return nil
	}
	have, err := l.load(ctx, lk)
	switch {
	case errors.Is(err, checkpoint.ErrNotFound):
		return l.conflict(expected, "there is none")
	case err != nil:
		return err
	case have.Revision != expected:
		return l.conflict(expected, fmt.Sprintf("sequence %d is", have.Revision))
	}
	return nil
}

// overtaken returns checkpoint.ErrConflict if a position other than that at sequence expected is in
// force, and nil if it is not or that cannot be found out soon.
func (l *Ledger) overtaken(ctx context.Context, lk *link, expected uint64) error {
	ctx, cancel := context.WithTimeout(ctx, l.s.settle)
	defer cancel()
	have, err := l.load(ctx, lk)
	switch {
	case errors.Is(err, checkpoint.ErrLost), errors.Is(err, checkpoint.ErrForeign), errors.Is(err, checkpoint.ErrCorrupt):
		return err
	case err == nil && have.Revision != expected:
		return l.conflict(expected, fmt.Sprintf("sequence %d is", have.Revision))
	default:
		return nil
	}
}

func (l *Ledger) conflict(expected uint64, inForce string) error {
	want := fmt.Sprintf("sequence %d", expected)
	if expected == 0 {
		want = "none"
	}
	return fmt.Errorf("%w: %s the position in force on %s, not %s as expected; load it again and go on from there",
		checkpoint.ErrConflict, inForce, l.subject, want)
}

// position is the message that carries the position: it takes the place of the one at sequence
// expected, 0 for none, and of no other, and never expires.
func (l *Ledger) position(expected uint64, document []byte) sink.Message {
	// P5: the position is the last message of the batch of its events, which is stored as a whole
	// or not at all. P6: the server refuses the batch unless the position that it replaces is the
	// one that this relay knows.
	return sink.Message{Topic: l.subject, Body: document, Headers: []sink.Header{
		{Key: jetstream.MsgRollup, Value: jetstream.MsgRollupSubject},
		{Key: "Nats-TTL", Value: "never"},
		{Key: jetstream.ExpectedLastSubjSeqHeader, Value: strconv.FormatUint(expected, 10)},
	}}
}

// check finds what the server would refuse, before anything is sent: within a batch it says so in a
// way that looks like a timeout.
func (l *Ledger) check(ctx context.Context, lk *link, c *commit) error {
	limits := l.s.limits(lk)
	bound := make(stringSet) // the topics of the batch that are known to be
	for i := range c.batch {
		m := &c.batch[i]
		rejected := limits.check(m, c.headersSize(i))
		if rejected == nil {
			rejected = checkReserved(m)
		}
		if rejected != nil {
			return &sink.PublishError{Durable: i, Err: rejected}
		}
		if _, known := bound[m.Topic]; known {
			continue
		}
		if is, err := l.bound(ctx, lk, m.Topic); err != nil {
			return err
		} else if !is {
			return &sink.PublishError{Durable: i, Err: &sink.FatalError{Err: fmt.Errorf("stream %s does not bind %s: add the subject to it",
				l.s.cfg.Stream, m.Topic)}}
		}
		bound[m.Topic] = struct{}{}
	}
	if rejected := limits.checkSize(&c.last, c.headersSize(len(c.batch))); rejected != nil {
		return &sink.FatalError{Err: fmt.Errorf("the position: %w; raise that limit", errors.New(rejected.Reason))}
	}
	return nil
}

// checkReserved refuses the headers by which the server is told what to do with a message.
func checkReserved(m *sink.Message) *sink.RejectedError {
	for _, h := range m.Headers {
		if len(h.Key) >= 5 && h.Key[:5] == "Nats-" {
			return &sink.RejectedError{Topic: m.Topic, Reason: fmt.Sprintf("header %s is the server's own", h.Key)}
		}
	}
	return nil
}

// bound reports whether the stream binds topic. Before it says no it looks at the stream again.
func (l *Ledger) bound(ctx context.Context, lk *link, topic string) (bool, error) {
	if have := l.s.binding.Load(); have != nil && binds(*have, topic) {
		return true, nil
	}
	info, err := l.s.streamInfo(ctx, lk)
	if err != nil {
		return false, err
	}
	return binds(info.Config.Subjects, topic), nil
}

func (l *Ledger) incompleteSoFar() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.incomplete
}

func (l *Ledger) noteIncomplete(is bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.incomplete++; !is {
		l.incomplete = 0
	}
}

// explain says what the failure of the message at index means.
func (l *Ledger) explain(ctx context.Context, lk *link, c *commit, index int, failure error) error {
	isPosition := index == len(c.batch)
	var doubtful *doubtfulError
	switch {
	case errors.Is(failure, checkpoint.ErrConflict), errors.Is(failure, checkpoint.ErrLost), errors.Is(failure, checkpoint.ErrForeign),
		errors.Is(failure, checkpoint.ErrCorrupt):
		return failure
	case errors.As(failure, &doubtful) && !isDomain(failure): // what the stream itself says decides
		if err := l.overtaken(ctx, lk, c.expected); err != nil {
			return err
		}
		if err := l.s.confirm(ctx, lk, doubtful.err); err != nil {
			return err
		}
		return fmt.Errorf("stream %s did not answer within %v; a refusal came, which may be that of a stream in another domain: %w",
			l.s.where(), l.s.cfg.AckTimeout, failure)
	case isCode(failure, codeWrongLastSequence):
		return l.conflict(c.expected, fmt.Sprintf("another one (%v) is", failure))
	case isCode(failure, codeWrongLast):
		return fmt.Errorf("stream %s is still storing another message on %s: %w", l.s.cfg.Stream, l.subject, failure)
	case isCode(failure, codeIncompleteBatch):
		err := fmt.Errorf("stream %s gave up a batch of %d messages as incomplete: one of them did not arrive, was refused without a word, "+
			"or the server was too slow: %w", l.s.cfg.Stream, len(c.batch)+1, failure)
		if c.took < slowBatch {
			return err
		}
		return &sink.TimeoutError{Setting: "max_batch_timeout of the NATS server", Err: err}
	}
	err := l.s.explainPublish(ctx, lk, c.at(index).Topic, failure)
	var rejected *sink.RejectedError
	switch {
	case !errors.As(err, &rejected):
		return err
	case isPosition:
		return &sink.FatalError{Err: fmt.Errorf("the position: %w; raise that limit", errors.New(rejected.Reason))}
	default:
		return &sink.PublishError{Durable: index, Err: rejected}
	}
}

var errNotAtomic = operator.Require(fmt.Errorf("%w: the server stored a message of a batch by itself", ErrNoAtomicPublish),
	"update every NATS server of the stream to 2.12 or later, or set `delivery: at_least_once`")

// isStaged reports whether m says that a message of a batch waits for the rest of it.
func isStaged(m *nats.Msg) bool { return len(m.Data) == 0 && m.Header.Get("Status") == "" }
