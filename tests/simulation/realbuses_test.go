//go:build unix

package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
	"workos-relay/sink"
	"workos-relay/sink/kafka"
	"workos-relay/sink/nats"
	"workos-relay/tests/testkit"
)

// laneUser is one of two relays on one lane: what it asks of the bus, and what it knows.
type laneUser struct {
	ledger sink.Ledger
	seen   []checkpoint.Checkpoint // that the bus has returned, the zero value first
}

// script has two ledgers of a lane, each of which may be overtaken, do what a seed says, and
// returns what the bus answered. Which position a commit replaces is chosen among all that its
// ledger has seen.
func script(ctx context.Context, seed uint64, topic string, ledgers [2]sink.Ledger) (answers []string) {
	r := rand.New(rand.NewPCG(seed, 2))
	users := [2]*laneUser{}
	for i, l := range ledgers {
		users[i] = &laneUser{l, []checkpoint.Checkpoint{{}}}
	}
	events := 0
	for step := range 60 {
		i := r.IntN(2)
		u, what := users[i], r.IntN(10)
		back, n := r.IntN(3), r.IntN(4)
		if r.IntN(3) > 0 {
			back = 0
		}
		var cp checkpoint.Checkpoint
		var err error
		name := "commit"
		switch {
		case what < 3:
			name = "load"
			cp, err = u.ledger.Load(ctx)
		case what < 5:
			name = "fence"
			err = u.ledger.Fence(ctx)
		default:
			prev := u.seen[max(len(u.seen)-1-back, 0)]
			next := checkpointtest.Full(step)
			next.Holder, next.Snapshot, next.Refused = fmt.Sprint(i), nil, nil
			var batch []sink.Message
			for range n {
				events++
				id := fmt.Sprintf("event_%d", events)
				batch = append(batch, sink.Message{
					Topic: topic, Key: []byte("key"), Body: []byte(`{}`), Headers: []sink.Header{{Key: "event-id", Value: id}}, Position: checkpoint.Position{EventID: id},
				})
			}
			cp, err = u.ledger.Commit(ctx, batch, prev, next)
		}
		if err == nil && name != "fence" {
			u.seen = append(u.seen, cp)
		}
		answers = append(answers, fmt.Sprintf("%d: %s by %d: %s %s", step, name, i, kindOf(err), cp.EventID))
	}
	return answers
}

// kindOf is what an error means to a lane.
func kindOf(err error) string {
	for _, known := range []error{checkpoint.ErrConflict, checkpoint.ErrNotFound, checkpoint.ErrLost, checkpoint.ErrForeign, checkpoint.ErrCorrupt} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	if err != nil {
		return "fails"
	}
	return "done"
}

// simulatedScript runs a script on a simulated bus, and returns the answers and the ids of what is
// stored.
func simulatedScript(t *testing.T, bus string, seed uint64) (answers, stored []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := calm(bus)
		var ledgers [2]sink.Ledger
		for i := range ledgers {
			_, ledgers[i] = w.bus.open(w.user())
			switch l := ledgers[i].(type) {
			case *jetLedger:
				l.id = checkpointtest.Identity()
			case *kafkaLedger:
				l.id = checkpointtest.Identity()
			}
			require.NoError(t, ledgers[i].Prepare(t.Context(), []string{"events"}))
		}
		answers = script(t.Context(), seed, "events", ledgers)
		time.Sleep(time.Second) // transactions are marked
		w.mu.Lock()
		defer w.mu.Unlock()
		w.bus.read(func(_ string, _ uint64, m *sink.Message) { stored = append(stored, idOf(m)) })
	})
	return answers, stored
}

// realScript runs a script on a real bus.
func realScript(t *testing.T, seed uint64, open func(t *testing.T) (sink.Sink, sink.Ledger)) (answers, stored []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patient)
	defer cancel()
	var ledgers [2]sink.Ledger
	var reader sink.Sink
	topic := fmt.Sprintf("events%d", seed)
	for i := range ledgers {
		reader, ledgers[i] = open(t)
		require.NoError(t, ledgers[i].Prepare(ctx, []string{topic}))
	}
	answers = script(ctx, seed, topic, ledgers)
	scanner := reader.(sink.Scanner)
	logs, err := scanner.Logs(ctx, []string{topic}, time.Time{})
	require.NoError(t, err)
	for _, log := range logs {
		require.NoError(t, scanner.Scan(ctx, log, func(m *sink.Stored) error {
			if m.Topic == topic {
				stored = append(stored, m.Header("event-id"))
			}
			return nil
		}))
	}
	return answers, stored
}

// TestSimulatedBusesAnswerAsTheRealOnes has two ledgers of one lane do the same on a simulated bus
// and on a real one: they are answered alike, and the same is stored. Kafka is Apache's if
// RELAY_TEST_KAFKA names one.
func TestSimulatedBusesAnswerAsTheRealOnes(t *testing.T) {
	t.Parallel()
	const seeds = 6
	id := checkpointtest.Identity()
	t.Run("jetstream", func(t *testing.T) {
		t.Parallel()
		for seed := range uint64(seeds) {
			srv, err := server.NewServer(&server.Options{
				Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
				JetStreamLimits: server.JSLimitOpts{MaxBatchTimeout: testkit.Patient},
			})
			require.NoError(t, err)
			srv.Start()
			require.True(t, srv.ReadyForConnections(testkit.Patient))
			answers, stored := realScript(t, seed, func(t *testing.T) (sink.Sink, sink.Ledger) {
				s, err := nats.New(t.Context(), nats.Config{URL: srv.ClientURL(), AckTimeout: testkit.Patient, Create: nats.Create{Enabled: true, Replicas: 1}})
				require.NoError(t, err)
				t.Cleanup(func() { _ = s.Close() })
				return s, s.Ledger(id)
			})
			srv.Shutdown()
			requireAlike(t, "jetstream", seed, answers, stored)
		}
	})
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		var brokers []string
		if address := os.Getenv("RELAY_TEST_KAFKA"); address != "" {
			brokers = strings.Split(address, ",")
		} else {
			c, err := kfake.NewCluster(kfake.NumBrokers(1))
			require.NoError(t, err)
			t.Cleanup(c.Close)
			brokers = c.ListenAddrs()
		}
		for seed := range uint64(seeds) {
			run := time.Now().UnixNano()
			answers, stored := realScript(t, seed, func(t *testing.T) (sink.Sink, sink.Ledger) {
				cfg := kafka.Config{
					Brokers: brokers, RelayID: fmt.Sprintf("simulated%d", run), Lane: fmt.Sprint(seed), TopicPrefix: fmt.Sprintf("simulated%d.", run),
					Create: kafka.Create{Enabled: true, Partitions: 1, ReplicationFactor: 1}, RequestTimeout: testkit.Patient, TransactionTimeout: testkit.Patient,
				}
				l, err := kafka.NewLedger(cfg, id)
				require.NoError(t, err)
				s, err := kafka.New(cfg)
				require.NoError(t, err)
				t.Cleanup(func() { _, _ = s.Close(), l.Close() })
				return s, l
			})
			requireAlike(t, "kafka", seed, answers, stored)
		}
	})
}

func requireAlike(t *testing.T, bus string, seed uint64, answers, stored []string) {
	t.Helper()
	simulated, there := simulatedScript(t, bus, seed)
	require.Equal(t, answers, simulated, "answers of %s, seed %d", bus, seed)
	require.Equal(t, stored, there, "stored in %s, seed %d", bus, seed)
}
