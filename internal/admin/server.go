// Package admin is relay's HTTP server: for probes, metrics and status, and to steer the relay that
// runs. It shows no secret.
package admin

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"workos-relay/internal/listener"
	"workos-relay/pipeline"
)

// Config is what a Server serves.
type Config struct {
	Listen string                   // host:port
	ID     string                   // of the relay
	Lanes  func() []pipeline.Status // called for each request, from several goroutines at once
	Outlet func(lane string) Outlet // tells where the events of a lane go; nil if that is not known
	// Activity tells what a lane has done of late; nil if that is not known. Its times that are
	// over need not be left out.
	Activity func(lane string) Activity
	Requests func() *Requests // tells of the requests to WorkOS, without WaitingUntil; nil if that is not known
	// Verify tells how a lane verifies itself, and returns nil if it does not; nil for no lane.
	Verify       func(lane string) *VerifyStatus
	Metrics      http.Handler         // of /metrics; without it there is no such path
	Page         func(*Server) Page   // makes what browsers are shown at /; nil shows them a list of paths
	PollInterval func() time.Duration // between polls of the Events API, as configured now; nil for none
	Security     Security
	Control      Control // nil if nothing can be steered
	// OnRefused is called for each request that is refused access, for metrics; nil for none. It
	// must not block.
	OnRefused func(Reason)
	// Unasked returns the event types that webhooks name and that relay does not ask for; nil for
	// none.
	Unasked func() []UnaskedType
	Version string
	Logger  *zap.Logger      // nil logs nothing
	Now     func() time.Time // nil for time.Now
}

// Server serves until Close.
type Server struct {
	cfg      Config
	security atomic.Pointer[Security]
	tls      atomic.Pointer[credentials] // nil without TLS
	started  time.Time
	listener net.Listener
	http     *http.Server
	page     Page          // may be nil
	done     chan struct{} // closed when the serving goroutine has ended

	guesses    guesses
	refusedLog refusedLog
}

// Listen binds cfg.Listen and serves from then on, in a goroutine that Close waits for. ctx bounds
// the binding alone. The error names admin.listen and says what to do.
func Listen(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{cfg: cfg, started: cfg.Now(), done: make(chan struct{})}
	if err := s.Secure(cfg.Security); err != nil {
		return nil, err
	}
	l, err := bind(ctx, cfg.Listen)
	if err != nil {
		return nil, err
	}
	s.listener = listener.Bound(l, listener.Admin)
	if cfg.Page != nil {
		s.page = cfg.Page(s)
	}
	if s.http, err = listener.New(s.handler(), listener.Admin, cfg.Logger); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if s.tls.Load() != nil {
		s.http.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
			GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.tls.Load().config(), nil }}
	} else if cfg.Security.Token.IsSet() && !IsLoopback(cfg.Listen) {
		cfg.Logger.Warn("admin.token travels unencrypted: set admin.tls, or let something before relay speak TLS", zap.String("admin.listen", cfg.Listen))
	}
	if s.page != nil {
		s.http.RegisterOnShutdown(s.page.Close)
	}
	go s.serve()
	return s, nil
}

// Check returns the error that Listen would return, and serves nothing. It holds the address until
// the returned Closer is closed. If inUse is set, a server of this configuration is running: then
// Check does not bind the address, and returns no Closer.
func Check(ctx context.Context, listen string, security Security, inUse bool) (io.Closer, error) {
	s := &Server{cfg: Config{Listen: listen}}
	if err := s.Secure(security); err != nil || inUse {
		return nil, err
	}
	return bind(ctx, listen)
}

func bind(ctx context.Context, listen string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", listen)
	if err != nil {
		return nil, fmt.Errorf("admin.listen: cannot listen on %q: %w; %s", listen, err, listener.Advice(err, changeAddress))
	}
	return l, nil
}

// Secure applies other security to every request from now on: another token, other
// authorities. Whether TLS is spoken at all stays as it was at Listen, and is refused otherwise.
// After an error nothing has changed.
func (s *Server) Secure(to Security) error {
	if err := to.Check(s.cfg.Listen); err != nil {
		return fmt.Errorf("admin.listen: %s %w", s.cfg.Listen, err)
	}
	if s.listener != nil && to.TLS.InUse() != (s.tls.Load() != nil) {
		return errors.New("admin.tls: whether TLS is spoken cannot change while relay runs")
	}
	if to.TLS.InUse() {
		c, err := to.TLS.load(to.Files)
		if err != nil {
			return err
		}
		s.tls.Store(c)
	}
	s.security.Store(&to)
	return nil
}

// changeAddress is how another address is set.
const changeAddress = `set admin.listen to another address, or to "" to do without /healthz, /readyz and /metrics`

func (s *Server) serve() {
	defer close(s.done)
	serve := s.http.Serve
	if s.http.TLSConfig != nil {
		serve = func(l net.Listener) error { return s.http.ServeTLS(l, "", "") }
	}
	if err := serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		s.cfg.Logger.Error("the admin server has stopped; events go on, probes and metrics do not", zap.Stringer("address", s.Addr()), zap.Error(err))
	}
}

// Addr is the address in use, which tells the port where cfg.Listen had port 0.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Close takes no further request, lets those under way finish until ctx ends, and cuts off the
// rest, which is not an error. When it returns the address is free. It may be called again.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = s.http.Close()
	}
	<-s.done
	if err != nil {
		return fmt.Errorf("closing the admin server on %s: %w", s.Addr(), err)
	}
	return nil
}
