package nats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

var userState = sink.StateTopic{Topic: "state.user", Entity: "user"}

// withState are settings of a lane that keeps the state of users.
func withState(url string) Config {
	cfg := created(url)
	cfg.State = []sink.StateTopic{userState}
	return cfg
}

// set and remove are state messages.
func set(key, value string) sink.Message {
	return sink.Message{Topic: userState.Topic, Entity: userState.Entity, Key: []byte(key), Body: []byte(value)}
}

func remove(key string) sink.Message {
	return sink.Message{Topic: userState.Topic, Entity: userState.Entity, Key: []byte(key)}
}

var stateTopics = []string{topic, userState.Topic}

// stateOf reads the bucket of users as any client of NATS does.
func stateOf(ctx context.Context, js jetstream.JetStream) (map[string]string, error) {
	kv, err := js.KeyValue(ctx, "STATE_user")
	if err != nil {
		return nil, err
	}
	watch, err := kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, err
	}
	defer func() { _ = watch.Stop() }()
	all := map[string]string{}
	for {
		select {
		case e := <-watch.Updates():
			if e == nil {
				return all, nil
			}
			all[e.Key()] = string(e.Value())
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// awaitState waits until the bucket of users holds what the map says, and nothing else.
func awaitState(t testing.TB, js jetstream.JetStream, want map[string]string) {
	t.Helper()
	var have map[string]string
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), question)
		defer cancel()
		var err error
		if have, err = stateOf(ctx, js); err != nil {
			t.Logf("reading the bucket again: %v", err)
			return false
		}
		return maps.Equal(want, have)
	}, patient, often, "the bucket does not come to hold the state: wanted %v, last %v", want, have)
}

// TestBucketHoldsTheState: a client of key-value buckets sees the newest version of each object, in
// both modes of delivery.
func TestBucketHoldsTheState(t *testing.T) {
	t.Parallel()
	for _, mode := range []checkpoint.Mode{checkpoint.ExactlyOnce, checkpoint.AtLeastOnce} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			srv := newServer(t)
			js := client(t, srv.url())
			s := open(t, withState(srv.url()))
			l := s.Ledger(laneID)
			require.NoError(t, l.Prepare(t.Context(), stateTopics))
			cp, err := l.Commit(t.Context(), nil, checkpoint.Checkpoint{}, at(0))
			require.NoError(t, err)
			n := 0
			publish := func(batch ...sink.Message) {
				t.Helper()
				before := slices.Clone(batch)
				if n++; mode == checkpoint.ExactlyOnce {
					cp, err = l.Commit(t.Context(), batch, cp, at(n))
				} else {
					err = s.Publish(t.Context(), batch)
				}
				require.NoError(t, err)
				require.Equal(t, before, batch, "the batch stays the caller's")
			}
			e := events(0, 5, topic)
			count := func() uint64 {
				st, err := js.Stream(t.Context(), defaultStream)
				require.NoError(t, err)
				info, err := st.Info(t.Context(), jetstream.WithSubjectFilter(topic))
				require.NoError(t, err)
				return info.State.Subjects[topic]
			}
			publish(e[0], set("u1", "1"), e[1], set("u2", "1"), e[2], set("u1", "2"), set("a/b", "pair"), set("posts:read", "slug"), set("a.b", "dot"), set("..", "dots"))
			publish(e[3], remove("u2"), e[4], set("u3", "1"), set("u4", "1"), remove("u4"))
			awaitState(t, js, map[string]string{"u1": "2", "a/b": "pair", "posts=3Aread": "slug", "a.b": "dot", "=2E=2E": "dots", "u3": "1"})

			requireReadBack(t, s, map[string]string{"u1": "2", "a/b": "pair", "posts:read": "slug", "a.b": "dot", "..": "dots", "u3": "1"})
			kv, err := js.KeyValue(t.Context(), "STATE_user")
			require.NoError(t, err)
			_, err = kv.Get(t.Context(), "u2")
			require.ErrorIs(t, err, jetstream.ErrKeyNotFound)
			history, err := kv.History(t.Context(), "u2")
			require.NoError(t, err)
			require.Len(t, history, 1)
			require.Equal(t, jetstream.KeyValueDelete, history[0].Operation())
			_, err = kv.PutString(t.Context(), "u1", "foreign")
			require.Error(t, err, "nobody else writes to the bucket")

			// In at_least_once a batch may come again: its events are recognised, its state is
			// stored again in order.
			if mode == checkpoint.AtLeastOnce {
				publish(e[3], set("u6", "1"), e[4], set("u6", "2"), remove("u6"))
				require.EqualValues(t, 5, count(), "each event once")
			}
			// What is durable is read back at once, although the bucket follows the stream.
			publish(set("u7", "1"))
			object, err := s.ReadObject(t.Context(), userState, []byte("u7"))
			require.NoError(t, err)
			require.Equal(t, "1", string(object.Body))
			require.Equal(t, "u7", string(object.Key))
			require.Empty(t, object.Headers, "none of the server")
			publish(remove("u7"))
			object, err = s.ReadObject(t.Context(), userState, []byte("u7"))
			require.NoError(t, err)
			require.Nil(t, object)

			// What is deleted comes back by itself: here at the next look of a lane at the tip.
			require.NoError(t, js.DeleteKeyValue(t.Context(), "STATE_user"))
			s.admin.buckets.next = time.Time{}
			require.NoError(t, s.Ping(t.Context()))
			publish(set("u5", "1"))
			awaitState(t, js, map[string]string{"u1": "2", "a/b": "pair", "posts=3Aread": "slug", "a.b": "dot", "=2E=2E": "dots", "u3": "1", "u5": "1"})
		})
	}
}

