package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/internal/telemetry"
	"workos-relay/internal/testaddr"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
)

const (
	patient = 3 * time.Minute // how long a test waits for what must come
	often   = 5 * time.Millisecond
)

// start serves cfg on a free port of 127.0.0.1 until the test ends, and returns its base URL.
func start(t *testing.T, cfg admin.Config) string {
	t.Helper()
	cfg.Listen = "127.0.0.1:0"
	s, err := admin.Listen(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close(context.Background())) })
	return "http://" + s.Addr().String()
}

type response struct {
	*http.Response
	body string
}

func request(t *testing.T, method, url string) response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, errors.Join(err, resp.Body.Close()))
	return response{resp, string(body)}
}

func (r response) json(t *testing.T) map[string]any {
	t.Helper()
	require.Equal(t, "application/json", r.Header.Get("Content-Type"))
	var out map[string]any
	require.NoError(t, json.Unmarshal([]byte(r.body), &out), r.body)
	return out
}

func running(name string, now time.Time) pipeline.Status {
	return pipeline.Status{Lane: name, State: pipeline.Running, Since: now.Add(-time.Hour), LastPoll: now}
}

func everySecond() time.Duration { return time.Second }

// clock is that of the machine until a test sets it.
type clock struct{ at atomic.Pointer[time.Time] }

func (c *clock) set(now time.Time) { c.at.Store(&now) }

func (c *clock) now() time.Time {
	if at := c.at.Load(); at != nil {
		return *at
	}
	return time.Now()
}

func TestPathsAndMethods(t *testing.T) {
	now := time.Now()
	base := start(t, admin.Config{
		Lanes:   func() []pipeline.Status { return []pipeline.Status{running("nats", now)} },
		Metrics: telemetry.NewMetrics("1.2.3").Handler(), PollInterval: everySecond, Version: "1.2.3",
		Now: func() time.Time { return now },
	})
	for _, c := range []struct {
		method, path string
		status       int
		contains     string
	}{
		{"GET", "/", 200, "/readyz "},
		{"GET", "/healthz", 200, `"status": "ok"`},
		{"GET", "/readyz", 200, `"ready": true`},
		{"GET", "/metrics", 200, `relay_build_info{go_version=`},
		{"GET", "/healthz?verbose=1", 200, `"version": "1.2.3"`},
		{"HEAD", "/", 200, ""},
		{"HEAD", "/healthz", 200, ""},
		{"HEAD", "/readyz", 200, ""},
		{"HEAD", "/metrics", 200, ""},
		{"POST", "/readyz", 405, `"error"`},
		{"DELETE", "/", 405, `"error"`},
		{"OPTIONS", "/metrics", 405, `"error"`},
		{"GET", "/healthz/", 404, `"error"`},
		{"GET", "/debug/pprof/", 404, `"error"`},
		{"POST", "/<script>", 404, `"error"`},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			r := request(t, c.method, base+c.path)
			require.Equal(t, c.status, r.StatusCode)
			require.Contains(t, r.body, c.contains)
			require.NotContains(t, r.body, "<script")
			require.Equal(t, "nosniff", r.Header.Get("X-Content-Type-Options"))
			require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
			if c.method == http.MethodHead {
				require.Empty(t, r.body)
			}
			if c.status >= 400 {
				require.NotEmpty(t, r.json(t)["error"])
			}
			require.Equal(t, c.status == http.StatusMethodNotAllowed, r.Header.Get("Allow") == "GET, HEAD")
		})
	}
}

func TestWithoutMetrics(t *testing.T) {
	base := start(t, admin.Config{})
	require.Equal(t, http.StatusNotFound, request(t, "GET", base+"/metrics").StatusCode)
	require.NotContains(t, request(t, "GET", base+"/").body, "/metrics")
}

func TestHealthz(t *testing.T) {
	var offset atomic.Int64
	began := time.Now()
	base := start(t, admin.Config{Version: "1.2.3", Now: func() time.Time { return began.Add(time.Duration(offset.Load())) }})
	offset.Store(int64(90 * time.Second))
	require.Equal(t, map[string]any{"status": "ok", "version": "1.2.3", "uptime_seconds": 90.0}, request(t, "GET", base+"/healthz").json(t),
		"healthy although no lane is")
}

