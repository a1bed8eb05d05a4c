package nats

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

func ofRelay(url string, more Config) Config {
	more.URL = url
	more.Create.Enabled = true
	return more
}

func settingsOf(t *testing.T, s *Sink, apply bool) map[string]sink.Setting {
	t.Helper()
	found, err := s.Settings(t.Context(), []string{topic}, apply)
	require.NoError(t, err)
	byKey := map[string]sink.Setting{}
	for _, f := range found {
		require.Equal(t, "stream WORKOS", f.Of)
		byKey[f.Key] = f
	}
	return byKey
}

func configOf(t *testing.T, js jetstream.JetStream) jetstream.StreamConfig {
	t.Helper()
	st, err := js.Stream(t.Context(), defaultStream)
	require.NoError(t, err)
	return st.CachedInfo().Config
}

func TestSettingsOfNoStream(t *testing.T) {
	t.Parallel()
	s := open(t, ofRelay(newServer(t).url(), Config{Create: Create{MaxAge: time.Hour}}))
	require.Empty(t, settingsOf(t, s, true))
}

func TestWhichLimitsNeedConfirmation(t *testing.T) {
	t.Parallel()
	const hour = time.Hour
	for _, c := range []struct {
		name         string
		before       Create
		messages     int
		want         Create
		key          string
		have, wanted string
		outcome      sink.Outcome
	}{
		{"a longer age", Create{MaxAge: hour}, 3, Create{MaxAge: 2 * hour}, keyMaxAge, "1h", "2h", sink.Changed},
		{"no age", Create{MaxAge: hour}, 3, Create{}, "", "", "", ""},
		{"a shorter age", Create{MaxAge: 2 * hour}, 3, Create{MaxAge: hour}, keyMaxAge, "2h", "1h", sink.HeldBack},
		{"a shorter age of an empty stream", Create{MaxAge: 2 * hour}, 0, Create{MaxAge: hour}, keyMaxAge, "2h", "1h", sink.Changed},
		{"a shorter age, confirmed", Create{MaxAge: 2 * hour}, 3, Create{MaxAge: hour, AllowDeletion: true}, keyMaxAge, "2h", "1h", sink.Changed},
		{"a first age that deletes nothing", Create{}, 3, Create{MaxAge: hour}, keyMaxAge, "0s (no limit)", "1h", sink.Changed},
		{"a first age that deletes", Create{}, 3, Create{MaxAge: 100 * time.Millisecond}, keyMaxAge, "0s (no limit)", "100ms", sink.HeldBack},
		{"more bytes", Create{MaxBytes: 1 << 20}, 3, Create{MaxBytes: 2 << 20}, keyMaxBytes, "1MiB", "2MiB", sink.Changed},
		{"fewer bytes", Create{MaxBytes: 2 << 20}, 3, Create{MaxBytes: 1 << 20}, keyMaxBytes, "2MiB", "1MiB", sink.HeldBack},
		{"fewer bytes, confirmed", Create{MaxBytes: 2 << 20}, 3, Create{MaxBytes: 1 << 10, AllowDeletion: true}, keyMaxBytes, "2MiB", "1KiB", sink.Changed},
		{"first bytes that delete nothing", Create{}, 3, Create{MaxBytes: 1 << 20}, keyMaxBytes, "0 (no limit)", "1MiB", sink.Changed},
		{"first bytes that delete", Create{}, 3, Create{MaxBytes: 100}, keyMaxBytes, "0 (no limit)", "100", sink.HeldBack},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			srv := newServer(t) // a stream made in the place of a deleted one may find its messages
			js := client(t, srv.url())
			require.NoError(t, open(t, ofRelay(srv.url(), Config{Create: c.before})).Prepare(t.Context(), []string{topic}))
			for range c.messages {
				_, err := js.Publish(t.Context(), topic, []byte("a message of some length"))
				require.NoError(t, err)
			}
			if c.want.MaxAge == 100*time.Millisecond {
				time.Sleep(150 * time.Millisecond)
			}
			before := configOf(t, js)
			found := settingsOf(t, open(t, ofRelay(srv.url(), Config{Create: c.want})), true)
			if c.key == "" {
				require.Empty(t, found)
				require.Equal(t, before.MaxAge, configOf(t, js).MaxAge)
				return
			}
			require.Len(t, found, 1)
			got := found[c.key]
			require.Equal(t, c.outcome, got.Outcome, got)
			require.Equal(t, [2]string{c.have, c.wanted}, [2]string{got.Have, got.Want})
			after := configOf(t, js)
			if c.outcome == sink.HeldBack {
				require.Contains(t, got.Why, "would delete stored messages")
				require.Contains(t, got.Why, "create.allow_deletion: true")
				require.Equal(t, before.MaxAge, after.MaxAge)
				require.Equal(t, before.MaxBytes, after.MaxBytes)
				return
			}
			if c.want.MaxAge > 0 {
				require.Equal(t, c.want.MaxAge, after.MaxAge)
			}
			if c.want.MaxBytes > 0 {
				require.EqualValues(t, c.want.MaxBytes, after.MaxBytes)
			}
		})
	}
}

