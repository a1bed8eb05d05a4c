//go:build linux

package field

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"workos-relay/internal/testaddr"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

// movable is a listener that moves from one address to another. Its Accept does not
// show that.
type movable struct {
	name string // host to be known by instead of the address; may be empty

	mu       sync.Mutex
	now      net.Listener
	all      []net.Listener
	conns    []*movableConn // of now
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

// newMovable listens on address. name is what Addr shows as the host, if it is not empty.
func newMovable(t testing.TB, address, name string) *movable {
	t.Helper()
	m := &movable{name: name, accepted: make(chan net.Conn), closed: make(chan struct{})}
	m.listen(t, address)
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func (m *movable) listen(t testing.TB, address string) {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	require.NoError(t, err)
	m.mu.Lock()
	m.now = ln
	m.all = append(m.all, ln)
	m.mu.Unlock()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			c := &movableConn{Conn: conn}
			m.mu.Lock()
			here := m.now == ln
			if here {
				m.conns = append(m.conns, c)
			}
			m.mu.Unlock()
			if !here {
				continue // somebody who says nothing has the address now
			}
			select {
			case m.accepted <- c:
			case <-m.closed:
				_ = conn.Close()
			}
		}
	}()
}

// move makes the listener listen on address. What was at the address before refuses connections,
// or, with silent, takes them and says nothing, as do the connections that exist.
func (m *movable) move(t testing.TB, address string, silent bool) {
	t.Helper()
	m.mu.Lock()
	before, conns := m.now, m.conns
	m.now, m.conns = nil, nil
	m.mu.Unlock()
	if !silent {
		_ = before.Close()
	}
	for _, c := range conns {
		if silent {
			c.silent.Store(true)
		} else {
			_ = c.Close()
		}
	}
	m.listen(t, address)
}

// Accept implements net.Listener.
func (m *movable) Accept() (net.Conn, error) {
	select {
	case c := <-m.accepted:
		return c, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (m *movable) Close() error {
	m.once.Do(func() { close(m.closed) })
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, ln := range m.all {
		_ = ln.Close()
	}
	for _, c := range m.conns {
		_ = c.Close()
	}
	return nil
}

// Addr implements net.Listener: how clients know the listener now.
func (m *movable) Addr() net.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.now == nil {
		return knownAs("192.0.2.1:1")
	}
	if m.name == "" {
		return m.now.Addr()
	}
	return knownAs(net.JoinHostPort(m.name, fmt.Sprint(m.now.Addr().(*net.TCPAddr).Port)))
}

// knownAs is the address of a listener as clients know it.
type knownAs string

func (knownAs) Network() string  { return "tcp" }
func (k knownAs) String() string { return string(k) }

// movableConn is a connection that may fall silent for ever.
type movableConn struct {
	net.Conn
	silent atomic.Bool
}

func (c *movableConn) Write(b []byte) (int, error) {
	if c.silent.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

// around is everything that relay speaks to by an address.
type around struct {
	api       *sourcetest.Server
	brokers   []*movable
	source    *movable
	collector *movable
	spans     atomic.Int64 // requests to the collector
}

// newAround starts it on the address host. Clients know it by names, if there are some, of which
// the first is the API's, the second the collector's, and the others the brokers'.
func newAround(t testing.TB, host string, names ...string) *around {
	t.Helper()
	for len(names) < 4 {
		names = append(names, "")
	}
	a := &around{api: sourcetest.New(sourcetest.WithAPIKey(apiKey), backlog(20))}
	at := net.JoinHostPort(host, "0")
	a.source, a.collector = newMovable(t, at, names[0]), newMovable(t, at, names[1])
	serve(t, a.source, a.api)
	serve(t, a.collector, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { a.spans.Add(1) }))
	cluster, err := kfake.NewCluster(kfake.NumBrokers(2), kfake.ListenFn(func(string, string) (net.Listener, error) {
		m := newMovable(t, at, names[2+len(a.brokers)%2])
		a.brokers = append(a.brokers, m)
		return m, nil
	}))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	return a
}

func serve(t testing.TB, ln net.Listener, handler http.Handler) {
	t.Helper()
	srv := httptest.NewUnstartedServer(handler)
	_ = srv.Listener.Close()
	srv.Listener = ln
	srv.Start()
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
}

// config is a configuration with all of it. bootstrap is the address of a broker; the first one's
// if it is empty.
func (a *around) config(bootstrap string) string {
	if bootstrap == "" {
		bootstrap = a.brokers[0].Addr().String()
	}
	return fmt.Sprintf("source: {endpoint: \"http://%s\", api_key: %s, poll_interval: 200ms}\nsinks: [{name: kafka, type: kafka, brokers: [%q], topic_prefix: at.}]\ntelemetry: {traces: {endpoint: \"http://%s\"}}\n",
		a.source.Addr(), apiKey, bootstrap, a.collector.Addr())
}

// carried waits until new events are on the bus and spans at the collector.
func (a *around) carried(t testing.TB, r *relay, what string) {
	t.Helper()
	ids := appendEvents(t, a.api, source.UserCreated, 5, 0)
	spans := a.spans.Load()
	start := time.Now()
	r.Await(t, func() bool { return r.Lane("kafka").Position.EventID == ids[4] }, "events flow: %s", what)
	r.Await(t, func() bool {
		if a.spans.Load() > spans {
			return true
		}
		appendEvents(t, a.api, source.UserCreated, 1, 0)
		time.Sleep(200 * time.Millisecond)
		return false
	}, "spans flow: %s", what)
	t.Logf("after %s: %s", time.Since(start).Round(100*time.Millisecond), what)
}

// move moves everything to host, with the same ports.
func (a *around) move(t testing.TB, host string, silent bool) {
	t.Helper()
	for _, m := range append([]*movable{a.source, a.collector}, a.brokers...) {
		_, port, err := net.SplitHostPort(m.Addr().String())
		require.NoError(t, err)
		m.move(t, net.JoinHostPort(host, port), silent)
	}
}

// inHosts makes r run with a file for /etc/hosts that only it sees, and returns a function that
// replaces the content of the file. The test is skipped if this machine does not let a process have
// mounts without being root.
func inHosts(t testing.TB, r *relay, hosts string) (set func(hosts string)) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "unshare", "-r", "-m", "true").CombinedOutput(); err != nil {
		t.Skipf("needs a mount namespace: unshare -r -m: %v %s", err, out)
	}
	file := filepath.Join(t.TempDir(), "hosts")
	set = func(hosts string) { require.NoError(t, os.WriteFile(file, []byte(hosts), 0o600)) }
	set(hosts)
	r.Process = testkit.NewProcess(t, r.Name+"-in-hosts", "unshare", nil, "-r", "-m", "sh", "-c",
		`mount --bind "$1" /etc/hosts && shift && exec "$@"`, "sh", file, relayBinary, "run", "--config", r.Config)
	return set
}

