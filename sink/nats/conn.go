package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"workos-relay/internal/printable"
	"workos-relay/internal/retry"
)

const (
	dialTimeout   = 3 * time.Second // for one server: socket, TLS and greeting
	pingInterval  = 15 * time.Second
	pingsLost     = 2               // unanswered pings until a connection counts as dead
	writeTimeout  = 5 * time.Second // of one write to the socket; it bounds how long a server that hangs can hold up Close
	reconnectMin  = 50 * time.Millisecond
	reconnectMax  = 5 * time.Second
	statusLook    = 100 * time.Millisecond // how often a wait for the connection looks at the reason for its absence
	ackSubPending = 2 * maxWindow          // acknowledgements waiting to be looked at; never reached, since the window bounds them
	ackSubBytes   = 64 << 20               // bytes of them
)

var (
	errClosed = errors.New("the sink is closed")
	errLost   = errors.New("the connection was lost before every answer was in")
)

// connection is the way to the servers of Config.URL. It connects in the background and never gives
// up. Its methods are safe for concurrent use.
type connection struct {
	cfg     *Config
	servers string // of Config.URL, or of the embedded server
	options []nats.Option
	access  *access
	greeted atomic.Bool   // a NATS server has answered before
	closing chan struct{} // closed once nothing more is to be done

	onAck    func(*nats.Msg) // takes what comes on the inbox of a link
	onDenied func(error)     // takes a permission violation

	mu   sync.Mutex // guards link
	link *link
}

func (c *connection) isClosing() bool {
	select {
	case <-c.closing:
		return true
	default:
		return false
	}
}

// connected returns the link once its connection stands. It waits for at most ack_timeout, and not
// at all if the reason for its absence will hardly go away by itself.
func (c *connection) connected(ctx context.Context) (*link, error) {
	l, err := c.usableLink()
	if err != nil {
		return nil, err
	}
	timeout := time.NewTimer(c.cfg.AckTimeout)
	defer timeout.Stop()
	look := time.NewTicker(statusLook)
	defer look.Stop()
	for {
		changed, reason := l.state()
		if ctx.Err() != nil {
			return nil, c.waitError(ctx, reason)
		}
		if l.nc.IsConnected() {
			return l, nil
		}
		if lasting(reason) {
			return nil, c.explainConnect(reason)
		}
		select {
		case <-changed:
		case <-look.C:
		case <-timeout.C:
			return nil, c.explainConnect(reason)
		case <-ctx.Done():
			return nil, c.waitError(ctx, reason)
		case <-c.closing:
			return nil, errClosed
		}
		if l.nc.IsClosed() {
			return nil, c.explainConnect(reason)
		}
	}
}

// waitError returns the error of a wait for the connection that ctx ended: if it was a limit of
// time, with why there was none.
func (c *connection) waitError(ctx context.Context, reason error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", c.explainConnect(reason), ctx.Err())
	}
	return ctx.Err()
}

// usableLink returns the link in use, or the next one if nats.go has given the last one up, or if
// the last one is not connected and auth.nkey_file holds another key now: nats.go reconnects with
// the public key that it began with.
func (c *connection) usableLink() (*link, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isClosing() {
		return nil, errClosed
	}
	old := c.link
	if !old.nc.IsClosed() && (old.nc.IsConnected() || c.access.identity() == old.identity) {
		return old, nil
	}
	l, err := c.connect()
	if err != nil {
		return nil, err
	}
	c.link = l
	old.nc.Close() // nothing is connected any more; it only goes on trying with the key of before
	return l, nil
}

