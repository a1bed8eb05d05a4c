package kafka_test

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/sink/kafka"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// world is an Events API, a cluster, and the configuration of a lane between them that is this
// test's own.
type world struct {
	cfg    kafka.Config
	events int
	api    *sourcetest.Server
	types  []string
	park   bool
}

func newWorld(t testing.TB, brokers []string, events int) *world {
	cfg := kafka.UniqueLane(t, brokers)
	cfg.Logger = zap.NewNop()
	return worldOf(t, cfg, events)
}

// worldOf is the same world for the same cfg.RelayID, in another process too.
func worldOf(t testing.TB, cfg kafka.Config, events int) *world {
	cfg.TopicPrefix = cfg.RelayID + "."
	cfg.Create.Partitions = 3
	types, err := source.Expand([]string{"*"})
	require.NoError(t, err)
	return &world{
		cfg: cfg, events: events, types: types,
		api: sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{
			Events: events, Seed: 7, Start: time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC), InMemory: true,
		})),
	}
}

func (w *world) topics() []string {
	return []string{w.cfg.TopicPrefix + "directory", w.cfg.TopicPrefix + "rest", w.cfg.TopicPrefix + "dead"}
}

func (w *world) identity() checkpoint.Identity {
	return checkpoint.Identity{Relay: w.cfg.RelayID, Lane: w.cfg.Lane, Endpoint: "https://api.example.com", Destination: w.cfg.Identity()}
}

func (w *world) ledger(t testing.TB) *kafka.Ledger {
	l, err := kafka.NewLedger(w.cfg, w.identity())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

// lane is a real lane of one relay, in batches of a page.
func (w *world) lane(t testing.TB, holder string, ledger sink.Ledger) *pipeline.Lane {
	r, err := router.New(router.Config{
		Relay: w.cfg.RelayID, Prefix: w.cfg.TopicPrefix, Binding: router.Kafka, DeadLetter: "dead",
		Routes: []router.Route{{Events: []string{"dsync.*"}, Topic: "directory"}, {Events: []string{"*"}, Topic: "rest"}},
	})
	require.NoError(t, err)
	return &pipeline.Lane{
		Logger: laneLog,
		Name:   w.cfg.Lane, Router: r, Holder: holder, BatchMessages: 100, Park: w.park, ShutdownTimeout: kafka.Patient,
		Source: &source.Stream{
			Client: &source.Client{APIKey: sourcetest.DefaultAPIKey, HTTPClient: w.api.Client()},
			Events: w.types, PollInterval: 20 * time.Millisecond,
		},
		Target: &pipeline.ExactlyOnce{Ledger: ledger, Ownership: pipeline.Ownership{
			Topics: w.topics(), Identity: w.identity(), Holder: holder, Events: w.types, Logger: zap.NewNop(),
			Origin: func(context.Context) (checkpoint.Position, error) { return checkpoint.Position{}, nil },
		}},
	}
}

// start runs a lane; the returned function stops it in order.
func start(t testing.TB, lane *pipeline.Lane) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- lane.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		require.NoError(t, <-done)
	}
	t.Cleanup(func() { cancel() })
	return stop
}