func needIPv6(t testing.TB) {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "[::1]:0")
	if err != nil {
		t.Skipf("needs IPv6 on loopback: %v", err)
	}
	_ = ln.Close()
}

// TestIPv6Literals: every address of the configuration may be one of IPv6.
func TestIPv6Literals(t *testing.T) {
	t.Parallel()
	needIPv6(t)
	a := newAround(t, "::1")
	admin, webhook := net.JoinHostPort("::1", fmt.Sprint(testaddr.Port(t))), net.JoinHostPort("::1", fmt.Sprint(testaddr.Port(t)))
	text := strings.Replace(a.config(""), "poll_interval: 200ms", fmt.Sprintf("poll_interval: 200ms, webhook: {listen: %q, secret: whsec_x}", webhook), 1)
	r := newRelay(t, "relay", text+fmt.Sprintf("admin: {listen: %q}\n", admin))
	r.Admin = admin
	code, out, errs := r.Check(t)
	require.Equal(t, exitDone, code, out+errs)
	r.Start(t)
	a.carried(t, r, "everything is at ::1")
	code, out, errs = r.Run(t, "status")
	require.Equal(t, exitDone, code, out+errs)
	require.Equal(t, 401, postWebhook(t, webhook))
	require.Equal(t, exitDone, r.Stop(t))
}

