package nats

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

func TestServerDownAtStart(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	srv.stop()
	var ups, downs atomic.Int32
	s := open(t, Config{
		URL: srv.url(), AckTimeout: 200 * time.Millisecond, Create: Create{Enabled: true},
		OnReconnect: func() { ups.Add(1) }, OnDisconnect: func(error) { downs.Add(1) },
	})
	for _, ask := range []func() error{
		func() error { return s.Prepare(t.Context(), []string{topic}) },
		func() error { _, err := s.Holds(t.Context(), []string{topic}); return err },
		func() error { _, err := s.Inspect(t.Context(), []string{topic}); return err },
		func() error { return s.Publish(t.Context(), numbered(1)) },
	} {
		require.ErrorContains(t, ask(), srv.url())
	}
	require.ErrorIs(t, s.conn.link.nc.Publish("x", nil), nats.ErrReconnectBufExceeded, "buffered out of sight")
	s.cfg.AckTimeout = patient // it was short to wait for nobody
	srv.start(t)
	require.Eventually(t, func() bool { return s.Prepare(t.Context(), []string{topic}) == nil }, patient, often)
	require.NoError(t, s.Publish(t.Context(), numbered(3)))
	require.Eventually(t, func() bool { return ups.Load() == 1 }, patient, often)
	srv.stop()
	require.Eventually(t, func() bool { return downs.Load() >= 1 }, patient, often)
	srv.start(t)
	require.Eventually(t, func() bool { return s.Publish(t.Context(), numbered(5)[3:]) == nil }, patient, often)
	require.Equal(t, "e0 e1 e2 e3 e4", bodies(t, client(t, srv.url())))
}

// TestConnectionClosedForGood: nats.go gives a connection up after some errors. The sink opens the
// next.
func TestConnectionClosedForGood(t *testing.T) {
	t.Parallel()
	s, js := prepared(t, Config{})
	require.NoError(t, s.Publish(t.Context(), numbered(1)))
	s.conn.link.nc.Close()
	require.Eventually(t, func() bool { return s.Publish(t.Context(), numbered(3)[1:]) == nil }, patient, often)
	require.Equal(t, "e0 e1 e2", bodies(t, js))
}

// TestAckTimeoutHoldsForEveryQuestion, also for those that nats.go asks for a reader, which has its
// own limit of five seconds.
func TestAckTimeoutHoldsForEveryQuestion(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	for name, cfg := range map[string]Config{"plain": {}, "domain": {Domain: "hub"}, "prefix": {APIPrefix: "JS.hub.API"}} {
		cfg.URL, cfg.AckTimeout = srv.url(), time.Hour
		require.Equal(t, time.Hour, open(t, cfg).conn.link.js.Options().DefaultTimeout, name)
	}
}

func TestWrongKindOfServer(t *testing.T) {
	t.Parallel()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = ln.Close() }()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			_ = c.Close()
		}
	}()
	s := open(t, Config{URL: ln.Addr().String(), AckTimeout: time.Second})
	require.ErrorContains(t, s.Prepare(t.Context(), []string{topic}), ln.Addr().String())
}

// TestServerHangs checks that a server which takes bytes and never answers does not hold up a
// cancelled Publish, nor Close.
func TestServerHangs(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	proxy := newProxy(t, srv)
	s, err := New(t.Context(), Config{URL: proxy.addr, AckTimeout: patient, Create: Create{Enabled: true}})
	require.NoError(t, err)
	require.NoError(t, s.Prepare(t.Context(), []string{topic}))
	proxy.frozen.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	batch := numbered(2000)
	for i := range batch {
		batch[i].Body = make([]byte, 20_000) // more than the buffers of the sockets hold
	}
	done := make(chan error, 1)
	go func() {
		err := s.Publish(ctx, batch)
		_ = s.Close()
		done <- err
	}()
	select {
	case err := <-done:
		require.Error(t, err)
		require.Zero(t, sink.Durable(err, len(batch)))
	case <-time.After(patient):
		require.Fail(t, "Publish or Close hangs")
	}
}

// proxy stands between a client and a server.
type proxy struct {
	addr    string
	frozen  atomic.Bool  // nothing is read any more, in either direction
	replies sync.RWMutex // write-locked, holds back what the server says

	mu    sync.Mutex
	conns []net.Conn
}

func newProxy(t *testing.T, srv *testServer) *proxy {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{addr: ln.Addr().String()}
	stop := make(chan struct{})
	t.Cleanup(func() { close(stop); _ = ln.Close(); p.cut() })
	forward := func(to, from net.Conn, gate *sync.RWMutex) {
		defer func() { _ = to.Close() }()
		buf := make([]byte, 4096)
		for {
			n, err := from.Read(buf)
			if p.frozen.Load() {
				<-stop
			}
			if err != nil {
				return
			}
			gate.RLock()
			_, err = to.Write(buf[:n])
			gate.RUnlock()
			if err != nil {
				return
			}
		}
	}
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(srv.url(), "nats://"))
			if err != nil {
				_ = in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			go forward(out, in, &sync.RWMutex{})
			go forward(in, out, &p.replies)
		}
	}()
	return p
}

// cut breaks every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}
