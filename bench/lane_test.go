package main

import (
	"context"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/sink/kafka"
	"workos-relay/sink/nats"
	"workos-relay/source"
)

// BenchmarkLane carries events through a lane within this process, for profiles; the Events API and
// the bus are separate processes. One iteration is one run through all events.
//
//	go test ./bench -run '^$' -bench Lane/nats -benchtime 5x -cpuprofile cpu.prof -memprofile mem.prof -memprofilerate 4096
func BenchmarkLane(b *testing.B) {
	const events = 100_000
	var api string
	server, err := startRole(b.Context(), &api, "api", "-events", strconv.Itoa(events))
	require.NoError(b, err)
	b.Cleanup(func() { _, _ = server.stop() })
	l := &lab{dir: b.TempDir()}
	b.Run("nats", func(b *testing.B) {
		benchmarkLane(b, api, events, func() (bus, sink.Sink) {
			server, err := l.newJetStream(b.Context(), atLeastOnce, false)
			require.NoError(b, err)
			s, err := nats.New(b.Context(), nats.Config{URL: server.(*jetStream).url, Create: nats.Create{Enabled: true}})
			require.NoError(b, err)
			return server, s
		})
	})
	b.Run("kafka", func(b *testing.B) {
		benchmarkLane(b, api, events, func() (bus, sink.Sink) {
			server, err := newKfake(b.Context(), atLeastOnce)
			require.NoError(b, err)
			s, err := kafka.New(kafka.Config{
				Brokers: server.brokers, Compression: "lz4", ClientID: "bench", RequestTimeout: 10 * time.Second, TransactionTimeout: 15 * time.Second,
				Create: kafka.Create{Enabled: true, Partitions: 6, ReplicationFactor: 1},
			})
			require.NoError(b, err)
			return server, s
		})
	})
}

func benchmarkLane(b *testing.B, api string, events int, open func() (bus, sink.Sink)) {
	var before, after runtime.MemStats
	var allocs, bytes uint64
	var cpu time.Duration
	for range b.N {
		b.StopTimer()
		server, s := open()
		lane, stop := newLane(b, api, s)
		ctx, cancel := context.WithCancel(b.Context())
		lane.Observer = &until{events: events, reached: cancel}
		runtime.ReadMemStats(&before)
		used := cpuTime()
		b.StartTimer()
		require.NoError(b, lane.Run(ctx))
		b.StopTimer()
		cpu += cpuTime() - used
		runtime.ReadMemStats(&after)
		allocs, bytes = allocs+after.Mallocs-before.Mallocs, bytes+after.TotalAlloc-before.TotalAlloc
		stop()
		require.NoError(b, s.Close())
		_, err := server.close()
		require.NoError(b, err)
	}
	total := float64(b.N * events)
	b.ReportMetric(total/b.Elapsed().Seconds(), "events/s")
	b.ReportMetric(float64(cpu.Nanoseconds())/total, "cpu-ns/event")
	b.ReportMetric(float64(allocs)/total, "allocs/event")
	b.ReportMetric(float64(bytes)/total, "B/event")
}

// newLane puts a lane together as cmd/relay does.
func newLane(b *testing.B, api string, s sink.Sink) (l *pipeline.Lane, stop func()) {
	types, err := source.Expand([]string{"*"})
	require.NoError(b, err)
	r, err := router.New(router.Config{Relay: "bench"})
	require.NoError(b, err)
	id := checkpoint.Identity{Relay: "bench", Lane: "bench", Endpoint: api, Destination: s.Identity()}
	store, err := checkpoint.OpenFile(b.TempDir(), id)
	require.NoError(b, err)
	return &pipeline.Lane{
		Name:   "bench",
		Source: &source.Stream{Client: &source.Client{APIKey: apiKey, Endpoint: api}, Events: types},
		Router: r,
		Target: &pipeline.AtLeastOnce{Sink: s, Store: store, Ownership: pipeline.Ownership{
			Topics: r.Topics(types), Identity: id, Holder: store.Holder(), Events: types,
			Origin: func(context.Context) (checkpoint.Position, error) { return checkpoint.Position{}, nil },
			Logger: zap.NewNop(),
		}},
	}, func() { require.NoError(b, store.Close()) }
}

// until is an Observer that waits for so many events.
type until struct {
	pipeline.NopObserver
	events  int
	reached func()
}

func (u *until) Committed(o pipeline.Outcome, _ checkpoint.Checkpoint) {
	if u.events -= len(o.Events); u.events <= 0 {
		u.reached()
	}
}
