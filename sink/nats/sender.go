package nats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"workos-relay/sink"
)

// ackDrainTime is how long acknowledgements of what is in flight are waited for once nothing more
// is sent.
const ackDrainTime = 2 * time.Second

var (
	errAckTimeout = errors.New("not acknowledged in time")
	// errOutOfOrder: the message is stored, but before its predecessor. That happens if a hole
	// was left by a leader election or a broken connection, and the copy that should come after the
	// hole's filling was recognised as a second one and dropped.
	errOutOfOrder = errors.New("stored before its predecessor")
)

// sender is what Publish and Commit share: they take turns, adapt the bytes in flight together, and
// get their answers on one inbox.
type sender struct {
	cfg    *Config
	conn   *connection
	stream *stream

	turn     chan struct{} // holds a token while Publish or Commit is under way
	attempts uint64        // number of the last attempt; used by the holder of the token only
	flow     flow          // how much may be in flight; used by the holder of the token only
	ackDrain time.Duration // ackDrainTime

	flight atomic.Pointer[flight] // the attempt under way; nil if there is none
}

// flight is an attempt under way. The connection tells it what the server answers.
type flight struct {
	number uint64
	answers
}

type answers interface {
	// answered takes an answer of the server for the message at index. It runs on the one goroutine
	// of the inbox subscription.
	answered(index int, m *nats.Msg)
	// deny takes what the server forbids.
	deny(err error)
}