// TestABucketThatCannotBeRestored: the stream takes events and state as before, so the bus counts
// as reachable. The log says once for each cause which bucket is missing and why.
func TestABucketThatCannotBeRestored(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	core, logs := observer.New(zapcore.InfoLevel)
	cfg := withState(srv.url())
	cfg.State = append(cfg.State, sink.StateTopic{Topic: "state.group", Entity: "group"})
	cfg.Logger = zap.New(core)
	s := open(t, cfg)
	topics := append(slices.Clone(stateTopics), "state.group")
	require.NoError(t, s.Prepare(t.Context(), topics))
	// limit changes how many streams the account may have.
	limit := func(streams int) {
		t.Helper()
		account, err := srv.srv.LookupAccount(server.DEFAULT_GLOBAL_ACCOUNT)
		require.NoError(t, err)
		require.NoError(t, account.UpdateJetStreamLimits(map[string]server.JetStreamAccountLimits{"": {
			MaxMemory: -1, MaxStore: -1, MaxStreams: streams, MaxConsumers: -1, MaxAckPending: -1, MemoryMaxStreamBytes: -1, StoreMaxStreamBytes: -1,
		}}))
	}
	look := func() {
		t.Helper()
		s.admin.buckets.next = time.Time{}
		require.NoError(t, s.Ping(t.Context()))
	}
	const failed = "cannot restore a bucket"
	said := func(text string) []observer.LoggedEntry {
		return logs.FilterMessageSnippet(text).All()
	}

	require.NoError(t, js.DeleteKeyValue(t.Context(), "STATE_user"))
	require.NoError(t, js.DeleteKeyValue(t.Context(), "STATE_group"))
	limit(2)
	look()
	look()
	require.Len(t, said("a bucket was deleted"), 1, "the other one is restored")
	require.Len(t, said(failed), 1)
	why := said(failed)[0].ContextMap()
	require.Contains(t, why["error"], "max")
	require.Contains(t, why["bucket"], "STATE_")
	require.NoError(t, s.Publish(t.Context(), []sink.Message{set("u1", "1")}))

	limit(-1)
	look()
	require.Len(t, said("a bucket was deleted"), 2)
	awaitState(t, js, map[string]string{"u1": "1"})

	require.NoError(t, js.DeleteKeyValue(t.Context(), "STATE_user"))
	limit(2)
	look()
	require.Len(t, said(failed), 2, "it is said again once it was well meanwhile")

	s.cfg.Create.Enabled = false
	look()
	look()
	require.Len(t, said(failed), 3)
	require.Contains(t, said(failed)[2].ContextMap()["error"], "bucket STATE_user does not exist")

	asking, cancel := context.WithCancel(t.Context())
	cancel()
	s.admin.buckets.next = time.Time{}
	require.Error(t, s.Ping(asking))
	require.Len(t, said(failed), 3, "nothing was asked")
}

