package nats

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

const benchBatch, benchBody = 1000, 1500

func benchMessages() []sink.Message {
	batch := make([]sink.Message, benchBatch)
	body := []byte(`{"filler":"` + strings.Repeat("x", benchBody) + `"}`)
	for i := range batch {
		batch[i] = sink.Message{Topic: "dsync.user.created", Body: body, Headers: []sink.Header{
			{Key: "event-id"}, {Key: "event-type", Value: "dsync.user.created"},
			{Key: "event-created-at", Value: "2026-11-23T10:00:00.000Z"}, {Key: "organization-id", Value: "org_01EHZNVPK3SFK441A1RGBFSHRT"},
		}}
	}
	return batch
}

// number gives each message of the batch an id that was never used.
func number(batch []sink.Message, round int) {
	for i := range batch {
		batch[i].ID = fmt.Sprintf("event_%020d", round*len(batch)+i)
		batch[i].Headers[0].Value = batch[i].ID
	}
}

// BenchmarkPublish publishes batches of 1,000 messages of 1.5 KB; one operation is one message.
func BenchmarkPublish(b *testing.B) {
	for _, sync := range []string{"default", "always"} {
		for _, window := range []int{256, 1024, 4096} {
			b.Run(fmt.Sprintf("sync=%s/window=%d", sync, window), func(b *testing.B) {
				s := open(b, Config{URL: startProcess(b, sync).url(), Window: window, Create: Create{Enabled: true}})
				benchmarkSink(b, s)
			})
		}
	}
}

func BenchmarkEmbedded(b *testing.B) {
	for _, always := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync_always=%v", always), func(b *testing.B) {
			s := open(b, Config{URL: Embedded, Create: Create{Enabled: true},
				Embedded: EmbeddedConfig{Dir: b.TempDir(), Listen: "127.0.0.1:0", SyncAlways: always}})
			benchmarkSink(b, s)
		})
	}
}

func benchmarkSink(b *testing.B, s *Sink) {
	ctx := context.Background()
	batch := benchMessages()
	require.NoError(b, s.Prepare(ctx, []string{batch[0].Topic}))
	b.SetBytes(benchBody)
	b.ReportAllocs()
	round := 0
	for left := b.N; left > 0; left -= benchBatch {
		number(batch, round)
		round++
		require.NoError(b, s.Publish(ctx, batch[:min(left, benchBatch)]))
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}

// BenchmarkClientLibrary is the same with the asynchronous publishing of nats.go's jetstream
// package, for comparison.
func BenchmarkClientLibrary(b *testing.B) {
	url := startProcess(b, "default").url()
	s := open(b, Config{URL: url, Create: Create{Enabled: true}})
	ctx := context.Background()
	batch := benchMessages()
	require.NoError(b, s.Prepare(ctx, []string{batch[0].Topic}))
	js, err := jetstream.New(client(b, url).Conn(), jetstream.WithPublishAsyncMaxPending(4096), jetstream.WithPublishAsyncTimeout(10*time.Second))
	require.NoError(b, err)
	b.SetBytes(benchBody)
	b.ReportAllocs()
	b.ResetTimer()
	round := 0
	for left := b.N; left > 0; left -= benchBatch {
		number(batch, round)
		round++
		futures := make([]jetstream.PubAckFuture, 0, benchBatch)
		for i := range batch[:min(left, benchBatch)] {
			f, err := js.PublishMsgAsync(new(encoder).encode(&batch[i], "", true), jetstream.WithRetryAttempts(0))
			require.NoError(b, err)
			futures = append(futures, f)
		}
		for _, f := range futures {
			select {
			case <-f.Ok():
			case err := <-f.Err():
				require.NoError(b, err)
			}
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}
