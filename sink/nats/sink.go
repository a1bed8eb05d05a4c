// Package nats publishes to a NATS JetStream stream, on a separate server or on one embedded in
// this process. A Sink publishes message by message, at least once. A Ledger commits atomic batches
// that carry the position with them, exactly once.
//
// An acknowledgement of JetStream means that the leader of the stream has stored the message, and
// if the stream has several replicas, that a majority has. On a single server the message is in the
// page cache until the server syncs, every two minutes by default: for power loss use three
// replicas, or sync_interval: always, which is the default of the embedded server.
package nats

import (
	"context"
	"fmt"
	"sync"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

// closeWait bounds how long Close waits for a Publish under way before it cuts the connection under
// it.
const closeWait = ackDrainTime + writeTimeout

// Sink publishes to one stream. It implements sink.Sink and sink.Destination; all methods but
// Publish may be called from any goroutine at any time.
//
// It hands its methods on to one type per job, which share the connection and what is known of the
// stream.
type Sink struct {
	cfg      *Config
	embedded *embeddedServer // nil with a server outside
	conn     *connection
	stream   *stream
	sender   *sender // of publisher and of the committer of each Ledger

	publisher *publisher
	admin     *admin
	settings  *settings
	reader    *reader

	closeOnce sync.Once
	closeErr  error
}

var (
	_ sink.Sink         = (*Sink)(nil)
	_ sink.Configurable = (*Sink)(nil)
	_ sink.Scanner      = (*Sink)(nil)
	_ sink.StateReader  = (*Sink)(nil)
	_ sink.Forgetter    = (*Sink)(nil)
)

// New returns a sink that connects, and goes on trying for ever, in the background: a server that
// is down is not an error. An error means that the configuration cannot work as it is, or that the
// embedded server did not start; ctx bounds that start.
func New(ctx context.Context, config Config) (*Sink, error) {
	asked := askedBy(config)
	config = config.withDefaults()
	if err := config.Validate(); err != nil {
		return nil, err
	}
	access, err := newAccess(config)
	if err != nil {
		return nil, err
	}
	s := newSink(&config, access, asked)
	if config.URL == Embedded {
		if s.embedded, err = startEmbedded(ctx, config); err != nil {
			return nil, err
		}
		s.conn.servers = s.embedded.url()
		s.conn.options = append(s.conn.options, s.embedded.options()...)
	}
	if s.conn.link, err = s.conn.connect(); err != nil {
		_ = s.embedded.stop()
		return nil, err
	}
	return s, nil
}

// newSink puts a sink together. It neither connects nor starts anything.
func newSink(cfg *Config, access *access, asked asked) *Sink {
	conn := &connection{cfg: cfg, servers: cfg.URL, options: optionsOf(*cfg), access: access, closing: make(chan struct{})}
	stream := &stream{cfg: cfg, conn: conn}
	sender := &sender{cfg: cfg, conn: conn, stream: stream, turn: make(chan struct{}, 1), ackDrain: ackDrainTime}
	conn.onAck, conn.onDenied = sender.onAck, sender.onDenied
	account := account{cfg: cfg}
	buckets := &buckets{cfg: cfg, conn: conn, account: account}
	return &Sink{
		cfg: cfg, conn: conn, stream: stream, sender: sender,
		publisher: &publisher{cfg: cfg, conn: conn, stream: stream, sender: sender},
		admin:     &admin{cfg: cfg, conn: conn, stream: stream, account: account, buckets: buckets},
		settings:  &settings{cfg: cfg, conn: conn, stream: stream, account: account, asked: asked, applied: map[string]string{}},
		reader:    &reader{cfg: cfg, conn: conn, stream: stream, buckets: buckets},
	}
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
		close(s.conn.closing)
		select {
		case s.sender.turn <- struct{}{}:
		case <-time.After(closeWait):
		}
		s.conn.close()
		if err := s.embedded.stop(); err != nil {
			s.closeErr = fmt.Errorf("stopping the embedded NATS server: %w", err)
		}
	})
	return s.closeErr
}

