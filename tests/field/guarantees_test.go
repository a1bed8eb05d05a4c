//go:build unix

package field

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"workos-relay/internal/testaddr"
	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

// lane is a relay with one lane and the defaults, apart from what a guarantee is about.
type lane struct {
	*relay
	api   *sourcetest.Server
	lists func() [][]string // what the bus holds: the event ids of each list that has an order
}

// onEachBus runs a test with a lane on NATS and one on Kafka. more is added to the keys of the
// sink.
func onEachBus(t *testing.T, events int, more string, test func(t *testing.T, l *lane)) {
	t.Helper()
	t.Run("nats", func(t *testing.T) {
		t.Parallel()
		l, _, _ := natsLane(t, events, more)
		test(t, l)
	})
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		l, _ := kafkaLane(t, events, more)
		test(t, l)
	})
}

func natsLane(t *testing.T, events int, more string) (*lane, *natsServer, jetstream.JetStream) {
	t.Helper()
	api, bus := newAPI(t, backlog(events)), newNATS(t, nil)
	js := bus.connect(t)
	l := natsLaneAt(t, api, bus.URL, js, more)
	return l, bus, js
}

func natsLaneAt(t *testing.T, api *sourcetest.Server, url string, js jetstream.JetStream, more string) *lane {
	t.Helper()
	text := strings.Replace(natsConfig(api.URL(), url), "}]", more+"}]", 1)
	return &lane{relay: newRelay(t, "relay", text), api: api, lists: func() [][]string { return [][]string{eventIDs(t, js, stream)} }}
}

func kafkaLane(t *testing.T, events int, more string) (*lane, *kafka) {
	t.Helper()
	api, bus := newAPI(t, backlog(events)), newKfake(t, kfake.NumBrokers(3))
	return &lane{relay: newRelay(t, "relay", bus.config(api.URL(), more)), api: api, lists: func() [][]string {
		var lists [][]string
		for _, records := range bus.read(t) {
			var ids []string
			for _, r := range records {
				for _, h := range r.Headers {
					if h.Key == "event-id" {
						ids = append(ids, string(h.Value))
					}
				}
			}
			lists = append(lists, ids)
		}
		return lists
	}}, bus
}

// last is the id of the newest event.
func (l *lane) last() string {
	ids := l.api.IDs(sourcetest.Filter{})
	return ids[len(ids)-1]
}

// AwaitAll waits until relay says that it has committed everything.
func (l *lane) AwaitAll(t *testing.T, r *relay) {
	t.Helper()
	last := l.last()
	r.Await(t, func() bool { return r.Lane("").Position.EventID == last }, "everything is committed")
}

// requireAll requires that the bus holds every event, in the order of the API, with no more copies
// than that. What was published a second time does not count for the order.
func (l *lane) requireAll(t *testing.T, copies int) {
	t.Helper()
	index := map[string]int{}
	for i, id := range l.api.IDs(sourcetest.Filter{}) {
		index[id] = i
	}
	seen, messages := map[string]bool{}, 0
	for _, list := range l.lists() {
		before := -1
		for _, id := range list {
			messages++
			at, known := index[id]
			require.True(t, known, id)
			if !seen[id] {
				require.Greater(t, at, before, "%s is out of order", id)
				before = at
			}
			seen[id] = true
		}
	}
	require.Len(t, seen, len(index), "events are missing")
	require.LessOrEqual(t, messages-len(seen), copies, "copies")
}

// TestRelayIsKilledAtAnyMoment: nothing is lost and nothing comes out of order in either mode; in
// exactly_once nothing comes twice.
//
// P2: the order survives every kill.
// P5: and so does each event, once.
// P7: in at_least_once what was in flight comes twice.
func TestRelayIsKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	const kills = 8
	for name, c := range map[string]struct {
		more   string
		copies int
	}{"auto": {"", 0}, "at_least_once": {", delivery: at_least_once", kills * 3000}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEachBus(t, 5000, c.more, func(t *testing.T, l *lane) {
				for range kills {
					l.Start(t)
					time.Sleep(100*time.Millisecond + rand.N(400*time.Millisecond)) //nolint:gosec // a moment, not a secret
					l.Kill()
				}
				l.Start(t)
				l.AwaitAll(t, l.relay)
				require.Equal(t, exitDone, l.Stop(t))
				l.requireAll(t, c.copies)
			})
		})
	}
}

