package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/addpartitionstotxn"
	"github.com/segmentio/kafka-go/protocol/endtxn"
	"github.com/segmentio/kafka-go/protocol/findcoordinator"
	"github.com/segmentio/kafka-go/protocol/initproducerid"

	"workos-relay/internal/retry"
)

const (
	keyTypeTransaction = 1 // https://kafka.apache.org/protocol: the key types of FindCoordinator

	// The coordinator answers CONCURRENT_TRANSACTIONS until it has written the end of the last
	// transaction to every partition, which takes milliseconds. Waiting starts at markersFirst and
	// doubles to markersMost.
	markersFirst = time.Millisecond
	markersMost  = 100 * time.Millisecond
)

// Coordinator is the broker that rules over the transactions of one transactional id. It is safe
// for concurrent use.
type Coordinator struct {
	cluster *Cluster
	ID      string // transactional id

	mu   sync.Mutex
	node int32 // anyBroker: not known
}

// NewCoordinator returns the coordinator of a transactional id, which it looks for when it needs
// it.
func NewCoordinator(c *Cluster, transactionalID string) *Coordinator {
	return &Coordinator{cluster: c, ID: transactionalID, node: anyBroker}
}

// question is a request to the coordinator.
type question struct {
	doing string // "beginning a transaction"
	// request makes the request for the coordinator with this broker id.
	request func(node int32) protocol.Message
	// answer returns the error code of the response.
	answer func(protocol.Message) error
	// once: it must not be sent again where the first may have arrived.
	once bool
}

// ask sends a request to the coordinator and repeats it while the answer is one that passes: the
// coordinator has moved, is loading its state, or is still ending the last transaction. The error
// of an answer that does not pass is returned as it is.
func (c *Coordinator) ask(ctx context.Context, q question) (protocol.Message, error) {
	failures, open := 0, 0 // open counts the answers that the last transaction is still open
	for {
		res, err := c.askOnce(ctx, q)
		var wait time.Duration
		switch {
		case err == nil:
			return res, nil
		case errors.Is(err, kafkago.ConcurrentTransactions):
			open++
			wait = retry.Backoff{First: markersFirst, Most: markersMost}.Full(open)
		case q.repeats(res != nil, err):
			failures++
			wait = Retries.After(min(failures, 5))
		default:
			return nil, fmt.Errorf("%s: %w", q.doing, err)
		}
		if retry.Sleep(ctx, wait) != nil {
			return nil, fmt.Errorf("%s: %w; before that: %w", q.doing, context.Cause(ctx), err)
		}
	}
}

// repeats reports whether q may and should be sent again after err, which is the broker's answer,
// or why there was none.
//
// What a coordinator answers while it moves or loads leaves a commit safe to repeat, even where the
// one before it was written: as long as the producer has begun nothing else, a second commit in the
// same epoch finds the transaction open and commits it, or committed.
func (q question) repeats(answered bool, err error) bool {
	var code kafkago.Error
	if errors.As(err, &code) {
		switch code {
		case kafkago.GroupLoadInProgress, kafkago.GroupCoordinatorNotAvailable, kafkago.NotCoordinatorForGroup, kafkago.BrokerNotAvailable:
			return true
		case kafkago.UnknownTopicOrPartition, kafkago.RequestTimedOut, kafkago.NetworkException, kafkago.KafkaStorageError,
			kafkago.NotEnoughReplicas, kafkago.NotEnoughReplicasAfterAppend, kafkago.ThrottlingQuotaExceeded:
			return !q.once
		default:
			return false
		}
	}
	if answered || NeedsOperator(err) {
		return false
	}
	var lost *errNoCoordinator
	return !q.once || errors.As(err, &lost) || IsUnsent(err)
}

// askOnce returns a response together with the error in it, or no response and the error of the way
// there.
func (c *Coordinator) askOnce(ctx context.Context, q question) (protocol.Message, error) {
	node, err := c.find(ctx)
	if err != nil {
		return nil, err
	}
	res, err := c.cluster.RoundTrip(ctx, q.request(node))
	if err == nil {
		err = q.answer(res)
	}
	if err != nil && !errors.Is(err, kafkago.ConcurrentTransactions) {
		c.forget()
	}
	return res, err
}

// errNoCoordinator marks that the request was not sent, since it is not known where to.
type errNoCoordinator struct{ err error }

func (e *errNoCoordinator) Error() string {
	return "looking for the transaction coordinator: " + e.err.Error()
}
func (e *errNoCoordinator) Unwrap() error { return e.err }

