package nats

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
	"workos-relay/sink"
)

// subjectPlace is a place for one checkpoint: its own stream.
type subjectPlace struct {
	url, stream string
	replicas    int
}

// ledgerStore ends with its connection.
type ledgerStore struct {
	checkpoint.Store
	s *Sink
}

func (l ledgerStore) Close() error { return l.s.Close() }

func (p subjectPlace) Open(t *testing.T, id checkpoint.Identity) checkpoint.Store {
	cfg := Config{URL: p.url, Stream: p.stream, Create: Create{Enabled: true, Replicas: p.replicas}}
	if p.replicas > 1 {
		cfg.AckTimeout = question
	}
	s := open(t, cfg)
	l := s.Ledger(id)
	again(t, "preparing", func(ctx context.Context) error { return l.Prepare(ctx, []string{p.stream + ".created"}) })
	if p.replicas > 1 { // it may be without a leader by itself
		return ledgerStore{checkpointtest.Settled{Store: sink.Positions(l)}, s}
	}
	return ledgerStore{sink.Positions(l), s}
}

// again calls what a cluster without a leader may leave undone until it is done.
func again(t *testing.T, what string, do func(context.Context) error) {
	t.Helper()
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*question)
		defer cancel()
		err := do(ctx)
		if err != nil {
			t.Logf("%s again: %v", what, err)
		}
		return err == nil
	}, patient, often)
}

// placesOn has one stream at a time, since all of them would bind the same position. No name comes
// twice: a stream of a single server that was just deleted may still answer for one of its name.
// One more stream is there all the while: after the last of an account a server removes the
// account's folder, in its own time, and perhaps from under the store of the next stream. That
// member of a cluster then refuses the next stream, which is taken away again from those that have
// it.
func placesOn(t *testing.T, url string, replicas int) checkpointtest.Harness {
	js := client(t, url)
	again(t, "creating", func(ctx context.Context) error {
		_, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "STAYS", Subjects: []string{"stays"}, Replicas: replicas})
		return err
	})
	places := 0
	return checkpointtest.Harness{
		Durable: true, Shared: true,
		NewPlace: func(t *testing.T) checkpointtest.Place {
			places++
			name := fmt.Sprintf("KIT%d", places)
			t.Cleanup(func() {
				again(t, "deleting", func(ctx context.Context) error {
					if err := js.DeleteStream(ctx, name); !errors.Is(err, jetstream.ErrStreamNotFound) {
						return err
					}
					return nil // by an earlier try whose answer was lost
				})
			})
			return subjectPlace{url, name, replicas}
		},
	}
}

func TestLedgerConformsSingleServer(t *testing.T) {
	t.Parallel()
	checkpointtest.Run(t, placesOn(t, newServer(t).url(), 1))
}

func TestLedgerConformsCluster(t *testing.T) {
	t.Parallel()
	checkpointtest.Run(t, placesOn(t, newCluster(t).url(), 3))
}

var laneID = checkpoint.Identity{Relay: "workos", Lane: "nats", Endpoint: "https://api.workos.com", Destination: "nats stream WORKOS"}

const positionOfLane = "relay.position.workos.nats"

// at is a checkpoint of laneID after event n.
func at(n int) checkpoint.Checkpoint {
	return checkpoint.Checkpoint{
		Position: checkpoint.Position{EventID: fmt.Sprintf("event_%06d", n)}, Generation: 1, Holder: "me", Source: laneID, Mode: checkpoint.ExactlyOnce,
	}
}

// events are n messages on topic, numbered from first.
func events(first, n int, topic string) []sink.Message {
	batch := make([]sink.Message, n)
	for i := range batch {
		id := fmt.Sprintf("event_%06d", first+i)
		batch[i] = sink.Message{Topic: topic, ID: id, Headers: []sink.Header{{Key: "event-id", Value: id}}, Body: []byte(`{"id":"` + id + `"}`)}
	}
	return batch
}