// TestARefusedStateMessageIsNamed: what is said of a batch counts and names the messages of the
// caller, not their form on the stream.
func TestARefusedStateMessageIsNamed(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	s := open(t, withState(srv.url()))
	l := s.Ledger(laneID)
	require.NoError(t, l.Prepare(t.Context(), stateTopics))
	cp, err := l.Commit(t.Context(), nil, checkpoint.Checkpoint{}, at(0))
	require.NoError(t, err)
	e := events(0, 2, topic)
	batch := []sink.Message{set("u1", "1"), e[0], set("u1", "2"), set("u2", strings.Repeat("x", 2<<20)), e[1]}
	refused := func(err error) {
		t.Helper()
		var publish *sink.PublishError
		require.ErrorAs(t, err, &publish)
		require.Equal(t, 3, publish.Durable)
		var rejected *sink.RejectedError
		require.ErrorAs(t, err, &rejected)
		require.Equal(t, userState.Topic, rejected.Topic)
	}
	_, err = l.Commit(t.Context(), batch, cp, at(1))
	refused(err)
	refused(s.Publish(t.Context(), batch))
}

// TestAnExpiredRemovalIsNotWaitedFor: the last message of a bucket may be gone without another in
// its place. What is read then is what is left.
func TestAnExpiredRemovalIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	s := open(t, withState(srv.url()))
	require.NoError(t, s.Ledger(laneID).Prepare(t.Context(), stateTopics))
	require.NoError(t, s.Publish(t.Context(), []sink.Message{set("u1", "1"), set("u2", "1")}))
	awaitState(t, js, map[string]string{"u1": "1", "u2": "1"})
	gone := nats.NewMsg(userState.Topic + ".u2") // as relay removes it, but for seconds
	gone.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	gone.Header.Set(operationHeader, operationDelete)
	gone.Header.Set(ttlHeader, "3s")
	bucket, err := js.Stream(t.Context(), bucketStream+BucketOf(userState))
	require.NoError(t, err)
	var published time.Time
	require.Eventually(t, func() bool {
		if time.Since(published) > 15*time.Second { // again if it has expired before it was copied
			if _, err := js.PublishMsg(t.Context(), gone); err != nil {
				return false
			}
			published = time.Now()
		}
		info, err := bucket.Info(t.Context())
		return err == nil && info.State.LastSeq >= 3 && info.State.Msgs == 1
	}, patient, often, "the removal is copied and expires")
	requireReadBack(t, s, map[string]string{"u1": "1"})
}

// requireReadBack requires what relay itself reads of the state.
func requireReadBack(t *testing.T, s *Sink, want map[string]string) {
	t.Helper()
	have := map[string]string{}
	require.NoError(t, s.ReadState(t.Context(), userState, func(m *sink.Stored) error {
		require.Equal(t, userState.Topic, m.Topic)
		if m.Body == nil {
			delete(have, string(m.Key))
		} else {
			have[string(m.Key)] = string(m.Body)
		}
		return nil
	}))
	require.Equal(t, want, have)
}

