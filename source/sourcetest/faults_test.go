package sourcetest

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
)

// httpClient opens a connection for each request, so that none is shared with another test.
func httpClient(t *testing.T) *http.Client {
	tr := &http.Transport{DisableKeepAlives: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// TestFaults shows each fault over a socket and in memory: a client sees the same.
func TestFaults(t *testing.T) {
	const query = "events=dsync.user.created,organization.created&order=asc"
	full := get(t, five(t), query)
	for _, c := range []struct {
		fault Fault
		query string
		check func(t *testing.T, r result, err error)
	}{
		{OK(), query, func(t *testing.T, r result, err error) {
			require.NoError(t, err)
			require.Equal(t, full.body, r.body)
		}},
		{Status(401), query, status(401, `{"message":"Unauthorized"}`)},
		{Status(403), query, status(403, `"error_description"`)},
		{Status(404), query, status(404, `{"message":"Not Found"}`)},
		{Status(408), query, status(408, `{"message":"Request Timeout"}`)},
		{Status(422), query, status(422, `"errors":["`)},
		{Status(429), query, status(429, `"code":"rate_limit_exceeded"`)},
		{Status(500), query, status(500, `{"message":"Internal Server Error"}`)},
		{Status(502), query, status(502, "<html>")},
		{Status(503), query, status(503, "upstream connect error")},
		{TooManyRequests(1500*time.Millisecond, RetryAfterSeconds), query, func(t *testing.T, r result, _ error) {
			require.Equal(t, 429, r.status)
			require.Equal(t, "2", r.header.Get("Retry-After"))
		}},
		{TooManyRequests(time.Hour, RetryAfterDate), query, func(t *testing.T, r result, _ error) {
			at, err := http.ParseTime(r.header.Get("Retry-After"))
			require.NoError(t, err)
			require.WithinDuration(t, time.Now().Add(time.Hour), at, time.Minute)
		}},
		{Answer(418, "text/plain", []byte("teapot")), query, status(418, "teapot")},
		{Redirect("https://elsewhere.example.com/events"), query, func(t *testing.T, r result, err error) {
			require.NoError(t, err)
			require.Equal(t, 307, r.status)
			require.Equal(t, "https://elsewhere.example.com/events", r.header.Get("Location"))
		}},
		{Reset(), query, func(t *testing.T, r result, err error) {
			require.Error(t, err)
			require.Zero(t, r.status)
		}},
		{Cut(0.5), query, func(t *testing.T, r result, err error) {
			require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.Equal(t, 200, r.status)
			require.Equal(t, full.body[:len(full.body)/2], r.body)
			require.Equal(t, full.header.Get("Content-Length"), r.header.Get("Content-Length"))
		}},
		{Malformed(), query, func(t *testing.T, r result, err error) {
			require.NoError(t, err)
			require.False(t, gjson.Valid(r.body))
			require.True(t, strings.HasPrefix(full.body, r.body))
		}},
		{WrongShape(), query, func(t *testing.T, r result, err error) {
			require.NoError(t, err)
			require.True(t, gjson.Get(r.body, "data").IsObject())
		}},
		{Empty(), query, func(t *testing.T, r result, err error) {
			require.NoError(t, err)
			require.Empty(t, r.ids())
			require.Empty(t, r.next())
		}},
		{Oversize(1 << 20), query, func(t *testing.T, r result, err error) {
			require.NoError(t, err)
			require.Len(t, r.body, 1<<20)
			require.Equal(t, full.body, strings.TrimSpace(r.body))
		}},
		{Trickle(20 * time.Millisecond), query, func(t *testing.T, r result, err error) {
			require.NoError(t, err)
			require.Equal(t, full.body, r.body)
		}},
		{Descending(), query, page200("event_4 event_3 event_2 event_1 event_0")},
		{Inversion(), query, page200("event_0 event_2 event_1 event_3 event_4")},
		{Replay(), query + "&after=event_2&limit=2", page200("event_1 event_2")},
		{Replay(), query, page200("event_0 event_1 event_2 event_3 event_4")},
		{ReplayFromStart(), query + "&after=event_2&limit=2", page200("event_0 event_1")},
	} {
		t.Run(c.fault.String()+" "+c.query[min(len(query), len(c.query)):], func(t *testing.T) {
			s := five(t)
			require.NoError(t, s.Start(""))
			defer func() { require.NoError(t, s.Close()) }()
			memory := s.Client()
			memory.CheckRedirect = httpClient(t).CheckRedirect
			for name, client := range map[string]*http.Client{"socket": httpClient(t), "memory": memory} {
				t.Run(name, func(t *testing.T) {
					s.Fail(1, c.fault)
					r, err := fetch(t.Context(), client, s.URL(), c.query)
					c.check(t, r, err)
					r, err = fetch(t.Context(), client, s.URL(), query)
					require.NoError(t, err)
					require.Equal(t, full.body, r.body, "the next request is answered in full")
				})
			}
		})
	}
}

func status(code int, part string) func(*testing.T, result, error) {
	return func(t *testing.T, r result, err error) {
		t.Helper()
		require.NoError(t, err)
		require.Equal(t, code, r.status)
		require.Contains(t, r.body, part)
		require.NotEmpty(t, r.header.Get("X-Request-Id"))
		require.NotEmpty(t, r.header.Get("Date"))
	}
}

func page200(ids string) func(*testing.T, result, error) {
	return func(t *testing.T, r result, err error) {
		t.Helper()
		require.NoError(t, err)
		require.Equal(t, 200, r.status)
		require.Equal(t, ids, strings.Join(r.ids(), " "))
	}
}

func TestDelaysFollowTheBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := five(t, WithLatency(50*time.Millisecond, 20*time.Millisecond))
		start := time.Now()
		get(t, s, allTypes)
		require.InDelta(t, 60, time.Since(start).Milliseconds(), 10)

		s.Fail(1, Slow(time.Minute, 0))
		start = time.Now()
		get(t, s, allTypes)
		require.InDelta(t, 60.06, time.Since(start).Seconds(), 0.02)

		s.Fail(1, Trickle(10*time.Second))
		start = time.Now()
		get(t, s, allTypes)
		require.InDelta(t, 10, time.Since(start).Seconds(), 0.5)

		s.Fail(3, Hang())
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start = time.Now()
		_, err := fetch(ctx, s.Client(), s.URL(), allTypes)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Hour, time.Since(start))

		limited := s.Client()
		limited.Timeout = time.Second
		_, err = fetch(t.Context(), limited, s.URL(), allTypes)
		require.Error(t, err)
		requests := s.Requests()
		require.Equal(t, "hang", requests[len(requests)-1].Fault)

		s.ClearFaults()
		s.Fail(1, Trickle(10*time.Second))
		_, err = fetch(t.Context(), limited, s.URL(), allTypes)
		require.ErrorIs(t, err, context.DeadlineExceeded, "a body ends with the context too")
	})
}

