package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"workos-relay/checkpoint"
	"workos-relay/sink"
	"workos-relay/sink/kafka"
	"workos-relay/source/sourcetest"
)

// The environment of a child: where the cluster is, which relay it is, and how many events the
// source holds.
const (
	childBrokers = "RELAY_TEST_CHILD_BROKERS"
	childRelay   = "RELAY_TEST_CHILD_RELAY"
	childEvents  = "RELAY_TEST_CHILD_EVENTS"
)

// TestChild is a relay in its own process, to be killed.
func TestChild(t *testing.T) {
	if os.Getenv(childBrokers) == "" {
		t.Skip("only the tests that kill relays start it")
	}
	events, err := strconv.Atoi(os.Getenv(childEvents))
	require.NoError(t, err)
	w := childWorld(t, strings.Split(os.Getenv(childBrokers), ","), os.Getenv(childRelay), events)
	lane := w.lane(t, "a", w.ledger(t))
	require.NoError(t, lane.Run(context.Background()))
}

func childWorld(t testing.TB, brokers []string, relay string, events int) *world {
	w := newWorld(t, brokers, 0)
	cfg := w.cfg
	cfg.RelayID = relay
	return worldOf(t, cfg, events)
}

// child starts a relay of this world.
func (w *world) child(t testing.TB) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$", "-test.count=1", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), childBrokers+"="+strings.Join(w.cfg.Brokers, ","), childRelay+"="+w.cfg.RelayID, childEvents+"="+strconv.Itoa(w.events))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	return cmd
}

func killed(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit, "the relay ended by itself: %s", cmd.Stdout)
	require.Equal(t, -1, exit.ExitCode(), "the relay ended by itself: %s", cmd.Stdout)
}

// TestKilledInATransaction kills a relay at a chosen request of a transaction: when the broker has
// received it, and does it or not. Each time another process of the same relay takes over at once.
func TestKilledInATransaction(t *testing.T) {
	t.Parallel()
	c := kafka.Fake(t)
	w := childWorld(t, c.ListenAddrs(), kafka.UniqueLane(t, nil).RelayID, 3000)
	kills := 0
	for _, key := range []kmsg.Key{kmsg.InitProducerID, kmsg.AddPartitionsToTxn, kmsg.Produce, kmsg.EndTxn} {
		for _, applied := range []bool{true, false} {
			for _, nth := range []int{1, 4} {
				if key == kmsg.InitProducerID && nth > 1 {
					continue // once to a process
				}
				w.killAt(t, c, key, nth, applied)
				kills++
			}
		}
	}
	require.Greater(t, kills, 13)
	w.takeOver(t, "a")
	require.Positive(t, aborted(t, w), "no kill left a transaction open")
}

// killAt runs a relay until it sends the n-th request of a kind that belongs to a transaction, and
// kills it there.
func (w *world) killAt(t testing.TB, c *kfake.Cluster, key kmsg.Key, nth int, applied bool) {
	var mu sync.Mutex
	var process *os.Process
	seen := 0
	mu.Lock() // until the process is known
	c.ControlKey(key.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
		mu.Lock()
		defer mu.Unlock()
		if p, ok := req.(*kmsg.ProduceRequest); ok && p.TransactionID == nil { // Prepare asks whether it may
			c.KeepControl()
			return nil, nil, false
		}
		if seen++; seen < nth {
			c.KeepControl()
			return nil, nil, false
		}
		c.DropControl()
		_ = process.Kill()
		if applied {
			return nil, nil, false
		}
		return nil, errors.New("cut"), true
	})
	cmd := w.child(t)
	process = cmd.Process
	mu.Unlock()
	killed(t, cmd)
}

// takeOver lets a relay finish in this process.
func (w *world) takeOver(t testing.TB, holder string) {
	lane := w.lane(t, holder, w.ledger(t))
	stop := start(t, lane)
	w.finish(t, lane)
	stop()
	w.requireExactlyOnce(t)
}

// aborted counts the ends of aborted transactions.
func aborted(t testing.TB, w *world) int {
	topic := kafka.PositionTopic(w.cfg.RelayID, w.cfg.Lane)
	cl := kafka.Reader(t, w.cfg.Brokers, kgo.ConsumeTopics(topic), kgo.KeepControlRecords(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx := kafka.Within(t, kafka.Patient)
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	require.NoError(t, err)
	end, found := ends.Lookup(topic, 0)
	require.True(t, found)
	require.NoError(t, end.Err)
	n := 0
	for at := int64(0); at < end.Offset; {
		fetches := cl.PollFetches(ctx)
		require.NoError(t, fetches.Err0())
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Attrs.IsControl() && len(r.Key) == 4 && r.Key[3] == 0 {
				n++
			}
			at = r.Offset + 1
		})
	}
	return n
}

// TestKilledAnywhere kills relays at random moments after they have begun to commit, on the real
// broker too.
func TestKilledAnywhere(t *testing.T) {
	for name, brokers := range map[string]func(testing.TB) []string{
		"real": kafka.RealBrokers,
	} {
		t.Run(name, func(t *testing.T) {
			w := childWorld(t, brokers(t), kafka.UniqueLane(t, nil).RelayID, 40_000)
			watch := w.ledger(t)
			ids := w.api.IDs(sourcetest.Filter{})
			last := ids[len(ids)-1]
			kills := 0
			for range 16 {
				before, err := watch.Load(t.Context())
				if err != nil {
					require.ErrorIs(t, err, checkpoint.ErrNotFound)
				}
				if before.EventID == last { // there is nothing more to commit
					break
				}
				kills++
				cmd := w.child(t)
				require.Eventually(t, func() bool {
					now, err := watch.Load(t.Context())
					return err == nil && now.EventID != before.EventID
				}, kafka.Patient, time.Millisecond)
				<-time.After(time.Duration(rand.IntN(100)) * time.Millisecond)
				require.NoError(t, cmd.Process.Kill())
				killed(t, cmd)
			}
			at, err := watch.Load(t.Context())
			require.NoError(t, err)
			w.takeOver(t, "a")
			t.Logf("%d kills, the last at %s; %d transactions aborted", kills, at.Position, aborted(t, w))
		})
	}
}

// TestRealLaneWhileBrokersDie kills one of three brokers after the other, and with it the
// coordinator and the leaders that it was.
func TestRealLaneWhileBrokersDie(t *testing.T) {
	c := kafka.RealCluster(t)
	w := newWorld(t, c.Brokers(), 60_000)
	w.cfg.Create.ReplicationFactor = 3
	w.cfg.Create.Config = map[string]string{"min.insync.replicas": "2"}
	w.cfg.RequestTimeout = 5 * time.Second
	lane := w.lane(t, "a", w.ledger(t))
	stop := start(t, lane)
	require.Eventually(t, func() bool { return lane.Status().Events > 100 }, kafka.Patient, time.Millisecond)
	kills := 0
	for lane.Status().Events < 50_000 && kills < 6 {
		c.KillAndStart(t, int32(1+kills%3), append(w.topics(), kafka.PositionTopic(w.cfg.RelayID, w.cfg.Lane))...)
		kills++
	}
	t.Logf("%d brokers killed, %d events through by then", kills, lane.Status().Events)
	w.finish(t, lane)
	stop()
	w.requireExactlyOnce(t)
	t.Logf("%d transactions aborted", aborted(t, w))
}

var _ sink.Ledger = (*kafka.Ledger)(nil)