// newLedger opens a sink and prepares its ledger for laneID.
func newLedger(t testing.TB, cfg Config, topics ...string) *Ledger {
	t.Helper()
	l := open(t, cfg).Ledger(laneID)
	require.NoError(t, l.Prepare(t.Context(), topics))
	return l
}

func created(url string) Config {
	return Config{URL: url, Create: Create{Enabled: true}}
}

func ids(messages []sink.Message) []string {
	var out []string
	for _, m := range messages {
		for _, h := range m.Headers {
			if h.Key == "event-id" {
				out = append(out, h.Value)
			}
		}
	}
	return out
}

func TestCommitStoresBatchAndPosition(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	l := newLedger(t, created(srv.url()), topic, "relay.dead_letter")
	require.Equal(t, positionOfLane, l.Subject())

	first, err := l.Commit(t.Context(), nil, checkpoint.Checkpoint{}, at(0))
	require.NoError(t, err)
	require.EqualValues(t, 1, first.Revision)
	second, err := l.Commit(t.Context(), events(1, MaxBatch, topic), first, at(MaxBatch))
	require.NoError(t, err)
	require.EqualValues(t, 1001, second.Revision, "the position is the last of its batch")

	st, err := js.Stream(t.Context(), defaultStream)
	require.NoError(t, err)
	position, err := st.GetMsg(t.Context(), second.Revision)
	require.NoError(t, err)
	require.Equal(t, positionOfLane, position.Subject)
	require.Equal(t, "never", position.Header.Get("Nats-TTL"))
	info, err := st.Info(t.Context(), jetstream.WithSubjectFilter(">"))
	require.NoError(t, err)
	require.Equal(t, map[string]uint64{topic: MaxBatch, positionOfLane: 1}, info.State.Subjects, "one position only")

	stored := readAll(t, js, defaultStream, []string{topic})
	require.Equal(t, ids(events(1, MaxBatch, topic)), ids(stored))
	for _, h := range stored[0].Headers {
		require.NotEqual(t, msgIDHeader, h.Key)
	}

	_, err = l.Commit(t.Context(), events(1, MaxBatch+1, topic), second, at(2000))
	var fatal *sink.FatalError
	require.ErrorAs(t, err, &fatal)
	require.ErrorContains(t, err, "1000 messages in one batch")
}

// TestTailShowsNoTraceOfBatches reads what was committed with the wildcard of everything.
func TestTailShowsNoTraceOfBatches(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	s := open(t, created(srv.url()))
	l := s.Ledger(laneID)
	require.NoError(t, l.Prepare(t.Context(), []string{topic}))
	cp, err := l.Commit(t.Context(), events(1, 3, topic), checkpoint.Checkpoint{}, at(3))
	require.NoError(t, err)
	_, err = l.Commit(t.Context(), events(4, 2, topic), cp, at(5))
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(t.Context())
	var have []sink.Message
	require.NoError(t, s.Tail(ctx, TailOptions{FromStart: true}, func(m Stored) error {
		have = append(have, m.Message)
		if len(have) == 5 {
			cancel()
		}
		return nil
	}))
	want := events(1, 5, topic)
	for i := range want {
		want[i].ID = ""
	}
	require.Equal(t, want, have)
}

// TestStaleCommitIsRefusedByTheServer commits with a checkpoint that was current a moment ago, as
// one does who read it from a deposed leader or was stopped for a while.
func TestStaleCommitIsRefusedByTheServer(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	a, b := newLedger(t, created(srv.url()), topic), newLedger(t, created(srv.url()), topic)
	origin, err := a.Commit(t.Context(), nil, checkpoint.Checkpoint{}, at(0))
	require.NoError(t, err)
	_, err = b.Load(t.Context())
	require.NoError(t, err)
	inForce, err := b.Commit(t.Context(), events(1, 10, topic), origin, at(10))
	require.NoError(t, err)

	for _, batch := range [][]sink.Message{events(1, 10, topic), nil} {
		_, err = a.Commit(t.Context(), batch, origin, at(10)) // a has seen nothing newer, so only the server can refuse
		require.ErrorIs(t, err, checkpoint.ErrConflict)
	}
	_, err = a.Commit(t.Context(), events(1, 10, topic), checkpoint.Checkpoint{}, at(10))
	require.ErrorIs(t, err, checkpoint.ErrConflict)
	have, err := a.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, inForce.Revision, have.Revision)
	require.Equal(t, ids(events(1, 10, topic)), ids(readAll(t, client(t, srv.url()), defaultStream, []string{topic})))
}

