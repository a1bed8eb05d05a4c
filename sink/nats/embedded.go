package nats

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"workos-relay/internal/operator"
)

const (
	embeddedStart = 30 * time.Second // recovery of a large store included
	embeddedStop  = 10 * time.Second
	embeddedLook  = 20 * time.Millisecond
)

// embeddedServer is a JetStream server in this process. A nil one stands for none.
type embeddedServer struct{ srv *server.Server }

// startEmbedded starts the server and returns once clients can connect.
func startEmbedded(ctx context.Context, c Config) (*embeddedServer, error) {
	e := c.Embedded
	if e.Dir == "" {
		return nil, keyErrorf("embedded.dir", "the embedded NATS server needs a folder for its streams: set embedded.dir")
	}
	host, portText, err := net.SplitHostPort(e.Listen)
	if err != nil {
		return nil, keyErrorf("embedded.listen", "%q is not an address: write host:port, such as %s", e.Listen, defaultListen)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, keyErrorf("embedded.listen", "%q is not a port: write host:port, such as %s", portText, defaultListen)
	}
	if err := portFree(ctx, e.Listen); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(e.Dir)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return nil, operator.Require(fmt.Errorf("making the directory of the embedded NATS server: %w", err), "correct embedded.dir, or its permissions")
	}
	opts := &server.Options{
		ServerName: "relay-embedded",
		Host:       host,
		Port:       int(port), //nolint:gosec // 16 bits
		JetStream:  true,
		StoreDir:   dir,
		SyncAlways: e.SyncAlways,
		NoSigs:     true,

		JetStreamMaxStore:      int64(e.MaxStore),
		DisableJetStreamBanner: true,
	}
	if port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("setting up the embedded NATS server: %w", err)
	}
	log := &serverLog{log: c.Logger.Named("nats-server").Sugar()}
	srv.SetLoggerV2(log, false, false, false)
	srv.Start()
	embedded := &embeddedServer{srv: srv}
	if err := embedded.awaitReady(ctx, log); err != nil {
		_ = embedded.stop()
		return nil, fmt.Errorf("starting the embedded NATS server on %s with its streams in %s: %w", e.Listen, dir, err)
	}
	return embedded, nil
}

// portFree looks before the server does, which would only log it.
func portFree(ctx context.Context, listen string) error {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return operator.Require(fmt.Errorf("the embedded NATS server cannot listen on %s: %w", listen, err),
			fmt.Sprintf("if a NATS server or another relay runs there, set url to nats://%s to use it, or embedded.listen to another address", listen))
	}
	return ln.Close()
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
	return []nats.Option{nats.InProcessServer(e.srv)}
}

// stop shuts the server down, its files closed and synced.
func (e *embeddedServer) stop() error {
	if e == nil {
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
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

// serverLog hands the server's log to zap. It never ends the process: a fatal error is kept for whoever waits for the start.
type serverLog struct {
	log *zap.SugaredLogger

	mu    sync.Mutex
	fatal string
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

// Noticef implements server.Logger. What the server notices at each start is detail to a user of relay.
func (l *serverLog) Noticef(format string, v ...any) { l.log.Debugf(format, v...) }

// Warnf implements server.Logger.
func (l *serverLog) Warnf(format string, v ...any) { l.log.Warnf(format, v...) }

// Errorf implements server.Logger.
func (l *serverLog) Errorf(format string, v ...any) { l.log.Errorf(format, v...) }

// Debugf implements server.Logger.
func (l *serverLog) Debugf(string, ...any) {}

// Tracef implements server.Logger.
func (l *serverLog) Tracef(string, ...any) {}
