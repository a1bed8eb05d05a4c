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
	scanBytes = 8 << 20 // what is under way to a scan at a time
	// scanSilence is how long a scan waits for a message that must come, through elections and reconnections.
	scanSilence = time.Minute
	// scanTail is how long it waits where the server says that there is no more, while the end of the log is not reached: the last
	// messages were deleted, or a replica lags.
	scanTail = 3 * time.Second
)

var _ sink.Scanner = (*Sink)(nil)

// Logs implements sink.Scanner: the one log is the stream, whatever the topics. A stream that does not exist is none.
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
	}}, nil
}

// Scan implements sink.Scanner. Positions of relay are left out.
func (s *Sink) Scan(ctx context.Context, log sink.Log, fn func(*sink.Stored) error) error {
	if log.From >= log.End {
		return nil
	}
	l, err := s.connected(ctx)
	if err != nil {
		return err
	}
	conf := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}
	if !log.Since.IsZero() {
		conf.DeliverPolicy, conf.OptStartTime = jetstream.DeliverByStartTimePolicy, &log.Since
	}
	doing := "reading stream " + s.cfg.Stream
	consumer, err := l.js.OrderedConsumer(ctx, s.cfg.Stream, conf)
	if err != nil {
		return s.explainAPI(l, doing, err)
	}
	if consumer.CachedInfo().NumPending == 0 {
		return nil
	}
	messages, err := consumer.Messages(jetstream.PullMaxBytes(int(max(scanBytes, 2*l.nc.MaxPayload()))))
	if err != nil {
		return s.explainAPI(l, doing, err)
	}
	defer messages.Stop()
	for wait := scanSilence; ; {
		msg, err := s.nextWithin(ctx, messages, wait)
		switch {
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errSilent) && wait == scanTail:
			return nil
		case err != nil:
			return s.explainAPI(l, doing, err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("%s: message on %s: %w", doing, msg.Subject(), err)
		}
		at := int64(meta.Sequence.Stream) //nolint:gosec // no stream holds 2^63 messages
		if at >= log.End {
			return nil
		}
		if !matches(positionSubjects, msg.Subject()) {
			stored := sink.Stored{Topic: msg.Subject(), Offset: at, Time: meta.Timestamp, Headers: headers(msg.Headers()), Body: msg.Data()}
			if err := fn(&stored); err != nil {
				return err
			}
		}
		if at == log.End-1 {
			return nil
		}
		if wait = scanSilence; meta.NumPending == 0 {
			wait = scanTail
		}
	}
}

var errSilent = errors.New("no message came in time")

func (s *Sink) nextWithin(ctx context.Context, messages jetstream.MessagesContext, d time.Duration) (jetstream.Msg, error) {
	waiting, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	msg, err := messages.Next(jetstream.NextContext(waiting))
	switch {
	case err == nil:
		return msg, nil
	case errors.Is(err, jetstream.ErrMsgIteratorClosed):
		return nil, errClosed
	case waiting.Err() != nil:
		return nil, fmt.Errorf("%w (%v)", errSilent, d)
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
