//go:build unix

package field

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/pipeline"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// errorPage is an answer of a load balancer.
func errorPage(status int) sourcetest.Fault {
	text := fmt.Sprintf("<html>\r\n<head><title>%d %s</title></head>\r\n<body><center>nginx</center></body>\r\n</html>\r\n", status, http.StatusText(status))
	return sourcetest.Answer(status, "text/html", []byte(text))
}

// awaitPage waits until relay shows in its status that an error page came.
func awaitPage(t testing.TB, r *relay, status int) {
	t.Helper()
	r.Await(t, func() bool {
		l := r.Lane("")
		return l.State == pipeline.Retrying && strings.Contains(l.Reason, fmt.Sprintf("answered %d", status)) && strings.Contains(l.Reason, "<title>")
	}, "the status has %d and the page", status)
	_, out, _ := r.Run(t, "status")
	require.Contains(t, out, fmt.Sprintf("answered %d", status))
	require.Contains(t, out, "<title>")
}

// TestErrorPage: a page of a load balancer in place of an answer stops no lane, wherever it comes.
// The cases run side by side, since each waits for 30 s or more.
func TestErrorPage(t *testing.T) {
	t.Parallel()
	const limit = 150 * time.Second // 30 s to 33 s for the first page, 60 s to 66 s for the second
	type run struct {
		name string
		api  *sourcetest.Server
		js   jetstream.JetStream
		r    *relay
		want int // events on the stream in the end
	}
	var runs []run
	begin := func(name, start string, events int, opts ...sourcetest.Option) run {
		api := newAPI(t, opts...)
		bus := newNATS(t, nil)
		js := bus.connect(t)
		r := newRelay(t, name, strings.Replace(natsConfig(api.URL(), bus.URL), "source: {", "source: {"+start, 1))
		return run{name, api, js, r, events}
	}

	first := begin("at the first request", "", 300, backlog(300))
	first.api.Fail(1, errorPage(404))
	first.r.Start(t)
	awaitPage(t, first.r, 404)

	latest := begin("at the request for the time", "start: latest, ", 0, backlog(300))
	latest.api.Fail(1, errorPage(405))
	latest.r.Start(t)
	awaitPage(t, latest.r, 405)

	for _, status := range []int{400, 404, 409, 413, 422} {
		tip := begin(fmt.Sprintf("%d at the tip", status), "", 305, backlog(300))
		tip.r.Start(t)
		tip.r.Await(t, func() bool { return countEvents(tip.js, stream) == 300 }, "the backlog is on the stream")
		n := 1
		if status == 404 {
			n = 2
		}
		tip.api.Fail(n, errorPage(status))
		awaitPage(t, tip.r, status)
		appendEvents(t, tip.api, source.UserCreated, 5, 0)
		runs = append(runs, tip)
	}

	behind := begin("in a backlog", "", 20_000, sourcetest.WithLatency(10*time.Millisecond, 0),
		sourcetest.WithPopulation(sourcetest.Population{Seed: 1, Profile: []sourcetest.Span{{Length: 24 * time.Hour, Events: 20_000}, {Length: time.Hour}}}))
	behind.r.Start(t)
	behind.r.Await(t, func() bool { return countEvents(behind.js, stream) > 3000 }, "the backlog is being read")
	behind.api.Fail(2, errorPage(404))

	for _, c := range append(runs, first, behind) {
		awaitWithin(t, c.r, limit, func() bool { return countEvents(c.js, stream) == c.want }, c.name+": every event is on the stream")
		require.Equal(t, c.api.IDs(sourcetest.Filter{}), eventIDs(t, c.js, stream))
		c.r.AwaitState(t, "", pipeline.Running)
		c.r.verify(t, exitDone)
		require.Equal(t, exitDone, c.r.Stop(t))
	}
	awaitWithin(t, latest.r, limit, func() bool { return latest.r.Lane("").State == pipeline.Running }, "the lane runs")
	appendEvents(t, latest.api, source.UserCreated, 5, 0)
	latest.r.Await(t, func() bool { return countEvents(latest.js, stream) == 5 }, "what happens from then on is on the stream")
	require.Equal(t, exitDone, latest.r.Stop(t))
}
