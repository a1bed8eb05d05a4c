// Package kafka publishes to Apache Kafka and to brokers that speak its protocol. Each topic of a
// message is a Kafka topic, each key goes to the partition that Kafka's Java client would choose,
// and a message counts as durable once all in-sync replicas have it.
//
// Requests are built on the protocol packages of segmentio/kafka-go, with an idempotent producer
// id: within one process a retry, for any reason, stores nothing twice and nothing out
// of order.
//
// # Where to look
//
//   - [Sink] (sink.go) and [Ledger] (ledger.go) are what others use. A Ledger has a transactor
//     (transactor.go), which stores a batch, a ledgerSession (ledgersession.go), a positionLog
//     (position.go), which reads the position, and a positionAdmin (positiontopic.go).
//   - common.go: what the parts of a sink share. explain.go: what errors mean for an operator.
//   - topicAdmin (prepare.go, inspect.go) makes topics ready and shows them. comparison
//     (settings.go) compares their settings. topicMemory (owned.go) remembers what relay has done
//     to them.
//   - onDemand (ondemand.go) creates the topics of patterns when messages need them.
//   - topicReader (reader.go, scan.go) reads what topics hold.
//   - publisher (publisher.go) lasts from one Publish to the next. carryOver (carryover.go) is what
//     one leaves to the next. delivery (delivery.go, transaction.go) is one Publish or transaction,
//     with batchState (batch.go), course (course.go), placer (placing.go) and sender (dispatch.go,
//     answer.go).
//   - internal/client speaks to the brokers.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/segmentio/kafka-go/protocol/apiversions"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

// Sink publishes to the topics of one cluster. It implements sink.Sink and sink.Destination.
// Publish is for one goroutine at a time; the other methods may be called at any time.
type Sink struct {
	*common
	admin     *topicAdmin
	demand    *onDemand
	memory    *topicMemory
	reader    *topicReader
	publisher *publisher
}

var (
	_ sink.Sink         = (*Sink)(nil)
	_ sink.Adviser      = (*Sink)(nil)
	_ sink.Scanner      = (*Sink)(nil)
	_ sink.StateReader  = (*Sink)(nil)
	_ sink.Configurable = (*Sink)(nil)
	_ sink.TopicMaker   = (*Sink)(nil)
)

