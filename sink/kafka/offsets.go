package kafka

import (
	"context"
	"fmt"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// Timestamps of ListOffsets that ask for the ends of a partition: https://kafka.apache.org/protocol
const (
	latestOffset   = -1
	earliestOffset = -2
)

// Holds implements sink.Destination. A partition that was emptied by retention holds no message.
func (s *Sink) Holds(ctx context.Context, topics []string) (holds bool, err error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	s.cluster.watch(topics)
	s.cluster.refresh()
	// A leader that was only just elected may not know of it yet, and is asked again.
	err = s.settle(ctx, func(ctx context.Context) error {
		holds, err = s.holdsNow(ctx, topics)
		return err
	})
	return holds, err
}

// partitionID names one partition.
type partitionID struct {
	topic  string
	number int32
}

func (s *Sink) holdsNow(ctx context.Context, topics []string) (bool, error) {
	answer, err := s.cluster.describe(ctx, topics)
	if err != nil {
		return false, s.explain(err)
	}
	byLeader := make(map[int32][]partitionID)
	for _, t := range answer.Topics {
		if err := s.visible(t); err != nil {
			return false, err
		}
		for _, p := range t.Partitions {
			byLeader[p.LeaderID] = append(byLeader[p.LeaderID], partitionID{t.Name, p.PartitionIndex})
		}
	}
	for _, partitions := range byLeader {
		earliest, err := s.offsets(ctx, partitions, earliestOffset)
		if err != nil {
			return false, err
		}
		latest, err := s.offsets(ctx, partitions, latestOffset)
		if err != nil {
			return false, err
		}
		for p, end := range latest {
			if earliest[p] < end {
				return true, nil
			}
		}
	}
	return false, nil
}

// visible returns why it cannot be said what the topic holds. A missing one holds nothing.
func (s *Sink) visible(t metadata.ResponseTopic) error {
	switch err := kafkago.Error(t.ErrorCode); err {
	case 0, kafkago.UnknownTopicOrPartition, kafkago.InvalidTopic:
		return nil
	default:
		return s.explainTopic(err, t.Name)
	}
}

// offsets asks the one leader of the partitions for their offsets at a timestamp.
func (s *Sink) offsets(ctx context.Context, partitions []partitionID, timestamp int64) (map[partitionID]int64, error) {
	return s.offsetsSeenBy(ctx, readUncommitted, partitions, timestamp)
}

// offsetsSeenBy is offsets for a consumer of the isolation level: to one that reads committed, a
// partition ends where the first transaction begins that is still open.
func (s *Sink) offsetsSeenBy(ctx context.Context, isolation int8, partitions []partitionID, timestamp int64) (map[partitionID]int64, error) {
	req := &listOffsets{ReplicaID: -1, IsolationLevel: isolation}
	for _, p := range partitions {
		if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != p.topic {
			req.Topics = append(req.Topics, listoffsets.RequestTopic{Topic: p.topic})
		}
		t := &req.Topics[len(req.Topics)-1]
		t.Partitions = append(t.Partitions, listoffsets.RequestPartition{Partition: p.number, CurrentLeaderEpoch: -1, Timestamp: timestamp})
	}
	res, err := s.cluster.roundTrip(ctx, req)
	if err != nil {
		return nil, s.explain(fmt.Errorf("asking for the offsets of kafka topics: %w", err))
	}
	answered := make(map[partitionID]int64, len(partitions))
	for _, t := range res.(*listoffsets.Response).Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return nil, s.explainTopic(fmt.Errorf("asking for the offsets of partition %d: %w", p.Partition, kafkago.Error(p.ErrorCode)), t.Topic)
			}
			answered[partitionID{t.Topic, p.Partition}] = p.Offset
		}
	}
	found := make(map[partitionID]int64, len(partitions))
	for _, p := range partitions {
		offset, ok := answered[p]
		switch found[p] = offset; {
		case !ok:
			return nil, fmt.Errorf("asking for the offsets of kafka topics: the broker's answer leaves out partition %d of %s", p.number, p.topic)
		case offset < 0 && timestamp < 0: // not found is an answer about a time only
			return nil, fmt.Errorf("asking for the offsets of kafka topics: the broker says offset %d for partition %d of %s", offset, p.number, p.topic)
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
