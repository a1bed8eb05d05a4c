//go:build unix

package field

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"workos-relay/internal/testaddr"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

const used = "a file has new content, which relay uses from now on"

// keyFileConfig is the source section of a configuration whose API key is in a file.
func keyFileConfig(url, file string) string {
	return fmt.Sprintf("source: {endpoint: %q, api_key_file: %q, poll_interval: 200ms}\n", url, file)
}

// TestAPIKeyIsExchanged: the key in the file is replaced and the old one is revoked, in either
// order. No signal is sent.
func TestAPIKeyIsExchanged(t *testing.T) {
	t.Parallel()
	api := newAPI(t, backlog(50))
	bus := newNATS(t, nil)
	js := bus.connect(t)
	dir := newSecretDir(t)
	file := dir.put(t, "key", apiKey+"\n")
	r := newRelay(t, "relay", keyFileConfig(api.URL(), file)+fmt.Sprintf("sinks: [{name: nats, type: nats, url: %q}]\n", bus.URL))
	r.Start(t)
	want := 50
	flows := func(what string) {
		t.Helper()
		appendEvents(t, api, source.UserCreated, 5, 0)
		want += 5
		r.Await(t, func() bool { return countEvents(js, stream) == want }, "events flow: %s", what)
	}
	flows("at first")
	for i := range 3 {
		key := fmt.Sprintf("sk_test_field_next_%d", i)
		dir.put(t, "key", key)
		api.SetAPIKey(key)
		flows("after the file and the key have changed")
		require.NotContains(t, r.Output(), key)
	}
	// The key is revoked first. relay is refused, and looks at the file again and again.
	api.SetAPIKey("sk_test_field_late")
	r.Says(t, "refuses the API key")
	dir.put(t, "key", "")
	r.Says(t, "the new content of a file cannot be used")
	time.Sleep(3 * time.Second) // relay looks again meanwhile
	begin := time.Now()
	dir.put(t, "key", "sk_test_field_late")
	flows("after the file has changed late")
	require.Less(t, time.Since(begin), 3*time.Minute, "relay does not wait for the next start of the lane")
	require.Equal(t, 4, strings.Count(r.Output(), used), "each change is told once")
	empty := 0 // a file that is away while it is replaced may be told as well
	for line := range strings.Lines(r.Output()) {
		if strings.Contains(line, "the new content of a file cannot be used") && strings.Contains(line, "is empty") {
			empty++
		}
	}
	require.Equal(t, 1, empty, "an empty file is told once")

	// An error that repeats the key of now shows it nowhere.
	api.Fail(3, sourcetest.Answer(500, "application/json", []byte(`{"message":"what is sk_test_field_late?"}`)))
	r.Says(t, "what is [API key]")
	status, _ := r.Status()
	require.NotContains(t, fmt.Sprintf("%+v", status)+r.Output(), "sk_test_field_late")
	require.Equal(t, exitDone, r.Stop(t))
}

// TestWrongSecretsAtTheStart: the files hold secrets that nobody takes when relay starts, and are
// corrected later.
func TestWrongSecretsAtTheStart(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	api := newAPI(t, backlog(50))
	bus := newNATS(t, func(o *server.Options) {
		o.Username, o.Password = "relay", "right"
		o.TLS, o.TLSConfig = true, a.server(t, nil)
	})
	dir := newSecretDir(t)
	dir.put(t, "key", "sk_test_wrong")
	dir.put(t, "ca", newAuthority(t).PEM)
	dir.put(t, "password", "wrong")
	r := newRelay(t, "relay", keyFileConfig(api.URL(), dir.file("key"))+fmt.Sprintf(
		"sinks: [{name: nats, type: nats, url: %q, auth: {user: relay, password_file: %q}, tls: {ca_file: %q}}]\n", bus.URL, dir.file("password"), dir.file("ca")))
	r.Start(t)
	r.Says(t, "an authority that is not in tls.ca_file")
	dir.put(t, "ca", a.PEM)
	r.Says(t, "refuses auth.user")
	time.Sleep(3 * time.Second)
	dir.put(t, "password", "right")
	r.Says(t, "refuses the API key")
	time.Sleep(3 * time.Second)
	dir.put(t, "key", apiKey)
	mine := newSecretDir(t)
	js := bus.connect(t, nats.UserInfo("relay", "right"), nats.RootCAs(mine.put(t, "ca", a.PEM)))
	r.Await(t, func() bool { return countEvents(js, stream) == 50 }, "events flow once every file is right")
	r.awaitReady(t)
	require.Equal(t, exitDone, r.Stop(t))
}