// New returns a sink without connecting: brokers that are down show in Prepare and Publish. It
// fails if the configuration is at fault or a file that it names cannot be read.
func New(cfg Config) (*Sink, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c, err := newCommon(cfg)
	if err != nil {
		return nil, err
	}
	p, err := newPublisher(c)
	if err != nil {
		return nil, err
	}
	memory := newTopicMemory(c)
	admin := &topicAdmin{common: c, memory: memory}
	return &Sink{common: c, admin: admin, demand: &onDemand{admin: admin}, memory: memory, reader: &topicReader{c}, publisher: p}, nil
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
//
// Topics of patterns that do not exist are created before anything is sent. If one cannot be, the
// messages before the first that needs it are published, and the error is about that one.
func (s *Sink) Publish(ctx context.Context, batch []sink.Message) error {
	if len(batch) == 0 {
		return nil
	}
	ctx, cancel := s.withLifetime(ctx)
	defer cancel()
	n, notReady := s.demand.ready(ctx, batch)
	if n > 0 {
		if err := s.publisher.publish(ctx, batch[:n]); err != nil {
			return err
		}
	}
	if notReady != nil {
		return &sink.PublishError{Durable: n, Err: notReady}
	}
	return nil
}

// Prepare implements sink.Destination: it creates the topics that are missing if create.enabled,
// waits until each partition has a leader, and asks the brokers whether relay may write to each
// topic, storing nothing. It logs once what the cluster cannot do, with the promise that it costs.
// Of a pattern it creates no topic; it asks whether the cluster would let it.
func (s *Sink) Prepare(ctx context.Context, topics []string) error {
	ctx, cancel := s.withLifetime(ctx)
	defer cancel()
	return s.prepareError(ctx, s.prepare(ctx, topics))
}

func (s *Sink) prepare(ctx context.Context, topics []string) error {
	every := slices.Compact(slices.Sorted(slices.Values(topics)))
	topics, err := s.demand.prepare(ctx, every)
	if err != nil {
		return err
	}
	if err := s.admin.prepare(ctx, topics, s.cfg.Create); err != nil {
		return err
	}
	s.warnTimestamps(ctx, every)
	if s.admin.position != "" {
		return nil // the ledger prepares its topic first
	}
	return s.admin.nameShortcomings(ctx, topics)
}

// Inspect implements sink.Destination.
func (s *Sink) Inspect(ctx context.Context, topics []string) ([]sink.TopicStatus, error) {
	ctx, cancel := s.withLifetime(ctx)
	defer cancel()
	return s.inspect(ctx, topics)
}

// Advice is what `relay check` says of the cluster as a whole. It asks the leaders of the topics
// that exist whether they take the codec, and stores nothing. The error is for a cluster that could
// not be asked.
func (s *Sink) Advice(ctx context.Context, topics []string) (sink.Advice, error) {
	ctx, cancel := s.withLifetime(ctx)
	defer cancel()
	return s.admin.advice(ctx, topics)
}

// Settings implements sink.Configurable.
func (s *Sink) Settings(ctx context.Context, topics []string, apply bool) ([]sink.Setting, error) {
	ctx, cancel := s.withLifetime(ctx)
	defer cancel()
	topics, err := s.resolve(ctx, topics)
	if err != nil {
		return nil, err
	}
	c := &comparison{common: s.common, memory: s.memory, spec: s.cfg.Create}
	return c.run(ctx, topics, apply)
}

// Holds implements sink.Destination. A partition that was emptied by retention holds no message.
func (s *Sink) Holds(ctx context.Context, topics []string) (bool, error) {
	ctx, cancel := s.withLifetime(ctx)
	defer cancel()
	topics, err := s.resolve(ctx, topics)
	if err != nil {
		return false, err
	}
	return s.reader.holds(ctx, topics)
}

// Ping implements sink.Destination. It asks one of the brokers.
func (s *Sink) Ping(ctx context.Context) error {
	ctx, cancel := s.withLifetime(ctx)
	defer cancel()
	_, err := s.cluster.RoundTrip(ctx, &apiversions.Request{})
	if err != nil && ctx.Err() != nil {
		return s.explain(fmt.Errorf("asking the brokers: %w", errors.Join(context.Cause(ctx), err)))
	}
	return s.prepareError(ctx, err)
}

// Survey implements sink.Destination: a part is a topic. Brokers since Kafka 2.8 tell the id of a
// topic.
func (s *Sink) Survey(ctx context.Context, topics []string, known []checkpoint.Part) ([]checkpoint.Part, error) {
	ctx, cancel := s.withLifetime(ctx)
	defer cancel()
	return s.reader.survey(ctx, topics, known)
}

// Logs implements sink.Scanner: a log for each partition that holds something, up to the first
// transaction that is still open.
func (s *Sink) Logs(ctx context.Context, topics []string, since time.Time) ([]sink.Log, error) {
	ctx, cancel := s.withLifetime(ctx)
	defer cancel()
	topics, err := s.resolve(ctx, topics)
	if err != nil {
		return nil, err
	}
	return s.reader.logs(ctx, topics, since)
}

// Scan implements sink.Scanner. Records of transactions that were aborted are left out.
func (s *Sink) Scan(ctx context.Context, log sink.Log, fn func(*sink.Stored) error) error {
	ctx, cancel := s.withLifetime(ctx)
	defer cancel()
	return s.reader.scan(ctx, log, fn)
}

// Close ends what is under way and closes the connections. It never fails.
func (s *Sink) Close() error {
	s.close()
	return nil
}
