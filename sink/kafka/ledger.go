package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"workos-relay/checkpoint"
	"workos-relay/internal/operator"
	"workos-relay/sink"
)

// fenceWait bounds one Fence: as long as the coordinator may take to end what an earlier relay left open.
const fenceWait = 30 * time.Second

// Ledger publishes to the topics of one cluster in transactions, each of which carries the position that comes after its messages, so
// that for a consumer that reads committed there is no moment at which one is stored without the other. It holds positions for one lane
// of one relay, and the cluster itself refuses the relay that has been overtaken.
//
// The position is a record in a compacted topic of its own, relay.position.<relay>.<lane>. The transactional id is
// relay-<relay>-<lane>.
//
// Fence begins a session. An error of Commit ends it, unless the message or the position was refused before anything was sent: what it
// may have left open is ended by the next Fence, of whichever relay. Commit and Fence wait for each other; everything else may be
// called at any time.
type Ledger struct {
	sink        *Sink // for all but Publish; its session and sequences are those of the ledger
	id          checkpoint.Identity
	topic       string // of the position
	coordinator *coordinator

	writing sync.Mutex // held by Commit and Fence

	mu       sync.Mutex
	live     bool   // Fence has begun a session, and nothing has gone wrong since
	sessions uint64 // how often live was set or cleared
	known    bool   // revision is the one in force
	revision uint64 // 0: none
}

// NewLedger returns a ledger for the checkpoint of id without connecting. cfg.RelayID and cfg.Lane name the position's topic and the
// transactional id. It fails where New does, and where these names are too long for Kafka or hold characters that it does not allow.
func NewLedger(cfg Config, id checkpoint.Identity) (*Ledger, error) {
	topic := PositionTopic(cfg.RelayID, cfg.Lane)
	if reason := illegalTopicName(topic); reason != "" {
		return nil, fmt.Errorf("the position's topic %q, made of relay id and sink name, %s", topic, reason)
	}
	s, err := New(cfg)
	if err != nil {
		return nil, err
	}
	s.grace = min(s.grace, cfg.TransactionTimeout/2)
	return &Ledger{
		sink: s, id: id, topic: topic,
		coordinator: &coordinator{cluster: s.cluster, id: TransactionalID(cfg.RelayID, cfg.Lane), node: anyBroker},
	}, nil
}

// PositionTopic names the topic that holds the position of a lane.
func PositionTopic(relayID, lane string) string { return "relay.position." + relayID + "." + lane }

// TransactionalID names the producer of a lane on the cluster.
func TransactionalID(relayID, lane string) string { return "relay-" + relayID + "-" + lane }

// Identity names what the ledger writes to, as that of a Sink with the same configuration does.
func (l *Ledger) Identity() string { return l.sink.Identity() }

// Holds is that of the Sink. What was written by transactions that were aborted counts, too, as long as Kafka keeps it.
func (l *Ledger) Holds(ctx context.Context, topics []string) (bool, error) {
	return l.sink.Holds(ctx, topics)
}

// Close ends what is under way and closes the connections. It never fails.
func (l *Ledger) Close() error { return l.sink.Close() }

// Fence takes the lane's transactional id over. When it returns nil, a transaction that an earlier session had open is aborted, one
// that it was committing is committed, and nothing more of it can be stored.
//
// Faults that pass are tried again for half a minute. It returns a *sink.FatalError where a person must act, one that matches
// ErrNoTransactions where the cluster cannot do transactions.
func (l *Ledger) Fence(ctx context.Context) error {
	ctx, cancel := l.sink.within(ctx)
	defer cancel()
	l.writing.Lock()
	defer l.writing.Unlock()
	l.end()
	ctx, stop := context.WithTimeoutCause(ctx, fenceWait, fmt.Errorf("not done within %s: %w", fenceWait, context.DeadlineExceeded))
	defer stop()
	given, err := l.coordinator.fence(ctx, l.sink.cfg.TransactionTimeout)
	if err != nil {
		return l.explain(err)
	}
	l.sink.session = given
	clear(l.sink.places)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live, l.known = true, false
	l.sessions++
	return nil
}

// end makes the session one that cannot go on.
func (l *Ledger) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live, l.known = false, false
	l.sessions++
}

// errNoSession: something went wrong in the session, or there was none yet.
var errNoSession = errors.New("the ledger has no session that could go on: fence first")

