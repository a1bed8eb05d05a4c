package nats

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"workos-relay/conf/secret"
	"workos-relay/conf/tlsconf"
	"workos-relay/sink"
)

// delivers checks that a sink can do all it needs to.
func delivers(t *testing.T, cfg Config) {
	t.Helper()
	cfg.Create.Enabled = true
	s := open(t, cfg)
	require.NoError(t, s.Prepare(t.Context(), []string{topic}))
	require.NoError(t, s.Publish(t.Context(), numbered(3)))
	held, err := s.Holds(t.Context(), []string{topic})
	require.NoError(t, err)
	require.True(t, held)
}

// fails checks that a sink is made, and that its Prepare says at once what is wrong, as nothing
// final.
func fails(t *testing.T, cfg Config, want ...string) {
	t.Helper()
	cfg.Create.Enabled = true
	cfg.AckTimeout = time.Hour // it does not take that long to know
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	s := open(t, cfg)
	err := s.Prepare(ctx, []string{topic})
	require.Error(t, err)
	require.NoError(t, ctx.Err(), "it took too long to say: %v", err)
	var fatal *sink.FatalError
	require.NotErrorAs(t, err, &fatal)
	for _, w := range want {
		require.ErrorContains(t, err, w)
	}
	require.NotContains(t, err.Error(), "s3cret")
}

func TestAuthUser(t *testing.T) {
	t.Parallel()
	srv := newServer(t, func(o *server.Options) { o.Username, o.Password = "relay", "right" })
	delivers(t, Config{URL: srv.url(), Auth: Auth{User: "relay", Password: "right"}})
	fails(t, Config{URL: srv.url(), Auth: Auth{User: "relay", Password: "s3cret"}}, `refuses auth.user "relay"`, srv.url())
	fails(t, Config{URL: srv.url()}, "asks for credentials and none are configured")
}

func TestAuthToken(t *testing.T) {
	t.Parallel()
	srv := newServer(t, func(o *server.Options) { o.Authorization = "right" })
	delivers(t, Config{URL: srv.url(), Auth: Auth{Token: "right"}})
	fails(t, Config{URL: srv.url(), Auth: Auth{Token: secret.String("s3cret")}}, "refuses auth.token")
}

func write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, content, 0o600))
	return path
}

func TestAuthNKey(t *testing.T) {
	t.Parallel()
	known, err := nkeys.CreateUser()
	require.NoError(t, err)
	public, err := known.PublicKey()
	require.NoError(t, err)
	seed, err := known.Seed()
	require.NoError(t, err)
	srv := newServer(t, func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} })
	delivers(t, Config{URL: srv.url(), Auth: Auth{NKeyFile: write(t, "user.nk", seed)}})

	stranger, err := nkeys.CreateUser()
	require.NoError(t, err)
	seed, err = stranger.Seed()
	require.NoError(t, err)
	file := write(t, "stranger.nk", seed)
	fails(t, Config{URL: srv.url(), Auth: Auth{NKeyFile: file}}, "refuses auth.nkey_file "+file)

	_, err = New(t.Context(), Config{URL: srv.url(), Auth: Auth{NKeyFile: "/missing/user.nk"}})
	require.ErrorContains(t, err, "reading auth.nkey_file /missing/user.nk")
}

// TestAuthCredentials runs a server with an operator, an account and a user, as nsc sets them up.
func TestAuthCredentials(t *testing.T) {
	t.Parallel()
	newKey := func(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		pair, err := create()
		require.NoError(t, err)
		public, err := pair.PublicKey()
		require.NoError(t, err)
		return pair, public
	}
	operator, operatorKey := newKey(nkeys.CreateOperator)
	system, systemKey := newKey(nkeys.CreateAccount)
	account, accountKey := newKey(nkeys.CreateAccount)
	_ = system
	operatorClaims := jwt.NewOperatorClaims(operatorKey)
	operatorJWT, err := operatorClaims.Encode(operator)
	require.NoError(t, err)
	operatorClaims, err = jwt.DecodeOperatorClaims(operatorJWT)
	require.NoError(t, err)
	resolver := &server.MemAccResolver{}
	for _, key := range []string{systemKey, accountKey} {
		claims := jwt.NewAccountClaims(key)
		if key == accountKey {
			claims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
		}
		text, err := claims.Encode(operator)
		require.NoError(t, err)
		require.NoError(t, resolver.Store(key, text))
	}
	srv := newServer(t, func(o *server.Options) {
		o.TrustedOperators, o.AccountResolver, o.SystemAccount = []*jwt.OperatorClaims{operatorClaims}, resolver, systemKey
	})
	creds := func(expires time.Time) string {
		user, userKey := newKey(nkeys.CreateUser)
		seed, err := user.Seed()
		require.NoError(t, err)
		claims := jwt.NewUserClaims(userKey)
		claims.Expires = expires.Unix()
		text, err := claims.Encode(account)
		require.NoError(t, err)
		file, err := jwt.FormatUserConfig(text, seed)
		require.NoError(t, err)
		return write(t, "relay.creds", file)
	}
	delivers(t, Config{URL: srv.url(), Auth: Auth{CredentialsFile: creds(time.Now().Add(time.Hour))}})
	expired := creds(time.Now().Add(-time.Hour))
	fails(t, Config{URL: srv.url(), Auth: Auth{CredentialsFile: expired}}, "auth.credentials_file "+expired)

	_, err = New(t.Context(), Config{URL: srv.url(), Auth: Auth{CredentialsFile: "/missing.creds"}})
	require.ErrorContains(t, err, "reading auth.credentials_file")
}

