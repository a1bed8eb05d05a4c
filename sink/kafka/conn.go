package kafka

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/segmentio/kafka-go/protocol"
)

// dial opens a connection to a broker for kafka-go's Transport, with TLS if it is configured. kafka-go would keep one TLS configuration
// for good; here each connection takes the files as they are. It waits while the brokers throttle relay: a new connection must not be a
// way around that.
func (c *cluster) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if err := c.awaitThrottle(ctx); err != nil {
		return nil, err
	}
	raw, err := (&net.Dialer{Timeout: min(dialTimeout, c.requestTimeout)}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := &brokerConn{Conn: raw, raw: raw, cluster: c, address: address, closed: make(chan struct{})}
	if c.tls == nil {
		return conn, nil
	}
	config := c.tls.Config()
	if config.ServerName == "" {
		if config.ServerName, _, err = net.SplitHostPort(address); err != nil {
			return nil, errors.Join(fmt.Errorf("the address %q of a broker is not host:port: %w", address, err), raw.Close())
		}
	}
	secured := tls.Client(raw, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, conn.explain(err)
	}
	conn.Conn = secured
	return conn, nil
}

// brokerConn is a connection to a broker that looks at the frames which kafka-go sends and receives, one request after the other. It
// learns what kafka-go does not tell: which requests the broker knows, whether it has ever answered, for how long it throttles relay,
// and how large the request was on which it closed the connection.
//
// Write and Read are called by one goroutine. Close may be called by another.
type brokerConn struct {
	net.Conn          // plain text: raw, or TLS over it
	raw      net.Conn // the TCP connection
	cluster  *cluster
	address  string
	once     sync.Once
	closed   chan struct{}

	mu       sync.Mutex
	deadline time.Time
	waiting  bool // a request is under way, and its answer is not complete

	unsent  int // bytes of the request that are still to be written
	request frame
	answer  frame
}

// frame is what is known of a request or of its answer.
type frame struct {
	head    []byte // the beginning, or all of an answer that is looked at
	size    int    // with its size field; 0 until that is known
	read    int
	key     protocol.ApiKey
	version int16
}

const (
	frameSizeBytes = 4
	requestHead    = frameSizeBytes + 8 // size, request key, version, correlation id
	answerHead     = frameSizeBytes + 9 // size, correlation id, an empty list of tags, throttle time
	largestList    = 64 << 10           // of an answer with the requests that a broker knows
)

// errHungUp is an answer that never came, because the broker, or something before it, closed the connection.
type errHungUp struct {
	address  string
	request  int  // bytes of the request under way; 0 if there was none
	answered bool // the broker at this address has let relay in before
	err      error
}

func (e *errHungUp) Error() string {
	return fmt.Sprintf("%s closed the connection on a request of %d bytes: %v", e.address, e.request, e.err)
}
func (e *errHungUp) Unwrap() error { return e.err }

// explain adds to an error of the connection what is known of it. kafka-go must not see a plain io.EOF, which it would replace.
func (c *brokerConn) explain(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if !hungUp(err) {
		return err
	}
	return &errHungUp{address: c.address, request: c.request.size, answered: c.cluster.hasAnswered(c.address), err: err}
}

// Write implements net.Conn. Before the first byte of a request for metadata it waits for as long as the brokers throttle relay, which
// does not count against the deadline.
func (c *brokerConn) Write(b []byte) (int, error) {
	if c.unsent == 0 {
		c.begin(b)
		if err := c.awaitThrottle(); err != nil {
			return 0, err
		}
	}
	n, err := c.Conn.Write(b)
	c.unsent = max(c.unsent-n, 0)
	if err != nil {
		return n, c.explain(err)
	}
	return n, nil
}

// begin notes the request that begins with b.
func (c *brokerConn) begin(b []byte) {
	c.request, c.answer = frame{}, frame{}
	if len(b) < requestHead {
		return // a token of SASL, which has no header
	}
	c.request.size = frameSizeBytes + int(binary.BigEndian.Uint32(b))
	c.request.key = protocol.ApiKey(binary.BigEndian.Uint16(b[4:])) //nolint:gosec // its bits
	c.request.version = int16(binary.BigEndian.Uint16(b[6:]))       //nolint:gosec // its bits
	c.request.head = append(c.request.head, b[:requestHead]...)
	c.unsent = c.request.size
	c.setWaiting(true)
}

