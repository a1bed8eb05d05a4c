package nats

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"workos-relay/sink"
)

// sourceHeader is set by the server in what a bucket copies: the stream, a sequence in it, and
// more.
const sourceHeader = "Nats-Stream-Source"

// copyPatience is how long a reader of a bucket waits until the server has copied what the stream
// held when it began.
const copyPatience = time.Minute

// readState implements Sink.ReadState. It reads the bucket, which holds one message for each key.
func (r *reader) readState(ctx context.Context, t sink.StateTopic, fn func(*sink.Stored) error) error {
	l, err := r.conn.connected(ctx)
	if err != nil {
		return err
	}
	if err := r.awaitCopy(ctx, l, t); err != nil {
		return err
	}
	doing := "reading bucket " + BucketOf(t)
	info, err := r.buckets.info(ctx, l, t)
	if err != nil {
		return err
	}
	if info.State.Msgs == 0 {
		return nil
	}
	consumer, err := l.js.OrderedConsumer(ctx, bucketStream+BucketOf(t), jetstream.OrderedConsumerConfig{})
	if err != nil {
		return l.explainAPI(doing, err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return l.explainAPI(doing, err)
	}
	defer messages.Stop()
	next := uint64(1)
	for heard := time.Now(); ; {
		msg, err := r.nextWithin(ctx, messages, scanLook)
		switch {
		case errors.Is(err, errSilent) && ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errSilent) && time.Since(heard) < scanSilence: // a restart, an election, or the last one expired
			_, err := r.inBucket(ctx, l, t, fmt.Appendf(nil, `{"seq":%d,"next_by_subj":">"}`, next))
			if isCode(err, jetstream.JSErrCodeMessageNotFound) {
				return nil
			}
			continue
		case err != nil:
			return l.explainAPI(doing, err)
		}
		heard = time.Now()
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("%s: message on %s: %w", doing, msg.Subject(), err)
		}
		stored, err := objectOf(t, msg.Subject(), msg.Headers(), msg.Data())
		if err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		next = meta.Sequence.Stream + 1
		stored.Offset, stored.Time = int64(meta.Sequence.Stream), meta.Timestamp //nolint:gosec // a sequence
		if err := fn(stored); err != nil {
			return err
		}
		// A version that changes meanwhile moves to the end, so the end is where nothing is left.
		if meta.NumPending == 0 && meta.Sequence.Stream >= info.State.LastSeq {
			return nil
		}
	}
}

