package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"workos-relay/sink"
)

// refusals says why events cannot be kept in a stream of this kind; nil if they can.
func refusals(conf jetstream.StreamConfig) []string {
	var problems []string
	refuse := func(when bool, why string) {
		if when {
			problems = append(problems, why)
		}
	}
	refuse(conf.Retention == jetstream.InterestPolicy, "its retention is interest, so an event that no consumer waits for is dropped at once: use limits")
	refuse(conf.Retention == jetstream.WorkQueuePolicy, "its retention is workqueue, so the first consumer takes an event away from all others: use limits")
	refuse(conf.Mirror != nil, "it is a mirror, which takes no messages of its own: use its origin")
	refuse(conf.Sealed, "it is sealed and takes no messages any more")
	refuse(conf.NoAck, "it does not acknowledge (no_ack), so nothing can be known to be stored")
	refuse(conf.SubjectTransform != nil, "it transforms subjects, so events would not be found under their topics")
	refuse(conf.AllowMsgCounter, "it is a stream of counters (allow_msg_counter), which takes no events")
	return problems
}

// warnings says what weakens the guarantees of a stream that can be used.
func warnings(conf jetstream.StreamConfig) []string {
	var found []string
	warn := func(when bool, what string) {
		if when {
			found = append(found, what)
		}
	}
	warn(conf.Storage == jetstream.MemoryStorage, "the stream is kept in memory: a restart of the server loses it")
	warn(conf.PersistMode == jetstream.AsyncPersistMode, "persist_mode is async: messages are acknowledged before they are written")
	warn(conf.Discard == jetstream.DiscardNew && (conf.MaxMsgs > 0 || conf.MaxBytes > 0), "discard is new: relay stands still once the stream is full")
	warn(conf.MaxMsgsPerSubject > 0, fmt.Sprintf("max_msgs_per_subject is %d: older events of a type are dropped", conf.MaxMsgsPerSubject))
	return found
}

// Holds implements sink.Destination. The leader is asked, for a replica may lag.
func (s *Sink) Holds(ctx context.Context, topics []string) (bool, error) {
	if len(topics) == 0 {
		return false, nil
	}
	l, err := s.connected(ctx)
	if err != nil {
		return false, err
	}
	info, err := s.streamInfo(ctx, l)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.State.Msgs == 0 {
		return false, nil
	}
	for _, t := range topics {
		if illegalSubject(t) != "" {
			continue
		}
		if held, err := s.holdsOn(ctx, l, t); held || err != nil {
			return held, err
		}
	}
	return false, nil
}

func (s *Sink) holdsOn(ctx context.Context, l *link, subject string) (bool, error) {
	_, err := s.lastOn(ctx, l, subject)
	switch {
	case isCode(err, codeMessageNotFound):
		return false, nil
	case err != nil:
		return false, err
	default:
		return true, nil
	}
}

// stored is a message as STREAM.MSG.GET returns it.
type stored struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Data    []byte    `json:"data"`
	Time    time.Time `json:"time"`
}

// lastOn asks for the last message on subject; see storedMessage.
func (s *Sink) lastOn(ctx context.Context, l *link, subject string) (stored, error) {
	doing := fmt.Sprintf("asking stream %s for messages on %s", s.cfg.Stream, subject)
	m, err := s.storedMessage(ctx, l, doing, fmt.Appendf(nil, `{"last_by_subj":%q}`, subject))
	if err == nil && m.Subject != subject {
		return stored{}, fmt.Errorf("%s: %w: a message on %.200q", doing, errImpossible, m.Subject)
	}
	return m, err
}

// storedFrom asks for the first message at or after a sequence; see storedMessage.
func (s *Sink) storedFrom(ctx context.Context, l *link, seq uint64) (stored, error) {
	return s.storedMessage(ctx, l, fmt.Sprintf("asking stream %s for messages from sequence %d on", s.cfg.Stream, seq), fmt.Appendf(nil, `{"seq":%d,"next_by_subj":">"}`, seq))
}

// storedMessage asks the leader of the stream for one message: this request, unlike a direct get,
// never goes to a replica. The error wraps an *jetstream.APIError if the server refused it:
// codeMessageNotFound, codeStreamNotFound.
func (s *Sink) storedMessage(ctx context.Context, l *link, doing string, which []byte) (stored, error) {
	msg, err := s.request(ctx, l, "STREAM.MSG.GET."+s.cfg.Stream, which)
	if err != nil {
		return stored{}, s.explainAPI(l, doing, err)
	}
	m, err := parseStored(msg.Data)
	var refused *jetstream.APIError
	switch {
	case errors.As(err, &refused):
		return stored{}, s.explainAPI(l, doing, refused)
	case err != nil:
		return stored{}, fmt.Errorf("%s: %w", doing, err)
	default:
		return m, nil
	}
}

