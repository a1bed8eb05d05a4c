//go:build unix

package mistakes

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"workos-relay/internal/testaddr"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

// stage is what rows speak to, shared by all of them. Nothing on it changes.
type stage struct{ names map[string]string }

// fill replaces {name} by what the stage has of that name.
func (s *stage) fill(text string) string {
	for name, value := range s.names {
		text = strings.ReplaceAll(text, "{"+name+"}", value)
	}
	return text
}

// newStage starts every server that rows speak to.
func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{names: map[string]string{
		"refused": testaddr.Free(t),
		"unknown": "no-such-host.invalid",
		"hung":    newListener(t, func(net.Conn) {}),
		"closing": newListener(t, func(c net.Conn) { _ = c.Close() }),
		"plain":   serveHTTP(t, http.NotFoundHandler(), false),
		"tls":     serveHTTP(t, http.NotFoundHandler(), true),
	}}
	api := sourcetest.New(sourcetest.WithAPIKey(apiKey), sourcetest.WithPopulation(sourcetest.Population{Events: 50, Seed: 1}))
	require.NoError(t, api.Start(""))
	t.Cleanup(func() { require.NoError(t, api.Close()) })
	s.names["api"] = api.URL()
	for name, a := range answers {
		s.names[name] = serveHTTP(t, a, false)
	}
	s.names["nats"] = newNATS(t, func(*server.Options) {}).Addr().String()
	s.names["nats_core"] = newNATS(t, func(o *server.Options) { o.JetStream = false }).Addr().String()
	s.names["nats_user"] = newNATS(t, func(o *server.Options) { o.Username, o.Password = "relay", "right"+secretMark }).Addr().String()
	s.names["nats_token"] = newNATS(t, func(o *server.Options) { o.Authorization = "right" + secretMark }).Addr().String()
	s.names["nats_full"] = newNATS(t, func(*server.Options) {}).Addr().String()
	fillStream(t, s.names["nats_full"])
	s.names["kafka"] = newKafka(t)
	s.names["kafka_sasl"] = newKafka(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "relay", "right"+secretMark))
	s.run(t)
	return s
}

// run starts the relay that rows talk to. It has the lane out and asks for a token.
func (s *stage) run(t *testing.T) {
	t.Helper()
	r := testkit.NewRelay(t, relayBinary, "running", s.fill(sourceOK+stdoutBus), "WORKOS_API_KEY="+apiKey)
	text, err := os.ReadFile(r.Config)
	require.NoError(t, err)
	r.WriteConfig(t, strings.Replace(string(text), "admin: {", "admin: {token: right-admin-token-"+secretMark+", ", 1))
	s.names["running"], s.names["running_dir"] = r.Admin, r.Dir
	r.Start(t)
	r.Await(t, func() bool { code, _ := r.Ready(); return code == http.StatusOK }, "the relay of the stage is ready")
}

// fillStream leaves a message of an event on the default stream, without a position.
func fillStream(t *testing.T, addr string) {
	t.Helper()
	nc, err := nats.Connect("nats://"+addr, nats.Timeout(patient))
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patient))
	require.NoError(t, err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "WORKOS", Subjects: []string{"user.>", "dsync.>"}})
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "user.created", []byte("{}"))
	require.NoError(t, err)
}

// answer is an HTTP server that gives the same answer to every request.
type answer struct {
	code    int
	headers map[string]string
	body    string
}

func (a answer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	for k, v := range a.headers {
		w.Header().Set(k, v)
	}
	w.WriteHeader(a.code)
	_, _ = io.WriteString(w, a.body)
}

// answers are the APIs that answer, but not with events.
var answers = map[string]http.Handler{
	"api401":      answer{401, map[string]string{"Content-Type": "application/json"}, `{"message":"Unauthorized"}`},
	"api403":      answer{403, map[string]string{"Content-Type": "application/json"}, `{"message":"Forbidden","error":"forbidden"}`},
	"api404":      answer{404, map[string]string{"Content-Type": "application/json"}, `{"message":"Not Found"}`},
	"api429":      answer{429, map[string]string{"Retry-After": "1"}, ``},
	"api500":      answer{500, map[string]string{"Content-Type": "application/json"}, `{"message":"Internal Server Error"}`},
	"api503":      answer{503, map[string]string{"Content-Type": "text/html"}, `<html><body>upstream is down</body></html>`},
	"page":        answer{200, map[string]string{"Content-Type": "text/html"}, `<html><head><title>Sign in</title></head><body>Sign in to the network</body></html>`},
	"proxy407":    answer{407, map[string]string{"Proxy-Authenticate": "Basic"}, ``},
	"moved":       answer{302, map[string]string{"Location": "https://login.example.invalid/?next=/events"}, ``},
	"empty":       answer{200, map[string]string{"Content-Type": "application/json"}, ``},
	"otherjson":   answer{200, map[string]string{"Content-Type": "application/json"}, `{"status":"ok"}`},
	"api400types": answer{400, map[string]string{"Content-Type": "application/json"}, `{"message":"Bad request","code":"bad_request"}`},
}

// newListener accepts connections and gives each to serve, which may keep it open.
func newListener(t *testing.T, serve func(net.Conn)) (addr string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		var open []net.Conn
		defer func() {
			for _, c := range open {
				_ = c.Close()
			}
		}()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open = append(open, c)
			serve(c)
		}
	}()
	return l.Addr().String()
}

// serveHTTP serves h and returns the address, host:port.
func serveHTTP(t *testing.T, h http.Handler, overTLS bool) (addr string) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // it is spoken to in every wrong way
	if overTLS {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// newNATS starts a server with JetStream, whose options change may alter.
func newNATS(t *testing.T, change func(*server.Options)) *server.Server {
	t.Helper()
	opts := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		AuthTimeout: patient.Seconds(), TLSTimeout: patient.Seconds()}
	change(opts)
	n, err := server.NewServer(opts)
	require.NoError(t, err)
	n.Start()
	require.True(t, n.ReadyForConnections(patient))
	t.Cleanup(func() { n.Shutdown(); n.WaitForShutdown() })
	return n
}

// newKafka starts a cluster of one broker and returns its address.
func newKafka(t *testing.T, opts ...kfake.Opt) string {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.ListenFn(func(network, _ string) (net.Listener, error) {
		return new(net.ListenConfig).Listen(context.Background(), network, "127.0.0.1:0")
	})}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c.ListenAddrs()[0]
}

// Configurations that rows begin with.
const (
	sourceOK  = "source: {endpoint: \"{api}\"}\n"
	adminOff  = "admin: {listen: \"\"}\n"
	stdoutBus = "sinks: [{name: out, type: stdout}]\n"
	natsBus   = "sinks: [{name: bus, type: nats, url: \"nats://{nats}\"}]\n"
	kafkaBus  = "sinks: [{name: bus, type: kafka, brokers: [\"{kafka}\"]}]\n"
)

// natsAt is a sink at a URL, with more keys.
func natsAt(url, more string) string {
	return fmt.Sprintf("sinks: [{name: bus, type: nats, url: %q%s}]\n", url, more)
}

// kafkaAt is a sink at a broker, with more keys.
func kafkaAt(broker, more string) string {
	return fmt.Sprintf("sinks: [{name: bus, type: kafka, brokers: [%q]%s}]\n", broker, more)
}

// apiAt is a source at an endpoint.
func apiAt(endpoint string) string { return fmt.Sprintf("source: {endpoint: %q}\n", endpoint) }
