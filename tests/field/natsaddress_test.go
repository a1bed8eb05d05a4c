//go:build unix

package field

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

// sinkConfig is a configuration with one NATS sink. more are further keys of it, each after a
// comma.
func sinkConfig(api *sourcetest.Server, url, more string) string {
	return sourceConfig(api.URL()) + fmt.Sprintf("sinks: [{name: nats, type: nats, url: %q%s}]\n", url, more)
}

// gateway is an HTTP proxy in front of a websocket, at a path and with a header that it asks for.
type gateway struct {
	*httptest.Server
	mu    sync.Mutex
	token string
}

func newGateway(t testing.TB, port int, token string) *gateway {
	t.Helper()
	g := &gateway{token: token}
	to := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port)})
		r.Out.URL.Path = "/"
	}}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		want := "Bearer " + g.token
		g.mu.Unlock()
		switch {
		case r.URL.Path != "/bus/nats":
			http.NotFound(w, r)
		case r.Header.Get("Authorization") != want:
			http.Error(w, "who are you?", http.StatusForbidden)
		default:
			to.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *gateway) ask(token string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.token = token
}

// TestWebsocket: relay reaches its server through a websocket, plain, with TLS, and behind a proxy
// that wants a path and a header.
func TestWebsocket(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	ca := newSecretDir(t).put(t, "ca", a.PEM)
	plainPort, securePort := testaddr.Port(t), testaddr.Port(t)
	start := func(t *testing.T, change func(*server.WebsocketOpts)) (*natsServer, jetstream.JetStream, *sourcetest.Server) {
		bus := newNATS(t, func(o *server.Options) {
			o.Websocket = server.WebsocketOpts{Host: "127.0.0.1", HandshakeTimeout: patient}
			change(&o.Websocket)
		})
		return bus, bus.connect(t), newAPI(t, backlog(30))
	}
	plain := func(o *server.WebsocketOpts) { o.Port, o.NoTLS = plainPort, true }
	works := func(t *testing.T, r *relay, bus *natsServer, js jetstream.JetStream, api *sourcetest.Server) {
		t.Helper()
		code, out, errs := r.Check(t)
		require.Equal(t, exitDone, code, out+errs)
		r.Start(t)
		r.Await(t, func() bool { return countEvents(js, stream) == 30 }, "events flow")
		bus.restart(t)
		js = bus.connect(t)
		appendEvents(t, api, source.UserCreated, 5, 0)
		r.Await(t, func() bool { return countEvents(js, stream) == 35 }, "events flow after a restart of the server")
	}
	t.Run("plain", func(t *testing.T) {
		t.Parallel()
		bus, js, api := start(t, plain)
		at := fmt.Sprintf("ws://127.0.0.1:%d", plainPort)
		for wrong, says := range map[string]string{
			fmt.Sprintf("wss://127.0.0.1:%d", plainPort):    "does not answer with TLS",
			strings.Replace(bus.URL, "nats://", "ws://", 1): "is not the websocket of a NATS server",
			fmt.Sprintf("nats://127.0.0.1:%d", plainPort):   "use the port for NATS clients",
			at + "," + bus.URL:                                "cannot be mixed",
			at + ",wss://127.0.0.1:1":                         "cannot be mixed",
			at + "/?token=marked":                             "websocket.headers_file",
			fmt.Sprintf("ws://relay:marked@127.0.0.1:%d/", 1): "put them under auth",
		} {
			code, out, errs := newRelay(t, "wrong", sinkConfig(api, wrong, ", ack_timeout: 3s")).Check(t)
			require.NotEqual(t, exitDone, code, wrong)
			require.Contains(t, out+errs, says, wrong)
			require.NotContains(t, out+errs, "marked")
		}
		r := newRelay(t, "relay", sinkConfig(api, at, ""))
		works(t, r, bus, js, api)
		require.Equal(t, exitDone, r.Stop(t))
	})
	t.Run("with TLS", func(t *testing.T) {
		t.Parallel()
		bus, js, api := start(t, func(o *server.WebsocketOpts) { o.Port, o.TLSConfig = securePort, a.server(t, nil) })
		at := fmt.Sprintf("wss://127.0.0.1:%d", securePort)
		for wrong, says := range map[string]string{
			sinkConfig(api, at, ""): "set tls.ca_file",
			sinkConfig(api, at, fmt.Sprintf(", tls: {ca_file: %q, handshake_first: true}", ca)):                               "remove tls.handshake_first",
			sinkConfig(api, fmt.Sprintf("ws://127.0.0.1:%d", securePort), ", ack_timeout: 3s"):                                "is not the websocket of a NATS server",
			sinkConfig(api, fmt.Sprintf("ws://127.0.0.1:%d", securePort), fmt.Sprintf(", tls: {ca_file: %q}", ca)):            "write wss in url",
			sinkConfig(api, bus.URL, fmt.Sprintf(", websocket: {headers_file: %q}", ca)):                                      "use ws or wss in url",
			sinkConfig(api, at, fmt.Sprintf(", tls: {ca_file: %q}, websocket: {headers_file: %q}", ca, ca)):                   "line 1 is not of the form Name: value",
			sinkConfig(api, at, fmt.Sprintf(", tls: {ca_file: %q}, websocket: {headers_file: %q}", ca, ca+".does.not.exist")): "websocket.headers_file",
		} {
			code, out, errs := newRelay(t, "wrong", wrong).Check(t)
			require.NotEqual(t, exitDone, code, wrong)
			require.Contains(t, out+errs, says, wrong)
		}
		r := newRelay(t, "relay", sinkConfig(api, at, fmt.Sprintf(", tls: {ca_file: %q}", ca)))
		works(t, r, bus, js, api)
		require.Equal(t, exitDone, r.Stop(t))
	})
	t.Run("behind a proxy", func(t *testing.T) {
		t.Parallel()
		port := testaddr.Port(t)
		bus, js, api := start(t, func(o *server.WebsocketOpts) { o.Port, o.NoTLS = port, true })
		proxy := newGateway(t, port, "marked-0")
		at := strings.Replace(proxy.URL, "http://", "ws://", 1)
		dir := newSecretDir(t)
		file := dir.put(t, "headers", "Authorization: Bearer marked-0\n\nX-Tenant: events\n")
		for _, wrong := range []string{
			sinkConfig(api, at, fmt.Sprintf(", ack_timeout: 3s, websocket: {headers_file: %q}", file)),
			sinkConfig(api, at+"/bus/nats", ", ack_timeout: 3s"),
		} {
			code, out, errs := newRelay(t, "wrong", wrong).Run(t, "check")
			require.Equal(t, exitFailed, code, out+errs)
			require.Contains(t, out+errs, "is not the websocket of a NATS server")
		}
		r := newRelay(t, "relay", sinkConfig(api, at+"/bus/nats", fmt.Sprintf(", websocket: {headers_file: %q}", file)))
		works(t, r, bus, js, api)
		// The token of the proxy changes; the file is corrected late and without a signal.
		proxy.ask("marked-1")
		bus.restart(t)
		js = bus.connect(t)
		appendEvents(t, api, source.UserCreated, 5, 0)
		r.Says(t, "is not the websocket of a NATS server")
		dir.put(t, "headers", "Authorization: Bearer marked-1\n")
		r.Await(t, func() bool { return countEvents(js, stream) == 40 }, "events flow with the new header")
		require.Equal(t, exitDone, r.Stop(t))
		require.NotContains(t, r.Output(), "marked")
	})
}