// parseStored reads the answer to a request for one message. The error is an *jetstream.APIError if
// the server refused it.
func parseStored(data []byte) (stored, error) {
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message stored              `json:"message"`
	}
	switch err := json.Unmarshal(data, &answer); {
	case err != nil:
		return stored{}, err
	case answer.Error != nil:
		return stored{}, answer.Error
	case answer.Message.Seq == 0:
		return stored{}, fmt.Errorf("%w: an answer without a message", errImpossible)
	default:
		return answer.Message, nil
	}
}

// request calls the JetStream API and waits for the answer for at most ack_timeout, and no longer
// than the connection lasts.
func (s *Sink) request(ctx context.Context, l *link, call string, body []byte) (msg *nats.Msg, err error) {
	ctx, abort := context.WithCancelCause(ctx)
	lost, watched := l.lostSignal(), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-lost:
			abort(errLost)
		case <-s.closing:
			abort(errClosed)
		case <-ctx.Done():
		}
	}()
	defer func() {
		abort(nil)
		<-watched
	}()
	err = s.ask(ctx, func(ctx context.Context) (err error) {
		msg, err = l.nc.RequestWithContext(ctx, s.cfg.apiSubject(call), body)
		return err
	})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return msg, err
}

// askFirst is how long an answer is waited for until the question is put again, twice as long each
// time.
const askFirst = 500 * time.Millisecond

// ask puts a question that changes nothing until it is answered, for at most ack_timeout: one that
// arrives while a stream has no leader stays without an answer for good.
func (s *Sink) ask(ctx context.Context, question func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.AckTimeout)
	defer cancel()
	for wait := askFirst; ; wait *= 2 {
		try, done := context.WithTimeout(ctx, wait)
		err := question(try)
		done()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
	}
}

func (c Config) apiSubject(call string) string {
	switch {
	case c.Domain != "":
		return "$JS." + c.Domain + ".API." + call
	case c.APIPrefix != "":
		return strings.TrimSuffix(c.APIPrefix, ".") + "." + call
	default:
		return "$JS.API." + call
	}
}

// Inspect implements sink.Destination.
func (s *Sink) Inspect(ctx context.Context, topics []string) ([]sink.TopicStatus, error) {
	l, err := s.connected(ctx)
	if err != nil {
		return nil, err
	}
	info, err := s.streamInfo(ctx, l)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, err
	}
	var conf *jetstream.StreamConfig
	var patterns []string
	if err == nil {
		conf, patterns = &info.Config, info.Config.Subjects
	}
	owners := s.owners(ctx, l, unbound(patterns, topics))
	status := make([]sink.TopicStatus, len(topics))
	for i, t := range topics {
		status[i] = s.inspect(t, conf, owners[t])
	}
	if conf == nil && s.cfg.Create.Enabled && len(status) > 0 {
		for _, p := range s.accountProblems(ctx, l) { // about the stream, so said once
			status[0].Creates = false
			status[0].Problems = append(status[0].Problems, fmt.Sprintf("stream %s cannot be created: %s", s.cfg.Stream, p))
		}
	}
	return status, nil
}

// largest returns how many bytes of a message the server and the stream take; 0 if that is not
// known.
func (s *Sink) largest(conf *jetstream.StreamConfig) int {
	l, err := s.usableLink()
	if err != nil {
		return 0
	}
	n := int(l.nc.MaxPayload())
	if conf != nil && conf.MaxMsgSize > 0 && (n == 0 || int(conf.MaxMsgSize) < n) {
		n = int(conf.MaxMsgSize)
	}
	return n
}

// inspect looks at one topic. conf is nil where the stream does not exist; owner is another stream
// that binds the topic.
func (s *Sink) inspect(topic string, conf *jetstream.StreamConfig, owner string) sink.TopicStatus {
	st := sink.TopicStatus{Topic: topic, MaxMessage: s.largest(conf)}
	problem := func(format string, args ...any) { st.Problems = append(st.Problems, fmt.Sprintf(format, args...)) }
	if reason := illegalSubject(topic); reason != "" {
		problem("not a legal subject: %s", reason)
		return st
	}
	if conf != nil {
		st.Detail = describe(*conf)
		st.Problems, st.Warnings = refusals(*conf), warnings(*conf)
		st.Exists = len(st.Problems) == 0 && binds(conf.Subjects, topic)
	}
	switch {
	case st.Exists || len(st.Problems) > 0:
	case owner != "":
		problem("stream %s binds it already, so stream %s cannot", owner, s.cfg.Stream)
	case conf == nil && !s.cfg.Create.Enabled:
		problem("stream %s does not exist: create it, or set create.enabled", s.cfg.Stream)
	case conf != nil && !s.mayChange(*conf):
		problem("stream %s does not bind it: %s", s.cfg.Stream, s.howToChange(*conf))
	default:
		st.Creates = true
	}
	return st
}

func describe(conf jetstream.StreamConfig) string {
	age := "for ever"
	if conf.MaxAge > 0 {
		age = "for " + conf.MaxAge.Round(time.Second).String()
	}
	return fmt.Sprintf("stream %s, replicas %d, kept %s, duplicate window %v", conf.Name, conf.Replicas, age, conf.Duplicates)
}
