package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"workos-relay/conf/livefile"
	"workos-relay/conf/secret"
	"workos-relay/internal/listener"
)

// Header must be sent, with any value, by whoever changes something and does not send the token as a bearer: a page of another
// origin cannot make a browser send it.
const Header = "Relay-Request"

// Security says who may do what. Without a token and without ClientCAFile everybody who reaches the address may do everything, so
// that it must be a loopback address.
type Security struct {
	Token       secret.String
	TLS         TLS
	OpenMetrics bool // /metrics asks nobody who they are

	Files    *livefile.Set     // follows the files of TLS; may be nil
	TokenNow *livefile.Current // the token if a file holds it, which goes before Token; nil for Token
}

// token is the token as it is now.
func (s *Security) token() secret.String {
	if s.TokenNow != nil {
		return s.TokenNow.Get()
	}
	return s.Token
}

// guarded reports whether requests must prove who sent them.
func (s *Security) guarded() bool { return s.Token.IsSet() || s.TLS.ClientCAFile != "" }

// access is what a request may do. The server decides it once for each request, before any handler sees it.
type access struct{ write bool }

type accessKey struct{}

func withAccess(r *http.Request, a access) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), accessKey{}, a))
}

// MayWrite reports whether whoever sent r may steer the relay: pause, resume, poll, reload, move checkpoints. It holds for requests
// that the Server passed to a handler, and is false for any other.
func MayWrite(r *http.Request) bool {
	a, _ := r.Context().Value(accessKey{}).(access)
	return a.write
}

// admit decides what r may do on a path. The error says why it may nothing at all, and is a *Refusal.
func (s *Security) admit(r *http.Request, p *path) (access, error) {
	if p.probe {
		return access{}, nil
	}
	proof := s.proof(r)
	switch {
	case !s.guarded():
		if !isLoopbackName(r.Host) {
			return access{}, refuse(http.StatusForbidden, "the request is addressed to %q; without admin.token only 127.0.0.1, [::1] and localhost are answered, so that no web page can reach relay under a name of its own", r.Host)
		}
	case proof == noProof && p.metrics && s.OpenMetrics:
		return access{}, nil
	case proof == noProof:
		return access{}, refuse(http.StatusUnauthorized, "send admin.token as a bearer token, or as the password of any user%s", s.orCertificate())
	}
	if isSafe(r.Method) || proof == bearer {
		return access{write: true}, nil
	}
	if err := sameOrigin.Check(r); err != nil {
		return access{}, refuse(http.StatusForbidden, "the request comes from a web page of another origin: %w", err)
	}
	if r.Header.Get(Header) == "" {
		return access{}, refuse(http.StatusForbidden, "send the header %s, with any value, which shows that no foreign web page made the request", Header)
	}
	return access{write: true}, nil
}

func (s *Security) orCertificate() string {
	if s.TLS.ClientCAFile == "" {
		return ""
	}
	return ", or a client certificate of admin.tls.client_ca_file"
}

var sameOrigin = http.NewCrossOriginProtection()

func isSafe(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// proof is how a request shows who sent it. What a browser sends by itself, a password or a certificate, does not show that the
// person wanted the request.
type proof int

const (
	noProof proof = iota
	bearer
	byBrowser
)

func (s *Security) proof(r *http.Request) proof {
	if s.TLS.ClientCAFile != "" && r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return byBrowser
	}
	if !s.Token.IsSet() {
		return noProof
	}
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") && s.isToken(strings.TrimSpace(given)) {
		return bearer
	}
	if _, password, ok := r.BasicAuth(); ok && s.isToken(password) {
		return byBrowser
	}
	return noProof
}

// isToken takes the same time whatever is given.
func (s *Security) isToken(given string) bool {
	a, b := sha256.Sum256([]byte(given)), sha256.Sum256([]byte(s.token().Reveal()))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// isLoopbackName reports whether a Host header names this machine's loopback.
func isLoopbackName(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	ip := net.ParseIP(name)
	return strings.EqualFold(name, "localhost") || ip != nil && ip.IsLoopback()
}

// IsLoopback reports whether a listening address, host:port, can be reached from this machine only.
func IsLoopback(listen string) bool { return listener.IsLoopback(listen) }

// errOpen: the address may be reached from elsewhere, and nobody is asked who they are.
var errOpen = errors.New("can be reached from other machines, and whoever does could steer relay: set admin.token (or admin.token_file), or admin.tls.client_ca_file")

// Check refuses an address that is not loopback without a token or client certificates. The error continues a sentence that
// begins with the address.
func (s *Security) Check(listen string) error {
	if listen == "" || s.guarded() || IsLoopback(listen) {
		return nil
	}
	return errOpen
}

// Refusal is a request that was not done, with the status code that says so over HTTP. Whoever implements Control returns it where
// the request is at fault.
type Refusal struct {
	Code int
	Err  error
}

// Error implements error.
func (e *Refusal) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Refusal) Unwrap() error { return e.Err }

func refuse(code int, format string, args ...any) error {
	return &Refusal{Code: code, Err: fmt.Errorf(format, args...)}
}
