package kafka

import (
	"context"
	"errors"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

// Kind describes Kafka as a bus.
var Kind = &sink.Kind{
	Name:           "kafka",
	New:            func() sink.Settings { return &Config{} },
	CloudEvents:    "kafka",
	KeepsPositions: true,
	KeepsState:     true,
	ReadsBack:      true,
	Incapable:      []error{ErrNoTransactions, ErrNoPositionTopic},
	Starters:       starters,
	AsyncAPI: &sink.AsyncAPI{
		Binding: "kafka",
		Channel: func(topic string) map[string]any { return map[string]any{"topic": topic, "bindingVersion": "0.5.0"} },
		Message: func(key map[string]any) map[string]any {
			return map[string]any{"key": key, "bindingVersion": "0.5.0"}
		},
	},
}

// laneMemory is the number of bytes that a lane to Kafka needs because its batches are larger: for
// what it reads ahead, and for what it sends.
const laneMemory = 8 << 20

// Prefix implements sink.Settings.
func (c Config) Prefix() string { return c.TopicPrefix }

// Limits implements sink.Settings.
func (Config) Limits() sink.Limits {
	return sink.Limits{BatchMessages: BatchMessages, Prefetch: Prefetch, Memory: laneMemory}
}

// Open implements sink.Settings. It does not connect.
func (c Config) Open(_ context.Context, o sink.OpenOptions) (_ *sink.Opened, err error) {
	c.Logger, c.RelayID, c.Lane, c.Files, c.DeadLetter, c.State = o.Logger, o.RelayID, o.Lane, o.Files, o.DeadLetter, o.State
	c.OwnedFile = checkpoint.Path(o.Dir, o.Identity, "topics")
	if err := c.secrets(o); err != nil {
		return nil, err
	}
	s, err := New(c) //nolint:contextcheck // it outlives ctx
	if err != nil {
		return nil, &sink.SettingsError{Err: err}
	}
	ledger, err := NewLedger(c, o.Identity) //nolint:contextcheck // it outlives ctx
	if err != nil {
		return nil, errors.Join(&sink.SettingsError{Err: err}, s.Close())
	}
	return &sink.Opened{Bus: s, Ledger: ledger, LedgerCloser: ledger}, nil
}

// secrets sets the secrets that may change while the sink is open.
func (c *Config) secrets(o sink.OpenOptions) (err error) {
	if c.Password, err = o.Secret("sasl.password", c.SASL.Password, nil); err != nil {
		return err
	}
	c.ClientSecret, err = o.Secret("sasl.client_secret", c.SASL.ClientSecret, nil)
	return err
}

// AsyncAPIServer implements sink.Documented. The server is the first broker.
func (c Config) AsyncAPIServer() sink.AsyncAPIServer {
	s := sink.AsyncAPIServer{
		Protocol: "kafka", Host: c.Brokers[0],
		Description: "In exactly_once, read with isolation.level=read_committed. Make handlers idempotent by the header event-id.",
	}
	if c.TLS.InUse() {
		s.Protocol = "kafka-secure"
	}
	return s
}
