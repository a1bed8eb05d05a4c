package app

import (
	"context"
	"fmt"

	"workos-relay/source"
)

// FromOutside returns l for a process other than the one that runs it. A lane with an embedded
// server then connects to the server inside the running relay.
func (l *Lane) FromOutside() *Lane {
	server := l.Embedded()
	if server == nil {
		return l
	}
	s, out := *l.Sink, *l
	s.Settings, out.Sink, out.Inside = server.Outside, &s, server
	return &out
}

// OpenFromOutside opens the bus of a lane that FromOutside returned. Its error says so if the
// embedded server does not answer.
func (l *Lane) OpenFromOutside(ctx context.Context) (*Bus, error) {
	b, err := l.Open(ctx)
	if err != nil {
		return nil, l.ExplainFromOutside(err)
	}
	return b, nil
}

// ExplainFromOutside adds to err which sink it is about, and whether that needs the running relay.
func (l *Lane) ExplainFromOutside(err error) error {
	if err == nil {
		return nil
	}
	if l.Inside != nil {
		return fmt.Errorf("sink %s: its %s is inside `relay run`, which must run meanwhile: %w", l.Sink.Name, l.Inside.Name, err)
	}
	return fmt.Errorf("sink %s: %w", l.Sink.Name, err)
}

// EveryTopic returns every topic that an event may be on, by the current routes or by earlier ones:
// the topics of the current routes, the dead letter topic, and for each known event type the topic
// with its name.
func (l *Lane) EveryTopic() []string {
	topics := l.EventTopics
	var names []string
	for _, t := range source.Catalogue() {
		names = append(names, t.Name)
		topics = append(topics[:len(topics):len(topics)], l.Sink.Settings.Prefix()+t.Name)
	}
	return append(topics, l.Router.Topics(names)...)
}