// TestTheBusRestartsUnderLoad: a server of NATS that goes away and comes back, and leaders of Kafka
// that move, cost time alone.
func TestTheBusRestartsUnderLoad(t *testing.T) {
	t.Parallel()
	t.Run("nats", func(t *testing.T) {
		t.Parallel()
		l, bus, js := natsLane(t, 20_000, "")
		l.Start(t)
		for n := 2000; n <= 8000; n += 3000 {
			l.Await(t, func() bool { return countEvents(js, stream) >= n }, "%d events are stored", n)
			bus.restart(t)
		}
		l.AwaitAll(t, l.relay)
		require.Equal(t, exitDone, l.Stop(t))
		l.requireAll(t, 0)
	})
	for _, mode := range []string{"auto", "at_least_once"} {
		t.Run("kafka, "+mode, func(t *testing.T) {
			t.Parallel()
			l, bus := kafkaLane(t, 5000, ", delivery: "+mode)
			l.Start(t)
			for range 8 {
				time.Sleep(200 * time.Millisecond)
				bus.Fake.ShufflePartitionLeaders()
			}
			l.AwaitAll(t, l.relay)
			require.Equal(t, exitDone, l.Stop(t))
			l.requireAll(t, 0)
		})
	}
}

// TestAServerOfThreeGoesAway: a leader that steps down, and the end of the server that leads, cost
// time alone.
func TestAServerOfThreeGoesAway(t *testing.T) {
	t.Parallel()
	cluster := newNATSCluster(t)
	js := cluster[0].connect(t)
	api := newAPI(t, backlog(10_000))
	urls := cluster[0].URL + "," + cluster[1].URL + "," + cluster[2].URL
	l := natsLaneAt(t, api, urls, js, ", create: {replicas: 3}")
	l.lists = func() [][]string { return [][]string{eventIDs(t, js, stream)} }
	l.Start(t)
	l.Await(t, func() bool { return countEvents(js, stream) >= 1000 }, "events are stored")
	l.Await(t, func() bool { return stepDown(js) == nil }, "the leader steps down")
	l.Await(t, func() bool { return countEvents(js, stream) >= 3000 }, "it goes on under another leader")
	var leader string
	l.Await(t, func() bool { leader = leaderOf(js); return leader != "" }, "a server leads")
	for _, s := range cluster {
		if s.Name() != leader {
			js = s.connect(t)
		}
	}
	for _, s := range cluster {
		if s.Name() == leader {
			s.Shutdown()
		}
	}
	appendEvents(t, api, "user.created", 10, 0)
	l.AwaitAll(t, l.relay)
	require.Equal(t, exitDone, l.Stop(t))
	l.requireAll(t, 0)
}

// newNATSCluster starts three servers n0, n1 and n2 of the cluster three, with the tags zone-0,
// zone-1 and zone-2.
func newNATSCluster(t *testing.T) []*natsServer {
	t.Helper()
	ports := []int{testaddr.Port(t), testaddr.Port(t), testaddr.Port(t)}
	var routes []string
	for _, p := range ports {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", p))
	}
	var all []*natsServer
	started := make(chan *natsServer, len(ports))
	for i, p := range ports {
		opts := server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: testaddr.Port(t), JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
			AuthTimeout: patient.Seconds(),
			Cluster:     server.ClusterOpts{Name: "three", Host: "127.0.0.1", Port: p}, Routes: server.RoutesFromStr(strings.Join(routes, ",")),
			Tags: jwt.TagList{fmt.Sprintf("zone-%d", i)},
		}
		n := &natsServer{opts: opts}
		n.start(t)
		t.Cleanup(func() { n.Shutdown(); n.WaitForShutdown() })
		started <- n
		all = append(all, n)
	}
	require.Eventually(t, func() bool {
		for _, n := range all {
			if n.JetStreamIsLeader() {
				return len(n.JetStreamClusterPeers()) == len(all)
			}
		}
		return false
	}, patient, often, "the cluster has a leader that knows all servers")
	return all
}