// begin waits until nothing else is being published. Call done to end the turn.
func (s *sender) begin(ctx context.Context) (done func(), err error) {
	if s.conn.isClosing() {
		return nil, errClosed
	}
	select {
	case s.turn <- struct{}{}:
		return func() { <-s.turn }, nil
	case <-s.conn.closing:
		return nil, errClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// expect makes a the attempt that is told what the server answers, until done is called.
func (s *sender) expect(number uint64, a answers) (done func()) {
	s.flight.Store(&flight{number, a})
	return func() { s.flight.Store(nil) }
}

// onAck takes an answer. What belongs to an earlier attempt is ignored.
func (s *sender) onAck(m *nats.Msg) {
	number, index, ok := parseReply(m.Subject)
	if !ok {
		return
	}
	if f := s.flight.Load(); f != nil && f.number == number {
		f.answered(index, m)
	}
}

// onDenied takes a permission that is missing: it ends the attempt under way, since no
// acknowledgement would ever come.
func (s *sender) onDenied(err error) {
	if f := s.flight.Load(); f != nil {
		f.deny(err)
	}
}

// publishError returns the error of Publish for a failure of the message on topic. It is a
// *sink.FatalError if only an operator can resolve it.
func (s *sender) publishError(ctx context.Context, l *link, topic string, err error) error {
	var (
		api    *jetstream.APIError
		other  *wrongStreamError
		domain *wrongDomainError
	)
	switch denied := l.permissionDenied(); {
	case errors.Is(err, nats.ErrPermissionViolation):
		return explainDenied(err)
	case errors.As(err, &domain):
		return fmt.Errorf("stream %s acknowledged nothing for %v while %s was in flight; domain %q did, which does not count: the connection between "+
			"the domains is down or slow: %w", s.stream.fullName(), s.cfg.AckTimeout, topic, domain.domain, errAckTimeout)
	case errors.As(err, &other) && !s.stream.severalDomains():
		return &sink.FatalError{Err: fmt.Errorf("%s was stored by stream %s instead of %s: correct `stream`, or take the subject away from %s",
			topic, other.stream, s.cfg.Stream, other.stream)}
	case errors.Is(err, nats.ErrNoResponders):
		return s.explainUnanswered(ctx, l, topic)
	case errors.Is(err, errAckTimeout) && denied != nil && !deniedPublish.MatchString(denied.Error()):
		return explainDenied(denied)
	case errors.Is(err, errAckTimeout):
		if errors.As(err, &api) {
			if err := s.stream.confirm(ctx, l, api); err != nil {
				return err
			}
		}
		return &sink.TimeoutError{Setting: "ack_timeout", Value: s.cfg.AckTimeout, Err: fmt.Errorf(
			"stream %s acknowledged nothing for %v while %s was in flight; its server is overloaded, or cut off: %w",
			s.stream.fullName(), s.cfg.AckTimeout, topic, err)}
	case errors.Is(err, errLost): // a limit on the way may have cut the connection because of the size of what was sent
		return &sink.TimeoutError{Err: fmt.Errorf("publishing %s to stream %s: %w", topic, s.cfg.Stream, err)}
	case errors.As(err, &api):
		return s.explainRefusal(ctx, l, topic, api)
	default:
		return fmt.Errorf("publishing %s to stream %s: %w", topic, s.cfg.Stream, err)
	}
}

func (s *sender) explainRefusal(ctx context.Context, l *link, topic string, api *jetstream.APIError) error {
	switch api.ErrorCode {
	case jetstream.JSErrCodeStreamNotFound:
		return s.explainUnanswered(ctx, l, topic)
	case jetstream.JSErrCodeStreamMessageExceedsMaximum, codeHeadersTooLarge:
		return &sink.RejectedError{Topic: topic, Reason: fmt.Sprintf("stream %s refuses its size: %s", s.cfg.Stream, api.Description)}
	case codeSealed:
		return &sink.FatalError{Err: fmt.Errorf("stream %s is sealed and takes no message any more: use another stream: %w", s.cfg.Stream, api)}
	case codeStoreFailed:
		return fmt.Errorf("stream %s cannot store %s; its limits or the disk are full: %w", s.cfg.Stream, topic, api)
	default:
		return fmt.Errorf("stream %s refuses %s: %w", s.cfg.Stream, topic, api)
	}
}

// explainUnanswered looks why nobody took a message on topic: an election or a restart, which pass,
// or a stream that is gone or was changed, which an operator must mend.
func (s *sender) explainUnanswered(ctx context.Context, l *link, topic string) error {
	info, err := s.stream.lookAgain(ctx, l)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return &sink.FatalError{Err: fmt.Errorf("stream %s is not there any more: it was deleted, or the server lost its store. "+
			"Restore it, or say where to go on", s.cfg.Stream)}
	case errors.Is(err, errClosed):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("publishing %s to stream %s, which does not answer: %w", topic, s.cfg.Stream, ctx.Err())
	case err == nil && !binds(info.Config.Subjects, topic):
		return &sink.FatalError{Err: fmt.Errorf("stream %s does not bind %s any more: add the subject to it again", s.cfg.Stream, topic)}
	default:
		return fmt.Errorf("no leader of stream %s answers for %s at the moment (an election, or a server starting): %w", s.cfg.Stream, topic, nats.ErrNoResponders)
	}
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

const (
	// minInFlight and maxInFlight bound how many bytes are sent before the server has answered for
	// half of them. A stream takes 128 MiB of messages that it has not looked at yet; beyond that
	// it drops them.
	minInFlight = 256 << 10
	maxInFlight = 16 << 20
	// A half that is answered within quickHalf doubles the bytes in flight; one that takes longer
	// than slowHalf halves them.
	quickHalf = 500 * time.Millisecond
	slowHalf  = 3 * time.Second
)

// flow adapts the bytes in flight to the link, so that what waits on a slow one is answered, or
// given up, within seconds. Only the holder of the token in sender.turn uses it.
type flow struct{ bytes int }

func (f *flow) inFlight() int { return max(f.bytes, minInFlight) }

// measure notes how long the answer for half of the bytes in flight took.
func (f *flow) measure(took time.Duration) {
	switch {
	case took <= quickHalf:
		f.bytes = min(2*f.inFlight(), maxInFlight)
	case took >= slowHalf:
		f.bytes = f.inFlight() / 2
	}
}

// failed starts over with few bytes in flight.
func (f *flow) failed() { f.bytes = 0 }

// wireSize is about how many bytes m takes on the link.
func wireSize(m *sink.Message) int {
	n := len(m.Topic) + len(m.Body) + 64
	for i := range m.Headers {
		n += len(m.Headers[i].Key) + len(m.Headers[i].Value) + 4
	}
	return n
}

// encoder makes messages of the bus, one after the other. nats.go writes a message out before its
// PublishMsg returns, so that the next one can be made in the place of it.
type encoder struct {
	msg    nats.Msg
	header nats.Header
	values []string // of the headers, each in an array of one that lies in here
}

// encode returns m as a message of the bus, valid until the next call.
func (e *encoder) encode(m *sink.Message, reply string, withID bool) *nats.Msg {
	if e.header == nil {
		e.header = make(nats.Header, 8)
	}
	clear(e.header)
	e.values = e.values[:0]
	e.msg = nats.Msg{Subject: m.Topic, Reply: reply, Header: e.header, Data: m.Body}
	for _, h := range m.Headers {
		if have, ok := e.header[h.Key]; ok {
			e.header[h.Key] = append(have, h.Value)
			continue
		}
		e.set(h.Key, h.Value)
	}
	if withID && m.ID != "" {
		e.set(msgIDHeader, m.ID)
	}
	return &e.msg
}

// set sets a header of the message that was made last.
func (e *encoder) set(key, value string) {
	e.values = append(e.values, value)
	n := len(e.values)
	e.header[key] = e.values[n-1 : n : n]
}
