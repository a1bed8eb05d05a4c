package config

import (
	"workos-relay/internal/kinds"
	"workos-relay/sink/kafka"
	"workos-relay/sink/nats"
)

// relayFormat is the format of relay's configuration.
var relayFormat = For(kinds.All)

// nats returns the settings of a sink of type nats, or nil.
func (s *Sink) nats() *nats.Config {
	c, _ := s.Settings.(*nats.Config)
	return c
}

// kafka returns the settings of a sink of type kafka, or nil.
func (s *Sink) kafka() *kafka.Config {
	c, _ := s.Settings.(*kafka.Config)
	return c
}
