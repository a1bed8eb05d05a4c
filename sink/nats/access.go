package nats

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"golang.org/x/net/http/httpguts"

	"workos-relay/conf/livefile"
	"workos-relay/conf/tlsconf"
)

// access is how the sink proves who it is and whom it trusts. It reads files again for each
// connection.
type access struct {
	cfg    Config
	tls    *tlsconf.Live // nil without TLS
	system *tlsconf.System
	creds  *livefile.Value[credentials] // nil without auth.credentials_file
	nkey   *livefile.Value[nkeySeed]    // nil without auth.nkey_file
	// headers are those of the websocket handshake; nil without websocket.headers_file.
	headers *livefile.Value[http.Header]
}

// credentials are what a .creds file holds.
type credentials struct{ jwt, seed string }

// nkeySeed is what an NKey file holds, with the public key that follows from it.
type nkeySeed struct{ public, seed string }

// newAccess opens the files of c, so that a wrong name fails at the start.
func newAccess(c Config) (*access, error) {
	a := &access{cfg: c, system: tlsconf.SystemRoots(c.Files)}
	var err error
	if a.tls, err = c.TLS.section().Open(c.Files, c.key("")); err != nil {
		return nil, err
	}
	switch {
	case c.Auth.CredentialsFile != "":
		file := livefile.File{Key: c.key("auth.credentials_file"), Path: c.Auth.CredentialsFile}
		a.creds, err = livefile.Open(c.Files, []livefile.File{file}, parseCredentials)
	case c.Auth.NKeyFile != "":
		file := livefile.File{Key: c.key("auth.nkey_file"), Path: c.Auth.NKeyFile}
		a.nkey, err = livefile.Open(c.Files, []livefile.File{file}, parseNKey)
	}
	if err == nil && c.Websocket.HeadersFile != "" {
		file := livefile.File{Key: c.key("websocket.headers_file"), Path: c.Websocket.HeadersFile}
		a.headers, err = livefile.Open(c.Files, []livefile.File{file}, parseHeaders)
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

var (
	errNoCreds = errors.New("does not hold the JWT and the NKey seed of a user")
	errNoSeed  = errors.New("does not hold the NKey seed of a user")
)

func parseCredentials(contents [][]byte) (livefile.Parsed[credentials], error) {
	none := livefile.Parsed[credentials]{}
	jwt, err := nkeys.ParseDecoratedJWT(contents[0])
	if err != nil {
		return none, errNoCreds // the cause may repeat what the file holds
	}
	key, err := parseSeed(contents[0])
	if err != nil {
		return none, errNoCreds
	}
	return livefile.Parsed[credentials]{Value: credentials{jwt: jwt, seed: key.seed}, Secrets: []string{jwt, key.seed}}, nil
}

func parseNKey(contents [][]byte) (livefile.Parsed[nkeySeed], error) {
	key, err := parseSeed(contents[0])
	return livefile.Parsed[nkeySeed]{Value: key, Secrets: []string{key.seed}}, err
}

func parseSeed(text []byte) (nkeySeed, error) {
	pair, err := nkeys.ParseDecoratedUserNKey(text)
	if err != nil {
		return nkeySeed{}, errNoSeed
	}
	defer pair.Wipe()
	public, err := pair.PublicKey()
	if err != nil {
		return nkeySeed{}, errNoSeed
	}
	seed, err := pair.Seed()
	if err != nil {
		return nkeySeed{}, errNoSeed
	}
	return nkeySeed{public: public, seed: string(seed)}, nil
}

// parseHeaders reads lines of the form "Name: value". An error names the line, never its text.
func parseHeaders(contents [][]byte) (livefile.Parsed[http.Header], error) {
	out := livefile.Parsed[http.Header]{Value: http.Header{}}
	number := 0
	for line := range strings.Lines(string(contents[0])) {
		number++
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		name, value, found := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch {
		case !found || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value):
			return out, fmt.Errorf("is not a list of HTTP headers: line %d is not of the form Name: value", number)
		case slices.Contains(handshakeHeaders, http.CanonicalHeaderKey(name)):
			return out, fmt.Errorf("sets %s in line %d, which belongs to the handshake itself: remove it", http.CanonicalHeaderKey(name), number)
		}
		out.Value.Add(name, value)
		if value != "" {
			out.Secrets = append(out.Secrets, value)
		}
	}
	return out, nil
}

// handshakeHeaders are headers of a websocket handshake that nats.go sets.
var handshakeHeaders = []string{
	"Connection", "Content-Length", "Host", "Sec-Websocket-Extensions", "Sec-Websocket-Key", "Sec-Websocket-Version", "Transfer-Encoding", "Upgrade",
}

// identity is the public key of auth.nkey_file as it is now; empty without one.
func (a *access) identity() string {
	if a.nkey == nil {
		return ""
	}
	return a.nkey.Get().public
}

// options are those of nats.go that files decide. nats.go calls what is in them for each connection
// that it makes. identity is the public key that the options are bound to.
func (a *access) options() (opts []nats.Option, identity string) {
	switch auth := a.cfg.auth(); {
	case a.creds != nil:
		var now credentials // of the connection that is being made; nats.go makes one at a time, and asks for the JWT first
		opts = append(opts, nats.UserJWT(
			func() (string, error) {
				now = a.creds.Latest()
				return now.jwt, nil
			},
			func(nonce []byte) ([]byte, error) { return sign(now.seed, nonce) },
		))
	case a.nkey != nil:
		key := a.nkey.Latest()
		identity = key.public
		opts = append(opts, nats.Nkey(key.public, func(nonce []byte) ([]byte, error) { return sign(key.seed, nonce) }))
	case auth.User != "":
		opts = append(opts, nats.UserInfoHandler(func() (string, string) { return auth.User, a.cfg.Password.Latest().Reveal() }))
	case auth.Token.IsSet() || a.cfg.Token.Follows():
		opts = append(opts, nats.TokenHandler(func() string { return a.cfg.Token.Latest().Reveal() }))
	}
	if a.headers != nil {
		opts = append(opts, nats.WebSocketConnectionHeadersHandler(func() (http.Header, error) { return a.headers.Latest(), nil }))
	}
	switch {
	case a.tls != nil:
		opts = append(opts, a.secure())
	case a.cfg.plainWebsocket(): // nats.go would use TLS if it were given any option of TLS
	default: // a server may ask for TLS all the same
		opts = append(opts, func(o *nats.Options) error {
			o.RootCAsCB = func() (*x509.CertPool, error) { return a.system.Pool(), nil }
			return nil
		})
	}
	return opts, identity
}

func sign(seed string, nonce []byte) ([]byte, error) {
	pair, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		return nil, errNoSeed
	}
	defer pair.Wipe()
	return pair.Sign(nonce)
}

// secure makes nats.go use TLS, with the files as they are at each handshake.
func (a *access) secure() nats.Option {
	return func(o *nats.Options) error {
		conf := a.tls.Config()
		o.Secure, o.TLSConfig, o.TLSHandshakeFirst = true, conf, a.cfg.TLS.HandshakeFirst
		o.RootCAsCB = func() (*x509.CertPool, error) { return a.tls.Config().RootCAs, nil }
		if len(conf.Certificates) > 0 {
			o.TLSCertCB = func() (tls.Certificate, error) { return a.tls.Config().Certificates[0], nil }
		}
		return nil
	}
}