func TestCommitFindsWhatCannotBeStored(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	l := newLedger(t, created(srv.url()), topic)
	cp, err := l.Commit(t.Context(), nil, checkpoint.Checkpoint{}, at(0))
	require.NoError(t, err)
	at7 := func(change func(*sink.Message)) []sink.Message {
		batch := events(1, 20, topic)
		change(&batch[7])
		return batch
	}
	// What the headers of a batch add must count: 60 bytes below the limit by its own headers and
	// body.
	nearly := 1<<20 - headerLine - len("event-id") - len("event_000008") - headerEntry - 60
	for name, c := range map[string]struct {
		batch []sink.Message
		want  string
	}{
		"too large":         {at7(func(m *sink.Message) { m.Body = make([]byte, 1<<20+1) }), "exceed max_payload"},
		"nearly too large":  {at7(func(m *sink.Message) { m.Body = make([]byte, nearly) }), "exceed max_payload"},
		"illegal subject":   {at7(func(m *sink.Message) { m.Topic = "workos.*" }), "not a legal subject"},
		"the server's name": {at7(func(m *sink.Message) { m.Headers = []sink.Header{{Key: "Nats-Rollup", Value: "all"}} }), "is the server's own"},
	} {
		_, err := l.Commit(t.Context(), c.batch, cp, at(20))
		var rejected *sink.RejectedError
		require.ErrorAs(t, err, &rejected, name)
		require.ErrorContains(t, err, c.want, name)
		require.Equal(t, 7, sink.Durable(err, 20), name)
	}
	_, err = l.Commit(t.Context(), at7(func(m *sink.Message) { m.Topic = "unbound.created" }), cp, at(20))
	var fatal *sink.FatalError
	require.ErrorAs(t, err, &fatal)
	require.ErrorContains(t, err, "does not bind unbound.created")
	require.Equal(t, 7, sink.Durable(err, 20))

	js := client(t, srv.url())
	require.Empty(t, readAll(t, js, defaultStream, []string{topic}), "nothing of a refused batch is stored")
	fits := at7(func(m *sink.Message) { m.Body = make([]byte, nearly-15) })
	_, err = l.Commit(t.Context(), fits, cp, at(20))
	require.NoError(t, err, "what the check lets through the server takes")
	require.Len(t, readAll(t, js, defaultStream, []string{topic}), 20)
}

// TestCulpritIsFound lowers the stream's limit behind the ledger's back, so that the server answers
// as it does for a timeout.
func TestCulpritIsFound(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	l := newLedger(t, created(srv.url()), topic)
	cp, err := l.Commit(t.Context(), nil, checkpoint.Checkpoint{}, at(0))
	require.NoError(t, err)
	js := client(t, srv.url())
	st, err := js.Stream(t.Context(), defaultStream)
	require.NoError(t, err)
	conf := st.CachedInfo().Config
	conf.MaxMsgSize = 2000
	_, err = js.UpdateStream(t.Context(), conf)
	require.NoError(t, err)

	batch := events(1, 50, topic)
	batch[33].Body = []byte(strings.Repeat("x", 3000))
	for range askAfter {
		_, err = l.Commit(t.Context(), batch, cp, at(50))
		require.True(t, isCode(err, codeIncompleteBatch), err)
		require.Equal(t, 0, sink.Durable(err, 50))
	}
	_, err = l.Commit(t.Context(), batch, cp, at(50))
	var rejected *sink.RejectedError
	require.ErrorAs(t, err, &rejected)
	require.Equal(t, 33, sink.Durable(err, 50))
	require.Empty(t, readAll(t, js, defaultStream, []string{topic}))
	batch[33].Body = nil
	_, err = l.Commit(t.Context(), batch, cp, at(50))
	require.NoError(t, err)
}

