//go:build unix

package field

import (
	"fmt"
	"net/url"
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

	"workos-relay/internal/testaddr"
	"workos-relay/pipeline"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// projected is a directory of secrets as the kubelet writes it: each name is a link into ..data,
// and that is a link to a directory with a time in its name, which is swapped as a whole.
type projected struct {
	path  string
	turns int
	files map[string]string
}

func newProjected(t testing.TB, files map[string]string) *projected {
	t.Helper()
	p := &projected{path: t.TempDir(), files: map[string]string{}}
	p.swap(t, files)
	for name := range files {
		require.NoError(t, os.Symlink(filepath.Join("..data", name), p.file(name)))
	}
	return p
}

func (p *projected) file(name string) string { return filepath.Join(p.path, name) }

// swap gives files new content, all at the same moment. Other files keep theirs.
func (p *projected) swap(t testing.TB, files map[string]string) {
	t.Helper()
	for name, text := range files {
		p.files[name] = text
	}
	p.turns++
	dir := fmt.Sprintf("..2026_11_29_22_00_%02d.%d", p.turns, 1000+p.turns)
	require.NoError(t, os.Mkdir(filepath.Join(p.path, dir), 0o700))
	for name, text := range p.files {
		require.NoError(t, os.WriteFile(filepath.Join(p.path, dir, name), []byte(text), 0o400))
	}
	before, _ := os.Readlink(filepath.Join(p.path, "..data")) // the first time there is none
	require.NoError(t, os.Symlink(dir, filepath.Join(p.path, "..data_tmp")))
	require.NoError(t, os.Rename(filepath.Join(p.path, "..data_tmp"), filepath.Join(p.path, "..data")))
	if before != "" {
		require.NoError(t, os.RemoveAll(filepath.Join(p.path, before)))
	}
}

// authorities are the keys behind a server in operator mode, with one account that may store.
type authorities struct {
	operator, account nkeys.KeyPair
	claims            *jwt.AccountClaims
	system            string
	trusted           *jwt.OperatorClaims
	resolver          *server.MemAccResolver
}

func newKeyPair(t testing.TB, create func() (nkeys.KeyPair, error)) (pair nkeys.KeyPair, public, seed string) {
	t.Helper()
	pair, err := create()
	require.NoError(t, err)
	public, err = pair.PublicKey()
	require.NoError(t, err)
	text, err := pair.Seed()
	require.NoError(t, err)
	return pair, public, string(text)
}

func newAuthorities(t testing.TB) *authorities {
	t.Helper()
	a := &authorities{resolver: &server.MemAccResolver{}}
	var operator, account string
	a.operator, operator, _ = newKeyPair(t, nkeys.CreateOperator)
	a.account, account, _ = newKeyPair(t, nkeys.CreateAccount)
	_, a.system, _ = newKeyPair(t, nkeys.CreateAccount)
	text, err := jwt.NewOperatorClaims(operator).Encode(a.operator)
	require.NoError(t, err)
	a.trusted, err = jwt.DecodeOperatorClaims(text)
	require.NoError(t, err)
	a.store(t, jwt.NewAccountClaims(a.system))
	a.claims = jwt.NewAccountClaims(account)
	a.claims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
	a.store(t, a.claims)
	return a
}

func (a *authorities) store(t testing.TB, claims *jwt.AccountClaims) *jwt.AccountClaims {
	t.Helper()
	text, err := claims.Encode(a.operator)
	require.NoError(t, err)
	require.NoError(t, a.resolver.Store(claims.Subject, text))
	stored, err := jwt.DecodeAccountClaims(text)
	require.NoError(t, err)
	return stored
}

func (a *authorities) options(o *server.Options) {
	o.TrustedOperators, o.AccountResolver, o.SystemAccount = []*jwt.OperatorClaims{a.trusted}, a.resolver, a.system
}

// user returns the .creds file of a new user of the account, and its public key.
func (a *authorities) user(t testing.TB) (creds, public string) {
	t.Helper()
	_, public, seed := newKeyPair(t, nkeys.CreateUser)
	text, err := jwt.NewUserClaims(public).Encode(a.account)
	require.NoError(t, err)
	file, err := jwt.FormatUserConfig(text, []byte(seed))
	require.NoError(t, err)
	return string(file), public
}

// revoke makes the running server end the connections of a user and refuse it from now on.
func (a *authorities) revoke(t testing.TB, bus *natsServer, public string) {
	t.Helper()
	a.claims.RevokeAt(public, time.Now().Add(time.Minute))
	claims := a.store(t, a.claims)
	account, err := bus.LookupAccount(claims.Subject)
	require.NoError(t, err)
	bus.UpdateAccountClaims(account, claims)
}

// TestTheKubeletSwapsNATSSecrets: secrets of a sink are a projected volume, and change while relay
// runs, before the server stops to take what was there, and after it. No signal is sent.
func TestTheKubeletSwapsNATSSecrets(t *testing.T) {
	t.Parallel()
	t.Run("credentials_file", func(t *testing.T) {
		t.Parallel()
		a := newAuthorities(t)
		bus := newNATS(t, a.options)
		mine, _ := a.user(t)
		js := bus.connect(t, nats.UserCredentials(newSecretDir(t).put(t, "mine.creds", mine)))
		api := newAPI(t, backlog(50))
		creds, public := a.user(t)
		dir := newProjected(t, map[string]string{"user.creds": creds})
		r := newRelay(t, "relay", sinkConfig(api, bus.URL, fmt.Sprintf(", auth: {credentials_file: %q}", dir.file("user.creds"))))
		r.Start(t)
		r.Await(t, func() bool { return countEvents(js, stream) == 50 }, "the backlog is there")
		want := 50
		for n := 1; n <= 3; n++ {
			next, publicOfNext := a.user(t)
			if n != 2 {
				dir.swap(t, map[string]string{"user.creds": next})
				r.Await(t, func() bool { return strings.Count(r.Output(), used) == n }, "the change is told")
			}
			a.revoke(t, bus, public)
			if n == 2 { // the user is revoked first
				r.Says(t, "refuses auth.credentials_file")
				dir.swap(t, map[string]string{"user.creds": next})
			}
			appendEvents(t, api, source.UserCreated, 5, 0)
			want += 5
			r.Await(t, func() bool { return countEvents(js, stream) == want }, "events flow with user %d", n)
			require.NotContains(t, r.Output(), strings.Split(creds, "\n")[1], "the JWT is shown")
			creds, public = next, publicOfNext
		}
		require.Equal(t, exitDone, r.Stop(t))
	})
	t.Run("nkey_file", func(t *testing.T) {
		t.Parallel()
		accept := func(public string) func(*server.Options) {
			return func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} }
		}
		pair, public, seed := newKeyPair(t, nkeys.CreateUser)
		bus := newNATS(t, accept(public))
		api := newAPI(t, backlog(50))
		dir := newProjected(t, map[string]string{"nkey": seed, "other": "x"})
		r := newRelay(t, "relay", sinkConfig(api, bus.URL, fmt.Sprintf(", auth: {nkey_file: %q}", dir.file("nkey"))))
		r.Start(t)
		js := bus.connect(t, nats.Nkey(public, pair.Sign))
		r.Await(t, func() bool { return countEvents(js, stream) == 50 }, "the backlog is there")
		for n := 1; n <= 2; n++ {
			pair, public, seed = newKeyPair(t, nkeys.CreateUser)
			if n == 1 {
				dir.swap(t, map[string]string{"nkey": seed})
				time.Sleep(3 * time.Second) // the connection that exists stays
			}
			accept(public)(&bus.opts)
			bus.restart(t)
			if n == 2 {
				r.Says(t, "refuses auth.nkey_file")
				dir.swap(t, map[string]string{"nkey": seed})
			}
			js = bus.connect(t, nats.Nkey(public, pair.Sign))
			appendEvents(t, api, source.UserCreated, 5, 0)
			r.Await(t, func() bool { return countEvents(js, stream) == 50+5*n }, "events flow with key %d", n)
			require.NotContains(t, r.Output(), seed)
		}
		// A swap that changes another file of the volume leaves this one as it is.
		told := strings.Count(r.Output(), used)
		dir.swap(t, map[string]string{"other": "y"})
		time.Sleep(5 * time.Second)
		require.Equal(t, told, strings.Count(r.Output(), used))
		require.Equal(t, exitDone, r.Stop(t))
	})
	t.Run("password and certificates at once", func(t *testing.T) {
		t.Parallel()
		first, second := newAuthority(t), newAuthority(t)
		with := func(a *authority, password string) func(o *server.Options) {
			return func(o *server.Options) {
				o.Username, o.Password = "relay", password
				o.TLS, o.TLSConfig = true, a.server(t, a)
			}
		}
		files := func(a *authority, password string) map[string]string {
			cert, key := a.issue(t, time.Hour)
			return map[string]string{"ca": a.PEM, "cert": cert, "key": key, "password": password}
		}
		bus := newNATS(t, with(first, "marked-0"))
		api := newAPI(t, backlog(50))
		dir := newProjected(t, files(first, "marked-0"))
		r := newRelay(t, "relay", sinkConfig(api, bus.URL, fmt.Sprintf(", auth: {user: relay, password_file: %q}, tls: {ca_file: %q, cert_file: %q, key_file: %q}",
			dir.file("password"), dir.file("ca"), dir.file("cert"), dir.file("key"))))
		r.Start(t)
		connect := func(files map[string]string) {
			mine := newSecretDir(t)
			bus.connect(t, nats.UserInfo("relay", files["password"]), nats.RootCAs(mine.put(t, "ca", files["ca"])),
				nats.ClientCert(mine.put(t, "cert", files["cert"]), mine.put(t, "key", files["key"])))
		}
		connect(dir.files)
		r.Await(t, func() bool { return countEvents(bus.JS, stream) == 50 }, "the backlog is there")
		dir.swap(t, files(second, "marked-1"))
		with(second, "marked-1")(&bus.opts)
		bus.restart(t)
		connect(dir.files)
		appendEvents(t, api, source.UserCreated, 5, 0)
		r.Await(t, func() bool { return countEvents(bus.JS, stream) == 55 }, "events flow with everything new")
		require.NotContains(t, r.Output(), "marked")
		require.Equal(t, exitDone, r.Stop(t))
	})
}