// TestNATSCredentialsAreExchanged: each way to prove who relay is, with a secret that is replaced
// while the server is away.
func TestNATSCredentialsAreExchanged(t *testing.T) {
	t.Parallel()
	newUser := func(t *testing.T) (public, seed string) {
		pair, err := nkeys.CreateUser()
		require.NoError(t, err)
		public, err = pair.PublicKey()
		require.NoError(t, err)
		s, err := pair.Seed()
		require.NoError(t, err)
		return public, string(s)
	}
	type secretOf struct {
		file   string                // content of the file
		accept func(*server.Options) // makes the server take it, and no other
		client func() nats.Option
	}
	for name, c := range map[string]struct {
		auth string // section of the sink
		next func(t *testing.T, n int) secretOf
	}{
		"password": {"{user: relay, password_file: FILE}", func(_ *testing.T, n int) secretOf {
			password := fmt.Sprintf("pass-%d", n)
			return secretOf{password, func(o *server.Options) { o.Username, o.Password = "relay", password }, func() nats.Option { return nats.UserInfo("relay", password) }}
		}},
		"token": {"{token_file: FILE}", func(_ *testing.T, n int) secretOf {
			token := fmt.Sprintf("token-%d", n)
			return secretOf{token, func(o *server.Options) { o.Authorization = token }, func() nats.Option { return nats.Token(token) }}
		}},
		"nkey": {"{nkey_file: FILE}", func(t *testing.T, _ int) secretOf {
			public, seed := newUser(t)
			return secretOf{seed + "\n", func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} }, func() nats.Option {
				pair, err := nkeys.FromSeed([]byte(seed))
				require.NoError(t, err)
				return nats.Nkey(public, pair.Sign)
			}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			secret := c.next(t, 0)
			bus := newNATS(t, secret.accept)
			api := newAPI(t, backlog(50))
			dir := newSecretDir(t)
			file := dir.put(t, "secret", secret.file)
			auth := strings.ReplaceAll(c.auth, "FILE", fmt.Sprintf("%q", file))
			r := newRelay(t, "relay", sourceConfig(api.URL())+fmt.Sprintf("sinks: [{name: nats, type: nats, url: %q, auth: %s}]\n", bus.URL, auth))
			r.Start(t)
			js := bus.connect(t, secret.client())
			r.Await(t, func() bool { return countEvents(js, stream) == 50 }, "the backlog is there")
			want := 50
			for n := 1; n <= 3; n++ {
				secret = c.next(t, n)
				change := func() { dir.put(t, "secret", secret.file) }
				if n != 2 {
					change() // else the server changes first
				}
				bus.opts.Nkeys, bus.opts.Users, bus.opts.Username, bus.opts.Password, bus.opts.Authorization = nil, nil, "", "", ""
				secret.accept(&bus.opts)
				bus.restart(t)
				if n == 2 {
					r.Says(t, "Authorization Violation")
					change()
				}
				js = bus.connect(t, secret.client())
				appendEvents(t, api, source.UserCreated, 5, 0)
				want += 5
				r.Await(t, func() bool { return countEvents(js, stream) == want }, "events flow with secret %d", n)
			}
			r.Await(t, func() bool { return strings.Count(r.Output(), used) == 3 }, "each change is told once")
			require.NotContains(t, r.Output(), strings.TrimSpace(secret.file))
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}

// TestExpiredNATSCredentials: the JWT of a .creds file expires under a connection that stands; the
// renewed file is there before or after that.
func TestExpiredNATSCredentials(t *testing.T) {
	t.Parallel()
	newKey := func(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		pair, err := create()
		require.NoError(t, err)
		public, err := pair.PublicKey()
		require.NoError(t, err)
		return pair, public
	}
	operator, operatorKey := newKey(nkeys.CreateOperator)
	_, systemKey := newKey(nkeys.CreateAccount)
	account, accountKey := newKey(nkeys.CreateAccount)
	text, err := jwt.NewOperatorClaims(operatorKey).Encode(operator)
	require.NoError(t, err)
	operatorClaims, err := jwt.DecodeOperatorClaims(text)
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
	creds := func(life time.Duration) string {
		user, userKey := newKey(nkeys.CreateUser)
		seed, err := user.Seed()
		require.NoError(t, err)
		claims := jwt.NewUserClaims(userKey)
		claims.Expires = time.Now().Add(life).Unix()
		text, err := claims.Encode(account)
		require.NoError(t, err)
		file, err := jwt.FormatUserConfig(text, seed)
		require.NoError(t, err)
		return string(file)
	}
	bus := newNATS(t, func(o *server.Options) {
		o.TrustedOperators, o.AccountResolver, o.SystemAccount = []*jwt.OperatorClaims{operatorClaims}, resolver, systemKey
	})
	api := newAPI(t, backlog(50))
	dir := newSecretDir(t)
	const short = 15 * time.Second
	var ends time.Time // of the JWT in the file
	put := func(life time.Duration) {
		ends = time.Now().Add(life)
		dir.put(t, "user.creds", creds(life))
	}
	put(short)
	file := dir.file("user.creds")
	mine := newSecretDir(t)
	js := bus.connect(t, nats.UserCredentials(mine.put(t, "test.creds", creds(time.Hour))))
	r := newRelay(t, "relay", sourceConfig(api.URL())+fmt.Sprintf("sinks: [{name: nats, type: nats, url: %q, auth: {credentials_file: %q}}]\n", bus.URL, file))
	r.Start(t)
	// stored waits for that many events. It renews the file once more if its JWT has expired before
	// relay could use it.
	stored := func(n int, what string) {
		t.Helper()
		r.Await(t, func() bool {
			if time.Now().After(ends) {
				put(short)
			}
			return countEvents(js, stream) == n
		}, "%s", what)
	}
	stored(50, "the backlog is there")
	dir.put(t, "user.creds", "-----BEGIN NATS USER JWT-----\nhalf") // the one before stays
	r.Says(t, "the new content of a file cannot be used")
	first := ends
	put(max(time.Until(first), 0) + short)
	time.Sleep(time.Until(first))
	r.Says(t, "connection to NATS lost") // the server ends it when the JWT expires
	appendEvents(t, api, source.UserCreated, 5, 0)
	stored(55, "events flow with the renewed file")
	time.Sleep(time.Until(ends.Add(time.Second))) // the second has expired, and nobody has renewed it yet
	appendEvents(t, api, source.UserCreated, 5, 0)
	put(time.Hour)
	r.Await(t, func() bool { return countEvents(js, stream) == 60 }, "events flow after a late renewal")
	require.Equal(t, exitDone, r.Stop(t))
}

// tlsSection is a tls section with files of dir.
func tlsSection(dir *secretDir) string {
	return fmt.Sprintf("{ca_file: %q, cert_file: %q, key_file: %q}", dir.file("ca"), dir.file("cert"), dir.file("key"))
}

// TestNATSCertificatesAreExchanged: the authority and the client's certificate change.
func TestNATSCertificatesAreExchanged(t *testing.T) {
	t.Parallel()
	first, second := newAuthority(t), newAuthority(t)
	api := newAPI(t, backlog(50))
	bus := newNATS(t, func(o *server.Options) {
		o.TLS, o.TLSConfig = true, first.server(t, first)
	})
	mine := newSecretDir(t)
	trust := func(a *authority) []nats.Option {
		cert, key := a.issue(t, time.Hour)
		return []nats.Option{nats.RootCAs(mine.put(t, "ca", a.PEM)), nats.ClientCert(mine.put(t, "cert", cert), mine.put(t, "key", key))}
	}
	dir := newSecretDir(t)
	put := func(a *authority, life time.Duration) {
		cert, key := a.issue(t, life)
		dir.put(t, "ca", a.PEM)
		dir.put(t, "cert", cert)
		dir.put(t, "key", key)
	}
	put(first, time.Hour)
	r := newRelay(t, "relay", sourceConfig(api.URL())+fmt.Sprintf("sinks: [{name: nats, type: nats, url: %q, tls: %s}]\n", bus.URL, tlsSection(dir)))
	r.Start(t)
	js := bus.connect(t, trust(first)...)
	r.Await(t, func() bool { return countEvents(js, stream) == 50 }, "the backlog is there")

	// Half of a new pair: the old one stays in use.
	_, key := first.issue(t, time.Hour)
	dir.put(t, "key", key)
	r.Says(t, "do not hold a certificate and its key")
	bus.restart(t)
	js = bus.connect(t, trust(first)...)
	appendEvents(t, api, source.UserCreated, 5, 0)
	r.Await(t, func() bool { return countEvents(js, stream) == 55 }, "events flow with the pair of before")
	require.Equal(t, 1, strings.Count(r.Output(), "the new content of a file cannot be used"))

	// The certificate expires, and the renewed one comes late.
	const short = 10 * time.Second
	ends := time.Now().Add(short)
	put(first, short)
	r.Says(t, used)
	time.Sleep(time.Until(ends.Add(time.Second)))
	bus.restart(t)
	js = bus.connect(t, trust(first)...)
	appendEvents(t, api, source.UserCreated, 5, 0)
	r.Says(t, "the client certificate of tls.cert_file has expired")
	put(first, time.Hour)
	r.Await(t, func() bool { return countEvents(js, stream) == 60 }, "events flow with the renewed certificate")

	// Another authority, on the server first.
	bus.opts.TLSConfig = second.server(t, second)
	bus.restart(t)
	time.Sleep(2 * time.Second)
	put(second, time.Hour)
	js = bus.connect(t, trust(second)...)
	appendEvents(t, api, source.UserCreated, 5, 0)
	r.Await(t, func() bool { return countEvents(js, stream) == 65 }, "events flow with the new authority")
	require.NotContains(t, r.Output(), "PRIVATE KEY")
	require.Equal(t, exitDone, r.Stop(t))
}

// conns are the connections that a listener has accepted.
type conns struct {
	mu  sync.Mutex
	all []net.Conn
}

type trackedListener struct {
	net.Listener
	to *conns
}

func (c *conns) listen(network, address string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), network, address)
	return trackedListener{l, c}, err
}

