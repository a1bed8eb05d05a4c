//go:build unix

package field

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/admin"
	"workos-relay/pipeline"
	"workos-relay/source/sourcetest"
)

// status returns what the relay says of itself, once it answers.
func (r *relay) status(t testing.TB) (s admin.Status) {
	t.Helper()
	r.Await(t, func() bool {
		var ok bool
		s, ok = r.Status()
		return ok
	}, "relay answers")
	return s
}

// requireMeasured holds the number of delivery times that the metrics have against that of the
// status, which is n.
func (r *relay) requireMeasured(t testing.TB, s *admin.Status, n int) {
	t.Helper()
	require.NotNil(t, s.Lanes[0].Delivery)
	require.EqualValues(t, n, s.Lanes[0].Delivery.Events, "each event once")
	var metrics string
	r.Await(t, func() bool { metrics = r.Metrics(); return metrics != "" }, "relay answers")
	require.Contains(t, metrics, fmt.Sprintf("\nrelay_event_delivery_seconds_count{lane=%q} %d\n", "nats", n))
}

// TestActivity: the status tells how long new events took, how many became dead letters, and how
// many requests were made of those that are permitted. Each counts once, also if the lane is
// replaced meanwhile. A standby has nothing to tell until it has taken over.
func TestActivity(t *testing.T) {
	t.Parallel()
	api := newAPI(t, backlog(10))
	bus := newNATS(t, nil)
	config := func(more, sink string) string {
		return strings.Replace(strings.Replace(natsConfig(api.URL(), bus.URL), "source: {", "source: {"+more, 1), "type: nats", "type: nats"+sink, 1) + "dead_letter: {topic: relay.dead_letter}\n"
	}
	r := newRelay(t, "first", config("", ""))
	tail := fmt.Sprintf("\ncheckpoint: {dir: %q}\nadmin: {listen: %q}\n", r.Dir, r.Admin) // as NewRelay has added
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("").Events == 10 }, "the backlog is committed")
	s := r.status(t)
	lane := s.Lanes[0]
	require.Nil(t, lane.Delivery, "all events are older than the process")
	require.Equal(t, &admin.DeadLetters{}, lane.DeadLetters)
	require.Equal(t, &admin.Requests{PerSecond: s.Requests.PerSecond, Limit: 80}, s.Requests)
	r.Await(t, func() bool { return r.status(t).Requests.PerSecond > 0 }, "requests are counted")
	_, out, errs := r.Run(t, "status", "--timeout", "2m")
	require.Regexp(t, `(?m)^nats  -  +-  +0  +nats stream WORKOS, \d+ topics$`, out, errs)
	require.Regexp(t, `(?m)^requests to WorkOS: [\d.]+/s of at most 80/s$`, out)

	began := time.Now()
	published := appendEvents(t, api, "user.created", 20, 10)
	dead := appendEvents(t, api, "dsync.group.created", 2, 2<<20) // larger than the server takes
	r.Await(t, func() bool { return r.Lane("").Events == 32 }, "new events are committed")
	told := func(r *relay, requests uint64) admin.Status {
		s := r.status(t)
		r.requireMeasured(t, &s, len(published)+len(dead))
		d := s.Lanes[0].Delivery
		require.InDelta(t, 300, d.WindowSeconds, 0)
		require.LessOrEqual(t, d.P50Seconds, d.P99Seconds)
		require.Less(t, d.P99Seconds, time.Since(began).Seconds()+2) // a second by the clock of the API, and what it may have been before
		letters := s.Lanes[0].DeadLetters
		require.EqualValues(t, len(dead), letters.Events)
		require.Equal(t, dead[1], letters.Newest.EventID)
		require.Equal(t, "dsync.group.created", letters.Newest.Type)
		require.NotEmpty(t, letters.Newest.Reason)
		require.False(t, letters.Newest.At.Before(began.Truncate(time.Millisecond)))
		require.Equal(t, requests, s.Requests.RateLimited)
		return s
	}
	told(r, 0)

	api.Fail(1, sourcetest.TooManyRequests(9*time.Minute, sourcetest.RetryAfterSeconds))
	r.Await(t, func() bool { return r.status(t).Requests.RateLimited == 1 }, "WorkOS throttles relay")
	r.AwaitState(t, "", pipeline.Retrying)
	s = told(r, 1)
	require.Equal(t, s.Lanes[0].RateLimitedUntil, s.Requests.WaitingUntil)
	require.Greater(t, time.Until(*s.Requests.WaitingUntil), 4*time.Minute)
	require.WithinRange(t, *s.Requests.RateLimitedAt, began, time.Now())
	_, out, errs = r.Run(t, "status", "--timeout", "2m")
	require.Regexp(t, `(?m)^nats  <?\d\S*s  +<?\d\S*s  +2  +nats stream WORKOS, \d+ topics$`, out, errs)
	require.Regexp(t, `(?m)^requests to WorkOS: [\d.]+/s of at most 80/s; 1 answer 429 since relay started, the last at \S+Z; a lane waits until \S+Z$`, out)
	require.Contains(t, out, "newest dead letter: lane nats: dsync.group.created event "+dead[1]+" at ")

	// The lane that replaces this one asks at once.
	r.WriteConfig(t, config("rate_limit: 50, ", ", ack_timeout: 17s")+tail)
	var code int
	code, out, errs = r.Run(t, "reload")
	require.Equal(t, exitDone, code, out+errs)
	require.Contains(t, out, "lane nats was restarted")
	r.Await(t, func() bool { return r.status(t).Requests.WaitingUntil == nil && r.Lane("").State == pipeline.Running }, "nothing waits any more")
	s = told(r, 1)
	require.InDelta(t, 50, s.Requests.Limit, 0)
	require.Nil(t, s.Lanes[0].RateLimitedUntil)

	next := r.twin(t, "second")
	next.Start(t)
	next.AwaitState(t, "", pipeline.Standby)
	require.Nil(t, next.status(t).Lanes[0].Delivery)
	require.Equal(t, exitDone, r.Stop(t))
	next.Await(t, func() bool { return next.Lane("").Active }, "it takes over")
	lane = next.status(t).Lanes[0]
	require.Nil(t, lane.Delivery, "it has carried nothing yet")
	require.Equal(t, &admin.DeadLetters{}, lane.DeadLetters)
	more := appendEvents(t, api, "user.created", 5, 10)
	next.Await(t, func() bool { return next.Lane("").Events == 5 }, "it carries new events")
	s = next.status(t)
	next.requireMeasured(t, &s, len(more))
	require.Equal(t, exitDone, next.Stop(t))
}
