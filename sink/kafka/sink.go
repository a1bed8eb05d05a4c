// Package kafka publishes to Apache Kafka and to brokers that speak its protocol. Each topic of a
// message is a Kafka topic, each key goes to the partition that Kafka's Java client would choose,
// and a message counts as durable once all in-sync replicas have it.
//
// Requests are built on the protocol packages of segmentio/kafka-go, with an idempotent producer
// id: within one process a retry, for any reason, stores nothing twice and nothing out
// of order.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go/compress"
	"go.uber.org/zap"

	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// Sink publishes to the topics of one cluster. It implements sink.Sink and sink.Destination.
// Publish is for one goroutine at a time; the other methods may be called at any time.
type Sink struct {
	cfg     Config
	log     *zap.Logger
	cluster *client.Cluster
	grace   time.Duration // how long a refused permission is tried again
	publish bounds

	lifetime context.Context // ends with Close
	end      context.CancelCauseFunc

	owned    ownedTopics
	settling sync.Mutex        // guards settled
	settled  map[string]string // what relay has set, by topic and key of the configuration

	publishing sync.Mutex                            // guards what follows
	codec      compress.Codec                        // of the next record batch; nil for none
	codecs     []compress.Codec                      // codec, and those to use if the cluster refuses it
	pace       *pace                                 // how much is sent at once
	left       carryOver                             // by a Publish that did not end well
	away       bool                                  // no broker has stored anything during the last Publish
	unnumbered bool                                  // the cluster gives no producer ids
	mute       int                                   // requests for one that were not answered, though others were
	session    client.Session                        // where partitions without one begin
	places     map[client.Partition]*client.Sequence // of the partitions that messages went to
	partitions map[string]int                        // how many a topic had when it was last looked at
	unkeyed    int                                   // rises with each batch and topic that has messages without a key

	warning sync.Mutex
	warned  map[string]string // the last text by what it is about, so that it is logged once
}

// warnOnce logs a weakness of the cluster once, and again if the text differs.
func (s *Sink) warnOnce(about, text string) {
	s.warning.Lock()
	defer s.warning.Unlock()
	if s.warned[about] == text {
		return
	}
	s.warned[about] = text
	s.log.Warn(text)
}

var (
	_ sink.Sink        = (*Sink)(nil)
	_ sink.Destination = (*Sink)(nil)
)

var errClosed = errors.New("the kafka sink is closed")

// New returns a sink without connecting: brokers that are down show in Prepare and Publish. It
// fails where the configuration is at fault or a file that it names cannot be read.
func New(cfg Config) (*Sink, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	codecs, err := client.CodecsOf(cfg.Compression)
	if err != nil {
		return nil, err
	}
	files, err := cfg.TLS.Open(cfg.Files, cfg.key(""))
	if err != nil {
		return nil, err
	}
	mechanism, err := cfg.mechanism()
	if err != nil {
		return nil, fmt.Errorf("setting up sasl %s: %w", cfg.SASL.Mechanism, err)
	}
	log := cfg.Logger
	if log == nil {
		log = zap.NewNop()
	}
	lifetime, end := context.WithCancelCause(context.Background())
	return &Sink{
		cfg: cfg, log: log, codec: codecs[0], codecs: codecs, grace: deniedGrace, publish: boundsOf(cfg.RequestTimeout), pace: newPace(), left: newCarryOver(),
		cluster: client.NewCluster(lifetime, client.Config{
			Brokers: cfg.Brokers, ClientID: cfg.ClientID, RequestTimeout: cfg.RequestTimeout, TLS: files, SASL: mechanism,
		}),
		lifetime: lifetime, end: end,
		owned: ownedTopics{path: cfg.OwnedFile}, settled: make(map[string]string),
		session: client.NoSession, places: make(map[client.Partition]*client.Sequence), partitions: make(map[string]int),
		warned: make(map[string]string),
	}, nil
}

// Identity implements sink.Destination. It cannot name the cluster, whose id only a broker knows
// and whose addresses change, so it names the topics: "kafka topics workos.*", or "kafka topics *"
// without a prefix.
func (s *Sink) Identity() string { return s.cfg.Identity() }

// Publish implements sink.Sink.
//
// Each partition takes its messages in the order of the batch, one acknowledged record batch after
// the other; partitions do not wait for each other. Faults that pass (a leader that moved, a lost
// connection, too few replicas, a topic that is not there yet) are retried, under the same sequence
// numbers, so that a batch whose acknowledgement got lost is not stored twice.
//
// It returns after about request_timeout, and sooner if no broker stores anything, so that the
// caller knows the durable prefix. The error matches sink.ErrTimeout if the brokers have stored
// messages meanwhile, or may take a smaller batch.
//
// After an error the messages behind the durable prefix may be stored in other partitions, and
// those that were in flight may be stored or not. The next call recognises them by the ids of their
// events if it begins with the rest of the batch or with a part of it, and stores none of them
// twice. If it begins elsewhere, each of them can become a duplicate, once. Order stays, for what
// was in flight can no longer be stored once its partition has taken a later message.
//
// If the cluster gives no producer ids, a message that was in flight during a fault can be stored
// twice.
func (s *Sink) Publish(ctx context.Context, batch []sink.Message) error {
	if len(batch) == 0 {
		return nil
	}
	s.publishing.Lock()
	defer s.publishing.Unlock()
	ctx, cancel := s.within(ctx)
	defer cancel()
	return newDelivery(ctx, s, batch).run()
}

// Close ends what is under way and closes the connections. It never fails.
func (s *Sink) Close() error {
	s.end(errClosed)
	s.cluster.Refresh()
	return nil
}

// within returns a context that ends with ctx or with the sink, whichever comes first.
func (s *Sink) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if s.lifetime.Err() != nil {
		cancel(context.Cause(s.lifetime)) // at once, not when the function below gets its turn
	}
	stop := context.AfterFunc(s.lifetime, func() { cancel(context.Cause(s.lifetime)) })
	return ctx, func() { stop(); cancel(nil) }
}