// Publish implements sink.Sink. It sends in order and keeps up to Config.Window messages in flight,
// and no more bytes than the link carries within seconds. Nothing is sent again inside, with one
// exception: if the sequences of the acknowledgements show that a message was stored before its
// predecessor (left over from an earlier failure, and now recognised as a second copy), it and what
// follows are stored once more without their ids, so that the stream holds the batch in order.
// Blanks at both ends of a header's value are not kept, for NATS does not.
func (s *Sink) Publish(ctx context.Context, batch []sink.Message) error {
	return s.publisher.publishBatch(ctx, batch)
}

// Forget implements sink.Forgetter.
func (s *Sink) Forget() { s.publisher.forgotten.Store(true) }

// Prepare implements sink.Destination: the stream is there and binds every topic when it returns
// nil.
func (s *Sink) Prepare(ctx context.Context, topics []string) error {
	return s.admin.prepare(ctx, topics)
}

// Inspect implements sink.Destination.
func (s *Sink) Inspect(ctx context.Context, topics []string) ([]sink.TopicStatus, error) {
	return s.admin.inspect(ctx, topics)
}

// Holds implements sink.Destination. It asks the leader of the stream, because a replica may lag.
func (s *Sink) Holds(ctx context.Context, topics []string) (bool, error) {
	return s.stream.holds(ctx, topics)
}

// Settings implements sink.Configurable. It compares the stream with the configuration, for any
// topics.
func (s *Sink) Settings(ctx context.Context, _ []string, apply bool) ([]sink.Setting, error) {
	return s.settings.compare(ctx, apply)
}

// Logs implements sink.Scanner: the one log is the stream. For one topic, it is the messages of the
// stream on that topic. A stream that does not exist is none.
func (s *Sink) Logs(ctx context.Context, topics []string, since time.Time) ([]sink.Log, error) {
	return s.reader.logs(ctx, topics, since)
}

// Scan implements sink.Scanner. It leaves out positions of relay and state messages.
func (s *Sink) Scan(ctx context.Context, log sink.Log, fn func(*sink.Stored) error) error {
	return s.reader.scan(ctx, log, fn)
}

// ReadState implements sink.StateReader. It reads the bucket of the topic, once the server has
// copied what the stream holds.
func (s *Sink) ReadState(ctx context.Context, topic sink.StateTopic, fn func(*sink.Stored) error) error {
	return s.reader.readState(ctx, topic, fn)
}

// ReadObject implements sink.StateReader. It reads the bucket of the topic, once the server has
// copied what the stream holds.
func (s *Sink) ReadObject(ctx context.Context, topic sink.StateTopic, key []byte) (*sink.Stored, error) {
	return s.reader.readObject(ctx, topic, key)
}

// Ping implements sink.Destination. It asks for the stream, since a server may answer whose
// JetStream does not. A stream that is not there is an answer.
func (s *Sink) Ping(ctx context.Context) error { return s.reader.ping(ctx) }

// Survey implements sink.Destination: the one part is the stream, and its end is the sequence after
// the last.
func (s *Sink) Survey(ctx context.Context, _ []string, known []checkpoint.Part) ([]checkpoint.Part, error) {
	return s.reader.survey(ctx, known)
}

// Tail reads the stream in order and calls fn for each message until ctx ends, which returns nil,
// or fn returns an error, which is returned. Positions of relay are left out. It leaves no trace on
// the server, and goes on after a broken connection without a gap.
func (s *Sink) Tail(ctx context.Context, opts TailOptions, fn func(Stored) error) error {
	err := s.reader.tail(ctx, opts, fn)
	if ctx.Err() != nil {
		return nil //nolint:nilerr // the caller has had enough
	}
	return err
}

// Ledger returns the ledger of the lane that id names. Ids with the same Relay and Lane share one
// position; if they differ in anything else it is foreign to one of them.
func (s *Sink) Ledger(id checkpoint.Identity) *Ledger {
	p := &positionReader{cfg: s.cfg, conn: s.conn, stream: s.stream, id: id, subject: positionSubject(id)}
	c := &committer{cfg: s.cfg, conn: s.conn, stream: s.stream, sender: s.sender, position: p}
	return &Ledger{sink: s, position: p, committer: c}
}