func (l trackedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.to.mu.Lock()
		l.to.all = append(l.to.all, c)
		l.to.mu.Unlock()
	}
	return c, err
}

// drop closes every connection.
func (c *conns) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.all {
		_ = conn.Close()
	}
	c.all = nil
}

// TestKafkaPasswordIsExchanged: the password of a SCRAM user changes on the cluster and in the
// file.
func TestKafkaPasswordIsExchanged(t *testing.T) {
	t.Parallel()
	open := &conns{}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.ListenFn(open.listen),
		kfake.Superuser("SCRAM-SHA-256", "relay", "pass-0"), kfake.Superuser("SCRAM-SHA-256", "test", "test"))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.MetadataMinAge(10*time.Millisecond),
		kgo.SASL(scram.Auth{User: "test", Pass: "test"}.AsSha256Mechanism()))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	admin := kadm.NewClient(client)
	count := func() int {
		ends, err := admin.ListEndOffsets(t.Context())
		if err != nil {
			return -1
		}
		n := int64(0)
		ends.Each(func(o kadm.ListedOffset) {
			if o.Topic == "scram."+source.UserCreated {
				n += o.Offset
			}
		})
		return int(n)
	}
	api := newAPI(t)
	dir := newSecretDir(t)
	file := dir.put(t, "password", "pass-0")
	r := newRelay(t, "relay", sourceConfig(api.URL())+fmt.Sprintf("delivery: at_least_once\nsinks: [{name: kafka, type: kafka, brokers: [%q], topic_prefix: scram., sasl: {mechanism: scram-sha-256, user: relay, password_file: %q}}]\n",
		cluster.ListenAddrs()[0], file))
	r.Start(t)
	want := 0
	for n := range 3 {
		if n > 0 {
			password := fmt.Sprintf("pass-%d", n)
			if n == 1 {
				dir.put(t, "password", password)
			}
			_, err = admin.AlterUserSCRAMs(t.Context(), nil, []kadm.UpsertSCRAM{{User: "relay", Mechanism: kadm.ScramSha256, Iterations: 4096, Password: password}})
			require.NoError(t, err)
			open.drop()
			appendEvents(t, api, source.UserCreated, 5, 0)
			if n == 2 {
				time.Sleep(5 * time.Second) // relay is refused meanwhile
				dir.put(t, "password", password)
			}
		} else {
			appendEvents(t, api, source.UserCreated, 5, 0)
		}
		want += 5
		r.Await(t, func() bool { return count() >= want }, "events flow with password %d", n)
	}
	require.Equal(t, exitDone, r.Stop(t))

	// A wrong password at the start, in a file, is mended by the file too.
	dir.put(t, "password", "wrong")
	r.Start(t)
	r.Says(t, "sasl.password is wrong")
	dir.put(t, "password", "pass-2")
	appendEvents(t, api, source.UserCreated, 5, 0)
	want += 5
	r.Await(t, func() bool { return count() >= want }, "events flow once the file is right")
	require.Equal(t, exitDone, r.Stop(t))
}

