package nats

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"

	"github.com/nats-io/nats.go"

	"workos-relay/internal/operator"
	"workos-relay/internal/printable"
)

// lasting reports whether err, the reason for a missing connection, will hardly go away by waiting.
func lasting(err error) bool {
	if err == nil {
		return false
	}
	return isAuth(err) || isTLS(err) || errors.Is(err, nats.ErrNoInfoReceived) || errors.Is(err, nats.ErrSecureConnWanted) || errors.Is(err, nats.ErrSecureConnRequired)
}

func isAuth(err error) bool {
	for _, e := range []error{
		nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrPermissionViolation, nats.ErrAccountAuthExpired,
		nats.ErrNkeysNotSupported,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return strings.Contains(strings.ToLower(err.Error()), "authorization violation")
}

func isTLS(err error) bool {
	var (
		record    tls.RecordHeaderError
		alert     tls.AlertError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
	)
	return errors.Is(err, nats.ErrTLS) || errors.As(err, &record) || errors.As(err, &alert) || errors.As(err, &authority) ||
		errors.As(err, &hostname) || errors.As(err, &invalid) || errors.As(err, &verify) || strings.Contains(err.Error(), "tls: ")
}

// explainConnect says why there is no connection and what it most likely takes. No address in it
// holds a password, since the configuration refuses those.
func explainConnect(err error, c Config) error {
	at := c.URL
	switch {
	case err == nil || errors.Is(err, nats.ErrNoServers):
		return fmt.Errorf("no NATS server answers at %s: is one running there?", at)
	case errors.Is(err, nats.ErrSecureConnWanted):
		return operator.Advise(fmt.Errorf("the NATS server at %s speaks no TLS, but tls is configured: remove tls, or use its TLS port: %w", at, err), correctTLS)
	case isTLS(err):
		return operator.Advise(fmt.Errorf("TLS with the NATS server at %s failed: %s: %w", at, explainTLS(err, c), err), correctTLS)
	case isAuth(err):
		return operator.Advise(fmt.Errorf("the NATS server at %s %s: %w", at, explainAuth(err, c), err), correctAuth)
	case errors.Is(err, nats.ErrNoInfoReceived):
		return fmt.Errorf("what answers at %s does not greet like a NATS server: use the port for NATS clients%s: %w", at, orHandshakeFirst(c), err)
	}
	if c.overWebsocket() && refusesWebsocket(err) {
		return fmt.Errorf("what answers at %s is not the websocket of a NATS server, or a proxy in front of it refuses: check host, port and path in url, "+
			"whether it is ws or wss, and websocket.headers_file: %w", at, err)
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return fmt.Errorf("the name %s of the NATS server at %s cannot be resolved: %w", printable.Text(dns.Name), at, err)
	}
	return fmt.Errorf("no connection to the NATS server at %s: %w", at, err)
}

// What an operator should do while relay goes on trying to connect. Both may also be repaired on
// the server, without a restart of relay.
const (
	correctAuth = "correct auth of this sink, or the user on the NATS server"
	correctTLS  = "correct tls of this sink, or the certificates of the NATS server"
)

// refusesWebsocket reports whether a server did not answer a websocket handshake with one of its
// own.
func refusesWebsocket(err error) bool {
	text := err.Error() // nats.go and net/http have no errors to compare with
	return noGreeting(err) || strings.Contains(text, "invalid websocket connection") || strings.Contains(text, "malformed HTTP") ||
		errors.Is(err, io.ErrUnexpectedEOF)
}

// noGreeting reports whether a server took the connection and then said nothing until it, or relay,
// hung up.
func noGreeting(err error) bool {
	var op *net.OpError
	return errors.Is(err, io.EOF) || errors.Is(err, nats.ErrTimeout) || errors.As(err, &op) && op.Op == "read"
}

// orHandshakeFirst names the key that a server may want that waits for the TLS handshake before its
// greeting.
func orHandshakeFirst(c Config) string {
	if c.TLS.HandshakeFirst {
		return ""
	}
	return ", or set tls.handshake_first: true if the tls section of the server has handshake_first"
}

func explainTLS(err error, c Config) string {
	var (
		record    tls.RecordHeaderError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	switch text := err.Error(); {
	case errors.As(err, &authority) && c.TLS.CAFile == "":
		return "its certificate comes from an authority that this system does not know; set tls.ca_file"
	case errors.As(err, &authority):
		return "its certificate comes from an authority that is not in tls.ca_file; add the authority to the file: relay uses it by itself"
	case errors.As(err, &hostname):
		return "its certificate is for another name; set tls.server_name, or use that name in url"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired or is not valid yet; renew it, or check the clocks"
	case errors.As(err, &record) && c.TLS.HandshakeFirst:
		return "it greets before the TLS handshake; remove tls.handshake_first, or use a port whose tls section has handshake_first"
	case errors.As(err, &record):
		return "it does not answer with TLS"
	case strings.Contains(text, "expired certificate"):
		return "it says that the client certificate of tls.cert_file has expired or is not valid yet; renew it: relay uses the new file by itself"
	case strings.Contains(text, "certificate required"), strings.Contains(text, "bad certificate"), strings.Contains(text, "unknown certificate"):
		return "it wants a client certificate that it trusts; set tls.cert_file and tls.key_file"
	case c.TLS.CertFile == "" && (strings.Contains(text, "closed by remote") || strings.Contains(text, "EOF")):
		return "it hung up after the handshake, most likely because there is no client certificate; set tls.cert_file and tls.key_file"
	default:
		return "the handshake did not succeed"
	}
}

func explainAuth(err error, c Config) string {
	var way string
	switch a := c.Auth; {
	case a.CredentialsFile != "":
		way = "auth.credentials_file " + a.CredentialsFile
	case a.NKeyFile != "":
		way = "auth.nkey_file " + a.NKeyFile
	case a.User != "":
		way = fmt.Sprintf("auth.user %q with its password", a.User)
	case a.Token.IsSet():
		way = "auth.token"
	case c.TLS.CertFile != "":
		way = "the client certificate " + c.TLS.CertFile
	default:
		return "asks for credentials and none are configured: set auth"
	}
	switch {
	case errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAccountAuthExpired):
		return "says that " + way + " has expired: get a new one"
	case errors.Is(err, nats.ErrAuthRevoked):
		return "says that " + way + " was revoked: get a new one"
	default:
		return "refuses " + way + ": wrong secret, unknown or revoked user, or the credentials of another cluster"
	}
}

var deniedPublish = regexp.MustCompile(`(?i)publish to "([^"]+)"`)

// explainDenied says what a permission violation takes to mend.
func explainDenied(err error) error {
	m := deniedPublish.FindStringSubmatch(err.Error())
	err = printable.Error(err)
	if m != nil {
		return mayNotPublish(m[1], err)
	}
	return fmt.Errorf("the NATS user may not receive acknowledgements: allow it to subscribe below inbox_prefix: %w", err)
}
