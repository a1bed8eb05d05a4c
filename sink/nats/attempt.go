package nats

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"workos-relay/internal/printable"
	"workos-relay/sink"
)

var (
	errAckTimeout = errors.New("not acknowledged in time")
	// errOutOfOrder: the message is stored, but before its predecessor. That happens if a hole
	// was left by a leader election or a broken connection, and the copy that should come after the
	// hole's filling was recognised as a second one and dropped.
	errOutOfOrder = errors.New("stored before its predecessor")
)

// wrongStreamError: an acknowledgement came from another stream than the configured one.
type wrongStreamError struct{ stream string }

func (e *wrongStreamError) Error() string { return fmt.Sprintf("acknowledged by stream %s", e.stream) }

// attempt is one pass over messages: each is sent once, in order, and the acknowledgements are
// matched to them by number.
type attempt struct {
	number  uint64
	batch   []sink.Message
	withIDs bool
	wake    chan struct{} // something happened; capacity 1
	failing atomic.Bool   // a failure is known: nothing more is to be sent

	mu       sync.Mutex
	seqs     []uint64      // by index: where the stream stored the message; 0 while unknown
	sent     int           // batch[:sent] went out
	prefix   int           // batch[:prefix] is stored, in order
	prevSeq  uint64        // batch[prefix] must be stored after this
	failedAt int           // the first message known to have failed; len(batch) for none
	failure  error         // why
	refused  map[int]error // by index: an answer that may be that of a stream in another domain
	ended    bool          // the batch is the caller's again, and not looked at any more
}

func newAttempt(number uint64, batch []sink.Message, withIDs bool, prevSeq uint64) *attempt {
	return &attempt{
		number: number, batch: batch, withIDs: withIDs, wake: make(chan struct{}, 1),
		seqs: make([]uint64, len(batch)), prevSeq: prevSeq, failedAt: len(batch),
	}
}

// stored notes an acknowledgement and extends the prefix.
func (a *attempt) stored(index int, seq uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if index >= len(a.seqs) || a.seqs[index] != 0 {
		return
	}
	a.seqs[index] = seq
	for a.prefix < a.failedAt && a.seqs[a.prefix] != 0 {
		if a.seqs[a.prefix] <= a.prevSeq {
			a.failLocked(a.prefix, errOutOfOrder)
			break
		}
		a.prevSeq = a.seqs[a.prefix]
		a.prefix++
	}
	a.signal()
}

// fail notes that the message at index is not stored, or not known to be.
func (a *attempt) fail(index int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failLocked(index, err)
	a.signal()
}

func (a *attempt) failLocked(index int, err error) {
	if index < a.failedAt && index >= a.prefix {
		a.failedAt, a.failure = index, err
		a.failing.Store(true)
	}
}

// refuse notes an answer that does not acknowledge the message at index, and may not be that of the
// stream.
func (a *attempt) refuse(index int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refused == nil {
		a.refused = make(map[int]error)
	}
	if _, known := a.refused[index]; !known {
		a.refused[index] = err
	}
}

// deny notes that the server refuses to take what the user publishes to a subject, or to deliver
// acknowledgements.
func (a *attempt) deny(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return
	}
	index := a.prefix
	if m := deniedPublish.FindStringSubmatch(err.Error()); m != nil {
		for index < len(a.batch) && a.batch[index].Topic != m[1] {
			index++
		}
	}
	a.failLocked(index, err)
	a.signal()
}

func (a *attempt) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// progress returns how long the durable prefix is, and the first failure known.
func (a *attempt) progress() (prefix int, failure error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.prefix, a.failure
}

// settled is how far the prefix can still grow: to the first failure, or to the last message sent.
func (a *attempt) settled() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return min(a.sent, a.failedAt)
}

func (a *attempt) noteSent(n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sent = n
}

// outcome is how an attempt ended.
type outcome struct {
	prefix  int    // batch[:prefix] is durable, in order
	lastSeq uint64 // of the last durable message; 0 if there is none
	sent    int    // batch[prefix:sent] may be stored or not
	err     error  // why batch[prefix] is not durable; nil if all of the batch is
}

// end closes the books. cause is what ended the attempt; what is acknowledged later counts no more.
func (a *attempt) end(cause error) outcome {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	o := outcome{prefix: a.prefix, sent: a.sent}
	if a.prefix > 0 {
		o.lastSeq = a.seqs[a.prefix-1]
	}
	switch {
	case a.prefix == len(a.batch):
	case a.failure == nil && errors.Is(cause, errAckTimeout) && a.refused[a.prefix] != nil:
		o.err = fmt.Errorf("%w: %w", errAckTimeout, a.refused[a.prefix])
	case a.failure == nil:
		o.err = cause
	case a.failedAt == a.prefix:
		o.err = a.failure
	default: // the failure is another message's: it must not be taken for this one's
		o.err = fmt.Errorf("%w, and a later message failed: %v", errAckTimeout, a.failure) //nolint:errorlint // see above
	}
	return o
}