// TestKafkaCertificatesAreExchanged: the authority and the client's certificate change.
func TestKafkaCertificatesAreExchanged(t *testing.T) {
	t.Parallel()
	first, second := newAuthority(t), newAuthority(t)
	open, now := &conns{}, &swapTLS{}
	now.Store(first.server(t, first))
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ListenFn(func(network, address string) (net.Listener, error) {
		l, err := open.listen(network, address)
		return tls.NewListener(l, now.config()), err
	}))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	api := newAPI(t)
	dir := newSecretDir(t)
	put := func(a *authority) {
		cert, key := a.issue(t, time.Hour)
		dir.put(t, "ca", a.PEM)
		dir.put(t, "cert", cert)
		dir.put(t, "key", key)
	}
	put(first)
	r := newRelay(t, "relay", sourceConfig(api.URL())+fmt.Sprintf("sinks: [{name: kafka, type: kafka, brokers: [%q], topic_prefix: tls., tls: %s}]\n",
		cluster.ListenAddrs()[0], tlsSection(dir)))
	r.Start(t)
	carried := func(n int, what string) {
		t.Helper()
		ids := appendEvents(t, api, source.UserCreated, 5, 0)
		r.Await(t, func() bool { return r.Lane("kafka").Position.EventID == ids[4] }, "events flow %d: %s", n, what)
	}
	carried(0, "at first")
	put(second)
	now.Store(second.server(t, second))
	open.drop()
	carried(1, "the files change first")
	now.Store(first.server(t, first))
	open.drop()
	time.Sleep(5 * time.Second) // relay is refused meanwhile
	put(first)
	carried(2, "the files change late")
	require.Equal(t, 4, strings.Count(r.Output(), used), "authority and pair, each time once")
	require.Equal(t, exitDone, r.Stop(t))
}

