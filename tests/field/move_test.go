//go:build unix

package field

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
	"workos-relay/tests/testkit"
)

// stoppedRelay returns a relay that has carried the events of api to a bus and has stopped.
func stoppedRelay(t *testing.T, api *sourcetest.Server, events int) (*relay, jetstream.JetStream) {
	t.Helper()
	bus := newNATS(t, nil)
	js := bus.connect(t)
	r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL))
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("nats").AtTip && countEvents(js, stream) == events }, "all is carried")
	require.Equal(t, exitDone, r.Stop(t))
	return r, js
}

// positionOf returns what checkpoint show prints of the position.
func positionOf(t *testing.T, r *relay) string {
	t.Helper()
	code, out, errs := r.Run(t, "checkpoint", "show")
	require.Equal(t, exitDone, code, errs)
	return out
}

// TestAMoveSaysWhatItDoes before it does it: with and without a running relay, forward and back,
// and in a dry run nothing changes.
func TestAMoveSaysWhatItDoes(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	ids := appendEvents(t, api, "user.created", 50, 0)
	r, _ := stoppedRelay(t, api, 50)
	do := func(want int, says []string, args ...string) {
		t.Helper()
		code, out, errs := r.Run(t, append([]string{"checkpoint"}, args...)...)
		require.Equal(t, want, code, out+errs)
		for _, text := range says {
			require.Contains(t, out+errs, text)
		}
	}
	before := positionOf(t, r)
	do(exitDone, []string{"lane nats would stand at: " + ids[9], "it stands at: " + ids[49], "would skip nothing", "would repeat 40 events that it has published", "nothing was moved"},
		"set", ids[9], "--dry-run")
	do(exitDone, []string{"would repeat 50 events"}, "reset", "--dry-run")
	do(exitDone, []string{"would repeat nothing"}, "set", ids[49], "--dry-run")
	require.Equal(t, before, positionOf(t, r))
	do(exitDone, []string{"repeats 40 events"}, "set", ids[9])
	before = positionOf(t, r)
	do(exitDone, []string{"would skip 10 events that followed its position, from " + ids[10] + " to " + ids[19], "would repeat nothing"}, "set", ids[19], "--dry-run")
	do(exitDone, []string{"would skip 1 event that followed its position: " + ids[10]}, "set", ids[10], "--dry-run")
	do(exitDone, []string{"would skip 40 events"}, "set", "latest", "--dry-run")
	do(exitDone, []string{"would skip 40 events"}, "set", "--at", "-0s", "--dry-run")
	do(exitDecides, []string{"would skip 40 events", "--skip"}, "set", "--time", "0s")
	do(exitDone, []string{"it lies in the future"}, "set", time.Now().Add(48*time.Hour).UTC().Format("2006-01-02 15:04"), "--dry-run")
	do(exitDecides, []string{"nothing was moved", "it lies in the future"}, "set", time.Now().AddDate(1, 0, 0).Format(time.DateOnly))
	require.Equal(t, before, positionOf(t, r))

	r.Start(t)
	r.Await(t, func() bool { return r.Lane("nats").AtTip }, "the relay runs")
	do(exitDone, []string{"would repeat 30 events", "nothing was moved"}, "set", ids[19], "--dry-run")
	require.Equal(t, r.Lane("nats").Position.EventID, ids[49])
	do(exitDone, []string{"repeats 30 events"}, "set", ids[19], "--yes")
	r.Await(t, func() bool { return r.Lane("nats").Position.EventID == ids[49] }, "it carries them again")
	require.Equal(t, exitDone, r.Stop(t))
}

// TestAMoveToAnEventThatDoesNotExist is refused, however the API answers to an id that it does not
// know.
func TestAMoveToAnEventThatDoesNotExist(t *testing.T) {
	t.Parallel()
	for _, how := range []sourcetest.LostCursor{sourcetest.LostBadRequest, sourcetest.LostNotFound, sourcetest.LostUnprocessable, sourcetest.LostReplay, sourcetest.LostEmpty} {
		t.Run(fmt.Sprint(how), func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, sourcetest.WithLostCursor(how), backlog(30))
			ids := api.IDs(sourcetest.Filter{})
			r, _ := stoppedRelay(t, api, 30)
			before := positionOf(t, r)
			for unknown, flag := range map[string]string{"event_typo": "--skip", ids[10][:len(ids[10])-1] + "_": "--dry-run", "event_01ARZ3NDEKTSV4RRFFQ69G5FAV": "--lane=nats"} {
				code, out, errs := setOnceAnswered(t, r, unknown, flag)
				require.Equal(t, exitUsage, code, out+errs)
				require.Contains(t, errs, "nothing was moved: the Events API does not know "+unknown)
				require.Contains(t, errs, "--unchecked")
				require.NotContains(t, errs, "source.endpoint", "nothing is wrong with that")
			}
			require.Equal(t, before, positionOf(t, r))
			for _, known := range []string{ids[0], ids[10], ids[29]} { // the newest one, too
				code, out, errs := setOnceAnswered(t, r, known, "--skip")
				require.Equal(t, exitDone, code, out+errs)
				require.Contains(t, out, "now stands at: "+known+" of 20")
			}
		})
	}
}

