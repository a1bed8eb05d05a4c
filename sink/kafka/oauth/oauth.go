// Package oauth gets access tokens for SASL/OAUTHBEARER by OAuth 2.0's client credentials grant
// (RFC 6749, section 4.4). The client proves itself by a secret, or by a JWT that it signs with its
// private key (RFC 7523, section 2.2).
package oauth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"workos-relay/conf/livefile"
)

const (
	// renewAt is the share of a token's life after which it is renewed, as in Kafka's Java client.
	renewAt = 0.8
	// unknownLife is how long a token is used if neither the endpoint nor the token says how long
	// it is valid.
	unknownLife = time.Minute
	// A failure is remembered for this long, doubling from the first, so that many connections do
	// not make many requests.
	leastBackoff, mostBackoff = 250 * time.Millisecond, 15 * time.Second

	maxResponse = 256 << 10
	maxHeader   = 64 << 10
)

// Config says where tokens come from.
type Config struct {
	URL      string // of the token endpoint
	ClientID string
	Secret   *livefile.Current // of the client; unused if Signer is set
	Signer   *Signer           // nil for a client with a secret
	Scope    string            // may be empty
	Audience string            // may be empty
	Timeout  time.Duration     // of one request

	// Transport, if not nil, makes the requests in place of the network.
	Transport http.RoundTripper
	// Roots, if not nil, returns the authorities to trust; a nil pool stands for the system's.
	Roots func() *x509.CertPool
	// Hide, if not nil, is told of each text that must never be shown: tokens and assertions.
	Hide func(secrets ...string)
}

// Source gets tokens and keeps the last one until it is time to renew it. It is safe for concurrent
// use.
type Source struct {
	cfg    Config
	grant  clientcredentials.Config // guarded by turn
	client *http.Client
	now    func() time.Time

	turn    chan struct{} // holds one element while a request is under way
	current atomic.Pointer[Token]
	failed  failure // guarded by turn
}

// failure is the last request, if it failed.
type failure struct {
	err   error
	count int
	until time.Time // when the next request may be made
}

// New returns a source. It makes no request.
func New(cfg Config) *Source {
	s := &Source{cfg: cfg, now: time.Now, turn: make(chan struct{}, 1)}
	s.grant = clientcredentials.Config{ClientID: cfg.ClientID, TokenURL: cfg.URL, EndpointParams: url.Values{}}
	if cfg.Scope != "" {
		s.grant.Scopes = strings.Fields(cfg.Scope)
	}
	if cfg.Audience != "" {
		s.grant.EndpointParams.Set("audience", cfg.Audience)
	}
	if cfg.Signer != nil {
		s.grant.AuthStyle = oauth2.AuthStyleInParams
	}
	s.client = &http.Client{
		Transport: roundTripper{cfg.Transport, cfg.Roots},
		// A redirect would carry the secret to an address that nobody has configured.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return s
}

// Token returns a token that is valid now and for a while. It makes a request if there is none, or
// if four fifths of its life are over; if that request fails, it returns the old token while that
// is valid. After a failure without such a token it returns the error again for up to 15 s before
// it makes another request.
func (s *Source) Token(ctx context.Context) (*Token, error) {
	if t := s.current.Load(); t != nil && s.now().Before(t.renew) {
		return t, nil
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-s.turn }()
	old := s.current.Load()
	if old != nil && s.now().Before(old.renew) {
		return old, nil // another caller has renewed it
	}
	if s.failed.err == nil || !s.now().Before(s.failed.until) {
		t, err := s.request(ctx)
		if err == nil {
			s.failed = failure{}
			s.current.Store(t)
			return t, nil
		}
		if ctx.Err() != nil {
			return nil, err // says nothing of the endpoint
		}
		s.fail(err)
	}
	if old != nil && s.now().Before(old.Expires) {
		return old, nil
	}
	return nil, s.failed.err
}

// Forget drops a token that a broker has refused, so that the next one comes from the endpoint.
func (s *Source) Forget(t *Token) { s.current.CompareAndSwap(t, nil) }

func (s *Source) fail(err error) {
	wait := min(leastBackoff<<min(s.failed.count, 10), mostBackoff)
	s.failed = failure{err: err, count: s.failed.count + 1, until: s.now().Add(wait)}
}

// request asks the endpoint for a token.
func (s *Source) request(ctx context.Context) (*Token, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Timeout, errTimeout)
	defer cancel()
	secrets, err := s.prove()
	if err != nil {
		return nil, &Error{URL: s.cfg.URL, Kind: Misconfigured, err: err}
	}
	s.hide(secrets)
	seen := &seen{}
	ctx = context.WithValue(ctx, seenKey{}, seen)
	answer, err := s.grant.Token(context.WithValue(ctx, oauth2.HTTPClient, s.client))
	if err != nil {
		return nil, s.tokenError(ctx, err, seen, secrets)
	}
	t, err := s.token(answer, seen)
	if err != nil {
		return nil, &Error{URL: s.cfg.URL, Kind: NoToken, err: err}
	}
	s.hide([]string{t.Text})
	return t, nil
}

