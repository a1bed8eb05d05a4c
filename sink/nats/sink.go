// Package nats publishes to a NATS JetStream stream, on its own server or on one embedded in
// this process: a Sink message by message, at least once, a Ledger in atomic batches that carry the
// position with them, exactly once.
//
// An acknowledgement of JetStream means that the leader of the stream has stored the message, with
// several replicas that a majority has. On a single server it is in the page cache until the server
// syncs, two minutes by default: for power loss use three replicas, or sync_interval: always (the
// embedded server's default).
package nats

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"workos-relay/sink"
)

// closeWait bounds how long Close waits for a Publish under way before it cuts the connection under
// it.
const closeWait = settleTime + writeTimeout

// Sink publishes to one stream. It implements sink.Sink and sink.Destination; all methods but
// Publish may be called from any goroutine at any time.
type Sink struct {
	cfg      Config
	log      *zap.Logger
	options  []nats.Option
	access   *access
	greeted  atomic.Bool     // a NATS server has answered since the sink was made
	embedded *embeddedServer // nil with a server outside

	mu        sync.Mutex // guards link
	link      *link
	closing   chan struct{}
	closeOnce sync.Once
	closeErr  error
	busy      chan struct{} // holds a token while Publish or Ledger.Commit is under way

	current    atomic.Pointer[attempt] // of Publish
	committing atomic.Pointer[commit]  // of Ledger.Commit
	attempts   uint64                  // number of the last attempt; used by the holder of the token in busy only

	flow flow // how much may be in flight; used by the holder of the token in busy only

	settle time.Duration // settleTime

	asked    asked
	settling sync.Mutex        // held by Settings; guards settled
	settled  map[string]string // what relay has set, by the key of the configuration

	lastSeq uint64                   // sequence of the last durable message; used by Publish only
	ahead   stringSet                // ids that may be stored before a predecessor of theirs; used by Publish only
	maxMsg  atomic.Int64             // MaxMsgSize of the stream as last seen; 0 or less for none
	binding atomic.Pointer[[]string] // the subjects of the stream as last seen; nil before that

	home        atomic.Pointer[home]   // nil before Prepare: every domain counts
	otherDomain atomic.Pointer[string] // one that has acknowledged too; nil if none has
}

var (
	_ sink.Sink        = (*Sink)(nil)
	_ sink.Destination = (*Sink)(nil)
)

type stringSet map[string]struct{}

// New returns a sink that connects, and goes on trying for ever, in the background: a server that
// is down is not an error. An error means that the configuration cannot work as it is, or that the
// embedded server did not start; ctx bounds that start.
func New(ctx context.Context, cfg Config) (*Sink, error) {
	asked := cfg.asks()
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Sink{cfg: cfg, asked: asked, settled: map[string]string{}, log: cfg.Logger, closing: make(chan struct{}), busy: make(chan struct{}, 1), settle: settleTime}
	var err error
	if s.access, err = cfg.access(); err != nil {
		return nil, err
	}
	s.options = cfg.options()
	if cfg.URL == Embedded {
		if s.embedded, err = startEmbedded(ctx, cfg); err != nil {
			return nil, err
		}
		s.options = append(s.options, s.embedded.options()...)
	}
	if s.link, err = s.open(); err != nil {
		_ = s.embedded.stop()
		return nil, err
	}
	return s, nil
}

// Address is where a consumer connects: the address of the embedded server, else the configured
// one.
func (s *Sink) Address() string {
	if s.embedded != nil {
		return s.embedded.url()
	}
	return s.cfg.URL
}

// Identity implements sink.Destination.
func (s *Sink) Identity() string { return s.cfg.Identity() }

// Close ends a Publish under way, which waits a moment for the acknowledgements of what it has
// sent, then the connection and the embedded server. It returns within about ten seconds, with an
// embedded server twenty; calls after the first wait for the first.
func (s *Sink) Close() error {
	s.closeOnce.Do(func() {
		close(s.closing)
		select {
		case s.busy <- struct{}{}:
		case <-time.After(closeWait):
		}
		s.mu.Lock()
		l := s.link
		s.mu.Unlock()
		l.nc.Close()
		if err := s.embedded.stop(); err != nil {
			s.closeErr = fmt.Errorf("stopping the embedded NATS server: %w", err)
		}
	})
	return s.closeErr
}

func (s *Sink) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// begin waits until nothing else is being published, and returns what ends that.
func (s *Sink) begin(ctx context.Context) (done func(), err error) {
	if s.isClosing() {
		return nil, errClosed
	}
	select {
	case s.busy <- struct{}{}:
		return func() { <-s.busy }, nil
	case <-s.closing:
		return nil, errClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ended returns why nothing more is to be sent; nil while there is no reason. lost is the signal of
// the link in use.
func (s *Sink) ended(ctx context.Context, lost <-chan struct{}) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return errClosed
	case <-lost:
		return errLost
	default:
		return nil
	}
}

// wait returns nil at the next wake, and otherwise why there is nothing to wait for any more.
func (s *Sink) wait(ctx context.Context, wake <-chan struct{}, timeout <-chan time.Time, lost <-chan struct{}) error {
	select {
	case <-wake:
		return nil
	case <-timeout:
		return errAckTimeout
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return errClosed
	case <-lost:
		return errLost
	}
}
