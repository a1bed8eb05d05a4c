package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

// reader reads the stream of a sink back. Its methods are safe for concurrent use.
type reader struct {
	cfg    *Config
	conn   *connection
	stream *stream

	buckets *buckets
}

// logs implements sink.Scanner: the one log is the stream. For one topic, it is the messages of the
// stream on that topic. A stream that does not exist is none.
func (r *reader) logs(ctx context.Context, topics []string, since time.Time) ([]sink.Log, error) {
	l, err := r.conn.connected(ctx)
	if err != nil {
		return nil, err
	}
	info, err := r.stream.info(ctx, l)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	st := info.State
	only := ""
	if len(topics) == 1 {
		only = topics[0]
	}
	first := storedMessage{Seq: st.FirstSeq, Time: st.FirstTime}
	if len(r.cfg.State) > 0 {
		if first, err = r.firstEvent(ctx, l, topics, st); err != nil {
			return nil, err
		}
	}
	return []sink.Log{{
		Name:    "stream " + r.cfg.Stream,
		Topic:   only,
		From:    int64(st.FirstSeq),    //nolint:gosec // no stream holds 2^63 messages
		End:     int64(st.LastSeq) + 1, //nolint:gosec // see above
		Since:   since,
		Trimmed: first.Seq > 1 && (st.Msgs == 0 || first.Time.After(since)),

		MaxPerTopic: max(info.Config.MaxMsgsPerSubject, 0),
	}}, nil
}

// firstEvent returns the sequence and time of the first message on topics that is not one of state:
// those never expire, so they stay before events that did. If there is none, it returns those of a
// message that follows the last.
func (r *reader) firstEvent(ctx context.Context, l *link, topics []string, st jetstream.StreamState) (storedMessage, error) {
	first := storedMessage{Seq: st.LastSeq + 1, Time: st.LastTime}
	for _, topic := range topics {
		if r.cfg.isState(topic) || illegalTopic(topic) != "" {
			continue
		}
		doing := fmt.Sprintf("asking stream %s for its first message on %s", r.cfg.Stream, topic)
		m, err := r.stream.message(ctx, l, doing, fmt.Appendf(nil, `{"seq":1,"next_by_subj":%q}`, topic))
		switch {
		case isCode(err, jetstream.JSErrCodeMessageNotFound):
		case err != nil:
			return first, err
		case m.Seq < first.Seq:
			first = m
		}
	}
	return first, nil
}

// scan implements sink.Scanner. Positions of relay and state messages are left out. A consumer
// reads one replica, which may lag behind the stream and then says that there is no more. Whether
// that is so, the leader of the stream decides.
func (r *reader) scan(ctx context.Context, log sink.Log, fn func(*sink.Stored) error) error {
	if log.From >= log.End {
		return nil
	}
	l, err := r.conn.connected(ctx)
	if err != nil {
		return err
	}
	return scanOf(r, l, log).run(ctx, fn)
}

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

// scan is one run of Scan.
type scan struct {
	r     *reader
	link  *link
	log   sink.Log
	end   uint64 // Log.End
	doing string
	open  func(ctx context.Context) (jetstream.MessagesContext, error) // begins at next, or before

	look, change, silence time.Duration // scanLook, scanChange, scanSilence

	next  uint64    // every message before it has been handed on
	heard time.Time // when the last message came
}

