package nats

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/conf/given"
	"workos-relay/conf/livefile"
	"workos-relay/conf/secret"
	"workos-relay/conf/tlsconf"
	"workos-relay/conf/unit"
	"workos-relay/internal/listener"
	"workos-relay/sink"
)

// Embedded is the value of Config.URL that asks for a JetStream server inside this process.
const Embedded = "embedded"

// Config is what New needs to know. The zero value of a field without a default in its tag means
// what its description says; New fills in the defaults of the numbers and durations itself, so a
// Config made in code may leave them out.
type Config struct {
	URL                     string         `yaml:"url" default:"nats://127.0.0.1:4222" example:"nats://nats-1:4222,nats://nats-2:4222" doc:"Address of the NATS server, or several of one cluster separated by commas; ws:// and wss:// go through a websocket, whose path may follow the port; the word embedded runs a JetStream server inside relay."`
	IgnoreDiscoveredServers bool           `yaml:"ignore_discovered_servers" default:"false" doc:"Connect to the addresses in url only. Otherwise relay also uses the addresses that the servers of a cluster announce. Set it if relay cannot reach those, because the servers are behind a load balancer, a tunnel or a port forward."`
	Stream                  string         `yaml:"stream" default:"WORKOS" doc:"Name of the JetStream stream that binds the topics."`
	TopicPrefix             string         `yaml:"topic_prefix" example:"acme." doc:"Put before each routed topic and the dead letter, as it stands; not before positions."`
	Create                  Create         `yaml:"create"`
	Auth                    Auth           `yaml:"auth"`
	TLS                     TLS            `yaml:"tls"`
	Websocket               Websocket      `yaml:"websocket"`
	Domain                  string         `yaml:"domain" doc:"JetStream domain to publish to, for leaf nodes. Not together with api_prefix."`
	APIPrefix               string         `yaml:"api_prefix" example:"JS.acc.API" doc:"Subject prefix of the JetStream API, if it is imported from another account. Not together with domain."`
	InboxPrefix             string         `yaml:"inbox_prefix" default:"_INBOX" doc:"Subject prefix under which acknowledgements come back, if the user may subscribe to that one only."`
	AckTimeout              time.Duration  `yaml:"ack_timeout" default:"10s" doc:"How long to wait for the stream's acknowledgement of a message, and for an answer of the JetStream API, before it is published again."`
	Window                  int            `yaml:"window" default:"4096" doc:"Most messages published and not yet acknowledged at any time."`
	DuplicateWindow         time.Duration  `yaml:"duplicate_window" named:"true" default:"2m" doc:"How long the stream recognises a second copy of an event, at most create.max_age. A stream that relay created is changed to it if the key is written down; one that others created keeps its own."`
	Embedded                EmbeddedConfig `yaml:"embedded"`

	given.Keys // of those above

	Logger       *zap.Logger       `yaml:"-"` // nil logs nothing
	RelayID      string            `yaml:"-"` // `id` of the configuration; names the connection on the server
	Lane         string            `yaml:"-"` // name of the sink; names the connection on the server
	State        []sink.StateTopic `yaml:"-"` // topics of state messages, each of which gets a bucket
	Files        *livefile.Set     `yaml:"-"` // follows the files that the configuration names; nil reads them at each connection
	Password     *livefile.Current `yaml:"-"` // the password if a file holds it, of auth or of embedded; nil for the one here
	Token        *livefile.Current `yaml:"-"` // the token if a file holds it, of auth or of embedded; nil for the one here
	OnDisconnect func(error)       `yaml:"-"` // optional: the connection was lost, and why if known. Must not block
	OnReconnect  func()            `yaml:"-"` // optional: the connection is there, at the first time as well. Must not block

	outside bool // made by Outside from settings with an embedded server
}

