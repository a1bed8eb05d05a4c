//go:build unix

package field

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"
)

// inAccount makes a server with one account, whose JetStream limits are given in the words of
// nats-server's configuration.
func inAccount(t testing.TB, limits string) func(*server.Options) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats.conf")
	text := fmt.Sprintf("accounts: {A: {jetstream: %s, users: [{user: relay, password: relay}]}, SYS: {users: [{user: sys, password: sys}]}}\nsystem_account: SYS\n", limits)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	parsed, err := server.ProcessConfigFile(file)
	require.NoError(t, err)
	return func(o *server.Options) {
		o.Accounts, o.Users, o.SystemAccount = parsed.Accounts, parsed.Users, parsed.SystemAccount
	}
}

func managedConfig(api, url, more string) string {
	return sourceConfig(api) + fmt.Sprintf("sinks: [{name: nats, type: nats, url: %q, auth: {user: relay, password: relay}%s}]\n", url, more)
}

// TestAccountLimits: check and run name the key for each limit of an account that keeps the stream
// from being created, and with that key changed events flow.
func TestAccountLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limits      string
		sink        string // more keys of the sink
		says        string
		mended      string // more keys of the sink that are right
		otherStream bool   // the account holds another stream
	}{
		"a size is required":        {"{max_bytes_required: true}", "", "set create.max_bytes", ", create: {max_bytes: 64MiB}", false},
		"no stream may be so large": {"{store_max_stream_bytes: 67108864}", ", create: {max_bytes: 1GiB}", "lower create.max_bytes", ", create: {max_bytes: 64MiB}", false},
		"little storage":            {"{max_file: 134217728}", ", create: {max_bytes: 1GiB}", "lower create.max_bytes", ", create: {max_bytes: 64MiB}", false},
		"no more streams":           {"{max_streams: 1}", "", "let stream name one that exists", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, backlog(20))
			bus := newNATS(t, inAccount(t, c.limits))
			js := bus.connect(t, nats.UserInfo("relay", "relay"))
			if c.otherStream {
				_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"other"}})
				require.NoError(t, err)
			}
			r := newRelay(t, "relay", managedConfig(api.URL(), bus.URL, c.sink))
			code, out, errs := r.Check(t)
			require.Equal(t, exitFailed, code, out+errs)
			require.Contains(t, out, "stream WORKOS cannot be created")
			require.Contains(t, out, c.says)
			r.Start(t)
			require.Equal(t, exitDecides, r.Wait(t), "an operator has to act")
			require.Contains(t, r.Output(), c.says)

			if c.otherStream {
				require.NoError(t, js.DeleteStream(t.Context(), "OTHER"))
			}
			r = newRelay(t, "mended", managedConfig(api.URL(), bus.URL, c.mended))
			code, out, errs = r.Check(t)
			require.Equal(t, exitDone, code, out+errs)
			r.Start(t)
			r.Await(t, func() bool { return countEvents(js, stream) == 20 }, "events flow")
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}

// TestRaisingBeyondTheAccount: create.max_bytes of a stream that exists is raised beyond what the
// account allows, and then to less.
func TestRaisingBeyondTheAccount(t *testing.T) {
	t.Parallel()
	api := newAPI(t, backlog(20))
	bus := newNATS(t, inAccount(t, "{store_max_stream_bytes: 134217728, max_file: 201326592, max_streams: 1}"))
	js := bus.connect(t, nats.UserInfo("relay", "relay"))
	r := newRelay(t, "relay", managedConfig(api.URL(), bus.URL, ", create: {max_bytes: 64MiB}"))
	r.Start(t)
	r.Await(t, func() bool { return countEvents(js, stream) == 20 }, "events flow")
	text, err := os.ReadFile(r.Config)
	require.NoError(t, err)
	set := func(size string) { r.WriteConfig(t, strings.ReplaceAll(string(text), "64MiB", size)) }
	set("1GiB")
	code, out, errs := r.Run(t, "check")
	require.Contains(t, out, "lower create.max_bytes", "exit %d %s", code, errs)
	code, out, errs = r.Run(t, "reload")
	require.Contains(t, out, "lower create.max_bytes", "exit %d %s", code, errs)
	set("128MiB")
	code, out, errs = r.Run(t, "reload")
	require.Equal(t, exitDone, code, out+errs)
	r.Await(t, func() bool {
		s, err := js.Stream(t.Context(), stream)
		return err == nil && s.CachedInfo().Config.MaxBytes == 128<<20
	}, "the stream has grown")
	require.Equal(t, exitDone, r.Stop(t))
}

