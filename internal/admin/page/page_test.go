package page_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/internal/admin/page"
	"workos-relay/internal/journal"
	"workos-relay/pipeline"
	"workos-relay/source"
)

// world is a relay whose lanes a test sets.
type world struct {
	admin.Control // that there is one is enough
	past          *journal.Journal
	now           time.Time
	base          string // URL of its admin server
	srv           *admin.Server

	mu       sync.Mutex
	lanes    []pipeline.Status
	activity map[string]admin.Activity
	requests *admin.Requests
}

func newWorld(t *testing.T, lanes ...pipeline.Status) *world {
	t.Helper()
	return newWorldOn(t, "127.0.0.1:0", lanes...)
}

func newWorldOn(t *testing.T, listen string, lanes ...pipeline.Status) *world {
	t.Helper()
	w := &world{now: now, past: journal.New(journal.Config{Payload: 100}), lanes: slices.Clone(lanes)}
	w.serve(t, listen)
	return w
}

func (w *world) serve(t *testing.T, listen string) {
	t.Helper()
	var listens atomic.Bool
	clock := func() time.Time {
		if !listens.Load() {
			return w.now.Add(-2 * time.Hour) // it has started then
		}
		return w.now
	}
	srv, err := admin.Listen(t.Context(), admin.Config{
		Listen: listen, ID: "workos", Version: "1.2.3", Lanes: w.status, Outlet: w.outlet, Activity: w.activityOf, Requests: w.requestsOf, Control: w, Now: clock,
		Page: func(s *admin.Server) admin.Page {
			return page.New(page.Config{Status: s.Snapshot, Journal: w.past, Paths: s.Paths, Every: 5 * time.Millisecond})
		},
	})
	require.NoError(t, err)
	listens.Store(true)
	t.Cleanup(func() { require.NoError(t, srv.Close(context.Background())) })
	w.srv, w.base = srv, "http://"+srv.Addr().String()
}

func (w *world) status() []pipeline.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]pipeline.Status(nil), w.lanes...)
}

func (w *world) outlet(lane string) admin.Outlet {
	for _, s := range w.status() {
		if s.Lane == lane {
			return admin.Outlet{Destination: s.Type + " " + lane + "-events", Topics: 143, Topic: "workos.*", DeadLetterTopic: "workos.dead-letters"}
		}
	}
	return admin.Outlet{}
}

func (w *world) activityOf(lane string) admin.Activity {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.activity[lane]
}

func (w *world) requestsOf() *admin.Requests {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.requests == nil {
		return nil
	}
	r := *w.requests
	return &r
}

func (w *world) set(lanes ...pipeline.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lanes = slices.Clone(lanes)
}

// answer is a response that has been read.
type answer struct {
	code   int
	header http.Header
	body   string
}

func read(t *testing.T, resp *http.Response) answer {
	t.Helper()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, errors.Join(err, resp.Body.Close()))
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// get asks as a browser does.
func (w *world) get(t *testing.T, path string) answer {
	t.Helper()
	return read(t, w.open(t.Context(), t, path)) //nolint:bodyclose // read does
}

// open returns the answer with its body to be read and closed.
func (w *world) open(ctx context.Context, t *testing.T, path string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base+path, nil)
	require.NoError(t, err)
	req.Header.Set("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	return resp
}

const patient = 3 * time.Minute // how long a test waits for what must come

var now = time.Now() // and it stays so: as long as a test takes, nothing grows older

func running(name string) pipeline.Status {
	return pipeline.Status{
		Lane: name, Type: "nats", State: pipeline.Running, Since: now.Add(-90 * time.Minute), LastPoll: now, SourceNow: now, Events: 1234567,
		Rate: 41.26, UnackedAt: now.Add(-83 * time.Second),
		Checkpoint: checkpoint.Checkpoint{Position: checkpoint.Position{EventID: "event_01ABC", CreatedAt: now}, Mode: checkpoint.ExactlyOnce},
	}
}

