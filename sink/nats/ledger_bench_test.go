package nats

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
)

// BenchmarkDelivery compares the two modes on the same server process, in turn: batches of 999
// messages of 1.5 KB, with their position in one atomic act, and published one by one with a window
// of 4,096. One operation is one message.
func BenchmarkDelivery(b *testing.B) {
	for _, sync := range []string{"default", "always"} {
		url := startProcess(b, sync).url()
		b.Run(fmt.Sprintf("sync=%s/at_least_once", sync), func(b *testing.B) {
			s := open(b, Config{URL: url, Stream: "ALO", TopicPrefix: "alo.", Create: Create{Enabled: true}})
			benchmarkDelivery(b, "alo.created", s, nil)
		})
		b.Run(fmt.Sprintf("sync=%s/exactly_once", sync), func(b *testing.B) {
			s := open(b, Config{URL: url, Stream: "EO", TopicPrefix: "eo.", Create: Create{Enabled: true}})
			benchmarkDelivery(b, "eo.created", s, s.Ledger(laneID))
		})
	}
}

// benchmarkDelivery publishes through ledger, or through s if that is nil.
func benchmarkDelivery(b *testing.B, topic string, s *Sink, ledger *Ledger) {
	ctx := context.Background()
	batch := benchMessages()[:MaxBatch]
	for i := range batch {
		batch[i].Topic = topic
	}
	var cp checkpoint.Checkpoint
	if ledger == nil {
		require.NoError(b, s.Prepare(ctx, []string{topic}))
	} else {
		require.NoError(b, ledger.Prepare(ctx, []string{topic}))
		var err error
		if cp, err = ledger.Load(ctx); err != nil {
			require.ErrorIs(b, err, checkpoint.ErrNotFound)
		}
	}
	b.SetBytes(benchBody)
	b.ReportAllocs()
	b.ResetTimer()
	round := 0
	for left := b.N; left > 0; left -= len(batch) {
		number(batch, round)
		round++
		part := batch[:min(left, len(batch))]
		if ledger == nil {
			for i := range part { // each run of the benchmark has its own ids
				part[i].ID = fmt.Sprintf("%s_%d", part[i].ID, b.N)
			}
			require.NoError(b, s.Publish(ctx, part))
			continue
		}
		var err error
		cp, err = ledger.Commit(ctx, part, cp, at(round))
		require.NoError(b, err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}
