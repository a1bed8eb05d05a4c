package nats

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"workos-relay/internal/operator"
	"workos-relay/sink"
)

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

func newCommit(number uint64, batch []sink.Message, expected uint64, position sink.Message) *commit {
	return &commit{
		number: number, batch: batch, expected: expected, last: position, id: rand.Text(), wake: make(chan struct{}, 1),
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

// answered takes an answer of the server. It runs on the one goroutine of the inbox subscription.
func (c *commit) answered(index int, m *nats.Msg, parse func(*nats.Msg) (ack, error), mayBeAnother func(error) bool) {
	switch {
	case index > len(c.batch):
		return
	case index < len(c.batch) && isStaged(m):
		c.note(func() { c.staged = max(c.staged, index+1) })
		return
	}
	a, err := parse(m)
	if err == nil && index == len(c.batch) {
		err = c.proves(a)
	}
	switch {
	case err != nil && mayBeAnother(err):
		c.note(func() {
			if c.doubtful == nil || isDomain(c.doubtful) { // a refusal says more
				c.doubtful = err
			}
		})
	case err != nil:
		c.fail(index, err)
	case index < len(c.batch):
		c.fail(index, errNotAtomic)
	default:
		c.note(func() { c.staged, c.sequence = index+1, a.Seq })
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
	c.note(func() { c.failLocked(index, err) })
}

func (c *commit) failLocked(index int, err error) {
	if c.failure == nil && c.sequence == 0 {
		c.failedAt, c.failure = index, err
	}
}

// deny notes that the server refuses to take what the user publishes to a subject, or to deliver
// answers. A subject of no message here is that of something else on the same connection.
func (c *commit) deny(err error) {
	c.note(func() {
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

func (c *commit) note(change func()) {
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

func isDomain(err error) bool {
	var other *wrongDomainError
	return errors.As(err, &other)
}

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

// sendCommit sends all messages in order and stops at the first sign of a failure. The first
// message asks for an answer, since the server says there why it takes no batch at all; then the
// last one of each half of the bytes in flight does.
func (s *Sink) sendCommit(ctx context.Context, l *link, c *commit, lost <-chan struct{}, overtaken func() error) error {
	bytes, mark := 0, 0
	asked := time.Now() // when the message at mark was sent
	var e encoder
	for i := range len(c.batch) + 1 {
		if err := s.ended(ctx, lost); err != nil {
			return err
		}
		if _, failure := c.progress(); failure != nil {
			return failure
		}
		bytes += wireSize(c.at(i))
		full := bytes >= s.flow.inFlight()/2
		replyTo := ""
		if i == 0 || i == len(c.batch) || full || c.askAll {
			replyTo = reply(l.inbox, c.number, i)
		}
		if err := l.send(e.encodeInBatch(c, i, replyTo)); err != nil {
			return err
		}
		if full && i < len(c.batch) {
			if err := s.awaitCommit(ctx, c, mark, lost, overtaken); err != nil {
				return err
			}
			if mark > 0 {
				s.flow.answered(time.Since(asked))
			}
			bytes, mark, asked = 0, i+1, time.Now()
		}
	}
	return nil
}

// awaitCommit waits until the first target messages have reached the server, which for all of them
// and the position means that they are stored.
//
// A refusal that may be another domain's does not end the wait. If it may be the stream's,
// overtaken is asked soon after it, and again and again, whether another position is in effect; its
// error does end it.
func (s *Sink) awaitCommit(ctx context.Context, c *commit, target int, lost <-chan struct{}, overtaken func() error) error {
	timeout := time.NewTimer(s.cfg.AckTimeout)
	defer timeout.Stop()
	ask := time.NewTimer(s.settle)
	defer ask.Stop()
	for {
		staged, failure := c.progress()
		switch {
		case staged > len(c.batch):
			return nil
		case failure != nil:
			return failure
		case staged >= target:
			return nil
		}
		select {
		case <-c.wake:
		case <-ask.C:
			if c.refusedSoFar() {
				if err := overtaken(); err != nil {
					return err
				}
			}
			ask.Reset(s.settle)
		case <-timeout.C:
			return errAckTimeout
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closing:
			return errClosed
		case <-lost:
			return errLost
		}
	}
}