func TestThePageShowsEverything(t *testing.T) {
	stopped := pipeline.Status{Lane: "kafka", State: pipeline.Stopped, Reason: "stopped at event event_9"}
	w := newWorld(t, running("nats"), stopped)
	l := w.past.Lane("nats")
	l.Observe(nil).Committed(pipeline.Outcome{Events: []source.Event{
		{ID: "event_1", Event: "dsync.user.created", CreatedAt: now, Data: json.RawMessage(`{"organization_id":"org_1","x":"` + strings.Repeat("y", 200) + `"}`)},
	}}, checkpoint.Checkpoint{})
	l.Hooks(nil).OnRetry(source.RetryInfo{Err: &source.APIError{Status: 502, RequestID: "req_77"}})
	w.past.Sample(w.status())

	page := w.get(t, "/")
	body := page.body
	require.Equal(t, http.StatusOK, page.code)
	require.Equal(t, "text/html; charset=utf-8", page.header.Get("Content-Type"))
	text := regexp.MustCompile(`\s+`).ReplaceAllString(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(body, " "), " ")
	for _, want := range []string{
		"relay workos", "1 of 2 lanes degraded", "1.2.3",
		"healthy running for 1 h 30 min", "exactly once", "Lag 1 min 23 s", "Rate last minute 41.3/s", "1,234,567 events", "event_01ABC",
		"stopped: stopped at event event_9", "dsync.user.created", "org_1", "event_1", "the beginning of 234 bytes",
		"reading the Events API", "the Events API answered 502 Bad Gateway", "request req_77", "/healthz", "/api/v1/status",
	} {
		require.Contains(t, text, want)
	}
	require.Contains(t, body, "<title>! relay workos: degraded</title>")
	require.Equal(t, 4, strings.Count(body, "<svg viewBox=\"0 0 360 60\""), "two plots for each lane, without JavaScript")
	require.Contains(t, body, `<noscript><meta http-equiv="refresh" content="10"></noscript>`)
	require.Contains(t, body, `aria-label="Lag over the last hour: now 1 min 23 s`)
}

// in returns a lane that is in a state for a reason, and what an operator has to do about it.
func in(name string, state pipeline.State, reason, action string) pipeline.Status {
	s := running(name)
	s.State, s.Reason, s.Action = state, reason, action
	return s
}

// several returns lanes of every health and state, the best first.
func several() []pipeline.Status {
	return []pipeline.Status{
		running("first"), in("standby", pipeline.Standby, "web-1 is active", ""), running("second"), in("paused", pipeline.Paused, "", ""),
		in("failing", pipeline.Retrying, "publishing: no connection to the bus", ""), in("stopped", pipeline.Stopped, "stopped at event event_9", "move past it"),
		in("denied", pipeline.Retrying, "publishing: not authorized", "grant Write to user relay"),
	}
}

// The overview has one row for each lane, the worst first, and lanes that are as bad as each other
// in the order of the configuration.
func TestTheOverview(t *testing.T) {
	w := newWorld(t, several()...)
	f := w.follow(t)
	first := f.next(t)
	require.Equal(t, []string{"stopped", "denied", "failing", "paused", "standby", "first", "second"}, rows(first.Fragments["overview"]))
	for _, want := range []string{
		`<a href="#lane-5">stopped</a>`, `<span class="pill bad">action needed</span> <span class="tag">stopped</span>`, "unknown", "1 min 23 s", "41.3/s", "nats first-events",
	} {
		require.Contains(t, first.Fragments["overview"], want)
	}
	require.Contains(t, w.get(t, "/").body, first.Fragments["overview"])

	worse := several()
	worse[2] = in("second", pipeline.Stopped, "why", "act")
	w.set(worse...)
	for u := first; ; u = f.next(t) {
		if got := u.Fragments["overview"]; got != "" && u.States[2] == "stopped" {
			require.Equal(t, "second", rows(got)[0])
			return
		}
	}
}

// rows returns the lanes of an overview, in its order.
func rows(overview string) (lanes []string) {
	for _, row := range regexp.MustCompile(`data-key="([^"]*)"`).FindAllStringSubmatch(overview, -1) {
		lanes = append(lanes, row[1])
	}
	return lanes
}