// find returns the broker id of the coordinator.
func (c *Coordinator) find(ctx context.Context) (int32, error) {
	c.mu.Lock()
	node := c.node
	c.mu.Unlock()
	if node != anyBroker {
		return node, nil
	}
	res, err := c.cluster.RoundTrip(ctx, &findcoordinator.Request{Key: c.ID, KeyType: keyTypeTransaction})
	if err == nil {
		if r := res.(*findcoordinator.Response); r.ErrorCode != 0 {
			err = BrokerError(r.ErrorCode, r.ErrorMessage)
		}
	}
	if err != nil {
		return anyBroker, &errNoCoordinator{err}
	}
	node = res.(*findcoordinator.Response).NodeID
	c.mu.Lock()
	c.node = node
	c.mu.Unlock()
	return node, nil
}

func (c *Coordinator) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.node = anyBroker
}

// Fence takes the transactional id over: the coordinator ends what an earlier session left open,
// commit or abort as it had decided, and refuses that session from then on. A transaction that
// stays open for longer than timeout is aborted by the coordinator.
func (c *Coordinator) Fence(ctx context.Context, timeout time.Duration) (Session, error) {
	res, err := c.ask(ctx, question{
		doing: "taking over transactional id " + c.ID,
		request: func(node int32) protocol.Message {
			return &initProducer{
				TransactionalID: c.ID, TransactionTimeoutMs: int32(timeout.Milliseconds()), //nolint:gosec // validated: minutes
				ProducerID: NoSession.ID, ProducerEpoch: NoSession.Epoch, coordinator: node,
			}
		},
		answer: func(m protocol.Message) error { return errorOf(m.(*initproducerid.Response).ErrorCode) },
	})
	if err != nil {
		return NoSession, err
	}
	r := res.(*initproducerid.Response)
	return Session{ID: r.ProducerID, Epoch: r.ProducerEpoch}, nil
}

// Add makes the partitions part of the transaction of s, and begins it if there is none.
func (c *Coordinator) Add(ctx context.Context, s Session, partitions []Partition) error {
	_, err := c.ask(ctx, c.addition("beginning a transaction", s, partitions))
	return err
}

// Probe asks the coordinator, without touching any transaction, whether it would take a partition
// into one: it looks at the permission before it looks at the producer, and here it does not know
// the producer. It returns nil if it would, as far as that can be found out, and after wait at the
// latest. silent says that the coordinator answered nothing, although the cluster answers other
// requests: err then says what came in place of an answer.
func (c *Coordinator) Probe(ctx context.Context, wait time.Duration, p Partition) (silent bool, err error) {
	asking, stop := WithAllowance(ctx, wait, context.DeadlineExceeded)
	defer stop()
	q := c.addition("asking the transaction coordinator", NoSession, []Partition{p})
	q.once = true // a topic that is not there yet is not a reason to wait
	answers := c.cluster.AnswerCount()
	_, err = c.ask(asking, q)
	var code kafkago.Error
	switch answered := errors.As(err, &code); {
	case answered && !IsUnsupported(err) && code != kafkago.TransactionalIDAuthorizationFailed && !q.repeats(true, err):
		return false, nil
	case !answered && IsSilence(err) && ctx.Err() == nil:
		return c.isSilent(ctx, answers, p.Topic, q), err
	}
	return false, err
}

// isSilent reports whether the cluster leaves q without an answer time and again, although it
// answers other requests. answers is the count of its answers before q was asked first.
func (c *Coordinator) isSilent(ctx context.Context, answers int, topic string, q question) bool {
	const tries = 2
	for range tries {
		c.cluster.Refresh()
		if _, err := c.cluster.Describe(ctx, []string{topic}); err != nil || c.cluster.AnswerCount() == answers {
			return false
		}
		answers = c.cluster.AnswerCount()
		_, err := c.askOnce(ctx, q)
		var code kafkago.Error
		if err == nil || errors.As(err, &code) || !IsSilence(err) {
			return false
		}
	}
	return true
}

// addition is the question that Add asks. It may be sent again, also if the one before had an
// effect.
func (c *Coordinator) addition(doing string, s Session, partitions []Partition) question {
	return question{
		doing: doing,
		request: func(node int32) protocol.Message {
			return &addPartitions{
				TransactionalID: c.ID, ProducerID: s.ID, ProducerEpoch: s.Epoch, Topics: byTopic(partitions), coordinator: node,
			}
		},
		answer: added,
	}
}

