package kafka

import (
	"context"
	"time"

	"workos-relay/sink"
)

// ReadState implements sink.StateReader. It reads the topic from its beginning up to the first
// transaction that is still open, and calls fn for each record, so fn is called several times for a
// key that compaction has not reached. It keeps nothing in memory. If partitions were added to the
// topic, an older version of a key may lie in another partition and come last.
func (s *Sink) ReadState(ctx context.Context, topic sink.StateTopic, fn func(*sink.Stored) error) error {
	logs, err := s.Logs(ctx, []string{topic.Topic}, time.Time{})
	if err != nil {
		return err
	}
	for _, log := range logs {
		if err := s.Scan(ctx, log, fn); err != nil {
			return err
		}
	}
	return nil
}

// ReadObject implements sink.StateReader. Kafka has no index of keys, so it reads the whole topic.
func (s *Sink) ReadObject(ctx context.Context, topic sink.StateTopic, key []byte) (*sink.Stored, error) {
	var found *sink.Stored
	err := s.ReadState(ctx, topic, func(m *sink.Stored) error {
		if string(m.Key) != string(key) {
			return nil
		}
		found = nil
		if m.Body != nil {
			own := *m
			found = &own
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}
