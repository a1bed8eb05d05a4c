package nats

import (
	"net/http"
	"strings"
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
		{"url", func(c *Config) { c.URL = "ws://a,nats://b" }},
		{"url", func(c *Config) { c.URL = "ws://a,wss://b" }},
		{"url", func(c *Config) { c.URL = "ws://a?token=s3cret" }},
		{"url", func(c *Config) { c.URL = "wss://a/#s3cret" }},
		{"url", func(c *Config) { c.URL = "a?token=s3cret" }},
		{"url", func(c *Config) { c.URL = "tls://a/#s3cret" }},
		{"url", func(c *Config) { c.URL = "nats://a:4222/s3cret" }},
		{"url", func(c *Config) { c.URL = "nats://::1:4222" }},
		{"url", func(c *Config) { c.URL = "2001:db8::1" }},
		{"url", func(c *Config) { c.URL = "nats://a:0" }},
		{"url", func(c *Config) { c.URL = "nats://a:65536" }},
		{"tls", func(c *Config) { c.URL, c.TLS.CAFile = "ws://a", "ca.pem" }},
		{"tls.handshake_first", func(c *Config) { c.URL, c.TLS.HandshakeFirst = "wss://a", true }},
		{"websocket.headers_file", func(c *Config) { c.Websocket.HeadersFile = "headers" }},
		{"websocket", func(c *Config) { c.URL, c.Websocket.HeadersFile = Embedded, "headers" }},
		{"ignore_discovered_servers", func(c *Config) { c.URL, c.IgnoreDiscoveredServers = Embedded, true }},
		{"stream", func(c *Config) { c.Stream = "WORK.OS" }},
		{"stream", func(c *Config) { c.Stream = "WORK OS" }},
		{"api_prefix", func(c *Config) { c.Domain, c.APIPrefix = "hub", "JS.hub.API" }},
		{"inbox_prefix", func(c *Config) { c.InboxPrefix = "a.*" }},
		{"create.replicas", func(c *Config) { c.Create.Replicas = 2 }},
		{"create.placement.cluster", func(c *Config) { c.Create.Placement.Cluster = "a b" }},
		{"create.placement.tags[1]", func(c *Config) { c.Create.Placement.Tags = []string{"a", ""} }},
		{"create.placement", func(c *Config) { c.URL, c.Create.Placement.Cluster = Embedded, "a" }},
		{"create.compression", func(c *Config) { c.Create.Compression = "zstd" }},
		{"create.metadata", func(c *Config) { c.Create.Metadata = map[string]string{"relay.id": "x"} }},
		{"create.metadata", func(c *Config) { c.Create.Metadata = map[string]string{"": "x"} }},
		{"create.metadata", func(c *Config) { c.Create.Metadata = map[string]string{"a": strings.Repeat("x", maxMetadata)} }},
		{"create.max_age", func(c *Config) { c.Create.MaxAge = -1 }},
		{"auth", func(c *Config) { c.Auth.User, c.Auth.Token = "relay", "s3cret" }},
		{"auth.password", func(c *Config) { c.Auth.Password = "s3cret" }},
		{"ack_timeout", func(c *Config) { c.AckTimeout = -time.Second }},
		{"window", func(c *Config) { c.Window = maxWindow + 1 }},
		{"tls", func(c *Config) { c.URL, c.TLS = Embedded, TLS{TLS: tlsconf.TLS{Enabled: true}} }},
		{"auth", func(c *Config) { c.URL, c.Auth.Token = Embedded, "s3cret" }},
		{"embedded", func(c *Config) {
			c.URL, c.Embedded.Token, c.Embedded.User, c.Embedded.Password = Embedded, "0123456789abcdef", "relay", "s3cret"
		}},
		{"embedded.password", func(c *Config) { c.URL, c.Embedded.Password = Embedded, "s3cret" }},
		{"embedded.user", func(c *Config) { c.URL, c.Embedded.User = Embedded, "relay" }},
		{"embedded.token", func(c *Config) { c.URL, c.Embedded.Token = Embedded, "s3cret" }},
		{"embedded.max_connections", func(c *Config) { c.URL, c.Embedded.MaxConnections = Embedded, -1 }},
		{"embedded.listen", func(c *Config) { c.URL, c.Embedded.Listen = Embedded, ":4222" }},
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
	for listen, at := range map[string]string{"0.0.0.0:1": "127.0.0.1:1", ":1": "127.0.0.1:1", "[::]:1": "[::1]:1", "192.0.2.1:1": "192.0.2.1:1", "localhost:1": "localhost:1"} {
		cfg := Config{URL: Embedded, Embedded: EmbeddedConfig{Listen: listen, User: "relay", Password: "s3cret"}}.withDefaults()
		require.NoError(t, cfg.Validate())
		outside := cfg.Outside()
		require.NoError(t, outside.Validate())
		require.Equal(t, "nats://"+at, outside.URL)
		require.Equal(t, Auth{User: "relay", Password: "s3cret"}, outside.auth())
	}
	for _, url := range []string{"nats://a:4222", "a", "a:4222,b:4222", "tls://a, tls://b", "wss://a/nats", "nats://[::1]:4222", "nats://a:4222/", "[::1]", "nats://[fe80::1%25eth0]:4222", "ws://a/x,ws://b/y", "WS://a"} {
		require.NoError(t, Config{URL: url}.withDefaults().Validate(), url)
	}
}

func TestZoneWithoutEscape(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, Config{URL: "nats://[fe80::1%eth0]:4222"}.withDefaults().Validate(), "as a URL does, as in nats://[fe80::1%25eth0]:4222")
}

func TestAsyncAPIServer(t *testing.T) {
	t.Parallel()
	for url, want := range map[string][2]string{
		"nats://a:1,nats://b:2": {"nats", "a:1"}, "ws://a:1/x": {"ws", "a:1"}, "wss://[::1]:1": {"wss", "[::1]:1"}, "tls://a:1": {"nats", "a:1"},
	} {
		got := Config{URL: url}.AsyncAPIServer()
		require.Equal(t, want, [2]string{got.Protocol, got.Host}, url)
	}
}

func TestWebsocketPath(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"nats://a/": "", "wss://a": "", "wss://a/x": "/x", "ws://a/x, ws://b:1/x": "/x", "ws://a/x,ws://b/y": "", "ws://a,ws://b/y": "", "ws://a/x%20y": "/x%20y",
	} {
		require.Equal(t, want, Config{URL: url}.websocketPath(), url)
	}
}

func TestWebsocketHeaders(t *testing.T) {
	t.Parallel()
	got, err := parseHeaders([][]byte{[]byte("X-One: 1\r\n\nx-two:  two words \nX-One: 2\n")})
	require.NoError(t, err)
	require.Equal(t, http.Header{"X-One": {"1", "2"}, "X-Two": {"two words"}}, got.Value)
	require.Equal(t, []string{"1", "two words", "2"}, got.Secrets)
	for _, text := range []string{"s3cret", "a b: s3cret", ": s3cret", "X: a\x00s3cret", "Host: s3cret", "upgrade: s3cret", "sec-websocket-key: s3cret"} {
		_, err := parseHeaders([][]byte{[]byte("X: y\n" + text + "\n")})
		require.ErrorContains(t, err, "line 2", text)
		require.NotContains(t, err.Error(), "s3cret")
	}
}