// The page tells how long events took lately, what could never be published, and how much of the
// rate limit is used; and nothing of what is not known.
func TestActivity(t *testing.T) {
	at, until := now.Add(-time.Minute), now.Add(time.Minute)
	stamp := func(t time.Time) string { return t.UTC().Format(time.TimeOnly) }
	if now.UTC().Format(time.DateOnly) != at.UTC().Format(time.DateOnly) || now.UTC().Format(time.DateOnly) != until.UTC().Format(time.DateOnly) {
		stamp = func(t time.Time) string { return "" } // with a date, or without
	}
	delivery := &admin.Delivery{WindowSeconds: 300, Events: 7, P50Seconds: 0.25, P99Seconds: 1.5}
	newest := &admin.DeadLetter{EventID: "event_9", Type: "user.created", Reason: "too <large>", At: at}
	for name, c := range map[string]struct {
		lane     pipeline.Status
		activity admin.Activity
		requests *admin.Requests
		shows    []string
		without  []string
	}{
		"nothing is known": {running("nats"), admin.Activity{}, nil, []string{"Delivery last 5 min no new event"}, []string{"p50", "Dead letters", "Newest dead letter", "Requests to WorkOS"}},
		"nothing happens": {
			running("nats"), admin.Activity{DeadLetters: &admin.DeadLetters{}}, &admin.Requests{PerSecond: 1, Limit: 80},
			[]string{"Dead letters since relay started 0 ", "Requests to WorkOS 1.0/s of at most 80/s "}, []string{"Newest dead letter", "429", "waits"},
		},
		"much happens": {
			running("nats"), admin.Activity{Delivery: delivery, DeadLetters: &admin.DeadLetters{Events: 1234, Newest: newest}},
			&admin.Requests{PerSecond: 41.26, Limit: 0.5, RateLimited: 1, RateLimitedAt: &at, WaitingUntil: &until},
			[]string{
				"Delivery last 5 min 250 ms p50, 1.50 s p99", "Dead letters since relay started 1,234 ", "Newest dead letter event_9 user.created at " + at.UTC().Format(time.DateTime) + " : too &lt;large&gt;",
				"Requests to WorkOS 41.3/s of at most 0.50/s ; 1 answer 429, the last at " + stamp(at), "; a lane waits until " + stamp(until),
			}, []string{"no new event"},
		},
		"a standby": {in("nats", pipeline.Standby, "", ""), admin.Activity{Delivery: delivery}, nil, nil, []string{"Delivery", "p50"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, c.lane)
			w.mu.Lock()
			w.activity, w.requests = map[string]admin.Activity{"nats": c.activity}, c.requests
			w.mu.Unlock()
			text := strings.Join(strings.Fields(regexp.MustCompile(`<[^>]*>`).ReplaceAllString(w.get(t, "/").body, " ")), " ")
			for _, want := range c.shows {
				require.Contains(t, text, want)
			}
			for _, not := range c.without {
				require.NotContains(t, text, not)
			}
		})
	}
}

// One lane needs no overview, and its card does not fold.
func TestOneLaneHasNoOverview(t *testing.T) {
	w := newWorld(t, running("nats"))
	first := w.follow(t).next(t)
	require.NotContains(t, first.Fragments, "overview")
	require.False(t, first.Lanes[0].Folds)
	require.NotContains(t, w.get(t, "/").body, "folded")
}

// A button is offered if it does something in the lane's state.
func TestButtonsFitTheState(t *testing.T) {
	lanes := several()
	lanes = append(lanes, in("starting", pipeline.Starting, "", ""))
	type button struct {
		toggle string
		poll   bool
	}
	got := map[string]button{}
	for i, l := range newWorld(t, lanes...).follow(t).next(t).Lanes {
		require.Equal(t, string(lanes[i].State), l.State)
		got[lanes[i].Lane] = button{l.Toggle, l.Poll}
	}
	require.Equal(t, map[string]button{
		"first": {"pause", true}, "second": {"pause", true}, "standby": {"pause", false}, "starting": {"pause", false}, "failing": {"pause", false},
		"denied": {"pause", false}, "paused": {"resume", false}, "stopped": {"", false},
	}, got)
}

// The range of the plots is chosen by the address, in the page and in its updates.
func TestRanges(t *testing.T) {
	w := newWorld(t, running("nats"))
	for query, want := range map[string]string{"": "last hour", "?range=5m": "last 5 min", "?range=1h": "last hour", "?range=6h": "last 2 h"} {
		body := w.get(t, "/"+query).body
		require.Contains(t, body, "Lag <small>"+want)
		require.Regexp(t, `aria-current="true">`, body)
		resp := w.open(t.Context(), t, "/api/v1/stream"+query)
		require.Contains(t, newFollower(resp.Body).next(t).Fragments["lane-0-plots"], "Lag <small>"+want)
		require.NoError(t, resp.Body.Close())
	}
	for _, path := range []string{"/?range=7h", "/api/v1/stream?range=7h"} {
		refused := w.get(t, path)
		require.Equal(t, http.StatusBadRequest, refused.code)
		require.Contains(t, refused.body, "range is one of 5m, 1h, 6h")
	}
}

