package kafka_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/sink/kafka"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// stateWorld is an Events API with objects, and a lane that keeps all of them on a cluster.
type stateWorld struct {
	cfg    kafka.Config
	api    *sourcetest.Server
	types  []string
	router *router.Router
	topics []string
	memory *checkpoint.Memory // of at_least_once
}

func newStateWorld(t testing.TB, brokers []string, seed uint64) *stateWorld {
	cfg := kafka.UniqueLane(t, brokers)
	cfg.Logger, cfg.TopicPrefix, cfg.Create.Partitions = zap.NewNop(), cfg.RelayID+".", 2
	types, err := source.Expand([]string{"*"})
	require.NoError(t, err)
	w := &stateWorld{cfg: cfg, types: types, api: sourcetest.New(sourcetest.WithWorld(sourcetest.WorldConfig{Seed: seed}))}
	w.router, err = router.New(router.Config{
		Relay: cfg.RelayID, Prefix: cfg.TopicPrefix, Binding: router.Kafka, State: []string{"*"}, Types: types,
		Routes: []router.Route{{Events: []string{"*"}, Topic: "events"}},
	})
	require.NoError(t, err)
	w.topics = []string{cfg.TopicPrefix + "events"}
	w.cfg.State = w.router.StateTopics()
	for _, s := range w.cfg.State {
		w.topics = append(w.topics, s.Topic)
	}
	w.memory = checkpoint.NewMemory(w.identity())
	return w
}

func (w *stateWorld) identity() checkpoint.Identity {
	return checkpoint.Identity{Relay: w.cfg.RelayID, Lane: w.cfg.Lane, Endpoint: "https://api.example.com", Destination: w.cfg.Identity()}
}

// process is a relay of the lane that can die at any moment.
type process struct {
	lane  *pipeline.Lane
	dead  atomic.Bool
	close func() error
	stop  context.CancelFunc
	done  chan error
}

// Commit stores nothing once the process is dead.
func (p *process) Commit(ctx context.Context, prev, next checkpoint.Checkpoint, store checkpoint.Store) (checkpoint.Checkpoint, error) {
	if p.dead.Load() {
		return checkpoint.Checkpoint{}, errors.New("the process is dead")
	}
	return store.Commit(ctx, prev, next)
}

type storeOf struct {
	checkpoint.Store
	*process
}

// Commit implements checkpoint.Store.
func (s storeOf) Commit(ctx context.Context, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	return s.process.Commit(ctx, prev, next, s.Store)
}

// start runs a lane as a separate process would, in batches of a few messages.
func (w *stateWorld) start(t testing.TB, mode checkpoint.Mode, holder string) *process {
	p := &process{done: make(chan error, 1)}
	owner := pipeline.Ownership{
		Topics: w.topics, Identity: w.identity(), Holder: holder, Events: w.types, Logger: zap.NewNop(),
		Origin: func(context.Context) (checkpoint.Position, error) { return checkpoint.Position{}, nil },
	}
	var target pipeline.Target
	if mode == checkpoint.ExactlyOnce {
		ledger, err := kafka.NewLedger(w.cfg, w.identity())
		require.NoError(t, err)
		target, p.close = &pipeline.ExactlyOnce{Ledger: ledger, Ownership: owner}, ledger.Close
	} else {
		s, err := kafka.New(w.cfg)
		require.NoError(t, err)
		target, p.close = &pipeline.AtLeastOnce{Sink: s, Store: storeOf{w.memory, p}, Ownership: owner}, s.Close
	}
	p.lane = &pipeline.Lane{
		Logger: laneLog, Name: w.cfg.Lane, Router: w.router, State: w.router, Holder: holder, BatchMessages: 7, ShutdownTimeout: kafka.Patient, Target: target,
		Source: &source.Stream{
			Client: &source.Client{APIKey: sourcetest.DefaultAPIKey, HTTPClient: w.api.Client()}, Events: w.types, PollInterval: 20 * time.Millisecond,
		},
	}
	ctx, cancel := context.WithCancel(t.Context())
	p.stop = cancel
	go func() { p.done <- p.lane.Run(ctx) }()
	t.Cleanup(cancel)
	return p
}

