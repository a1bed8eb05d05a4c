//go:build unix

package testkit

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Weather is what a Link does to its traffic. The zero value passes everything.
type Weather struct {
	Cut    bool          // breaks every connection and refuses new ones
	Silent bool          // holds all data back, in order, as a network that loses packets until it recovers
	Delay  time.Duration // waits before each piece of data, which also throttles
	Rate   int           // bytes per second of each direction of each connection; 0 for no limit
	Budget int64         // breaks a connection after so many bytes in either direction; 0 for no limit
}

// Link is a TCP proxy in front of one server. It listens until the test ends. It is safe for
// concurrent use.
type Link struct {
	Address  string // host:port for clients
	upstream string

	mu      sync.Mutex // guards what follows
	now     Weather
	changed chan struct{} // closed and replaced when now or stalled changes
	conns   map[net.Conn]*carried
	opened  int // connections accepted so far
	closed  bool
	wg      sync.WaitGroup
}

// carried is one connection through the link. It is guarded by Link.mu.
type carried struct{ stalled bool }

// NewLink listens on address, which may end in :0, and forwards to upstream.
func NewLink(t testing.TB, address, upstream string) *Link {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	require.NoError(t, err)
	l := &Link{Address: ln.Addr().String(), upstream: upstream, changed: make(chan struct{}), conns: map[net.Conn]*carried{}}
	l.wg.Go(func() { l.serve(ln) })
	t.Cleanup(func() {
		_ = ln.Close()
		l.Set(Weather{Cut: true})
		l.mu.Lock()
		l.closed = true
		l.mu.Unlock()
		l.wg.Wait()
	})
	return l
}

// Set changes the weather of current and future connections.
func (l *Link) Set(w Weather) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = w
	l.signal()
	if w.Cut {
		for c := range l.conns {
			_ = c.Close()
		}
	}
}

// StallExisting makes the current connections pass nothing more, for ever, without closing them.
// New connections work.
func (l *Link) StallExisting() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		c.stalled = true
	}
	l.signal()
}

// Opened returns the number of connections accepted so far.
func (l *Link) Opened() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opened
}

// signal wakes every pump. l.mu is held.
func (l *Link) signal() {
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *Link) serve(ln net.Listener) {
	for {
		client, err := ln.Accept()
		if err != nil {
			return
		}
		l.wg.Go(func() { l.carry(client) })
	}
}

func (l *Link) carry(client net.Conn) {
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	server, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.upstream)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	c := &carried{}
	if !l.enter(c, client, server) {
		return
	}
	defer l.leave(client, server)
	var both sync.WaitGroup
	for _, way := range [2][2]net.Conn{{client, server}, {server, client}} {
		both.Go(func() {
			l.pump(c, way[1], way[0])
			_ = client.Close() // ends the other direction
			_ = server.Close()
		})
	}
	both.Wait()
}

func (l *Link) enter(c *carried, conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now.Cut || l.closed {
		return false
	}
	l.opened++
	for _, conn := range conns {
		l.conns[conn] = c
	}
	return true
}

func (l *Link) leave(conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range conns {
		delete(l.conns, c)
	}
}

// pump forwards one direction until either side ends.
func (l *Link) pump(c *carried, to, from net.Conn) {
	buf := make([]byte, 256<<10)
	var passed int64
	for {
		n, err := from.Read(l.piece(buf))
		if n > 0 {
			limit := l.hold(c, n)
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

// piece returns how much of buf to read at once: a twentieth of a second's worth if there is a
// rate.
func (l *Link) piece(buf []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now.Rate <= 0 {
		return buf
	}
	return buf[:min(max(l.now.Rate/20, 1), len(buf))]
}

// hold waits until n bytes may pass, and returns the byte budget of the connection.
func (l *Link) hold(c *carried, n int) int64 {
	waited := false
	for {
		l.mu.Lock()
		w, changed, stalled := l.now, l.changed, c.stalled
		l.mu.Unlock()
		delay := w.Delay
		if w.Rate > 0 {
			delay += time.Duration(n) * time.Second / time.Duration(w.Rate)
		}
		switch {
		case w.Cut || !w.Silent && !stalled && (delay == 0 || waited):
			return w.Budget
		case w.Silent || stalled:
			<-changed
		default:
			select {
			case <-time.After(delay):
				waited = true
			case <-changed:
			}
		}
	}
}