func TestReadyzWithoutLanes(t *testing.T) {
	for _, lanes := range []func() []pipeline.Status{nil, func() []pipeline.Status { return nil }} {
		r := request(t, "GET", start(t, admin.Config{Lanes: lanes})+"/readyz")
		require.Equal(t, http.StatusServiceUnavailable, r.StatusCode)
		require.Equal(t, map[string]any{"health": "degraded", "ready": false, "reasons": []any{"there is no lane"}, "lanes": []any{}}, r.json(t))
	}
}

func TestReadyzNeedsEveryLane(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	ready := running("nats", now)
	ready.SourceNow, ready.Events, ready.Holder, ready.Checkpoint.Holder = now, 7, "me", "me"
	ready.Unacked, ready.UnackedAt = now.Add(-1500*time.Millisecond), now.Add(-2*time.Second)
	ready.Checkpoint.Position = checkpoint.Position{EventID: "event_1", CreatedAt: now.Add(-time.Minute)}
	stopped := pipeline.Status{Lane: "kafka", State: pipeline.Stopped, Since: now, Reason: `stopped at event event_9 <"too large">`, Action: "move past it"}
	base := start(t, admin.Config{
		Lanes: func() []pipeline.Status { return []pipeline.Status{ready, stopped} }, PollInterval: everySecond, Now: func() time.Time { return now },
	})
	r := request(t, "GET", base+"/readyz")
	require.Equal(t, http.StatusServiceUnavailable, r.StatusCode)
	require.Equal(t, http.StatusServiceUnavailable, request(t, "HEAD", base+"/readyz").StatusCode)
	why := `stopped: stopped at event event_9 <"too large">`
	require.Contains(t, r.body, `event_9 <\"too large\">`, "readable as it stands")
	require.Equal(t, map[string]any{
		"health":  "action_needed",
		"ready":   false,
		"reasons": []any{"lane kafka: " + why + "; move past it"},
		"lanes": []any{
			map[string]any{
				"lane": "nats", "health": "healthy", "health_reason": "", "code": "", "ready": true, "state": "running", "since": "2026-01-02T01:04:05Z", "reasons": []any{}, "action": "", "active": true, "holder": "me",
				"last_poll": "2026-01-02T02:04:05Z", "lag_seconds": 2.0, "unacknowledged_seconds": 1.5,
				"position": map[string]any{"event_id": "event_1", "created_at": "2026-01-02T02:03:05Z"},
			},
			map[string]any{
				"lane": "kafka", "health": "action_needed", "health_reason": why + "; move past it", "code": "R1209", "ready": false, "state": "stopped", "since": "2026-01-02T02:04:05Z", "reasons": []any{why + "; move past it"}, "action": "move past it", "active": false, "holder": "",
				"last_poll": nil, "lag_seconds": nil, "unacknowledged_seconds": 0.0,
				"position": map[string]any{"event_id": "", "created_at": nil},
			},
		},
	}, r.json(t))
}

// stuck is a world in which everything is connected: the API answers, the bus has taken the lane
// on, and Append waits for an acknowledgement that does not come until acks is closed.
type stuck struct {
	acks chan struct{}
	cp   checkpoint.Checkpoint
}

var at = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (*stuck) Resume(ctx context.Context, _ checkpoint.Checkpoint) iter.Seq2[source.Page, error] {
	return func(yield func(source.Page, error) bool) {
		e := source.Event{ID: "event_1", Event: "user.created", CreatedAt: at}
		if yield(source.Page{Events: []source.Event{e}, Tip: true, Now: at, Size: 100}, nil) {
			<-ctx.Done()
			yield(source.Page{}, ctx.Err())
		}
	}
}

func (*stuck) Append(batch []sink.Message, e *source.Event) ([]sink.Message, error) {
	return append(batch, sink.Message{Topic: e.Event, Position: e.Position()}), nil
}

func (*stuck) DeadLetter(*source.Event, string, string, int, int) (sink.Message, error) {
	return sink.Message{}, errors.ErrUnsupported
}

type stuckTarget struct{ *stuck }

func (s stuckTarget) Load(context.Context) (checkpoint.Checkpoint, error) { return s.cp, nil }
func (s stuckTarget) Acquire(context.Context, *checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	return s.cp, nil
}
func (stuckTarget) Release(context.Context) error { return nil }
func (stuckTarget) Observe(pipeline.Observer)     {}
func (stuckTarget) Verify(context.Context) error  { return nil }
func (stuckTarget) Flush(context.Context)         {}
func (stuckTarget) Ping(context.Context) error    { return nil }
func (stuckTarget) Shared() bool                  { return false }