// TestLargeBatches sends twice what may be in flight.
func TestLargeBatches(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	l := newLedger(t, created(srv.url()), topic)
	batch := events(1, 32, topic)
	for i := range batch {
		batch[i].Body = make([]byte, 1<<20-1000)
	}
	cp, err := l.Commit(t.Context(), batch, checkpoint.Checkpoint{}, at(32))
	require.NoError(t, err)
	require.EqualValues(t, 33, cp.Revision)
}

func TestPositionOutlivesMaxAge(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	cfg := created(srv.url())
	cfg.Create.MaxAge = time.Second
	l := newLedger(t, cfg, topic)
	cp, err := l.Commit(t.Context(), events(1, 10, topic), checkpoint.Checkpoint{}, at(10))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		held, err := l.Holds(t.Context(), []string{topic})
		return err == nil && !held
	}, patient, often, "the events expire")
	have, err := l.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, cp.Revision, have.Revision)
}

func TestPositionThatIsGoneIsLost(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	l := newLedger(t, created(srv.url()), topic)
	_, err := l.Load(t.Context())
	require.ErrorIs(t, err, checkpoint.ErrNotFound)
	cp, err := l.Commit(t.Context(), events(1, 10, topic), checkpoint.Checkpoint{}, at(10))
	require.NoError(t, err)
	js := client(t, srv.url())
	st, err := js.Stream(t.Context(), defaultStream)
	require.NoError(t, err)
	require.NoError(t, st.Purge(t.Context(), jetstream.WithPurgeSubject(positionOfLane)))
	_, err = l.Load(t.Context())
	require.ErrorIs(t, err, checkpoint.ErrLost)
	require.ErrorContains(t, err, "say where to go on")
	_, err = l.Commit(t.Context(), events(11, 1, topic), cp, at(11))
	require.ErrorIs(t, err, checkpoint.ErrConflict)

	require.NoError(t, js.DeleteStream(t.Context(), defaultStream))
	require.ErrorIs(t, l.Prepare(t.Context(), []string{topic}), checkpoint.ErrLost, "a stream in its place would be filled from the start")
	_, err = js.Stream(t.Context(), defaultStream)
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)
}

func TestPositionThatCannotBeRead(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	l := newLedger(t, created(srv.url()), topic)
	_, err := client(t, srv.url()).Publish(t.Context(), positionOfLane, []byte("{}"))
	require.NoError(t, err)
	_, err = l.Load(t.Context())
	require.ErrorIs(t, err, checkpoint.ErrCorrupt)
	require.ErrorContains(t, err, "message 1 of stream WORKOS on "+positionOfLane)
	_, err = l.Commit(t.Context(), nil, checkpoint.Checkpoint{Revision: 1}, at(1))
	require.ErrorIs(t, err, checkpoint.ErrCorrupt, "nobody has decided yet")
	prev, err := l.LoadForReplace(t.Context())
	require.NoError(t, err)
	now, err := l.Commit(t.Context(), nil, prev, at(1))
	require.NoError(t, err)
	loaded, err := l.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, now, loaded)
}

func TestPositionSubjects(t *testing.T) {
	t.Parallel()
	subject := func(relay, lane string) string { return positionSubject(checkpoint.Identity{Relay: relay, Lane: lane}) }
	require.Equal(t, "relay.position.work_os-1.nats", subject("work_os-1", "nats"))
	require.Equal(t, "relay.position.a%2Eb.c%2A", subject("a.b", "c*"))
	seen := map[string]bool{}
	for _, pair := range [][2]string{{"a", "b"}, {"a.b", ""}, {"", "a.b"}, {"a%2Eb", ""}, {"", ""}, {"%", ""}, {"a", "b.c"}, {"a.b", "c"}} {
		s := subject(pair[0], pair[1])
		require.False(t, seen[s], s)
		seen[s] = true
		require.True(t, sink.Matches(positionSubjects, s))
	}
}
