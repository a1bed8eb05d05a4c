package source

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// A request that makes no progress for these times is given up, and so is every connection of the
// pool that it used. Together they keep the time from a stall to an answer on a new connection
// below a minute.
const (
	headerTimeout = 30 * time.Second // from the start of a request to the header of its answer: dialing, TLS, proxy and API
	stallTimeout  = 15 * time.Second // between two pieces of a body

	// An HTTP/2 connection that brings nothing for pingAfter is asked for a sign of life, and
	// closed if none comes.
	pingAfter   = 10 * time.Second
	pingTimeout = 10 * time.Second

	// renewAfter is how many requests may fail in a row before the pool is given up, although each
	// of them was answered: by a server that was taken out of service, for example, or by one whose
	// address the name no longer has.
	renewAfter = 2
)

// What a server can make relay hold beside the bodies that are read.
const (
	maxHeader    = 64 << 10 // of the header of one answer
	streamBuffer = 1 << 20  // of an HTTP/2 response that is not read yet
	connBuffer   = 4 << 20  // of all of them on one connection
)

// Why an attempt was given up.
var (
	errNoAnswer = errors.New("no complete answer within the timeout")
	errNoHeader = errors.New("no answer within 30 s of the request")
	errStalled  = errors.New("the answer stalled: no data for " + stallTimeout.String())
)

// connections is the transport of a Client that was given none. It can drop its pool of
// connections, so that the next request dials and resolves the API's name again. It is safe for
// concurrent use.
type connections struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error) // nil for the network
	tls  *tls.Config                                                          // nil for the system's
	// roots returns the authorities to trust, the same pool until they change; nil, or a nil pool,
	// for the system's.
	roots func() *x509.CertPool
	// cert returns the client certificate, the same one until it changes; nil, or a nil
	// certificate, for none.
	cert  func() *tls.Certificate
	proxy func() *url.URL // as Client.Proxy

	mu      sync.Mutex
	current *pool
}

// pool is one generation of connections.
type pool struct {
	*http.Transport
	trusted  *x509.CertPool   // authorities of its connections; nil for the system's
	cert     *tls.Certificate // client certificate of its connections; nil for none
	proxy    *url.URL         // that connections.proxy gave; nil if the environment decides
	failures atomic.Int32     // in a row
}

// poolKey is the context key of the pool that a request uses.
type poolKey struct{}

// with returns ctx for a request that uses the current pool.
func (c *connections) with(ctx context.Context) (context.Context, *pool) {
	p := c.pool()
	return context.WithValue(ctx, poolKey{}, p), p
}

// pool returns the current pool. It is a new one if the authorities, the client certificate or the
// proxy are not those of the current pool any more. HTTP/2 would go on using a connection through
// the proxy of before.
func (c *connections) pool() *pool {
	var trusted *x509.CertPool
	var cert *tls.Certificate
	var proxy *url.URL
	if c.roots != nil {
		trusted = c.roots()
	}
	if c.cert != nil {
		cert = c.cert()
	}
	if c.proxy != nil {
		proxy = c.proxy()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.current; p != nil && (p.trusted != trusted || p.cert != cert || p.proxy != proxy) {
		c.current.CloseIdleConnections()
		c.current = nil
	}
	if c.current == nil {
		c.current = c.newPool(trusted, cert)
		c.current.proxy = proxy
	}
	return c.current
}

// RoundTrip implements http.RoundTripper.
func (c *connections) RoundTrip(req *http.Request) (*http.Response, error) {
	p, ok := req.Context().Value(poolKey{}).(*pool)
	if !ok {
		p = c.pool()
	}
	return p.RoundTrip(req)
}

// CloseIdleConnections closes the connections that are kept for later requests.
func (c *connections) CloseIdleConnections() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil {
		c.current.CloseIdleConnections()
	}
}

// drop makes later requests use new connections. Requests under way on old go on; their connections
// close when they have been idle for a while. It does nothing if old was dropped before.
func (c *connections) drop(old *pool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == old {
		c.current = nil
		old.CloseIdleConnections()
	}
}