func TestWithoutAnythingYet(t *testing.T) {
	w := newWorld(t, pipeline.Status{Lane: "nats", State: pipeline.Starting})
	body := w.get(t, "/").body
	require.Contains(t, body, "No event has been carried yet.")
	require.Contains(t, body, "None since relay started.")
	require.Contains(t, body, "unknown")
	require.Contains(t, body, "the earliest event")
	w.set()
	require.Eventually(t, func() bool { return strings.Contains(w.get(t, "/").body, "There is no lane") }, patient, time.Millisecond)
}

func TestWhoAsksForNoHTMLIsGivenThePaths(t *testing.T) {
	w := newWorld(t, running("nats"))
	for _, accept := range []string{"", "*/*", "text/plain"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.base+"/", nil)
		require.NoError(t, err)
		req.Header.Set("Accept", accept)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		list := read(t, resp)
		require.Equal(t, "text/plain; charset=utf-8", list.header.Get("Content-Type"))
		require.Equal(t, "Accept", list.header.Get("Vary"))
		require.Contains(t, list.body, "/api/v1/stream")
		require.NotContains(t, list.body, ".css", "what nobody opens by hand")
	}
}

// Everything that the page loads comes from this address under a name that tells its content, and
// nothing else may run.
func TestAssetsAndPolicy(t *testing.T) {
	w := newWorld(t, running("nats"))
	page := w.get(t, "/")
	body, policy := page.body, page.header.Get("Content-Security-Policy")
	require.True(t, strings.HasPrefix(policy, "default-src 'none'; "))
	require.NotContains(t, policy, "unsafe")
	require.NotContains(t, policy, "http")
	require.Equal(t, "no-store", page.header.Get("Cache-Control"))
	require.Equal(t, "nosniff", page.header.Get("X-Content-Type-Options"))
	require.NotRegexp(t, `(?i)<style|\sstyle=|\son[a-z]+=|javascript:|<script(?: [^>]*)?>[^<]|https?://`, body)

	found := regexp.MustCompile(`(?:href|src)="([^"./]+\.[0-9a-f]{16}\.(css|js|svg))"`).FindAllStringSubmatch(body, -1)
	require.Len(t, found, 3)
	types := map[string]string{"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
	for _, f := range found {
		asset := w.get(t, "/"+f[1])
		require.Equal(t, http.StatusOK, asset.code)
		require.Equal(t, types[f[2]], asset.header.Get("Content-Type"))
		require.Contains(t, asset.header.Get("Cache-Control"), "immutable")
		require.NotRegexp(t, `https?://[^w]|@import|url\(`, asset.body)
	}
}

// Texts of an event, an error or a bus are shown as text.
func TestHostileNames(t *testing.T) {
	const hostile = `"><script>alert(1)</script><img src=x onerror='alert(2)'>`
	lane := running("nats")
	lane.Checkpoint.EventID = hostile
	lane.Checkpoint.Holder = hostile
	other := pipeline.Status{Lane: `a"b<i>`, State: pipeline.Stopped, Reason: hostile}
	w := newWorld(t, lane, other)
	l := w.past.Lane("nats")
	l.Observe(nil).Committed(pipeline.Outcome{Events: []source.Event{
		{ID: hostile, Event: hostile, CreatedAt: now, Data: json.RawMessage(`{"organization_id":"` + strings.ReplaceAll(hostile, `"`, `\"`) + `"}`)},
	}}, checkpoint.Checkpoint{})
	l.Hooks(nil).OnRetry(source.RetryInfo{Err: &source.APIError{Status: 400, Message: hostile, RequestID: hostile}})
	w.past.Sample(w.status())

	body := w.get(t, "/").body
	require.Equal(t, 1, strings.Count(body, "<script"), "only the page's own")
	require.NotContains(t, body, "<img")
	require.NotContains(t, body, "<i>")
	require.Greater(t, strings.Count(body, "&lt;script&gt;alert(1)"), 5)
	for id, html := range w.follow(t).next(t).Fragments {
		require.NotContains(t, html, "<script", id)
		require.NotContains(t, html, "<img", id)
	}
}

type update struct {
	Shape     string            `json:"shape"`
	Title     string            `json:"title"`
	Writable  bool              `json:"writable"`
	States    []string          `json:"states"`
	Fragments map[string]string `json:"fragments"`
	Lanes     []struct {
		State, Health, Toggle string
		Poll, Folds           bool
	} `json:"lanes"`
}

type follower struct {
	body  io.ReadCloser
	lines *bufio.Scanner
}

// follow opens a stream that ends with the test.
func (w *world) follow(t *testing.T) *follower {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	resp := w.open(ctx, t, "/api/v1/stream")
	t.Cleanup(func() { cancel(); _ = resp.Body.Close() })
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "text/event-stream; charset=utf-8", resp.Header.Get("Content-Type"))
	require.Equal(t, "no-store", resp.Header.Get("Cache-Control"))
	return newFollower(resp.Body)
}