// Create says whether relay may create the stream, and how. What the configuration file names here,
// relay also applies to a stream that it created earlier; a default that is not written down
// changes no existing stream.
type Create struct {
	Enabled       bool              `yaml:"enabled" default:"true" doc:"Create the stream if it is missing, and change one that relay created to what is configured here. A stream that others created is never changed."`
	Replicas      int               `yaml:"replicas" named:"true" default:"1" doc:"Copies of the stream in the cluster: 1, 3 or 5. Only 3 or more outlive a broken disk or a lost server."`
	MaxAge        time.Duration     `yaml:"max_age" named:"true" default:"0s" doc:"How long the stream keeps a message; 0s keeps it for ever."`
	MaxBytes      unit.Bytes        `yaml:"max_bytes" named:"true" default:"0" doc:"Size at which the stream drops its oldest messages; 0 sets no limit."`
	Placement     Placement         `yaml:"placement" named:"true"`
	Compression   string            `yaml:"compression" named:"true" default:"none" enum:"none,s2" doc:"How the server compresses the files of the stream. It needs nats-server 2.10 or later. A stream that exists compresses what it stores from then on."`
	Metadata      map[string]string `yaml:"metadata" named:"true" example:"{team: platform}" doc:"Labels of the stream for other tools. relay changes those that are named here, and leaves others as they are."`
	AllowDeletion bool              `yaml:"allow_deletion" default:"false" doc:"Also apply a change that deletes stored messages or copies of them: a lower max_age or max_bytes, fewer replicas. Without it relay only names such a change."`

	given.Keys // of those above
}

// Placement says which servers may store the stream. The zero value leaves that to the cluster.
type Placement struct {
	Cluster string   `yaml:"cluster" doc:"Name of the cluster, of several that are connected by gateways, whose servers store the stream."`
	Tags    []string `yaml:"tags" example:"[ssd, eu]" doc:"Tags that each server of the stream must have in its server_tags. Changing cluster or tags of a stream that exists moves it to other servers."`
}

// isZero reports whether p leaves the choice to the cluster.
func (p Placement) isZero() bool { return p.Cluster == "" && len(p.Tags) == 0 }

// Websocket is for addresses that begin with ws:// or wss://.
type Websocket struct {
	HeadersFile string `yaml:"headers_file" example:"/run/secrets/nats_headers" doc:"File with HTTP headers for the websocket handshake, one Name: value on each line, if a proxy in front of the servers asks for them. New content is used for the next connection."`
}

// TLS is the TLS section of a connection to NATS.
type TLS struct {
	tlsconf.TLS    `yaml:",inline"`
	HandshakeFirst bool `yaml:"handshake_first" default:"false" doc:"Begin with the TLS handshake and not with the server's greeting, for servers whose tls section has handshake_first."`
}

// InUse reports whether the section asks for TLS at all.
func (t TLS) InUse() bool { return t.HandshakeFirst || t.TLS.InUse() }

// section returns the part that every kind of connection has.
func (t TLS) section() tlsconf.TLS {
	t.Enabled = t.Enabled || t.HandshakeFirst
	return t.TLS
}

// Auth is how relay proves to the server who it is. At most one way is given.
type Auth struct {
	CredentialsFile string        `yaml:"credentials_file" doc:"File with the JWT and NKey seed of a user (.creds), as nsc writes it. New content is used for the next connection."`
	NKeyFile        string        `yaml:"nkey_file" doc:"File with the NKey seed of a user. New content is used for the next connection."`
	User            string        `yaml:"user" doc:"User name, together with password."`
	Password        secret.String `yaml:"password" doc:"Password of user."`
	Token           secret.String `yaml:"token" doc:"Token, if the server is set up with one."`
}