// TestAdminSecretsAreExchanged: token, certificate and client authority of the admin address.
func TestAdminSecretsAreExchanged(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	bus := newNATS(t, nil)
	ours, theirs, others := newAuthority(t), newAuthority(t), newAuthority(t)
	dir := newSecretDir(t)
	cert, key := ours.issue(t, time.Hour)
	dir.put(t, "cert", cert)
	dir.put(t, "key", key)
	dir.put(t, "ca", theirs.PEM)
	dir.put(t, "token", "first-token-first-token")
	address := testaddr.Free(t)
	r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL)+fmt.Sprintf("admin: {listen: %q, token_file: %q, tls: {cert_file: %q, key_file: %q, client_ca_file: %q}}\n",
		address, dir.file("token"), dir.file("cert"), dir.file("key"), dir.file("ca")))
	r.Start(t)
	// ask returns the status code for a token or a client certificate, and the serial number of the
	// server's certificate.
	ask := func(token string, client *authority) (code int, serial int64) {
		pool := x509.NewCertPool()
		pool.AddCert(ours.cert)
		conf := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
		if client != nil {
			cert, key := client.issue(t, time.Hour)
			pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
			require.NoError(t, err)
			conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		transport := &http.Transport{TLSClientConfig: conf}
		defer transport.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/api/v1/status", nil)
		require.NoError(t, err)
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return 0, 0
		}
		defer func() { _ = resp.Body.Close() }()
		return resp.StatusCode, resp.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	code := func(token string, client *authority) int { c, _ := ask(token, client); return c }
	serial := func() int64 { _, s := ask("", nil); return s }
	r.Await(t, func() bool { return code("first-token-first-token", nil) == 200 }, "the token is good")
	require.Equal(t, 401, answered(t, func() int { return code("second-token-second-token", nil) }))
	require.Equal(t, 200, answered(t, func() int { return code("", theirs) }))
	before := int64(answered(t, func() int { return int(serial()) }))

	dir.put(t, "token", "short") // too short to be a token
	r.Says(t, "the new content of a file cannot be used")
	require.Equal(t, 200, answered(t, func() int { return code("first-token-first-token", nil) }))
	dir.put(t, "token", "second-token-second-token")
	r.Await(t, func() bool { return code("second-token-second-token", nil) == 200 }, "the new token is good")
	require.Equal(t, 401, answered(t, func() int { return code("first-token-first-token", nil) }))

	cert, key = ours.issue(t, time.Hour)
	dir.put(t, "key", key)
	require.Equal(t, before, int64(answered(t, func() int { return int(serial()) })), "half a pair leaves the one before")
	dir.put(t, "cert", cert)
	r.Await(t, func() bool { return serial() > before }, "the new certificate is used")
	dir.put(t, "ca", others.PEM)
	r.Await(t, func() bool { return code("", others) == 200 }, "the new client authority is used")
	require.NotEqual(t, 200, code("", theirs))

	// Commands use the files as they are, and a reload has nothing to do with it.
	r.Await(t, func() bool { exit, _, _ := r.Run(t, "status"); return exit == exitDone }, "relay status has access, and all is well")
	exit, out, errs := r.Run(t, "reload")
	require.Equal(t, exitDone, exit, out+errs)
	require.Equal(t, exitDone, r.Stop(t))
	require.NotContains(t, r.Output(), "second-token")
}