// connect makes a link. Without a server there it returns one that goes on trying; an error means
// that the configuration cannot work.
func (c *connection) connect() (*link, error) {
	l := newLink()
	credentials, identity := c.access.options()
	l.identity = identity
	opts := slices.Concat(c.options, credentials, []nats.Option{
		boundedBy(*c.cfg),
		nats.ConnectHandler(func(nc *nats.Conn) { c.onUp(l, nc) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { c.onUp(l, nc) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { c.onDown(l, err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { c.onFailedAttempt(l, err) }),
		nats.ClosedHandler(func(nc *nats.Conn) { l.disconnected(nc.LastError()) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { c.onError(l, err) }),
	})
	nc, err := nats.Connect(c.servers, opts...)
	if err != nil {
		return nil, c.explainConnect(err)
	}
	l.mu.Lock()
	l.nc = nc
	l.mu.Unlock()
	l.inbox = nc.NewRespInbox()
	sub, err := nc.Subscribe(l.inbox+".*.*", c.onAck)
	if err == nil {
		err = sub.SetPendingLimits(ackSubPending, ackSubBytes)
	}
	if err == nil {
		l.js, err = jetStreamOf(*c.cfg, nc)
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("setting up the connection to NATS: %w", err)
	}
	return l, nil
}

// optionsOf turns the configuration into the options of nats.go, but for those of access.
func optionsOf(c Config) []nats.Option {
	return []nats.Option{
		nats.Name(strings.Join(strings.Fields("relay "+c.RelayID+" "+c.Lane), " ")),
		nats.Timeout(dialTimeout),
		nats.PingInterval(pingInterval),
		nats.MaxPingsOutstanding(pingsLost),
		nats.FlusherTimeout(writeTimeout),
		nats.CustomInboxPrefix(c.InboxPrefix),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectBufSize(-1), // nothing waits where its loss would go unseen
		nats.CustomReconnectDelay(reconnectDelay),
		nats.ProxyPath(c.websocketPath()), // also for servers that are discovered
		func(o *nats.Options) error {
			o.IgnoreDiscoveredServers = c.IgnoreDiscoveredServers
			return nil
		},
	}
}

func reconnectDelay(attempts int) time.Duration {
	return retry.Backoff{First: reconnectMin, Most: reconnectMax}.After(attempts + 1)
}

func jetStreamOf(c Config, nc *nats.Conn) (jetstream.JetStream, error) {
	timeout := jetstream.WithDefaultTimeout(c.AckTimeout) // of what is asked with a context that has no deadline
	switch {
	case c.Domain != "":
		return jetstream.NewWithDomain(nc, c.Domain, timeout)
	case c.APIPrefix != "":
		return jetstream.NewWithAPIPrefix(nc, c.APIPrefix, timeout)
	default:
		return jetstream.New(nc, timeout)
	}
}

func (c *connection) onUp(l *link, nc *nats.Conn) {
	c.greeted.Store(true)
	l.sameDomain.Store(false)
	l.update(func() { l.lastErr, l.denied, l.told = nil, nil, false })
	c.cfg.Logger.Info("connected to NATS", zap.String("server", nc.ConnectedUrlRedacted()), zap.String("server_name", nc.ConnectedServerName()))
	if c.cfg.OnReconnect != nil {
		c.cfg.OnReconnect()
	}
}

// onFailedAttempt takes why an attempt to connect has failed. It logs the first failure, unless
// onDown has told of the outage: later ones are told by those who wait for the connection.
func (c *connection) onFailedAttempt(l *link, err error) {
	first := false
	l.update(func() { l.lastErr, first, l.told = err, !l.told, true })
	if first && !c.isClosing() {
		c.cfg.Logger.Warn("cannot reach NATS, trying again", zap.Error(c.explainConnect(err)))
	}
}

func (c *connection) onDown(l *link, err error) {
	l.update(func() { l.told = true })
	l.disconnected(err)
	if c.isClosing() {
		return
	}
	c.cfg.Logger.Warn("connection to NATS lost, reconnecting", zap.Error(err))
	if c.cfg.OnDisconnect != nil {
		c.cfg.OnDisconnect(err)
	}
}

// onError takes what nats.go reports outside of a call.
func (c *connection) onError(l *link, err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		l.update(func() { l.lastErr = err })
		return
	}
	l.update(func() { l.denied = err })
	c.onDenied(err)
}

// explainConnect says why there is no connection and what it most likely takes.
func (c *connection) explainConnect(err error) error {
	err = printable.Error(err)
	if err != nil && noGreeting(err) && !isTLS(err) && !c.greeted.Load() {
		return fmt.Errorf("what answers at %s takes the connection and sends no greeting of a NATS server: use the port for NATS clients%s: %w",
			c.cfg.URL, orHandshakeFirst(*c.cfg), err)
	}
	return explainConnect(err, *c.cfg)
}

// close ends the connection for good. Closing must be closed before.
func (c *connection) close() {
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	l.nc.Close()
}

// ended returns why nothing more is to be sent; nil while there is no reason. lost is the signal of
// the link in use.
func (c *connection) ended(ctx context.Context, lost <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.closing:
		return errClosed
	case <-lost:
		return errLost
	default:
		return nil
	}
}

// wait returns nil at the next wake, and otherwise why there is nothing to wait for any more.
func (c *connection) wait(ctx context.Context, wake <-chan struct{}, timeout <-chan time.Time, lost <-chan struct{}) error {
	select {
	case <-wake:
		return nil
	case <-timeout:
		return errAckTimeout
	case <-ctx.Done():
		return ctx.Err()
	case <-c.closing:
		return errClosed
	case <-lost:
		return errLost
	}
}

// request calls the JetStream API and waits for the answer for at most ack_timeout, and no longer
// than the connection lasts.
func (c *connection) request(ctx context.Context, l *link, call string, body []byte) (msg *nats.Msg, err error) {
	ctx, abort := context.WithCancelCause(ctx)
	lost, watched := l.lostSignal(), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-lost:
			abort(errLost)
		case <-c.closing:
			abort(errClosed)
		case <-ctx.Done():
		}
	}()
	defer func() {
		abort(nil)
		<-watched
	}()
	err = c.untilAnswered(ctx, func(ctx context.Context) (err error) {
		msg, err = l.nc.RequestWithContext(ctx, c.apiSubject(call), body)
		return err
	})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return msg, err
}

// askFirst is how long ask waits for the answer to its first attempt. It waits twice as long each
// time.
const askFirst = 500 * time.Millisecond

// untilAnswered puts a question that changes nothing until it is answered, for at most ack_timeout:
// one that arrives while a stream has no leader stays without an answer for good.
func (c *connection) untilAnswered(ctx context.Context, question func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.AckTimeout)
	defer cancel()
	waits := retry.Backoff{First: askFirst, Most: c.cfg.AckTimeout}
	for n := 1; ; n++ {
		try, done := context.WithTimeout(ctx, waits.Full(n))
		err := question(try)
		done()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
	}
}