// prove puts into the request what proves the client. It returns what must not be shown.
func (s *Source) prove() (secrets []string, err error) {
	if s.cfg.Signer == nil {
		s.grant.ClientSecret = s.cfg.Secret.Latest().Reveal()
		return []string{s.grant.ClientSecret}, nil
	}
	assertion, err := s.cfg.Signer.sign(s.cfg.ClientID, s.cfg.URL, s.now())
	if err != nil {
		return nil, err
	}
	s.grant.EndpointParams.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	s.grant.EndpointParams.Set("client_assertion", assertion)
	return []string{assertion}, nil
}

func (s *Source) hide(secrets []string) {
	if s.cfg.Hide != nil {
		s.cfg.Hide(secrets...)
	}
}

// token checks what the endpoint has returned.
func (s *Source) token(answer *oauth2.Token, seen *seen) (*Token, error) {
	if !strings.EqualFold(answer.Type(), "bearer") {
		return nil, errors.New("the token it returns is not a bearer token, the only kind that Kafka takes")
	}
	if !Valid(answer.AccessToken) {
		return nil, errors.New("access_token in its answer has characters that no bearer token has")
	}
	t := Parse(answer.AccessToken)
	now := s.now()
	if !answer.Expiry.IsZero() {
		t.Expires = answer.Expiry
	}
	switch {
	case t.Expires.IsZero():
		t.Expires = now.Add(unknownLife)
	case !t.Expires.After(now) && answer.Expiry.IsZero():
		// Its clock or ours is wrong. The broker decides; a claim in the past must not make a
		// request for each connection.
		t.Expires = now.Add(unknownLife)
	case !t.Expires.After(now):
		return nil, errors.New("the token it returns has expired already (expires_in is not positive)")
	}
	t.renew = now.Add(time.Duration(float64(t.Expires.Sub(now)) * renewAt))
	t.Skew = seen.skew
	return t, nil
}

// roundTripper makes a connection for each request: they are minutes apart, and the authorities may
// change in between.
type roundTripper struct {
	instead http.RoundTripper
	roots   func() *x509.CertPool
}

// seen is what a request has learnt beside its answer.
type seen struct {
	status      int
	contentType string
	location    string
	skew        time.Duration // how far this machine's clock is ahead of the endpoint's
}

type seenKey struct{}

// RoundTrip implements http.RoundTripper.
func (r roundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	req.Header.Set("Accept", "application/json")
	resp, err := r.transport().RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if seen, ok := req.Context().Value(seenKey{}).(*seen); ok {
		seen.note(resp)
	}
	resp.Body = http.MaxBytesReader(nil, resp.Body, maxResponse)
	return resp, nil
}

func (r roundTripper) transport() http.RoundTripper {
	if r.instead != nil {
		return r.instead
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if r.roots != nil {
		config.RootCAs = r.roots()
	}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: config, ForceAttemptHTTP2: true,
		DisableKeepAlives: true, MaxResponseHeaderBytes: maxHeader,
	}
}

func (s *seen) note(resp *http.Response) {
	s.status, s.contentType, s.location = resp.StatusCode, resp.Header.Get("Content-Type"), ""
	if to, err := resp.Location(); err == nil {
		s.location = to.Scheme + "://" + to.Host
	}
	s.skew = 0
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		if skew := time.Since(date); skew.Abs() > tolerated {
			s.skew = skew.Round(time.Second)
		}
	}
}