// TestMaxAgeForgetsNoState: the events expire, and the state of what did not change stays, also for
// a bucket that is made after that. `relay verify` learns that older events are gone.
func TestMaxAgeForgetsNoState(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	cfg := withState(srv.url())
	cfg.Create.MaxAge, cfg.DuplicateWindow = time.Second, time.Second
	s := open(t, cfg)
	l := s.Ledger(laneID)
	require.NoError(t, l.Prepare(t.Context(), stateTopics))
	cp, err := l.Commit(t.Context(), nil, checkpoint.Checkpoint{}, at(0))
	require.NoError(t, err)
	cp, err = l.Commit(t.Context(), []sink.Message{events(0, 1, topic)[0], set("old", "1")}, cp, at(1))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		held, err := s.Holds(t.Context(), []string{topic})
		return err == nil && !held
	}, patient, often, "the events expire")
	_, err = l.Commit(t.Context(), []sink.Message{events(1, 1, topic)[0], set("new", "1")}, cp, at(2))
	require.NoError(t, err)
	require.NoError(t, js.DeleteKeyValue(t.Context(), "STATE_user"))
	require.NoError(t, l.Prepare(t.Context(), stateTopics))
	awaitState(t, js, map[string]string{"old": "1", "new": "1"})

	logs, err := s.Logs(t.Context(), stateTopics, time.Now().Add(-time.Hour))
	require.NoError(t, err)
	require.True(t, logs[0].Trimmed, "older events are gone, although state from before is there")
	require.NoError(t, s.Scan(t.Context(), logs[0], func(m *sink.Stored) error {
		require.Equal(t, topic, m.Topic)
		return nil
	}))
}

// TestBucketFollowsAStreamMadeAgain: after the stream of the events was lost, the bucket keeps what
// it has, and takes what the next stream holds.
func TestBucketFollowsAStreamMadeAgain(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	l := newLedger(t, withState(srv.url()), stateTopics...)
	cp, err := l.Commit(t.Context(), []sink.Message{events(0, 1, topic)[0], set("u1", "1"), set("u2", "1")}, checkpoint.Checkpoint{}, at(1))
	require.NoError(t, err)
	_, err = l.Commit(t.Context(), []sink.Message{events(1, 1, topic)[0], set("u2", "2")}, cp, at(2))
	require.NoError(t, err)
	awaitState(t, js, map[string]string{"u1": "1", "u2": "2"})
	require.NoError(t, js.DeleteStream(t.Context(), defaultStream))
	l.Forget()
	require.NoError(t, l.Prepare(t.Context(), stateTopics))
	_, err = l.Commit(t.Context(), []sink.Message{set("u3", "1")}, checkpoint.Checkpoint{}, at(3))
	require.NoError(t, err)
	awaitState(t, js, map[string]string{"u1": "1", "u2": "2", "u3": "1"})
	require.NoError(t, l.Prepare(t.Context(), stateTopics), "and that is all that changes")
	awaitState(t, js, map[string]string{"u1": "1", "u2": "2", "u3": "1"})
}

// TestReadBackOfABucketThatWasDamaged: somebody has deleted from the bucket what was copied last,
// so that it does not tell how far it has come.
func TestReadBackOfABucketThatWasDamaged(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	s := open(t, withState(srv.url()))
	require.NoError(t, s.Prepare(t.Context(), stateTopics))
	require.NoError(t, s.Publish(t.Context(), []sink.Message{set("u1", "1"), set("u2", "1")}))
	awaitState(t, js, map[string]string{"u1": "1", "u2": "1"})
	bucket, err := js.Stream(t.Context(), "KV_STATE_user")
	require.NoError(t, err)
	require.NoError(t, bucket.Purge(t.Context(), jetstream.WithPurgeSubject("$KV.STATE_user.u2")))
	requireReadBack(t, s, map[string]string{"u1": "1"})
	require.NoError(t, bucket.Purge(t.Context()))
	requireReadBack(t, s, map[string]string{})
	require.NoError(t, s.Publish(t.Context(), []sink.Message{set("u3", "1")}))
	requireReadBack(t, s, map[string]string{"u3": "1"})
}

