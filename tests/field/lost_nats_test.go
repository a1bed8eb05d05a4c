//go:build unix

package field

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
)

// lostModes are the modes in which a bus must not lose anything unnoticed: with the default, and at
// least once.
var lostModes = map[string]string{"auto": "", "at_least_once": ", delivery: at_least_once"}

// endsWithQuestion waits until relay exits with the code for operators, and returns what it wrote.
func endsWithQuestion(t testing.TB, r *relay) string {
	t.Helper()
	require.Eventually(t, func() bool { return !r.Runs() }, patient, often, "relay does not end\n%s", r.Tail(3000))
	require.Equal(t, exitDecides, r.Wait(t), r.Tail(3000))
	return r.Output()
}

// verifyIsClean requires that `relay verify` finds nothing wrong with what the bus holds.
func verifyIsClean(t testing.TB, r *relay) {
	t.Helper()
	code, out, errs := r.Run(t, "verify", "--since", "earliest", "--until", "latest")
	require.Equal(t, exitDone, code, out+errs)
}

// TestStreamDeleted deletes the stream while relay runs, with and without events that come in, and
// while it stands still.
//
// P3: a deleted stream, on the built binary.
func TestStreamDeleted(t *testing.T) {
	t.Parallel()
	const events = 300
	for mode, cases := range map[string][]string{"auto": {"running", "killed"}, "at_least_once": {"idle", "stopped"}} {
		for _, when := range cases {
			t.Run(mode+"/"+when, func(t *testing.T) {
				t.Parallel()
				key := lostModes[mode]
				api := newAPI(t, backlog(events))
				bus := newNATS(t, nil)
				js := bus.connect(t)
				r := newRelay(t, "relay", sourceConfig(api.URL())+fmt.Sprintf("sinks: [{name: nats, type: nats, url: %q%s}]\n", bus.URL, key))
				r.Start(t)
				r.Await(t, func() bool { return countEvents(js, stream) == events && r.Lane("").Events == events }, "all events are committed")
				switch when {
				case "stopped":
					require.Equal(t, exitDone, r.Stop(t))
				case "killed":
					r.Kill()
				}
				require.NoError(t, js.DeleteStream(t.Context(), stream))
				switch when {
				case "running":
					appendEvents(t, api, "user.created", 10, 0)
				case "stopped", "killed":
					r.Start(t)
				}
				said := endsWithQuestion(t, r)
				require.Contains(t, said, "stream WORKOS was deleted")
				require.Contains(t, said, "events")
				if when != "killed" { // then the count may be behind
					require.Contains(t, said, "relay had stored 300 events")
				}
				require.Contains(t, said, "relay checkpoint set --lane nats event_")
				require.Zero(t, countEvents(js, stream))

				r.Start(t) // it asks again
				require.Contains(t, endsWithQuestion(t, r), "stream WORKOS was deleted")
				_, err := js.Stream(t.Context(), stream)
				require.ErrorIs(t, err, jetstream.ErrStreamNotFound, "nothing is made again without a word")

				code, out, errs := r.Check(t)
				require.NotEqual(t, exitDone, code)
				require.Contains(t, out+errs, "stream WORKOS was deleted")
				code, out, errs = r.Run(t, "checkpoint", "reset")
				require.Equal(t, exitDone, code, out+errs)
				r.Start(t)
				total := len(api.IDs(sourcetest.Filter{}))
				r.Await(t, func() bool { return countEvents(js, stream) == total }, "all events are published again")
				require.Equal(t, api.IDs(sourcetest.Filter{}), eventIDs(t, js, stream))
				require.Equal(t, exitDone, r.Stop(t))
				verifyIsClean(t, r)
			})
		}
	}
}

// TestStandbyOfADeletedStream has a standby with its own data directory watch the relay whose
// stream is deleted: neither makes the stream again.
func TestStandbyOfADeletedStream(t *testing.T) {
	t.Parallel()
	api := newAPI(t, backlog(100))
	bus := newNATS(t, nil)
	js := bus.connect(t)
	active := newRelay(t, "active", natsConfig(api.URL(), bus.URL))
	active.Start(t)
	active.Await(t, func() bool { return countEvents(js, stream) == 100 }, "all events are on the stream")
	standby := active.twin(t, "standby")
	standby.Start(t)
	standby.AwaitState(t, "", pipeline.Standby)
	require.NoError(t, js.DeleteStream(t.Context(), stream))
	endsWithQuestion(t, active)
	endsWithQuestion(t, standby)
	for _, r := range []*relay{standby, active} { // and again
		r.Start(t)
		require.Contains(t, endsWithQuestion(t, r), "stream WORKOS was deleted")
	}
	_, err := js.Stream(t.Context(), stream)
	require.ErrorIs(t, err, jetstream.ErrStreamNotFound)

	code, out, errs := active.Run(t, "checkpoint", "reset")
	require.Equal(t, exitDone, code, out+errs)
	active.Start(t)
	active.Await(t, func() bool { return countEvents(js, stream) == 100 }, "all events are published again")
	standby.Start(t)
	standby.AwaitState(t, "", pipeline.Standby)
	require.Equal(t, exitDone, standby.Stop(t))
	require.Equal(t, exitDone, active.Stop(t))
}

