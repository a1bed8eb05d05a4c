package main

import (
	"errors"
	"net/url"
	"slices"
	"strings"

	"workos-relay/internal/app"
	"workos-relay/internal/asyncapi"
	"workos-relay/internal/config"
	"workos-relay/router"
	"workos-relay/sink/nats"
)

// printAsyncAPI writes the AsyncAPI document of all topics of the configuration.
func printAsyncAPI(env *environment, cfg *config.Config, lanes []*app.Lane) error {
	var buses []asyncapi.Bus
	for _, l := range lanes {
		b := asyncapi.Bus{Name: l.Sink.Name, DeadLetter: l.Router.DeadLetterTopic(), Topics: typesByTopic(l)}
		switch s := l.Sink; {
		case s.NATS != nil:
			b.Kind, b.Host, b.Stream = router.NATS, natsHost(s.NATS), s.NATS.Stream
		case s.Kafka != nil:
			b.Kind, b.Host, b.Secure = router.Kafka, s.Kafka.Brokers[0], s.Kafka.TLS.InUse()
		default:
			continue // no bus
		}
		buses = append(buses, b)
	}
	if len(buses) == 0 {
		return app.Usage(errors.New("no sink of the configuration is a bus, so there are no topics to describe"))
	}
	text, err := asyncapi.Document(cfg.ID, cfg.Encoding, buses)
	if err != nil {
		return err
	}
	_, err = env.stdout.Write(text)
	return err
}

// natsHost returns host and port of the first server.
func natsHost(c *nats.Config) string {
	if c.URL == nats.Embedded {
		return c.Embedded.Listen
	}
	first, _, _ := strings.Cut(c.URL, ",")
	if u, err := url.Parse(strings.TrimSpace(first)); err == nil && u.Host != "" {
		return u.Host
	}
	return "127.0.0.1:4222"
}

// typesByTopic returns the topics of the lane, except for the dead letter topic, each with the
// event types that go there.
func typesByTopic(l *app.Lane) []asyncapi.Topic {
	types := map[string][]string{}
	for _, name := range l.Types {
		if topic, dropped := l.Router.Resolve(name); !dropped {
			types[topic] = append(types[topic], name)
		}
	}
	var topics []asyncapi.Topic
	for _, name := range l.Router.Topics(l.Types) {
		slices.Sort(types[name])
		topics = append(topics, asyncapi.Topic{Name: name, Types: types[name]})
	}
	return topics
}