// TestDiscoveredServers: the servers of a cluster announce addresses themselves. relay uses them
// when the one in url is gone, unless the configuration says otherwise.
func TestDiscoveredServers(t *testing.T) {
	t.Parallel()
	cluster := newNATSCluster(t)
	front := newCable(t, strings.TrimPrefix(cluster[0].URL, "nats://"))
	url := "nats://" + front.ln.Addr().String()
	api := newAPI(t, backlog(30))
	js := cluster[0].connect(t)
	ignores := newRelay(t, "ignores", sinkConfig(api, url, ", ignore_discovered_servers: true"))
	uses := newRelay(t, "uses", "id: other\n"+sinkConfig(api, url, ", stream: OTHER, topic_prefix: other."))
	for _, r := range []*relay{ignores, uses} {
		r.Start(t)
	}
	ignores.Await(t, func() bool { return countEvents(js, stream) == 30 }, "events flow")
	uses.Await(t, func() bool { return countEvents(js, "OTHER") == 30 }, "events flow")
	front.cut()
	appendEvents(t, api, source.UserCreated, 5, 0)
	uses.Await(t, func() bool { return countEvents(js, "OTHER") == 35 }, "events flow through another server")
	ignores.Says(t, "connection to NATS lost")
	require.Equal(t, 30, countEvents(js, stream))
	front.mend()
	ignores.Await(t, func() bool { return countEvents(js, stream) == 35 }, "events flow through the address in url")
	for _, r := range []*relay{ignores, uses} {
		require.Equal(t, exitDone, r.Stop(t))
	}
}

// newRelayWithHosts prepares a relay that finds the names of a hosts file, and no others. It skips
// the test if the system does not let it.
func newRelayWithHosts(t testing.TB, name, text, hosts string) *relay {
	t.Helper()
	wrapper := filepath.Join(t.TempDir(), "relay")
	script := fmt.Sprintf("#!/bin/sh\nexec unshare --user --map-root-user --mount sh -c 'mount --bind %s /etc/hosts && exec \"$0\" \"$@\"' %s \"$@\"\n", hosts, relayBinary)
	require.NoError(t, os.WriteFile(wrapper, []byte(script), 0o700)) //nolint:gosec // a program
	if out, err := exec.Command(wrapper, "version").CombinedOutput(); err != nil {
		t.Skipf("the system does not let a test have a separate hosts file: %v: %s", err, out)
	}
	return &relay{testkit.NewRelay(t, wrapper, name, text)}
}

