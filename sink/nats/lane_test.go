package nats

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// laneWorld is an Events API whose list grows as the test says, and what a lane needs beside a bus.
type laneWorld struct {
	api    *sourcetest.Server
	events *sourcetest.Generator
	fed    int
	types  []string
	router *router.Router
	topics []string
}

func newLaneWorld(t testing.TB) *laneWorld {
	t.Helper()
	types, err := source.Expand([]string{"*"})
	require.NoError(t, err)
	r, err := router.New(router.Config{Relay: laneID.Relay, DeadLetter: "relay.dead_letter"})
	require.NoError(t, err)
	return &laneWorld{
		api: sourcetest.New(), events: sourcetest.NewGenerator(sourcetest.Population{Events: 1_000_000, Seed: 1}),
		types: types, router: r, topics: append(r.Topics(types), r.DeadLetterTopic()),
	}
}

// feed makes n more events happen.
func (w *laneWorld) feed(t testing.TB, n int) {
	t.Helper()
	for range n {
		require.NoError(t, w.api.Append(w.events.Event(w.fed)))
		w.fed++
	}
}

// lane carries the events of w to ledger; takeover 0 is for one that has no rival.
func (w *laneWorld) lane(ledger sink.Ledger, holder string, takeover time.Duration) *pipeline.Lane {
	return &pipeline.Lane{
		Name: laneID.Lane, Router: w.router, Park: true, Holder: holder, TakeoverAfter: takeover,
		Source: &source.Stream{
			Client: &source.Client{APIKey: sourcetest.DefaultAPIKey, Endpoint: w.api.URL(), HTTPClient: w.api.Client()},
			Events: w.types, PollInterval: 20 * time.Millisecond,
		},
		Target: &pipeline.ExactlyOnce{Ledger: ledger, Ownership: pipeline.Ownership{
			Topics: w.topics, Identity: laneID, Holder: holder, Events: w.types, Logger: zap.NewNop(),
			Origin: func(context.Context) (checkpoint.Position, error) { return checkpoint.Position{}, nil },
		}},
	}
}

// run starts a lane; the returned function stops it and returns how it ended.
func run(t testing.TB, lane *pipeline.Lane) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- lane.Run(ctx) }()
	var once sync.Once
	var err error
	stop = func() error {
		once.Do(func() {
			cancel()
			err = <-done
		})
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return stop
}

// awaitAll waits until one of the lanes has committed everything that was fed.
func (w *laneWorld) awaitAll(t testing.TB, lanes ...*pipeline.Lane) {
	t.Helper()
	all := w.api.IDs(sourcetest.Filter{})
	last := all[len(all)-1]
	require.Eventually(t, func() bool {
		for _, l := range lanes {
			if l.Status().Checkpoint.EventID == last {
				return true
			}
		}
		return false
	}, patient, often, "the lane does not get to the end")
}

// requireOnce reads the stream as a consumer does and requires each event once, in the order of the
// source.
func (w *laneWorld) requireOnce(t testing.TB, js jetstream.JetStream) {
	t.Helper()
	want, have := w.api.IDs(sourcetest.Filter{}), ids(readStream(t, js))
	times := map[string]int{}
	duplicates, lost := 0, 0
	for _, id := range have {
		if times[id]++; times[id] == 2 {
			duplicates++
		}
	}
	for _, id := range want {
		if times[id] == 0 {
			lost++
		}
	}
	require.Zero(t, duplicates, "duplicates")
	require.Zero(t, lost, "lost")
	require.Equal(t, -1, firstDifference(want, have), "first event out of order")
	t.Logf("%d events, each once and in order", len(want))
}

// readStream returns all that is in the stream but positions. A filter with every topic would do,
// and take the server longer.
func readStream(t testing.TB, js jetstream.JetStream) (messages []sink.Message) {
	t.Helper()
	require.Eventually(t, func() bool {
		var err error
		if messages, err = tryReadStream(t.Context(), js); err != nil {
			t.Logf("reading again: %v", err)
		}
		return err == nil
	}, patient, often)
	return messages
}

