//go:build unix

package field

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/pipeline"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

const aDay = 24 * time.Hour

// lostCursors are the ways in which the API may answer a cursor whose event has expired.
var lostCursors = map[string]sourcetest.LostCursor{
	"400": sourcetest.LostBadRequest, "404": sourcetest.LostNotFound, "422": sourcetest.LostUnprocessable,
	"replay": sourcetest.LostReplay, "empty": sourcetest.LostEmpty,
}

// movingClock is a clock of the API that the test can set ahead.
type movingClock struct{ ahead atomic.Int64 }

func (c *movingClock) now() time.Time        { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *movingClock) leap(by time.Duration) { c.ahead.Add(int64(by)) }
func (c *movingClock) option() sourcetest.Option {
	return sourcetest.WithClock(c.now)
}

// add appends an event of a rare type that is so old by this clock.
func (c *movingClock) add(t testing.TB, api *sourcetest.Server, id string, age time.Duration) {
	t.Helper()
	at := c.now().Add(-age).UTC().Format("2006-01-02T15:04:05.000Z")
	require.NoError(t, api.Append(fmt.Appendf(nil, `{"object":"event","id":%q,"event":%q,"data":{"id":"conn_1"},"created_at":%q}`,
		id, source.ConnectionDeleted, at)))
}

// quietConfig asks for the rare type alone.
func quietConfig(api, url string) string {
	return strings.Replace(natsConfig(api, url), "poll_interval", "events: [connection.deleted], poll_interval", 1)
}

// TestTheLastEventExpires: at the tip of a quiet lane the event of the cursor expires. Nothing is
// missing, so relay goes on, also after it was killed.
func TestTheLastEventExpires(t *testing.T) {
	t.Parallel()
	for name, how := range lostCursors {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mode := "auto"
			if how == sourcetest.LostNotFound {
				mode = "at_least_once"
			}
			var clock movingClock
			api := newAPI(t, clock.option(), sourcetest.WithRetention(90*aDay), sourcetest.WithLostCursor(how))
			clock.add(t, api, "event_1", 90*aDay-time.Hour)
			bus := newNATS(t, nil)
			js := bus.connect(t)
			r := newRelay(t, "relay", strings.Replace(quietConfig(api.URL(), bus.URL), "type: nats", "type: nats, delivery: "+mode, 1))
			r.Start(t)
			r.Await(t, func() bool { return countEvents(js, stream) == 1 }, "the first event is there")
			awaitSeen(t, r, clock.now())
			clock.leap(2 * time.Hour)
			if how != sourcetest.LostReplay { // which looks like an answer to the cursor as long as there is no event
				r.Says(t, "going on by time")
			}
			r.Kill()
			r.Start(t)
			clock.add(t, api, "event_2", 0)
			r.Await(t, func() bool { return countEvents(js, stream) == 2 }, "the second event is there")
			require.LessOrEqual(t, strings.Count(r.Output(), "going on by time"), 1)
			clock.add(t, api, "event_3", 0)
			r.Await(t, func() bool { return countEvents(js, stream) == 3 }, "the third event is there")
			require.Equal(t, []string{"event_1", "event_2", "event_3"}, eventIDs(t, js, stream))
			require.Equal(t, exitDone, r.Stop(t))
		})
	}
}

// TestTheLastEventExpiresUnderAStandby: the record is on the bus, so a relay that takes over
// continues too.
func TestTheLastEventExpiresUnderAStandby(t *testing.T) {
	t.Parallel()
	var clock movingClock
	api := newAPI(t, clock.option(), sourcetest.WithRetention(90*aDay), sourcetest.WithLostCursor(sourcetest.LostNotFound))
	clock.add(t, api, "event_1", 90*aDay-time.Hour)
	bus := newNATS(t, nil)
	js := bus.connect(t)
	first := newRelay(t, "first", quietConfig(api.URL(), bus.URL))
	first.Start(t)
	first.Await(t, func() bool { return countEvents(js, stream) == 1 }, "the first event is there")
	second := first.twin(t, "second")
	second.Start(t)
	second.AwaitState(t, "nats", pipeline.Standby)
	awaitSeen(t, first, clock.now())
	clock.leap(2 * time.Hour)
	first.Says(t, "going on by time")
	first.Kill()
	second.AwaitState(t, "nats", pipeline.Running)
	second.Says(t, "going on by time")
	clock.add(t, api, "event_2", 0)
	second.Await(t, func() bool { return countEvents(js, stream) == 2 }, "the second event is there")
	require.Equal(t, []string{"event_1", "event_2"}, eventIDs(t, js, stream))
	require.Equal(t, exitDone, second.Stop(t))
}

// TestEventsExpireWhileRelayIsDown: there can be a gap, so relay asks, however the API answers.
func TestEventsExpireWhileRelayIsDown(t *testing.T) {
	t.Parallel()
	for name, how := range lostCursors {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var clock movingClock
			api := newAPI(t, clock.option(), sourcetest.WithRetention(90*aDay), sourcetest.WithLostCursor(how))
			clock.add(t, api, "event_1", aDay)
			bus := newNATS(t, nil)
			js := bus.connect(t)
			r := newRelay(t, "relay", quietConfig(api.URL(), bus.URL))
			r.Start(t)
			r.Await(t, func() bool { return countEvents(js, stream) == 1 }, "the first event is there")
			awaitSeen(t, r, clock.now())
			require.Equal(t, exitDone, r.Stop(t))
			clock.leap(10 * aDay)
			clock.add(t, api, "event_2", 0)
			clock.leap(91 * aDay)
			clock.add(t, api, "event_3", 10*time.Minute)
			for range 2 { // it asks again
				r.Start(t)
				require.Equal(t, exitDecides, r.Wait(t), r.Tail(3000))
				require.Contains(t, r.Output(), "may have expired meanwhile")
				require.Contains(t, r.Output(), "relay checkpoint set")
			}
			require.Equal(t, []string{"event_1"}, eventIDs(t, js, stream))
		})
	}
}

// awaitSeen waits until the checkpoint says that everything is there that was created up to shortly
// before now.
func awaitSeen(t testing.TB, r *relay, now time.Time) {
	t.Helper()
	r.Await(t, func() bool {
		code, out, _ := r.Run(t, "checkpoint", "show", "--json")
		var rows []struct{ Seen time.Time }
		return code == exitDone && json.Unmarshal([]byte(out), &rows) == nil && len(rows) == 1 && rows[0].Seen.After(now.Add(-6*time.Minute))
	}, "what was seen is recorded")
}
