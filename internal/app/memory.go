package app

import (
	"workos-relay/internal/config"
	"workos-relay/sink/nats"
)

// What a process takes beside the bytes that its backfills hold.
const (
	memoryOfRelay    = 8 << 20
	memoryOfLane     = 8 << 20 // what was read ahead, and the batch on its way
	memoryOfKafka    = 8 << 20 // what a lane to Kafka, whose batches are larger, reads ahead and sends beside
	memoryOfEmbedded = 64 << 20
)

// MemoryLimit is the memory that relay gets along with under this configuration, as Go's runtime counts it. A lane that is not far
// behind needs much less; while one reads a backlog the collector works so often that it is kept. Where a rare page is too large for
// it the runtime goes beyond, rather than to spend more than half of the processor on collecting.
func MemoryLimit(cfg *config.Config) int64 {
	limit := int64(memoryOfRelay)
	for i := range cfg.Sinks {
		limit += memoryOfLane
		if cfg.Sinks[i].Kafka != nil {
			limit += memoryOfKafka
		}
		if cfg.Source.Backfill.Readers > 1 {
			limit += int64(cfg.Source.Backfill.Memory)
		}
		if s := cfg.Sinks[i].NATS; s != nil && s.URL == nats.Embedded {
			limit += memoryOfEmbedded
		}
	}
	return limit
}
