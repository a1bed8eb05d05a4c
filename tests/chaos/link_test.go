//go:build unix

package chaos

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// weather is what a link does to what passes. The zero value passes everything.
type weather struct {
	cut    bool          // breaks every connection, and each new one
	silent bool          // holds everything back, in order, as a network does that loses packets until it is mended
	delay  time.Duration // for each piece that is read, so it throttles as well
	budget int64         // where positive: breaks a connection after so many bytes in either direction
}

// link is a TCP proxy between a client and one server. It listens for as long as the test runs.
type link struct {
	address, upstream string

	mu      sync.Mutex
	now     weather
	changed chan struct{} // closed when now has changed
	conns   map[net.Conn]struct{}
	closed  bool
	wg      sync.WaitGroup
}

func newLink(t *testing.T, address, upstream string) *link {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	require.NoError(t, err)
	l := &link{address: ln.Addr().String(), upstream: upstream, changed: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	l.wg.Go(func() { l.serve(ln) })
	t.Cleanup(func() {
		_ = ln.Close()
		l.set(weather{cut: true})
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		l.wg.Wait()
	})
	return l
}

// set changes the weather for the connections that are there and for those to come.
func (l *link) set(w weather) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = w
	close(l.changed)
	l.changed = make(chan struct{})
	if w.cut {
		for c := range l.conns {
			_ = c.Close()
		}
	}
}

func (l *link) look() (weather, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now, l.changed
}

func (l *link) serve(ln net.Listener) {
	for {
		client, err := ln.Accept()
		if err != nil {
			return
		}
		l.wg.Go(func() { l.carry(client) })
	}
}

func (l *link) carry(client net.Conn) {
	defer func() { _ = client.Close() }()
	if w, _ := l.look(); w.cut {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	server, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.upstream)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	if !l.enter(client, server) {
		return
	}
	defer l.leave(client, server)
	var both sync.WaitGroup
	for _, way := range [2][2]net.Conn{{client, server}, {server, client}} {
		both.Go(func() {
			l.pump(way[1], way[0])
			_ = client.Close() // ends the other direction
			_ = server.Close()
		})
	}
	both.Wait()
}

func (l *link) enter(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now.cut || l.closed {
		return false
	}
	for _, c := range conns {
		l.conns[c] = struct{}{}
	}
	return true
}

func (l *link) leave(conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		delete(l.conns, c)
	}
}

// pump carries one direction until either side ends.
func (l *link) pump(to, from net.Conn) {
	buf := make([]byte, 256<<10)
	var passed int64
	for {
		n, err := from.Read(buf)
		if n > 0 {
			limit := l.hold()
			if limit > 0 && passed+int64(n) > limit {
				_, _ = to.Write(buf[:max(limit-passed, 0)])
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
			passed += int64(n)
		}
		if err != nil {
			return
		}
	}
}

// hold waits as the weather wants it, and returns the budget of a connection.
func (l *link) hold() int64 {
	for {
		w, changed := l.look()
		switch {
		case w.cut || !w.silent && w.delay == 0:
			return w.budget
		case w.silent:
			<-changed
		default:
			select {
			case <-time.After(w.delay):
				return w.budget
			case <-changed:
			}
		}
	}
}