// EmbeddedConfig is the JetStream server inside relay. It is read only if the URL is "embedded".
type EmbeddedConfig struct {
	Dir            string        `yaml:"dir" doc:"Directory of the server's streams. Empty: jetstream inside checkpoint.dir."`
	Listen         string        `yaml:"listen" default:"127.0.0.1:4222" doc:"Address that the embedded server listens on for consumers. An address that other machines reach, such as 0.0.0.0:4222 in a container, needs token, or user and password."`
	Token          secret.String `yaml:"token" doc:"Token that the embedded server asks every client for, of at least 16 characters. Clients that connected with an earlier content of the file are disconnected."`
	User           string        `yaml:"user" example:"relay" doc:"User name that the embedded server asks every client for, together with password; instead of token."`
	Password       secret.String `yaml:"password" doc:"Password of user. Clients that connected with an earlier content of the file are disconnected."`
	MaxConnections int           `yaml:"max_connections" default:"64" min:"4" max:"65536" doc:"Most connections of clients that are open at once; further ones are refused. Relay's own connection does not count and always finds a place."`
	SyncAlways     bool          `yaml:"sync_always" default:"true" doc:"Write each message to the disk itself before it is acknowledged. Without it a power failure can lose up to two minutes of acknowledged events."`
	MaxStore       unit.Bytes    `yaml:"max_store" default:"0" doc:"Most bytes that the embedded server's streams may take on disk; 0 lets the server choose by the free space."`
}

// guarded reports whether clients must prove who they are.
func (e EmbeddedConfig) guarded() bool { return e.Token.IsSet() || e.User != "" }

// minToken is the fewest characters of embedded.token: 16 random ones cannot be guessed.
const minToken = 16

// CheckToken checks a token of the embedded server. The error continues a sentence that begins with
// the token's key.
func CheckToken(token string) error {
	if len(token) < minToken {
		return fmt.Errorf("is shorter than %d characters; make one with: openssl rand -hex 24", minToken)
	}
	return nil
}

// auth is how relay's own connection proves who it is: with the credentials of the embedded server
// if that is where it connects.
func (c Config) auth() Auth {
	if c.URL != Embedded {
		return c.Auth
	}
	return Auth{User: c.Embedded.User, Password: c.Embedded.Password, Token: c.Embedded.Token}
}

// Outside returns the configuration with which another process reaches the embedded server of c, or
// c itself if the server is not embedded. Password and Token stay those of c.
func (c Config) Outside() Config {
	if c.URL != Embedded {
		return c
	}
	c.Auth = c.auth()
	c.URL = "nats://" + c.EmbeddedAddress()
	c.Embedded, c.outside = EmbeddedConfig{}, true
	return c
}

// EmbeddedAddress is the address, host:port, at which a program on this machine reaches the
// embedded server.
func (c Config) EmbeddedAddress() string {
	listen := c.withDefaults().Embedded.Listen
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	switch ip := net.ParseIP(host); {
	case host == "" || ip.Equal(net.IPv4zero):
		return net.JoinHostPort("127.0.0.1", port)
	case ip.Equal(net.IPv6unspecified):
		return net.JoinHostPort("::1", port)
	default:
		return listen
	}
}

// key is a key of the sink as messages name it.
func (c Config) key(name string) string {
	if c.Lane == "" {
		return name
	}
	return "sinks[" + c.Lane + "]." + name
}

// Identity names what a sink of this configuration writes to, without addresses: "nats stream
// WORKOS, domain hub".
func (c Config) Identity() string {
	name := "nats stream " + c.withDefaults().Stream
	switch {
	case c.Domain != "":
		return name + checkpoint.DomainMark + c.Domain
	case c.APIPrefix != "":
		return name + checkpoint.APIPrefixMark + strings.TrimSuffix(c.APIPrefix, ".")
	default:
		return name
	}
}

// KeyError is an error of Validate that names the key at fault.
type KeyError struct {
	key string
	msg string
}

// Error implements error.
func (e *KeyError) Error() string { return e.msg }

// Key is the dotted path of the key, relative to the sink.
func (e *KeyError) Key() string { return e.key }

func keyErrorf(key, format string, args ...any) error {
	return &KeyError{key: key, msg: fmt.Sprintf(format, args...)}
}

// Validate checks what the tags cannot say. The error joins a *KeyError for each part of the
// configuration that is wrong: the address, the stream, the credentials, and the limits.
func (c Config) Validate() error {
	return errors.Join(c.validateURL(), c.validateStream(), c.validateAuth(), c.validateLimits())
}

// isWebsocket reports whether an address, which may lack a scheme, is that of a websocket.
func isWebsocket(address string) bool {
	scheme, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(address)), "://")
	return scheme == "ws" || scheme == "wss"
}

