package nats

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"workos-relay/internal/printable"
	"workos-relay/sink"
)

// stream asks the leader of the stream, and keeps those of its answers that publishing relies on.
// Its methods are safe for concurrent use.
type stream struct {
	cfg  *Config
	conn *connection

	maxMsg  atomic.Int64             // MaxMsgSize of the stream as last seen; 0 or less for none
	binding atomic.Pointer[[]string] // the subjects of the stream as last seen; nil before that

	home        atomic.Pointer[homeDomain] // nil before Prepare: every domain counts
	otherDomain atomic.Pointer[string]     // one that has acknowledged too; nil if none has
}

// Looks at a stream that seems to be gone, before it counts as deleted: a cluster that starts up
// must not look like that.
const (
	deletedLooks = 6
	deletedPause = 500 * time.Millisecond
)

// info asks the leader of the stream. What Publish and Commit check before they send is taken
// from the answer.
func (s *stream) info(ctx context.Context, l *link) (*jetstream.StreamInfo, error) {
	var stream jetstream.Stream
	err := s.conn.untilAnswered(ctx, func(ctx context.Context) (err error) {
		stream, err = l.js.Stream(ctx, s.cfg.Stream)
		return err
	})
	if err != nil {
		return nil, l.explainAPI("looking for stream "+s.cfg.Stream, err)
	}
	return s.noted(stream.CachedInfo()), nil
}

func (s *stream) noted(info *jetstream.StreamInfo) *jetstream.StreamInfo {
	s.maxMsg.Store(int64(info.Config.MaxMsgSize))
	s.binding.Store(&info.Config.Subjects)
	return info
}

// lookAgain looks for the stream, several times if it seems to be gone, for a cluster that
// starts up looks like that.
func (s *stream) lookAgain(ctx context.Context, l *link) (*jetstream.StreamInfo, error) {
	for look := 1; ; look++ {
		info, err := s.info(ctx, l)
		if !errors.Is(err, jetstream.ErrStreamNotFound) || look >= deletedLooks {
			return info, err
		}
		if err := s.conn.sleep(ctx, deletedPause); err != nil {
			return nil, err
		}
	}
}

// limits are those of the server that l leads to and of the stream as last seen.
func (s *stream) limits(l *link) limits {
	return limits{
		maxPayload: l.nc.MaxPayload(), server: printable.Text(l.nc.ConnectedServerName()),
		maxMsgSize: s.maxMsg.Load(), stream: s.cfg.Stream,
	}
}

// holds implements Sink.Holds.
func (s *stream) holds(ctx context.Context, topics []string) (bool, error) {
	if len(topics) == 0 {
		return false, nil
	}
	l, err := s.conn.connected(ctx)
	if err != nil {
		return false, err
	}
	info, err := s.info(ctx, l)
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
		if illegalTopic(t) != "" {
			continue
		}
		if held, err := s.holdsOn(ctx, l, t); held || err != nil {
			return held, err
		}
	}
	return false, nil
}

func (s *stream) holdsOn(ctx context.Context, l *link, subject string) (bool, error) {
	var err error
	below := subject
	if s.cfg.isState(subject) {
		below += ".>"
	}
	if sink.IsPattern(below) {
		doing := fmt.Sprintf("asking stream %s for messages on %s", s.cfg.Stream, below)
		_, err = s.message(ctx, l, doing, fmt.Appendf(nil, `{"seq":1,"next_by_subj":%q}`, below))
	} else {
		_, err = s.lastOn(ctx, l, subject)
	}
	switch {
	case isCode(err, jetstream.JSErrCodeMessageNotFound):
		return false, nil
	case err != nil:
		return false, err
	default:
		return true, nil
	}
}

// storedMessage is a message as STREAM.MSG.GET returns it.
type storedMessage struct {
	Subject string    `json:"subject"`
	Seq     uint64    `json:"seq"`
	Data    []byte    `json:"data"`
	Header  []byte    `json:"hdrs"`
	Time    time.Time `json:"time"`
}

// lastOn asks for the last message on subject; see storedMessage.
func (s *stream) lastOn(ctx context.Context, l *link, subject string) (storedMessage, error) {
	doing := fmt.Sprintf("asking stream %s for messages on %s", s.cfg.Stream, subject)
	m, err := s.message(ctx, l, doing, fmt.Appendf(nil, `{"last_by_subj":%q}`, subject))
	if err == nil && m.Subject != subject {
		return storedMessage{}, fmt.Errorf("%s: %w: a message on %.200q", doing, errImpossible, m.Subject)
	}
	return m, err
}

// storedFrom asks for the first message at or after a sequence, on a subject or, if that is empty,
// on any; see storedMessage.
func (s *stream) storedFrom(ctx context.Context, l *link, seq uint64, subject string) (storedMessage, error) {
	return s.message(ctx, l, fmt.Sprintf("asking stream %s for messages from sequence %d on", s.cfg.Stream, seq),
		fmt.Appendf(nil, `{"seq":%d,"next_by_subj":%q}`, seq, cmp.Or(subject, ">")))
}

// message asks the leader of the stream for one message: this request, unlike a direct get,
// never goes to a replica. The error wraps an *jetstream.APIError if the server refused it:
// jetstream.JSErrCodeMessageNotFound, jetstream.JSErrCodeStreamNotFound.
func (s *stream) message(ctx context.Context, l *link, doing string, which []byte) (storedMessage, error) {
	return s.conn.message(ctx, l, doing, s.cfg.Stream, which)
}

