package app

import (
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/config"
	"workos-relay/sink/kafka"
	"workos-relay/sink/nats"
)

func TestMemoryLimit(t *testing.T) {
	cfg := &config.Config{Sinks: []config.Sink{{Settings: &nats.Config{URL: "nats://127.0.0.1:4222"}}}}
	cfg.Source.Backfill = config.Backfill{Readers: 16, Memory: 64 << 20}
	require.EqualValues(t, 80<<20, MemoryLimit(cfg))
	cfg.Sinks = append(cfg.Sinks, config.Sink{Settings: &kafka.Config{}})
	require.EqualValues(t, 160<<20, MemoryLimit(cfg), "each lane has its own backfill, and batches to Kafka are larger")
	cfg.Source.Backfill.Readers = 1
	require.EqualValues(t, 32<<20, MemoryLimit(cfg), "one reader holds nothing ahead")
	cfg.Sinks[0].Settings = &nats.Config{URL: nats.Embedded}
	require.EqualValues(t, 96<<20, MemoryLimit(cfg))
}
