package nats

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"workos-relay/internal/printable"
	"workos-relay/sink"
)

// home is the JetStream domain that the stream is in, as relay knows it since Prepare. Streams of
// other domains may bind the same subjects, as on a hub and its leaf nodes, and answer what is
// published to them. An acknowledgement names its domain, and counts only if that is home. A
// refusal names none.
type home struct {
	domain    string // empty for a server without domains
	created   string // of the stream
	ackPrefix []byte // what most acknowledgements of the stream begin with
}

func newHome(stream, domain, created string) *home {
	h := &home{domain: domain, created: created}
	if domain == "" {
		h.ackPrefix = fmt.Appendf(nil, `{"stream":%q,"seq":`, stream)
	} else {
		h.ackPrefix = fmt.Appendf(nil, `{"stream":%q,"domain":%q,"seq":`, stream, domain)
	}
	return h
}

// wrongDomainError: an acknowledgement came from another domain than the stream's. It says nothing
// about the stream.
type wrongDomainError struct{ domain string }

func (e *wrongDomainError) Error() string {
	return fmt.Sprintf("acknowledged by JetStream domain %q only", e.domain)
}

// settleIn makes the domain of the stream the one whose acknowledgements count.
func (s *Sink) settleIn(ctx context.Context, l *link) error {
	info, err := s.streamInfo(ctx, l) // what a cluster answers when it creates a stream does not name the domain
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

// atHome returns an error if the connection leads to another domain than the one that relay
// prepared the stream in. With a configured domain the API itself is that domain's.
func (s *Sink) atHome(ctx context.Context, l *link) error {
	h := s.home.Load()
	if h == nil || s.cfg.Domain != "" || l.sameDomain.Load() {
		return nil
	}
	domain := h.domain
	switch info, err := s.streamInfo(ctx, l); {
	case err == nil && createdText(info) == h.created:
	case err == nil:
		domain = info.Domain
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return err
	default: // what the account says, if the user may ask
		err := s.ask(ctx, func(ctx context.Context) error {
			account, err := l.js.AccountInfo(ctx)
			if err == nil {
				domain = account.Domain
			}
			return err
		})
		if err != nil {
			s.log.Debug("the JetStream domain of the server is not known", zap.Error(err))
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
func (s *Sink) severalDomains() bool {
	h := s.home.Load()
	return h != nil && h.domain != "" || s.otherDomain.Load() != nil
}

// noteOther notes that another domain has stored what was meant for the stream.
func (s *Sink) noteOther(domain string) {
	if before := s.otherDomain.Swap(&domain); before == nil || *before != domain {
		own := ""
		if h := s.home.Load(); h != nil {
			own = h.domain
		}
		s.log.Warn("another JetStream domain stores copies of what is published: a stream there binds the same subjects; its acknowledgements do not count",
			zap.String("domain", domain), zap.String("own_domain", own), zap.String("stream", s.cfg.Stream))
	}
}

// confirm returns an error if the stream itself, asked through the API of its domain, can take no
// message. It follows a refusal that may be that of a stream in another domain.
func (s *Sink) confirm(ctx context.Context, l *link, refusal error) error {
	info, err := s.streamInfo(ctx, l) // and its limits are known afresh for the next attempt
	if err == nil && info.Config.Sealed {
		return &sink.FatalError{Err: fmt.Errorf("stream %s is sealed and takes no message any more: use another stream: %w", s.where(), refusal)}
	}
	return nil
}

// where names the stream with its domain.
func (s *Sink) where() string {
	if h := s.home.Load(); h != nil && h.domain != "" {
		return s.cfg.Stream + " of domain " + h.domain
	}
	return s.cfg.Stream
}