// readObject implements Sink.ReadObject.
func (r *reader) readObject(ctx context.Context, t sink.StateTopic, key []byte) (*sink.Stored, error) {
	l, err := r.conn.connected(ctx)
	if err != nil {
		return nil, err
	}
	if len(key) == 0 {
		return nil, nil
	}
	if err := r.awaitCopy(ctx, l, t); err != nil {
		return nil, err
	}
	m, err := r.inBucket(ctx, l, t, fmt.Appendf(nil, `{"last_by_subj":%q}`, bucketSubject+BucketOf(t)+"."+bucketKey(key)))
	switch {
	case isCode(err, jetstream.JSErrCodeMessageNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	header, err := headerOf(m)
	if err != nil {
		return nil, fmt.Errorf("reading bucket %s: %w", BucketOf(t), err)
	}
	stored, err := objectOf(t, m.Subject, header, m.Data)
	if err != nil {
		return nil, fmt.Errorf("reading bucket %s: %w", BucketOf(t), err)
	}
	if stored.Body == nil {
		return nil, nil
	}
	stored.Offset, stored.Time = int64(m.Seq), m.Time //nolint:gosec // a sequence
	return stored, nil
}

// inBucket asks the leader of a bucket for one message.
func (r *reader) inBucket(ctx context.Context, l *link, t sink.StateTopic, which []byte) (storedMessage, error) {
	return r.conn.message(ctx, l, "reading bucket "+BucketOf(t), bucketStream+BucketOf(t), which)
}

// headerOf returns the headers of a message.
func headerOf(m storedMessage) (nats.Header, error) {
	if len(m.Header) == 0 {
		return nil, nil
	}
	return nats.DecodeHeadersMsg(m.Header)
}

// objectOf returns a message of a bucket as the state message that it is a copy of.
func objectOf(t sink.StateTopic, subject string, header nats.Header, data []byte) (*sink.Stored, error) {
	form, ok := strings.CutPrefix(subject, bucketSubject+BucketOf(t)+".")
	key, err := keyOfBucket(form)
	if !ok || err != nil {
		return nil, fmt.Errorf("%w: a message on %.200q", errImpossible, subject)
	}
	s := &sink.Stored{Topic: t.Topic, Key: key, Body: data}
	for name, values := range header {
		switch {
		case name == operationHeader:
			s.Body = nil
			continue
		case strings.HasPrefix(name, "Nats-"):
			continue
		}
		for _, v := range values {
			s.Headers = append(s.Headers, sink.Header{Key: name, Value: v})
		}
	}
	return s, nil
}

// keyOfBucket is the reverse of bucketKey.
func keyOfBucket(form string) ([]byte, error) {
	key := make([]byte, 0, len(form))
	for i := 0; i < len(form); i++ {
		if form[i] != '=' {
			key = append(key, form[i])
			continue
		}
		if len(form) < i+3 {
			return nil, strconv.ErrSyntax
		}
		b, err := strconv.ParseUint(form[i+1:i+3], 16, 8)
		if err != nil {
			return nil, err
		}
		key = append(key, byte(b))
		i += 2
	}
	return key, nil
}

// awaitCopy waits until the bucket has what the stream holds now, except removals that expire
// meanwhile. If somebody has deleted from the bucket what was copied last, the bucket does not tell
// how far it has come. It then counts as complete if the server has had nothing to copy for
// copySettled.
func (r *reader) awaitCopy(ctx context.Context, l *link, t sink.StateTopic) error {
	want, end := uint64(math.MaxUint64), uint64(0)
	began := time.Now()
	for idle := began; ; {
		last, err := r.stream.message(ctx, l, "asking for the last state of "+t.Entity, fmt.Appendf(nil, `{"last_by_subj":%q}`, t.Topic+".>"))
		switch {
		case isCode(err, jetstream.JSErrCodeMessageNotFound):
			return nil
		case err != nil:
			return err
		}
		want = min(want, last.Seq)
		copied, info, err := r.copied(ctx, l, t)
		switch {
		case err != nil:
			return err
		case copied >= want:
			return nil
		case info.State.LastSeq == 0 || info.State.LastSeq != end || !hasNothingToCopy(info):
			idle, end = time.Now(), info.State.LastSeq
		case time.Since(idle) >= copySettled:
			return nil
		}
		if time.Since(began) >= copyPatience {
			return fmt.Errorf("bucket %s has copied stream %s up to sequence %d in %v, and not to %d: the server does not go on copying; "+
				"`nats stream info %s` says why", BucketOf(t), r.cfg.Stream, copied, copyPatience, want, bucketStream+BucketOf(t))
		}
		if err := r.conn.sleep(ctx, copyLook); err != nil {
			return err
		}
	}
}

// copySettled is how long the server must have nothing to copy, and hear of its source, until a
// bucket counts as complete that does not tell what it has copied last.
const copySettled = 5 * time.Second

// hasNothingToCopy reports whether the server says of each source of a bucket that it is read to
// its end.
func hasNothingToCopy(info *jetstream.StreamInfo) bool {
	return len(info.Sources) > 0 && !slices.ContainsFunc(info.Sources, func(s *jetstream.StreamSourceInfo) bool {
		return s.Lag > 0 || s.Active < 0 || s.Active > copySettled
	})
}

// copyLook is how often awaitCopy looks.
const copyLook = 50 * time.Millisecond

// copied returns the sequence in the stream of the newest message that the bucket holds; 0 if it
// holds none.
func (r *reader) copied(ctx context.Context, l *link, t sink.StateTopic) (uint64, *jetstream.StreamInfo, error) {
	info, err := r.buckets.info(ctx, l, t)
	if err != nil || info.State.Msgs == 0 {
		return 0, info, err
	}
	// Not the message at LastSeq: a marker of a removal that has expired is not there any more.
	m, err := r.inBucket(ctx, l, t, fmt.Appendf(nil, `{"last_by_subj":%q}`, bucketSubject+BucketOf(t)+".>"))
	switch {
	case isCode(err, jetstream.JSErrCodeMessageNotFound): // all that was there has expired, or was deleted
		return 0, info, nil
	case err != nil:
		return 0, info, err
	}
	header, err := headerOf(m)
	if err != nil {
		return 0, info, fmt.Errorf("reading bucket %s: %w", BucketOf(t), err)
	}
	fields := strings.Fields(header.Get(sourceHeader))
	if len(fields) < 2 {
		return 0, info, nil
	}
	sequence, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return 0, info, fmt.Errorf("%w: the header %s of a message of bucket %s", errImpossible, sourceHeader, BucketOf(t))
	}
	return sequence, info, nil
}