func scanOf(r *reader, l *link, log sink.Log) *scan {
	sc := &scan{
		r: r, link: l, log: log, end: uint64(log.End), doing: "reading stream " + r.cfg.Stream, //nolint:gosec // a sequence
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
		return sc.link.explainAPI(sc.doing, err)
	}
	defer messages.Stop()
	for opened := time.Now(); ; {
		msg, err := sc.r.nextWithin(ctx, messages, sc.look)
		switch {
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errSilent):
			if more, err := sc.wait(ctx, opened); !more {
				return err
			}
			continue
		case err != nil:
			return sc.link.explainAPI(sc.doing, err)
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
	if sink.Matches(positionSubjects, msg.Subject()) || sc.r.cfg.onState(msg.Subject()) {
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
	info, err := sc.r.stream.info(ctx, sc.link)
	if err != nil {
		return err
	}
	if last := info.State.LastSeq; last+1 < sc.end {
		return fmt.Errorf("%w: it ends at sequence %d and has held %d: it was restored, or its leader is cut off", errBehind, last, sc.end-1)
	}
	switch m, err := sc.r.stream.storedFrom(ctx, sc.link, sc.next, sc.log.Topic); {
	case isCode(err, jetstream.JSErrCodeMessageNotFound):
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
		switch m, err := sc.r.stream.storedFrom(ctx, sc.link, middle, sc.log.Topic); {
		case err != nil && !isCode(err, jetstream.JSErrCodeMessageNotFound):
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
	conf := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: max(sc.next, 1)}
	if sc.log.Topic != "" {
		conf.FilterSubjects = []string{sc.log.Topic}
	}
	consumer, err := sc.link.js.OrderedConsumer(ctx, sc.r.cfg.Stream, conf)
	if err != nil {
		return nil, err
	}
	return consumer.Messages(jetstream.PullMaxBytes(int(max(scanBytes, 2*sc.link.nc.MaxPayload()))))
}

func (r *reader) nextWithin(ctx context.Context, messages jetstream.MessagesContext, d time.Duration) (jetstream.Msg, error) {
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

// TailOptions says what Tail reads.
type TailOptions struct {
	Subjects  []string // filters, with the wildcards of NATS; none reads every subject of the stream but those of positions
	FromStart bool     // from the first message stored, otherwise only what comes from now on
}

// wantsState reports whether the message of state on subject is asked for: a filter names such
// subjects, and is not that of every subject behind the prefix of topics.
func (o TailOptions) wantsState(prefix, subject string) bool {
	return slices.ContainsFunc(o.Subjects, func(f string) bool { return f != ">" && f != prefix+">" && sink.Matches(f, subject) })
}

// Stored is a message as the stream holds it.
type Stored struct {
	sink.Message           // without Key and Position
	Sequence     uint64    // in the stream
	Time         time.Time // when it was stored
}

func (r *reader) tail(ctx context.Context, opts TailOptions, fn func(Stored) error) error {
	l, err := r.conn.connected(ctx)
	if err != nil {
		return err
	}
	conf := jetstream.OrderedConsumerConfig{FilterSubjects: opts.Subjects, DeliverPolicy: jetstream.DeliverNewPolicy}
	if opts.FromStart {
		conf.DeliverPolicy = jetstream.DeliverAllPolicy
	}
	doing := "reading stream " + r.cfg.Stream
	consumer, err := l.js.OrderedConsumer(ctx, r.cfg.Stream, conf)
	if err != nil {
		return l.explainAPI(doing, err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return l.explainAPI(doing, err)
	}
	defer messages.Stop()
	for {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		switch {
		case errors.Is(err, jetstream.ErrMsgIteratorClosed):
			return errClosed
		case err != nil:
			return l.explainAPI(doing, err)
		case sink.Matches(positionSubjects, msg.Subject()), r.cfg.onState(msg.Subject()) && !opts.wantsState(r.cfg.TopicPrefix, msg.Subject()):
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

// shorterLooks is how often a stream that ends earlier than before is looked at: a new leader may
// have yet to apply what is committed.
const shorterLooks = 20

// survey implements sink.Destination: the one part is the stream, and its end is the sequence after
// the last.
func (r *reader) survey(ctx context.Context, known []checkpoint.Part) ([]checkpoint.Part, error) {
	l, err := r.conn.connected(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.stream.checkDomain(ctx, l); err != nil {
		return nil, err
	}
	for look := 1; ; look++ {
		info, err := r.stream.info(ctx, l)
		var parts []checkpoint.Part
		switch {
		case err == nil:
			parts = []checkpoint.Part{r.part(info)}
		case !errors.Is(err, jetstream.ErrStreamNotFound):
			return nil, err
		}
		if !goneBack(known, parts) || madeAgain(known, parts) && look >= deletedLooks || look >= shorterLooks {
			return parts, nil
		}
		if err := r.conn.sleep(ctx, deletedPause); err != nil {
			return nil, err
		}
	}
}

// ping implements sink.Destination.
func (r *reader) ping(ctx context.Context) error {
	l, err := r.conn.connected(ctx)
	if err != nil {
		return err
	}
	_, err = r.stream.info(ctx, l)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil
	case err != nil:
		return err
	default:
		r.buckets.restore(ctx, l)
		return nil
	}
}

func (r *reader) part(info *jetstream.StreamInfo) checkpoint.Part {
	return checkpoint.Part{
		Name:   "stream " + r.cfg.Stream,
		ID:     createdText(info),
		Ends:   []int64{int64(info.State.LastSeq) + 1}, //nolint:gosec // no stream holds 2^63 messages
		Events: info.State.Msgs,
	}
}

// goneBack reports whether a known part is missing or ends earlier than it did.
func goneBack(known, now []checkpoint.Part) bool {
	return slices.ContainsFunc(known, func(k checkpoint.Part) bool {
		at := slices.IndexFunc(now, func(p checkpoint.Part) bool { return p.Name == k.Name })
		return at < 0 || len(k.Ends) > 0 && now[at].Ends[0] < k.Ends[0]
	})
}

// madeAgain reports whether a known part is missing or another one now.
func madeAgain(known, now []checkpoint.Part) bool {
	return slices.ContainsFunc(known, func(k checkpoint.Part) bool {
		return !slices.ContainsFunc(now, func(p checkpoint.Part) bool { return p.Name == k.Name && p.ID == k.ID })
	})
}