// overWebsocket reports whether the servers are reached through websockets. Validate refuses a
// mixture.
func (c Config) overWebsocket() bool { return isWebsocket(c.URL) }

// plainWebsocket reports whether the servers are reached through websockets without TLS. Validate
// refuses a mixture.
func (c Config) plainWebsocket() bool {
	return strings.HasPrefix(strings.ToLower(strings.TrimSpace(c.URL)), "ws://")
}

// websocketPath returns the path of the addresses if it is the same for all of them, and "" if it
// is not or if there is none.
func (c Config) websocketPath() string {
	if !c.overWebsocket() {
		return ""
	}
	path, first := "", true
	for u := range strings.SplitSeq(c.URL, ",") {
		parsed, err := url.Parse(strings.TrimSpace(u))
		if err != nil || !first && parsed.EscapedPath() != path {
			return ""
		}
		path, first = parsed.EscapedPath(), false
	}
	return path
}

func (c Config) validateURL() error {
	if c.URL == Embedded {
		if c.TLS.InUse() {
			return keyErrorf("tls", "the embedded server speaks no TLS: remove tls, or run a separate NATS server")
		}
		if c.Auth != (Auth{}) {
			return keyErrorf("auth", "auth is for a separate NATS server: the embedded server has embedded.token, or embedded.user and embedded.password")
		}
		if c.IgnoreDiscoveredServers {
			return keyErrorf("ignore_discovered_servers", "the embedded server announces no others: remove ignore_discovered_servers")
		}
		if c.Websocket != (Websocket{}) {
			return keyErrorf("websocket", "the embedded server has no websocket: remove websocket")
		}
		return c.validateEmbedded()
	}
	schemes := map[string]bool{}
	for u := range strings.SplitSeq(c.URL, ",") {
		scheme, err := c.validateAddress(strings.TrimSpace(u))
		if err != nil {
			return err
		}
		schemes[scheme] = true
	}
	switch plain, secure := schemes["ws"], schemes["wss"]; {
	case (plain || secure) && (schemes["nats"] || schemes["tls"]):
		return keyErrorf("url", "websocket addresses (ws, wss) and others (nats, tls) cannot be mixed: use one kind for all servers")
	case plain && secure:
		return keyErrorf("url", "ws and wss addresses cannot be mixed: use wss for all servers, or ws for all")
	case plain && c.TLS.InUse():
		return keyErrorf("tls", "tls is set, but a ws address has no TLS: write wss in url, or remove tls")
	case c.TLS.HandshakeFirst && secure:
		return keyErrorf("tls.handshake_first", "a websocket begins with its own handshake: remove tls.handshake_first, or use a nats or tls address")
	case c.Websocket.HeadersFile != "" && !plain && !secure:
		return keyErrorf("websocket.headers_file", "headers are sent to websocket addresses only: use ws or wss in url, or remove websocket.headers_file")
	}
	return nil
}

// validateAddress checks one address of url and returns its scheme. The error does not repeat the
// address, which may hold a password.
func (c Config) validateAddress(address string) (scheme string, _ error) {
	if !strings.Contains(address, "://") {
		address = "nats://" + address
	}
	parsed, err := url.Parse(address)
	switch {
	case err != nil && strings.Count(address, ":") > 2 && !strings.ContainsAny(address, "[@"):
		return "", keyErrorf("url", "not an address: write an IPv6 address in brackets, as in nats://[::1]:4222")
	case err != nil && strings.Contains(address, "[") && strings.Contains(address, "%") && !strings.Contains(address, "@"):
		return "", keyErrorf("url", "not an address: write the zone of an IPv6 address as a URL does, as in nats://[fe80::1%s]:4222", "%25eth0")
	case err != nil:
		return "", keyErrorf("url", "not an address: write nats://host:4222, several separated by commas, or embedded")
	case parsed.Hostname() == "":
		return "", keyErrorf("url", "an address without a host: write nats://host:4222, several separated by commas, or embedded")
	case parsed.User != nil:
		return "", keyErrorf("url", "credentials in an address end up in logs: put them under auth")
	case !strings.HasPrefix(parsed.Host, "[") && strings.Contains(parsed.Hostname(), ":"):
		return "", keyErrorf("url", "not an address: write an IPv6 address in brackets, as in nats://[::1]:4222")
	}
	if port := parsed.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", keyErrorf("url", "%s is not a port: use 1 to 65535, as in nats://host:4222", port)
		}
	}
	if parsed.RawQuery != "" || parsed.ForceQuery || parsed.Fragment != "" {
		return "", keyErrorf("url", "what follows ? or # in an address ends up in logs: remove it, and put what a proxy asks for into websocket.headers_file")
	}
	switch parsed.Scheme {
	case "ws", "wss":
	case "nats", "tls":
		if parsed.Path != "" && parsed.Path != "/" {
			return "", keyErrorf("url", "a path is for websocket addresses (ws, wss) only: remove it")
		}
	default:
		return "", keyErrorf("url", "scheme %q is none of nats, tls, ws, wss", parsed.Scheme)
	}
	return parsed.Scheme, nil
}

