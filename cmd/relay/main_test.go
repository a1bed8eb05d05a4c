package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

	"workos-relay/internal/app"
	"workos-relay/internal/config"
	"workos-relay/internal/testaddr"
	"workos-relay/internal/testrun"
	"workos-relay/source/sourcetest"
)

const (
	asRelay = "RELAY_TEST_RUN_AS_RELAY" // makes the test binary behave as relay, so that a test can kill it
	testKey = "sk_test_e2e"
	patient = 3 * time.Minute // how long a test waits for what must come; passing does not depend on how soon it does
	often   = 5 * time.Millisecond

	unhurried = "--timeout=90s" // for commands that give up after seconds without it
)

func TestMain(m *testing.M) {
	testrun.PatientListeners()
	app.FindTime, app.CountTime = patient, patient
	if os.Getenv(asRelay) != "" {
		main()
		return
	}
	testrun.ManyAtOnce()
	if err := os.Setenv("RELAY_LOG_FORMAT", "console"); err != nil { // what the tests read
		panic(err)
	}
	os.Exit(m.Run())
}

// newAPI starts a fake Events API on a socket.
func newAPI(t *testing.T, opts ...sourcetest.Option) *sourcetest.Server {
	t.Helper()
	api := sourcetest.New(append([]sourcetest.Option{sourcetest.WithAPIKey(testKey)}, opts...)...)
	require.NoError(t, api.Start(""))
	t.Cleanup(func() { require.NoError(t, api.Close()) })
	return api
}

// newNATS starts a NATS server with JetStream that stores in files.
func newNATS(t *testing.T) (url string, js jetstream.JetStream) {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true})
	require.NoError(t, err)
	s.Start()
	require.True(t, s.ReadyForConnections(patient))
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	nc, err := nats.Connect(s.ClientURL(), nats.Timeout(patient))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(patient))
	require.NoError(t, err)
	return s.ClientURL(), js
}

// stored returns every message of a stream, in its order.
func stored(t *testing.T, js jetstream.JetStream, stream string) []*jetstream.RawStreamMsg {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	require.NoError(t, err)
	info, err := s.Info(ctx)
	require.NoError(t, err)
	consumer, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
	require.NoError(t, err)
	var out []*jetstream.RawStreamMsg
	if info.State.Msgs == 0 {
		return out
	}
	messages, err := consumer.Messages()
	require.NoError(t, err)
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		require.NoError(t, err)
		meta, err := m.Metadata()
		require.NoError(t, err)
		out = append(out, &jetstream.RawStreamMsg{Subject: m.Subject(), Header: m.Headers(), Data: m.Data(), Sequence: meta.Sequence.Stream})
		if meta.NumPending == 0 {
			return out
		}
	}
}

// messages returns how many messages a stream holds: none if it is missing, and -1 if there is no
// answer for a minute.
func messages(js jetstream.JetStream, stream string) int {
	for range 6 { // a question is lost while a server starts again
		n, err := func() (int, error) {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			s, err := js.Stream(ctx, stream)
			if err != nil {
				return 0, err
			}
			return int(s.CachedInfo().State.Msgs), nil
		}()
		if err == nil || errors.Is(err, jetstream.ErrStreamNotFound) {
			return n
		}
	}
	return -1
}

// writeConfig writes a configuration file and returns its path.
func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// natsConfig is the configuration of one NATS lane that delivers at least once; more is appended to
// it. Relay waits so long for acknowledgements that a machine under load does not make it publish
// anything twice, or a command fail: what replay and repair publish has no ids by which a bus would
// know a copy. Unless more says so, nothing is given up to renew a lease: what is stored would
// otherwise be stored without the knowledge of a relay that is stopped then.
func natsConfig(apiURL, natsURL, dir, more string) string {
	return natsConfigFor("at_least_once", apiURL, natsURL, dir, more)
}

func natsConfigFor(delivery, apiURL, natsURL, dir, more string) string {
	if !strings.Contains(more, "takeover_after") {
		more = "takeover_after: 1h\n" + more
	}
	return fmt.Sprintf(`
source: {endpoint: %q, api_key: %s, poll_interval: 20ms, rate_limit: 5000}
sinks: [{name: nats, type: nats, url: %q, ack_timeout: %s}]
checkpoint: {dir: %q}
admin: {listen: ""}
delivery: %s
shutdown_timeout: %s
%s`, apiURL, testKey, natsURL, patient, dir, delivery, patient, more)
}

// output is what a command prints; it may be read while the command runs.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// running is a command line that runs within this process.
type running struct {
	stdout, stderr output
	cancel         context.CancelFunc
	code           chan int
}

func start(t *testing.T, args ...string) *running {
	t.Helper()
	return startWith(t, format, args...)
}

// startWith starts a command line of a relay whose configuration has this format.
func startWith(t *testing.T, format *config.Format, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cancel: cancel, code: make(chan int, 1)}
	go func() { r.code <- executeWith(ctx, format, args, noEnv, &r.stdout, &r.stderr) }()
	t.Cleanup(cancel)
	return r
}

// noEnv is an empty environment, but that it keeps the memory of the test's own process from being
// limited to what relay needs.
func noEnv(name string) (string, bool) { return "off", name == "GOMEMLIMIT" }

// starting is read-locked while a child process is started. Until the child has called exec it
// holds copies of the listeners of this process, so that one that is closed still occupies its
// address.
var starting sync.RWMutex

// wait returns the exit code. Another command may listen on the same addresses then.
func (r *running) wait(t *testing.T) int {
	t.Helper()
	select {
	case code := <-r.code:
		starting.Lock() // until nothing is being started
		defer starting.Unlock()
		return code
	case <-time.After(patient):
		require.Fail(t, "the command does not end", r.stderr.String())
		return -1
	}
}

// stop ends the command as SIGTERM does, and returns the exit code.
func (r *running) stop(t *testing.T) int {
	t.Helper()
	r.cancel()
	return r.wait(t)
}

// do runs a command line to its end.
func do(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	r := start(t, args...)
	code = r.wait(t)
	return code, r.stdout.String(), r.stderr.String()
}

// child starts relay as its own process.
func child(t *testing.T, stderr *output, args ...string) *exec.Cmd {
	t.Helper()
	return childWith(t, nil, stderr, args...)
}

// childWith starts relay as its own process, with more in its environment.
func childWith(t *testing.T, env []string, stderr *output, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, args...)
	cmd.Env = append(append(os.Environ(), asRelay+"=1"), env...)
	cmd.Stderr = stderr
	starting.RLock()
	defer starting.RUnlock()
	require.NoError(t, cmd.Start())
	return cmd
}

// freeAddress returns an address on loopback that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	return testaddr.Free(t)
}

// flows waits until the stream holds so many messages more.
func flows(t *testing.T, js jetstream.JetStream, more int, log *output) {
	t.Helper()
	goal := messages(js, "WORKOS") + more
	require.Eventually(t, func() bool { return messages(js, "WORKOS") >= goal }, patient, often, log)
}

// events returns how many messages the stream holds beside positions.
func events(t *testing.T, js jetstream.JetStream) int {
	t.Helper()
	s, err := js.Stream(t.Context(), "WORKOS")
	if err != nil {
		return 0
	}
	info, err := s.Info(t.Context(), jetstream.WithSubjectFilter("relay.position.>"))
	require.NoError(t, err)
	return int(info.State.Msgs) - len(info.State.Subjects)
}

// purgePosition purges only positions.
func purgePosition(r *jetstream.StreamPurgeRequest) error {
	r.Subject = "relay.position.>"
	return nil
}
