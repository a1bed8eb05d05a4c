package nats

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"workos-relay/internal/printable"
)

// wrongStreamError: an acknowledgement came from another stream than the configured one.
type wrongStreamError struct{ stream string }

func (e *wrongStreamError) Error() string { return fmt.Sprintf("acknowledged by stream %s", e.stream) }

// wrongDomainError: an acknowledgement came from another domain than the stream's. It says nothing
// about the stream.
type wrongDomainError struct{ domain string }

func (e *wrongDomainError) Error() string {
	return fmt.Sprintf("acknowledged by JetStream domain %q only", e.domain)
}

func isDomain(err error) bool {
	var other *wrongDomainError
	return errors.As(err, &other)
}

// ack is what a stream answers for a message that it has stored.
type ack struct {
	Stream string              `json:"stream"`
	Seq    uint64              `json:"seq"`
	Domain string              `json:"domain"`
	Batch  string              `json:"batch"` // the id of an atomic batch, of which it acknowledges all
	Count  int                 `json:"count"` // messages of that batch
	Error  *jetstream.APIError `json:"error"`
}

// maxAck bounds an acknowledgement in bytes.
const maxAck = 64 << 10

// plainAck reads the form that nearly all acknowledgements have, {"stream":"WORKOS","seq":17},
// without a JSON decoder.
func (s *stream) plainAck(data []byte) (seq uint64, ok bool) {
	h := s.home.Load()
	if h == nil {
		return 0, false
	}
	rest, ok := bytes.CutPrefix(data, h.ackPrefix)
	if !ok {
		return 0, false
	}
	for i, c := range rest {
		switch {
		case i == 0 && c == '0': // a number of JSON does not begin so
			return 0, false
		case c >= '0' && c <= '9' && i < 19:
			seq = seq*10 + uint64(c-'0')
		default:
			return seq, seq > 0 && c == '}' && i == len(rest)-1
		}
	}
	return 0, false
}

// parseAck returns the acknowledgement of a message that the stream has stored. Anything else is an
// error: what is not exactly what a server writes proves nothing. That includes names that stand
// twice or in another case.
func (s *stream) parseAck(m *nats.Msg) (ack, error) {
	if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
		return ack{}, nats.ErrNoResponders
	}
	if len(m.Data) > maxAck {
		return ack{}, fmt.Errorf("the acknowledgement has %d bytes, more than %d", len(m.Data), maxAck)
	}
	var a ack
	if err := json.Unmarshal(m.Data, &a); err != nil {
		return ack{}, fmt.Errorf("the acknowledgement is not JSON: %w", err)
	}
	switch {
	case a.Error != nil:
		a.Error.Description = printable.Text(a.Error.Description)
		return ack{}, a.Error
	case s.isOtherDomain(a.Domain):
		return ack{}, &wrongDomainError{printable.Text(a.Domain)}
	case a.Stream != s.cfg.Stream:
		return ack{}, &wrongStreamError{printable.Text(a.Stream)}
	case a.Seq == 0:
		return ack{}, errors.New("the acknowledgement has no sequence")
	}
	return a, nil
}

// mayBeAnother reports whether an answer is, or may be, that of a stream in another domain: the one
// that counts may still come.
func (s *stream) mayBeAnother(err error) bool {
	var (
		other  *wrongDomainError
		stream *wrongStreamError
		api    *jetstream.APIError
	)
	if errors.As(err, &other) {
		s.noteOther(other.domain)
		return true
	}
	return (errors.As(err, &api) || errors.As(err, &stream)) && s.severalDomains()
}

// isOtherDomain reports whether an acknowledgement that names this domain is another stream's.
func (s *stream) isOtherDomain(domain string) bool {
	h := s.home.Load()
	if h == nil {
		return s.cfg.Domain != "" && domain != s.cfg.Domain
	}
	return domain != h.domain
}