// validateEmbedded checks who may reach the embedded server.
func (c Config) validateEmbedded() error {
	e := c.Embedded
	switch {
	case e.Token.IsSet() && (e.User != "" || e.Password.IsSet()):
		return keyErrorf("embedded", "token and user exclude each other: keep one")
	case e.Password.IsSet() && e.User == "":
		return keyErrorf("embedded.password", "a password without a user: add embedded.user, or use embedded.token")
	case e.User != "" && !e.Password.IsSet():
		return keyErrorf("embedded.user", "a user without a password: add embedded.password, or use embedded.token")
	case e.Token.IsSet():
		if err := CheckToken(e.Token.Reveal()); err != nil {
			return keyErrorf("embedded.token", "embedded.token %v", err)
		}
	case e.MaxConnections < 0:
		return keyErrorf("embedded.max_connections", "%d is negative", e.MaxConnections)
	}
	e.Listen = c.withDefaults().Embedded.Listen
	if _, _, err := e.address(); err != nil {
		return err
	}
	if !e.guarded() && !listener.IsLoopback(e.Listen) {
		return keyErrorf("embedded.listen", "%q can be reached from other machines, and the embedded server asks nobody who they are: set embedded.token, "+
			"or embedded.user and embedded.password, or listen on 127.0.0.1", e.Listen)
	}
	return nil
}

// address returns the parts of listen. The error is a *KeyError.
func (e EmbeddedConfig) address() (host string, port int, err error) {
	host, text, err := net.SplitHostPort(e.Listen)
	if err != nil || strings.Contains(host, "@") {
		return "", 0, keyErrorf("embedded.listen", "the value is not an address: write host:port, such as %s", defaultListen)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, keyErrorf("embedded.listen", "%q is not a port: write host:port, such as %s", text, defaultListen)
	}
	return host, int(n), nil //nolint:gosec // 16 bits
}

func (c Config) validateStream() error {
	if c.Stream == "" || strings.ContainsAny(c.Stream, " \t\r\n.*>/\\") {
		return keyErrorf("stream", "%q is not a valid stream name: it is not empty and has no spaces and none of . * > / \\", c.Stream)
	}
	if c.Domain != "" && c.APIPrefix != "" {
		return keyErrorf("api_prefix", "domain and api_prefix exclude each other: remove one")
	}
	if c.InboxPrefix != "" {
		if reason := illegalSubject(c.InboxPrefix); reason != "" {
			return keyErrorf("inbox_prefix", "%q is not a legal subject: %s", c.InboxPrefix, reason)
		}
	}
	if err := c.Create.validate(); err != nil {
		return err
	}
	if c.URL == Embedded && !c.Create.Placement.isZero() {
		return keyErrorf("create.placement", "the embedded server is not part of a cluster: remove create.placement")
	}
	if r := c.Create.Replicas; r < 0 || r > 5 || r == 2 || r == 4 {
		return keyErrorf("create.replicas", "%d replicas: use 1, 3 or 5", r)
	}
	return nil
}

// maxMetadata is how many bytes of metadata relay takes: a server takes 128 KiB, its own included.
const maxMetadata = 64 << 10

