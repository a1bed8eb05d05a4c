package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"workos-relay/internal/printable"
	"workos-relay/sink"
)

const (
	// settleTime is how long acknowledgements of what is in flight are waited for once nothing more
	// is sent.
	settleTime = 2 * time.Second
	// Looks at a stream that seems to be gone, before it counts as deleted: a cluster that starts
	// up must not look like that.
	deletedLooks = 6
	deletedPause = 500 * time.Millisecond
)

// Error codes of JetStream, from the server's errors.json.
const (
	codeStreamNotFound  jetstream.ErrorCode = 10059
	codeMessageTooLarge jetstream.ErrorCode = 10054
	codeHeadersTooLarge jetstream.ErrorCode = 10097
	codeSealed          jetstream.ErrorCode = 10109
	codeStoreFailed     jetstream.ErrorCode = 10077
	codeSubjectOverlap  jetstream.ErrorCode = 10065
	codeInvalidJSON     jetstream.ErrorCode = 10025
	codeMessageNotFound jetstream.ErrorCode = 10037
)

// Publish implements sink.Sink. It sends in order and keeps up to Config.Window messages in flight,
// and no more bytes than the link carries within seconds. Nothing is sent again inside, with one
// exception: where the sequences of the acknowledgements show that a message was stored before its
// predecessor (left over from an earlier failure, and now recognised as a second copy), it and what
// follows are stored once more without their ids, so that the stream holds the batch in order.
// Blanks at both ends of a header's value are not kept, for NATS does not.
func (s *Sink) Publish(ctx context.Context, batch []sink.Message) error {
	if len(batch) == 0 {
		return nil
	}
	durable := 0
	done, err := s.begin(ctx)
	if err == nil {
		durable, err = s.publish(ctx, batch)
		done()
	}
	if err == nil {
		return nil
	}
	return &sink.PublishError{Durable: durable, Err: err}
}

// publish returns how many messages of batch are durable, and why the next is not.
func (s *Sink) publish(ctx context.Context, batch []sink.Message) (durable int, err error) {
	l, err := s.connected(ctx)
	if err != nil {
		return 0, fmt.Errorf("publishing to stream %s: %w", s.cfg.Stream, err)
	}
	sendable, rejected := s.sendable(l, batch)
	withIDs := true
	for durable < sendable {
		n, err := s.run(ctx, l, batch[durable:sendable], withIDs)
		durable += n
		// P2: what follows a message that was stored too early is stored once more behind it.
		if errors.Is(err, errOutOfOrder) && withIDs {
			s.log.Warn("messages were stored out of order; publishing them again without their ids",
				zap.String("topic", batch[durable].Topic), zap.String("first_id", batch[durable].ID), zap.Int("messages", sendable-durable))
			withIDs = false
			continue
		}
		if err != nil {
			return durable, s.explainPublish(ctx, l, batch[durable].Topic, err)
		}
	}
	if rejected != nil {
		return durable, rejected
	}
	return durable, nil
}

// sendable returns how many messages come before the first that can never be published, and why
// that one cannot.
func (s *Sink) sendable(l *link, batch []sink.Message) (int, error) {
	limits := s.limits(l)
	for i := range batch {
		if rejected := limits.check(&batch[i], idHeaderSize(&batch[i])); rejected != nil {
			return i, rejected
		}
	}
	return len(batch), nil
}

// limits are those of the server that l leads to and of the stream as last seen.
func (s *Sink) limits(l *link) limits {
	return limits{
		maxPayload: l.nc.MaxPayload(), server: printable.Text(l.nc.ConnectedServerName()),
		maxMsgSize: s.maxMsg.Load(), stream: s.cfg.Stream,
	}
}

// run makes one attempt at batch and returns how long its durable prefix is.
func (s *Sink) run(ctx context.Context, l *link, batch []sink.Message, withIDs bool) (prefix int, err error) {
	s.attempts++
	floor := uint64(0)
	if _, ok := s.ahead[batch[0].ID]; ok {
		floor = s.lastSeq
	}
	a := newAttempt(s.attempts, batch, withIDs, floor)
	lost := l.lostSignal()
	s.current.Store(a)
	cause := s.send(ctx, l, a, lost)
	if cause == nil {
		cause = s.await(ctx, a, len(batch), lost)
	}
	if cause != nil && !errors.Is(cause, errAckTimeout) {
		a.settle(s.settle, lost)
	}
	s.current.Store(nil)
	o := a.end(cause)
	s.remember(a, o)
	return o.prefix, o.err
}

// remember keeps what the next attempt needs to see that order was broken: where the prefix ends,
// and which messages behind it may be stored already.
func (s *Sink) remember(a *attempt, o outcome) {
	if o.prefix > 0 {
		s.lastSeq = o.lastSeq
	}
	if len(s.ahead) > 0 {
		for i := range a.batch[:o.prefix] {
			delete(s.ahead, a.batch[i].ID)
		}
	}
	if !a.withIDs {
		return
	}
	for i := o.prefix + 1; i < o.sent; i++ {
		if s.ahead == nil {
			s.ahead = stringSet{}
		}
		if id := a.batch[i].ID; id != "" && len(s.ahead) < maxWindow {
			s.ahead[id] = struct{}{}
		}
	}
}