// TestBucketsThatCannotBeUsed: relay says why, in Prepare and in `relay check`.
func TestBucketsThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	good := (&buckets{cfg: &Config{Stream: defaultStream}}).planned(userState)
	for name, c := range map[string]struct {
		change func(*jetstream.StreamConfig)
		want   string // empty if it is taken
	}{
		"as documented":   {func(*jetstream.StreamConfig) {}, ""},
		"memory":          {func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, ""},
		"of another":      {func(c *jetstream.StreamConfig) { c.Sources[0].Name = "OTHER" }, "it does not copy state.user.> of stream WORKOS"},
		"without sources": {func(c *jetstream.StreamConfig) { c.Sources, c.Subjects = nil, []string{"$KV.STATE_user.>"} }, "it does not copy"},
		"forgetful":       {func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour }, "max_age of 1h0m0s forgets"},
		"many versions":   {func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = -1 }, "more than the newest version"},
	} {
		t.Run(name, func(t *testing.T) {
			conf := good
			source := *good.Sources[0]
			conf.Sources = []*jetstream.StreamSource{&source}
			c.change(&conf)
			_, err := js.CreateStream(t.Context(), conf)
			require.NoError(t, err)
			defer func() { require.NoError(t, js.DeleteStream(t.Context(), conf.Name)) }()
			l := open(t, withState(srv.url())).Ledger(laneID)
			err = l.Prepare(t.Context(), stateTopics)
			status, err2 := l.Inspect(t.Context(), stateTopics)
			require.NoError(t, err2)
			require.Equal(t, userState.Topic, status[1].Topic)
			if c.want == "" {
				require.NoError(t, err)
				require.True(t, status[1].Exists, "%+v", status[1])
				require.Contains(t, status[1].Detail, "bucket STATE_user, replicas 1")
				return
			}
			var fatal *sink.FatalError
			require.ErrorAs(t, err, &fatal)
			require.ErrorContains(t, err, c.want)
			require.Contains(t, fmt.Sprint(status[1].Problems), c.want)
			require.False(t, status[1].Exists)
		})
	}
	strict := withState(srv.url())
	strict.Create.Enabled = false
	require.ErrorContains(t, open(t, strict).Prepare(t.Context(), stateTopics), "bucket STATE_user does not exist")
}

// TestStreamsThatCannotKeepState: a stream of others has to allow what state messages need.
func TestStreamsThatCannotKeepState(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	cfg := withState(srv.url())
	cfg.Stream = "PLAIN"
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "PLAIN", Subjects: []string{topic, "state.user.>"}})
	require.NoError(t, err)
	err = open(t, cfg).Prepare(t.Context(), stateTopics)
	require.ErrorContains(t, err, "stream PLAIN lacks allow_rollup_hdrs and allow_msg_ttl")
	require.ErrorContains(t, err, "nats stream edit PLAIN --allow-rollup --allow-msg-ttl")
	require.NotErrorIs(t, err, ErrStreamUnfit, "another mode of delivery would not help")
	require.NoError(t, js.DeleteStream(t.Context(), "PLAIN"))
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "PLAIN", Subjects: []string{topic, "state.user.>"}, DenyPurge: true})
	require.NoError(t, err)
	require.ErrorContains(t, open(t, cfg).Prepare(t.Context(), stateTopics), "deny_purge")
	status, err := open(t, cfg).Inspect(t.Context(), stateTopics)
	require.NoError(t, err)
	require.Contains(t, fmt.Sprint(status[1].Problems), "deny_purge")
}

func TestBucketNames(t *testing.T) {
	t.Parallel()
	for prefix, want := range map[string]string{"": "STATE_user", "acme.": "acme_STATE_user", "eu.acme.": "eu_acme_STATE_user", "x-": "x-_STATE_user"} {
		require.Equal(t, want, BucketOf(sink.StateTopic{Topic: prefix + "state.user", Entity: "user"}))
	}
}

// FuzzBucketKey: every key but the empty one becomes a legal key of a bucket, and no two the same.
func FuzzBucketKey(f *testing.F) {
	f.Add([]byte("user_01"), []byte("a.b"))
	f.Add([]byte("."), []byte("=2E"))
	f.Add([]byte("a..b"), []byte("a.=2Eb"))
	f.Add([]byte("é"), []byte("a b*>"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		key := bucketKey(a)
		require.Equal(t, len(a) > 0, legalKey(key), "%q", key)
		require.Equal(t, bytes.Equal(a, b), key == bucketKey(b))
		back, err := keyOfBucket(key)
		require.NoError(t, err)
		require.Equal(t, string(a), string(back))
	})
}