// TestStreamThatComesBack: a stream that was purged, or restored with all that it had, is not a
// loss. One from an old backup is.
func TestStreamThatComesBack(t *testing.T) {
	t.Parallel()
	for mode, key := range lostModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t)
			appendEvents(t, api, "user.created", 100, 0)
			bus := newNATS(t, nil)
			r := newRelay(t, "relay", sourceConfig(api.URL())+fmt.Sprintf("sinks: [{name: nats, type: nats, url: %q%s}]\n", bus.URL, key))
			carries := func(events int) { // as many as are on the stream then
				t.Helper()
				js := bus.connect(t)
				r.Start(t)
				r.Await(t, func() bool { return countEvents(js, stream) == events }, "the stream has %d events", events)
				r.AwaitState(t, "", pipeline.Running)
				require.Equal(t, exitDone, r.Stop(t))
			}
			restore := func(from string) {
				t.Helper()
				require.NoError(t, bus.connect(t).DeleteStream(t.Context(), stream))
				bus.Shutdown()
				bus.WaitForShutdown()
				require.NoError(t, os.RemoveAll(bus.opts.StoreDir))
				require.NoError(t, os.CopyFS(bus.opts.StoreDir, os.DirFS(from)))
				bus.start(t)
			}
			backup := func() string {
				t.Helper()
				bus.Shutdown()
				bus.WaitForShutdown()
				dir := filepath.Join(t.TempDir(), "backup")
				require.NoError(t, os.CopyFS(dir, os.DirFS(bus.opts.StoreDir)))
				bus.start(t)
				return dir
			}

			carries(100)
			s, err := bus.connect(t).Stream(t.Context(), stream)
			require.NoError(t, err)
			require.NoError(t, s.Purge(t.Context(), jetstream.WithPurgeSubject("user.created")))
			appendEvents(t, api, "user.created", 10, 0)
			carries(10)

			whole := backup()
			restore(whole)
			appendEvents(t, api, "user.created", 10, 0)
			carries(20)

			restore(whole) // which lacks ten events by now
			r.Start(t)
			require.Regexp(t, `stream WORKOS ends [0-9]+ messages before the end that it had`, endsWithQuestion(t, r))
			ids := api.IDs(sourcetest.Filter{})
			code, out, errs := r.Run(t, "checkpoint", "set", ids[len(ids)-11])
			require.Equal(t, exitDone, code, out+errs)
			carries(20)
			require.Equal(t, ids[len(ids)-20:], eventIDs(t, bus.connect(t), stream))
		})
	}
}

// TestStreamDeletedUnderOneLane: the other lanes go on, and the lane that asks starts again by the
// operator's answer, without a restart.
func TestStreamDeletedUnderOneLane(t *testing.T) {
	t.Parallel()
	for _, delivery := range []string{"auto", "at_least_once"} {
		t.Run(delivery, func(t *testing.T) {
			t.Parallel()
			streamDeletedUnderOneLane(t, delivery)
		})
	}
}

func streamDeletedUnderOneLane(t *testing.T, delivery string) {
	api := newAPI(t, backlog(100))
	bus, other := newNATS(t, nil), newNATS(t, nil)
	js, jsOther := bus.connect(t), other.connect(t)
	r := newRelay(t, "relay", sourceConfig(api.URL())+fmt.Sprintf("sinks: [{name: one, type: nats, url: %q, delivery: %s}, {name: two, type: nats, url: %q}]\n", bus.URL, delivery, other.URL))
	r.Start(t)
	r.Await(t, func() bool { return countEvents(js, stream) == 100 && countEvents(jsOther, stream) == 100 }, "both streams have all events")
	require.NoError(t, js.DeleteStream(t.Context(), stream))
	r.AwaitState(t, "one", pipeline.Stopped)
	require.Contains(t, r.Lane("one").Reason, "stream WORKOS was deleted")
	code, _ := r.Ready()
	require.Equal(t, http.StatusServiceUnavailable, code)
	code, _, errs := r.Run(t, "status")
	require.Equal(t, exitDecides, code)
	require.Contains(t, errs, "action needed; lane one: ")
	appendEvents(t, api, "user.created", 10, 0)
	r.Await(t, func() bool { return countEvents(jsOther, stream) == 110 }, "the other lane goes on")

	code, out, errs := r.Run(t, "checkpoint", "reset", "--lane", "one")
	require.Equal(t, exitDone, code, out+errs)
	r.Await(t, func() bool { return countEvents(js, stream) == 110 }, "all events are published again")
	require.Equal(t, api.IDs(sourcetest.Filter{}), eventIDs(t, js, stream))
	require.Equal(t, exitDone, r.Stop(t))
}