// TestWebhookSecretsAreExchanged: several secrets are good at once, and files of them are followed.
func TestWebhookSecretsAreExchanged(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	bus := newNATS(t, nil)
	dir := newSecretDir(t)
	dir.put(t, "one", "whsec_one\n")
	dir.put(t, "two", "whsec_two\nwhsec_three\n")
	for name, c := range map[string]struct {
		section     string
		good, bad   []string
		put         string // new content of the file one
		good2, bad2 []string
	}{
		"one file":             {"secret_file: " + dir.file("two"), []string{"whsec_two", "whsec_three"}, []string{"whsec_one"}, "", nil, nil},
		"several files":        {fmt.Sprintf("secret_file: [%q, %q]", dir.file("one"), dir.file("two")), []string{"whsec_one", "whsec_two", "whsec_three"}, []string{"whsec_four"}, "whsec_four", []string{"whsec_four", "whsec_two"}, []string{"whsec_one"}},
		"in the configuration": {"secret: [whsec_two, whsec_five]", []string{"whsec_two", "whsec_five"}, []string{"whsec_one"}, "", nil, nil},
		"one":                  {"secret: whsec_five", []string{"whsec_five"}, []string{"whsec_two"}, "", nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			address := testaddr.Free(t)
			text := fmt.Sprintf("id: %s\nsource: {endpoint: %q, api_key: %s, webhook: {listen: %q, %s}}\nsinks: [{name: nats, type: nats, url: %q}]\n",
				strings.ReplaceAll(name, " ", "_"), api.URL(), apiKey, address, c.section, bus.URL)
			r := newRelay(t, "relay", text)
			r.Start(t)
			post := func(secret string) int {
				body := []byte(`{"id":"event_1"}`)
				ctx, cancel := context.WithTimeout(context.Background(), patient)
				defer cancel()
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/workos/webhook", strings.NewReader(string(body)))
				require.NoError(t, err)
				req.Header.Set("WorkOS-Signature", sourcetest.SignWebhook(secret, time.Now(), body))
				resp, err := onceClient.Do(req)
				if err != nil {
					return 0
				}
				_ = resp.Body.Close()
				return resp.StatusCode
			}
			check := func(good, bad []string) {
				t.Helper()
				for _, s := range good {
					r.Await(t, func() bool { return post(s) == 200 }, "%s is good", s)
				}
				for _, s := range bad {
					require.Equal(t, 401, answered(t, func() int { return post(s) }), s)
				}
			}
			check(c.good, c.bad)
			if c.put != "" {
				dir.put(t, "one", c.put)
				check(c.good2, c.bad2)
			}
			require.Equal(t, exitDone, r.Stop(t))
			require.NotContains(t, r.Output(), "whsec_")
		})
	}
}

