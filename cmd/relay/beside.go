package main

import (
	"context"
	"fmt"

	"workos-relay/source"
)

// beside is l for a process of its own: an embedded server is the one inside the relay that runs.
func (l *lane) beside() *lane {
	if !l.embedded() {
		return l
	}
	n, s, out := l.sink.NATS.Outside(), *l.sink, *l
	s.NATS, out.sink, out.inside = &n, &s, true
	return &out
}

// openBeside opens the bus of a lane that beside returned.
func (l *lane) openBeside(ctx context.Context) (*bus, error) {
	b, err := l.open(ctx)
	if err != nil {
		return nil, l.explainBeside(err)
	}
	return b, nil
}

func (l *lane) explainBeside(err error) error {
	if err == nil {
		return nil
	}
	if l.inside {
		return fmt.Errorf("sink %s: its NATS server is inside `relay run`, which must run meanwhile: %w", l.sink.Name, err)
	}
	return fmt.Errorf("sink %s: %w", l.sink.Name, err)
}

// everyTopic is wherever relay may have put an event by these or by earlier routes: the topics of the present routes, the dead letter
// topic, and the topic that is named like its type, of every type that relay knows.
func (l *lane) everyTopic() []string {
	topics := l.topics
	var names []string
	for _, t := range source.Catalogue() {
		names = append(names, t.Name)
		topics = append(topics[:len(topics):len(topics)], l.sink.TopicPrefix()+t.Name)
	}
	return append(topics, l.router.Topics(names)...)
}
