package nats

import (
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

func TestStreamsRefused(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ORIGIN", Subjects: []string{"origin.>"}})
	require.NoError(t, err)
	for name, c := range map[string]struct {
		conf jetstream.StreamConfig
		want string
	}{
		"INTEREST":  {jetstream.StreamConfig{Retention: jetstream.InterestPolicy}, "retention is interest"},
		"WORKQUEUE": {jetstream.StreamConfig{Retention: jetstream.WorkQueuePolicy}, "retention is workqueue"},
		"MIRROR":    {jetstream.StreamConfig{Mirror: &jetstream.StreamSource{Name: "ORIGIN"}}, "it is a mirror"},
		"SEALED":    {jetstream.StreamConfig{Sealed: true}, "it is sealed"},
		"NOACK":     {jetstream.StreamConfig{NoAck: true}, "it does not acknowledge"},
		"TRANSFORM": {jetstream.StreamConfig{SubjectTransform: &jetstream.SubjectTransformConfig{Source: ">", Destination: "x.>"}}, "it transforms subjects"},
		"COUNTER":   {jetstream.StreamConfig{AllowMsgCounter: true, AllowDirect: true}, "stream of counters"},
	} {
		t.Run(name, func(t *testing.T) {
			conf := c.conf
			conf.Name = name
			topic := name + ".created"
			if conf.Mirror == nil {
				conf.Subjects = []string{name + ".*"}
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
			s := open(t, Config{URL: srv.url(), Stream: name, Create: Create{Enabled: true}})
			err = s.Prepare(t.Context(), []string{topic})
			var fatal *sink.FatalError
			require.ErrorAs(t, err, &fatal)
			require.ErrorContains(t, err, "stream "+name+" cannot be used")
			require.ErrorContains(t, err, c.want)

			status, err := s.Inspect(t.Context(), []string{topic})
			require.NoError(t, err)
			require.False(t, status[0].Exists)
			require.False(t, status[0].Creates)
			require.Contains(t, status[0].Problems[0], c.want)
		})
	}
}

func TestStreamOfOthers(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: defaultStream, Subjects: []string{"dsync.>", "user.*"}})
	require.NoError(t, err)
	s := open(t, Config{URL: srv.url(), Create: Create{Enabled: true}})
	require.NoError(t, s.Prepare(t.Context(), []string{"dsync.user.created", "user.created"}))

	err = s.Prepare(t.Context(), []string{"dsync.user.created", "user.role.created", "session.created"})
	var fatal *sink.FatalError
	require.ErrorAs(t, err, &fatal)
	require.ErrorContains(t, err, "user.role.created, session.created")
	require.NotContains(t, err.Error(), "dsync.user.created")
	st, err := js.Stream(t.Context(), defaultStream)
	require.NoError(t, err)
	require.Equal(t, []string{"dsync.>", "user.*"}, st.CachedInfo().Config.Subjects, "a stream of others was changed")
}

func TestCreatedStream(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	topics := []string{"a.created", "b.created"}
	s := open(t, Config{URL: srv.url(), RelayID: "workos", Create: Create{Enabled: true, MaxAge: 30 * time.Second, MaxBytes: 1 << 30}})
	require.NoError(t, s.Prepare(t.Context(), topics))
	st, err := js.Stream(t.Context(), defaultStream)
	require.NoError(t, err)
	conf := st.CachedInfo().Config
	require.Equal(t, topics, conf.Subjects)
	require.Equal(t, jetstream.FileStorage, conf.Storage)
	require.Equal(t, jetstream.LimitsPolicy, conf.Retention)
	require.Equal(t, jetstream.DiscardOld, conf.Discard)
	require.Equal(t, 30*time.Second, conf.MaxAge)
	require.Equal(t, 30*time.Second, conf.Duplicates, "not longer than max_age")
	require.EqualValues(t, 1<<30, conf.MaxBytes)
	require.Equal(t, "workos", conf.Metadata[metadataRelay])
	require.True(t, conf.AllowAtomicPublish)
	require.True(t, conf.AllowRollup)
	require.True(t, conf.AllowMsgTTL)
}