// validate checks the kind of stream that is asked for.
func (c Create) validate() error {
	if blank(c.Placement.Cluster) {
		return keyErrorf("create.placement.cluster", "%q is not the name of a cluster, which has no spaces", c.Placement.Cluster)
	}
	for i, tag := range c.Placement.Tags {
		if tag == "" || blank(tag) {
			return keyErrorf(fmt.Sprintf("create.placement.tags[%d]", i), "%q is not a tag of a server: write each tag without spaces as an entry of the list", tag)
		}
	}
	if c.Compression != "" && c.Compression != compressionNone && c.Compression != compressionS2 {
		return keyErrorf("create.compression", "%q is not a compression: use none or s2", c.Compression)
	}
	size := 0
	for key, value := range c.Metadata {
		switch size += len(key) + len(value); {
		case key == "" || blank(key):
			return keyErrorf("create.metadata", "%q is not a name of metadata: use one without spaces", key)
		case strings.HasPrefix(key, "relay."), strings.HasPrefix(key, "_nats."):
			return keyErrorf("create.metadata", "%s belongs to relay or to the NATS server: use a name that begins neither with relay. nor with _nats.", key)
		case size > maxMetadata:
			return keyErrorf("create.metadata", "it takes more than %d bytes: shorten it", maxMetadata)
		}
	}
	return nil
}

// blank reports whether s contains a space or a control character.
func blank(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) })
}

// What Create.Compression may be.
const (
	compressionNone = "none"
	compressionS2   = "s2"
)

func (c Config) validateAuth() error {
	a := c.Auth
	var given []string
	for _, way := range []struct {
		name string
		set  bool
	}{
		{"credentials_file", a.CredentialsFile != ""},
		{"nkey_file", a.NKeyFile != ""},
		{"user", a.User != ""},
		{"token", a.Token.IsSet()},
	} {
		if way.set {
			given = append(given, way.name)
		}
	}
	if len(given) > 1 {
		return keyErrorf("auth", "%s exclude each other: keep one", strings.Join(given, " and "))
	}
	if a.Password.IsSet() && a.User == "" {
		return keyErrorf("auth.password", "a password without a user: add auth.user, or use auth.token")
	}
	return nil
}

func (c Config) validateLimits() error {
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"ack_timeout", c.AckTimeout}, {"duplicate_window", c.DuplicateWindow}, {"create.max_age", c.Create.MaxAge}} {
		if d.value < 0 {
			return keyErrorf(d.key, "%v is negative", d.value)
		}
	}
	if c.Window < 0 || c.Window > maxWindow {
		return keyErrorf("window", "%d: use 1 to %d", c.Window, maxWindow)
	}
	return nil
}

const (
	defaultURL             = "nats://127.0.0.1:4222"
	defaultStream          = "WORKOS"
	defaultInboxPrefix     = "_INBOX"
	defaultListen          = "127.0.0.1:4222"
	defaultConnections     = 64
	defaultAckTimeout      = 10 * time.Second
	defaultWindow          = 4096
	defaultDuplicateWindow = 2 * time.Minute
	maxWindow              = 65536
)

// withDefaults fills in what a Config made in code may leave out. Booleans stay as they are.
func (c Config) withDefaults() Config {
	setDefault(&c.URL, defaultURL)
	setDefault(&c.Stream, defaultStream)
	setDefault(&c.InboxPrefix, defaultInboxPrefix)
	setDefault(&c.AckTimeout, defaultAckTimeout)
	setDefault(&c.Window, defaultWindow)
	setDefault(&c.DuplicateWindow, defaultDuplicateWindow)
	setDefault(&c.Create.Replicas, 1)
	setDefault(&c.Embedded.Listen, defaultListen)
	setDefault(&c.Embedded.MaxConnections, defaultConnections)
	if c.Create.MaxAge > 0 { // a server refuses a longer one
		c.DuplicateWindow = min(c.DuplicateWindow, c.Create.MaxAge)
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Password == nil {
		c.Password = livefile.Fixed(c.auth().Password)
	}
	if c.Token == nil {
		c.Token = livefile.Fixed(c.auth().Token)
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
