package nats

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"workos-relay/sink"
)

// TailOptions says what Tail reads.
type TailOptions struct {
	Subjects  []string // filters, with the wildcards of NATS; none reads every subject of the stream but those of positions
	FromStart bool     // from the first message stored, otherwise only what comes from now on
}

// Stored is a message as the stream holds it.
type Stored struct {
	sink.Message           // without Key and Position
	Sequence     uint64    // in the stream
	Time         time.Time // when it was stored
}

// Tail reads the stream in order and calls fn for each message until ctx ends, which returns nil,
// or fn returns an error, which is returned. Positions of relay are left out. It leaves no trace on
// the server, and goes on after a broken connection without a gap.
func (s *Sink) Tail(ctx context.Context, opts TailOptions, fn func(Stored) error) error {
	err := s.tail(ctx, opts, fn)
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the caller has had enough
	}
	return err
}

func (s *Sink) tail(ctx context.Context, opts TailOptions, fn func(Stored) error) error {
	l, err := s.connected(ctx)
	if err != nil {
		return err
	}
	conf := jetstream.OrderedConsumerConfig{FilterSubjects: opts.Subjects, DeliverPolicy: jetstream.DeliverNewPolicy}
	if opts.FromStart {
		conf.DeliverPolicy = jetstream.DeliverAllPolicy
	}
	doing := "reading stream " + s.cfg.Stream
	consumer, err := l.js.OrderedConsumer(ctx, s.cfg.Stream, conf)
	if err != nil {
		return s.explainAPI(l, doing, err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return s.explainAPI(l, doing, err)
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		switch {
		case errors.Is(err, jetstream.ErrMsgIteratorClosed):
			return errClosed
		case err != nil:
			return s.explainAPI(l, doing, err)
		case matches(positionSubjects, msg.Subject()):
			continue
		}
		stored, err := decode(msg)
		if err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		if err := fn(stored); err != nil {
			return err
		}
	}
}

func decode(msg jetstream.Msg) (Stored, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return Stored{}, fmt.Errorf("message on %s: %w", msg.Subject(), err)
	}
	st := Stored{Sequence: meta.Sequence.Stream, Time: meta.Timestamp}
	st.Topic, st.Body = msg.Subject(), msg.Data()
	for key, values := range msg.Headers() {
		switch {
		case key == msgIDHeader:
			st.ID = values[0]
			continue
		case strings.HasPrefix(key, batchHeaders):
			continue
		}
		for _, v := range values {
			st.Headers = append(st.Headers, sink.Header{Key: key, Value: v})
		}
	}
	return st, nil
}