// finish waits until the lane has committed every event.
func (w *world) finish(t testing.TB, lanes ...*pipeline.Lane) {
	t.Helper()
	ids := w.api.IDs(sourcetest.Filter{})
	last := ids[len(ids)-1]
	ctx := kafka.Within(t, kafka.Patient)
	for {
		for _, l := range lanes {
			if s := l.Status(); s.Checkpoint.EventID == last {
				return
			}
		}
		select {
		case <-ctx.Done():
			for _, l := range lanes {
				t.Logf("%+v", l.Status())
			}
			require.Fail(t, "the lane did not get through")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// requireExactlyOnce reads what a consumer sees that reads committed: every event of the source
// once, in the order of the source within each partition.
func (w *world) requireExactlyOnce(t testing.TB) {
	t.Helper()
	place := make(map[string]int)
	for i, id := range w.api.IDs(sourcetest.Filter{}) {
		place[id] = i
	}
	seen := make(map[string]int)
	type partition struct {
		topic  string
		number int32
	}
	last := make(map[partition]int)
	for _, r := range committed(t, w.cfg.Brokers, w.topics()...) {
		id := eventID(r)
		i, known := place[id]
		require.True(t, known, "%s is not an event of the source", id)
		seen[id]++
		p := partition{r.Topic, r.Partition}
		if before, ok := last[p]; ok {
			require.Greater(t, i, before, "order or duplicate in %s/%d: %s", r.Topic, r.Partition, id)
		}
		last[p] = i
	}
	lost, duplicates := 0, 0
	for id := range place {
		switch seen[id] {
		case 0:
			lost++
		case 1:
		default:
			duplicates++
		}
	}
	require.Zero(t, lost, "lost events of %d", len(place))
	require.Zero(t, duplicates, "duplicates")
}

func eventID(r *kgo.Record) string {
	for _, h := range r.Headers {
		if h.Key == "event-id" {
			return string(h.Value)
		}
	}
	return ""
}

// committed returns the committed records of the topics. No transaction may be left open.
func committed(t testing.TB, brokers []string, topics ...string) []*kgo.Record {
	t.Helper()
	ctx := kafka.Within(t, kafka.Patient)
	admin := kadm.NewClient(kafka.Reader(t, brokers))
	var ends kadm.ListedOffsets
	eventually(t, func(c *assert.CollectT) {
		var err error
		ends, err = kafka.Ends(ctx, admin, topics...)
		require.NoError(c, err)
		stable, err := admin.ListCommittedOffsets(ctx, topics...)
		require.NoError(c, err)
		ends.Each(func(o kadm.ListedOffset) {
			s, _ := stable.Lookup(o.Topic, o.Partition)
			require.NoError(c, s.Err)
			require.Equal(c, o.Offset, s.Offset, "a transaction is left open in %s/%d", o.Topic, o.Partition)
		})
	})
	partitions := make(map[string]map[int32]kgo.Offset)
	waiting := 0
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			if partitions[o.Topic] == nil {
				partitions[o.Topic] = make(map[int32]kgo.Offset)
			}
			partitions[o.Topic][o.Partition] = kgo.NewOffset().At(0)
			waiting++
		}
	})
	if waiting == 0 {
		return nil
	}
	cl := kafka.Reader(t, brokers, kgo.ConsumePartitions(partitions), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	var records []*kgo.Record
	for waiting > 0 {
		fetches := cl.PollFetches(ctx)
		require.NoError(t, fetches.Err0())
		fetches.EachError(func(topic string, p int32, err error) { require.NoError(t, err, "%s/%d", topic, p) })
		fetches.EachRecord(func(r *kgo.Record) {
			if end, _ := ends.Lookup(r.Topic, r.Partition); r.Offset == end.Offset-1 { // the end of a transaction
				waiting--
			}
			if !r.Attrs.IsControl() {
				records = append(records, r)
			}
		})
	}
	return records
}

// worlds are the clusters that whole lanes are tried on.
func worlds(t *testing.T, test func(t *testing.T, brokers []string)) {
	t.Run("fake", func(t *testing.T) { t.Parallel(); test(t, kafka.Fake(t).ListenAddrs()) })
	t.Run("fake at 3.9", func(t *testing.T) {
		t.Parallel()
		test(t, kafka.Fake(t, kfake.MaxVersions(kversion.V3_9_0())).ListenAddrs())
	})
	t.Run("real", func(t *testing.T) { test(t, kafka.RealBrokers(t)) })
}

func TestLaneIsExactlyOnce(t *testing.T) {
	t.Parallel()
	worlds(t, func(t *testing.T, brokers []string) {
		w := newWorld(t, brokers, 1500)
		lane := w.lane(t, "a", w.ledger(t))
		stop := start(t, lane)
		w.finish(t, lane)
		stop()
		w.requireExactlyOnce(t)
		ledger := w.ledger(t)
		require.Eventually(t, func() bool { // a broker answers a moment before the end of the transaction is written
			cp, err := ledger.Load(t.Context())
			return err == nil && cp.Released
		}, kafka.Patient, 10*time.Millisecond)
	})
}

// losePosition takes the position away, as a hand or a wrong setting may.
func (w *world) losePosition(t testing.TB, how string) {
	admin := kadm.NewClient(kafka.Reader(t, w.cfg.Brokers))
	topic := kafka.PositionTopic(w.cfg.RelayID, w.cfg.Lane)
	ctx := kafka.Within(t, kafka.Patient)
	if how == "deleted" {
		_, err := admin.DeleteTopic(ctx, topic)
		require.NoError(t, err)
		eventually(t, func(c *assert.CollectT) {
			found, err := admin.ListTopics(ctx)
			require.NoError(c, err)
			require.False(c, found.Has(topic))
		})
		return
	}
	setPolicy := func(policy string) {
		_, err := admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "cleanup.policy", Value: &policy}}, topic)
		require.NoError(t, err)
	}
	setPolicy("delete")
	ends, err := kafka.Ends(ctx, admin, topic)
	require.NoError(t, err)
	eventually(t, func(c *assert.CollectT) { // refused until the broker has taken the policy up
		res, err := admin.DeleteRecords(ctx, ends.Offsets())
		require.NoError(c, err)
		require.NoError(c, res.Error())
	})
	setPolicy("compact")
	eventually(t, func(c *assert.CollectT) {
		res, err := admin.DescribeTopicConfigs(ctx, topic)
		require.NoError(c, err)
		policy := slices.IndexFunc(res[0].Configs, func(entry kadm.Config) bool { return entry.Key == "cleanup.policy" })
		require.GreaterOrEqual(c, policy, 0)
		require.Equal(c, "compact", res[0].Configs[policy].MaybeValue())
	})
}

// eventually waits for what a broker has promised and takes up a moment later.
func eventually(t testing.TB, met func(c *assert.CollectT)) {
	t.Helper()
	require.EventuallyWithT(t, met, kafka.Patient, 10*time.Millisecond)
}

// laneLog shows what lanes go through, where RELAY_TEST_VERBOSE is set.
var laneLog = func() *zap.Logger {
	if os.Getenv("RELAY_TEST_VERBOSE") == "" {
		return zap.NewNop()
	}
	return zap.Must(zap.NewDevelopment())
}()