// legalKey is the rule of nats.go.
func legalKey(key string) bool {
	for i := range len(key) {
		c := key[i]
		switch {
		case c == '.' && (i == 0 || i == len(key)-1 || key[i-1] == '.'):
			return false
		case c == '-', c == '/', c == '_', c == '=', c == '.', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		default:
			return false
		}
	}
	return key != ""
}

// TestStateConverges is a property: after any changes, and after stops of the server or of the
// relay at any moment, the bucket comes to hold what the last change of each object says. In
// exactly_once it never shows a change before the stream has its event.
func TestStateConverges(t *testing.T) {
	t.Parallel()
	for _, mode := range []checkpoint.Mode{checkpoint.ExactlyOnce, checkpoint.AtLeastOnce} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("%s/%d", mode, seed), func(t *testing.T) {
				t.Parallel()
				stateConverges(t, mode, rand.New(rand.NewPCG(seed, 16)))
			})
		}
	}
}

func stateConverges(t *testing.T, mode checkpoint.Mode, random *rand.Rand) {
	srv := newServer(t)
	js := client(t, srv.url())
	// The changes of the whole run: event n and its change are adjacent.
	const changes = 400
	var all []sink.Message
	want := map[string]string{}
	for n, e := range events(0, changes, topic) {
		key := fmt.Sprintf("u%d", random.IntN(30))
		all = append(all, e)
		if random.IntN(4) == 0 {
			all = append(all, remove(key))
			delete(want, key)
			continue
		}
		all = append(all, set(key, fmt.Sprint(n)))
		want[key] = fmt.Sprint(n)
	}
	cfg := withState(srv.url())
	cfg.AckTimeout = 2 * time.Second
	var s *Sink
	var l *Ledger
	position := 0 // what the file of at_least_once says
	reopen := func() {
		if s != nil {
			require.NoError(t, s.Close())
		}
		var err error
		s, err = New(t.Context(), cfg)
		require.NoError(t, err)
		l = s.Ledger(laneID)
		again(t, "preparing", func(ctx context.Context) error {
			if mode == checkpoint.ExactlyOnce {
				return l.Prepare(ctx, stateTopics)
			}
			return s.Prepare(ctx, stateTopics)
		})
	}
	reopen()
	t.Cleanup(func() { _ = s.Close() })
	for position < len(all) {
		batch := all[position:min(len(all), position+2*(1+random.IntN(40)))]
		ctx, cancel := context.WithTimeout(t.Context(), question)
		cut := random.IntN(5)
		var cutting sync.WaitGroup
		after := time.Duration(random.IntN(3000)) * time.Microsecond
		switch cut {
		case 0: // the server goes away in the middle
			cutting.Go(func() { time.Sleep(after); srv.stop() })
		case 1: // the relay does
			cutting.Go(func() { time.Sleep(after); cancel() })
		case 2:
			_ = js.DeleteKeyValue(ctx, "STATE_user")
		}
		durable := len(batch)
		if mode == checkpoint.ExactlyOnce {
			prev, err := l.Load(ctx)
			if err == nil || errors.Is(err, checkpoint.ErrNotFound) {
				_, _ = l.Commit(ctx, batch, prev, at(position+len(batch)))
			}
		} else if err := s.Publish(ctx, batch); err != nil {
			durable = sink.Durable(err, len(batch))
			durable -= durable % 2 // the position is that of an event
		}
		cutting.Wait()
		cancel()
		if cut == 0 {
			srv.start(t)
		}
		if cut <= 2 {
			reopen()
		}
		if mode == checkpoint.AtLeastOnce {
			if random.IntN(6) > 0 { // else it is killed before it writes its file
				position += durable
			}
			continue
		}
		again(t, "loading", func(ctx context.Context) error {
			cp, err := l.Load(ctx)
			if errors.Is(err, checkpoint.ErrNotFound) {
				err = nil
			} else if err == nil {
				_, err = fmt.Sscanf(cp.EventID, "event_%d", &position)
			}
			return err
		})
		if random.IntN(3) == 0 {
			requireBehind(t, js, all[:position])
		}
	}
	awaitState(t, js, want)
}

