package nats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"workos-relay/checkpoint"
	"workos-relay/internal/listener"
	"workos-relay/internal/operator"
	"workos-relay/sink"
)

const (
	embeddedStart = 30 * time.Second // recovery of a large store included
	embeddedLook  = 20 * time.Millisecond
)

// embeddedStop bounds the end of an embedded server. Tests raise it.
var embeddedStop = 10 * time.Second

// Bounds of what the clients of the embedded server can make it hold, besides
// embedded.max_connections.
const (
	clientAuthTime     = 2 * time.Second  // from the connection to the credentials
	clientWriteTime    = 10 * time.Second // of one write to a client that does not read
	clientPing         = 30 * time.Second // two without an answer end a connection
	clientControlLine  = 4 << 10          // bytes of a line of the protocol
	clientPayload      = 1 << 20          // bytes of a message
	clientPending      = 32 << 20         // bytes that wait for a client that reads slowly
	clientSubs         = 1024             // subscriptions of a connection
	closedClients      = 64               // ended connections that the server remembers
	ownConnections     = 1                // of relay itself
	logBurst, logEvery = 20, time.Second  // lines of the server's log at once, and the interval of further ones
)

// embeddedServer is a JetStream server in this process. A nil one stands for none.
type embeddedServer struct {
	srv       *server.Server
	most      int    // connections at once, relay's own included
	stopWatch func() // ends the watch over credentials
}

