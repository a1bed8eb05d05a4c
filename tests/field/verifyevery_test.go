//go:build unix

package field

import (
	"math/rand/v2"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"workos-relay/internal/admin"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// verifyHourly makes a relay of testkit.Build verify its lanes every two seconds: see testkit.Hour.
const verifyHourly = "verify: {every: 1h}\n"

// awaitVerified waits until the lane has verified itself once more after now, so that the run has
// begun after now, and returns what that found.
func (r *relay) awaitVerified(t testing.TB, lane string) admin.Verified {
	t.Helper()
	asked := time.Now()
	var last *admin.Verified
	r.Await(t, func() bool {
		v := r.Lane(lane).Verify
		if v == nil || v.Last == nil {
			return false
		}
		last = v.Last
		return last.EndedAt.Add(-time.Duration(last.DurationSeconds * float64(time.Second))).After(asked)
	}, "lane %q verifies itself", lane)
	return *last
}

// firstRun matches, in the log, that the run found nothing which began where the lane did.
const firstRun = `verified: .*"from":\s*"earliest"`

// metric returns the value of a series that /metrics has, as text.
func (r *relay) metric(t testing.TB, series string) string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(r.Metrics())
	if m == nil {
		return ""
	}
	return m[1]
}

// newestEvent returns the sequence and the id of the newest event of a stream.
func newestEvent(t testing.TB, s jetstream.Stream) (uint64, string) {
	t.Helper()
	info, err := s.Info(t.Context())
	require.NoError(t, err)
	for seq := info.State.LastSeq; seq > 0; seq-- {
		if m, err := s.GetMsg(t.Context(), seq); err == nil && m.Header.Get("event-id") != "" && m.Header.Get("entity") == "" {
			return seq, m.Header.Get("event-id")
		}
	}
	require.Fail(t, "the stream has no event")
	return 0, ""
}

