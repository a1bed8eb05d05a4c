package app

import (
	"workos-relay/internal/config"
)

// The memory that a process needs besides the bytes that its backfills hold.
const (
	memoryOfRelay = 8 << 20
	memoryOfLane  = 8 << 20 // what was read ahead, and the batch on its way
	// memoryOfVerify is what a verification needs; one lane has one at a time.
	memoryOfVerify = 32 << 20
)

// MemoryLimit returns the soft memory limit (GOMEMLIMIT) for this configuration, in bytes. A lane
// that is not far behind needs much less. While a lane reads a backlog, the collector runs as often
// as the limit needs. If a page is too large for the limit, the runtime exceeds it rather than
// spend more than half of the processor on collecting.
func MemoryLimit(cfg *config.Config) int64 {
	limit := int64(memoryOfRelay)
	if cfg.Verify.Every > 0 {
		limit += memoryOfVerify
	}
	for i := range cfg.Sinks {
		limit += memoryOfLane + cfg.Sinks[i].Settings.Limits().Memory
		if cfg.Source.Backfill.Readers > 1 {
			limit += int64(cfg.Source.Backfill.Memory)
		}
	}
	return limit
}