// importing makes a server with the accounts of docs/nats.md: BUS stores, and APP, of which relay
// is a user, imports its JetStream API and the subjects that relay publishes to.
func importing(t testing.TB) func(*server.Options) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats.conf")
	require.NoError(t, os.WriteFile(file, []byte(`
accounts {
  BUS {
    jetstream: enabled
    users: [{user: bus, password: bus}]
    exports: [
      {service: "$JS.API.>", response_type: stream}
      {service: "workos.>"}
      {service: "relay.position.>"}
    ]
  }
  APP {
    users: [{user: relay, password: relay}]
    imports: [
      {service: {account: BUS, subject: "$JS.API.>"}, to: "bus.API.>"}
      {service: {account: BUS, subject: "workos.>"}}
      {service: {account: BUS, subject: "relay.position.>"}}
    ]
  }
  SYS { users: [{user: sys, password: sys}] }
}
system_account: SYS
`), 0o600))
	parsed, err := server.ProcessConfigFile(file)
	require.NoError(t, err)
	return func(o *server.Options) {
		o.Accounts, o.Users, o.SystemAccount = parsed.Accounts, parsed.Users, parsed.SystemAccount
	}
}

// TestAccountWithImports: the stream is in another account than relay's user, which imports the
// JetStream API and the subjects.
func TestAccountWithImports(t *testing.T) {
	t.Parallel()
	for mode, key := range lostModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, backlog(300))
			bus := newNATS(t, importing(t))
			js := bus.connect(t, nats.UserInfo("bus", "bus"))
			r := newRelay(t, "relay", sinkConfig(api, bus.URL, key+", auth: {user: relay, password: relay}, api_prefix: bus.API, topic_prefix: workos."))
			code, out, errs := r.Check(t)
			require.Equal(t, exitDone, code, out+errs)
			r.Start(t)
			r.Await(t, func() bool { return countEvents(js, stream) == 300 }, "events flow")
			r.AwaitState(t, "", pipeline.Running)
			bus.restart(t)
			js = bus.connect(t, nats.UserInfo("bus", "bus"))
			appendEvents(t, api, source.UserCreated, 20, 0)
			r.Await(t, func() bool { return countEvents(js, stream) == 320 }, "events flow after a restart of the server")
			require.Equal(t, exitDone, r.Stop(t))
			require.Equal(t, api.IDs(sourcetest.Filter{}), eventIDs(t, js, stream), "every event once, in order")
			verifyIsClean(t, r)
		})
	}
	t.Run("without the import", func(t *testing.T) {
		t.Parallel()
		api := newAPI(t, backlog(10))
		bus := newNATS(t, importing(t))
		r := newRelay(t, "relay", sinkConfig(api, bus.URL, ", ack_timeout: 3s, auth: {user: relay, password: relay}, topic_prefix: workos."))
		code, out, errs := r.Check(t)
		require.Equal(t, exitFailed, code, out+errs)
		require.Contains(t, out+errs, "api_prefix")
	})
}

