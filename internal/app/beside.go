package app

import (
	"context"
	"fmt"

	"workos-relay/source"
)

// Beside is l for a process of its own: an embedded server is the one inside the relay that runs.
func (l *Lane) Beside() *Lane {
	if !l.Embedded() {
		return l
	}
	n, s, out := l.Sink.NATS.Outside(), *l.Sink, *l
	s.NATS, out.Sink, out.Inside = &n, &s, true
	return &out
}

// OpenBeside opens the bus of a lane that beside returned.
func (l *Lane) OpenBeside(ctx context.Context) (*Bus, error) {
	b, err := l.Open(ctx)
	if err != nil {
		return nil, l.ExplainBeside(err)
	}
	return b, nil
}

func (l *Lane) ExplainBeside(err error) error {
	if err == nil {
		return nil
	}
	if l.Inside {
		return fmt.Errorf("sink %s: its NATS server is inside `relay run`, which must run meanwhile: %w", l.Sink.Name, err)
	}
	return fmt.Errorf("sink %s: %w", l.Sink.Name, err)
}

// EveryTopic is wherever relay may have put an event by these or by earlier routes: the topics of the present routes, the dead letter
// topic, and the topic that is named like its type, of every type that relay knows.
func (l *Lane) EveryTopic() []string {
	topics := l.Topics
	var names []string
	for _, t := range source.Catalogue() {
		names = append(names, t.Name)
		topics = append(topics[:len(topics):len(topics)], l.Sink.TopicPrefix()+t.Name)
	}
	return append(topics, l.Router.Topics(names)...)
}