func leaderOf(js jetstream.JetStream) string {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil || s.CachedInfo().Cluster == nil {
		return ""
	}
	return s.CachedInfo().Cluster.Leader
}

// stepDown makes the leader of the stream step down. Nobody answers if there is none at the moment.
func stepDown(js jetstream.JetStream) error {
	_, err := js.Conn().Request("$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil, 10*time.Second)
	return err
}

// TestARelayThatWasStoppedWakesUp: with the default takeover_after another relay takes over from
// one that stands still, and what the first does when it wakes up is refused.
func TestARelayThatWasStoppedWakesUp(t *testing.T) {
	t.Parallel()
	onEachBus(t, 500, "", func(t *testing.T, l *lane) {
		a, b := l.relay, l.twin(t, "twin")
		a.Start(t)
		l.AwaitAll(t, a)
		b.Start(t)
		b.AwaitState(t, "", pipeline.Standby)
		a.Pause()
		appendEvents(t, l.api, "user.created", 100, 0)
		l.AwaitAll(t, b)
		appendEvents(t, l.api, "user.created", 100, 0)
		a.Resume()
		a.AwaitState(t, "", pipeline.Standby)
		appendEvents(t, l.api, "user.created", 100, 0)
		l.AwaitAll(t, b)
		require.Equal(t, exitDone, b.Stop(t)) // it releases the position
		appendEvents(t, l.api, "user.created", 100, 0)
		l.AwaitAll(t, a)
		require.Equal(t, exitDone, a.Stop(t))
		l.requireAll(t, 0)
	})
}

// TestAWriteIsHeldBackUntilAnotherHasTakenOver: the network delivers it too late, and it is refused
// as a whole.
func TestAWriteIsHeldBackUntilAnotherHasTakenOver(t *testing.T) {
	t.Parallel()
	api, bus := newAPI(t, backlog(100)), newNATS(t, nil)
	js := bus.connect(t)
	link := testkit.NewLink(t, "127.0.0.1:0", strings.TrimPrefix(bus.URL, "nats://"))
	l := natsLaneAt(t, api, "nats://"+link.Address, js, "")
	b := l.twin(t, "twin")
	text, err := os.ReadFile(b.Config)
	require.NoError(t, err)
	b.WriteConfig(t, strings.Replace(string(text), "nats://"+link.Address, bus.URL, 1))
	l.Start(t)
	l.AwaitAll(t, l.relay)
	b.Start(t)
	b.AwaitState(t, "", pipeline.Standby)
	link.Set(testkit.Weather{Silent: true})
	appendEvents(t, api, "user.created", 100, 0)
	l.AwaitAll(t, b)
	link.Set(testkit.Weather{})
	l.AwaitState(t, "", pipeline.Standby)
	appendEvents(t, api, "user.created", 100, 0)
	l.AwaitAll(t, b)
	require.Equal(t, exitDone, b.Stop(t))
	require.Equal(t, exitDone, l.Stop(t))
	l.requireAll(t, 0)
}

// TestAnOutageLongerThanTheDuplicateWindow: exactly_once does not depend on the window.
func TestAnOutageLongerThanTheDuplicateWindow(t *testing.T) {
	t.Parallel()
	api, bus := newAPI(t, backlog(20_000)), newNATS(t, nil)
	js := bus.connect(t)
	link := testkit.NewLink(t, "127.0.0.1:0", strings.TrimPrefix(bus.URL, "nats://"))
	l := natsLaneAt(t, api, "nats://"+link.Address, js, ", duplicate_window: 1s")
	l.Start(t)
	for n := 1000; n <= 5000; n += 2000 {
		l.Await(t, func() bool { return countEvents(js, stream) >= n }, "%d events are stored", n)
		link.Set(testkit.Weather{Cut: true})
		time.Sleep(1500 * time.Millisecond)
		link.Set(testkit.Weather{})
	}
	l.AwaitAll(t, l.relay)
	require.Equal(t, exitDone, l.Stop(t))
	l.requireAll(t, 0)
}

// TestConnectionsBreakUnderLoad: in at_least_once events may come too early and once more in their
// place, so that a consumer that reads the copies too has the whole order.
func TestConnectionsBreakUnderLoad(t *testing.T) {
	t.Parallel()
	api, bus := newAPI(t, backlog(20_000)), newNATS(t, nil)
	js := bus.connect(t)
	link := testkit.NewLink(t, "127.0.0.1:0", strings.TrimPrefix(bus.URL, "nats://"))
	l := natsLaneAt(t, api, "nats://"+link.Address, js, ", delivery: at_least_once")
	link.Set(testkit.Weather{Budget: 1 << 20}) // breaks in the middle of batches
	l.Start(t)
	l.Await(t, func() bool { return countEvents(js, stream) >= 10_000 }, "events are stored")
	link.Set(testkit.Weather{})
	l.AwaitAll(t, l.relay)
	require.Equal(t, exitDone, l.Stop(t))
	require.Greater(t, link.Opened(), 3)
	want := api.IDs(sourcetest.Filter{})
	at := 0
	for _, id := range l.lists()[0] {
		if at < len(want) && id == want[at] {
			at++
		}
	}
	require.Equal(t, len(want), at, "the order is whole")
}

// TestTheEndOfATransactionIsAmbiguous: the broker hangs up instead of answering, on every second of
// the first requests. Not for ever: relay may have one to abort between each two to commit, of
// which none would be answered then.
func TestTheEndOfATransactionIsAmbiguous(t *testing.T) {
	t.Parallel()
	l, bus := kafkaLane(t, 5_000, "")
	var ends atomic.Int64
	bus.Fake.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (kmsg.Response, error, bool) {
		bus.Fake.KeepControl()
		if n := ends.Add(1); n%2 == 0 && n <= 10 {
			return nil, errors.New("the connection breaks"), true
		}
		return nil, nil, false
	})
	l.Start(t)
	l.AwaitAll(t, l.relay)
	require.Equal(t, exitDone, l.Stop(t))
	require.Greater(t, ends.Load(), int64(3))
	l.requireAll(t, 0)
}