func TestTheDuplicateWindowIsNotLongerThanTheAge(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	require.NoError(t, open(t, ofRelay(srv.url(), Config{Create: Create{MaxAge: time.Hour}, DuplicateWindow: 10 * time.Minute})).Prepare(t.Context(), []string{topic}))

	got := settingsOf(t, open(t, ofRelay(srv.url(), Config{DuplicateWindow: 2 * time.Hour})), true)
	require.Equal(t, sink.Unchanged, got[keyDuplicates].Outcome)
	require.Contains(t, got[keyDuplicates].Why, "max_age of the stream, which is 1h")

	got = settingsOf(t, open(t, ofRelay(srv.url(), Config{Create: Create{MaxAge: 3 * time.Hour}, DuplicateWindow: 2 * time.Hour})), true)
	require.Equal(t, sink.Changed, got[keyMaxAge].Outcome)
	require.Equal(t, sink.Changed, got[keyDuplicates].Outcome)
	require.Equal(t, 2*time.Hour, configOf(t, js).Duplicates)

	// An age that is shorter than the window takes the window along.
	got = settingsOf(t, open(t, ofRelay(srv.url(), Config{Create: Create{MaxAge: time.Minute}})), true)
	require.Equal(t, sink.Changed, got[keyMaxAge].Outcome, "the stream is empty")
	require.Contains(t, got[keyMaxAge].Why, "duplicate_window becomes 1m")
	require.Equal(t, time.Minute, configOf(t, js).Duplicates)
}

func TestAChangeThatTheServerRefuses(t *testing.T) {
	t.Parallel()
	srv := newServer(t, func(o *server.Options) { o.JetStreamLimits.Duplicates = 5 * time.Minute })
	js := client(t, srv.url())
	require.NoError(t, open(t, ofRelay(srv.url(), Config{})).Prepare(t.Context(), []string{topic}))
	got := settingsOf(t, open(t, ofRelay(srv.url(), Config{Create: Create{MaxAge: time.Hour}, DuplicateWindow: 10 * time.Minute})), true)
	require.Equal(t, sink.Changed, got[keyMaxAge].Outcome, "one that is refused does not hold up the others")
	require.Equal(t, sink.Unchanged, got[keyDuplicates].Outcome)
	require.Contains(t, got[keyDuplicates].Why, "the NATS server refuses the change")
	require.Equal(t, time.Hour, configOf(t, js).MaxAge)
}

