package nats

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"workos-relay/checkpoint"
	"workos-relay/internal/operator"
	"workos-relay/internal/retry"
	"workos-relay/sink"
)

// committer implements Ledger.Commit.
type committer struct {
	cfg      *Config
	conn     *connection
	stream   *stream
	sender   *sender
	position *positionReader

	incomplete int // batches in a row that the server called incomplete; used by the holder of the token in sender.turn only
}

// commit implements Ledger.Commit.
func (c *committer) commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	none := checkpoint.Checkpoint{}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if err := c.position.id.Check(next.Source); err != nil {
		return none, fmt.Errorf("refused to commit for another: %w", err)
	}
	next.Revision = 0
	document := checkpoint.Encode(next)
	kept, err := checkpoint.Decode(document)
	if err != nil { // told and not wrapped: the current position is not corrupt
		return none, operator.New("refused to commit what could not be read again: "+err.Error(), "report it: relay cannot record this position")
	}
	form := c.cfg.storedForm(batch, true)
	if batch = form.messages; len(batch) > MaxBatch {
		return none, &sink.FatalError{Err: fmt.Errorf("%d messages in one batch: the server takes %d beside the position; route an event to fewer topics",
			len(batch), MaxBatch)}
	}
	done, err := c.sender.begin(ctx)
	if err != nil {
		return none, err
	}
	defer done()
	sequence, err := c.inTurn(ctx, batch, prev.Revision, document)
	if err != nil {
		return none, form.explain(err)
	}
	c.position.saw(sequence)
	kept.Revision = sequence
	return kept, nil
}

// askAfter is after how many batches in a row that were called incomplete the next one asks about
// each of its messages.
const askAfter = 2

// How often inTurn tries, and how long it waits in between, at first and at most.
const (
	turnTries = 9
	turnFirst = 2 * time.Millisecond
	turnMost  = 256 * time.Millisecond
)

// inTurn commits again, for about a second, if nothing was stored for a reason that passes. One is
// that nobody answers for the stream, as in an election or just after it was made. The other is
// that another message on the subject of the position was on its way into the stream. That may be a
// rival's, and then the current position has changed; but the leader of a replicated stream also
// says so for a moment after it has acknowledged the one before.
func (c *committer) inTurn(ctx context.Context, batch []sink.Message, expected uint64, document []byte) (uint64, error) {
	for try := 1; ; try++ {
		sequence, err := c.attempt(ctx, batch, expected, document)
		passes := isCode(err, jetstream.JSErrCodeStreamWrongLastSequenceConstant) || errors.Is(err, nats.ErrNoResponders)
		if !passes || try == turnTries {
			return sequence, err
		}
		if err := sleepAbout(ctx, retry.Backoff{First: turnFirst, Most: turnMost}.Full(try)); err != nil {
			return 0, err
		}
		lk, err := c.conn.connected(ctx)
		if err != nil {
			return 0, err
		}
		have, err := c.position.loadFrom(ctx, lk)
		switch {
		case errors.Is(err, checkpoint.ErrNotFound) && expected == 0:
		case err != nil:
			return 0, err
		case have.Revision != expected:
			return 0, c.position.conflict(expected, fmt.Sprintf("sequence %d is", have.Revision))
		}
	}
}

