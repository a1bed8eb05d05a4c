package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"

	"workos-relay/internal/printable"
)

// ProxyError says that the proxy between relay and the Events API did not let a request through. It
// is the Err of a *TransportError.
type ProxyError struct {
	Proxy  string // host:port
	Status int    // of the proxy's answer; 0 if there was none that could be understood
	Reason string // what happened and what to do, printable and without credentials
	Err    error  // what was found, for errors.Is; may be nil
}

// Error implements error.
func (e *ProxyError) Error() string { return "the proxy " + e.Proxy + " " + e.Reason }

// Unwrap returns the cause.
func (e *ProxyError) Unwrap() error { return e.Err }

// OperatorAdvice says what an operator should do while relay goes on trying.
func (*ProxyError) OperatorAdvice() string {
	return "check source.proxy, or HTTPS_PROXY, and the proxy"
}

// CertificateError says that the certificate of the Events API, or of the proxy in between, comes
// from an authority that relay does not trust. It is the Err of a *TransportError.
type CertificateError struct {
	Peer   string // whose certificate it is, for messages
	Issuer string // of the certificate, printable
	Err    error
}

// Error implements error.
func (e *CertificateError) Error() string {
	return fmt.Sprintf("the certificate of %s is issued by %s, an authority that relay does not trust: if your company inspects TLS, "+
		"name a PEM file with the certificate of its authority in source.tls.ca_file; if not, check the address", e.Peer, e.Issuer)
}

// Unwrap returns the error of the handshake.
func (e *CertificateError) Unwrap() error { return e.Err }

// OperatorAdvice says what an operator should do while relay goes on trying.
func (*CertificateError) OperatorAdvice() string { return "check source.tls.ca_file" }

// way is how one request gets to the Events API, and how far it has come. The transport writes it
// while the request is under way.
type way struct {
	proxy     *url.URL // nil without a proxy
	given     bool     // the proxy is Client.Proxy, not one of the environment
	certified bool     // relay has a client certificate
	scheme    string   // of the endpoint
	target    string   // host:port of the endpoint

	connected atomic.Bool // the proxy has connected relay to the target
	ready     atomic.Bool // there is a connection on which the request can be sent
}

// wayKey is the context key of the way of a request.
type wayKey struct{}

// proxyOf implements http.Transport.Proxy with the proxy that was found before the request.
func proxyOf(req *http.Request) (*url.URL, error) {
	if w, ok := req.Context().Value(wayKey{}).(*way); ok {
		return w.proxy, nil
	}
	return nil, nil
}

// findWay returns the way of a request that has a pool, and the request with a context that records
// how far it comes.
func findWay(req *http.Request) (*way, *http.Request, error) {
	w := &way{scheme: req.URL.Scheme, target: req.URL.Host}
	if req.URL.Port() == "" {
		w.target = net.JoinHostPort(req.URL.Hostname(), map[string]string{"http": "80", "https": "443"}[req.URL.Scheme])
	}
	if p, ok := req.Context().Value(poolKey{}).(*pool); ok {
		w.proxy, w.given, w.certified = p.proxy, p.proxy != nil, p.cert != nil
	}
	if w.proxy == nil {
		p, err := http.ProxyFromEnvironment(req)
		if err != nil { // its text may hold a password
			return nil, nil, misconfigured(w.key() + " of the environment is not the URL of a proxy: write http://host:port, or unset it")
		}
		w.proxy = p
	}
	ctx := context.WithValue(req.Context(), wayKey{}, w)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:           func(httptrace.GotConnInfo) { w.ready.Store(true) },
		TLSHandshakeStart: w.handshake,
	})
	return w, req.WithContext(ctx), nil
}

// handshake notes a TLS handshake, which a SOCKS proxy passes on to the target.
func (w *way) handshake() {
	if w.proxy != nil && strings.HasPrefix(w.proxy.Scheme, "socks5") {
		w.connected.Store(true)
	}
}

// key is the setting that names the proxy.
func (w *way) key() string {
	switch {
	case w.given:
		return "source.proxy"
	case w.scheme == "http":
		return "HTTP_PROXY"
	default:
		return "HTTPS_PROXY"
	}
}

// note says which proxy is in use, for messages; empty without one.
func (w *way) note() string {
	if w == nil || w.proxy == nil {
		return ""
	}
	return fmt.Sprintf(" by way of the proxy %s of %s", printable.Text(w.proxy.Host), w.key())
}

