package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/segmentio/kafka-go/sasl"

	"workos-relay/conf/livefile"
	"workos-relay/internal/printable"
	"workos-relay/sink/kafka/oauth"
)

// TokenSource gives the token for a connection that is about to be made.
type TokenSource interface {
	Token(ctx context.Context) (*oauth.Token, error)
	// Forget drops a token that a broker has refused.
	Forget(t *oauth.Token)
}

// tokenFile is a token that others keep fresh in a file.
type tokenFile struct{ text *livefile.Value[string] }

// Token implements TokenSource.
func (f tokenFile) Token(context.Context) (*oauth.Token, error) {
	return oauth.Parse(f.text.Latest()), nil
}

// Forget implements TokenSource. The file is read for each connection anyway.
func (tokenFile) Forget(*oauth.Token) {}

// TokenFile opens a file with one bearer token. It fails if the file does not hold one.
func TokenFile(files *livefile.Set, file livefile.File) (TokenSource, error) {
	text, err := livefile.Open(files, []livefile.File{file}, parseBearer)
	return tokenFile{text}, err
}

func parseBearer(contents [][]byte) (livefile.Parsed[string], error) {
	token := strings.TrimSpace(string(contents[0]))
	switch {
	case strings.HasPrefix(token, "{"), strings.HasPrefix(token, "<"):
		return livefile.Parsed[string]{}, errors.New("does not hold one bearer token but a whole answer: write the value of access_token alone")
	case token == "" || strings.ContainsAny(token, "\x01 \r\n\t"):
		return livefile.Parsed[string]{}, errors.New("does not hold one bearer token")
	}
	return livefile.Parsed[string]{Value: token, Secrets: []string{token}}, nil
}

// Bearer is the mechanism OAUTHBEARER (RFC 7628). It asks for a token for each connection.
type Bearer struct {
	From string // key of the configuration that the token comes from

	tokens     TokenSource
	extensions string                      // as they are sent
	last       atomic.Pointer[oauth.Token] // the token of the last exchange, for messages
}

// NewBearer returns the mechanism with tokens that come from a key of the configuration. extensions
// go with each token; they must be valid.
func NewBearer(tokens TokenSource, from string, extensions map[string]string) *Bearer {
	return &Bearer{From: from, tokens: tokens, extensions: extensionsOf(extensions)}
}

// Name implements sasl.Mechanism.
func (*Bearer) Name() string { return "OAUTHBEARER" }

func extensionsOf(extensions map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(extensions)) {
		b.WriteString(name + "=" + extensions[name] + "\x01")
	}
	return b.String()
}

// Start implements sasl.Mechanism.
func (m *Bearer) Start(ctx context.Context) (sasl.StateMachine, []byte, error) {
	token, err := m.tokens.Token(ctx)
	if err != nil {
		return nil, nil, err
	}
	m.last.Store(token)
	return bearerExchange{m, token}, []byte("n,,\x01auth=Bearer " + token.Text + "\x01" + m.extensions + "\x01"), nil
}

// bearerExchange is one exchange of a Bearer.
type bearerExchange struct {
	*Bearer
	token *oauth.Token
}

// ErrTokenRefused is the answer of a broker that does not accept the bearer token.
var ErrTokenRefused = errors.New("the broker refused the bearer token")

// tokenRefusal is why a broker does not accept the bearer token, as far as relay can tell.
type tokenRefusal struct {
	from, reason, broker string
}

func (e *tokenRefusal) Error() string {
	return fmt.Sprintf("%v of %s: %s (the broker says: %s)", ErrTokenRefused, e.from, e.reason, e.broker)
}

// Is implements the interface of errors.Is.
func (*tokenRefusal) Is(target error) bool { return target == ErrTokenRefused }

// Next implements sasl.StateMachine: a challenge after the token is the broker's reason for
// refusing it.
func (e bearerExchange) Next(_ context.Context, challenge []byte) (bool, []byte, error) {
	if len(challenge) > 0 {
		return false, nil, e.refused(string(challenge))
	}
	return true, nil, nil
}

func (e bearerExchange) refused(said string) error {
	e.tokens.Forget(e.token)
	said = printable.Text(strings.ReplaceAll(said, e.token.Text, "[token]"))
	return &tokenRefusal{from: e.From, reason: e.token.Describe(time.Now()), broker: said}
}

// refusedByCode notes that a broker has ended an exchange with an error code: the token is not used
// again.
func (m *Bearer) refusedByCode() {
	if t := m.last.Load(); t != nil {
		m.tokens.Forget(t)
	}
}

// DescribeLast says what may be wrong with the token of the last exchange, "" if there was none.
func (m *Bearer) DescribeLast() string {
	if t := m.last.Load(); t != nil {
		return t.Describe(time.Now())
	}
	return ""
}

// LastExpired reports whether the token of the last exchange says that it has expired.
func (m *Bearer) LastExpired() bool {
	t := m.last.Load()
	return t != nil && t.Expired(time.Now())
}