// TestCollectorSecretsAreExchanged: header, authority and client certificate towards an
// OpenTelemetry collector.
func TestCollectorSecretsAreExchanged(t *testing.T) {
	t.Parallel()
	first, second := newAuthority(t), newAuthority(t)
	for name, environment := range map[string]bool{"configured": false, "by the environment": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var seen atomic.Value // header and issuer of the client certificate of the last request
			seen.Store("")
			now := &swapTLS{}
			now.Store(first.server(t, first))
			collector := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				seen.Store(r.Header.Get("X-Token") + " by " + r.TLS.PeerCertificates[0].Issuer.CommonName)
			}))
			collector.TLS = now.config()
			collector.StartTLS()
			t.Cleanup(collector.Close)
			dir := newSecretDir(t)
			put := func(a *authority) {
				cert, key := a.issue(t, time.Hour)
				dir.put(t, "ca", a.PEM)
				dir.put(t, "cert", cert)
				dir.put(t, "key", key)
			}
			put(first)
			dir.put(t, "token", "otlp-one")
			api := newAPI(t)
			bus := newNATS(t, nil)
			url := "https://" + collector.Listener.Addr().String()
			text, env := natsConfig(api.URL(), bus.URL), []string(nil)
			section := fmt.Sprintf("telemetry: {traces: {endpoint: %q, headers: [{name: x-token, value_file: %q}]", url, dir.file("token"))
			if environment {
				text += section + "}}\n"
				env = []string{"OTEL_EXPORTER_OTLP_CERTIFICATE=" + dir.file("ca"), "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE=" + dir.file("cert"), "OTEL_EXPORTER_OTLP_CLIENT_KEY=" + dir.file("key")}
			} else {
				text += section + ", tls: " + tlsSection(dir) + "}}\n"
			}
			r := newRelay(t, "relay", text, env...)
			r.Start(t)
			exported := func(header string, issuer *authority) {
				t.Helper()
				want := header + " by " + issuer.cert.Subject.CommonName
				r.Await(t, func() bool {
					appendEvents(t, api, source.UserCreated, 1, 0)
					return seen.Load().(string) == want
				}, "spans arrive with %s", want)
			}
			exported("otlp-one", first)
			dir.put(t, "token", "otlp-two")
			exported("otlp-two", first)
			put(second)
			now.Store(second.server(t, second))
			collector.CloseClientConnections()
			exported("otlp-two", second)
			// A reload finds nothing that would need a restart.
			require.NoError(t, os.WriteFile(dir.file("token"), []byte("otlp-three"), 0o600))
			exit, out, errs := r.Run(t, "reload")
			require.Equal(t, exitDone, exit, out+errs)
			exported("otlp-three", second)
			require.Equal(t, exitDone, r.Stop(t))
			require.NotContains(t, r.Output(), "otlp-three")
		})
	}
}

// TestSystemAuthoritiesAreExchanged: the API, NATS and Kafka have certificates of an authority that
// relay knows from SSL_CERT_FILE or SSL_CERT_DIR. They change to another one, which is added to the
// system's before or after that, and to one that was taken out.
func TestSystemAuthoritiesAreExchanged(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"SSL_CERT_FILE", "SSL_CERT_DIR"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			exchangeSystemAuthorities(t, name)
		})
	}
}