// TestTieredAccount: the account has limits for streams with three replicas only.
func TestTieredAccount(t *testing.T) {
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
	user, userKey := newKey(nkeys.CreateUser)
	text, err := jwt.NewOperatorClaims(operatorKey).Encode(operator)
	require.NoError(t, err)
	operatorClaims, err := jwt.DecodeOperatorClaims(text)
	require.NoError(t, err)
	resolver := &server.MemAccResolver{}
	for _, key := range []string{systemKey, accountKey} {
		claims := jwt.NewAccountClaims(key)
		if key == accountKey {
			claims.Limits.JetStreamTieredLimits = jwt.JetStreamTieredLimits{"R3": {DiskStorage: 1 << 30, Streams: 5, Consumer: 10, MaxBytesRequired: true}}
		}
		text, err := claims.Encode(operator)
		require.NoError(t, err)
		require.NoError(t, resolver.Store(key, text))
	}
	text, err = jwt.NewUserClaims(userKey).Encode(account)
	require.NoError(t, err)
	seed, err := user.Seed()
	require.NoError(t, err)
	creds, err := jwt.FormatUserConfig(text, seed)
	require.NoError(t, err)
	file := newSecretDir(t).put(t, "user.creds", string(creds))
	bus := newNATS(t, func(o *server.Options) {
		o.TrustedOperators, o.AccountResolver, o.SystemAccount = []*jwt.OperatorClaims{operatorClaims}, resolver, systemKey
	})
	api := newAPI(t, backlog(20))
	r := newRelay(t, "relay", sourceConfig(api.URL())+fmt.Sprintf("sinks: [{name: nats, type: nats, url: %q, auth: {credentials_file: %q}}]\n", bus.URL, file))
	code, out, errs := r.Check(t)
	require.Equal(t, exitFailed, code, out+errs)
	require.Contains(t, out, "only for R3: change create.replicas")
	r.Start(t)
	require.Equal(t, exitDecides, r.Wait(t))
	require.Contains(t, r.Output(), "change create.replicas")
}

// TestTLSHandshakeFirst: a server that waits for the TLS handshake before it greets.
func TestTLSHandshakeFirst(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	api := newAPI(t, backlog(20))
	first := newNATS(t, func(o *server.Options) {
		o.TLS, o.TLSHandshakeFirst, o.TLSConfig = true, true, a.server(t, nil)
		o.TLSTimeout, o.AuthTimeout = 0, 0 // the defaults: the server closes the connection of a client that waits for the greeting
	})
	usual := newNATS(t, func(o *server.Options) { o.TLS, o.TLSConfig = true, a.server(t, nil) })
	ca := newSecretDir(t).put(t, "ca", a.PEM)
	config := func(url, tls string) string {
		return sourceConfig(api.URL()) + fmt.Sprintf("sinks: [{name: nats, type: nats, url: %q%s}]\n", url, tls)
	}
	for name, tls := range map[string]string{"without tls": "", "with tls": fmt.Sprintf(", tls: {ca_file: %q}", ca)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRelay(t, "relay", config(first.URL, tls))
			code, out, errs := r.Run(t, "check")
			require.Equal(t, exitFailed, code, out+errs)
			require.Contains(t, out, "set tls.handshake_first: true")
			r.Start(t)
			r.Says(t, "set tls.handshake_first: true")
			r.Stop(t)
		})
	}
	t.Run("asked of another server", func(t *testing.T) {
		t.Parallel()
		r := newRelay(t, "relay", config(usual.URL, fmt.Sprintf(", tls: {ca_file: %q, handshake_first: true}", ca)))
		code, out, errs := r.Run(t, "check")
		require.Equal(t, exitFailed, code, out+errs)
		require.Contains(t, out, "remove tls.handshake_first")
	})
	t.Run("set", func(t *testing.T) {
		t.Parallel()
		js := first.connect(t, nats.TLSHandshakeFirst(), nats.RootCAs(ca))
		r := newRelay(t, "relay", config(first.URL, fmt.Sprintf(", tls: {ca_file: %q, handshake_first: true}", ca)))
		code, out, errs := r.Check(t)
		require.Equal(t, exitDone, code, out+errs)
		r.Start(t)
		r.Await(t, func() bool { return countEvents(js, stream) == 20 }, "events flow")
		// A server that is restarted is found again in the same way.
		first.restart(t)
		js = first.connect(t, nats.TLSHandshakeFirst(), nats.RootCAs(ca))
		appendEvents(t, api, "user.created", 3, 0)
		r.Await(t, func() bool { return countEvents(js, stream) == 23 }, "events flow again")
		require.Equal(t, exitDone, r.Stop(t))
	})
}