// noteOutcome drops the pool of a request that stalled, and one on which several requests in a row
// have failed.
func (c *connections) noteOutcome(p *pool, status int, err error) {
	switch {
	case err == nil:
		p.failures.Store(0)
	case isStall(err):
		c.drop(p)
	case isBroken(status, err) && p.failures.Add(1) >= renewAfter:
		c.drop(p)
	}
}

// IsTimeout reports whether a request was given up because no answer, or no more of it, came in
// time.
func IsTimeout(err error) bool { return isStall(err) || errors.Is(err, context.DeadlineExceeded) }

// isStall reports whether a request was given up because nothing came.
func isStall(err error) bool {
	var timeout net.Error
	return errors.Is(err, errNoAnswer) || errors.Is(err, errNoHeader) || errors.Is(err, errStalled) || errors.As(err, &timeout) && timeout.Timeout()
}

// isBroken reports whether err may be the fault of the connection or of the server at its end.
func isBroken(status int, err error) bool {
	var api *APIError
	if !errors.As(err, &api) {
		return !errors.Is(err, ErrTooLarge) && !isNoRoom(err) && !errors.Is(err, context.Canceled) && !errors.Is(err, ErrMisconfigured)
	}
	return status/100 != 4
}

// newPool has room for the connections of a parallel backfill.
func (c *connections) newPool(trusted *x509.CertPool, cert *tls.Certificate) *pool {
	dial := c.dial
	if dial == nil {
		dial = (&net.Dialer{
			Timeout:         10 * time.Second,
			KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
		}).DialContext
	}
	conf := c.tls
	if trusted != nil || cert != nil {
		conf = conf.Clone() // nil of nil
		if conf == nil {
			conf = &tls.Config{MinVersion: tls.VersionTLS12}
		}
	}
	if trusted != nil {
		conf.RootCAs = trusted
	}
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	return &pool{trusted: trusted, cert: cert, Transport: &http.Transport{
		Proxy:                  proxyOf,
		OnProxyConnectResponse: connectAnswered,
		DialContext:            dial,
		TLSClientConfig:        conf,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    10 * time.Second,
		IdleConnTimeout:        90 * time.Second,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    64,
		MaxResponseHeaderBytes: maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: streamBuffer, MaxReceiveBufferPerConnection: connBuffer,
			SendPingTimeout: pingAfter, PingTimeout: pingTimeout, WriteByteTimeout: pingAfter + pingTimeout,
		},
	}}
}

// attempt is the context of one request, which ends when the request makes no progress.
type attempt struct {
	context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer // ends the attempt if there is no progress; nil if the header may take any time
	stop   func()
}

// newAttempt returns the context of a request that may take timeout altogether. With header, it
// also ends if the header of the answer does not come within headerTimeout.
func newAttempt(ctx context.Context, timeout time.Duration, header bool) *attempt {
	ctx, stop := context.WithTimeoutCause(ctx, timeout, errNoAnswer)
	ctx, cancel := context.WithCancelCause(ctx)
	a := &attempt{Context: ctx, cancel: cancel, stop: stop}
	if header {
		a.timer = time.AfterFunc(headerTimeout, func() { cancel(errNoHeader) })
	}
	return a
}

// end releases what the attempt holds.
func (a *attempt) end() {
	if a.timer != nil {
		a.timer.Stop()
	}
	a.cancel(nil)
	a.stop()
}

// body watches the progress of a body: the attempt ends when nothing comes for stallTimeout.
func (a *attempt) body(body io.Reader) io.Reader {
	if a.timer != nil {
		a.timer.Stop()
	}
	a.timer = time.AfterFunc(stallTimeout, func() { a.cancel(errStalled) })
	return &watchedBody{a: a, body: body}
}

// cause returns why the attempt has ended, or nil.
func (a *attempt) cause() error {
	if a.Err() == nil {
		return nil
	}
	return context.Cause(a)
}

// watchedBody tells its attempt of each piece that comes.
type watchedBody struct {
	a    *attempt
	body io.Reader
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if n > 0 {
		b.a.timer.Reset(stallTimeout)
	}
	return n, err
}
