package nats

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/testaddr"
	"workos-relay/sink"
)

const (
	// patient is how long what must come is waited for, on a machine that is busy or has a slow
	// disk.
	patient = 3 * time.Minute
	often   = 20 * time.Millisecond
	// question is how long a cluster may take to answer before it is asked again: without a leader
	// it never does.
	question = 10 * time.Second
)

// testServer is a NATS server in this process that can be stopped and started again on the same
// port and store.
type testServer struct {
	opts server.Options
	mu   sync.Mutex
	srv  *server.Server
}

// newServer starts a single server with JetStream on a free port. adjust may change its options.
func newServer(t testing.TB, adjust ...func(*server.Options)) *testServer {
	t.Helper()
	ts := &testServer{opts: server.Options{
		ServerName: "test", Host: "127.0.0.1", Port: testaddr.Port(t), JetStream: true, StoreDir: storeDir(t), NoSigs: true, NoLog: true,
		JetStreamLimits: server.JSLimitOpts{MaxBatchTimeout: patient}, // no batch is abandoned because its sender is slow
		AuthTimeout:     patient.Seconds(), TLSTimeout: patient.Seconds(),
	}}
	for _, a := range adjust {
		a(&ts.opts)
	}
	ts.start(t)
	t.Cleanup(ts.stop)
	return ts
}

// storeDir is removed with patience: a server that has stopped waits no longer than 100 ms for the
// state of a consumer to be written.
func storeDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	t.Cleanup(func() { require.Eventually(t, func() bool { return os.RemoveAll(dir) == nil }, patient, often) })
	return dir
}

func (ts *testServer) start(t testing.TB) {
	t.Helper()
	opts := ts.opts
	testaddr.Released(t, testaddr.On(opts.Port)) // by the server before this one
	if opts.Cluster.Port > 0 {
		testaddr.Released(t, testaddr.On(opts.Cluster.Port))
	}
	srv, err := server.NewServer(&opts)
	require.NoError(t, err)
	srv.Start()
	require.True(t, srv.ReadyForConnections(patient))
	ts.mu.Lock()
	ts.srv = srv
	ts.mu.Unlock()
}

func (ts *testServer) stop() {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.srv.Shutdown()
	ts.srv.WaitForShutdown()
}

func (ts *testServer) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", ts.opts.Port) }

// testCluster is three servers that replicate streams among themselves.
type testCluster struct{ nodes []*testServer }

func newCluster(t testing.TB) *testCluster {
	t.Helper()
	const size = 3
	var ports [size]int
	routes := ""
	for i := range ports {
		ports[i] = testaddr.Port(t)
		routes += fmt.Sprintf(",nats://127.0.0.1:%d", ports[i])
	}
	c := &testCluster{}
	for i := range size {
		ts := &testServer{opts: server.Options{
			ServerName: fmt.Sprintf("node%d", i), Host: "127.0.0.1", Port: testaddr.Port(t), JetStream: true, StoreDir: storeDir(t), NoSigs: true, NoLog: true,
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: ports[i]},
			Routes:  server.RoutesFromStr(routes[1:]),
		}}
		c.nodes = append(c.nodes, ts)
		opts := ts.opts
		srv, err := server.NewServer(&opts)
		require.NoError(t, err)
		ts.srv = srv
		srv.Start()
		t.Cleanup(ts.stop)
	}
	require.Eventually(t, func() bool {
		for _, n := range c.nodes {
			if n.srv.JetStreamIsLeader() {
				return true
			}
		}
		return false
	}, patient, often, "no leader of the cluster")
	return c
}

func (c *testCluster) url() string {
	urls := c.nodes[0].url()
	for _, n := range c.nodes[1:] {
		urls += "," + n.url()
	}
	return urls
}

// leader waits for a leader of the stream and returns its node.
func (c *testCluster) leader(t testing.TB, js jetstream.JetStream, stream string) *testServer {
	t.Helper()
	var found *testServer
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), question)
		defer cancel()
		s, err := js.Stream(ctx, stream)
		if err != nil || s.CachedInfo().Cluster == nil {
			return false
		}
		for _, n := range c.nodes {
			if n.opts.ServerName == s.CachedInfo().Cluster.Leader {
				found = n
			}
		}
		return found != nil
	}, patient, often, "no leader of the stream")
	return found
}

// client is its own connection, independent of the sink.
func client(t testing.TB, url string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(url, nats.Timeout(patient), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.RetryOnFailedConnect(true))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patient))
	require.NoError(t, err)
	return js
}

// readAll returns what a consumer of the stream sees on the topics.
func readAll(t testing.TB, js jetstream.JetStream, stream string, topics []string) []sink.Message {
	t.Helper()
	var messages []sink.Message
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 3*question)
		defer cancel()
		var err error
		messages, err = tryReadAll(ctx, js, stream, topics)
		if err != nil {
			t.Logf("reading again: %v", err)
		}
		return err == nil
	}, patient, often)
	return messages
}

func tryReadAll(ctx context.Context, js jetstream.JetStream, stream string, topics []string) ([]sink.Message, error) {
	st, err := js.Stream(ctx, stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c, err := st.CreateConsumer(ctx, jetstream.ConsumerConfig{FilterSubjects: topics, AckPolicy: jetstream.AckNonePolicy})
	if err != nil {
		return nil, err
	}
	defer func() { _ = st.DeleteConsumer(ctx, c.CachedInfo().Name) }()
	// The leader of the stream says how much there is, for the consumer may be on a replica that
	// lags.
	info, err := st.Info(ctx, jetstream.WithSubjectFilter(">"))
	if err != nil {
		return nil, err
	}
	pending := 0
	for _, topic := range topics {
		pending += int(info.State.Subjects[topic])
	}
	var messages []sink.Message
	for len(messages) < pending {
		fetched, err := c.Fetch(min(pending-len(messages), 1000), jetstream.FetchContext(ctx))
		if err != nil {
			return nil, err
		}
		for msg := range fetched.Messages() {
			m := sink.Message{Topic: msg.Subject(), Body: msg.Data()}
			for k, values := range msg.Headers() {
				for _, v := range values {
					m.Headers = append(m.Headers, sink.Header{Key: k, Value: v})
				}
			}
			messages = append(messages, m)
		}
		if err := fetched.Error(); err != nil {
			return nil, err
		}
	}
	return messages, nil
}

// open makes a sink. One whose ack_timeout the test does not set waits patiently for every answer.
func open(t testing.TB, cfg Config) *Sink {
	t.Helper()
	setDefault(&cfg.AckTimeout, patient)
	s, err := New(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func noJetStream(o *server.Options) { o.JetStream = false }
