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
	"workos-relay/internal/printable"
)

// Header must be sent, with any value, with a request that changes something and does not carry the
// token as a bearer. A web page of another origin cannot make a browser send it.
const Header = "Relay-Request"

// Security says who may do what. Without a token and without ClientCA everybody who reaches the
// address may do everything, so it must be a loopback address then.
type Security struct {
	Token       secret.String
	TLS         TLS
	OpenMetrics bool // /metrics answers without credentials

	Files    *livefile.Set     // follows the files of TLS; may be nil
	TokenNow *livefile.Current // the token if a file holds it, which takes precedence over Token; nil for Token
}

// token returns the current token.
func (s *Security) token() secret.String {
	if s.TokenNow != nil {
		return s.TokenNow.Get()
	}
	return s.Token
}

// guarded reports whether a request needs credentials.
func (s *Security) guarded() bool { return s.Token.IsSet() || s.TLS.ClientCA.Given() }

// access is what a request may do. The server decides it once for each request, before any handler
// sees it. Its zero value may do nothing: it learns whether relay is ready, and no more.
type access struct{ read, write bool }

type accessKey struct{}

func withAccess(r *http.Request, a access) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), accessKey{}, a))
}

func accessOf(r *http.Request) access {
	a, _ := r.Context().Value(accessKey{}).(access)
	return a
}

// MayWrite reports whether the sender of r may steer the relay: pause, resume, poll, reload, move
// checkpoints. It is false for every request that the Server has not passed to a handler.
func MayWrite(r *http.Request) bool { return accessOf(r).write }

// mayRead reports whether the sender of r may see more than whether relay lives and is ready.
func mayRead(r *http.Request) bool { return accessOf(r).read }

// admit decides what r may do on a path, given what r proves. The error says why r may do nothing,
// and is a *Refusal with a Reason. A probe is never refused: it returns the zero access instead.
func (s *Security) admit(r *http.Request, p *path, proof proof) (access, error) {
	a, err := s.reading(r, p, proof)
	if p.probe {
		return a, nil
	}
	if err != nil || !a.read || isSafe(r.Method) || proof == bearer {
		a.write = a.read
		return a, err
	}
	if err := sameOrigin.Check(r); err != nil {
		return access{}, refuse(http.StatusForbidden, OtherOrigin, "the request comes from a web page of another origin: %w", err)
	}
	if r.Header.Get(Header) == "" {
		return access{}, refuse(http.StatusForbidden, NoHeader, "send the header %s, with any value, which shows that no foreign web page made the request", Header)
	}
	a.write = true
	return a, nil
}

// reading decides whether r may read.
func (s *Security) reading(r *http.Request, p *path, proof proof) (access, error) {
	switch {
	case !s.guarded() && !isLoopbackName(r.Host):
		return access{}, refuse(http.StatusForbidden, OtherHost,
			"the request is addressed to \"%s\"; without admin.token only 127.0.0.1, [::1] and localhost are answered, so that no web page can reach relay under another name", repeated(r.Host))
	case !s.guarded(), proof == bearer, proof == byBrowser:
		return access{read: true}, nil
	case p.metrics && s.OpenMetrics:
		return access{}, nil
	case proof == wrong:
		return access{}, refuse(http.StatusUnauthorized, WrongCredentials, "the token is wrong: %s%s", howToProve, s.orCertificate())
	default:
		return access{}, refuse(http.StatusUnauthorized, NoCredentials, "%s%s", howToProve, s.orCertificate())
	}
}

const howToProve = "send admin.token as a bearer token, or as the password of any user"

// repeated returns the text of a request as an error repeats it: printable and bounded. Put it into
// quotation marks with "%s", since %q would escape it once more.
func repeated(text string) string {
	const most = 255 // of a name in DNS
	return printable.Clip(text, most)
}

func (s *Security) orCertificate() string {
	if !s.TLS.ClientCA.Given() {
		return ""
	}
	return ", or a client certificate of admin.tls.client_ca_file"
}

var sameOrigin = http.NewCrossOriginProtection()

func isSafe(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// proof is what a request proves about its sender. A browser sends a password or a certificate by
// itself, so these do not show that the user wanted the request.
type proof int

const (
	noProof proof = iota
	wrong         // a token that is not the right one
	bearer
	byBrowser
)

// byCertificate reports whether r comes with a certificate of ClientCA.
func (s *Security) byCertificate(r *http.Request) bool {
	return s.TLS.ClientCA.Given() && r.TLS != nil && len(r.TLS.VerifiedChains) > 0
}

// sendsToken reports whether r carries something that has to be compared with the token.
func (s *Security) sendsToken(r *http.Request) bool {
	return s.Token.IsSet() && !s.byCertificate(r) && r.Header.Get("Authorization") != ""
}

func (s *Security) proof(r *http.Request) proof {
	if s.byCertificate(r) {
		return byBrowser
	}
	if !s.sendsToken(r) {
		return noProof
	}
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") && s.isToken(strings.TrimSpace(given)) {
		return bearer
	}
	if _, password, ok := r.BasicAuth(); ok && s.isToken(password) {
		return byBrowser
	}
	return wrong
}

// isToken compares in a time that does not depend on what is given.
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

// errOpen says that other machines can reach the address although it asks for no credentials.
var errOpen = errors.New("can be reached from other machines, and anyone there could control relay: set admin.token (or admin.token_file), or admin.tls.client_ca_file")

// Check refuses an address that is not loopback if there is neither a token nor a client CA. The
// error continues a sentence that begins with the address.
func (s *Security) Check(listen string) error {
	if listen == "" || s.guarded() || IsLoopback(listen) {
		return nil
	}
	return errOpen
}

// Refusal is a request that was not carried out, with its HTTP status code. A Control returns it if
// the request is at fault.
type Refusal struct {
	Code   int
	Reason Reason // why access was refused; empty if the sender has access
	Err    error
}

// Error implements error.
func (e *Refusal) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Refusal) Unwrap() error { return e.Err }

func refuse(code int, reason Reason, format string, args ...any) error {
	return &Refusal{Code: code, Reason: reason, Err: fmt.Errorf(format, args...)}
}

// badRequest refuses a request whose sender has access and that is malformed.
func badRequest(format string, args ...any) error {
	return refuse(http.StatusBadRequest, "", format, args...)
}