// apiSubject returns the subject of a call of the JetStream API.
func (c *connection) apiSubject(call string) string {
	switch {
	case c.cfg.Domain != "":
		return "$JS." + c.cfg.Domain + ".API." + call
	case c.cfg.APIPrefix != "":
		return strings.TrimSuffix(c.cfg.APIPrefix, ".") + "." + call
	default:
		return "$JS.API." + call
	}
}

// sleepAbout waits for d and a random part of d more.
func sleepAbout(ctx context.Context, d time.Duration) error {
	return retry.Sleep(ctx, d+retry.Random(nil).UpTo(d))
}

// sleep waits for d. It returns errClosed if the sink is closed before that.
func (c *connection) sleep(ctx context.Context, d time.Duration) error {
	err := retry.SleepUntil(ctx, d, c.closing)
	select {
	case <-c.closing:
		return errClosed
	default:
		return err
	}
}

// link is one connection of nats.go, which reconnects by itself until it is closed, together with
// what hangs on it. nats.go closes a connection for good after some errors of the server; the sink
// then opens the next link.
type link struct {
	nc    *nats.Conn
	js    jetstream.JetStream
	inbox string // acknowledgements come back on inbox.<attempt>.<index>
	// sameDomain is set once the server that the connection leads to is known to be in the stream's
	// domain.
	sameDomain atomic.Bool

	identity string // the public key that the connection was opened with; empty without auth.nkey_file

	mu      sync.Mutex
	lost    chan struct{} // closed when the connection breaks; a fresh one afterwards
	changed chan struct{} // closed whenever the state may have changed; a fresh one afterwards
	lastErr error         // why there was no connection at the last attempt
	told    bool          // the log has told that there is no connection
	denied  error         // what the server last forbade since the connection stands
}

func newLink() *link { return &link{lost: make(chan struct{}), changed: make(chan struct{})} }

// update changes the state and wakes all that wait for it.
func (l *link) update(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *link) disconnected(err error) {
	l.update(func() {
		l.lastErr = err
		close(l.lost)
		l.lost = make(chan struct{})
	})
}

func (l *link) lostSignal() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

func (l *link) permissionDenied() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.denied
}

// state returns a channel that is closed at the next change, and why there is no connection, if
// known.
func (l *link) state() (changed <-chan struct{}, reason error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	reason = l.lastErr
	if err := l.nc.LastError(); err != nil && !l.nc.IsConnected() {
		reason = err // of the handshake, which nats.go reports nowhere else
	}
	return l.changed, reason
}

// send hands msg to the connection, which keeps nothing of it. If there is none the error is
// errLost, and the message did not go out.
func (l *link) send(msg *nats.Msg) error {
	err := l.nc.PublishMsg(msg)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed):
		return errLost
	default:
		return fmt.Errorf("sending: %w", err)
	}
}

// explainAPI says what an error of the JetStream API most likely means. What callers test for stays
// in it.
func (l *link) explainAPI(doing string, err error) error {
	err = printable.Error(err)
	if denied := l.permissionDenied(); denied != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders)) {
		return fmt.Errorf("%s: %w", doing, lacksPermission(denied))
	}
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%s: nothing answers for JetStream; it is not enabled on the server, domain or api_prefix is wrong, or the cluster has no leader yet: %w", doing, err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%s: JetStream is not enabled for the account of this user; enable it, or set api_prefix if the account imports the JetStream API of another: %w", doing, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: JetStream did not answer in time; the cluster may have no leader: %w", doing, err)
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
}

func lacksPermission(denied error) error {
	return fmt.Errorf("the NATS user lacks a permission for the JetStream API: %w", printable.Error(denied))
}