// TestIPv6Zones: addresses of Kafka and NATS may have the zone of an interface.
func TestIPv6Zones(t *testing.T) {
	t.Parallel()
	needIPv6(t)
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere the loopback interface has another name")
	}
	a := newAround(t, "::1")
	bus := newNATS(t, func(o *server.Options) { o.Host = "::1" })
	_, kafkaPort, err := net.SplitHostPort(a.brokers[0].Addr().String())
	require.NoError(t, err)
	_, natsPort, err := net.SplitHostPort(strings.TrimPrefix(bus.URL, "nats://"))
	require.NoError(t, err)
	text := strings.Replace(a.config("[::1%lo]:"+kafkaPort), "sinks: [", fmt.Sprintf("sinks: [{name: nats, type: nats, url: \"nats://[::1%%25lo]:%s\"}, ", natsPort), 1)
	r := newRelay(t, "relay", text)
	code, out, errs := r.Check(t)
	require.Equal(t, exitDone, code, out+errs)
	r.Start(t)
	a.carried(t, r, "the broker at ::1%lo")
	last := r.Lane("kafka").Position.EventID
	r.Await(t, func() bool { return r.Lane("nats").Position.EventID >= last }, "the NATS server at ::1%%lo")
	require.Equal(t, exitDone, r.Stop(t))

	for address, says := range map[string]string{
		"brokers: [\"[fe80::1%25eth0]:9092\"]": "write an IPv6 address with its zone as [fe80::1%eth0]:9092",
		"brokers: [\"[fe80::1%]:9092\"]":       "write an IPv6 address with its zone as [fe80::1%eth0]:9092",
		"brokers: [\"[kafka%eth0]:9092\"]":     "write an IPv6 address with its zone as [fe80::1%eth0]:9092",
	} {
		r := newRelay(t, "relay", sourceConfig("http://127.0.0.1:1")+"sinks: [{name: kafka, type: kafka, "+address+"}]\n")
		code, out, errs := r.Check(t)
		require.Equal(t, exitUsage, code)
		require.Contains(t, strings.Join(strings.Fields(out+errs), " "), says, address)
	}
}

// postWebhook sends a webhook without a signature and returns the status code of the answer.
func postWebhook(t testing.TB, address string) int {
	t.Helper()
	return answered(t, func() int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+address+"/workos/webhook", strings.NewReader("{}"))
		require.NoError(t, err)
		resp, err := onceClient.Do(req)
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	})
}

// TestIPv6WithoutBrackets: relay says how such an address is written.
func TestIPv6WithoutBrackets(t *testing.T) {
	t.Parallel()
	const out = "sinks: [{name: out, type: stdout}]\n"
	for text, says := range map[string]string{
		"source: {endpoint: \"http://::1:8080\", api_key: x}\n" + out:                                  "such as https://[::1]:8080",
		"source: {endpoint: \"https://2001:db8::1\", api_key: x}\n" + out:                              "such as https://[::1]:8080",
		"source: {api_key: x, proxy: \"http://relay:hunter2@::1:3128\"}\n" + out:                       "such as http://[::1]:3128",
		"source: {api_key: x}\nadmin: {listen: \"::1:8080\"}\n" + out:                                  "such as [::1]:8080",
		"source: {api_key: x, webhook: {listen: \"::1:8081\", secret: whsec_x}}\n" + out:               "such as [::1]:8080",
		"source: {api_key: x}\ntelemetry: {traces: {endpoint: \"http://::1:4318/v1/traces\"}}\n" + out: "such as https://[::1]:8080",
		"source: {api_key: x}\nsinks: [{name: kafka, type: kafka, brokers: [\"2001:db8::1:9092\"]}]\n": "such as [2001:db8::1]:9092",
		"source: {api_key: x}\nsinks: [{name: kafka, type: kafka, brokers: [\"2001:db8::1\"]}]\n":      "such as [2001:db8::1]:9092",
	} {
		code, stdout, stderr := newRelay(t, "relay", text).Check(t)
		require.Equal(t, exitUsage, code, text)
		require.Contains(t, stdout+stderr, says, text)
		require.NotContains(t, stdout+stderr, "hunter2")
	}
}

// TestNamesWithTwoAddresses: a name stands for an address of IPv4 and one of IPv6, and a server
// listens on one of them only.
func TestNamesWithTwoAddresses(t *testing.T) {
	t.Parallel()
	needIPv6(t)
	for _, name := range []string{"localhost", "both.test"} {
		for _, host := range []string{"127.0.0.1", "::1"} {
			t.Run(name+" at "+host, func(t *testing.T) {
				t.Parallel()
				a := newAround(t, host, name, name, name, name)
				admin, webhook := fmt.Sprintf("%s:%d", name, testaddr.Port(t)), fmt.Sprintf("%s:%d", name, testaddr.Port(t))
				text := strings.Replace(a.config(""), "poll_interval: 200ms", fmt.Sprintf("poll_interval: 200ms, webhook: {listen: %q, secret: whsec_x}", webhook), 1)
				if name == "localhost" {
					text += fmt.Sprintf("admin: {listen: %q}\n", admin)
				}
				r := newRelay(t, "relay", text)
				if name == "localhost" {
					r.Admin = admin
				}
				inHosts(t, r, fmt.Sprintf("127.0.0.1 %s\n::1 %s\n", name, name))
				r.Start(t)
				a.carried(t, r, "the name has two addresses")
				if name == "localhost" {
					require.Equal(t, 401, postWebhook(t, webhook))
					code, out, errs := r.Run(t, "status")
					require.Equal(t, exitDone, code, out+errs)
				}
				require.Equal(t, exitDone, r.Stop(t))
			})
		}
	}
}