// TestRelaysWithDifferentSettingsDoNotFight lets two relays take turns: each changes the stream
// once, and names the difference then.
func TestRelaysWithDifferentSettingsDoNotFight(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	a := open(t, ofRelay(srv.url(), Config{DuplicateWindow: 3 * time.Minute}))
	b := open(t, ofRelay(srv.url(), Config{DuplicateWindow: 4 * time.Minute}))
	require.NoError(t, a.Prepare(t.Context(), []string{topic}))
	require.Equal(t, sink.Changed, settingsOf(t, b, true)[keyDuplicates].Outcome)
	require.Equal(t, sink.Changed, settingsOf(t, a, true)[keyDuplicates].Outcome)
	for range 3 {
		got := settingsOf(t, b, true)[keyDuplicates]
		require.Equal(t, sink.Unchanged, got.Outcome)
		require.Contains(t, got.Why, "another program has changed it back")
		require.Empty(t, settingsOf(t, a, true))
	}
	require.Equal(t, 3*time.Minute, configOf(t, js).Duplicates)
}

// TestReplicasInACluster raises the replicas of a stream that holds messages.
func TestReplicasInACluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	js := client(t, c.url())
	s := open(t, ofRelay(c.url(), Config{}))
	require.Eventually(t, func() bool { return s.Prepare(t.Context(), []string{topic}) == nil }, patient, often)
	_, err := js.Publish(t.Context(), topic, []byte("{}"))
	require.NoError(t, err)

	got := settingsOf(t, open(t, ofRelay(c.url(), Config{Create: Create{Replicas: 3}})), true)
	require.Equal(t, sink.Changed, got[keyReplicas].Outcome, got)
	require.Equal(t, 3, configOf(t, js).Replicas)
	c.leader(t, js, defaultStream)
	require.Len(t, readAll(t, js, defaultStream, []string{topic}), 1)

	got = settingsOf(t, open(t, ofRelay(c.url(), Config{Create: Create{Replicas: 1}})), true)
	require.Equal(t, sink.HeldBack, got[keyReplicas].Outcome)
	require.Contains(t, got[keyReplicas].Why, "would delete 2 copies")
	require.Equal(t, 3, configOf(t, js).Replicas)
}

func TestTextsOfSettings(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		720 * time.Hour: "720h", 90 * time.Minute: "1h30m", time.Minute: "1m", 10 * time.Second: "10s", 70 * time.Second: "1m10s", 0: "0s",
		100 * time.Millisecond: "100ms", time.Hour + time.Second: "1h0m1s",
	} {
		require.Equal(t, want, durationText(d))
	}
}

// TestASettingThatTheServerDoesNotKnow: a server that is too old for a setting answers that it has
// changed the stream, and has not.
func TestASettingThatTheServerDoesNotKnow(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	nc, err := nats.Connect(srv.url(), nats.Timeout(patient))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	answer := func(m *nats.Msg) {
		_ = m.Respond([]byte(`{"config": {"name": "WORKOS", "subjects": ["user.created"], "num_replicas": 1, "metadata": {"relay.created-by": "relay"}}}`))
	}
	for _, call := range []string{"INFO", "UPDATE"} {
		_, err := nc.Subscribe("OLD.API.STREAM."+call+".WORKOS", answer)
		require.NoError(t, err)
	}
	require.NoError(t, nc.Flush())
	s := open(t, ofRelay(srv.url(), Config{APIPrefix: "OLD.API", Create: Create{Compression: compressionS2, Metadata: map[string]string{"team": "platform"}}}))
	found := settingsOf(t, s, true)
	for _, key := range []string{keyCompression, keyMetadata} {
		require.Equal(t, sink.Unchanged, found[key].Outcome)
		require.Contains(t, found[key].Why, "too old for this setting")
	}
}

func TestTextOfAPlacement(t *testing.T) {
	t.Parallel()
	for want, p := range map[string]*jetstream.Placement{
		"none":                          nil,
		"cluster east":                  {Cluster: "east"},
		"tags eu, ssd":                  {Tags: []string{"SSD", "eu", "ssd"}},
		"cluster east, tags eu":         {Cluster: "east", Tags: []string{"eu"}},
		"cluster a\ufffdb, tags \ufffd": {Cluster: "a\x00b", Tags: []string{"\x1b"}},
	} {
		if strings.Contains(want, "\ufffd") {
			require.NotContains(t, placementText(p), "\x00")
			require.NotContains(t, placementText(p), "\x1b")
			continue
		}
		require.Equal(t, want, placementText(p))
	}
}
