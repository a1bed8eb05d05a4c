package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// dial opens a connection to a broker for kafka-go's Transport, with TLS if it is configured.
// kafka-go would keep one TLS configuration for good; here each connection reads the files again.
// dial waits while the brokers throttle the client: a new connection must not be a way around that.
func (c *Cluster) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if err := c.awaitThrottle(ctx); err != nil {
		return nil, err
	}
	raw, err := (&net.Dialer{Timeout: min(DialTimeout, c.RequestTimeout)}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := &brokerConn{
		Conn: raw, raw: raw, cluster: c, address: address, closed: make(chan struct{}),
		admission: time.Now().Add(c.RequestTimeout),
	}
	if c.TLS != nil {
		config := c.TLS.Config()
		if config.ServerName == "" {
			if config.ServerName, _, err = net.SplitHostPort(address); err != nil {
				return nil, errors.Join(fmt.Errorf("the address %q of a broker is not host:port: %w", address, err), raw.Close())
			}
		}
		config.ServerName, _, _ = strings.Cut(config.ServerName, "%") // no certificate names a zone
		secured := tls.Client(raw, config)
		if err := secured.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, conn.connError(err)
		}
		conn.Conn = secured
	}
	conn.in = bufio.NewReader(conn.Conn)
	return conn, nil
}

// brokerConn is a connection to a broker that follows the requests which kafka-go sends on it and
// their answers, one after the other.
//
// It stands between the broker and kafka-go's decoder: kafka-go gets an answer only when it is
// complete and checkAnswer finds nothing wrong with it, never a byte behind it, and an
// *BadAnswerError in place of one that is wrong. Answers that decodedHere names pass through once
// their size and their correlation id are checked. It takes memory as bytes come in, not as a size
// field claims.
//
// It learns what kafka-go does not tell: which requests the broker knows, whether it has ever
// answered, for how long it throttles the client, and how large the request was on which it closed
// the connection.
//
// Write and Read are called by one goroutine. Close may be called by another.
type brokerConn struct {
	net.Conn          // plain text: raw, or TLS over it
	raw      net.Conn // the TCP connection
	cluster  *Cluster
	address  string
	in       *bufio.Reader // reads from Conn
	once     sync.Once
	closed   chan struct{}

	mu        sync.Mutex
	admission time.Time // when the broker must have let the client in; zero once it has, or the client has given up waiting for that
	deadline  time.Time
	waiting   bool // a request is under way, and its answer is not complete

	sent    int32 // exchanges begun; kafka-go numbers its requests in the same way
	unsent  int   // bytes of the request that are still to be written
	request exchange
	checked []byte // of the answer: what kafka-go may read
	passing int    // bytes of the answer behind checked that kafka-go may read as they come
	failed  error  // why nothing more is read
	proof   proof  // of the request under way
	session session
}

// exchange is what is known of the request under way.
type exchange struct {
	size        int // with its size field; 0 for a token of SASL, which has no header
	key         protocol.ApiKey
	version     int16
	correlation [4]byte
}

const (
	frameSizeBytes = 4
	requestHead    = frameSizeBytes + 8 // size, request key, version, correlation id
	answerHead     = 9                  // correlation id, an empty list of tags, throttle time
)

// HungUpError is an answer that never came, because the broker, or something before it, closed the
// connection.
type HungUpError struct {
	Address  string
	Request  int  // bytes of the request under way; 0 if there was none
	Answered bool // the broker at this address has let the client in before
	err      error
}

func (e *HungUpError) Error() string {
	return fmt.Sprintf("%s closed the connection on a request of %d bytes: %v", e.Address, e.Request, e.err)
}
func (e *HungUpError) Unwrap() error { return e.err }

// BadAnswerError is an answer that the client does not read further: it is not one of Kafka's
// protocol, or not to the request, or it claims what is not there, or takes more memory than the
// client gives it. It says nothing about whether the broker has carried out the request.
type BadAnswerError struct {
	Address string // "" if it is not known here
	key     protocol.ApiKey
	token   bool // it answers a token of SASL
	err     error
}

func (e *BadAnswerError) Error() string {
	what := e.key.String()
	if e.token {
		what = "a SASL token"
	}
	if e.Address == "" {
		return fmt.Sprintf("the answer to %s is not valid: %v", what, e.err)
	}
	return fmt.Sprintf("the answer of %s to %s is not valid: %v", e.Address, what, e.err)
}
func (e *BadAnswerError) Unwrap() error { return e.err }

// ErrExpectsTLS is an alert of TLS in place of an answer.
var ErrExpectsTLS = errors.New("it is an alert of TLS")

