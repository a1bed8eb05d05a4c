package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"workos-relay/sink"
)

const (
	scanBytes = 8 << 20 // most that is in flight to a scan
	// scanLook is how long a scan waits for a message until it asks the leader of the stream
	// whether there is one.
	scanLook = 3 * time.Second
	// scanChange is how long it waits for a message that the leader has until it reads through
	// another consumer, most likely on another replica.
	scanChange = 15 * time.Second
	// scanSilence is how long it waits for such a message at all, through elections and
	// reconnections.
	scanSilence = time.Minute
)

var _ sink.Scanner = (*Sink)(nil)

// Logs implements sink.Scanner: the one log is the stream, for any topics. A stream that does
// not exist is none.
func (s *Sink) Logs(ctx context.Context, _ []string, since time.Time) ([]sink.Log, error) {
	l, err := s.connected(ctx)
	if err != nil {
		return nil, err
	}
	info, err := s.streamInfo(ctx, l)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	st := info.State
	return []sink.Log{{
		Name:    "stream " + s.cfg.Stream,
		From:    int64(st.FirstSeq),    //nolint:gosec // no stream holds 2^63 messages
		End:     int64(st.LastSeq) + 1, //nolint:gosec // see above
		Since:   since,
		Trimmed: st.FirstSeq > 1 && (st.Msgs == 0 || st.FirstTime.After(since)),

		MaxPerTopic: max(info.Config.MaxMsgsPerSubject, 0),
	}}, nil
}

// Scan implements sink.Scanner. Positions of relay are left out. A consumer reads one replica,
// which may lag behind the stream and then says that there is no more. Whether that is so, the
// leader of the stream decides.
func (s *Sink) Scan(ctx context.Context, log sink.Log, fn func(*sink.Stored) error) error {
	if log.From >= log.End {
		return nil
	}
	l, err := s.connected(ctx)
	if err != nil {
		return err
	}
	return scanOf(s, l, log).run(ctx, fn)
}

// scan is one run of Scan.
type scan struct {
	s     *Sink
	link  *link
	log   sink.Log
	end   uint64 // Log.End
	doing string
	open  func(ctx context.Context) (jetstream.MessagesContext, error) // begins at next, or before

	look, change, silence time.Duration // scanLook, scanChange, scanSilence

	next  uint64    // every message before it has been handed on
	heard time.Time // when the last message came
}

func scanOf(s *Sink, l *link, log sink.Log) *scan {
	sc := &scan{
		s: s, link: l, log: log, end: uint64(log.End), doing: "reading stream " + s.cfg.Stream, //nolint:gosec // a sequence
		look: scanLook, change: scanChange, silence: scanSilence,
	}
	sc.open = sc.consume
	return sc
}

func (sc *scan) run(ctx context.Context, fn func(*sink.Stored) error) (err error) {
	if sc.next, err = sc.first(ctx); err != nil {
		return err
	}
	sc.heard = time.Now()
	if err := sc.left(ctx); !errors.Is(err, errBehind) {
		return err
	}
	for {
		if err := sc.read(ctx, fn); !errors.Is(err, errChange) {
			return err
		}
	}
}

var (
	errSilent = errors.New("no message came in time")
	errBehind = errors.New("the stream holds messages that the consumer does not deliver")
	errChange = errors.New("another consumer may deliver more")
)

// read reads through one consumer. It returns nil at the end of the log, and errChange if this
// consumer seems to be stuck.
func (sc *scan) read(ctx context.Context, fn func(*sink.Stored) error) error {
	messages, err := sc.open(ctx)
	if err != nil {
		return sc.s.explainAPI(sc.link, sc.doing, err)
	}
	defer messages.Stop()
	for opened := time.Now(); ; {
		msg, err := sc.s.nextWithin(ctx, messages, sc.look)
		switch {
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errSilent):
			if more, err := sc.wait(ctx, opened); !more {
				return err
			}
			continue
		case err != nil:
			return sc.s.explainAPI(sc.link, sc.doing, err)
		}
		sc.heard = time.Now()
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("%s: message on %s: %w", sc.doing, msg.Subject(), err)
		}
		at := meta.Sequence.Stream
		if at >= sc.next && at < sc.end {
			if err := sc.handOn(msg, meta, fn); err != nil {
				return err
			}
		}
		if sc.next = max(sc.next, at+1); sc.next >= sc.end {
			return nil
		}
		if meta.NumPending == 0 {
			if err := sc.left(ctx); err == nil {
				return nil // what comes last before the end was deleted
			}
		}
	}
}

