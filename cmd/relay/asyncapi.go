package main

import (
	"errors"
	"slices"

	"workos-relay/internal/app"
	"workos-relay/internal/asyncapi"
	"workos-relay/internal/config"
	"workos-relay/sink"
)

// printAsyncAPI writes the AsyncAPI document of all topics of the configuration.
func printAsyncAPI(env *environment, cfg *config.Config, lanes []*app.Lane) error {
	var buses []asyncapi.Bus
	for _, l := range lanes {
		b := asyncapi.Bus{Name: l.Sink.Name, DeadLetter: l.Router.DeadLetterTopic(), Topics: typesByTopic(l)}
		described, ok := l.Sink.Settings.(sink.Documented)
		if !ok || l.Sink.Kind.AsyncAPI == nil {
			continue // no bus
		}
		b.Kind, b.Server = l.Sink.Kind.AsyncAPI, described.AsyncAPIServer()
		buses = append(buses, b)
	}
	if len(buses) == 0 {
		return app.Usage(errors.New("no sink of the configuration is a bus, so there are no topics to describe"))
	}
	text, err := asyncapi.Document(cfg.ID, cfg.Encoding, env.format.Kinds(), buses)
	if err != nil {
		return err
	}
	_, err = env.stdout.Write(text)
	return err
}

// typesByTopic returns the topics of the lane, except for the dead letter topic, each with the
// event types that go there.
func typesByTopic(l *app.Lane) []asyncapi.Topic {
	types := map[string][]string{}
	for _, name := range l.Types {
		some, _ := l.Router.Resolve(name)
		for _, topic := range some {
			types[topic] = append(types[topic], name)
		}
	}
	var topics []asyncapi.Topic
	for _, name := range l.Router.Topics(l.Types) {
		slices.Sort(types[name])
		topics = append(topics, asyncapi.Topic{Name: name, Text: l.Router.Text(name), Types: types[name]})
	}
	return topics
}