// connError returns err with what is known about the connection. It replaces a plain io.EOF, for
// which kafka-go would substitute another error.
func (c *brokerConn) connError(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if !IsHangUp(err) {
		return err
	}
	return &HungUpError{Address: c.address, Request: c.request.size, Answered: c.cluster.HasAnswered(c.address), err: err}
}

// bad returns the error of an answer to the request under way.
func (c *brokerConn) bad(err error) error {
	return &BadAnswerError{Address: c.address, key: c.request.key, token: c.request.size == 0, err: err}
}

// Write implements net.Conn. Before the first byte of a request for metadata it waits for as long
// as the brokers throttle the client, which does not count against the deadline.
func (c *brokerConn) Write(b []byte) (int, error) {
	if c.unsent == 0 {
		if err := c.renewSession(b); err != nil {
			return 0, err
		}
		c.begin(b)
		if err := c.awaitThrottle(); err != nil {
			return 0, err
		}
	}
	if c.request.key == protocol.SaslAuthenticate {
		c.proof.add(b)
	}
	n, err := c.Conn.Write(b)
	c.unsent = max(c.unsent-n, 0)
	if err != nil {
		return n, c.connError(err)
	}
	return n, nil
}

// begin notes the request that begins with b.
func (c *brokerConn) begin(b []byte) {
	c.sent++
	c.request, c.checked, c.passing, c.proof = exchange{}, nil, 0, nil
	if !c.isRequest(b) {
		c.unsent = len(b)
		return // a token of SASL
	}
	c.request.size = frameSizeBytes + int(binary.BigEndian.Uint32(b))
	c.request.key = protocol.ApiKey(binary.BigEndian.Uint16(b[4:])) //nolint:gosec // its bits
	c.request.version = int16(binary.BigEndian.Uint16(b[6:]))       //nolint:gosec // its bits
	c.request.correlation = [4]byte(b[8:requestHead])
	c.unsent = c.request.size
	c.setWaiting(true)
	if !unauthenticated(c.request.key) {
		c.admitted()
	}
}

// isRequest reports whether b begins with the header of a request. Brokers older than Kafka 1.0
// take the tokens of SASL without one. Requests are told from tokens by their correlation id, which
// kafka-go counts up from 1 on each connection.
func (c *brokerConn) isRequest(b []byte) bool {
	if len(b) < requestHead {
		return false
	}
	id := int32(binary.BigEndian.Uint32(b[8:])) //nolint:gosec // its bits
	return id == c.sent || id == ownCorrelation
}

func (c *brokerConn) setWaiting(is bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = is
}

// awaitThrottle waits before a request that kafka-go sends by itself; the others have waited.
func (c *brokerConn) awaitThrottle() error {
	if c.request.size == 0 || c.request.key != protocol.Metadata {
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

// RemoteAddr implements net.Conn: the address as brokers or the cluster gave it, with its name.
func (c *brokerConn) RemoteAddr() net.Addr { return kafkago.TCP(c.address) }

// SetDeadline implements net.Conn. Until the broker has let the client in, there is always a
// deadline: kafka-go sets none for SASL, and a broker that says nothing there would keep the
// connection and its goroutine for good.
func (c *brokerConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	if t.IsZero() {
		t = c.admission
	}
	return c.Conn.SetDeadline(t)
}

// admitted ends the time in which the broker must let the client in.
func (c *brokerConn) admitted() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.admission.IsZero() {
		return
	}
	c.admission = time.Time{}
	_ = c.Conn.SetDeadline(c.deadline) // fails only if it is closed, which the next write says
}

// Read implements net.Conn.
func (c *brokerConn) Read(b []byte) (int, error) {
	if c.failed == nil && len(c.checked) == 0 && c.passing == 0 {
		c.failed = c.receive()
	}
	if c.failed != nil {
		return 0, c.failed
	}
	if len(c.checked) > 0 {
		n := copy(b, c.checked)
		if c.checked = c.checked[n:]; len(c.checked) == 0 {
			c.checked = nil
		}
		return n, nil
	}
	n, err := c.in.Read(b[:min(len(b), c.passing)])
	if c.passing -= n; c.passing == 0 {
		c.setWaiting(false)
	}
	if err != nil {
		c.failed = c.connError(err)
	}
	return n, c.failed
}

// receive reads the answer to the request under way, or as much of it as is checked before it
// passes, and makes it ready for Read.
func (c *brokerConn) receive() error {
	var head [frameSizeBytes]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return c.connError(err)
	}
	size, limit := int(int32(binary.BigEndian.Uint32(head[:]))), largestSmallAnswer //nolint:gosec // its bits
	if c.request.size > 0 {
		limit = sizeLimit(c.request.key)
	}
	switch {
	case size >= 0 && size <= limit:
	case looksLikeTLS(head):
		return c.bad(ErrExpectsTLS)
	default:
		return c.bad(fmt.Errorf("its size is given as %d bytes (it begins with %q), and relay takes up to %d", size, head, limit))
	}
	now := size // what is read before anything passes
	if c.request.size > 0 && decodedHere(c.request.key, c.request.version) {
		now = min(size, answerHead)
	}
	answer, err := c.readAnswer(head[:], now)
	if err != nil {
		return err
	}
	if c.request.size > 0 {
		c.proof.mask(c.request.key, answer[frameSizeBytes:])
		if err := c.inspect(answer[frameSizeBytes:]); err != nil {
			return c.bad(err)
		}
	}
	c.checked, c.passing = answer, size-now
	if c.passing == 0 {
		c.setWaiting(false)
	}
	return nil
}

