package nats

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
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
	denied  error         // what the server last forbade since the connection stands
}

func newLink() *link { return &link{lost: make(chan struct{}), changed: make(chan struct{})} }

// note changes the state and wakes whoever waits for it.
func (l *link) note(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *link) disconnected(err error) {
	l.note(func() {
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

// options turns the configuration into the options of nats.go, but for those of access.
func (c Config) options() []nats.Option {
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
	}
}

func reconnectDelay(attempts int) time.Duration {
	d := reconnectMin << min(attempts, 10)
	d = min(d, reconnectMax)
	return d/2 + rand.N(d/2) //nolint:gosec // jitter
}

// open makes a link. Without a server there it returns one that goes on trying; an error means that
// the configuration cannot work.
func (s *Sink) open() (*link, error) {
	l := newLink()
	credentials, identity := s.access.options()
	l.identity = identity
	opts := slices.Concat(s.options, s.cfg.bounded(), credentials, []nats.Option{
		nats.ConnectHandler(func(nc *nats.Conn) { s.onUp(l, nc) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { s.onUp(l, nc) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { s.onDown(l, err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { l.note(func() { l.lastErr = err }) }),
		nats.ClosedHandler(func(nc *nats.Conn) { l.disconnected(nc.LastError()) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { s.onError(l, err) }),
	})
	nc, err := nats.Connect(s.servers(), opts...)
	if err != nil {
		return nil, s.explainConnect(err)
	}
	l.mu.Lock()
	l.nc = nc
	l.mu.Unlock()
	l.inbox = nc.NewRespInbox()
	sub, err := nc.Subscribe(l.inbox+".*.*", s.onAck)
	if err == nil {
		err = sub.SetPendingLimits(ackSubPending, ackSubBytes)
	}
	if err == nil {
		l.js, err = s.cfg.jetStream(nc)
	}
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("setting up the connection to NATS: %w", err)
	}
	return l, nil
}

func (c Config) jetStream(nc *nats.Conn) (jetstream.JetStream, error) {
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

func (s *Sink) servers() string {
	if s.embedded != nil {
		return s.embedded.url()
	}
	return s.cfg.URL
}

func (s *Sink) onUp(l *link, nc *nats.Conn) {
	s.greeted.Store(true)
	l.sameDomain.Store(false)
	l.note(func() { l.lastErr, l.denied = nil, nil })
	s.log.Info("connected to NATS", zap.String("server", nc.ConnectedUrlRedacted()), zap.String("server_name", nc.ConnectedServerName()))
	if s.cfg.OnReconnect != nil {
		s.cfg.OnReconnect()
	}
}

func (s *Sink) onDown(l *link, err error) {
	l.disconnected(err)
	if s.isClosing() {
		return
	}
	s.log.Warn("connection to NATS lost, reconnecting", zap.Error(err))
	if s.cfg.OnDisconnect != nil {
		s.cfg.OnDisconnect(err)
	}
}

// onError takes what nats.go reports aside: a permission that is missing ends the attempt under
// way, since no acknowledgement would ever come.
func (s *Sink) onError(l *link, err error) {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		l.note(func() { l.lastErr = err })
		return
	}
	l.note(func() { l.denied = err })
	if a := s.current.Load(); a != nil {
		a.deny(err)
	}
	if c := s.committing.Load(); c != nil {
		c.deny(err)
	}
}

// connected returns the link once its connection stands. It waits for at most ack_timeout, and not
// at all where the reason for its absence will hardly mend by itself.
func (s *Sink) connected(ctx context.Context) (*link, error) {
	l, err := s.usableLink()
	if err != nil {
		return nil, err
	}
	timeout := time.NewTimer(s.cfg.AckTimeout)
	defer timeout.Stop()
	look := time.NewTicker(statusLook)
	defer look.Stop()
	for {
		changed, reason := l.state()
		if ctx.Err() != nil {
			return nil, s.gaveUp(ctx, reason)
		}
		if l.nc.IsConnected() {
			return l, nil
		}
		if lasting(reason) {
			return nil, s.explainConnect(reason)
		}
		select {
		case <-changed:
		case <-look.C:
		case <-timeout.C:
			return nil, s.explainConnect(reason)
		case <-ctx.Done():
			return nil, s.gaveUp(ctx, reason)
		case <-s.closing:
			return nil, errClosed
		}
		if l.nc.IsClosed() {
			return nil, s.explainConnect(reason)
		}
	}
}

// gaveUp is the error of a wait for the connection that ctx ended: if it was a limit of time,
// with why there was none.
func (s *Sink) gaveUp(ctx context.Context, reason error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", s.explainConnect(reason), ctx.Err())
	}
	return ctx.Err()
}

// usableLink returns the link in use, or the next one if nats.go has given the last one up, or if
// the last one is not connected and auth.nkey_file holds another key now: nats.go reconnects with
// the public key that it began with.
func (s *Sink) usableLink() (*link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosing() {
		return nil, errClosed
	}
	old := s.link
	if !old.nc.IsClosed() && (old.nc.IsConnected() || s.access.identity() == old.identity) {
		return old, nil
	}
	l, err := s.open()
	if err != nil {
		return nil, err
	}
	s.link = l
	old.nc.Close() // nothing is connected any more; it only goes on trying with the key of before
	return l, nil
}