func newFollower(body io.ReadCloser) *follower {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	return &follower{body, lines}
}

// next reads one event.
func (f *follower) next(t *testing.T) (u update) {
	t.Helper()
	require.True(t, f.lines.Scan(), f.lines.Err())
	require.Equal(t, "event: update", f.lines.Text())
	require.True(t, f.lines.Scan())
	data, ok := strings.CutPrefix(f.lines.Text(), "data: ")
	require.True(t, ok)
	require.NoError(t, json.Unmarshal([]byte(data), &u))
	require.True(t, f.lines.Scan())
	require.Empty(t, f.lines.Text())
	return u
}

func TestTheStreamBringsWhatHasChanged(t *testing.T) {
	w := newWorld(t, running("nats"))
	f := w.follow(t)
	first := f.next(t)
	body := w.get(t, "/").body
	require.Contains(t, body, `data-shape="`+first.Shape+`"`)
	require.Equal(t, "relay workos", first.Title)
	require.True(t, first.Writable, "on loopback, which needs no token")
	require.Equal(t, []string{"running"}, first.States)
	for id := range first.Fragments {
		require.Contains(t, body, `id="`+id+`"`, "each fragment has its place")
	}
	require.Contains(t, first.Fragments["types"], "No event")

	for range 20 {
		u := f.next(t)
		require.NotContains(t, u.Fragments, "types", "unchanged")
		require.NotContains(t, u.Fragments, "verdict", "unchanged, and read aloud only when it changes")
	}
	w.past.Lane("nats").Observe(nil).Committed(pipeline.Outcome{Events: []source.Event{{ID: "event_1", Event: "user.created"}}}, checkpoint.Checkpoint{})
	paused := running("nats")
	paused.State = pipeline.Paused
	w.set(paused)
	var types, state string
	for types == "" || state == "" {
		u := f.next(t)
		types += u.Fragments["types"]
		state += u.Fragments["lane-0-state"]
		require.Equal(t, first.Shape, u.Shape)
	}
	require.Contains(t, types, "user.created")
	require.Contains(t, state, "paused")

	w.set(running("nats"), running("kafka"))
	require.Eventually(t, func() bool { return f.next(t).Shape != first.Shape }, patient, time.Millisecond, "other lanes need another page")
}

func TestLivePagesAreBounded(t *testing.T) {
	w := newWorld(t, running("nats"))
	p := page.New(page.Config{Status: w.srv.Snapshot, Journal: w.past})
	open := map[string][]context.CancelFunc{} // the ends of streams, by client
	stream := func(client string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodHead, "/api/v1/stream", nil)
		r.RemoteAddr = client + ":1234"
		answer := httptest.NewRecorder()
		p.Paths()[0].Handler.ServeHTTP(answer, r)
		return answer
	}
	hold := func(client string) {
		ctx, end := context.WithCancel(t.Context())
		r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/api/v1/stream", nil)
		r.RemoteAddr = client + ":1234"
		began, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			p.Paths()[0].Handler.ServeHTTP(&beginning{ResponseRecorder: httptest.NewRecorder(), began: began}, r)
		}()
		<-began
		open[client] = append(open[client], func() { end(); <-ended })
	}
	for range 8 {
		hold("10.0.0.1")
	}
	refused := stream("10.0.0.1")
	require.Equal(t, http.StatusTooManyRequests, refused.Code)
	require.Contains(t, refused.Body.String(), "8 pages are live already from 10.0.0.1/32")
	require.NotEmpty(t, refused.Header().Get("Retry-After"))
	require.Equal(t, http.StatusOK, stream("10.0.0.2").Code, "another client has its own places")
	for _, client := range []string{"10.0.0.2", "10.0.0.3", "10.0.0.4"} {
		for range 8 {
			hold(client)
		}
	}
	refused = stream("10.0.0.5")
	require.Equal(t, http.StatusServiceUnavailable, refused.Code)
	require.Contains(t, refused.Body.String(), "32 pages are live already")
	require.NotEmpty(t, refused.Header().Get("Retry-After"))
	open["10.0.0.1"][0]()
	open["10.0.0.1"] = open["10.0.0.1"][1:]
	require.Equal(t, http.StatusOK, stream("10.0.0.5").Code, "a client that leaves makes room for others")
	require.Equal(t, http.StatusOK, stream("10.0.0.1").Code, "and for itself")
	for _, ends := range open {
		for _, end := range ends {
			end()
		}
	}

	// The same over the network, from one client.
	var followers []*follower
	for range 8 {
		followers = append(followers, w.follow(t))
	}
	over := w.get(t, "/api/v1/stream")
	require.Equal(t, http.StatusTooManyRequests, over.code)
	require.Contains(t, over.body, "8 pages are live already from 127.0.0.1/32")
	require.Contains(t, w.get(t, "/").body, "nats", "reading is still possible")

	for _, f := range followers[:4] {
		require.NoError(t, f.body.Close())
	}
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		resp := w.open(ctx, t, "/api/v1/stream")
		defer func() { _ = resp.Body.Close() }()
		return resp.StatusCode == http.StatusOK
	}, patient, 5*time.Millisecond, "a client that leaves makes room")
}

