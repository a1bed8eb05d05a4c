package nats

import (
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
)

// TestServerOfAnotherDomain has the connection move to a server in another JetStream domain: what
// its streams hold or lack says nothing about the stream that was prepared.
func TestServerOfAnotherDomain(t *testing.T) {
	t.Parallel()
	for name, alike := range map[string]bool{"with a stream of the name": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			domain := func(name string) func(*server.Options) {
				return func(o *server.Options) { o.ServerName, o.JetStreamDomain = name, name }
			}
			first, second := newServer(t, domain("first")), newServer(t, domain("second"))
			prepare := func(url string) (*Sink, *Ledger) {
				s, err := New(t.Context(), Config{URL: url, Create: Create{Enabled: true}, RelayID: "workos", Lane: "kit"})
				require.NoError(t, err)
				t.Cleanup(func() { _ = s.Close() })
				l := s.Ledger(checkpointtest.Identity())
				require.NoError(t, l.Prepare(t.Context(), []string{"user.created"}))
				return s, l
			}
			if alike {
				prepare(second.url())
			}
			second.stop()
			s, l := prepare(strings.Join([]string{first.url(), second.url()}, ","))
			parts, err := s.Survey(t.Context(), nil, nil)
			require.NoError(t, err)
			require.Len(t, parts, 1)

			first.stop()
			second.start(t)
			for _, ask := range []func() error{
				func() error { _, err := l.Load(t.Context()); return err },
				func() error { _, err := s.Survey(t.Context(), nil, parts); return err },
				func() error { _, err := l.Survey(t.Context(), nil, parts); return err },
			} {
				require.Eventually(t, func() bool {
					err = ask()
					return err != nil && strings.Contains(err.Error(), "the connection leads to server second")
				}, patient, often, "%v", err)
				require.NotErrorIs(t, err, checkpoint.ErrLost)
				require.NotErrorIs(t, err, checkpoint.ErrNotFound)
			}

			second.stop()
			first.start(t)
			require.Eventually(t, func() bool {
				again, err := s.Survey(t.Context(), nil, parts)
				return err == nil && len(again) == 1 && again[0].ID == parts[0].ID
			}, patient, often)
		})
	}
}

// TestDomainOfTheStream: the domain is learned from the stream, and is part of the identity.
func TestDomainOfTheStream(t *testing.T) {
	t.Parallel()
	srv := newServer(t, func(o *server.Options) { o.JetStreamDomain = "hub" })
	s, err := New(t.Context(), Config{URL: srv.url(), Domain: "hub", Create: Create{Enabled: true}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	require.NoError(t, s.Prepare(t.Context(), []string{"user.created"}))
	require.Equal(t, "hub", s.stream.home.Load().domain)
	require.Equal(t, "nats stream WORKOS, domain hub", s.Identity())
	require.Equal(t, "nats stream WORKOS, api_prefix $JS.hub.API", Config{APIPrefix: "$JS.hub.API."}.Identity())
}
