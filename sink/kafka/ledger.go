package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"workos-relay/checkpoint"
	"workos-relay/internal/operator"
	"workos-relay/internal/retry"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// fenceWait bounds one Fence: as long as the coordinator may take to end what an earlier relay left
// open.
const fenceWait = 30 * time.Second

// Ledger publishes to the topics of one cluster in transactions, each of which carries the position
// that comes after its messages, so that for a consumer that reads committed there is no moment at
// which one is stored without the other. It holds positions for one lane of one relay, and the
// cluster itself refuses the relay that has been overtaken.
//
// The position is a record in its own compacted topic, relay.position.<relay>.<lane>. The
// transactional id is
// relay-<relay>-<lane>.
//
// Fence begins a session. An error of Commit ends it, unless the message or the position was
// refused before anything was sent: what it may have left open is ended by the next Fence, of
// whichever relay. Commit and Fence wait for each other; everything else may be called at any time.
type Ledger struct {
	sink        *Sink // for all but Publish; its session and sequences are those of the ledger
	id          checkpoint.Identity
	topic       string // of the position
	coordinator *client.Coordinator

	writing sync.Mutex // held by Commit and Fence

	mu       sync.Mutex
	live     bool   // Fence has begun a session, and nothing has gone wrong since
	sessions uint64 // how often live was set or cleared
	known    bool   // revision is the current one
	revision uint64 // 0: none
}

// NewLedger returns a ledger for the checkpoint of id without connecting. cfg.RelayID and cfg.Lane
// name the position's topic and the transactional id. It fails where New does, and where these
// names are too long for Kafka or hold characters that it does not allow.
func NewLedger(cfg Config, id checkpoint.Identity) (*Ledger, error) {
	topic := PositionTopic(cfg.RelayID, cfg.Lane)
	if reason := illegalTopicName(topic); reason != "" {
		return nil, fmt.Errorf("the position's topic %q, made of relay id and sink name, %s", topic, reason)
	}
	s, err := New(cfg)
	if err != nil {
		return nil, err
	}
	s.admin.position = topic
	s.publisher.grace = min(s.publisher.grace, cfg.TransactionTimeout/2)
	return &Ledger{
		sink: s, id: id, topic: topic,
		coordinator: client.NewCoordinator(s.cluster, TransactionalID(cfg.RelayID, cfg.Lane)),
	}, nil
}

// PositionTopic names the topic that holds the position of a lane.
func PositionTopic(relayID, lane string) string { return "relay.position." + relayID + "." + lane }

// TransactionalID names the producer of a lane on the cluster.
func TransactionalID(relayID, lane string) string { return "relay-" + relayID + "-" + lane }

// Identity names what the ledger writes to, as that of a Sink with the same configuration does.
func (l *Ledger) Identity() string { return l.sink.Identity() }

// Holds is that of the Sink. What was written by transactions that were aborted counts, too, as
// long as Kafka keeps it.
func (l *Ledger) Holds(ctx context.Context, topics []string) (bool, error) {
	return l.sink.Holds(ctx, topics)
}

// Close ends what is under way and closes the connections. It never fails.
func (l *Ledger) Close() error { return l.sink.Close() }

// Fence takes the lane's transactional id over. When it returns nil, a transaction that an earlier
// session had open is aborted, one that it was committing is committed, and nothing more of it can
// be stored.
//
// Faults that pass are tried again for half a minute. It returns a *sink.FatalError if an operator
// must act, one that matches ErrNoTransactions where the cluster cannot do transactions.
func (l *Ledger) Fence(ctx context.Context) error {
	ctx, cancel := l.sink.withLifetime(ctx)
	defer cancel()
	l.writing.Lock()
	defer l.writing.Unlock()
	l.endSession()
	ctx, stop := client.WithAllowance(ctx, fenceWait, fmt.Errorf("not done within %s: %w", fenceWait, context.DeadlineExceeded))
	defer stop()
	// P6: from here on the coordinator refuses every relay that had the position before.
	given, err := l.coordinator.Fence(ctx, l.sink.cfg.TransactionTimeout)
	if err != nil {
		return l.transactionError(err)
	}
	l.sink.publisher.session = given
	clear(l.sink.publisher.places)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live, l.known = true, false
	l.sessions++
	return nil
}

// endSession marks the session as one that cannot continue.
func (l *Ledger) endSession() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live, l.known = false, false
	l.sessions++
}

// errNoSession: something went wrong in the session, or there was none yet.
var errNoSession = errors.New("the ledger has no session that could go on: fence first")

