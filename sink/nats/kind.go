package nats

import (
	"context"
	"errors"
	"net/url"
	"path/filepath"
	"strings"

	"workos-relay/sink"
)

// Kind describes JetStream as a bus.
var Kind = &sink.Kind{
	Name:           "nats",
	New:            func() sink.Settings { return &Config{} },
	CloudEvents:    "nats",
	KeepsPositions: true,
	KeepsState:     true,
	ReadsBack:      true,
	MayComeEarly:   true,
	Incapable:      []error{ErrNoAtomicPublish, ErrStreamUnfit},
	Starters:       starters,
	AsyncAPI: &sink.AsyncAPI{ // the binding has nothing for a channel
		Binding:   "nats",
		Operation: map[string]any{"bindingVersion": "0.1.0"},
	},
}

// embeddedMemory is the number of bytes that an embedded server needs.
const embeddedMemory = 64 << 20

// Prefix implements sink.Settings.
func (c Config) Prefix() string { return c.TopicPrefix }

// Limits implements sink.Settings.
func (c Config) Limits() sink.Limits {
	if c.URL == Embedded {
		return sink.Limits{Memory: embeddedMemory}
	}
	return sink.Limits{}
}

// Open implements sink.Settings. It connects in the background. If the server is embedded, Open
// starts it, with its streams below o.Dir unless the settings name another directory.
func (c Config) Open(ctx context.Context, o sink.OpenOptions) (_ *sink.Opened, err error) {
	if err := c.completeBy(o); err != nil {
		return nil, err
	}
	s, err := New(ctx, c)
	switch {
	case err != nil && c.URL == Embedded: // the server did not start, and the settings may be right
		return nil, err
	case err != nil:
		return nil, &sink.SettingsError{Err: err}
	}
	return &sink.Opened{Bus: s, Ledger: s.Ledger(o.Identity)}, nil
}

// Rehearse implements sink.Rehearser.
func (c Config) Rehearse(ctx context.Context, o sink.OpenOptions) (*sink.Rehearsal, error) {
	if err := c.completeBy(o); err != nil {
		return nil, err
	}
	return rehearse(ctx, c)
}

// completeBy sets what the lane decides.
func (c *Config) completeBy(o sink.OpenOptions) error {
	c.Logger, c.RelayID, c.Lane, c.Files, c.State = o.Logger, o.RelayID, o.Lane, o.Files, o.State
	if c.Embedded.Dir == "" {
		c.Embedded.Dir = filepath.Join(o.Dir, "jetstream")
	}
	return c.secrets(o)
}

// secrets sets the secrets that may change while the sink is open.
func (c *Config) secrets(o sink.OpenOptions) (err error) {
	password, token, section, check := c.Auth.Password, c.Auth.Token, "auth.", (func(string) error)(nil)
	switch {
	case c.URL == Embedded:
		password, token, section, check = c.Embedded.Password, c.Embedded.Token, "embedded.", CheckToken
	case c.outside: // Auth holds the secrets of the embedded server
		section, check = "embedded.", CheckToken
	}
	if c.Password, err = o.Secret(section+"password", password, nil); err != nil {
		return err
	}
	c.Token, err = o.Secret(section+"token", token, check)
	return err
}

// EmbeddedServer implements sink.Embedder.
func (c Config) EmbeddedServer() *sink.EmbeddedServer {
	if c.URL != Embedded {
		return nil
	}
	outside := c.Outside()
	return &sink.EmbeddedServer{
		Name: "NATS server", Key: "url", Listen: c.Embedded.Listen, Address: c.EmbeddedAddress(), Holds: "stream", Page: "docs/nats.md",
		Outside: &outside,
	}
}

// TakesPatterns implements sink.PatternSettings.
func (Config) TakesPatterns() error { return nil }

// AsyncAPIServer implements sink.Documented. The server is the first one of the URL.
func (c Config) AsyncAPIServer() sink.AsyncAPIServer {
	protocol := "nats"
	switch {
	case c.plainWebsocket():
		protocol = "ws"
	case c.overWebsocket():
		protocol = "wss"
	}
	return sink.AsyncAPIServer{
		Protocol: protocol, Host: c.host(),
		Description: "JetStream stream " + c.Stream + ". Read it through a consumer with a filter; make handlers idempotent by the header event-id.",
	}
}

// host returns host and port of the first server.
func (c Config) host() string {
	if c.URL == Embedded {
		return c.Embedded.Listen
	}
	first, _, _ := strings.Cut(c.URL, ",")
	if u, err := url.Parse(strings.TrimSpace(first)); err == nil && u.Host != "" {
		return u.Host
	}
	return "127.0.0.1:4222"
}

// Follow implements sink.Followable. A pattern may also be a subject filter of NATS.
func (c Config) Follow(ctx context.Context, o sink.FollowOptions, fn func(sink.Message) error) error {
	c = c.Outside()
	if o.Address != "" {
		c.URL = o.Address
	}
	c.Logger, c.RelayID, c.Lane, c.Files, c.State = o.Logger, o.RelayID, o.Lane, o.Files, o.State
	if err := c.secrets(o.OpenOptions); err != nil {
		return err
	}
	s, err := New(ctx, c)
	if err != nil {
		return err
	}
	filters := make([]string, len(o.Patterns))
	for i, p := range o.Patterns {
		filters[i] = c.TopicPrefix + subjectFilter(p)
	}
	err = s.Tail(ctx, TailOptions{Subjects: filters, FromStart: o.FromStart}, func(m Stored) error { return fn(m.Message) })
	return errors.Join(err, s.Close())
}

// subjectFilter turns a pattern of event types into a subject filter. A * at the end stands for any
// number of tokens.
func subjectFilter(pattern string) string {
	if pattern == "*" {
		return ">"
	}
	if n := len(pattern); n > 2 && pattern[n-2:] == ".*" {
		return pattern[:n-1] + ">"
	}
	return pattern
}