// ProxyInUse says by which proxy the next request goes, as messages do; empty without one. It says
// nothing of an HTTPClient, or of a client that cannot make a request.
func (c *Client) ProxyInUse(ctx context.Context) string {
	c.once.Do(c.init)
	if c.own == nil {
		return ""
	}
	ctx, _ = c.own.with(ctx)
	req, err := c.request(ctx, getRequest{query: func() (string, error) { return c.query(ListEventsOpts{}) }})
	if err != nil {
		return ""
	}
	w, _, err := findWay(req)
	if err != nil {
		return ""
	}
	return w.note()
}

// secrets are the forms in which a proxy may repeat the credentials that it was sent.
func (w *way) secrets() []string {
	if w == nil {
		return nil
	}
	return proxySecrets(w.proxy)
}

// proxySecrets are the forms in which an answer may repeat the credentials of a proxy, which may be
// nil.
func proxySecrets(proxy *url.URL) []string {
	if proxy == nil || proxy.User == nil {
		return nil
	}
	user := proxy.User.Username()
	password, _ := proxy.User.Password()
	var out []string
	for _, s := range append([]string{base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}, shownForms(password)...) {
		if len(s) >= 3 { // shorter ones are no secret and would make the text unreadable
			out = append(out, s)
		}
	}
	return out
}

// clean makes the text of an error fit to be shown: printable, and without the credentials of the
// proxy.
func (w *way) clean(text string) string {
	for _, s := range w.secrets() {
		text = strings.ReplaceAll(text, s, "[secret]")
	}
	return printable.Text(text)
}

// connectAnswered implements http.Transport.OnProxyConnectResponse.
func connectAnswered(ctx context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	w, ok := ctx.Value(wayKey{}).(*way)
	switch {
	case !ok:
		return nil
	case resp.StatusCode == http.StatusOK:
		w.connected.Store(true)
		return nil
	default:
		return w.refused(resp)
	}
}

// refused returns the error for an answer of the proxy that refuses the request.
func (w *way) refused(resp *http.Response) *ProxyError {
	answer := w.clean(fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(strings.TrimPrefix(resp.Status, fmt.Sprint(resp.StatusCode)))))
	var reason string
	switch asks := strings.Join(resp.Header.Values("Proxy-Authenticate"), ", "); {
	case resp.StatusCode == http.StatusProxyAuthRequired && asks != "" && !strings.Contains(strings.ToLower(asks), "basic"):
		reason = fmt.Sprintf("asks for authentication by %s (%s), and relay offers Basic only: let the proxy accept Basic, or let relay's host through without a password",
			w.clean(asks), answer)
	case resp.StatusCode == http.StatusProxyAuthRequired && w.proxy.User == nil:
		reason = fmt.Sprintf("asks for a user and a password (%s): write both into %s, as in http://USER:PASSWORD@host:port", answer, w.key())
	case resp.StatusCode == http.StatusProxyAuthRequired:
		reason = fmt.Sprintf("does not accept the user and the password of %s (%s): correct them; special characters are written as in %%40 for @", w.key(), answer)
	case resp.StatusCode == http.StatusForbidden, resp.StatusCode == http.StatusUnauthorized:
		reason = fmt.Sprintf("refuses to connect relay to %s (%s): allow this destination for relay's host at the proxy", w.target, answer)
	case resp.StatusCode/100 == 5 && resp.StatusCode != http.StatusNotImplemented:
		reason = fmt.Sprintf("cannot connect relay to %s (%s): check source.endpoint, and the way from the proxy to it", w.target, answer)
	default:
		reason = fmt.Sprintf("answers CONNECT %s with %s: check that %s names a proxy, and that the proxy permits CONNECT", w.target, answer, w.key())
	}
	return &ProxyError{Proxy: printable.Text(w.proxy.Host), Status: resp.StatusCode, Reason: reason}
}

// connectError returns why a request got no answer, as far as err and the way tell.
func (w *way) connectError(err error) error {
	if w == nil {
		return printable.Error(err)
	}
	var (
		verify    *tls.CertificateVerificationError
		authority x509.UnknownAuthorityError
		known     *ProxyError
		record    tls.RecordHeaderError
	)
	atProxy := w.proxy != nil && !w.ready.Load() && !w.connected.Load()
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &verify) && errors.As(err, &authority):
		return w.untrusted(verify, atProxy)
	case atProxy:
		return w.proxyFault(err)
	case w.proxy != nil && !w.ready.Load() && hungUp(err):
		return &ProxyError{Proxy: printable.Text(w.proxy.Host), Reason: fmt.Sprintf("closes the connection to %s right after it has opened it: check that %s names a proxy, and that it lets relay through to this destination",
			w.target, w.key()), Err: err}
	case w.proxy != nil && !w.ready.Load() && errors.As(err, &record):
		return &ProxyError{Proxy: printable.Text(w.proxy.Host), Reason: fmt.Sprintf("does not pass on TLS to %s (%s): check that %s names a proxy", w.target, w.clean(err.Error()), w.key()), Err: err}
	}
	if hint := clientCertificateHint(err, w.certified); hint != "" {
		return fmt.Errorf("%s: %w", hint, printable.Error(err))
	}
	if text := w.clean(err.Error()); text != err.Error() {
		return &cleaned{text, err}
	}
	return err
}

