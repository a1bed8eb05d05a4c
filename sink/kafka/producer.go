package kafka

import (
	"context"
	"fmt"
	"math"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/initproducerid"
)

// session is an identity that a broker gave to a producer: in each partition it accepts the
// sequence numbers of one session in order, recognises a batch that it has stored already, and
// shuts out a session of the same id with a lower epoch.
type session struct {
	id    int64
	epoch int16
}

// noSession is what stands where the brokers have not given a producer id yet.
var noSession = session{id: -1, epoch: -1}

func (s session) valid() bool { return s.id >= 0 }

// sequence is the place of this producer in one partition.
type sequence struct {
	session
	next int32 // sequence number of the next record
}

// take returns the place of a batch and is not a claim yet: only advance moves on.
func (s *sequence) take() (session, int32) { return s.session, s.next }

// advance moves on by the n records of a batch that is stored. Sequence numbers go from 2^31-1 to
// 0.
func (s *sequence) advance(n int) {
	s.next = int32((int64(s.next) + int64(n)) & math.MaxInt32)
}

// restart starts over in the next epoch: the partition takes sequence 0 again, and what is
// still under way in the old epoch is refused once it took it. A producer without transactions may
// raise its epoch by itself (KIP-360). Epochs that have run out ask for a new producer id.
func (s *sequence) restart() {
	s.next = 0
	if !s.valid() {
		return
	}
	if s.epoch == math.MaxInt16 {
		s.session = noSession
		return
	}
	s.epoch++
}

// adopt makes s begin in a session that the brokers gave.
func (s *sequence) adopt(given session) { *s = sequence{session: given} }

// openSession asks for a producer id without a transactional id: a new one each time.
func (c *cluster) openSession(ctx context.Context) (session, error) {
	// Faults of this request alone must not take long to show: there is a way to do without it.
	ctx, cancel := context.WithTimeout(ctx, min(c.requestTimeout, openSessionWait))
	defer cancel()
	res, err := c.roundTrip(ctx, &initProducer{ProducerID: noSession.id, ProducerEpoch: noSession.epoch, coordinator: anyBroker})
	if err != nil {
		return noSession, fmt.Errorf("asking for a producer id: %w", err)
	}
	r := res.(*initproducerid.Response)
	if r.ErrorCode != 0 {
		return noSession, fmt.Errorf("asking for a producer id: %w", kafkago.Error(r.ErrorCode))
	}
	return session{id: r.ProducerID, epoch: r.ProducerEpoch}, nil
}

// openSessionWait bounds one request for a producer id without a transactional id.
const openSessionWait = 4 * time.Second

// anyBroker stands where a request need not go to a certain broker.
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