func TestOverlapIsNamed(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	js := client(t, srv.url())
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "ACCOUNTS", Subjects: []string{"user.>"}})
	require.NoError(t, err)
	s := open(t, Config{URL: srv.url(), Create: Create{Enabled: true}})
	for _, when := range []string{"creating", "adding"} {
		err = s.Prepare(t.Context(), []string{"dsync.activated", "user.created"})
		var fatal *sink.FatalError
		require.ErrorAs(t, err, &fatal, when)
		require.ErrorContains(t, err, "user.created by stream ACCOUNTS", when)
		status, err := s.Inspect(t.Context(), []string{"dsync.activated", "user.created"})
		require.NoError(t, err)
		require.Empty(t, status[0].Problems)
		require.Contains(t, status[1].Problems[0], "stream ACCOUNTS")
		require.NoError(t, s.Prepare(t.Context(), []string{"dsync.activated"}))
	}
}

func TestReplicasWithoutCluster(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	s := open(t, Config{URL: srv.url(), Create: Create{Enabled: true, Replicas: 3}})
	err := s.Prepare(t.Context(), []string{topic})
	var fatal *sink.FatalError
	require.ErrorAs(t, err, &fatal)
	require.ErrorContains(t, err, "replicas")
}

// TestRelaysAddSubjects lets relays with other routes prepare the same stream at once. A change
// that is made long after its relay has looked may still take another's subjects away, for good
// only if that one never prepares again, as its lane does at the next failure.
func TestRelaysAddSubjects(t *testing.T) {
	t.Parallel()
	srv := newServer(t)
	errs := make(chan error, 4)
	var all []string
	var again []func() error
	for _, topic := range []string{"a", "b", "c", "d"} {
		topics := []string{topic + ".created", topic + ".deleted"}
		all = append(all, topics...)
		s := open(t, Config{URL: srv.url(), Create: Create{Enabled: true}})
		prepare := func() error { return s.Prepare(t.Context(), topics) }
		again = append(again, prepare)
		go func() { errs <- prepare() }()
	}
	for range 4 {
		require.NoError(t, <-errs)
	}
	for _, prepare := range again {
		require.NoError(t, prepare())
	}
	st, err := client(t, srv.url()).Stream(t.Context(), defaultStream)
	require.NoError(t, err)
	require.ElementsMatch(t, all, st.CachedInfo().Config.Subjects)
}

// TestAChangeThatIsUndoneIsMadeAgain: another relay, which has looked at the stream before, changes
// it just after this one.
func TestAChangeThatIsUndoneIsMadeAgain(t *testing.T) {
	t.Parallel()
	s, js, proxy := preparedBehind(t, Config{})
	info, err := s.stream.info(t.Context(), s.conn.link)
	require.NoError(t, err)
	subjects := func() []string {
		st, err := js.Stream(t.Context(), defaultStream)
		require.NoError(t, err)
		return st.CachedInfo().Config.Subjects
	}
	proxy.replies.Lock()
	done := make(chan error, 1)
	go func() {
		_, err := s.admin.adapt(t.Context(), s.conn.link, info, demand{subjects: []string{topic, "a.created"}})
		done <- err
	}()
	require.Eventually(t, func() bool { return slices.Contains(subjects(), "a.created") }, patient, often)
	other := info.Config
	other.Subjects = []string{topic, "b.created"}
	_, err = js.UpdateStream(t.Context(), other)
	require.NoError(t, err)
	proxy.replies.Unlock()
	require.NoError(t, <-done)
	require.ElementsMatch(t, []string{topic, "a.created", "b.created"}, subjects())
}

func TestSubjectsAndPatterns(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, subject string
		want             bool
	}{
		{"a.b", "a.b", true}, {"a.b", "a.c", false}, {"a.b", "a.b.c", false}, {"a.b.c", "a.b", false},
		{"a.*", "a.b", true}, {"a.*", "a", false}, {"a.*", "a.b.c", false}, {"*.b", "a.b", true},
		{">", "a", true}, {"a.>", "a.b.c", true}, {"a.>", "a", false}, {"a.*.c", "a.b.c", true}, {"a.*.c", "a.b.d", false},
		{"relay.position.>", "relay.position.workos.nats", true},
	} {
		require.Equal(t, c.want, sink.Matches(c.pattern, c.subject), "%s %s", c.pattern, c.subject)
	}
	for _, legal := range []string{"a", "a.b", "organization_membership.created", "acme-eu.user.created", "A1.b_2"} {
		require.Empty(t, illegalSubject(legal), legal)
	}
	for _, bad := range append(illegal, "", ".", "a.b..c", "$JS.API", "a\x00") {
		require.NotEmpty(t, illegalSubject(bad), bad)
	}
}
