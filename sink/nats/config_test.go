package nats

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/conf/tlsconf"
)

func TestConfigFaultsNameTheKey(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		key    string
		change func(*Config)
	}{
		{"url", func(c *Config) { c.URL = "nats://a, http://b" }},
		{"url", func(c *Config) { c.URL = "nats://relay:s3cret@a:4222" }},
		{"url", func(c *Config) { c.URL = "nats://a:s3cret%zz@b" }},
		{"url", func(c *Config) { c.URL = "nats://a,," }},
		{"stream", func(c *Config) { c.Stream = "WORK.OS" }},
		{"stream", func(c *Config) { c.Stream = "WORK OS" }},
		{"api_prefix", func(c *Config) { c.Domain, c.APIPrefix = "hub", "JS.hub.API" }},
		{"inbox_prefix", func(c *Config) { c.InboxPrefix = "a.*" }},
		{"create.replicas", func(c *Config) { c.Create.Replicas = 2 }},
		{"create.max_age", func(c *Config) { c.Create.MaxAge = -1 }},
		{"auth", func(c *Config) { c.Auth.User, c.Auth.Token = "relay", "s3cret" }},
		{"auth.password", func(c *Config) { c.Auth.Password = "s3cret" }},
		{"ack_timeout", func(c *Config) { c.AckTimeout = -time.Second }},
		{"window", func(c *Config) { c.Window = maxWindow + 1 }},
		{"tls.handshake_first", func(c *Config) { c.URL, c.TLS.HandshakeFirst = "wss://a", true }},
		{"tls", func(c *Config) { c.URL, c.TLS = Embedded, TLS{TLS: tlsconf.TLS{Enabled: true}} }},
		{"auth", func(c *Config) { c.URL, c.Auth.Token = Embedded, "s3cret" }},
	} {
		cfg := Config{}.withDefaults()
		require.NoError(t, cfg.Validate())
		c.change(&cfg)
		err := cfg.Validate()
		var key *KeyError
		require.ErrorAs(t, err, &key, c.key)
		require.Equal(t, c.key, key.Key())
		require.NotContains(t, err.Error(), "s3cret")
	}
	for _, url := range []string{"nats://a:4222", "a", "a:4222,b:4222", "tls://a, tls://b", "wss://a/nats", "nats://[::1]:4222"} {
		require.NoError(t, Config{URL: url}.withDefaults().Validate(), url)
	}
}