// TestASlowBusOfAStandby: a bus that takes longer than takeover_after to answer a standby delays
// its takeover. It neither prevents it nor makes it take over from a relay that is alive.
func TestASlowBusOfAStandby(t *testing.T) {
	t.Parallel()
	api, bus := newAPI(t, backlog(100)), newNATS(t, nil)
	js := bus.connect(t)
	l := natsLaneAt(t, api, bus.URL, js, "")
	text, err := os.ReadFile(l.Config)
	require.NoError(t, err)
	l.WriteConfig(t, string(text)+"takeover_after: 3s\n") // less than the bus takes
	link := testkit.NewLink(t, "127.0.0.1:0", strings.TrimPrefix(bus.URL, "nats://"))
	b := l.twin(t, "twin")
	text, err = os.ReadFile(b.Config)
	require.NoError(t, err)
	b.WriteConfig(t, strings.Replace(string(text), bus.URL, "nats://"+link.Address, 1))
	l.Start(t)
	l.AwaitAll(t, l.relay)
	b.Start(t)
	b.AwaitState(t, "", pipeline.Standby)
	link.Set(testkit.Weather{Delay: 700 * time.Millisecond}) // of each piece of data, so that reading the position takes several seconds
	for until := time.Now().Add(20 * time.Second); time.Now().Before(until); time.Sleep(time.Second) {
		require.True(t, l.Lane("").Active, l.Tail(2000))
	}
	appendEvents(t, api, "user.created", 10, 0)
	l.AwaitAll(t, l.relay)
	l.Kill()
	b.Await(t, func() bool { return b.Lane("").Active }, "the standby takes over")
	link.Set(testkit.Weather{}) // a relay can hardly renew within 3s behind it
	appendEvents(t, api, "user.created", 10, 0)
	l.AwaitAll(t, b)
	require.Equal(t, exitDone, b.Stop(t))
	l.requireAll(t, 0)
}