func (sc *scan) handOn(msg jetstream.Msg, meta *jetstream.MsgMetadata, fn func(*sink.Stored) error) error {
	if matches(positionSubjects, msg.Subject()) {
		return nil
	}
	return fn(&sink.Stored{
		Topic: msg.Subject(), Offset: int64(meta.Sequence.Stream), Time: meta.Timestamp, //nolint:gosec // a sequence
		Headers: headers(msg.Headers()), Body: msg.Data(),
	})
}

// wait is called when no message has come for a while. It reports whether the scan goes on waiting,
// else how it ends.
func (sc *scan) wait(ctx context.Context, opened time.Time) (more bool, _ error) {
	err := sc.left(ctx)
	switch {
	case err == nil:
		return false, nil
	case ctx.Err() != nil:
		return false, ctx.Err()
	case time.Since(sc.heard) >= sc.silence:
		return false, fmt.Errorf("%s: %w (%v): %w", sc.doing, errSilent, sc.silence, err)
	case min(time.Since(sc.heard), time.Since(opened)) >= sc.change:
		return false, errChange
	default:
		return true, nil
	}
}

// left asks the leader of the stream what is left to read. It returns nil if that is nothing,
// errBehind if there is something, and another error if that is not known now.
func (sc *scan) left(ctx context.Context) error {
	// A leader that was deposed and does not know it yet may lack the end of the log.
	info, err := sc.s.streamInfo(ctx, sc.link)
	if err != nil {
		return err
	}
	if last := info.State.LastSeq; last+1 < sc.end {
		return fmt.Errorf("%w: it ends at sequence %d and has held %d: it was restored, or its leader is cut off", errBehind, last, sc.end-1)
	}
	switch m, err := sc.s.storedFrom(ctx, sc.link, sc.next); {
	case isCode(err, codeMessageNotFound):
		return nil
	case err != nil:
		return err
	case m.Seq < sc.end:
		return fmt.Errorf("%w, the next being sequence %d: the replica that it reads lags, or is cut off", errBehind, m.Seq)
	default:
		return nil
	}
}

// first returns the sequence from which on messages were stored at Log.Since or later; that of a
// message, or of none if there are
// none.
func (sc *scan) first(ctx context.Context) (uint64, error) {
	low, high := uint64(sc.log.From), sc.end //nolint:gosec // a sequence
	if sc.log.Since.IsZero() {
		return low, nil
	}
	for low < high {
		middle := low + (high-low)/2
		switch m, err := sc.s.storedFrom(ctx, sc.link, middle); {
		case err != nil && !isCode(err, codeMessageNotFound):
			return 0, err
		case err != nil, m.Seq >= high, !m.Time.Before(sc.log.Since):
			high = middle
		default:
			low = m.Seq + 1
		}
	}
	return low, nil
}

// consume opens a consumer that begins at the next message.
func (sc *scan) consume(ctx context.Context) (jetstream.MessagesContext, error) {
	consumer, err := sc.link.js.OrderedConsumer(ctx, sc.s.cfg.Stream, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(sc.next, 1),
	})
	if err != nil {
		return nil, err
	}
	return consumer.Messages(jetstream.PullMaxBytes(int(max(scanBytes, 2*sc.link.nc.MaxPayload()))))
}

func (s *Sink) nextWithin(ctx context.Context, messages jetstream.MessagesContext, d time.Duration) (jetstream.Msg, error) {
	waiting, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	msg, err := messages.Next(jetstream.NextContext(waiting))
	switch {
	case err == nil:
		return msg, nil
	case errors.Is(err, jetstream.ErrMsgIteratorClosed):
		return nil, errClosed
	case waiting.Err() != nil, errors.Is(err, context.DeadlineExceeded):
		return nil, errSilent
	default:
		return nil, err
	}
}

func headers(h nats.Header) []sink.Header {
	out := make([]sink.Header, 0, len(h))
	for key, values := range h {
		for _, v := range values {
			out = append(out, sink.Header{Key: key, Value: v})
		}
	}
	return out
}