// setOnceAnswered moves a lane to an event. It does so again if the API, which is in this process,
// has not answered within the 10 s that relay waits for it.
func setOnceAnswered(t *testing.T, r *relay, args ...string) (code int, out, errs string) {
	t.Helper()
	testkit.Eventually(t, func() bool {
		code, out, errs = r.Run(t, append([]string{"checkpoint", "set"}, args...)...)
		return !strings.Contains(errs, "no answer within 10s")
	}, "the API does not answer")
	return code, out, errs
}

// TestTheQuestionOfAFirstStartIsAMenu: the bus holds events and there is no position. Each command
// that relay offers can be copied, says what it does, and does that.
func TestTheQuestionOfAFirstStartIsAMenu(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	ids := appendEvents(t, api, "user.created", 20, 0)
	r, js := stoppedRelay(t, api, 20)
	code, _, errs := r.Run(t, "replay", "--since", "earliest", "--until", "latest") // its copies are not the lane's
	require.Equal(t, exitDone, code, errs)
	appendEvents(t, api, "user.created", 5, 0)
	code, _, errs = r.Run(t, "replay", "--since", ids[19], "--until", "latest")
	require.Equal(t, exitDone, code, errs)
	for _, subject := range []string{"user.created", "user.deleted", "relay.nothing"} { // others publish there, too
		_, err := js.Publish(t.Context(), subject, []byte(`{"id":"event_zzz"}`))
		_ = err // the stream has not every subject
	}
	loose := func() {
		require.NoError(t, os.RemoveAll(r.Dir))
		s, err := js.Stream(t.Context(), stream)
		require.NoError(t, err)
		require.NoError(t, s.Purge(t.Context(), jetstream.WithPurgeSubject("relay.position.>")))
	}
	loose()
	r.Start(t)
	require.Equal(t, exitDecides, r.Wait(t), r.Tail(3000))
	said := r.Tail(4000)
	require.Contains(t, said, "this is not a first start; say where to go on")
	after := "`relay checkpoint set " + ids[19] + " --lane nats --skip` goes on after the newest event that was found there, user.created of 20"
	require.Contains(t, said, after)
	commands := advised.FindAllStringSubmatch(said, -1)
	require.GreaterOrEqual(t, len(commands), 3, said)
	for _, c := range [][]string{{"checkpoint set latest --lane nats"}, {"checkpoint set " + ids[19] + " --lane nats"}} { // without agreement
		code, _, errs := r.Run(t, strings.Fields(c[0])...)
		require.Equal(t, exitDecides, code, errs)
		require.Contains(t, errs, "may skip events")
	}
	for _, c := range commands[:3] {
		code, out, errs := r.Run(t, strings.Fields(c[1])...)
		require.Equal(t, exitDone, code, out+errs)
		loose()
	}
	code, out, errs := r.Run(t, strings.Fields(commands[0][1])...)
	require.Equal(t, exitDone, code, out+errs)
	count := countEvents(js, stream)
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("nats").AtTip }, "it goes on")
	require.Equal(t, count+5, countEvents(js, stream), "exactly what came after the newest event of the lane")
	require.Equal(t, exitDone, r.Stop(t))
}

// TestAMoveOverHTTP answers 400 for an event that does not exist and 502 if the API does not
// answer.
func TestAMoveOverHTTP(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	ids := appendEvents(t, api, "user.created", 20, 0)
	bus := newNATS(t, nil)
	r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL))
	r.Start(t)
	r.AwaitState(t, "nats", pipeline.Running)
	r.Await(t, func() bool { return r.Lane("nats").AtTip }, "all is carried")
	put := func(body string) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+r.Admin+"/api/v1/lanes/nats/checkpoint", strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Relay-Request", "test")
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	require.Equal(t, http.StatusBadRequest, put(`{"to":"event_typo"}`))
	require.Equal(t, http.StatusOK, put(`{"to":"2h","dry_run":true}`))
	require.Equal(t, http.StatusOK, put(fmt.Sprintf(`{"to":%q}`, ids[19])))
	require.NoError(t, api.Close())
	require.Equal(t, http.StatusBadGateway, put(fmt.Sprintf(`{"to":%q}`, ids[3])))
	require.Equal(t, exitDone, r.Stop(t))
}