func TestMissingPermission(t *testing.T) {
	t.Parallel()
	user := func(publish, subscribe *server.SubjectPermission) func(*server.Options) {
		return func(o *server.Options) {
			o.Users = []*server.User{{Username: "relay", Password: "right", Permissions: &server.Permissions{Publish: publish, Subscribe: subscribe}}}
		}
	}
	auth := Auth{User: "relay", Password: "right"}
	t.Run("topic", func(t *testing.T) {
		srv := newServer(t, user(&server.SubjectPermission{Deny: []string{topic}}, nil))
		s := open(t, Config{URL: srv.url(), Auth: auth, Create: Create{Enabled: true}})
		require.NoError(t, s.Prepare(t.Context(), []string{topic, "dsync.group.created"}))
		s.sender.ackDrain = patient
		batch := numbered(5)
		batch[0].Topic, batch[1].Topic = "dsync.group.created", "dsync.group.created"
		err := s.Publish(t.Context(), batch)
		require.ErrorContains(t, err, "may not publish to "+topic)
		require.Equal(t, 2, sink.Durable(err, 5))
	})
	t.Run("acknowledgements", func(t *testing.T) {
		srv := newServer(t, user(nil, &server.SubjectPermission{Deny: []string{"_INBOX.>"}}))
		s := open(t, Config{URL: srv.url(), Auth: auth, AckTimeout: 300 * time.Millisecond})
		require.Eventually(t, func() bool { return s.conn.link.permissionDenied() != nil }, patient, often)
		require.ErrorContains(t, s.Prepare(t.Context(), []string{topic}), "permission")
		require.ErrorContains(t, s.Publish(t.Context(), numbered(2)), "inbox_prefix")
	})
	t.Run("own inbox", func(t *testing.T) {
		srv := newServer(t, user(nil, &server.SubjectPermission{Allow: []string{"_INBOX_relay.>"}}))
		delivers(t, Config{URL: srv.url(), Auth: auth, InboxPrefix: "_INBOX_relay"})
	})
	t.Run("api", func(t *testing.T) {
		srv := newServer(t, user(&server.SubjectPermission{Deny: []string{"$JS.API.>"}}, nil))
		s := open(t, Config{URL: srv.url(), Auth: auth, AckTimeout: 300 * time.Millisecond})
		require.Eventually(t, func() bool { // the denial may come after the first question was given up
			err := s.Prepare(t.Context(), []string{topic})
			return err != nil && strings.Contains(err.Error(), "lacks a permission for the JetStream API")
		}, patient, often)
	})
}

func TestDomain(t *testing.T) {
	t.Parallel()
	srv := newServer(t, func(o *server.Options) { o.JetStreamDomain = "hub" })
	delivers(t, Config{URL: srv.url(), Domain: "hub"})
	delivers(t, Config{URL: srv.url(), APIPrefix: "$JS.hub.API"})
	fails(t, Config{URL: srv.url(), Domain: "rim"}, "domain or api_prefix is wrong")
}

// TestDenialFindsItsMessage: another's denial must fail nothing, and a late one must not look at a
// batch that was handed back.
func TestDenialFindsItsMessage(t *testing.T) {
	t.Parallel()
	const none = -1
	batch := events(1, 3, topic)
	batch[1].Topic = "user.created"
	for subject, want := range map[string]struct{ attempt, commit int }{
		"Publish to \"user.created\"":               {1, 1},
		"Publish to \"" + positionOfLane + "\"":     {none, 3},
		"Publish to \"$JS.API.STREAM.INFO.WORKOS\"": {none, none},
		"Subscription to \"_INBOX.>\"":              {0, 3},
	} {
		denied := fmt.Errorf("%w for %s", nats.ErrPermissionViolation, subject)
		for _, ended := range []bool{false, true} {
			a := newAttempt(nil, 1, batch, true, 0)
			c := newCommit(nil, 1, batch, 0, sink.Message{Topic: positionOfLane})
			if ended {
				a.finish(errClosed)
				_, _, _ = c.outcome(errClosed)
			}
			a.deny(denied)
			c.deny(denied)
			if ended {
				want.attempt, want.commit = none, none
			}
			_, failure := a.progress()
			require.Equal(t, want.attempt == none, failure == nil, "%s, ended %v", subject, ended)
			if failure != nil {
				require.Equal(t, want.attempt, a.failedAt, subject)
			}
			_, failure = c.progress()
			require.Equal(t, want.commit == none, failure == nil, "%s, ended %v", subject, ended)
			if failure != nil {
				require.Equal(t, want.commit, c.failedAt, subject)
			}
		}
	}
}

