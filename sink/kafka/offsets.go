package kafka

import (
	"context"
	"errors"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/metadata"

	"workos-relay/sink/kafka/internal/client"
)

// Holds implements sink.Destination. A partition that was emptied by retention holds no message.
func (s *Sink) Holds(ctx context.Context, topics []string) (holds bool, err error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	s.cluster.Watch(topics)
	s.cluster.Refresh()
	// A leader that was only just elected may not know of it yet, and is asked again.
	err = s.settle(ctx, func(ctx context.Context) error {
		holds, err = s.holdsNow(ctx, topics)
		return err
	})
	return holds, err
}

func (s *Sink) holdsNow(ctx context.Context, topics []string) (bool, error) {
	answer, err := s.cluster.Describe(ctx, topics)
	if err != nil {
		return false, s.explain(err)
	}
	byLeader := make(map[int32][]client.Partition)
	for _, t := range answer.Topics {
		if err := s.visible(t); err != nil {
			return false, err
		}
		for _, p := range t.Partitions {
			byLeader[p.LeaderID] = append(byLeader[p.LeaderID], client.Partition{Topic: t.Name, Number: p.PartitionIndex})
		}
	}
	for _, partitions := range byLeader {
		earliest, err := s.offsets(ctx, partitions, client.EarliestOffset)
		if err != nil {
			return false, err
		}
		latest, err := s.offsets(ctx, partitions, client.LatestOffset)
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
func (s *Sink) offsets(ctx context.Context, partitions []client.Partition, timestamp int64) (map[client.Partition]int64, error) {
	return s.offsetsSeenBy(ctx, client.ReadUncommitted, partitions, timestamp)
}

// offsetsSeenBy is offsets for a consumer of the isolation level.
func (s *Sink) offsetsSeenBy(ctx context.Context, isolation int8, partitions []client.Partition, timestamp int64) (map[client.Partition]int64, error) {
	found, err := s.cluster.Offsets(ctx, isolation, partitions, timestamp)
	var of *client.TopicError
	switch {
	case errors.As(err, &of):
		return nil, s.explainTopic(of.Err, of.Topic)
	case err != nil:
		return nil, s.explain(err)
	}
	return found, nil
}