// reply is the subject on which the acknowledgement of the message at index of an attempt comes
// back.
func reply(inbox string, number uint64, index int) string {
	var b strings.Builder
	b.Grow(len(inbox) + 16)
	b.WriteString(inbox)
	b.WriteByte('.')
	var digits [16]byte
	b.Write(strconv.AppendUint(digits[:0], number, 36))
	b.WriteByte('.')
	b.Write(strconv.AppendUint(digits[:0], uint64(index), 36)) //nolint:gosec // an index
	return b.String()
}

// parseReply is the reverse of reply.
func parseReply(subject string) (number uint64, index int, ok bool) {
	last := strings.LastIndexByte(subject, '.')
	if last < 0 {
		return 0, 0, false
	}
	before := strings.LastIndexByte(subject[:last], '.')
	number, err := strconv.ParseUint(subject[before+1:last], 36, 64)
	if err != nil {
		return 0, 0, false
	}
	i, err := strconv.ParseUint(subject[last+1:], 36, 31)
	return number, int(i), err == nil //nolint:gosec // 31 bits
}

// onAck takes an acknowledgement. It runs on the one goroutine of the inbox subscription. What
// belongs to an earlier attempt is ignored.
func (s *Sink) onAck(m *nats.Msg) {
	number, index, ok := parseReply(m.Subject)
	if !ok {
		return
	}
	if c := s.committing.Load(); c != nil && c.number == number {
		c.answered(index, m, s.parseAck, s.mayBeAnother)
		return
	}
	a := s.current.Load()
	if a == nil || a.number != number {
		return
	}
	if seq, ok := s.plainAck(m.Data); ok {
		a.stored(index, seq)
		return
	}
	ack, err := s.parseAck(m)
	switch {
	case err == nil:
		a.stored(index, ack.Seq)
	case s.mayBeAnother(err):
		a.refuse(index, err)
	default:
		a.fail(index, err)
	}
}

// mayBeAnother reports whether an answer is, or may be, that of a stream in another domain: the one
// that counts may still come.
func (s *Sink) mayBeAnother(err error) bool {
	var (
		other  *wrongDomainError
		stream *wrongStreamError
		api    *jetstream.APIError
	)
	if errors.As(err, &other) {
		s.noteOther(other.domain)
		return true
	}
	return (errors.As(err, &api) || errors.As(err, &stream)) && s.severalDomains()
}

// elsewhere reports whether an acknowledgement that names this domain is another stream's.
func (s *Sink) elsewhere(domain string) bool {
	h := s.home.Load()
	if h == nil {
		return s.cfg.Domain != "" && domain != s.cfg.Domain
	}
	return domain != h.domain
}

// plainAck reads the form that nearly all acknowledgements have, {"stream":"WORKOS","seq":17},
// without a JSON decoder.
func (s *Sink) plainAck(data []byte) (seq uint64, ok bool) {
	h := s.home.Load()
	if h == nil {
		return 0, false
	}
	rest, ok := bytes.CutPrefix(data, h.ackPrefix)
	if !ok {
		return 0, false
	}
	for i, c := range rest {
		switch {
		case i == 0 && c == '0': // a number of JSON does not begin so
			return 0, false
		case c >= '0' && c <= '9' && i < 19:
			seq = seq*10 + uint64(c-'0')
		default:
			return seq, seq > 0 && c == '}' && i == len(rest)-1
		}
	}
	return 0, false
}

// ack is what a stream answers for a message that it has stored.
type ack struct {
	Stream string              `json:"stream"`
	Seq    uint64              `json:"seq"`
	Domain string              `json:"domain"`
	Batch  string              `json:"batch"` // the id of an atomic batch, of which it acknowledges all
	Count  int                 `json:"count"` // messages of that batch
	Error  *jetstream.APIError `json:"error"`
}

// maxAck bounds an acknowledgement in bytes.
const maxAck = 64 << 10

// parseAck returns the acknowledgement of a message that the stream has stored. Anything else is an
// error: what is not exactly what a server writes proves nothing. That includes names that stand
// twice or in another case.
func (s *Sink) parseAck(m *nats.Msg) (ack, error) {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return ack{}, nats.ErrNoResponders
	}
	if len(m.Data) > maxAck {
		return ack{}, fmt.Errorf("the acknowledgement has %d bytes, more than %d", len(m.Data), maxAck)
	}
	var a ack
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return ack{}, fmt.Errorf("the acknowledgement is not JSON: %w", err)
	}
	switch {
	case a.Error != nil:
		a.Error.Description = printable.Text(a.Error.Description)
		return ack{}, a.Error
	case s.elsewhere(a.Domain):
		return ack{}, &wrongDomainError{printable.Text(a.Domain)}
	case a.Stream != s.cfg.Stream:
		return ack{}, &wrongStreamError{printable.Text(a.Stream)}
	case a.Seq == 0:
		return ack{}, errors.New("the acknowledgement has no sequence")
	}
	return a, nil
}