// kill ends the process without an order: its connections are gone, and it commits nothing more.
func (p *process) kill(t testing.TB) {
	p.dead.Store(true)
	require.NoError(t, p.close())
	p.stop()
	t.Log("the dead process would have returned", <-p.done)
}

// TestStateIsTheWorld lets random worlds change while lanes that keep their state are killed one
// after the other. Once every event is carried, the newest value of each key is the object that the
// world has, and what the world does not have was removed, except for what went with a directory,
// without events.
func TestStateIsTheWorld(t *testing.T) {
	t.Parallel()
	for _, mode := range []checkpoint.Mode{checkpoint.ExactlyOnce, checkpoint.AtLeastOnce} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprint(mode, " ", seed), func(t *testing.T) {
				t.Parallel()
				w := newStateWorld(t, kafka.Fake(t).ListenAddrs(), seed)
				r := rand.New(rand.NewPCG(seed, 16)) //nolint:gosec // a test's choices
				for n := range 6 {
					for range 60 {
						w.api.World().Change()
					}
					p := w.start(t, mode, fmt.Sprint("relay ", n))
					if n == 0 { // a first start prepares the topics
						require.Eventually(t, func() bool { return p.lane.Status().State == pipeline.Running }, kafka.Patient, 5*time.Millisecond)
					}
					time.Sleep(time.Duration(r.IntN(60)) * time.Millisecond)
					for range 20 {
						w.api.World().Change()
					}
					time.Sleep(time.Duration(r.IntN(40)) * time.Millisecond)
					p.kill(t)
				}
				ids := w.api.IDs(sourcetest.Filter{})
				last := w.start(t, mode, "last")
				require.Eventually(t, func() bool { return last.lane.Status().Checkpoint.EventID == ids[len(ids)-1] }, kafka.Patient, 5*time.Millisecond)
				last.stop()
				require.NoError(t, <-last.done)
				w.requireWorld(t)
				require.NoError(t, last.close())
			})
		}
	}
}

// requireWorld compares what a consumer that reads committed has gathered with the world.
func (w *stateWorld) requireWorld(t testing.TB) {
	t.Helper()
	s, err := kafka.New(w.cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	have := map[string]map[string]string{}
	ctx := kafka.Within(t, kafka.Patient)
	logs, err := s.Logs(ctx, w.topics[1:], time.Time{})
	require.NoError(t, err)
	for _, log := range logs {
		entity := strings.TrimPrefix(log.Topic, w.cfg.TopicPrefix+router.StatePrefix)
		require.NoError(t, s.Scan(ctx, log, func(m *sink.Stored) error {
			if have[entity] == nil {
				have[entity] = map[string]string{}
			}
			delete(have[entity], string(m.Key))
			if m.Body != nil {
				have[entity][string(m.Key)] = string(m.Body)
			}
			return nil
		}))
	}
	world := w.api.World().State()
	for entity, objects := range world {
		for key, o := range objects {
			value, there := have[entity][key]
			require.True(t, there, "%s %s is missing", entity, key)
			if entity != "directory_group_membership" { // its user and group may have changed since
				require.Equal(t, string(o.Data), value, "%s %s", entity, key)
			}
			delete(have[entity], key)
		}
	}
	for entity, rest := range have {
		for key, value := range rest {
			var object struct {
				Directory string `json:"directory_id"`
			}
			require.NoError(t, json.Unmarshal([]byte(value), &object))
			require.True(t, slices.Contains([]string{"directory_user", "directory_group", "directory_group_membership"}, entity), "%s %s does not exist any more", entity, key)
			require.NotContains(t, world["directory"], object.Directory, "%s %s does not exist any more", entity, key)
		}
	}
}