func exchangeSystemAuthorities(t *testing.T, name string) {
	first, second, third := newAuthority(t), newAuthority(t), newAuthority(t)
	now := &swapTLS{}
	now.Store(first.server(t, nil))
	api := sourcetest.New(sourcetest.WithAPIKey(apiKey))
	srv := httptest.NewUnstartedServer(api)
	srv.TLS = now.config()
	srv.StartTLS()
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	bus := newNATS(t, func(o *server.Options) { o.TLS, o.TLSConfig = true, now.config() })
	open := &conns{}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ListenFn(func(network, address string) (net.Listener, error) {
		l, err := open.listen(network, address)
		return tls.NewListener(l, now.config()), err
	}))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	dir := newSecretDir(t)
	trust := dir.put(t, "ca", first.PEM)
	if name == "SSL_CERT_DIR" {
		trust = filepath.Dir(trust)
	}
	r := newRelay(t, "relay", sourceConfig(srv.URL)+fmt.Sprintf("sinks:\n- {name: nats, type: nats, url: %q, tls: {enabled: true}}\n- {name: kafka, type: kafka, brokers: [%q], topic_prefix: sys., tls: {enabled: true}}\n",
		bus.URL, cluster.ListenAddrs()[0]), name+"="+trust)
	r.Start(t)
	carried := func(what string) {
		t.Helper()
		ids := appendEvents(t, api, source.UserCreated, 5, 0)
		for _, lane := range []string{"nats", "kafka"} {
			r.Await(t, func() bool { return r.Lane(lane).Position.EventID == ids[4] }, "events flow on %s: %s", lane, what)
		}
	}
	change := func(to *authority) {
		now.Store(to.server(t, nil))
		srv.CloseClientConnections()
		open.drop()
		bus.restart(t)
	}
	carried("at first")
	dir.put(t, "ca", first.PEM+second.PEM)
	change(second)
	carried("the file changes first")
	change(third)
	time.Sleep(5 * time.Second) // relay trusts none of them meanwhile
	dir.put(t, "ca", first.PEM+second.PEM+third.PEM)
	carried("the file changes late")
	dir.put(t, "ca", third.PEM)
	time.Sleep(5 * time.Second) // until relay has read it
	change(second)
	at := appendEvents(t, api, source.UserCreated, 5, 0)[4]
	time.Sleep(5 * time.Second)
	for _, lane := range []string{"nats", "kafka"} {
		require.NotEqual(t, at, r.Lane(lane).Position.EventID, "the authority was taken out")
	}
	dir.put(t, "ca", second.PEM+third.PEM)
	carried("it is put back")
	require.Equal(t, exitDone, r.Stop(t))
}

// TestRedactionKeyWaitsForAReload: another key makes other pseudonyms, so that a new one is used
// only when an operator says so.
func TestRedactionKeyWaitsForAReload(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	bus := newNATS(t, nil)
	js := bus.connect(t)
	dir := newSecretDir(t)
	dir.put(t, "key", "redaction-key-one")
	r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL)+fmt.Sprintf("redaction: {key_file: %q}\nroutes: [{events: [\"*\"], topic: all, pseudonymize: [data.pad]}]\n", dir.file("key")))
	r.Start(t)
	n := 0
	pseudonym := func() string {
		t.Helper()
		appendEvents(t, api, source.UserCreated, 1, 8)
		n++
		r.Await(t, func() bool { return countEvents(js, stream) == n }, "event %d", n)
		s, err := js.Stream(t.Context(), stream)
		require.NoError(t, err)
		msg, err := s.GetLastMsgForSubject(t.Context(), "all")
		require.NoError(t, err)
		_, rest, ok := strings.Cut(string(msg.Data), `"pad":`)
		require.True(t, ok, string(msg.Data))
		return strings.SplitN(rest, ",", 2)[0]
	}
	first := pseudonym()
	dir.put(t, "key", "redaction-key-two")
	time.Sleep(5 * time.Second)
	require.Equal(t, first, pseudonym())
	require.NotContains(t, r.Output(), used)
	r.Signal(t, syscall.SIGHUP)
	r.Await(t, func() bool { return pseudonym() != first }, "the reload takes the new key")
	require.Equal(t, exitDone, r.Stop(t))
}
