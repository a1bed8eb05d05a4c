package client

import (
	"context"
	"fmt"
	"math"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/initproducerid"
)

// Session is an identity that a broker gave to a producer: in each partition it accepts the
// sequence numbers of one session in order, recognises a batch that it has stored already, and
// shuts out a session of the same id with a lower epoch.
type Session struct {
	ID    int64
	Epoch int16
}

// NoSession is what stands where the brokers have not given a producer id yet.
var NoSession = Session{ID: -1, Epoch: -1}

// Valid reports whether a broker has given the session.
func (s Session) Valid() bool { return s.ID >= 0 }

// Sequence is the place of this producer in one partition.
type Sequence struct {
	Session
	Next int32 // sequence number of the next record
}

// Take returns the place of a batch and is not a claim yet: only advance moves on.
func (s *Sequence) Take() (Session, int32) { return s.Session, s.Next }

// Advance moves on by the n records of a batch that is stored. Sequence numbers go from 2^31-1 to
// 0.
func (s *Sequence) Advance(n int) {
	s.Next = int32((int64(s.Next) + int64(n)) & math.MaxInt32)
}

// Restart starts over in the next epoch: the partition takes sequence 0 again, and what is
// still under way in the old epoch is refused once it took it. A producer without transactions may
// raise its epoch by itself (KIP-360). Epochs that have run out ask for a new producer id.
func (s *Sequence) Restart() {
	s.Next = 0
	if !s.Valid() {
		return
	}
	if s.Epoch == math.MaxInt16 {
		s.Session = NoSession
		return
	}
	s.Epoch++
}

// Adopt makes s begin in a session that the brokers gave.
func (s *Sequence) Adopt(given Session) { *s = Sequence{Session: given} }

// OpenSession asks for a producer id without a transactional id: a new one each time.
func (c *Cluster) OpenSession(ctx context.Context) (Session, error) {
	// Faults of this request alone must not take long to show: there is a way to do without it.
	ctx, cancel := context.WithTimeout(ctx, min(c.RequestTimeout, openSessionWait))
	defer cancel()
	res, err := c.RoundTrip(ctx, &initProducer{TransactionTimeoutMs: math.MaxInt32, ProducerID: NoSession.ID, ProducerEpoch: NoSession.Epoch, coordinator: anyBroker})
	if err != nil {
		return NoSession, fmt.Errorf("asking for a producer id: %w", err)
	}
	r := res.(*initproducerid.Response)
	if r.ErrorCode != 0 {
		return NoSession, fmt.Errorf("asking for a producer id: %w", kafkago.Error(r.ErrorCode))
	}
	return Session{ID: r.ProducerID, Epoch: r.ProducerEpoch}, nil
}

// openSessionWait bounds one request for a producer id without a transactional id.
const openSessionWait = 4 * time.Second

// anyBroker is the broker id of a request that any broker can answer.
const anyBroker int32 = -1

// initProducer is kafka-go's initproducerid.Request to a coordinator that is known already, or to
// any broker for a producer without transactions. kafka-go's own asks for the coordinator of its
// transactional id first, even of an empty one, and that makes a broker create __transaction_state.
type initProducer struct {
	_ struct{} `kafka:"min=v2,max=v4,tag"` // marks the flexible versions

	TransactionalID      string `kafka:"min=v0,max=v4,nullable"`
	TransactionTimeoutMs int32  `kafka:"min=v0,max=v4"`
	ProducerID           int64  `kafka:"min=v3,max=v4"`
	ProducerEpoch        int16  `kafka:"min=v3,max=v4"`

	coordinator int32
}

// ApiKey implements protocol.Message.
func (*initProducer) ApiKey() protocol.ApiKey { return protocol.InitProducerId } //nolint:revive // kafka-go's name

// TypeKey implements protocol.OverrideTypeMessage.
func (*initProducer) TypeKey() protocol.OverrideTypeKey { return ownRequests }

// Broker implements protocol.BrokerMessage.
func (r *initProducer) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	if r.coordinator == anyBroker {
		return protocol.Broker{ID: anyBroker}, nil
	}
	return brokerWithID(cluster, r.coordinator)
}

// brokerWithID finds a broker in the layout.
func brokerWithID(cluster protocol.Cluster, id int32) (protocol.Broker, error) {
	broker, ok := cluster.Brokers[id]
	if !ok {
		return protocol.Broker{ID: anyBroker}, fmt.Errorf("kafka broker %d is down or not known yet: %w", id, kafkago.BrokerNotAvailable)
	}
	return broker, nil
}