// Readers that ask at once are answered in the same order each time, whichever of them the
// scheduler lets through first.
func TestJitterDoesNotDependOnTheOrderOfRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := five(t, WithLatency(time.Second, time.Minute))
		took := func(query string) time.Duration {
			start := time.Now()
			get(t, s, query)
			return time.Since(start)
		}
		a, b := took(allTypes), took(allTypes+"&limit=1")
		require.NotEqual(t, a, b)
		require.Equal(t, b, took(allTypes+"&limit=1"))
		require.Equal(t, a, took(allTypes))
	})
}

func TestBodyEndsWithItsRequest(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := five(t)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+"/events?"+allTypes, nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+DefaultAPIKey)
	resp, err := s.Client().Do(req)
	require.NoError(t, err)
	_, err = resp.Body.Read(make([]byte, 10))
	require.NoError(t, err)
	cancel()
	_, err = io.ReadAll(resp.Body)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, resp.Body.Close())
	_, err = resp.Body.Read(make([]byte, 10))
	require.ErrorIs(t, err, http.ErrBodyReadAfterClose)
}

func TestCloseWaitsForHandlers(t *testing.T) {
	s := New()
	require.NoError(t, s.Start(""))
	started, broken := make(chan struct{}), make(chan struct{})
	var done atomic.Bool
	s.Fail(1, Mutate("busy", func(body []byte) []byte {
		close(started)
		<-broken
		for range 1000 {
			runtime.Gosched()
		}
		done.Store(true)
		return body
	}))
	url := s.URL()
	go func() {
		_, _ = fetch(context.Background(), httpClient(t), url, allTypes)
		close(broken)
	}()
	<-started
	require.NoError(t, s.Close())
	require.True(t, done.Load(), "a request was under way when Close returned")
}

// A request that has come in, and whose handler begins only when Close has returned, is not
// answered any more.
func TestARequestAfterCloseIsBroken(t *testing.T) {
	s := New()
	require.NoError(t, s.Start(""))
	s.mu.Lock()
	handler := s.http.srv.Handler
	s.mu.Unlock()
	require.NoError(t, s.Close())
	require.PanicsWithValue(t, http.ErrAbortHandler, func() {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/events?"+allTypes, nil))
	})
	require.Zero(t, s.Count())
}

func TestFaultPlans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := five(t)
		sequence := func(n int) (out []int) {
			for range n {
				out = append(out, get(t, s, allTypes).status)
			}
			return out
		}
		s.FailFor(time.Minute, Status(403))
		s.Fail(2, Status(500))
		s.Fail(1, OK())
		s.Fail(1, Status(503))
		require.Equal(t, []int{500, 500, 200, 503, 403, 403}, sequence(6))
		time.Sleep(time.Minute)
		require.Equal(t, []int{200, 200}, sequence(2))

		s.Fail(-1, Status(500))
		require.Equal(t, []int{500, 500, 500}, sequence(3))
		s.ClearFaults()
		require.Equal(t, []int{200}, sequence(1))

		s.FailRandomly(0.5, 7, Status(500), Status(502))
		first := sequence(100)
		s.FailRandomly(0.5, 7, Status(500), Status(502))
		require.Equal(t, first, sequence(100), "the seed gives the sequence")
		count := map[int]int{}
		for _, code := range first {
			count[code]++
		}
		require.InDelta(t, 50, count[200], 20)
		require.Greater(t, min(count[500], count[502]), 5)
		s.FailRandomly(0, 0)
		require.NotContains(t, sequence(20), 500)
	})
}

func TestCloseEndsWhatHangs(t *testing.T) {
	s := New()
	require.NoError(t, s.Start(""))
	require.Error(t, s.Start(""), "one socket at a time")
	s.Fail(1, Hang())
	url, failed := s.URL(), make(chan error, 1)
	go func() {
		_, err := fetch(context.Background(), httpClient(t), url, allTypes)
		failed <- err
	}()
	require.Eventually(t, func() bool { return s.Count() == 1 }, time.Minute, time.Millisecond)
	require.NoError(t, s.Close())
	require.Error(t, <-failed)
	require.NoError(t, s.Close())
	require.Equal(t, 200, get(t, s, allTypes).status, "in memory it goes on")

	require.NoError(t, s.Start(""), "it may start again")
	require.NoError(t, s.Close())
	require.Error(t, s.Start("127.0.0.1:-1"))
}