// Commit stores the batch and replaces prev by next in transactions, and returns the checkpoint
// that is in effect then, with its revision. It keeps the order of the batch in each partition, as
// Publish of a Sink does, and retries faults that pass for as long as a transaction may be open,
// but not longer than about request_timeout.
//
// Usually there is one transaction. A batch that is too large for what the cluster takes in time
// goes in several ones, each with whole events and the position of its last event. After about
// request_timeout Commit begins no further one: the checkpoint that it returns is then the one of a
// part of the batch, without an error. An error that comes after some of the transactions is
// returned as it is, and Load tells how far the batch is stored.
//
// It returns checkpoint.ErrConflict, and changes nothing more, if the checkpoint in effect is not
// prev or a later session has fenced this one; the coordinator does that, too, if a transaction was
// open for too long. If a message can never be stored it returns a *sink.PublishError with the
// index of the message and a *sink.RejectedError as its cause; of the transaction that the message
// belongs to nothing is stored. An error that matches sink.ErrTimeout means that a smaller batch
// may be stored. After any other error either prev, next or the position of an event between them
// is in effect, and which of them is certain after the next Fence.
func (l *Ledger) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	ctx, cancel := l.sink.withLifetime(ctx)
	defer cancel()
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := ctx.Err(); err != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("committing to kafka: %w", context.Cause(ctx))
	}
	started, done := time.Now(), 0
	for {
		begun := time.Now()
		n := l.part(batch[done:])
		to := next
		if done+n < len(batch) {
			to = partly(prev, next, batch[done+n-1].Position)
		}
		kept, err := l.commitPart(ctx, batch[done:done+n], prev, to)
		var at *sink.PublishError
		if errors.As(err, &at) {
			at.Durable += done
		}
		if err != nil {
			return checkpoint.Checkpoint{}, err
		}
		now := time.Now()
		if done += n; done == len(batch) || now.Sub(started) >= l.sink.publisher.bounds.begin {
			return kept, nil
		}
		if until, ok := ctx.Deadline(); ok && until.Sub(now) < 2*now.Sub(begun) {
			return kept, nil // the next one may not be done by then
		}
		prev = kept
	}
}

// partly is the checkpoint after a part of the batch that moves prev to next. What next says beside
// of prev may hold for its own position only.
func partly(prev, next checkpoint.Checkpoint, at checkpoint.Position) checkpoint.Checkpoint {
	c := prev
	if prev.Generation == 0 { // none
		c = next
	}
	c.Position, c.UpdatedAt = at, next.UpdatedAt
	return c
}

// part returns how many messages of the batch, which are those of whole events, go into the next
// transaction.
func (l *Ledger) part(batch []sink.Message) int {
	l.sink.publisher.mu.Lock()
	most := l.sink.publisher.pace.Transaction
	l.sink.publisher.mu.Unlock()
	size, whole := 0, 0
	for i := range batch {
		if i > 0 && batch[i].Position.EventID != batch[i-1].Position.EventID {
			whole = i
		}
		if size += messageSize(&batch[i], i); size > most && whole > 0 {
			return whole
		}
	}
	return len(batch)
}