func TestJetStreamNotEnabled(t *testing.T) {
	t.Parallel()
	srv := newServer(t, func(o *server.Options) { o.JetStream = false })
	fails(t, Config{URL: srv.url()}, "JetStream", "not enabled on the server")
}

// authority signs certificates for the tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{cert, key, write(t, "ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

// sign returns the files of a certificate for 127.0.0.1, or for the name given.
func (a *authority) sign(t *testing.T, name string, expires time.Time) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: expires,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	require.NoError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	return write(t, "cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		write(t, "key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

func tlsServer(t *testing.T, a *authority, name string, expires time.Time, wantClient bool) *testServer {
	t.Helper()
	certFile, keyFile := a.sign(t, name, expires)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(t, err)
	conf := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if wantClient {
		conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		conf.ClientCAs.AddCert(a.cert)
	}
	return newServer(t, func(o *server.Options) { o.TLSConfig, o.TLS = conf, true })
}

func TestTLS(t *testing.T) {
	t.Parallel()
	later := time.Now().Add(time.Hour)
	a, stranger := newAuthority(t), newAuthority(t)
	plain := newServer(t)
	srv := tlsServer(t, a, "127.0.0.1", later, false)
	delivers(t, Config{URL: srv.url(), TLS: TLS{TLS: tlsconf.TLS{CAFile: a.file}}})
	delivers(t, Config{URL: strings.Replace(srv.url(), "nats://", "tls://", 1), TLS: TLS{TLS: tlsconf.TLS{CAFile: a.file}}})
	fails(t, Config{URL: srv.url()}, "an authority that this system does not know", "tls.ca_file")
	fails(t, Config{URL: srv.url(), TLS: TLS{TLS: tlsconf.TLS{CAFile: stranger.file}}}, "an authority that is not in tls.ca_file")
	fails(t, Config{URL: plain.url(), TLS: TLS{TLS: tlsconf.TLS{Enabled: true}}}, "speaks no TLS")

	named := tlsServer(t, a, "nats.example.com", later, false)
	fails(t, Config{URL: named.url(), TLS: TLS{TLS: tlsconf.TLS{CAFile: a.file}}}, "certificate is for another name", "tls.server_name")
	delivers(t, Config{URL: named.url(), TLS: TLS{TLS: tlsconf.TLS{CAFile: a.file, ServerName: "nats.example.com"}}})

	old := tlsServer(t, a, "127.0.0.1", time.Now().Add(-time.Hour), false)
	fails(t, Config{URL: old.url(), TLS: TLS{TLS: tlsconf.TLS{CAFile: a.file}}}, "has expired")

	mutual := tlsServer(t, a, "127.0.0.1", later, true)
	fails(t, Config{URL: mutual.url(), TLS: TLS{TLS: tlsconf.TLS{CAFile: a.file}}}, "client certificate", "tls.cert_file")
	certFile, keyFile := a.sign(t, "relay", later)
	delivers(t, Config{URL: mutual.url(), TLS: TLS{TLS: tlsconf.TLS{CAFile: a.file, CertFile: certFile, KeyFile: keyFile}}})
}

// TestLeastPermissions: what docs/nats.md lists is all that a lane needs, with a stream that it
// makes itself.
func TestLeastPermissions(t *testing.T) {
	t.Parallel()
	w := newLaneWorld(t)
	w.feed(t, 300)
	allowed := append([]string{"relay.>", "$JS.API.STREAM.INFO.WORKOS", "$JS.API.STREAM.MSG.GET.WORKOS", "$JS.API.STREAM.NAMES",
		"$JS.API.STREAM.CREATE.WORKOS", "$JS.API.STREAM.UPDATE.WORKOS"}, w.topics...)
	srv := newServer(t, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "relay", Password: "right", Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Allow: allowed}, Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
			}},
			{Username: "reader", Password: "right"},
		}
	})
	cfg := created(srv.url())
	cfg.Auth = Auth{User: "relay", Password: "right"}
	lane := w.lane(open(t, cfg).Ledger(laneID), "me", 0)
	stop := run(t, lane)
	w.awaitAll(t, lane)
	require.NoError(t, stop())
	w.requireOnce(t, client(t, strings.Replace(srv.url(), "://", "://reader:right@", 1)))
}