// TestNATSAddresses: an IPv6 literal, a name with addresses of both kinds of which one answers, and
// a name all of whose addresses change while relay runs.
func TestNATSAddresses(t *testing.T) {
	t.Parallel()
	if ln, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skipf("the system has no IPv6: %v", err)
	} else {
		require.NoError(t, ln.Close())
	}
	at := func(t *testing.T, host string) (*natsServer, jetstream.JetStream, *sourcetest.Server) {
		bus := newNATS(t, func(o *server.Options) { o.Host = host })
		return bus, bus.connect(t), newAPI(t, backlog(30))
	}
	t.Run("IPv6 literal", func(t *testing.T) {
		t.Parallel()
		bus, js, api := at(t, "::1")
		for wrong, says := range map[string]string{
			fmt.Sprintf("nats://::1:%d", bus.opts.Port): "write an IPv6 address in brackets",
			fmt.Sprintf("::1:%d", bus.opts.Port):        "write an IPv6 address in brackets",
			"nats://[::1":                               "not an address",
			"nats://[::1]:99999":                        "99999 is not a port",
			"nats://[::1]:0":                            "0 is not a port",
		} {
			code, out, errs := newRelay(t, "wrong", sinkConfig(api, wrong, "")).Run(t, "check")
			require.Equal(t, exitUsage, code, wrong)
			require.Contains(t, out+errs, says, wrong)
		}
		r := newRelay(t, "relay", sinkConfig(api, fmt.Sprintf("nats://[::1]:%d", bus.opts.Port), ""))
		code, out, errs := r.Check(t)
		require.Equal(t, exitDone, code, out+errs)
		r.Start(t)
		r.Await(t, func() bool { return countEvents(js, stream) == 30 }, "events flow")
		bus.restart(t)
		js = bus.connect(t)
		appendEvents(t, api, source.UserCreated, 5, 0)
		r.Await(t, func() bool { return countEvents(js, stream) == 35 }, "events flow after a restart of the server")
		require.Equal(t, exitDone, r.Stop(t))
	})
	t.Run("embedded server on IPv6", func(t *testing.T) {
		t.Parallel()
		api := newAPI(t, backlog(30))
		listen := fmt.Sprintf("[::1]:%d", testaddr.Port(t))
		r := newRelay(t, "relay", sinkConfig(api, "embedded", fmt.Sprintf(", embedded: {listen: %q}", listen)))
		r.Start(t)
		bus := &natsServer{URL: "nats://" + listen}
		r.AwaitState(t, "nats", "running")
		js := bus.connect(t)
		r.Await(t, func() bool { return countEvents(js, stream) == 30 }, "events flow")
		require.Equal(t, exitDone, r.Stop(t))
	})
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run("localhost is both, and the server listens on "+host, func(t *testing.T) {
			t.Parallel()
			bus, js, api := at(t, host)
			hosts := filepath.Join(t.TempDir(), "hosts")
			require.NoError(t, os.WriteFile(hosts, []byte("127.0.0.1 localhost\n::1 localhost\n"), 0o644)) //nolint:gosec // a hosts file
			r := newRelayWithHosts(t, "relay", sinkConfig(api, fmt.Sprintf("nats://localhost:%d", bus.opts.Port), ""), hosts)
			code, out, errs := r.Check(t)
			require.Equal(t, exitDone, code, out+errs)
			r.Start(t)
			r.Await(t, func() bool { return countEvents(js, stream) == 30 }, "events flow")
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
	t.Run("all addresses change", func(t *testing.T) {
		t.Parallel()
		bus, js, api := at(t, "127.0.0.1")
		hosts := filepath.Join(t.TempDir(), "hosts")
		name := func(address string) {
			require.NoError(t, os.WriteFile(hosts, []byte("127.0.0.1 localhost\n"+address+" nats.test\n"), 0o644)) //nolint:gosec // a hosts file
		}
		name("127.0.0.1")
		r := newRelayWithHosts(t, "relay", sinkConfig(api, fmt.Sprintf("nats://nats.test:%d", bus.opts.Port), ""), hosts)
		r.Start(t)
		r.Await(t, func() bool { return countEvents(js, stream) == 30 }, "events flow")
		want := 30
		for _, address := range []string{"::1", "127.0.0.2"} {
			bus.opts.Host = address
			bus.restart(t)
			time.Sleep(time.Second)
			name(address)
			js = bus.connect(t, nats.Timeout(patient))
			appendEvents(t, api, source.UserCreated, 5, 0)
			want += 5
			r.Await(t, func() bool { return countEvents(js, stream) == want }, "events flow at %s", address)
		}
		require.Equal(t, exitDone, r.Stop(t))
	})
}