func (c *brokerConn) setWaiting(is bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = is
}

// awaitThrottle waits before a request that kafka-go sends by itself; the others have waited.
func (c *brokerConn) awaitThrottle() error {
	if c.request.key != protocol.Metadata {
		return nil
	}
	wait := c.cluster.throttled(requestQuota)
	if wait <= 0 {
		return nil
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.closed:
		return net.ErrClosed
	}
	c.mu.Lock()
	d := c.deadline
	c.mu.Unlock()
	if d.IsZero() {
		return nil
	}
	return c.SetDeadline(d.Add(wait))
}

// SetDeadline implements net.Conn.
func (c *brokerConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	c.deadline = t
	c.mu.Unlock()
	return c.Conn.SetDeadline(t)
}

// Read implements net.Conn.
func (c *brokerConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.look(b[:n])
	if err != nil {
		return n, c.explain(err)
	}
	return n, nil
}

// look follows the answer to the request under way, of which b is the next piece.
func (c *brokerConn) look(b []byte) {
	a := &c.answer
	if c.request.head == nil || len(b) == 0 {
		return
	}
	want := answerHead
	if c.request.key == protocol.ApiVersions {
		want = largestList
	}
	a.read += len(b)
	if room := want - len(a.head); room > 0 {
		a.head = append(a.head, b[:min(room, len(b))]...)
	}
	if len(a.head) < frameSizeBytes+4 {
		return
	}
	a.size = frameSizeBytes + int(binary.BigEndian.Uint32(a.head))
	if a.read < a.size {
		return
	}
	if [4]byte(a.head[4:8]) == [4]byte(c.request.head[8:12]) { // the correlation id: this is Kafka's protocol
		c.answered()
	}
	c.request.head = nil
	c.setWaiting(false)
}

// answered notes a complete answer.
func (c *brokerConn) answered() {
	if !unauthenticated(c.request.key) {
		c.cluster.noteAnswer(c.address)
	}
	body := c.answer.head[8:]
	if c.request.key == protocol.ApiVersions && c.request.version == 0 {
		c.cluster.noteRequests(body)
	}
	if d := throttleTime(c.request.key, c.request.version, body); d > 0 {
		c.cluster.throttleQuota(quotaOf(c.request.key), d)
	}
}

// unauthenticated reports whether a listener that expects SASL answers the request before that is done.
func unauthenticated(key protocol.ApiKey) bool {
	return key == protocol.ApiVersions || key == protocol.SaslHandshake || key == protocol.SaslAuthenticate
}

// Close implements net.Conn. If an answer is still to come, it drops what the system has not sent yet: a request that was given up
// must not take a slow link from the next one.
func (c *brokerConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.mu.Lock()
		waiting := c.waiting
		c.mu.Unlock()
		if tcp, ok := c.raw.(*net.TCPConn); ok && waiting {
			_ = tcp.SetLinger(0) // only a help
		}
	})
	return c.Conn.Close()
}

// versions is the range of versions of a request that a broker knows.
type versions struct{ least, most int16 }

// parseRequests reads the body of an answer of ApiVersions, version 0: an error code and a list. It returns nil if that is none.
func parseRequests(body []byte) map[protocol.ApiKey]versions {
	const entry = 6
	if len(body) < 6 || binary.BigEndian.Uint16(body) != 0 {
		return nil
	}
	n, body := int(binary.BigEndian.Uint32(body[2:])), body[6:]
	if n <= 0 || n > len(body)/entry {
		return nil
	}
	known := make(map[protocol.ApiKey]versions, n)
	for ; n > 0; n, body = n-1, body[entry:] {
		//nolint:gosec // its bits
		known[protocol.ApiKey(binary.BigEndian.Uint16(body))] = versions{int16(binary.BigEndian.Uint16(body[2:])), int16(binary.BigEndian.Uint16(body[4:]))}
	}
	return known
}