// send sends the messages in order, never more than the window beyond the prefix, and stops at the
// first sign of a failure.
func (s *Sink) send(ctx context.Context, l *link, a *attempt, lost <-chan struct{}) error {
	prefix, inFlight := 0, 0 // bytes of batch[prefix:i]
	var e encoder
	for i := range a.batch {
		target := i - s.cfg.Window + 1
		full := inFlight >= s.flow.inFlight()
		if full {
			target = max(target, half(a.batch[prefix:i], inFlight)+prefix)
		}
		if target > prefix {
			started := time.Now()
			if err := s.await(ctx, a, target, lost); err != nil {
				s.flow.failed()
				return err
			}
			if full {
				s.flow.answered(time.Since(started))
			}
			acknowledged, _ := a.progress()
			for ; prefix < acknowledged; prefix++ {
				inFlight -= wireSize(&a.batch[prefix])
			}
		}
		inFlight += wireSize(&a.batch[i])
		if err := s.ended(ctx, lost); err != nil {
			return err
		}
		if a.failing.Load() {
			_, failure := a.progress()
			return failure
		}
		a.noteSent(i + 1) // before it is sent, for it may be stored even where sending fails
		if err := l.send(e.encode(&a.batch[i], reply(l.inbox, a.number, i), a.withIDs)); err != nil {
			if errors.Is(err, errLost) {
				a.noteSent(i)
			}
			return err
		}
	}
	return nil
}

// half returns how many of the first messages make up half of the bytes of all, which is size.
func half(messages []sink.Message, size int) int {
	for i, n := 0, 0; i < len(messages); i++ {
		if n += wireSize(&messages[i]); 2*n >= size {
			return i + 1
		}
	}
	return len(messages)
}

// await waits until the first target messages are acknowledged. It fails if something else ends
// the attempt, or where ack_timeout goes by without progress.
func (s *Sink) await(ctx context.Context, a *attempt, target int, lost <-chan struct{}) error {
	timeout := time.NewTimer(s.cfg.AckTimeout)
	defer timeout.Stop()
	last := 0
	for {
		prefix, failure := a.progress()
		switch {
		case failure != nil:
			return failure
		case prefix >= target:
			return nil
		case prefix > last:
			last = prefix
			timeout.Reset(s.cfg.AckTimeout)
		}
		if err := s.wait(ctx, a.wake, timeout.C, lost); err != nil {
			return err
		}
	}
}

// settle waits a moment for the acknowledgements of what was sent before the first failure.
func (a *attempt) settle(moment time.Duration, lost <-chan struct{}) {
	timeout := time.NewTimer(moment)
	defer timeout.Stop()
	for {
		if prefix, _ := a.progress(); prefix >= a.settled() {
			return
		}
		select {
		case <-a.wake:
		case <-timeout.C:
			return
		case <-lost:
			return
		}
	}
}

// explainPublish says what a failure of the message on topic means, and whether it takes an
// operator.
func (s *Sink) explainPublish(ctx context.Context, l *link, topic string, err error) error {
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
			"the domains is down or slow: %w", s.where(), s.cfg.AckTimeout, topic, domain.domain, errAckTimeout)
	case errors.As(err, &other) && !s.severalDomains():
		return &sink.FatalError{Err: fmt.Errorf("%s was stored by stream %s instead of %s: correct `stream`, or take the subject away from %s",
			topic, other.stream, s.cfg.Stream, other.stream)}
	case errors.Is(err, nats.ErrNoResponders):
		return s.explainUnanswered(ctx, l, topic)
	case errors.Is(err, errAckTimeout) && denied != nil && !deniedPublish.MatchString(denied.Error()):
		return explainDenied(denied)
	case errors.Is(err, errAckTimeout):
		if errors.As(err, &api) {
			if err := s.confirm(ctx, l, api); err != nil {
				return err
			}
		}
		return &sink.TimeoutError{Setting: "ack_timeout", Value: s.cfg.AckTimeout, Err: fmt.Errorf(
			"stream %s acknowledged nothing for %v while %s was in flight; its server is overloaded, or cut off: %w",
			s.where(), s.cfg.AckTimeout, topic, err)}
	case errors.Is(err, errLost): // a limit on the way may have cut the connection because of the size of what was sent
		return &sink.TimeoutError{Err: fmt.Errorf("publishing %s to stream %s: %w", topic, s.cfg.Stream, err)}
	case errors.As(err, &api):
		return s.explainRefusal(ctx, l, topic, api)
	default:
		return fmt.Errorf("publishing %s to stream %s: %w", topic, s.cfg.Stream, err)
	}
}

func (s *Sink) explainRefusal(ctx context.Context, l *link, topic string, api *jetstream.APIError) error {
	switch api.ErrorCode {
	case codeStreamNotFound:
		return s.explainUnanswered(ctx, l, topic)
	case codeMessageTooLarge, codeHeadersTooLarge:
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
func (s *Sink) explainUnanswered(ctx context.Context, l *link, topic string) error {
	info, err := s.lookAgain(ctx, l)
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

// lookAgain looks for the stream, several times if it seems to be gone, for a cluster that
// starts up looks like that.
func (s *Sink) lookAgain(ctx context.Context, l *link) (*jetstream.StreamInfo, error) {
	for look := 1; ; look++ {
		info, err := s.streamInfo(ctx, l)
		if !errors.Is(err, jetstream.ErrStreamNotFound) || look >= deletedLooks {
			return info, err
		}
		select {
		case <-time.After(deletedPause):
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.closing:
			return nil, errClosed
		}
	}
}