// Commit stores the batch and replaces prev by next in one transaction, both or neither, and returns next with its revision. It keeps
// the order of the batch in each partition, as Publish of a Sink does, and tries faults that pass again for as long as
// transaction_timeout lets the transaction be open.
//
// It returns checkpoint.ErrConflict, and changes nothing, where the checkpoint in force is not prev or a later session has fenced this
// one; the coordinator does that, too, where a transaction was open for too long. Where a message can never be stored it returns a
// *sink.PublishError with the index of the message and a *sink.RejectedError as its cause, and nothing is stored, not even what comes
// before the message. After any other error either prev or next is in force, and which of the two is certain after the next Fence.
func (l *Ledger) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	ctx, cancel := l.sink.within(ctx)
	defer cancel()
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := ctx.Err(); err != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("committing to kafka: %w", context.Cause(ctx))
	}
	kept, document, err := l.encode(next)
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	if err := l.compare(ctx, prev); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	offset, err := l.transact(ctx, append(slices.Clip(batch), sink.Message{Topic: l.topic, Key: positionKey, Body: document}))
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	kept.Revision = revisionOf(offset)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.revision = kept.Revision
	return kept, nil
}

// encode returns next as it will be read, and as it is written. A document that could not be read again must never take the place of
// one that can.
func (l *Ledger) encode(next checkpoint.Checkpoint) (checkpoint.Checkpoint, []byte, error) {
	if err := l.id.Check(next.Source); err != nil {
		return next, nil, fmt.Errorf("refused to commit for another: %w", err)
	}
	next.Revision = 0 // it is the record's offset, known only afterwards
	document := checkpoint.Encode(next)
	kept, err := checkpoint.Decode(document)
	if err != nil { // told and not wrapped: what is in force is not corrupt
		return next, nil, operator.New("refused to commit what could not be read again: "+err.Error(), "report it: relay cannot record this position")
	}
	return kept, document, nil
}

// compare returns ErrConflict where the position in force is not prev. What a session has read or committed last stays in force for as
// long as the cluster accepts the session.
func (l *Ledger) compare(ctx context.Context, prev checkpoint.Checkpoint) error {
	live, known, revision := l.state()
	if !live {
		return errNoSession
	}
	if !known {
		if _, err := l.Load(ctx); err != nil && !l.isKnown() {
			return fmt.Errorf("reading the position to replace: %w", err)
		}
		_, _, revision = l.state()
	}
	if prev.Revision != revision {
		return fmt.Errorf("%w: revision %d is in force, not %d as expected (0 for none); load it again and go on from there",
			checkpoint.ErrConflict, revision, prev.Revision)
	}
	return nil
}

func (l *Ledger) state() (live, known bool, revision uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.live, l.known, l.revision
}

func (l *Ledger) isKnown() bool {
	_, known, _ := l.state()
	return known
}

// transact stores the messages, the position last, in one transaction, and returns the position's offset.
func (l *Ledger) transact(ctx context.Context, messages []sink.Message) (int64, error) {
	limit := l.sink.cfg.TransactionTimeout
	ctx, stop := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within transaction_timeout %s: %w", limit, context.DeadlineExceeded))
	defer stop()
	l.sink.publishing.Lock()
	defer l.sink.publishing.Unlock()
	d := newDelivery(ctx, l.sink, messages)
	t := &transaction{coordinator: l.coordinator, session: l.sink.session, positionTopic: l.topic, position: -1}
	d.txn = t
	if err := d.run(); err != nil {
		if t.begun {
			l.end()
		}
		return 0, l.explain(err)
	}
	if tries, err := l.coordinator.commit(ctx, t.session); err != nil {
		l.end()
		switch {
		case isFenced(err) && tries == 1:
			return 0, t.fenced(err)
		case isUnsupported(err):
			return 0, noTransactions(err)
		}
		return 0, l.explain(err)
	}
	if t.position < 0 {
		l.end()
		return 0, fmt.Errorf("the position was committed to kafka topic %s, but the broker did not say at which offset", l.topic)
	}
	return t.position, nil
}

// explain puts what err most likely means before it, and marks what only a person can change as fatal.
func (l *Ledger) explain(err error) error {
	var fatal *sink.FatalError
	var rejected *sink.RejectedError
	switch {
	case errors.As(err, &fatal), errors.As(err, &rejected):
		return err
	case isUnsupported(err):
		return noTransactions(err)
	case errors.Is(err, kafkago.TransactionalIDAuthorizationFailed):
		return &sink.FatalError{Err: fmt.Errorf("relay may not use the transactional id %s; grant it by %s: %w",
			l.coordinator.id, l.sink.transactionalACL(l.coordinator.id), err)}
	case errors.Is(err, kafkago.InvalidTransactionTimeout):
		return &sink.FatalError{Err: fmt.Errorf("transaction_timeout %s is more than the brokers' transaction.max.timeout.ms: %w",
			l.sink.cfg.TransactionTimeout, err)}
	case errors.Is(err, kafkago.GroupCoordinatorNotAvailable):
		return fmt.Errorf("no broker coordinates transactions now; where this does not pass, the cluster has fewer brokers than "+
			"transaction.state.log.replication.factor or transaction.state.log.min.isr asks for: %w", err)
	}
	return l.sink.explain(err)
}