// attempt returns the sequence at which the position is stored, the last message of the batch.
func (c *committer) attempt(ctx context.Context, batch []sink.Message, expected uint64, document []byte) (uint64, error) {
	lk, err := c.conn.connected(ctx)
	if err != nil {
		return 0, fmt.Errorf("committing to stream %s: %w", c.cfg.Stream, err)
	}
	if err := c.position.verify(ctx, lk, expected); err != nil {
		return 0, err
	}
	c.sender.attempts++
	b := newCommit(c.stream, c.sender.attempts, batch, expected, c.position.message(expected, document))
	b.askAll = c.incomplete >= askAfter
	if err := c.check(ctx, lk, b); err != nil {
		return 0, err
	}
	lost := lk.lostSignal()
	started := time.Now()
	done := c.sender.expect(b.number, b)
	overtaken := func() error { return c.overtaken(ctx, lk, expected) }
	err = c.send(ctx, lk, b, lost, overtaken)
	if err == nil {
		err = c.await(ctx, b, len(batch)+1, lost, overtaken)
	}
	b.took = time.Since(started)
	if isCode(err, codeIncompleteBatch) {
		b.awaitDenial(ctx)
	}
	done()
	sequence, index, failure := b.outcome(err)
	if failure != nil {
		c.sender.flow.failed()
	}
	if c.incomplete++; !isCode(failure, codeIncompleteBatch) {
		c.incomplete = 0
	}
	if failure != nil {
		return 0, b.tellTaken(c.commitError(ctx, lk, b, index, failure))
	}
	return sequence, nil
}

// overtaken returns checkpoint.ErrConflict if a position other than that at sequence expected is in
// force, and nil if it is not or that cannot be found out soon.
func (c *committer) overtaken(ctx context.Context, lk *link, expected uint64) error {
	ctx, cancel := context.WithTimeout(ctx, c.sender.ackDrain)
	defer cancel()
	have, err := c.position.loadFrom(ctx, lk)
	switch {
	case errors.Is(err, checkpoint.ErrLost), errors.Is(err, checkpoint.ErrForeign), errors.Is(err, checkpoint.ErrCorrupt):
		return err
	case err == nil && have.Revision != expected:
		return c.position.conflict(expected, fmt.Sprintf("sequence %d is", have.Revision))
	default:
		return nil
	}
}

// check finds what the server would refuse, before anything is sent: within a batch it says so in a
// way that looks like a timeout.
func (c *committer) check(ctx context.Context, lk *link, b *commit) error {
	limits := c.stream.limits(lk)
	bound := make(stringSet) // the topics of the batch that are known to be
	for i := range b.batch {
		m := &b.batch[i]
		rejected := limits.check(m, b.headersSize(i))
		if rejected == nil {
			rejected = checkReserved(m)
		}
		if rejected != nil {
			return &sink.PublishError{Durable: i, Err: rejected}
		}
		of := c.cfg.topicOf(m)
		if _, known := bound[of]; known {
			continue
		}
		if is, err := c.bound(ctx, lk, m.Topic); err != nil {
			return err
		} else if !is {
			return &sink.PublishError{Durable: i, Err: &sink.FatalError{Err: fmt.Errorf("stream %s does not bind %s: add the subject to it",
				c.cfg.Stream, m.Topic)}}
		}
		bound[of] = struct{}{}
	}
	if rejected := limits.checkSize(&b.last, b.headersSize(len(b.batch))); rejected != nil {
		return &sink.FatalError{Err: fmt.Errorf("the position: %w; raise that limit", errors.New(rejected.Reason))}
	}
	return nil
}

// checkReserved refuses the headers by which the server is told what to do with a message.
func checkReserved(m *sink.Message) *sink.RejectedError {
	for _, h := range ownHeaders(m) {
		if len(h.Key) >= 5 && h.Key[:5] == "Nats-" {
			return &sink.RejectedError{Topic: m.Topic, Reason: fmt.Sprintf("header %s is the server's own", h.Key)}
		}
	}
	return nil
}

// bound reports whether the stream binds topic. Before it says no it looks at the stream again.
func (c *committer) bound(ctx context.Context, lk *link, topic string) (bool, error) {
	if have := c.stream.binding.Load(); have != nil && binds(*have, topic) {
		return true, nil
	}
	info, err := c.stream.info(ctx, lk)
	if err != nil {
		return false, err
	}
	return binds(info.Config.Subjects, topic), nil
}

