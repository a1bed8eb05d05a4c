package admin_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/pipeline"
	"workos-relay/router"
	"workos-relay/sink/nats"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// link forwards TCP connections to a server. While it is mute, nothing that the server says gets
// through: what is published arrives, and its acknowledgement does not come back.
type link struct {
	listener net.Listener
	server   string
	mute     atomic.Bool
	wg       sync.WaitGroup

	mu     sync.Mutex
	conns  []net.Conn
	closed bool
}

func newLink(t *testing.T, server string) *link {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &link{listener: l, server: server}
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		_ = p.listener.Close()
		p.mu.Lock()
		p.closed = true
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p
}

func (p *link) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		there, err := net.Dial("tcp", p.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		closed := p.closed
		p.conns = append(p.conns, client, there)
		p.mu.Unlock()
		if closed {
			_, _ = client.Close(), there.Close()
			return
		}
		p.wg.Go(func() { _, _ = io.Copy(there, client) })
		p.wg.Go(func() { _, _ = io.Copy(writer{p, client}, there) })
	}
}

// writer writes to the client unless the link is mute.
type writer struct {
	link *link
	to   io.Writer
}

func (w writer) Write(b []byte) (int, error) {
	if w.link.mute.Load() {
		return len(b), nil
	}
	return w.to.Write(b)
}

// newLaneOn is a real lane: from an Events API to a JetStream server, with its checkpoint in a
// file.
func newLaneOn(t *testing.T, api *sourcetest.Server, url string) *pipeline.Lane {
	t.Helper()
	id := checkpoint.Identity{Relay: "test", Lane: "nats", Endpoint: api.URL(), Destination: "nats stream WORKOS"}
	bus, err := nats.New(t.Context(), nats.Config{URL: url, RelayID: "test", Lane: "nats", Create: nats.Create{Enabled: true, Replicas: 1}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bus.Close()) })
	store, err := checkpoint.OpenFile(t.TempDir(), id)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	r, err := router.New(router.Config{Relay: "test", Encoding: router.Raw, Binding: router.NATS})
	require.NoError(t, err)
	types := []string{"user.created"}
	return &pipeline.Lane{
		Name: "nats", Type: "nats", Holder: store.Holder(), Router: r,
		Source: &source.Stream{Client: &source.Client{APIKey: "sk_test", Endpoint: api.URL()}, Events: types, PollInterval: 10 * time.Millisecond},
		Target: &pipeline.AtLeastOnce{Sink: bus, Store: store, Ownership: pipeline.Ownership{
			Topics: types, Identity: id, Holder: store.Holder(), Events: types, Logger: zap.NewNop(),
			Origin: func(context.Context) (checkpoint.Position, error) { return checkpoint.Position{}, nil },
		}},
		ShutdownTimeout: time.Millisecond,
	}
}

func event(id, at string) []byte {
	return []byte(`{"object":"event","id":"` + id + `","event":"user.created","data":{},"created_at":"` + at + `"}`)
}

// TestConnectedButStuckOnARealBus: the API answers, the bus is connected and even has the event,
// and only its acknowledgement does not come. The clock of the judge is set; nothing waits for a
// minute.
func TestConnectedButStuckOnARealBus(t *testing.T) {
	bus, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true})
	require.NoError(t, err)
	bus.Start()
	t.Cleanup(func() { bus.Shutdown(); bus.WaitForShutdown() })
	require.True(t, bus.ReadyForConnections(patient))
	nc, err := natsgo.Connect(bus.ClientURL(), natsgo.Timeout(patient))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patient))
	require.NoError(t, err)
	way := newLink(t, bus.Addr().String())
	api := sourcetest.New(sourcetest.WithAPIKey("sk_test"))
	require.NoError(t, api.Start(""))
	t.Cleanup(func() { require.NoError(t, api.Close()) })
	require.NoError(t, api.Append(event("event_01J0000000000000000000000A", "2026-01-01T00:00:00Z")))

	lane := newLaneOn(t, api, "nats://"+way.listener.Addr().String())
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- lane.Run(ctx) }()
	defer func() { stop(); require.NoError(t, <-ended) }()
	var clock clock
	base := start(t, admin.Config{
		Lanes: func() []pipeline.Status { return []pipeline.Status{lane.Status()} }, PollInterval: everySecond, Now: clock.now,
	})
	ready := func() (int, string) { r := request(t, "GET", base+"/readyz"); return r.StatusCode, r.body }
	require.Eventually(t, func() bool {
		code, body := ready()
		return code == http.StatusOK && strings.Contains(body, "event_01J0000000000000000000000A")
	}, patient, often)

	way.mute.Store(true)
	require.NoError(t, api.Append(event("event_01J0000000000000000000000B", "2026-01-01T00:00:01Z")))
	require.Eventually(t, func() bool { return !lane.Status().Unacked.IsZero() }, patient, often)
	require.Eventually(t, func() bool {
		stream, err := js.Stream(t.Context(), "WORKOS")
		return err == nil && stream.CachedInfo().State.Msgs == 2
	}, patient, often, "the bus has it")
	read := lane.Status().Unacked
	clock.set(read.Add(time.Second))
	code, body := ready()
	require.Equal(t, http.StatusOK, code, "a short time is not a reason: %s", body)
	clock.set(read.Add(65 * time.Second))
	code, body = ready()
	require.Equal(t, http.StatusServiceUnavailable, code, body)
	require.Contains(t, body, `lane nats: the oldest event read waits for 1m5s to be acknowledged`)
	require.Contains(t, body, `"unacknowledged_seconds": 65`)
}
