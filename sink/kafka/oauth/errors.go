package oauth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"syscall"

	"golang.org/x/oauth2"

	"workos-relay/internal/printable"
)

// Kind is why there is no token.
type Kind int

// The kinds of Error.
const (
	Unreachable   Kind = iota // no complete answer came
	Failing                   // the endpoint cannot answer now
	Refused                   // the endpoint refuses the client or the request
	NoToken                   // the answer is not one of a token endpoint
	Misconfigured             // no request could be made
)

// Error says why there is no token, and what to change. It holds no secret.
type Error struct {
	URL  string
	Kind Kind
	err  error
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("getting a token from sasl.token_url %s: %v", printable.Text(e.URL), e.err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.err }

var errTimeout = errors.New("no complete answer in time")

// advice says what to change for the error codes of RFC 6749 and RFC 8707.
var advice = map[string]string{
	"invalid_client":         "check sasl.client_id and sasl.client_secret, or the key of sasl.client_key_file and that it is registered for this client",
	"invalid_scope":          "the scope is missing, unknown or not granted to this client: correct sasl.scope",
	"invalid_target":         "the audience is unknown or not granted to this client: correct sasl.audience",
	"unauthorized_client":    "allow the client the grant type client_credentials (a service account)",
	"unsupported_grant_type": "the endpoint does not offer the grant type client_credentials: correct sasl.token_url",
	"invalid_request":        "check sasl.token_url, sasl.scope and sasl.audience",
	"access_denied":          "the client may not have this audience or scope: grant it, or correct sasl.audience and sasl.scope",
}

// passing are the error codes that time may mend.
var passing = map[string]bool{"temporarily_unavailable": true, "server_error": true, "slow_down": true}

// tokenError turns an error of a request into an *Error that repeats no secret.
func (s *Source) tokenError(ctx context.Context, err error, seen *seen, secrets []string) error {
	kind, text := s.classify(ctx, err, seen, secrets)
	if seen.skew != 0 && kind == Refused {
		text += fmt.Sprintf("; the clock of this machine is %s the endpoint's: correct the one that is wrong", aheadOf(seen.skew))
	}
	return &Error{URL: s.cfg.URL, Kind: kind, err: errors.New(text)}
}

func (s *Source) classify(ctx context.Context, err error, seen *seen, secrets []string) (Kind, string) {
	var retrieve *oauth2.RetrieveError
	switch {
	case errors.As(err, &retrieve):
		return refusal(retrieve, seen, secrets)
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), errTimeout):
		return Unreachable, fmt.Sprintf("no complete answer within %s; check the address, proxies and firewalls between relay and the token endpoint", s.cfg.Timeout)
	case ctx.Err() != nil:
		return Unreachable, "the request was given up"
	case seen.status != 0:
		return NoToken, fmt.Sprintf("the answer (status %d, %s) holds no token; check that sasl.token_url is the address of a token endpoint", seen.status, contentType(seen))
	}
	return Unreachable, network(err)
}

// network says why no answer came.
func network(err error) string {
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		invalid   x509.CertificateInvalidError
		header    tls.RecordHeaderError
		wrapped   *url.Error
	)
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	hint := "check the address, and proxies and firewalls between relay and the token endpoint"
	switch {
	case errors.As(err, &dns):
		hint = "the name does not resolve: correct sasl.token_url or the DNS"
	case errors.Is(err, syscall.ECONNREFUSED):
		hint = "nothing listens there: correct sasl.token_url, or start the service"
	case errors.As(err, &authority):
		hint = "its certificate is signed by an authority that relay does not trust: set sasl.token_ca_file to it, or add it to the system's"
	case errors.As(err, &host):
		hint = "its certificate is for another name: correct sasl.token_url"
	case errors.As(err, &invalid):
		hint = "its certificate is not valid now or not for a server: renew it, or correct the clock of this machine"
	case errors.As(err, &header):
		hint = "it does not speak TLS: use http://, or the port of TLS"
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		hint = "it does not speak TLS: use http://, or the port of TLS"
	}
	return hint + ": " + printable.Text(err.Error())
}

// refusal says what an answer other than success means.
func refusal(e *oauth2.RetrieveError, seen *seen, secrets []string) (Kind, string) {
	status := e.Response.StatusCode
	switch code := errorCode(e.ErrorCode); {
	case code != "":
		text := code
		if said := harmless(e.ErrorDescription, secrets); said != "" {
			text += " (" + said + ")"
		}
		switch hint := advice[code]; {
		case passing[code], status >= http.StatusInternalServerError, status == http.StatusTooManyRequests:
			return Failing, text + "; relay tries again"
		case hint != "":
			return Refused, text + "; " + hint
		}
		return Refused, text + "; check sasl.token_url, sasl.client_id, sasl.scope and sasl.audience"
	case status >= 300 && status < 400:
		to := "elsewhere"
		if seen.location != "" {
			to = "to " + printable.Text(harmless(seen.location, secrets))
		}
		return NoToken, fmt.Sprintf("it redirects %s (status %d), which relay does not follow, so as not to send the client's secret there; set sasl.token_url to the final address", to, status)
	case status >= http.StatusInternalServerError, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout:
		return Failing, fmt.Sprintf("status %d; relay tries again", status)
	case status == http.StatusUnauthorized:
		return Refused, fmt.Sprintf("status %d; %s", status, advice["invalid_client"])
	default:
		return NoToken, fmt.Sprintf("status %d (%s); check that sasl.token_url is the address of a token endpoint", status, contentType(seen))
	}
}

// contentType says what an answer claims to be.
func contentType(seen *seen) string {
	kind, _, _ := strings.Cut(seen.contentType, ";")
	switch kind = strings.TrimSpace(kind); {
	case kind == "":
		return "no content type"
	case kind == "text/html":
		return "a page of HTML"
	case regexp.MustCompile(`^[a-z]{1,20}/[a-z0-9.+-]{1,40}$`).MatchString(kind):
		return kind
	}
	return "an invalid content type"
}

var codeForm = regexp.MustCompile(`^[a-z_]{3,40}$`)

// errorCode returns the error code of an answer, "" if that is none. Its form leaves no room for a
// secret.
func errorCode(code string) string {
	if _, known := advice[code]; known || passing[code] {
		return code
	}
	if codeForm.MatchString(code) {
		return "error code " + code
	}
	return ""
}

// harmless returns text without what looks like one of secrets in any form, for showing.
func harmless(text string, secrets []string) string {
	for _, s := range secrets {
		if reveals(text, s) {
			return "its text repeats the secret, so it is not shown"
		}
	}
	return printable.Text(text)
}

func reveals(text, secret string) bool {
	if secret == "" {
		return false
	}
	forms := []string{secret, url.QueryEscape(secret), url.PathEscape(secret), hex.EncodeToString([]byte(secret))}
	const telling = 6 // bytes from which an encoded form means anything
	if len(secret) >= telling {
		for skip, first := range [...]int{0, 2, 3} {
			encoded := base64.RawStdEncoding.EncodeToString(append(make([]byte, skip), secret...))
			encoded = encoded[first : len(encoded)-1]
			forms = append(forms, encoded, strings.NewReplacer("+", "-", "/", "_").Replace(encoded))
		}
	}
	// A long assertion may be cut, so its beginning counts as well.
	const beginning = 24
	for _, f := range forms {
		if strings.Contains(text, f[:min(len(f), max(beginning, len(f)/4))]) {
			return true
		}
	}
	return false
}

// Permanent reports whether only a change of the configuration or of the client's registration
// gives relay a token.
func (e *Error) Permanent() bool { return e.Kind == Refused || e.Kind == Misconfigured }
