package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/segmentio/kafka-go/protocol"

	"workos-relay/checkpoint"
	"workos-relay/internal/operator"
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
// transactional id is relay-<relay>-<lane>.
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

	session    *ledgerSession
	transactor *transactor    // stores a batch
	positions  *positionLog   // reads the position
	admin      *positionAdmin // creates and inspects the topic of the position
}

// NewLedger returns a ledger for the checkpoint of id without connecting. cfg.RelayID and cfg.Lane
// name the position's topic and the transactional id. It fails if New does, and if these
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
	coordinator := client.NewCoordinator(s.cluster, TransactionalID(cfg.RelayID, cfg.Lane))
	session := new(ledgerSession)
	admin := &positionAdmin{common: s.common, topics: s.admin, topic: topic}
	return &Ledger{
		sink: s, id: id, topic: topic, coordinator: coordinator, session: session,
		transactor: &transactor{publisher: s.publisher, coordinator: coordinator, session: session, topic: topic},
		positions:  &positionLog{common: s.common, reader: s.reader, admin: admin, id: id, topic: topic},
		admin:      admin,
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
// must act, one that matches ErrNoTransactions if the cluster cannot do transactions.
func (l *Ledger) Fence(ctx context.Context) error {
	ctx, cancel := l.sink.withLifetime(ctx)
	defer cancel()
	l.writing.Lock()
	defer l.writing.Unlock()
	l.session.end()
	ctx, stop := client.WithAllowance(ctx, fenceWait, fmt.Errorf("not done within %s: %w", fenceWait, context.DeadlineExceeded))
	defer stop()
	// P6: from here on the coordinator refuses every relay that had the position before.
	given, err := l.coordinator.Fence(ctx, l.sink.cfg.TransactionTimeout)
	if err != nil {
		return l.transactor.explain(err)
	}
	l.sink.publisher.session = given
	clear(l.sink.publisher.places)
	l.session.begin()
	return nil
}

// Commit stores the batch and replaces prev by next in transactions, and returns the checkpoint
// that is in effect then, with its revision. It keeps the order of the batch in each partition, as
// Publish of a Sink does, and retries faults that pass for as long as a transaction may be open,
// but not longer than about request_timeout.
//
// Usually there is one transaction. A batch that is too large for what the cluster takes in time
// goes in several ones, each with whole events and the position of its last event. After about
// request_timeout Commit begins no further one: the checkpoint that it returns is then the one of a
// part of the batch, without an error. A batch that does not move the position goes in one
// transaction. An error that comes after some of the transactions is
// returned as it is, and Load tells how far the batch is stored.
//
// It returns checkpoint.ErrConflict, and changes nothing more, if the checkpoint in effect is not
// prev or a later session has fenced this one; the coordinator does that, too, if a transaction was
// open for too long. If a message can never be stored it returns a *sink.PublishError with the
// index of the message and a *sink.RejectedError as its cause; of the transaction that the message
// belongs to nothing is stored. If a topic of a pattern cannot be created it stores nothing, and
// returns a *sink.PublishError with a *sink.FatalError if an operator must act. An error that
// matches sink.ErrTimeout means that a smaller batch may be stored. After any other error either
// prev, next or the position of an event between them is in effect, and which of them is certain
// after the next Fence.
func (l *Ledger) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	ctx, cancel := l.sink.withLifetime(ctx)
	defer cancel()
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := ctx.Err(); err != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("committing to kafka: %w", context.Cause(ctx))
	}
	if n, err := l.sink.demand.ready(ctx, batch); err != nil {
		return checkpoint.Checkpoint{}, notReady(n, err)
	}
	started, done := time.Now(), 0
	moves, refused := !next.Equal(prev.Position), prev.Refused
	for {
		begun := time.Now()
		n := len(batch)
		// P3: an event of a batch that does not move the position was passed long ago, so its place
		// never becomes the position, not even until the next part is stored.
		if moves {
			n = l.transactor.part(batch[done:])
		}
		to := next
		if done+n < len(batch) {
			to = partly(prev, next, refused, batch[done:done+n])
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

// notReady is the error of a Commit whose message n has no topic. It names the message only if that
// must be left out, or held back, for the others to be stored.
func notReady(n int, err error) error {
	var fatal *sink.FatalError
	var rejected *sink.RejectedError
	if errors.As(err, &fatal) || errors.As(err, &rejected) {
		return &sink.PublishError{Durable: n, Err: err}
	}
	return err
}

// partly returns the checkpoint after a part of the batch that moves prev to next. What next says
// beside of prev may hold for its own position only. refused is Checkpoint.Refused of the whole
// batch.
func partly(prev, next checkpoint.Checkpoint, refused []checkpoint.Refused, part []sink.Message) checkpoint.Checkpoint {
	c := prev
	if prev.Generation == 0 { // none
		c = next
		c.Position, c.Recent, refused = prev.Position, prev.Recent, next.Refused
	}
	c.Refused = refused
	// P5: what a reader must not publish again is as long as the part, and no longer.
	c = c.MovedPartly(sink.Passed(part), next.Position)
	c.UpdatedAt = next.UpdatedAt
	return c
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
	offset, err := l.transactor.store(ctx, append(slices.Clip(batch), sink.Message{Topic: l.topic, Key: positionKey, Body: document}))
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	kept.Revision = revisionOf(offset)
	l.session.committed(kept.Revision)
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

// compare returns ErrConflict if the current position is not prev. What a session has read or
// committed last stays in effect for as long as the cluster accepts the session.
func (l *Ledger) compare(ctx context.Context, prev checkpoint.Checkpoint) error {
	s := l.session.now()
	if !s.live {
		return errNoSession
	}
	if !s.known {
		_, err := l.Load(ctx)
		if s = l.session.now(); err != nil && !s.known {
			return fmt.Errorf("reading the position to replace: %w", err)
		}
	}
	if prev.Revision != s.revision {
		return fmt.Errorf("%w: revision %d is current, not %d as expected (0 for none); load it again and continue from there",
			checkpoint.ErrConflict, s.revision, prev.Revision)
	}
	return nil
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
	spec := l.admin.creation()
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

// Load reads the current position and fences nobody. What another relay is about to commit, and
// has not committed yet, is not in effect. The errors are those of checkpoint.Store, and
// checkpoint.ErrLost if the topic once held a position and has none any more.
func (l *Ledger) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	ctx, cancel := l.sink.withLifetime(ctx)
	defer cancel()
	if ctx.Err() != nil {
		return checkpoint.Checkpoint{}, fmt.Errorf("reading the position: %w", context.Cause(ctx))
	}
	return l.load(ctx, func(err error) bool {
		return err == nil || errors.Is(err, checkpoint.ErrNotFound) || errors.Is(err, checkpoint.ErrLost)
	})
}

// Forget does nothing: a Ledger knows no position but the one that the cluster holds.
func (l *Ledger) Forget() {}

// LoadForReplace reads the current position, also one of another relay, and makes Commit replace
// it. Fence first.
func (l *Ledger) LoadForReplace(ctx context.Context) (checkpoint.Checkpoint, error) {
	ctx, cancel := l.sink.withLifetime(ctx)
	defer cancel()
	c, err := l.load(ctx, func(err error) bool { return err == nil || isKnownPosition(err) })
	if isKnownPosition(err) {
		err = nil
	}
	return c, err
}

// load reads the current position. If replaceable says so of the outcome, the session continues
// from that position.
func (l *Ledger) load(ctx context.Context, replaceable func(error) bool) (checkpoint.Checkpoint, error) {
	s, own := l.session.now(), int64(-1)
	if s.known {
		own = int64(s.revision) - 1 //nolint:gosec // an offset
	}
	c, revision, err := l.positions.read(ctx, own)
	if replaceable(err) {
		l.session.loaded(s, revision)
	}
	return c, err
}

// Prepare is that of the Sink, and makes the position's topic ready as well: one partition, kept by
// compaction alone, and refused otherwise, since a topic cleaned by time or size would lose the
// position. Before it creates anything it returns an error that matches ErrNoTransactions if the
// cluster cannot do what exactly_once needs: see Transactions.
func (l *Ledger) Prepare(ctx context.Context, topics []string) error {
	if err := l.Transactions(ctx); err != nil {
		return err
	}
	if err := l.sink.Prepare(ctx, topics); err != nil {
		return err
	}
	ctx, cancel := l.sink.withLifetime(ctx)
	defer cancel()
	err := l.admin.prepare(ctx)
	if err == nil {
		_, literal := divide(topics)
		err = l.sink.admin.nameShortcomings(ctx, append(literal, l.topic))
	}
	return l.sink.prepareError(ctx, err)
}

// Inspect is that of the Sink, with the position's topic as the last line.
func (l *Ledger) Inspect(ctx context.Context, topics []string) ([]sink.TopicStatus, error) {
	status, err := l.sink.Inspect(ctx, topics)
	if err != nil {
		return nil, err
	}
	ctx, cancel := l.sink.withLifetime(ctx)
	defer cancel()
	st, err := l.admin.inspect(ctx)
	if err != nil {
		return nil, err
	}
	if err := l.Transactions(ctx); err != nil {
		var fatal *sink.FatalError
		if !errors.As(err, &fatal) {
			return nil, err
		}
		st.Problems = append(st.Problems, err.Error())
		st.Unfit = err
	}
	if st.Unfit == nil {
		if err := l.admin.addProblems(ctx, &st); err != nil {
			return nil, err
		}
	}
	if len(st.Problems) > 0 {
		st.Exists, st.Creates = false, false
	}
	return append(status, st), nil
}

// Advice implements sink.Adviser: that of the Sink, for a lane in exactly_once.
func (l *Ledger) Advice(ctx context.Context, topics []string) (sink.Advice, error) {
	return l.sink.Advice(ctx, append(slices.Clone(topics), l.topic))
}

// transactionRequests are those without which there is no transaction.
var transactionRequests = []protocol.ApiKey{protocol.InitProducerId, protocol.FindCoordinator, protocol.AddPartitionsToTxn, protocol.EndTxn}

// Transactions finds out, without touching any, whether relay can do transactions on the cluster.
// `relay check` and a start decide by it. It returns nil if relay can, a *sink.FatalError that
// matches ErrNoTransactions if the cluster has none, another *sink.FatalError if relay may not, and
// any other error if that could not be found out now.
func (l *Ledger) Transactions(ctx context.Context) error {
	ctx, cancel := l.sink.withLifetime(ctx)
	defer cancel()
	missing, err := l.sink.cluster.MissingRequests(ctx, transactionRequests...)
	if err != nil {
		return l.sink.prepareError(ctx, fmt.Errorf("asking the cluster what it can do: %w", err))
	}
	if len(missing) > 0 {
		return noTransactions(fmt.Errorf("it does not know the request %s", strings.Join(missing, ", ")))
	}
	if err := l.sink.admin.askProducerID(ctx); err != nil {
		return noTransactions(err)
	}
	silent, err := l.coordinator.Probe(ctx, transientTimeout, client.Partition{Topic: l.topic, Number: 0})
	if silent {
		return noTransactions(fmt.Errorf("it answers other requests, but none about transactions: %w", err))
	}
	if err != nil {
		return l.transactor.explain(err)
	}
	return nil
}