// TestLaneVerifiesItself: with verify.every the running relay compares events and state with WorkOS
// by itself. It finds nothing while events come, while the position is moved back and forth by
// hand, and while routes change, and it finds an event and an object that somebody has deleted. A
// fault changes neither health nor readiness, and what the status names shows it.
func TestLaneVerifiesItself(t *testing.T) {
	t.Parallel()
	t.Run("nats", func(t *testing.T) {
		t.Parallel()
		api := newAPI(t, sourcetest.WithWorld(sourcetest.WorldConfig{Seed: 3, Organizations: 4, Users: 20, Directories: 2, DirectoryUsers: 20}))
		w := api.World()
		bus := newNATS(t, nil)
		js := bus.connect(t)
		config := strings.Replace(natsConfig(api.URL(), bus.URL), "}]", ", state: {entities: [organization, user, directory_user], snapshot: first_start}}]", 1)
		config = strings.Replace(config, "source: {", "source: {rate_limit: 5000, ", 1) // a tenth is for this
		r := newRelay(t, "relay", config)
		r.Start(t)
		r.Await(t, func() bool { l := r.Lane(""); return l.AtTip && l.Snapshot != nil && l.Snapshot.FinishedAt != nil }, "all is there")
		r.rewrite(t, config+verifyHourly)
		code, out, errs := r.Run(t, "reload")
		require.Equal(t, exitDone, code, out+errs)
		first := r.awaitVerified(t, "")
		require.Zero(t, first.Faults, "%+v", first)
		require.Regexp(t, firstRun, r.Output()) // the status may have the second one already
		require.NotNil(t, first.State)
		require.Equal(t, 3, first.State.Entities)
		require.Positive(t, first.State.Objects)

		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			random := rand.New(rand.NewPCG(1, 2))
			for {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
					changeAnything(w, random)
				}
			}
		}()
		v := r.awaitVerified(t, "")
		require.Zero(t, v.Faults, "%+v", v)
		for _, to := range []string{"earliest", "latest"} { // repeats all events, and skips some
			code, out, errs := r.Run(t, "checkpoint", "set", to, "--skip")
			require.Equal(t, exitDone, code, out+errs)
			v := r.awaitVerified(t, "")
			require.Zero(t, v.Faults, "%s: %+v", to, v)
		}
		for _, routes := range []string{"routes: [{events: [\"user.*\"], topic: people}, {events: [\"connection.*\"], drop: true}]\n", ""} {
			r.rewrite(t, config+verifyHourly+routes)
			code, out, errs := r.Run(t, "reload")
			require.Equal(t, exitDone, code, out+errs)
			v := r.awaitVerified(t, "")
			require.Zero(t, v.Faults, "%q: %+v", routes, v)
		}
		close(stop)
		<-stopped
		require.Zero(t, r.awaitVerified(t, "").Faults)

		s, err := js.Stream(t.Context(), stream)
		require.NoError(t, err)
		code, out, errs = r.Run(t, "pause")
		require.Equal(t, exitDone, code, out+errs)
		seq, lost := newestEvent(t, s)
		require.NoError(t, s.DeleteMsg(t.Context(), seq))
		user := w.Keys("user")[0]
		kv, err := js.Stream(t.Context(), "KV_STATE_user")
		require.NoError(t, err)
		require.NoError(t, kv.Purge(t.Context(), jetstream.WithPurgeSubject("$KV.STATE_user."+user)))
		code, out, errs = r.Run(t, "resume")
		require.Equal(t, exitDone, code, out+errs)

		v = r.awaitVerified(t, "")
		require.Equal(t, []int{1, 1, 2}, []int{v.Missing, v.State.Missing, v.Faults}, "%+v", v)
		require.Len(t, v.Commands, 2)
		for i, says := range []string{lost, "user " + user} {
			code, out, errs := r.Run(t, append(strings.Fields(v.Commands[i])[1:], "--examples", "5")...)
			require.Equal(t, exitFailed, code, out+errs)
			require.Contains(t, out, says)
		}
		require.Equal(t, "1", r.metric(t, `relay_verify_faults{finding="missing",lane="nats"}`))
		require.Equal(t, "1", r.metric(t, `relay_verify_faults{finding="state_missing",lane="nats"}`))
		r.Await(t, func() bool {
			ready, _ := r.Ready()
			return ready == http.StatusOK && r.Lane("").Health == admin.Healthy
		}, "a fault changes neither")
		_, out, _ = r.Run(t, "status")
		require.Regexp(t, `lane nats: verification: .* ago, .* FAULTS: 1 missing, 1 missing in the state; .*`+"`relay verify --lane nats .*` shows the faults \\[R1609\\]", out)
		require.Contains(t, r.Output(), "the verification of the lane found faults")

		// It is reported until it is mended, also after a move that was refused.
		code, out, errs = r.Run(t, "checkpoint", "set", "event_01JUNKNOWN0000000000000000")
		require.NotEqual(t, exitDone, code, out+errs)
		require.Equal(t, 1, r.awaitVerified(t, "").Missing)
		code, out, errs = r.Run(t, append(strings.Fields(v.Commands[0])[1:], "--repair")...)
		require.Equal(t, exitDone, code, out+errs)
		code, out, errs = r.Run(t, "snapshot", "--entities", "user")
		require.Equal(t, exitDone, code, out+errs)
		v = r.awaitVerified(t, "")
		require.Zero(t, v.Faults, "%+v", v)

		// Without the key it ends, and nothing of it is left.
		r.rewrite(t, config)
		code, out, errs = r.Run(t, "reload")
		require.Equal(t, exitDone, code, out+errs)
		r.Await(t, func() bool { return !strings.Contains(r.Metrics(), "relay_verify_faults") }, "the metrics are gone")
		require.Nil(t, r.Lane("").Verify)
		require.Equal(t, exitDone, r.Stop(t))
	})
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		api := newAPI(t, backlog(1500))
		bus := newKfake(t)
		config := bus.config(api.URL(), "")
		r := newRelay(t, "relay", config)
		r.Start(t)
		r.Await(t, func() bool { l := r.Lane(""); return l.AtTip && l.Events == 1500 }, "all events are committed")
		r.rewrite(t, config+verifyHourly) // the first run has all of them before it
		code, out, errs := r.Run(t, "reload")
		require.Equal(t, exitDone, code, out+errs)
		v := r.awaitVerified(t, "")
		require.Zero(t, v.Faults, "%+v", v)
		require.Nil(t, v.State)
		require.Regexp(t, firstRun+`.*\b1500\b`, r.Output()) // the status may have the second one already
		for range 2 {
			appendEvents(t, api, source.UserCreated, 500, 0)
			v := r.awaitVerified(t, "")
			require.Zero(t, v.Faults, "%+v", v)
		}
		ids := appendEvents(t, api, source.UserCreated, 3, 0)
		r.Await(t, func() bool { return r.Lane("").Position.EventID == ids[2] }, "all events are there")
		for _, records := range bus.read(t) {
			for _, m := range records {
				if headerOf(m, "event-id") == ids[2] {
					require.NoError(t, bus.Client.ProduceSync(t.Context(), &kgo.Record{Topic: m.Topic, Key: m.Key, Value: m.Value, Headers: m.Headers}).FirstErr())
				}
			}
		}
		v = r.awaitVerified(t, "")
		require.Equal(t, []int{1, 1}, []int{v.Duplicate, v.Faults}, "%+v", v)
		code, out, errs = r.Run(t, strings.Fields(v.Commands[0])[1:]...)
		require.Equal(t, exitFailed, code, out+errs)
		require.Contains(t, out, ids[2])
		require.Equal(t, exitDone, r.Stop(t))
	})
}