// TestListenersOfBothFamilies: an address without a host is reached by IPv4 and by IPv6.
func TestListenersOfBothFamilies(t *testing.T) {
	t.Parallel()
	needIPv6(t)
	api := newAPI(t)
	for _, host := range []string{"", "[::]"} {
		admin, webhook := testaddr.Port(t), testaddr.Port(t)
		r := newRelay(t, "relay", fmt.Sprintf("source: {endpoint: %q, api_key: %s, webhook: {listen: \"%s:%d\", secret: whsec_x}}\nsinks: [{name: out, type: stdout}]\nadmin: {listen: \"%s:%d\", token: 0123456789abcdef}\n",
			api.URL(), apiKey, host, webhook, host, admin))
		r.Start(t)
		for _, from := range []string{"127.0.0.1", "[::1]"} {
			r.Admin = fmt.Sprintf("%s:%d", from, admin)
			r.Await(t, func() bool { code, _ := r.Ready(); return code == http.StatusOK }, "admin is reached by %s", from)
			require.Equal(t, 401, postWebhook(t, fmt.Sprintf("%s:%d", from, webhook)))
		}
		code, out, errs := r.Run(t, "status")
		require.Equal(t, exitDone, code, out+errs)
		require.Equal(t, exitDone, r.Stop(t))
	}
}

// TestNamesThatMove: the API, the collector and every broker get other addresses while relay runs,
// to which their names lead from then on. What had the addresses before refuses connections, or
// takes them and says nothing.
func TestNamesThatMove(t *testing.T) {
	t.Parallel()
	needIPv6(t)
	for name, silent := range map[string]bool{"refused": false, "silent": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			names := []string{"api.test", "collector.test", "kafka-1.test", "kafka-2.test"}
			hosts := func(host string) (text string) {
				for _, n := range append(names, "kafka.test") {
					text += host + " " + n + "\n"
				}
				return text
			}
			a := newAround(t, "127.0.0.2", names...)
			_, port, err := net.SplitHostPort(a.brokers[0].Addr().String())
			require.NoError(t, err)
			r := newRelay(t, "relay", a.config("kafka.test:"+port))
			set := inHosts(t, r, hosts("127.0.0.2"))
			r.Start(t)
			a.carried(t, r, "at first")
			to := []string{"127.0.0.3", "::1"}
			if silent {
				to = to[1:] // each takes as long as the timeouts
			}
			for _, host := range to {
				a.move(t, host, silent)
				set(hosts(host))
				a.carried(t, r, "all moved to "+host)
			}
			r.awaitReady(t)
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}

// TestKafkaBrokersThatMove: brokers announce other addresses while relay runs, one after the other
// or all at once. In the end none is where relay found them, and the bootstrap name leads to the
// new ones.
func TestKafkaBrokersThatMove(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ together, silent bool }{
		"one by one": {}, "one by one, silent": {silent: true}, "together": {together: true}, "together, silent": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAround(t, "127.0.0.2")
			seed := newMovable(t, "127.0.0.2:0", "kafka.test") // passes on to the first broker
			go func() {
				for {
					conn, err := seed.Accept()
					if err != nil {
						return
					}
					a.brokers[0].accepted <- conn
				}
			}()
			_, port, err := net.SplitHostPort(seed.Addr().String())
			require.NoError(t, err)
			r := newRelay(t, "relay", a.config("kafka.test:"+port))
			set := inHosts(t, r, "127.0.0.2 kafka.test\n")
			r.Start(t)
			a.carried(t, r, "at first")
			seed.move(t, "127.0.0.3:"+port, c.silent)
			set("127.0.0.3 kafka.test\n")
			for i, b := range a.brokers {
				b.move(t, fmt.Sprintf("127.0.0.%d:0", 4+i), c.silent)
				if !c.together {
					a.carried(t, r, fmt.Sprintf("broker %d has moved", i))
				}
			}
			a.carried(t, r, "all have moved")
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}
