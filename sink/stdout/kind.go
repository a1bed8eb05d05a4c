package stdout

import (
	"context"

	"workos-relay/sink"
)

// Kind describes standard output as a bus.
var Kind = &sink.Kind{
	Name:       "stdout",
	New:        func() sink.Settings { return &Config{} },
	KeepsState: true, // it prints what changes
}

// Identity names what a sink of this configuration writes to.
func (Config) Identity() string { return "standard output" }

// TakesPatterns implements sink.PatternSettings.
func (Config) TakesPatterns() error { return nil }

// Prefix implements sink.Settings.
func (c Config) Prefix() string { return c.TopicPrefix }

// Limits implements sink.Settings: a lane to standard output needs nothing special.
func (Config) Limits() sink.Limits { return sink.Limits{} }

// Open implements sink.Settings.
func (c Config) Open(context.Context, sink.OpenOptions) (*sink.Opened, error) {
	return &sink.Opened{Bus: New(c, nil)}, nil
}