// cleaned is an error whose text was made fit to be shown.
type cleaned struct {
	text string
	err  error
}

func (e *cleaned) Error() string { return e.text }
func (e *cleaned) Unwrap() error { return e.err }

// untrusted returns the error for a certificate of an unknown authority.
func (w *way) untrusted(verify *tls.CertificateVerificationError, atProxy bool) error {
	e := &CertificateError{Peer: printable.Text(w.target), Issuer: "nobody", Err: verify}
	if atProxy {
		e.Peer = "the proxy " + printable.Text(w.proxy.Host)
	}
	if chain := verify.UnverifiedCertificates; len(chain) > 0 {
		const most = 200 // bytes of a name
		e.Issuer = fmt.Sprintf("%q", printable.Clip(chain[0].Issuer.String(), most))
		if top := chain[len(chain)-1]; top.Issuer.String() != chain[0].Issuer.String() {
			e.Issuer += fmt.Sprintf(" (below %q)", printable.Clip(top.Issuer.String(), most))
		}
	}
	return e
}

// proxyFault returns the error for a proxy that did not answer, or not as a proxy does.
func (w *way) proxyFault(err error) error {
	var op *net.OpError
	var record tls.RecordHeaderError
	var invalid x509.CertificateInvalidError
	var hostname x509.HostnameError
	socks := strings.HasPrefix(w.proxy.Scheme, "socks5")
	text := w.clean(err.Error())
	kind := map[bool]string{true: "a SOCKS5 proxy", false: "an HTTP proxy"}[socks]
	var reason string
	switch timeout := net.Error(nil); {
	case errors.As(err, &op) && op.Op == "proxyconnect" && errors.As(err, &record):
		reason = fmt.Sprintf("does not speak TLS (%s): write http:// instead of https:// in %s", text, w.key())
	case errors.As(err, &invalid), errors.As(err, &hostname):
		reason = fmt.Sprintf("has a certificate that is not valid (%s): renew it, or correct the address in %s", text, w.key())
	case isDial(err):
		reason = fmt.Sprintf("cannot be reached (%s): check that it runs, and the address in %s", text, w.key())
	case isStall(err), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		reason = fmt.Sprintf("did not connect relay to %s in time (%s): check the proxy, and that %s names the address of %s", w.target, text, w.key(), kind)
	case hungUp(err):
		reason = fmt.Sprintf("closes the connection without an answer (%s): check that %s names %s, with the right scheme (http, https or socks5)", text, w.key(), kind)
	case socks && strings.Contains(err.Error(), "authentication"):
		reason = fmt.Sprintf("does not accept the user and the password of %s (%s): correct them", w.key(), text)
	case socks:
		reason = fmt.Sprintf("does not connect relay to %s (%s): allow this destination at the proxy, and check that %s names %s", w.target, text, w.key(), kind)
	default:
		reason = fmt.Sprintf("does not answer as a proxy (%s): check that %s names %s, with the right scheme (http, https or socks5)", text, w.key(), kind)
	}
	return &ProxyError{Proxy: printable.Text(w.proxy.Host), Reason: reason, Err: err}
}

// isDial reports whether err is of a connection that could not be opened.
func isDial(err error) bool {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if op, ok := e.(*net.OpError); ok && op.Op == "dial" { //nolint:errorlint // each link of the chain is looked at
			return true
		}
	}
	var dns *net.DNSError
	return errors.As(err, &dns)
}

// hungUp reports whether err is of a connection that the other side has closed.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// clientCertificateHint says what to do if err is how a server refuses the certificate of its
// client, or wants one. certified says that there is one, which is not sent to a server that names
// other authorities.
func clientCertificateHint(err error, certified bool) string {
	text := err.Error()
	switch {
	case !strings.Contains(text, "remote error: tls:"):
		return ""
	case strings.Contains(text, "certificate required") && certified:
		return "the server asks for a client certificate of another authority than the one in source.tls.cert_file: replace that file and source.tls.key_file"
	case strings.Contains(text, "certificate required"):
		return "the server asks for a client certificate: name it in source.tls.cert_file and source.tls.key_file"
	case strings.Contains(text, "certificate") && certified:
		return "the server does not accept the client certificate: check source.tls.cert_file and source.tls.key_file"
	}
	return ""
}