// TestThePositionOnTheBusIsGoneOrAltered: relay asks, again at each start, and goes on once it is
// told where.
func TestThePositionOnTheBusIsGoneOrAltered(t *testing.T) {
	t.Parallel()
	goOn := func(t *testing.T, l *lane, last string) {
		t.Helper()
		for range 2 {
			l.Start(t)
			require.Equal(t, exitDecides, l.Wait(t), l.Tail(3000))
			require.Contains(t, l.Tail(3000), "relay checkpoint set")
		}
		code, _, errs := l.Run(t, "checkpoint", "set", last)
		require.Equal(t, exitDone, code, errs)
		appendEvents(t, l.api, "user.created", 10, 0)
		l.Start(t)
		l.AwaitAll(t, l.relay)
		require.Equal(t, exitDone, l.Stop(t))
		l.requireAll(t, 0)
	}
	const subject = "relay.position.workos.nats"
	t.Run("nats, purged while relay runs", func(t *testing.T) {
		t.Parallel()
		l, _, js := natsLane(t, 100, "")
		l.Start(t)
		l.AwaitAll(t, l.relay)
		last := l.last()
		s, err := js.Stream(t.Context(), stream)
		require.NoError(t, err)
		require.NoError(t, s.Purge(t.Context(), jetstream.WithPurgeSubject(subject)))
		require.Equal(t, exitDecides, l.Wait(t), l.Tail(3000))
		goOn(t, l, last)
	})
	t.Run("nats, altered", func(t *testing.T) {
		t.Parallel()
		l, _, js := natsLane(t, 100, "")
		runOnce(t, l.relay)
		_, err := js.Publish(t.Context(), subject, []byte("{"))
		require.NoError(t, err)
		goOn(t, l, l.last())
	})
	t.Run("kafka, altered", func(t *testing.T) {
		t.Parallel()
		l, bus := kafkaLane(t, 100, "")
		runOnce(t, l.relay)
		topic := "relay.position." + bus.ID + ".kafka"
		require.NoError(t, bus.Client.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Key: []byte("position"), Value: []byte("{")}).FirstErr())
		goOn(t, l, l.last())
	})
}

// TestTwoRelaysStartForTheFirstTimeAtOnce: one runs, and the other stands by.
func TestTwoRelaysStartForTheFirstTimeAtOnce(t *testing.T) {
	t.Parallel()
	onEachBus(t, 2000, "", func(t *testing.T, l *lane) {
		b := l.twin(t, "twin")
		l.Start(t)
		b.Start(t)
		last := l.last()
		l.Await(t, func() bool {
			one, other := l.Lane(""), b.Lane("")
			return one.Position.EventID == last && other.Position.EventID == last &&
				(one.State == pipeline.Standby) != (other.State == pipeline.Standby) && one.Active != other.Active
		}, "one carries everything, and the other stands by")
		require.Equal(t, exitDone, l.Stop(t))
		require.Equal(t, exitDone, b.Stop(t))
		l.requireAll(t, 0)
	})
}

// TestAPauseByHandOutlastsTheStandby: with the default takeover_after.
func TestAPauseByHandOutlastsTheStandby(t *testing.T) {
	t.Parallel()
	onEachBus(t, 100, "", func(t *testing.T, l *lane) {
		b := l.twin(t, "twin")
		l.Start(t)
		l.AwaitAll(t, l.relay)
		b.Start(t)
		b.AwaitState(t, "", pipeline.Standby)
		code, _, errs := l.Run(t, "pause")
		require.Equal(t, exitDone, code, errs)
		appendEvents(t, l.api, "user.created", 10, 0)
		for until := time.Now().Add(25 * time.Second); time.Now().Before(until); time.Sleep(time.Second) {
			require.NotEqual(t, pipeline.Running, b.Lane("").State)
			require.Equal(t, pipeline.Paused, l.Lane("").State)
		}
		code, _, errs = l.Run(t, "resume")
		require.Equal(t, exitDone, code, errs)
		l.AwaitAll(t, l.relay)
		require.Equal(t, exitDone, b.Stop(t))
		require.Equal(t, exitDone, l.Stop(t))
		l.requireAll(t, 0)
	})
}

