package nats

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

func TestStreamsRefusedForPositions(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORIGIN", Subjects: []string{"origin.>"}})
	require.NoError(t, err)
	ready := jetstream.StreamConfig{AllowAtomicPublish: true, AllowRollup: true, AllowMsgTTL: true}
	with := func(change func(*jetstream.StreamConfig)) jetstream.StreamConfig {
		conf := ready
		change(&conf)
		return conf
	}
	for name, c := range map[string]struct {
		conf jetstream.StreamConfig
		want string // empty if it is taken
	}{
		"READY":         {ready, ""},
		"DENYDELETE":    {with(func(c *jetstream.StreamConfig) { c.DenyDelete = true }), ""},
		"MEMORY":        {with(func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }), ""},
		"ONEPERSUBJECT": {with(func(c *jetstream.StreamConfig) { c.MaxMsgsPerSubject = 1 }), ""},
		"FEW":           {with(func(c *jetstream.StreamConfig) { c.MaxMsgs = 3 }), ""},
		"INTEREST":      {with(func(c *jetstream.StreamConfig) { c.Retention = jetstream.InterestPolicy }), "retention is interest"},
		"WORKQUEUE":     {with(func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }), "retention is workqueue"},
		"MIRROR":        {jetstream.StreamConfig{Mirror: &jetstream.StreamSource{Name: "ORIGIN"}}, "it is a mirror"},
		"SEALED":        {with(func(c *jetstream.StreamConfig) { c.Sealed = true }), "it is sealed"},
		"NOACK":         {with(func(c *jetstream.StreamConfig) { c.NoAck = true }), "does not acknowledge"},
		"TRANSFORM": {with(func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "relay.>", Destination: "moved.>"}
		}), "it transforms subjects"},
		"COUNTER":   {jetstream.StreamConfig{AllowMsgCounter: true, AllowDirect: true}, "stream of counters"},
		"DENYPURGE": {jetstream.StreamConfig{DenyPurge: true, AllowAtomicPublish: true}, "it denies purging"},
		"ASYNC":     {jetstream.StreamConfig{PersistMode: jetstream.AsyncPersistMode}, "persist_mode is async"},
		"FULLSUBJECT": {with(func(c *jetstream.StreamConfig) {
			c.Discard, c.DiscardNewPerSubject, c.MaxMsgsPerSubject = jetstream.DiscardNew, true, 10
		}), "discard_new_per_subject"},
		"NOBATCHES": {jetstream.StreamConfig{}, "nats stream edit NOBATCHES --allow-batch --allow-rollup --allow-msg-ttl"},
		"NOTTL":     {jetstream.StreamConfig{AllowAtomicPublish: true, AllowRollup: true}, "nats stream edit NOTTL --allow-batch"},
	} {
		t.Run(name, func(t *testing.T) {
			conf := c.conf
			conf.Name = name
			id := laneID
			id.Lane = name
			if conf.Mirror == nil {
				conf.Subjects = []string{name + ".*", positionSubject(id)}
			}
			sealed := conf.Sealed
			conf.Sealed = false // only a change can seal a stream
			_, err := js.CreateStream(t.Context(), conf)
			require.NoError(t, err)
			if sealed {
				conf.Sealed = true
				_, err = js.UpdateStream(t.Context(), conf)
				require.NoError(t, err)
			}
			l := open(t, Config{URL: srv.url(), Stream: name, Create: Create{Enabled: true}}).Ledger(id)
			topics := []string{name + ".created"}
			err = l.Prepare(t.Context(), topics)
			status, err2 := l.Inspect(t.Context(), topics)
			require.NoError(t, err2)
			require.Len(t, status, 2)
			position := status[1]
			require.Equal(t, l.Subject(), position.Topic)
			if c.want == "" {
				require.NoError(t, err)
				require.Empty(t, position.Problems)
				require.True(t, position.Exists)
				next := at(12)
				next.Source = id
				cp, err := l.Commit(t.Context(), events(1, 6, topics[0]), checkpoint.Checkpoint{}, next)
				require.NoError(t, err)
				cp, err = l.Commit(t.Context(), events(7, 6, topics[0]), cp, next)
				require.NoError(t, err)
				_, err = l.Commit(t.Context(), nil, cp, next)
				require.NoError(t, err)
				return
			}
			var fatal *sink.FatalError
			require.ErrorAs(t, err, &fatal)
			require.ErrorContains(t, err, c.want)
			require.Contains(t, strings.Join(position.Problems, "; "), c.want)
			require.False(t, position.Exists)
			require.False(t, position.Creates)
			st, err := js.Stream(t.Context(), name)
			require.NoError(t, err)
			require.Equal(t, conf.AllowAtomicPublish, st.CachedInfo().Config.AllowAtomicPublish, "a stream of others was changed")
		})
	}
}