// requireBehind requires that a bucket shows no value that is later than what the stream has.
func requireBehind(t *testing.T, js jetstream.JetStream, committed []sink.Message) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), question)
	defer cancel()
	have, err := stateOf(ctx, js)
	if err != nil {
		return // it is on its way back
	}
	possible := map[string]bool{}
	for _, m := range committed {
		if m.Entity != "" {
			possible[string(m.Key)+"="+string(m.Body)] = true
		}
	}
	for key, value := range have {
		require.True(t, possible[key+"="+value], "the bucket shows %s=%s, which is not committed", key, value)
	}
}

// TestLeastPermissionsForState: what docs/nats.md lists for state is all that a lane needs beside
// what every lane needs.
func TestLeastPermissionsForState(t *testing.T) {
	t.Parallel()
	allowed := []string{
		topic, "relay.position.workos.>", "$JS.API.STREAM.INFO.WORKOS", "$JS.API.STREAM.MSG.GET.WORKOS", "$JS.API.STREAM.NAMES",
		"$JS.API.STREAM.CREATE.WORKOS", "$JS.API.STREAM.UPDATE.WORKOS",
		"state.user.>", "$JS.API.STREAM.INFO.KV_STATE_user", "$JS.API.STREAM.CREATE.KV_STATE_user", "$JS.API.STREAM.UPDATE.KV_STATE_user",
		"$JS.API.STREAM.MSG.GET.KV_STATE_user", "$JS.API.CONSUMER.*.KV_STATE_user.>", "$JS.API.CONSUMER.MSG.NEXT.KV_STATE_user.>",
	}
	srv := newServer(t, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "relay", Password: "right", Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Allow: allowed}, Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
			}},
			{Username: "reader", Password: "right"},
		}
	})
	cfg := withState(srv.url())
	cfg.Auth = Auth{User: "relay", Password: "right"}
	s := open(t, cfg)
	l := s.Ledger(laneID)
	require.NoError(t, l.Prepare(t.Context(), stateTopics))
	_, err := l.Commit(t.Context(), []sink.Message{events(0, 1, topic)[0], set("u1", "1")}, checkpoint.Checkpoint{}, at(1))
	require.NoError(t, err)
	requireReadBack(t, s, map[string]string{"u1": "1"})
	awaitState(t, client(t, strings.Replace(srv.url(), "://", "://reader:right@", 1)), map[string]string{"u1": "1"})
	status, err := l.Inspect(t.Context(), stateTopics)
	require.NoError(t, err)
	require.Empty(t, status[1].Problems)
}

// TestBucketInACluster: a bucket has the replicas of the stream, and follows it after the server
// that leads the bucket or the stream goes away.
func TestBucketInACluster(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	js := client(t, cluster.url())
	cfg := withState(cluster.url())
	cfg.Create.Replicas, cfg.AckTimeout = 3, question
	l := open(t, cfg).Ledger(laneID)
	again(t, "preparing", func(ctx context.Context) error { return l.Prepare(ctx, stateTopics) })
	want := map[string]string{}
	n := 0
	commit := func() {
		n++
		key, value := fmt.Sprintf("u%d", n%5), fmt.Sprint(n)
		again(t, "committing", func(ctx context.Context) error {
			prev, err := l.Load(ctx)
			if err != nil && !errors.Is(err, checkpoint.ErrNotFound) {
				return err
			}
			_, err = l.Commit(ctx, []sink.Message{events(n, 1, topic)[0], set(key, value)}, prev, at(n))
			return err
		})
		want[key] = value
	}
	for _, stream := range []string{"KV_STATE_user", defaultStream} {
		for range 4 {
			commit()
		}
		leader := cluster.leader(t, js, stream)
		leader.stop()
		commit()
		leader.start(t)
		commit()
		awaitState(t, js, want)
	}
	st, err := js.Stream(t.Context(), "KV_STATE_user")
	require.NoError(t, err)
	require.Equal(t, 3, st.CachedInfo().Config.Replicas)
}