// TestTheConfigurationChangesWhileEventsFlow: a lane that is replaced goes on from its position.
func TestTheConfigurationChangesWhileEventsFlow(t *testing.T) {
	t.Parallel()
	onEachBus(t, 20_000, "", func(t *testing.T, l *lane) {
		text, err := os.ReadFile(l.Config)
		require.NoError(t, err)
		l.Start(t)
		l.Await(t, func() bool { return l.Lane("").Events > 0 }, "events flow")
		for i := range 4 {
			l.WriteConfig(t, strings.Replace(string(text), "poll_interval: 200ms", fmt.Sprintf("poll_interval: %dms", 201+i), 1))
			code, out, errs := l.Run(t, "reload")
			require.Equal(t, exitDone, code, errs)
			require.Contains(t, out, "was restarted from its position")
		}
		appendEvents(t, l.api, "user.created", 10, 0)
		l.AwaitAll(t, l.relay)
		require.Equal(t, exitDone, l.Stop(t))
		l.requireAll(t, 0)
	})
}

// TestTheCheckpointCannotBeWritten: nothing moves and nothing is published again, and relay goes on
// once it can commit.
func TestTheCheckpointCannotBeWritten(t *testing.T) {
	t.Parallel()
	onEachBus(t, 100, ", delivery: at_least_once", func(t *testing.T, l *lane) {
		l.Start(t)
		l.AwaitAll(t, l.relay)
		files, err := filepath.Glob(filepath.Join(l.Dir, "*.checkpoint"))
		require.NoError(t, err)
		require.Len(t, files, 1)
		inTheWay := filepath.Join(blockedName(t, files[0]), "x") // where the new checkpoint is written first, also for root
		require.NoError(t, os.MkdirAll(inTheWay, 0o700))
		before := l.last()
		appendEvents(t, l.api, "user.created", 10, 0)
		l.Await(t, func() bool {
			s := l.Lane("")
			return s.State == pipeline.Retrying && strings.Contains(s.Reason, "committing the checkpoint")
		}, "the commit fails")
		time.Sleep(2 * time.Second) // and is tried again
		require.Equal(t, before, l.Lane("").Position.EventID)
		require.NoError(t, os.RemoveAll(filepath.Dir(inTheWay)))
		l.AwaitAll(t, l.relay)
		require.Equal(t, exitDone, l.Stop(t))
		l.requireAll(t, 0)
	})
}

// blockedName is the name under which a new checkpoint is written before it takes the place of
// file.
func blockedName(t *testing.T, file string) string {
	t.Helper()
	return file + ".tmp"
}

// TestWorkOSFailsForAWhile: errors, throttling, broken connections and half pages cost time alone.
func TestWorkOSFailsForAWhile(t *testing.T) {
	t.Parallel()
	onEachBus(t, 3000, "", func(t *testing.T, l *lane) {
		l.api.FailRandomly(0.3, 7, sourcetest.Status(500), sourcetest.Status(503), sourcetest.Reset(), sourcetest.Cut(0.5), sourcetest.Malformed(),
			sourcetest.TooManyRequests(time.Second, sourcetest.RetryAfterSeconds))
		l.Start(t)
		l.AwaitAll(t, l.relay)
		l.api.ClearFaults()
		appendEvents(t, l.api, "user.created", 10, 0)
		l.AwaitAll(t, l.relay)
		require.Equal(t, exitDone, l.Stop(t))
		l.requireAll(t, 0)
	})
}

// TestTheModeOfDeliveryIsChanged: relay stops and names the command that takes the position along;
// nothing is lost or comes twice.
func TestTheModeOfDeliveryIsChanged(t *testing.T) {
	t.Parallel()
	onEachBus(t, 500, "", func(t *testing.T, l *lane) {
		text, err := os.ReadFile(l.Config)
		require.NoError(t, err)
		runOnce(t, l.relay)
		for _, c := range []struct{ mode, from string }{{"at_least_once", "bus"}, {"exactly_once", "file"}} {
			l.WriteConfig(t, string(text)+"delivery: "+c.mode+"\n")
			l.Start(t)
			require.Equal(t, exitDecides, l.Wait(t), l.Tail(2000))
			require.Contains(t, l.Tail(2000), "relay checkpoint set --lane")
			require.Contains(t, l.Tail(2000), "--from "+c.from)
			code, _, errs := l.Run(t, "checkpoint", "set", "--from", c.from)
			require.Equal(t, exitDone, code, errs)
			appendEvents(t, l.api, "user.created", 10, 0)
			l.Start(t)
			l.AwaitAll(t, l.relay)
			require.Equal(t, exitDone, l.Stop(t))
		}
		l.requireAll(t, 0)
	})
}