// TestLeafNodeWithoutJetStream: relay is connected to a leaf node that stores nothing and belongs
// to an account of the hub. It reaches the JetStream API of the hub by its domain.
func TestLeafNodeWithoutJetStream(t *testing.T) {
	t.Parallel()
	port := testaddr.Port(t)
	hub := newNATS(t, func(o *server.Options) {
		inAccount(t, "enabled")(o)
		o.ServerName, o.JetStreamDomain = "hub", "hub"
		o.LeafNode = server.LeafNodeOpts{Host: "127.0.0.1", Port: port}
	})
	leaf := newNATS(t, func(o *server.Options) {
		o.ServerName, o.JetStream, o.StoreDir = "leaf", false, ""
		remote := &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port), User: url.UserPassword("relay", "relay")}
		o.LeafNode = server.LeafNodeOpts{ReconnectInterval: 200 * time.Millisecond, Remotes: []*server.RemoteLeafOpts{{URLs: []*url.URL{remote}}}}
	})
	awaitLeaf(t, leaf)
	js := hub.connect(t, nats.UserInfo("relay", "relay"))
	api := newAPI(t, backlog(100))
	code, out, errs := newRelay(t, "wrong", sinkConfig(api, leaf.URL, ", ack_timeout: 3s")).Run(t, "check")
	require.Equal(t, exitFailed, code, out+errs)
	require.Contains(t, out+errs, "domain or api_prefix is wrong")
	r := newRelay(t, "relay", sinkConfig(api, leaf.URL, ", domain: hub"))
	code, out, errs = r.Check(t)
	require.Equal(t, exitDone, code, out+errs)
	r.Start(t)
	r.Await(t, func() bool { return countEvents(js, stream) == 100 }, "events flow")
	hub.restart(t)
	js = hub.connect(t, nats.UserInfo("relay", "relay"))
	awaitLeaf(t, leaf)
	appendEvents(t, api, source.UserCreated, 10, 0)
	r.Await(t, func() bool { return countEvents(js, stream) == 110 }, "events flow after a restart of the hub")
	require.Equal(t, exitDone, r.Stop(t))
	require.Equal(t, api.IDs(sourcetest.Filter{}), eventIDs(t, js, stream), "every event once, in order")
	verifyIsClean(t, r)
}