// commitPart is Commit in one transaction.
func (l *Ledger) commitPart(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
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

// encode returns next as it will be read, and as it is written. A document that could not be read
// again must never take the place of one that can.
func (l *Ledger) encode(next checkpoint.Checkpoint) (checkpoint.Checkpoint, []byte, error) {
	if err := l.id.Check(next.Source); err != nil {
		return next, nil, fmt.Errorf("refused to commit for another: %w", err)
	}
	next.Revision = 0 // it is the record's offset, known only afterwards
	document := checkpoint.Encode(next)
	kept, err := checkpoint.Decode(document)
	if err != nil { // told and not wrapped: the current position is not corrupt
		return next, nil, operator.New("refused to commit what could not be read again: "+err.Error(), "report it: relay cannot record this position")
	}
	return kept, document, nil
}

// compare returns ErrConflict where the current position is not prev. What a session has read or
// committed last stays in effect for as long as the cluster accepts the session.
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
		return fmt.Errorf("%w: revision %d is current, not %d as expected (0 for none); load it again and continue from there",
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

// transact stores the messages, the position last, in one transaction, and returns the position's
// offset.
func (l *Ledger) transact(ctx context.Context, messages []sink.Message) (int64, error) {
	l.sink.publisher.mu.Lock()
	defer l.sink.publisher.mu.Unlock()
	if len(messages) > 1 {
		if err := l.awaitLeaders(ctx); err != nil {
			return 0, err
		}
	}
	limit := min(l.sink.cfg.TransactionTimeout, l.sink.publisher.bounds.begin)
	bounded, stop := client.WithAllowance(ctx, limit, l.outOfTime(limit))
	defer stop()
	started := time.Now()
	offset, err := l.transactNow(bounded, messages)
	size := 0
	for i := range messages {
		size += messageSize(&messages[i], i)
	}
	pace, now := l.sink.publisher.pace, time.Now()
	switch {
	case err == nil:
		pace.Committed(size, now.Sub(started)+pace.PausedFor(now))
	case errors.Is(err, sink.ErrTimeout), errors.Is(ctx.Err(), context.DeadlineExceeded):
		pace.NotCommitted(size)
	}
	return offset, err
}

// outOfTime is the error of a transaction that took as long as it may.
func (l *Ledger) outOfTime(limit time.Duration) error {
	setting, value := "transaction_timeout", l.sink.cfg.TransactionTimeout
	if limit < value {
		setting, value = "request_timeout", l.sink.cfg.RequestTimeout
	}
	return tooSlow(setting, value, fmt.Errorf("not done within %s (%s is %s): %w", limit, setting, value, context.DeadlineExceeded))
}

// awaitLeaders waits for leaders that throttle relay, before a transaction is open.
func (l *Ledger) awaitLeaders(ctx context.Context) error {
	wait := l.sink.publisher.pace.PausedFor(time.Now())
	if wait > l.sink.publisher.bounds.begin {
		return errThrottledLeader(wait)
	}
	if wait > 0 && retry.Sleep(ctx, wait) != nil {
		return fmt.Errorf("committing to kafka: %w; %w", context.Cause(ctx), errThrottledLeader(wait))
	}
	return nil
}

func (l *Ledger) transactNow(ctx context.Context, messages []sink.Message) (int64, error) {
	d := newDelivery(ctx, l.sink.publisher, messages)
	// P5: the record of the position is in the transaction of its events.
	t := &transaction{coordinator: l.coordinator, session: l.sink.publisher.session, positionTopic: l.topic, position: -1}
	d.txn = t
	if err := d.run(); err != nil {
		if t.begun {
			l.endSession()
		}
		return 0, l.transactionError(err)
	}
	if tries, err := l.coordinator.Commit(ctx, t.session); err != nil {
		l.endSession()
		switch {
		case client.IsFenced(err) && tries == 1:
			return 0, t.fenced(err)
		case client.IsUnsupported(err):
			return 0, noTransactions(err)
		}
		return 0, l.transactionError(err)
	}
	if t.position < 0 {
		l.endSession()
		return 0, fmt.Errorf("the position was committed to kafka topic %s, but the broker did not say at which offset", l.topic)
	}
	return t.position, nil
}

// transactionError returns an error of a transaction behind what it most likely means. It is a
// *sink.FatalError if only an operator can resolve it.
func (l *Ledger) transactionError(err error) error {
	var fatal *sink.FatalError
	var rejected *sink.RejectedError
	switch {
	case errors.As(err, &fatal), errors.As(err, &rejected):
		return err
	case client.IsUnsupported(err):
		return noTransactions(err)
	case errors.Is(err, kafkago.TransactionalIDAuthorizationFailed):
		return &sink.FatalError{Err: fmt.Errorf("relay may not use the transactional id %s; grant it by %s: %w",
			l.coordinator.ID, l.sink.transactionalACL(l.coordinator.ID), err)}
	case errors.Is(err, kafkago.InvalidTransactionTimeout):
		return &sink.FatalError{Err: fmt.Errorf("transaction_timeout %s is more than the brokers' transaction.max.timeout.ms: %w",
			l.sink.cfg.TransactionTimeout, err)}
	case errors.Is(err, kafkago.GroupCoordinatorNotAvailable):
		return fmt.Errorf("no broker coordinates transactions now; if this does not pass, the cluster has fewer brokers than "+
			"transaction.state.log.replication.factor or transaction.state.log.min.isr asks for: %w", err)
	}
	return l.sink.explain(err)
}

// Ping implements sink.Destination.
func (l *Ledger) Ping(ctx context.Context) error { return l.sink.Ping(ctx) }

// Survey implements sink.Destination. The topic of the position is one more part.
func (l *Ledger) Survey(ctx context.Context, topics []string, known []checkpoint.Part) ([]checkpoint.Part, error) {
	parts, err := l.sink.Survey(ctx, slices.Concat(topics, []string{l.topic}), known)
	for i := range parts {
		if parts[i].Topic == l.topic {
			parts[i].Position, parts[i].Events = true, 0
		}
	}
	return parts, err
}

// Settings implements sink.Configurable. The topic of the position is relay's by its name.
func (l *Ledger) Settings(ctx context.Context, topics []string, apply bool) ([]sink.Setting, error) {
	found, err := l.sink.Settings(ctx, topics, apply)
	if err != nil {
		return nil, err
	}
	ctx, cancel := l.sink.withLifetime(ctx)
	defer cancel()
	spec := l.creation()
	spec.Config = maps.Clone(spec.Config)
	for _, fixed := range []string{cleanupPolicy, "segment.bytes"} { // not as create says
		delete(spec.Config, fixed)
	}
	spec.Adopt = true
	c := &comparison{common: l.sink.common, memory: l.sink.memory, spec: spec, onePartition: true}
	own, err := c.run(ctx, []string{l.topic}, apply)
	if err != nil {
		return nil, err
	}
	return append(found, own...), nil
}