func tryReadStream(ctx context.Context, js jetstream.JetStream) (messages []sink.Message, err error) {
	asking, cancel := context.WithTimeout(ctx, question)
	defer cancel()
	st, err := js.Stream(asking, defaultStream)
	if err != nil {
		return nil, err
	}
	consumer, err := st.OrderedConsumer(asking, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, err
	}
	stored, err := consumer.Messages()
	if err != nil {
		return nil, err
	}
	defer stored.Stop()
	for last := st.CachedInfo().State.LastSeq; ; {
		msg, err := stored.Next(jetstream.NextMaxWait(30 * time.Second))
		if err != nil {
			return nil, err
		}
		meta, err := msg.Metadata()
		if err != nil {
			return nil, err
		}
		if !sink.Matches(positionSubjects, msg.Subject()) {
			messages = append(messages, sink.Message{Topic: msg.Subject(), Body: msg.Data(), Headers: []sink.Header{
				{Key: "event-id", Value: msg.Headers().Get("event-id")},
			}})
		}
		if meta.Sequence.Stream >= last {
			return messages, nil
		}
	}
}

func firstDifference(a, b []string) int {
	if len(a) != len(b) {
		return min(len(a), len(b))
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

func TestLaneOutlivesRestartsOfTheServer(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	w := newLaneWorld(t)
	lane := w.lane(open(t, created(srv.url())).Ledger(laneID), "me", 0)
	stop := run(t, lane)
	for range 3 {
		w.feedAndAwait(t, 1500, lane)
		srv.stop()
		srv.start(t)
	}
	w.awaitAll(t, lane)
	require.NoError(t, stop())
	w.requireOnce(t, client(t, srv.url()))
}

// feedAndAwait makes n more events happen, and waits until the current position is at one of them.
// What a lane has counted as committed would not tell: all may be done before one begins to count,
// or be found done by a rival.
func (w *laneWorld) feedAndAwait(t testing.TB, n int, lanes ...*pipeline.Lane) {
	t.Helper()
	before := w.fed
	w.feed(t, n)
	fresh := w.api.IDs(sourcetest.Filter{})[before:]
	require.Eventually(t, func() bool {
		return slices.ContainsFunc(lanes, func(l *pipeline.Lane) bool { return slices.Contains(fresh, l.Status().Checkpoint.EventID) })
	}, patient, time.Millisecond, "the lane stands still")
}

// committing tells when a commit of events begins.
type committing struct {
	sink.Ledger
	begins chan struct{} // capacity 1
}

func (l *committing) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	if len(batch) > 0 {
		select {
		case l.begins <- struct{}{}:
		default:
		}
	}
	return l.Ledger.Commit(ctx, batch, prev, next)
}

// TestServerKilledInMidBatch kills the server, most of the time, while a batch is on its way into
// the stream.
func TestServerKilledInMidBatch(t *testing.T) {
	t.Parallel()
	srv := startProcess(t, "default")
	w := newLaneWorld(t)
	ledger := &committing{open(t, created(srv.url())).Ledger(laneID), make(chan struct{}, 1)}
	lane := w.lane(ledger, "me", 0)
	stop := run(t, lane)
	for range 10 {
		w.feedAndAwait(t, 800, lane)
		select {
		case <-ledger.begins:
		default:
		}
		w.feed(t, 800)
		<-ledger.begins
		<-time.After(rand.N(60 * time.Millisecond))
		srv.kill(t)
		srv.start(t)
	}
	w.awaitAll(t, lane)
	require.NoError(t, stop())
	w.requireOnce(t, client(t, srv.url()))
}

// forgetful loses the answer of every third commit of events, and comes back only after a while.
type forgetful struct {
	sink.Ledger
	outage  time.Duration
	commits int
}

func (l *forgetful) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	cp, err := l.Ledger.Commit(ctx, batch, prev, next)
	if l.commits++; err == nil && len(batch) > 0 && l.commits%3 == 0 {
		<-time.After(l.outage)
		return prev, errors.New("the answer was lost")
	}
	return cp, err
}

// TestOutageLongerThanTheDuplicateWindow: nothing rests on the window.
func TestOutageLongerThanTheDuplicateWindow(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	w := newLaneWorld(t)
	cfg := created(srv.url())
	cfg.DuplicateWindow = 100 * time.Millisecond
	lane := w.lane(&forgetful{Ledger: open(t, cfg).Ledger(laneID), outage: 300 * time.Millisecond}, "me", 0)
	lane.BatchMessages = 300
	w.feed(t, 2000)
	stop := run(t, lane)
	w.awaitAll(t, lane)
	require.NoError(t, stop())
	w.requireOnce(t, client(t, srv.url()))
}

