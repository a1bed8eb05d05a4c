package client

import (
	"context"
	"fmt"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
)

// Timestamps of ListOffsets that ask for the ends of a partition: https://kafka.apache.org/protocol
const (
	LatestOffset   = -1
	EarliestOffset = -2
)

// Partition names one partition.
type Partition struct {
	Topic  string
	Number int32
}

// TopicError is an answer about one topic.
type TopicError struct {
	Topic string
	Err   error
}

func (e *TopicError) Error() string { return e.Err.Error() }
func (e *TopicError) Unwrap() error { return e.Err }

// Offsets asks the one leader of the partitions for their offsets at a timestamp, as a consumer of
// the isolation level sees them: to one that reads committed, a partition ends where the first
// transaction begins that is still open. It returns a *TopicError if the leader refuses one of
// them.
func (c *Cluster) Offsets(ctx context.Context, isolation int8, partitions []Partition, timestamp int64) (map[Partition]int64, error) {
	req := &listOffsets{ReplicaID: -1, IsolationLevel: isolation}
	for _, p := range partitions {
		if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != p.Topic {
			req.Topics = append(req.Topics, listoffsets.RequestTopic{Topic: p.Topic})
		}
		t := &req.Topics[len(req.Topics)-1]
		t.Partitions = append(t.Partitions, listoffsets.RequestPartition{Partition: p.Number, CurrentLeaderEpoch: -1, Timestamp: timestamp})
	}
	res, err := c.RoundTrip(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("asking for the offsets of kafka topics: %w", err)
	}
	answered := make(map[Partition]int64, len(partitions))
	for _, t := range res.(*listoffsets.Response).Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return nil, &TopicError{Topic: t.Topic, Err: fmt.Errorf("asking for the offsets of partition %d: %w", p.Partition, kafkago.Error(p.ErrorCode))}
			}
			answered[Partition{t.Topic, p.Partition}] = p.Offset
		}
	}
	found := make(map[Partition]int64, len(partitions))
	for _, p := range partitions {
		offset, ok := answered[p]
		switch found[p] = offset; {
		case !ok:
			return nil, fmt.Errorf("asking for the offsets of kafka topics: the broker's answer leaves out partition %d of %s", p.Number, p.Topic)
		case offset < 0 && timestamp < 0: // not found is an answer about a time only
			return nil, fmt.Errorf("asking for the offsets of kafka topics: the broker says offset %d for partition %d of %s", offset, p.Number, p.Topic)
		}
	}
	return found, nil
}

// listOffsets is kafka-go's listoffsets.Request for partitions with the same leader. kafka-go's own
// becomes a request, and a connection, for each partition.
type listOffsets struct {
	ReplicaID      int32                      `kafka:"min=v1,max=v5"`
	IsolationLevel int8                       `kafka:"min=v2,max=v5"`
	Topics         []listoffsets.RequestTopic `kafka:"min=v1,max=v5"`
}

// ApiKey implements protocol.Message.
func (*listOffsets) ApiKey() protocol.ApiKey { return protocol.ListOffsets } //nolint:revive // kafka-go's name

// TypeKey implements protocol.OverrideTypeMessage.
func (*listOffsets) TypeKey() protocol.OverrideTypeKey { return ownRequests }

// Broker implements protocol.BrokerMessage.
func (r *listOffsets) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	topic, partition := r.Topics[0].Topic, r.Topics[0].Partitions[0].Partition
	broker, ok := cluster.Brokers[cluster.Topics[topic].Partitions[partition].Leader]
	if !ok {
		return protocol.Broker{ID: -1}, fmt.Errorf("partition %d of kafka topic %s has no leader: %w", partition, topic, kafkago.LeaderNotAvailable)
	}
	return broker, nil
}