// readAnswer returns head and the n bytes behind it. Its memory grows with what the broker sends.
func (c *brokerConn) readAnswer(head []byte, n int) ([]byte, error) {
	const step = 64 << 10
	answer := append(make([]byte, 0, len(head)+min(n, step)), head...)
	for n > 0 {
		piece := min(n, step)
		at := len(answer)
		answer = slices.Grow(answer, piece)[:at+piece]
		if _, err := io.ReadFull(c.in, answer[at:]); err != nil {
			return nil, c.connError(err)
		}
		n -= piece
	}
	return answer, nil
}

// inspect returns what is wrong with an answer, or with its head if the rest of it is to pass.
func (c *brokerConn) inspect(answer []byte) error {
	if len(answer) < 4 {
		return fmt.Errorf("it has %d bytes, too few for any", len(answer))
	}
	if got := [4]byte(answer); got != c.request.correlation {
		return fmt.Errorf("it answers another request (correlation id %x in place of %x)", got, c.request.correlation)
	}
	if !decodedHere(c.request.key, c.request.version) {
		if err := checkAnswer(c.request.key, c.request.version, answer); err != nil {
			return err
		}
	}
	c.learnFromAnswer(answer[4:])
	return nil
}

// learnFromAnswer learns from the body of an answer, or from its beginning.
func (c *brokerConn) learnFromAnswer(body []byte) {
	if !unauthenticated(c.request.key) {
		c.cluster.noteAnswer(c.address)
	}
	if c.request.key == protocol.SaslAuthenticate && len(body) >= 2 && binary.BigEndian.Uint16(body) != 0 {
		if m, ok := c.cluster.SASL.(interface{ refusedByCode() }); ok {
			m.refusedByCode()
		}
	}
	c.noteSession(body)
	if c.request.key == protocol.ApiVersions && c.request.version == 0 {
		c.cluster.noteRequests(body)
	}
	if d := throttleTime(c.request.key, c.request.version, body); d > 0 {
		c.cluster.throttleQuota(quotaOf(c.request.key), d)
	}
}

// looksLikeTLS reports whether an answer begins with an alert of TLS, which a listener for TLS
// sends to a client that begins without.
func looksLikeTLS(head [frameSizeBytes]byte) bool {
	const alert, major = 0x15, 0x03
	return head[0] == alert && head[1] == major
}

// unauthenticated reports whether a listener that expects SASL answers the request before that is
// done.
func unauthenticated(key protocol.ApiKey) bool {
	return key == protocol.ApiVersions || key == protocol.SaslHandshake || key == protocol.SaslAuthenticate
}

// Close implements net.Conn. If an answer is still to come, it drops what the system has not sent
// yet: a request that was given up must not take a slow link from the next one.
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

// Versions is the range of versions of a request that a broker knows.
type Versions struct{ Least, Most int16 }

// parseRequests reads the body of an answer of ApiVersions, version 0: an error code and a list. It
// returns nil if that is none.
func parseRequests(body []byte) map[protocol.ApiKey]Versions {
	const entry = 6
	if len(body) < 6 || binary.BigEndian.Uint16(body) != 0 {
		return nil
	}
	n, body := int(binary.BigEndian.Uint32(body[2:])), body[6:]
	if n <= 0 || n > len(body)/entry {
		return nil
	}
	known := make(map[protocol.ApiKey]Versions, n)
	for ; n > 0; n, body = n-1, body[entry:] {
		//nolint:gosec // its bits
		known[protocol.ApiKey(binary.BigEndian.Uint16(body))] = Versions{int16(binary.BigEndian.Uint16(body[2:])), int16(binary.BigEndian.Uint16(body[4:]))}
	}
	return known
}
