//go:build unix

package field

import (
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// kafkaWire is what lies between relay and a cluster of newKfake. Its zero value changes nothing.
// All of it may be changed while connections are open.
type kafkaWire struct {
	rate     atomic.Int64 // bytes per second to the brokers, of all connections together; 0 for no limit
	maxFrame atomic.Int64 // connections are closed on larger requests; 0 for no limit
	bytes    atomic.Int64 // that have reached the brokers
	refused  atomic.Int64 // connections closed on requests that are too large
	silent   atomic.Bool  // nothing reaches the brokers, and nothing is closed
	produce  atomic.Int64 // nanoseconds by which each answer to a produce request is late

	mu   sync.Mutex
	next time.Time // when the next byte may pass
}

// option makes the brokers listen behind the wire.
func (w *kafkaWire) option() kfake.Opt {
	return kfake.ListenFn(func(network, address string) (net.Listener, error) {
		ln, err := net.Listen(network, address)
		if err != nil {
			return nil, err
		}
		return wireListener{ln, w}, nil
	})
}

// pass waits until n bytes may pass.
func (w *kafkaWire) pass(n int) {
	w.bytes.Add(int64(n))
	rate := w.rate.Load()
	if rate <= 0 {
		return
	}
	w.mu.Lock()
	now := time.Now()
	if w.next.Before(now) {
		w.next = now
	}
	w.next = w.next.Add(time.Duration(n) * time.Second / time.Duration(rate))
	wait := w.next.Sub(now)
	w.mu.Unlock()
	time.Sleep(wait)
}

type wireListener struct {
	net.Listener
	wire *kafkaWire
}

func (l wireListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &wireConn{Conn: c, wire: l.wire}, nil
}

// wireConn is read by one goroutine.
type wireConn struct {
	net.Conn
	wire *kafkaWire
	head []byte      // of the next request, up to its key
	left int         // bytes of the request that is read
	late atomic.Bool // the request that was read last is a produce request
}

// Write delays the answer to a produce request. Clients have one request under way on a connection.
func (c *wireConn) Write(b []byte) (int, error) {
	if d := c.wire.produce.Load(); d > 0 && c.late.Swap(false) {
		time.Sleep(time.Duration(d))
	}
	return c.Conn.Write(b)
}

func (c *wireConn) Read(b []byte) (int, error) {
	if rate := c.wire.rate.Load(); rate > 0 {
		b = b[:min(len(b), max(int(rate/50), 1))]
	}
	n, err := c.Conn.Read(b)
	for c.wire.silent.Load() && err == nil {
		time.Sleep(often)
	}
	c.wire.pass(n)
	if !c.fits(b[:n]) {
		c.wire.refused.Add(1)
		_ = c.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// fits follows the frames, and reports false at one that is too large.
func (c *wireConn) fits(b []byte) bool {
	for len(b) > 0 {
		if c.left == 0 {
			const keyEnd = 6 // behind the size
			n := min(keyEnd-len(c.head), len(b))
			c.head, b = append(c.head, b[:n]...), b[n:]
			if len(c.head) < keyEnd {
				return true
			}
			c.left = int(binary.BigEndian.Uint32(c.head)) - 2
			c.late.Store(binary.BigEndian.Uint16(c.head[4:]) == uint16(kmsg.Produce))
			c.head = c.head[:0]
			if most := c.wire.maxFrame.Load(); most > 0 && int64(c.left)+keyEnd > most {
				return false
			}
			continue
		}
		n := min(c.left, len(b))
		c.left, b = c.left-n, b[n:]
	}
	return true
}