// message asks the leader of a stream for one message, as stream.message does.
func (c *connection) message(ctx context.Context, l *link, doing, stream string, which []byte) (storedMessage, error) {
	msg, err := c.request(ctx, l, "STREAM.MSG.GET."+stream, which)
	if err != nil {
		return storedMessage{}, l.explainAPI(doing, err)
	}
	m, err := parseStored(msg.Data)
	var refused *jetstream.APIError
	switch {
	case errors.As(err, &refused):
		return storedMessage{}, l.explainAPI(doing, refused)
	case err != nil:
		return storedMessage{}, fmt.Errorf("%s: %w", doing, err)
	default:
		return m, nil
	}
}

// parseStored reads the answer to a request for one message. The error is an *jetstream.APIError if
// the server refused it.
func parseStored(data []byte) (storedMessage, error) {
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message storedMessage       `json:"message"`
	}
	switch err := json.Unmarshal(data, &answer); {
	case err != nil:
		return storedMessage{}, err
	case answer.Error != nil:
		return storedMessage{}, answer.Error
	case answer.Message.Seq == 0:
		return storedMessage{}, fmt.Errorf("%w: an answer without a message", errImpossible)
	default:
		return answer.Message, nil
	}
}

// homeDomain is the JetStream domain that the stream is in, as relay knows it since Prepare.
// Streams of other domains may bind the same subjects, as on a hub and its leaf nodes, and answer
// what is published to them. An acknowledgement names its domain, and counts only if that is home.
// A refusal names none.
type homeDomain struct {
	domain    string // empty for a server without domains
	created   string // of the stream
	ackPrefix []byte // what most acknowledgements of the stream begin with
}

func newHome(stream, domain, created string) *homeDomain {
	h := &homeDomain{domain: domain, created: created}
	if domain == "" {
		h.ackPrefix = fmt.Appendf(nil, `{"stream":%q,"seq":`, stream)
	} else {
		h.ackPrefix = fmt.Appendf(nil, `{"stream":%q,"domain":%q,"seq":`, stream, domain)
	}
	return h
}

// rememberDomain makes the domain of the stream the one whose acknowledgements count.
func (s *stream) rememberDomain(ctx context.Context, l *link) error {
	info, err := s.info(ctx, l) // what a cluster answers when it creates a stream does not name the domain
	if err != nil {
		return err
	}
	if s.cfg.Domain != "" && info.Domain != s.cfg.Domain {
		return &sink.FatalError{Err: fmt.Errorf("stream %s answers for domain %s, but says that it is in domain %q, so its acknowledgements "+
			"could not be told from others; set domain to the name in the server's jetstream section, or use api_prefix", s.cfg.Stream, s.cfg.Domain, info.Domain)}
	}
	s.home.Store(newHome(s.cfg.Stream, info.Domain, createdText(info)))
	l.sameDomain.Store(true)
	return nil
}

// createdText is what tells a stream from one that was made again under its name.
func createdText(info *jetstream.StreamInfo) string {
	return info.Created.UTC().Format("2006-01-02T15:04:05.999999999Z")
}

// checkDomain returns an error if the connection leads to another domain than the one that relay
// prepared the stream in. With a configured domain the API itself is that domain's.
func (s *stream) checkDomain(ctx context.Context, l *link) error {
	h := s.home.Load()
	if h == nil || s.cfg.Domain != "" || l.sameDomain.Load() {
		return nil
	}
	domain := h.domain
	switch info, err := s.info(ctx, l); {
	case err == nil && createdText(info) == h.created:
	case err == nil:
		domain = info.Domain
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return err
	default: // what the account says, if the user may ask
		err := s.conn.untilAnswered(ctx, func(ctx context.Context) error {
			account, err := l.js.AccountInfo(ctx)
			if err == nil {
				domain = account.Domain
			}
			return err
		})
		if err != nil {
			s.cfg.Logger.Debug("the JetStream domain of the server is not known", zap.Error(err))
		}
	}
	if domain != h.domain {
		return fmt.Errorf("the connection leads to server %s in JetStream domain %q, and stream %s was in domain %q before: "+
			"set domain, or take the server out of url", printable.Text(l.nc.ConnectedServerName()), domain, s.cfg.Stream, h.domain)
	}
	l.sameDomain.Store(true)
	return nil
}

// severalDomains reports whether an answer may come from another domain.
func (s *stream) severalDomains() bool {
	h := s.home.Load()
	return h != nil && h.domain != "" || s.otherDomain.Load() != nil
}

// noteOther notes that another domain has stored what was meant for the stream.
func (s *stream) noteOther(domain string) {
	if before := s.otherDomain.Swap(&domain); before == nil || *before != domain {
		own := ""
		if h := s.home.Load(); h != nil {
			own = h.domain
		}
		s.cfg.Logger.Warn("another JetStream domain stores copies of what is published: a stream there binds the same subjects; its acknowledgements do not count",
			zap.String("domain", domain), zap.String("own_domain", own), zap.String("stream", s.cfg.Stream))
	}
}

// confirm returns an error if the stream itself, asked through the API of its domain, can take no
// message. It follows a refusal that may be that of a stream in another domain.
func (s *stream) confirm(ctx context.Context, l *link, refusal error) error {
	info, err := s.info(ctx, l) // and its limits are known afresh for the next attempt
	if err == nil && info.Config.Sealed {
		return &sink.FatalError{Err: fmt.Errorf("stream %s is sealed and takes no message any more: use another stream: %w", s.fullName(), refusal)}
	}
	return nil
}

// fullName names the stream with its domain.
func (s *stream) fullName() string {
	if h := s.home.Load(); h != nil && h.domain != "" {
		return s.cfg.Stream + " of domain " + h.domain
	}
	return s.cfg.Stream
}