// startEmbedded starts the server and returns once clients can connect.
func startEmbedded(ctx context.Context, c Config) (*embeddedServer, error) {
	e := c.Embedded
	host, port, err := e.address()
	if err != nil {
		return nil, err
	}
	dir, ln, err := checkEmbedded(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := ln.Close(); err != nil {
		return nil, fmt.Errorf("the embedded NATS server cannot listen on %s: %w", e.Listen, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil { //nolint:gosec // the directory that the operator has configured
		return nil, noDirectory(err)
	}
	opts := &server.Options{
		ServerName: "relay-embedded",
		Host:       host,
		Port:       port,
		JetStream:  true,
		StoreDir:   dir,
		SyncAlways: e.SyncAlways,
		NoSigs:     true,

		JetStreamMaxStore:      int64(e.MaxStore),
		DisableJetStreamBanner: true,

		MaxConn:          e.MaxConnections + ownConnections,
		AuthTimeout:      clientAuthTime.Seconds(),
		WriteDeadline:    clientWriteTime,
		PingInterval:     clientPing,
		MaxControlLine:   clientControlLine,
		MaxPayload:       clientPayload,
		MaxPending:       clientPending,
		MaxSubs:          clientSubs,
		MaxClosedClients: closedClients,
	}
	var guard *clientGuard
	if e.guarded() {
		guard = newClientGuard(c)
		opts.CustomClientAuthentication = guard
	}
	if port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("setting up the embedded NATS server: %w", err)
	}
	log := &serverLog{log: c.Logger.Named("nats-server").Sugar(), limit: rate.NewLimiter(rate.Every(logEvery), logBurst)}
	srv.SetLoggerV2(log, false, false, false)
	srv.Start()
	embedded := &embeddedServer{srv: srv, most: opts.MaxConn, stopWatch: guard.watch(srv)} //nolint:contextcheck // stop ends it
	if err := embedded.awaitReady(ctx, log); err != nil {
		_ = embedded.stop()
		return nil, fmt.Errorf("starting the embedded NATS server on %s with its streams in %s: %w", e.Listen, dir, err)
	}
	return embedded, nil
}

// checkEmbedded finds what keeps the server from starting, and changes nothing. It returns the
// absolute path of the directory, which need not exist, and a listener that holds the address.
func checkEmbedded(ctx context.Context, c Config) (dir string, ln net.Listener, err error) {
	e := c.Embedded
	if e.Dir == "" {
		return "", nil, keyErrorf("embedded.dir", "the embedded NATS server needs a directory for its streams: set embedded.dir")
	}
	if ln, err = holdAddress(ctx, e); err != nil {
		return "", nil, err
	}
	dir, err = filepath.Abs(e.Dir)
	if err == nil {
		_, err = checkpoint.CanMakeDirectory(dir)
	}
	if err != nil {
		err = noDirectory(err)
	} else {
		err = checkpoint.CheckDirectory(dir, "embedded.dir")
	}
	if err != nil {
		return "", nil, errors.Join(err, ln.Close())
	}
	return dir, ln, nil
}

func noDirectory(err error) error {
	return operator.Require(fmt.Errorf("making the directory of the embedded NATS server: %w", err), "correct embedded.dir, or its permissions")
}

// holdAddress listens before the server does, which would only log a failure. It also refuses a
// name that leads to an address that other machines reach if clients are not asked who they are.
func holdAddress(ctx context.Context, e EmbeddedConfig) (net.Listener, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", e.Listen)
	if err != nil {
		return nil, operator.Require(fmt.Errorf("the embedded NATS server cannot listen on %s: %w", e.Listen, err),
			fmt.Sprintf("if a NATS server or another relay runs there, set url to nats://%s to use it, or embedded.listen to another address", e.Listen))
	}
	if address := ln.Addr().String(); !e.guarded() && !listener.IsLoopback(address) {
		err := operator.Require(fmt.Errorf("the embedded NATS server would listen on %s, since %s leads there: other machines can reach it, and it asks "+
			"nobody who they are", address, e.Listen), "set embedded.token, or embedded.user and embedded.password, or listen on 127.0.0.1")
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

// rehearse implements sink.Rehearser for an embedded server.
func rehearse(ctx context.Context, c Config) (*sink.Rehearsal, error) {
	c = c.withDefaults()
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if _, err := newAccess(c); err != nil {
		return nil, err
	}
	dir, ln, err := checkEmbedded(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := checkpoint.MayWrite(dir); err != nil {
		return nil, errors.Join(noDirectory(err), ln.Close())
	}
	_, err = os.Stat(filepath.Join(dir, "jetstream", "$G", "streams", c.Stream))
	return &sink.Rehearsal{Address: ln, Stored: !errors.Is(err, fs.ErrNotExist)}, nil
}

func (e *embeddedServer) awaitReady(ctx context.Context, log *serverLog) error {
	ctx, cancel := context.WithTimeout(ctx, embeddedStart)
	defer cancel()
	for !e.srv.ReadyForConnections(embeddedLook) {
		if fatal := log.fatalText(); fatal != "" {
			return errors.New(fatal)
		}
		if !e.srv.Running() {
			return errors.New("it stopped at once; the log says why")
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("it is not ready: %w", err)
		}
	}
	if !e.srv.JetStreamEnabled() {
		return errors.New("JetStream did not start; the log says why")
	}
	return nil
}

// url is where clients outside this process connect.
func (e *embeddedServer) url() string { return e.srv.ClientURL() }

// options makes relay's own connection an in-process one, which needs no socket.
func (e *embeddedServer) options() []nats.Option {
	return []nats.Option{nats.InProcessServer(e)}
}

// InProcessConn implements nats.InProcessConnProvider. If every place is taken it disconnects
// clients, newest first, so that relay always reaches its own server.
func (e *embeddedServer) InProcessConn() (net.Conn, error) {
	if over := e.srv.NumClients() + ownConnections - e.most; over > 0 {
		if err := e.disconnectNewest(over); err != nil {
			return nil, err
		}
	}
	return e.srv.InProcessConn()
}

// disconnectNewest ends the newest connections of clients.
func (e *embeddedServer) disconnectNewest(n int) error {
	list, err := e.srv.Connz(&server.ConnzOptions{Sort: server.ByStart, Limit: e.most + n})
	if err != nil {
		return fmt.Errorf("listing the connections of the embedded NATS server: %w", err)
	}
	// Ids of connections only grow.
	slices.SortFunc(list.Conns, func(a, b *server.ConnInfo) int { return cmp.Compare(b.Cid, a.Cid) })
	for _, c := range list.Conns[:min(n, len(list.Conns))] {
		_ = e.srv.DisconnectClientByID(c.Cid) // it may have gone by itself
	}
	return nil
}

// stop shuts the server down, its files closed and synced.
func (e *embeddedServer) stop() error {
	if e == nil {
		return nil
	}
	e.stopWatch()
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.awaitIdle()
		e.srv.Shutdown()
		e.srv.WaitForShutdown()
	}()
	select {
	case <-done:
		return nil
	case <-time.After(embeddedStop):
		return fmt.Errorf("it did not stop within %v", embeddedStop)
	}
}

// awaitIdle waits, but not for long, until the server has answered the requests for the JetStream
// API that it has queued. A worker of the server that first runs after the shutdown panics at one.
func (e *embeddedServer) awaitIdle() {
	for end := time.Now().Add(embeddedStop / 2); time.Now().Before(end); time.Sleep(embeddedLook) {
		if js, err := e.srv.Jsz(nil); err != nil || js.API.Inflight == 0 {
			return
		}
	}
}

// serverLog hands the server's log to zap. It never ends the process: a fatal error is kept for
// the caller that waits for the start. The number of lines is bounded, since clients cause them.
type serverLog struct {
	log   *zap.SugaredLogger
	limit *rate.Limiter

	mu      sync.Mutex
	fatal   string
	skipped int // lines since the last one
}

func (l *serverLog) fatalText() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}

// Fatalf implements server.Logger.
func (l *serverLog) Fatalf(format string, v ...any) {
	text := strings.TrimSpace(fmt.Sprintf(format, v...))
	l.mu.Lock()
	l.fatal = text
	l.mu.Unlock()
	l.log.Error(text)
}

// bounded logs a line with say, unless there have been too many.
func (l *serverLog) bounded(say func(msg string, keysAndValues ...any), format string, v []any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.limit.Allow() {
		l.skipped++
		return
	}
	text := strings.TrimSpace(fmt.Sprintf(format, v...))
	if before, _, refused := strings.Cut(text, server.ErrAuthentication.Error()); refused {
		text = before + server.ErrAuthentication.Error() // what follows is what the client sent as its user: it may be a secret
	}
	if l.skipped > 0 {
		say(text, "lines_left_out", l.skipped)
		l.skipped = 0
		return
	}
	say(text)
}

// Noticef implements server.Logger. What the server notices at each start is detail to a user of
// relay.
func (l *serverLog) Noticef(format string, v ...any) { l.log.Debugf(format, v...) }

// Warnf implements server.Logger.
func (l *serverLog) Warnf(format string, v ...any) { l.bounded(l.log.Warnw, format, v) }

// Errorf implements server.Logger.
func (l *serverLog) Errorf(format string, v ...any) { l.bounded(l.log.Errorw, format, v) }

// Debugf implements server.Logger.
func (l *serverLog) Debugf(string, ...any) {}

// Tracef implements server.Logger.
func (l *serverLog) Tracef(string, ...any) {}