// backward answers now and then with an earlier position, as a deposed leader may.
type backward struct {
	sink.Ledger
	history []checkpoint.Checkpoint
	loads   int
}

func (l *backward) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	cp, err := l.Ledger.Load(ctx)
	if l.loads++; err == nil && l.loads%2 == 0 && len(l.history) > 2 {
		return l.history[rand.IntN(len(l.history))], nil
	}
	return cp, err
}

func (l *backward) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	cp, err := l.Ledger.Commit(ctx, batch, prev, next)
	if err == nil {
		l.history = append(l.history, cp)
	}
	return cp, err
}

func TestPositionsReadFromTheDeposed(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	w := newLaneWorld(t)
	ledger := &backward{Ledger: open(t, created(srv.url())).Ledger(laneID)}
	lane := w.lane(&forgetful{Ledger: ledger}, "me", 0)
	lane.BatchMessages = 200
	w.feed(t, 1500)
	stop := run(t, lane)
	w.awaitAll(t, lane)
	require.NoError(t, stop())
	w.requireOnce(t, client(t, srv.url()))
	require.Greater(t, ledger.loads, 4)
}

func TestPoisonInABatchIsParked(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	w := newLaneWorld(t)
	w.feed(t, 150)
	large := fmt.Sprintf(`{"object":"event","id":"event_01POISON0000000000000000000","event":"user.updated","data":{"filler":%q},"created_at":"2026-11-23T10:00:00.000Z"}`,
		strings.Repeat("x", 1<<20))
	require.NoError(t, w.api.Append([]byte(large)))
	w.feed(t, 150)
	lane := w.lane(open(t, created(srv.url())).Ledger(laneID), "me", 0)
	stop := run(t, lane)
	w.awaitAll(t, lane)
	require.NoError(t, stop())
	js := client(t, srv.url())
	w.requireOnce(t, js)
	letters := readAll(t, js, defaultStream, []string{"relay.dead_letter"})
	require.Len(t, letters, 1)
	require.Contains(t, string(letters[0].Body), "event_01POISON0000000000000000000")
	require.Contains(t, string(letters[0].Body), "exceed max_payload")
}

func TestLostPositionStopsTheLane(t *testing.T) {
	t.Parallel()
	for name, whileRunning := range map[string]bool{"while the lane runs": true, "before it starts": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := newServer(t)
			js := client(t, srv.url())
			w := newLaneWorld(t)
			w.feed(t, 300)
			lane := w.lane(open(t, created(srv.url())).Ledger(laneID), "me", 0)
			stop := run(t, lane)
			w.awaitAll(t, lane)
			if !whileRunning {
				require.NoError(t, stop())
			}
			st, err := js.Stream(t.Context(), defaultStream)
			require.NoError(t, err)
			require.NoError(t, st.Purge(t.Context(), jetstream.WithPurgeSubject(positionOfLane)))
			if !whileRunning {
				lane = w.lane(open(t, created(srv.url())).Ledger(laneID), "me", 0)
				stop = run(t, lane)
			}
			w.feed(t, 300)
			require.Eventually(t, func() bool { return lane.Status().State == pipeline.Stopped }, patient, often)
			require.ErrorIs(t, stop(), checkpoint.ErrLost)
			require.Len(t, readAll(t, js, defaultStream, w.topics), 300, "nothing is published without a position")
		})
	}
}

// TestAStreamDeletedUnderALaneStopsIt: it is not made again, which would fill it from the start.
func TestAStreamDeletedUnderALaneStopsIt(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	w := newLaneWorld(t)
	w.feed(t, 300)
	lane := w.lane(open(t, created(srv.url())).Ledger(laneID), "me", 0)
	stop := run(t, lane)
	w.awaitAll(t, lane)
	require.NoError(t, js.DeleteStream(t.Context(), defaultStream))
	w.feed(t, 300)
	require.Eventually(t, func() bool { return lane.Status().State == pipeline.Stopped }, patient, often)
	require.ErrorIs(t, stop(), checkpoint.ErrLost)
	_, err := js.Stream(t.Context(), defaultStream)
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
}