// commitError returns the error of Commit for the failure of the message at index.
func (c *committer) commitError(ctx context.Context, lk *link, b *commit, index int, failure error) error {
	isPosition := index == len(b.batch)
	var doubtful *doubtfulError
	switch {
	case errors.Is(failure, checkpoint.ErrConflict), errors.Is(failure, checkpoint.ErrLost), errors.Is(failure, checkpoint.ErrForeign),
		errors.Is(failure, checkpoint.ErrCorrupt):
		return failure
	case errors.As(failure, &doubtful) && !isDomain(failure): // what the stream itself says decides
		if err := c.overtaken(ctx, lk, b.expected); err != nil {
			return err
		}
		if err := c.stream.confirm(ctx, lk, doubtful.err); err != nil {
			return err
		}
		return fmt.Errorf("stream %s did not answer within %v; a refusal came, which may be that of a stream in another domain: %w",
			c.stream.fullName(), c.cfg.AckTimeout, failure)
	case isCode(failure, jetstream.JSErrCodeStreamWrongLastSequence):
		return c.position.conflict(b.expected, fmt.Sprintf("another one (%v) is", failure))
	case isCode(failure, jetstream.JSErrCodeStreamWrongLastSequenceConstant):
		return fmt.Errorf("stream %s is still storing another message on %s: %w", c.cfg.Stream, c.position.subject, failure)
	case isCode(failure, codeIncompleteBatch):
		err := fmt.Errorf("stream %s gave up a batch of %d messages as incomplete: one of them did not arrive, was refused without a word, "+
			"or the server was too slow: %w", c.cfg.Stream, len(b.batch)+1, failure)
		if b.took < slowBatch {
			return err
		}
		return &sink.TimeoutError{Setting: "max_batch_timeout of the NATS server", Err: err}
	}
	err := c.sender.publishError(ctx, lk, b.at(index).Topic, failure)
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

// send sends all messages in order and stops at the first sign of a failure. The first
// message asks for an answer, since the server says there why it takes no batch at all; then the
// last one of each half of the bytes in flight does.
func (c *committer) send(ctx context.Context, l *link, b *commit, lost <-chan struct{}, overtaken func() error) error {
	bytes, mark := 0, 0
	asked := time.Now() // when the message at mark was sent
	var e encoder
	for i := range len(b.batch) + 1 {
		if err := c.conn.ended(ctx, lost); err != nil {
			return err
		}
		if _, failure := b.progress(); failure != nil {
			return failure
		}
		bytes += wireSize(b.at(i))
		full := bytes >= c.sender.flow.inFlight()/2
		replyTo := ""
		if i == 0 || i == len(b.batch) || full || b.askAll {
			replyTo = reply(l.inbox, b.number, i)
		}
		if err := l.send(e.encodeInBatch(b, i, replyTo)); err != nil {
			return err
		}
		if full && i < len(b.batch) {
			if err := c.await(ctx, b, mark, lost, overtaken); err != nil {
				return err
			}
			if mark > 0 {
				c.sender.flow.measure(time.Since(asked))
			}
			bytes, mark, asked = 0, i+1, time.Now()
		}
	}
	return nil
}

// await waits until the first target messages have reached the server, which for all of them
// and the position means that they are stored.
//
// A refusal that may be another domain's does not end the wait. If it may be the stream's,
// overtaken is asked soon after it, and again and again, whether another position is in effect; its
// error does end it.
func (c *committer) await(ctx context.Context, b *commit, target int, lost <-chan struct{}, overtaken func() error) error {
	timeout := time.NewTimer(c.cfg.AckTimeout)
	defer timeout.Stop()
	ask := time.NewTimer(c.sender.ackDrain)
	defer ask.Stop()
	for {
		staged, failure := b.progress()
		switch {
		case staged > len(b.batch):
			return nil
		case failure != nil:
			return failure
		case staged >= target:
			return nil
		}
		select {
		case <-b.wake:
		case <-ask.C:
			if b.refusedSoFar() {
				if err := overtaken(); err != nil {
					return err
				}
			}
			ask.Reset(c.sender.ackDrain)
		case <-timeout.C:
			return errAckTimeout
		case <-ctx.Done():
			return ctx.Err()
		case <-c.conn.closing:
			return errClosed
		case <-lost:
			return errLost
		}
	}
}

const (
	batchHeaders        = "Nats-Batch-"
	batchIDHeader       = batchHeaders + "Id"
	batchSequenceHeader = batchHeaders + "Sequence"
	batchCommitHeader   = batchHeaders + "Commit"

	// denialWait is how long the reason of an incomplete batch may come after it.
	denialWait = 250 * time.Millisecond
	// slowBatch is how long the server takes at least to give up a batch because its messages come
	// too slowly.
	slowBatch = time.Second
)

// commit is one attempt at an atomic batch and its position, or at the position alone, which needs
// no batch. The server answers for the position, the last message; for others only if they ask.
type commit struct {
	stream   *stream
	number   uint64
	batch    []sink.Message
	last     sink.Message // the position
	expected uint64       // sequence of the position that it is to replace; 0 for none
	askAll   bool         // every message asks for an answer, to find one that is refused
	id       string       // of the batch
	took     time.Duration
	wake     chan struct{}

	mu       sync.Mutex
	staged   int    // batch[:staged] is known to wait on the server; len(batch)+1 once the position is stored
	sequence uint64 // of the position
	failedAt int
	failure  error // the first that is known, of the message at failedAt
	doubtful error // an answer that may be that of a stream in another domain
	denied   error // what the server forbade, of the message at deniedAt
	deniedAt int
	ended    bool // batch is the caller's again, and not looked at any more
}

func newCommit(s *stream, number uint64, batch []sink.Message, expected uint64, position sink.Message) *commit {
	return &commit{
		stream: s, number: number, batch: batch, expected: expected, last: position, id: rand.Text(), wake: make(chan struct{}, 1),
	}
}

// at is the message at index, the position after the last of the batch.
func (c *commit) at(index int) *sink.Message {
	if index < len(c.batch) {
		return &c.batch[index]
	}
	return &c.last
}

// headersSize is what a batch adds to the headers of the message at index, at most.
func (c *commit) headersSize(index int) int {
	if len(c.batch) == 0 {
		return 0
	}
	size := len(batchIDHeader) + len(c.id) + len(batchSequenceHeader) + len("1000") + 2*headerEntry
	if index == len(c.batch) {
		size += len(batchCommitHeader) + len("1") + headerEntry
	}
	return size
}

// encodeInBatch returns the message of a commit at index.
func (e *encoder) encodeInBatch(c *commit, index int, reply string) *nats.Msg {
	msg := e.encode(c.at(index), reply, false)
	if len(c.batch) == 0 {
		return msg
	}
	e.set(batchIDHeader, c.id)
	e.set(batchSequenceHeader, strconv.Itoa(index+1))
	if index == len(c.batch) {
		e.set(batchCommitHeader, "1")
	}
	return msg
}

// answered implements answers.
func (c *commit) answered(index int, m *nats.Msg) {
	switch {
	case index > len(c.batch):
		return
	case index < len(c.batch) && isStaged(m):
		c.update(func() { c.staged = max(c.staged, index+1) })
		return
	}
	a, err := c.stream.parseAck(m)
	if err == nil && index == len(c.batch) {
		err = c.proves(a)
	}
	switch {
	case err != nil && c.stream.mayBeAnother(err):
		c.update(func() {
			if c.doubtful == nil || isDomain(c.doubtful) { // a refusal says more
				c.doubtful = err
			}
		})
	case err != nil:
		c.fail(index, err)
	case index < len(c.batch):
		c.fail(index, errNotAtomic)
	default:
		c.update(func() { c.staged, c.sequence = index+1, a.Seq })
	}
}

// errNotWhole: the server acknowledged the position, but not with the batch that it belongs to. It
// may have stored the position alone.
var errNotWhole = operator.New("the server acknowledged the position without its batch of events",
	"update every NATS server of the stream to one version, and verify that the stream lacks no event")

// proves returns an error unless an acknowledgement of the position proves that the whole batch is
// stored, behind the position before.
func (c *commit) proves(a ack) error {
	switch n := len(c.batch) + 1; {
	case n > 1 && (a.Batch != c.id || a.Count != n):
		return fmt.Errorf("%w: it names batch %.64q with %d messages, not %q with %d", errNotWhole, a.Batch, a.Count, c.id, n)
	case a.Seq < c.expected || a.Seq-c.expected < uint64(n): //nolint:gosec // a length
		return fmt.Errorf("the acknowledgement is wrong: sequence %d, with %d messages behind %d", a.Seq, n, c.expected)
	default:
		return nil
	}
}

// fail notes the first failure. The server answers in order, so what fails later does so for want
// of what failed first.
func (c *commit) fail(index int, err error) {
	c.update(func() { c.failLocked(index, err) })
}

func (c *commit) failLocked(index int, err error) {
	if c.failure == nil && c.sequence == 0 {
		c.failedAt, c.failure = index, err
	}
}

// deny notes that the server refuses to take what the user publishes to a subject, or to deliver
// answers. A subject of no message here is that of something else on the same connection.
func (c *commit) deny(err error) {
	c.update(func() {
		if c.ended {
			return
		}
		index := len(c.batch)
		if m := deniedPublish.FindStringSubmatch(err.Error()); m != nil && m[1] != c.last.Topic {
			index = slices.IndexFunc(c.batch, func(of sink.Message) bool { return of.Topic == m[1] })
		}
		if index >= 0 {
			c.denied, c.deniedAt = err, index
			c.failLocked(index, err)
		}
	})
}

func (c *commit) update(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// refusedSoFar reports whether an answer came that may be a refusal by the stream.
func (c *commit) refusedSoFar() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.doubtful != nil && !isDomain(c.doubtful)
}

func (c *commit) progress() (staged int, failure error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.staged, c.failure
}

// outcome closes the books: where the position is stored, or which message failed and why. cause is
// what ended the attempt.
func (c *commit) outcome(cause error) (sequence uint64, index int, failure error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	switch {
	case c.sequence > 0:
		return c.sequence, 0, nil
	case c.denied != nil && isCode(c.failure, codeIncompleteBatch):
		return 0, c.deniedAt, c.denied
	case c.failure != nil:
		return 0, c.failedAt, c.failure
	case c.doubtful != nil && errors.Is(cause, errAckTimeout):
		return 0, len(c.batch), &doubtfulError{c.doubtful}
	default:
		return 0, len(c.batch), cause
	}
}

// doubtfulError: nothing but this answer came, and it may be that of a stream in another domain.
type doubtfulError struct{ err error }

func (e *doubtfulError) Error() string {
	return fmt.Sprintf("%v; before that: %v", errAckTimeout, e.err)
}

func (e *doubtfulError) Unwrap() []error { return []error{errAckTimeout, e.err} }

// awaitDenial waits a moment for the reason of an incomplete batch that is a missing permission:
// the server tells that beside its
// answers.
func (c *commit) awaitDenial(ctx context.Context) {
	timeout := time.NewTimer(denialWait)
	defer timeout.Stop()
	for {
		c.mu.Lock()
		denied := c.denied
		c.mu.Unlock()
		if denied != nil {
			return
		}
		select {
		case <-c.wake:
		case <-timeout.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// tellTaken adds to a timeout how much of the batch had reached the server by then.
func (c *commit) tellTaken(err error) error {
	var timeout *sink.TimeoutError
	if errors.As(err, &timeout) {
		timeout.Taken, _ = c.progress()
	}
	return err
}