// added returns the first error that stands for itself: OPERATION_NOT_ATTEMPTED is only that of
// another partition.
func added(m protocol.Message) error {
	var skipped error
	for _, t := range m.(*addpartitionstotxn.Response).Results {
		for _, p := range t.Results {
			switch code := kafkago.Error(p.ErrorCode); code {
			case 0:
			case operationNotAttempted:
				skipped = code
			default:
				return fmt.Errorf("partition %d of kafka topic %s: %w", p.PartitionIndex, t.Name, code)
			}
		}
	}
	return skipped
}

// operationNotAttempted is OPERATION_NOT_ATTEMPTED of https://kafka.apache.org/protocol, to which
// kafka-go gives another name.
const operationNotAttempted = kafkago.BrokerAuthorizationFailed

func byTopic(partitions []Partition) []addpartitionstotxn.RequestTopic {
	var topics []addpartitionstotxn.RequestTopic
	place := make(map[string]int)
	for _, p := range partitions {
		i, ok := place[p.Topic]
		if !ok {
			i = len(topics)
			place[p.Topic] = i
			topics = append(topics, addpartitionstotxn.RequestTopic{Name: p.Topic})
		}
		topics[i].Partitions = append(topics[i].Partitions, p.Number)
	}
	return topics
}

// Commit ends the transaction of s. It is not sent again if it may have arrived, unless the
// coordinator asked for that. An error that is one of IsFenced says for certain that nothing was
// committed only if it answers the first of tries, which are those that may have had an effect:
// what is answered by CONCURRENT_TRANSACTIONS, as while a rival's takeover is under way, had none.
func (c *Coordinator) Commit(ctx context.Context, s Session) (tries int, err error) {
	_, err = c.ask(ctx, question{
		doing: "committing a transaction",
		request: func(node int32) protocol.Message {
			tries++
			return &endTransaction{TransactionalID: c.ID, ProducerID: s.ID, ProducerEpoch: s.Epoch, Committed: true, coordinator: node}
		},
		answer: func(m protocol.Message) error {
			err := errorOf(m.(*endtxn.Response).ErrorCode)
			if errors.Is(err, kafkago.ConcurrentTransactions) {
				tries--
			}
			return err
		},
		once: true,
	})
	return tries, err
}

func errorOf(code int16) error {
	if code == 0 {
		return nil
	}
	return kafkago.Error(code)
}

// addPartitions is kafka-go's addpartitionstotxn.Request to a coordinator that is known already.
// kafka-go's own asks for it again each time, and takes no note of an error in that answer.
type addPartitions struct {
	_ struct{} `kafka:"min=v3,max=v3,tag"` // marks the flexible version

	TransactionalID string                            `kafka:"min=v0,max=v2|min=v3,max=v3,compact"`
	ProducerID      int64                             `kafka:"min=v0,max=v3"`
	ProducerEpoch   int16                             `kafka:"min=v0,max=v3"`
	Topics          []addpartitionstotxn.RequestTopic `kafka:"min=v0,max=v3"`

	coordinator int32
}

// ApiKey implements protocol.Message.
func (*addPartitions) ApiKey() protocol.ApiKey { return protocol.AddPartitionsToTxn } //nolint:revive // kafka-go's name

// TypeKey implements protocol.OverrideTypeMessage.
func (*addPartitions) TypeKey() protocol.OverrideTypeKey { return ownRequests }

// Broker implements protocol.BrokerMessage.
func (r *addPartitions) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	return brokerWithID(cluster, r.coordinator)
}

// endTransaction is kafka-go's endtxn.Request to a coordinator that is known already.
type endTransaction struct {
	_ struct{} `kafka:"min=v3,max=v3,tag"` // marks the flexible version

	TransactionalID string `kafka:"min=v0,max=v2|min=v3,max=v3,compact"`
	ProducerID      int64  `kafka:"min=v0,max=v3"`
	ProducerEpoch   int16  `kafka:"min=v0,max=v3"`
	Committed       bool   `kafka:"min=v0,max=v3"`

	coordinator int32
}

// ApiKey implements protocol.Message.
func (*endTransaction) ApiKey() protocol.ApiKey { return protocol.EndTxn } //nolint:revive // kafka-go's name

// TypeKey implements protocol.OverrideTypeMessage.
func (*endTransaction) TypeKey() protocol.OverrideTypeKey { return ownRequests }

// Broker implements protocol.BrokerMessage.
func (r *endTransaction) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	return brokerWithID(cluster, r.coordinator)
}
