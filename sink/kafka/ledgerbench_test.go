package kafka

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
	"workos-relay/sink"
)

// BenchmarkCommit compares the two ways to deliver a page and move the position: a transaction, and
// an idempotent publish followed by a commit to the file store. One iteration is one page by each
// of them in turn; what is reported is the rate of each one's median.
func BenchmarkCommit(b *testing.B) {
	b.Run("kfake", func(b *testing.B) {
		c, err := kfake.NewCluster(kfake.NumBrokers(1))
		require.NoError(b, err)
		defer c.Close()
		benchmarkCommit(b, c.ListenAddrs())
	})
	b.Run("real", func(b *testing.B) {
		if os.Getenv("RELAY_TEST_KAFKA") == "" {
			b.Skip("needs a real Kafka: set RELAY_TEST_KAFKA")
		}
		benchmarkCommit(b, strings.Split(os.Getenv("RELAY_TEST_KAFKA"), ","))
	})
}

func benchmarkCommit(b *testing.B, brokers []string) {
	for _, spread := range []struct{ topics, partitions int }{{8, 6}, {1, 6}} {
		cfg := uniqueLane(b, brokers)
		cfg.Logger = zap.NewNop()
		cfg.Create.Partitions = spread.partitions
		topics := make([]string, spread.topics)
		for i := range topics {
			topics[i] = fmt.Sprintf("%s.topic-%d", cfg.RelayID, i)
		}
		ledger := fenced(b, cfg, topics...)
		plain := open(b, cfg)
		file, err := checkpoint.OpenFile(b.TempDir(), checkpointtest.Identity())
		require.NoError(b, err)
		b.Cleanup(func() {
			_ = file.Close()
			_, _ = kadm.NewClient(reader(b, brokers)).DeleteTopics(cleaningUp(b), append(topics, PositionTopic(cfg.RelayID, cfg.Lane))...)
		})
		var inFile, inBus checkpoint.Checkpoint
		ways := []struct {
			name    string
			deliver publishFunc
		}{
			{"at_least_once", func(ctx context.Context, page []sink.Message) (err error) {
				if err = plain.Publish(ctx, page); err == nil {
					inFile, err = file.Commit(ctx, inFile, checkpointtest.Full(1))
				}
				return err
			}},
			{"exactly_once", func(ctx context.Context, page []sink.Message) (err error) {
				inBus, err = ledger.Commit(ctx, page, inBus, checkpointtest.Full(1))
				return err
			}},
		}
		for _, size := range []int{100, 900} {
			page := lifelike(size, topics)
			for _, w := range ways {
				require.NoError(b, w.deliver(b.Context(), page)) // connections
			}
			b.Run(fmt.Sprintf("partitions=%d/page=%d", spread.topics*spread.partitions, size), func(b *testing.B) {
				took := make([][]time.Duration, len(ways))
				for range b.N {
					for i, w := range ways {
						started := time.Now()
						require.NoError(b, w.deliver(b.Context(), page))
						took[i] = append(took[i], time.Since(started))
					}
				}
				rates := make([]float64, len(ways))
				for i, w := range ways {
					slices.Sort(took[i])
					rates[i] = float64(size) / took[i][len(took[i])/2].Seconds()
					b.ReportMetric(rates[i], w.name+"-events/s")
				}
				b.ReportMetric(rates[1]/rates[0], "ratio")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