// beginning tells when an answer begins.
type beginning struct {
	*httptest.ResponseRecorder
	began chan struct{}
	once  sync.Once
}

func (b *beginning) Flush() { b.once.Do(func() { close(b.began) }) }

func (*beginning) SetWriteDeadline(time.Time) error { return nil }

func TestStreamsEndAtShutdown(t *testing.T) {
	w := newWorld(t, running("nats"))
	f := w.follow(t)
	f.next(t)
	closed := make(chan error, 1)
	go func() { closed <- w.srv.Close(context.Background()) }() // waits for every request, however long
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for f.lines.Scan() { //nolint:revive // until the end
		}
	}()
	for name, done := range map[string]func() bool{
		"stream": func() bool {
			select {
			case <-ended:
				return true
			default:
				return false
			}
		},
		"server": func() bool { return len(closed) == 1 },
	} {
		require.Eventually(t, done, patient, time.Millisecond, name)
	}
	require.NoError(t, <-closed)
	require.NoError(t, f.lines.Err(), "in order, and not cut off")
}

func TestHeadEndsAtOnce(t *testing.T) {
	w := newWorld(t, running("nats"))
	for _, path := range []string{"/", "/api/v1/stream"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, w.base+path, nil)
		require.NoError(t, err)
		req.Header.Set("Accept", "text/html")
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusOK, resp.StatusCode)
	}
}

// pipes are connections within the process: their deadlines are those of a bubble's clock.
type pipes struct {
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.accept <- there:
		return here, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accept:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (*pipes) Addr() net.Addr { return &net.TCPAddr{} }

// The deadlines of a server are for short requests: a stream outlives them.
func TestStreamsOutliveTheServersDeadlines(t *testing.T) {
	const deadline = 30 * time.Second
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := page.New(page.Config{Status: func(bool) admin.Status { return admin.Status{Now: time.Now()} }, Journal: journal.New(journal.Config{})})
				var protocols http.Protocols
				protocols.SetHTTP1(protocol == "HTTP/1.1")
				protocols.SetUnencryptedHTTP2(protocol == "HTTP/2.0")
				srv := &http.Server{Handler: p.Paths()[0].Handler, ReadTimeout: deadline, WriteTimeout: deadline, Protocols: &protocols}
				conns := &pipes{accept: make(chan net.Conn), closed: make(chan struct{})}
				served := make(chan error, 1)
				go func() { served <- srv.Serve(conns) }()
				transport := &http.Transport{DialContext: conns.dial, Protocols: &protocols}
				defer func() {
					require.NoError(t, srv.Close())
					transport.CloseIdleConnections()
					require.ErrorIs(t, <-served, http.ErrServerClosed)
				}()

				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://relay.example", nil)
				require.NoError(t, err)
				resp, err := transport.RoundTrip(req)
				require.NoError(t, err)
				defer func() { require.NoError(t, resp.Body.Close()) }()
				defer p.Close()
				require.Equal(t, protocol, resp.Proto)
				f := newFollower(resp.Body)
				for began := time.Now(); time.Since(began) < 2*deadline; {
					f.next(t)
				}
			})
		})
	}
}

// A page that cannot be rendered is an error, not half a page.
func TestEveryStateCanBeShown(t *testing.T) {
	for _, state := range append(pipeline.States(), "unheard of") {
		s := running("nats")
		s.State, s.Reason = state, "why"
		w := newWorld(t, s)
		body := w.get(t, "/").body
		require.Contains(t, body, fmt.Sprintf(">%s</span>", state))
		require.Contains(t, body, "</html>")
	}
}