func (s stuckTarget) Append(ctx context.Context, _ checkpoint.Checkpoint, _ []sink.Message, next checkpoint.Position) (checkpoint.Checkpoint, error) {
	select {
	case <-s.acks:
		s.cp.Position = next
		return s.cp, nil
	case <-ctx.Done():
		return s.cp, ctx.Err()
	}
}

func TestConnectedButStuckIsNotReady(t *testing.T) {
	world := &stuck{acks: make(chan struct{})}
	l := &pipeline.Lane{Name: "nats", Source: world, Router: world, Target: stuckTarget{world}}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	defer func() { stop(); require.NoError(t, <-ended) }()

	var clock clock
	base := start(t, admin.Config{
		Lanes: func() []pipeline.Status { return []pipeline.Status{l.Status()} }, PollInterval: everySecond, Now: clock.now,
	})
	require.Eventually(t, func() bool { return request(t, "GET", base+"/readyz").StatusCode == http.StatusOK }, patient, often,
		"ready as soon as it has read")

	read := l.Status().Unacked
	clock.set(read.Add(65 * time.Second))
	r := request(t, "GET", base+"/readyz")
	require.Equal(t, http.StatusServiceUnavailable, r.StatusCode, r.body)
	require.Contains(t, r.body, `lane nats: the oldest event read waits for 1m5s to be acknowledged`)
	require.Contains(t, r.body, `"state": "running"`)

	clock.set(read.Add(time.Second))
	close(world.acks)
	require.Eventually(t, func() bool {
		return strings.Contains(request(t, "GET", base+"/readyz").body, `"event_id": "event_1"`)
	}, patient, often)
	require.Equal(t, http.StatusOK, request(t, "GET", base+"/readyz").StatusCode)
}

func TestListenErrors(t *testing.T) {
	var lc net.ListenConfig
	taken, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, taken.Close()) }()
	token := admin.Security{Token: "0123456789abcdef"}
	_, err = admin.Listen(t.Context(), admin.Config{Listen: "192.0.2.1:8080", Security: token}) // TEST-NET-1
	require.ErrorContains(t, err, "it must be an address of this machine")
	for _, c := range []struct{ listen, contains string }{
		{taken.Addr().String(), "another process, perhaps another relay, listens there"},
		{"127.0.0.1", "missing port"},
		{"127.0.0.1:port", "port"},
	} {
		s, err := admin.Listen(t.Context(), admin.Config{Listen: c.listen, Security: token})
		require.Nil(t, s)
		require.ErrorContains(t, err, `admin.listen: cannot listen on "`+c.listen+`"`)
		require.ErrorContains(t, err, c.contains)
		require.ErrorContains(t, err, "set admin.listen to another address")
	}
}

func TestCloseFreesTheAddress(t *testing.T) {
	s, err := admin.Listen(t.Context(), admin.Config{Listen: testaddr.Free(t)})
	require.NoError(t, err)
	require.NoError(t, s.Close(t.Context()))
	require.NoError(t, s.Close(t.Context()), "again")
	again, err := admin.Listen(t.Context(), admin.Config{Listen: s.Addr().String()})
	require.NoError(t, err)
	require.NoError(t, again.Close(t.Context()))
}

// A client that does not finish must not hold up the end of relay, nor turn it into a failure.
func TestCloseCutsOffWhatHangs(t *testing.T) {
	entered := make(chan struct{})
	s, err := admin.Listen(t.Context(), admin.Config{Listen: "127.0.0.1:0", Metrics: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	})})
	require.NoError(t, err)
	answered := make(chan error, 1)
	go func() {
		req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+s.Addr().String()+"/metrics", nil)
		if err == nil {
			var resp *http.Response
			if resp, err = http.DefaultClient.Do(req); err == nil {
				err = resp.Body.Close()
			}
		}
		answered <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, s.Close(ctx))
	require.Error(t, <-answered)
}

func TestPanicIsLoggedAndServingGoesOn(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	base := start(t, admin.Config{Logger: zap.New(core), Metrics: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("broken collector") })})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/metrics", nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		require.NoError(t, resp.Body.Close())
	}
	require.Error(t, err)
	require.Equal(t, http.StatusOK, request(t, "GET", base+"/healthz").StatusCode)
	require.Contains(t, logs.All()[0].Message, "broken collector")
}