// TestVerifyingItselfRaisesNoFalseAlarm: what a bus does not keep any more by its settings, copies
// that at_least_once allows, replays, dead letters and a takeover are no faults, and a paused lane
// and one whose bus is down are not compared.
func TestVerifyingItselfRaisesNoFalseAlarm(t *testing.T) {
	t.Parallel()
	quiet := func(t testing.TB, r *relay, runs int) {
		t.Helper()
		for range runs {
			v := r.awaitVerified(t, "")
			require.Zero(t, v.Faults, "%+v", v)
		}
	}
	t.Run("retention", func(t *testing.T) {
		t.Parallel()
		api := newAPI(t, backlog(300))
		bus := newNATS(t, nil)
		js := bus.connect(t)
		r := newRelay(t, "relay", natsCreate(api.URL(), bus.URL, ", create: {max_age: 1s}")+verifyHourly)
		r.Start(t)
		quiet(t, r, 1)
		appendEvents(t, api, source.UserCreated, 20, 0)
		r.Await(t, func() bool { return countEvents(js, stream) == 0 }, "the stream has let go of every event")
		quiet(t, r, 2)
		require.Equal(t, exitDone, r.Stop(t))
	})
	t.Run("copies, replays and dead letters", func(t *testing.T) {
		t.Parallel()
		api := newAPI(t, backlog(100))
		bus := newNATS(t, func(o *server.Options) { o.MaxPayload = 8 << 10 })
		js := bus.connect(t)
		r := newRelay(t, "relay", natsCreate(api.URL(), bus.URL, ", delivery: at_least_once")+verifyHourly+"dead_letter: {topic: dead}\n")
		r.Start(t)
		quiet(t, r, 1)
		appendEvents(t, api, source.UserCreated, 5, 0)
		appendEvents(t, api, source.UserUpdated, 2, 9<<10)
		r.Await(t, func() bool { return countEvents(js, stream) == 107 }, "all events are there")
		storeAgain(t, js, 7)
		code, out, errs := r.Run(t, "replay", "--since", "1h", "--until", "latest")
		require.Equal(t, exitDone, code, out+errs)
		quiet(t, r, 2)
		require.Equal(t, exitDone, r.Stop(t))
	})
	t.Run("a takeover, a pause and a bus that is down", func(t *testing.T) {
		t.Parallel()
		api := newAPI(t, backlog(200))
		bus := newNATS(t, nil)
		r := newRelay(t, "one", natsConfig(api.URL(), bus.URL)+verifyHourly+"takeover_after: 3s\n")
		other := &relay{r.Twin(t, "other")}
		r.Start(t)
		quiet(t, r, 1)
		other.Start(t)
		other.Await(t, func() bool { return other.Lane("").Verify != nil }, "the standby has the section")
		if l := other.Lane(""); !l.Active && l.Verify != nil {
			require.Nil(t, l.Verify.Last, "a standby does not")
		}
		r.Kill()
		other.Await(t, func() bool { return other.Lane("").Active }, "it takes over")
		appendEvents(t, api, source.UserCreated, 20, 0)
		quiet(t, other, 1)
		code, out, errs := other.Run(t, "pause")
		require.Equal(t, exitDone, code, out+errs)
		other.Await(t, func() bool { return other.Lane("").Verify.Waits == "the lane is paused" }, "it says so")
		code, out, errs = other.Run(t, "resume")
		require.Equal(t, exitDone, code, out+errs)
		quiet(t, other, 1)
		require.Equal(t, exitDone, other.Stop(t))
	})
}