// TestOwnStreamIsMadeFit prepares a stream that relay created for at-least-once delivery on an
// older server, with messages in it.
func TestOwnStreamIsMadeFit(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: defaultStream, Subjects: []string{topic}, Metadata: map[string]string{metadataCreator: creator},
	})
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), topic, []byte("{}"))
	require.NoError(t, err)

	strict := created(srv.url())
	strict.Create.Enabled = false
	l := open(t, strict).Ledger(laneID)
	err = l.Prepare(t.Context(), []string{topic})
	require.ErrorIs(t, err, ErrStreamUnfit)
	require.ErrorContains(t, err, "set create.enabled")
	require.ErrorContains(t, err, "nats stream edit WORKOS --allow-batch --allow-rollup --allow-msg-ttl --subjects='"+topic+","+positionOfLane+"'")

	l = open(t, created(srv.url())).Ledger(laneID)
	status, err := l.Inspect(t.Context(), []string{topic})
	require.NoError(t, err)
	require.True(t, status[0].Exists)
	require.True(t, status[1].Creates)
	require.NoError(t, l.Prepare(t.Context(), []string{topic, "user.created"}))
	st, err := js.Stream(t.Context(), defaultStream)
	require.NoError(t, err)
	conf := st.CachedInfo().Config
	require.True(t, takesPositions(conf))
	require.Equal(t, []string{topic, "user.created", positionOfLane}, conf.Subjects)
	held, err := l.Holds(t.Context(), []string{topic})
	require.NoError(t, err)
	require.True(t, held)
	_, err = l.Commit(t.Context(), events(1, 10, topic), checkpoint.Checkpoint{}, at(10))
	require.NoError(t, err)
}

func TestTopicsAmongPositionsAreRefused(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	l := open(t, created(srv.url())).Ledger(laneID)
	var fatal *sink.FatalError
	require.ErrorAs(t, l.Prepare(t.Context(), []string{topic, "relay.position.a.b"}), &fatal)
	require.ErrorContains(t, fatal, "relay.position.a.b")
}

func TestStreamDoesNotExistAndIsNotCreated(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	cfg := created(srv.url())
	cfg.Create.Enabled = false
	l := open(t, cfg).Ledger(laneID)
	var fatal *sink.FatalError
	require.ErrorAs(t, l.Prepare(t.Context(), []string{topic}), &fatal)
	require.ErrorContains(t, fatal, positionOfLane)
	status, err := l.Inspect(t.Context(), []string{topic})
	require.NoError(t, err)
	require.Contains(t, status[1].Problems[0], "does not exist")
}

// TestServerBefore212 answers for JetStream as 2.11.9 was seen to: what a configuration has that it
// does not know is dropped.
func TestServerBefore212(t *testing.T) {
	t.Parallel()
	srv := newServer(t, noJetStream)
	nc := client(t, srv.url()).Conn()
	var stream map[string]any
	answer := func(m *nats.Msg, body any) {
		data, err := json.Marshal(body)
		if err == nil {
			err = m.Respond(data)
		}
		if err != nil {
			t.Error(err)
		}
	}
	_, err := nc.Subscribe("$JS.API.STREAM.INFO.WORKOS", func(m *nats.Msg) {
		if stream == nil {
			answer(m, map[string]any{"error": map[string]any{"code": 404, "err_code": jetstream.JSErrCodeStreamNotFound, "description": "stream not found"}})
			return
		}
		answer(m, map[string]any{"config": stream})
	})
	require.NoError(t, err)
	_, err = nc.Subscribe("$JS.API.STREAM.CREATE.WORKOS", func(m *nats.Msg) {
		if err := json.Unmarshal(m.Data, &stream); err != nil {
			t.Error(err)
		}
		delete(stream, "allow_atomic")
		stream["metadata"] = map[string]string{metadataCreator: creator, "_nats.ver": "2.11.9"}
		answer(m, map[string]any{"config": stream})
	})
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	requireTooOld(t, srv.url(), "2.11.9")
}

func requireTooOld(t *testing.T, url, version string) {
	t.Helper()
	s := open(t, created(url))
	l := s.Ledger(laneID)
	for range 2 { // the second time the stream is there
		err := l.Prepare(t.Context(), []string{topic})
		require.ErrorIs(t, err, ErrNoAtomicPublish)
		require.ErrorContains(t, err, "NATS server "+version+" has none")
		var fatal *sink.FatalError
		require.ErrorAs(t, err, &fatal)
	}
	status, err := l.Inspect(t.Context(), []string{topic})
	require.NoError(t, err)
	require.Contains(t, strings.Join(status[1].Problems, "; "), version)
}

// TestRealServerBefore212 needs the address of one, empty, in RELAY_TEST_NATS_OLD.
func TestRealServerBefore212(t *testing.T) {
	t.Parallel()
	url := os.Getenv("RELAY_TEST_NATS_OLD")
	if url == "" {
		t.Skip("RELAY_TEST_NATS_OLD names no server older than 2.12")
	}
	s := open(t, created(url))
	requireTooOld(t, url, s.conn.link.nc.ConnectedServerVersion())
	require.NoError(t, s.Prepare(t.Context(), []string{topic}))
	require.NoError(t, s.Publish(t.Context(), events(1, 10, topic)), "the same stream serves at-least-once delivery")
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for version, want := range map[string]bool{
		"2.12.0": true, "2.15.2": true, "3.0.0": true, "2.12.0-RC.1": true, "v2.12.1": true, "2.11.9": false, "2.9.25": false, "1.4.1": false,
		"": true, "dev": true,
	} {
		require.Equal(t, want, knowsAtomicPublish(version), version)
	}
}
