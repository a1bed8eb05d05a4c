package webhook

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

const secret = "whsec_f00dface"

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// post sends one webhook to h and returns the answer.
func post(h http.Handler, method, signature, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/workos/webhook", strings.NewReader(body))
	if signature != "" {
		r.Header.Set(SignatureHeader, signature)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestHandler(t *testing.T) {
	const body = `{"id":"event_1","event":"user.created","data":{},"created_at":"2026-11-24T12:00:00Z"}`
	sign := func(at time.Time) string { return sourcetest.SignWebhook(secret, at, []byte(body)) }
	good := sign(noon)
	stamp, v1, _ := strings.Cut(good, ", ")
	for name, tc := range map[string]struct {
		method, signature, body string
		status                  int
		result                  Result
	}{
		"good":                      {"POST", good, body, 200, Accepted},
		"without the space":         {"POST", stamp + "," + v1, body, 200, Accepted},
		"the other way round":       {"POST", v1 + "," + stamp, body, 200, Accepted},
		"capital hex":               {"POST", stamp + ", v1=" + strings.ToUpper(v1[3:]), body, 200, Accepted},
		"beside another scheme":     {"POST", stamp + ", v0=xyz, v2=, " + v1, body, 200, Accepted},
		"beside an old secret's":    {"POST", stamp + ", v1=" + strings.Repeat("0", 64) + ", " + v1, body, 200, Accepted},
		"as old as can be":          {"POST", sign(noon.Add(-180 * time.Second)), body, 200, Accepted},
		"as far ahead as can be":    {"POST", sign(noon.Add(180 * time.Second)), body, 200, Accepted},
		"too old":                   {"POST", sign(noon.Add(-180*time.Second - time.Millisecond)), body, 401, WrongTime},
		"too far ahead":             {"POST", sign(noon.Add(180*time.Second + time.Millisecond)), body, 401, WrongTime},
		"in seconds":                {"POST", strings.Replace(good, "000,", ",", 1), body, 401, WrongSignature},
		"no header":                 {"POST", "", body, 401, WrongSignature},
		"another body":              {"POST", good, body + " ", 401, WrongSignature},
		"empty body":                {"POST", good, "", 401, WrongSignature},
		"another secret":            {"POST", sourcetest.SignWebhook(secret+"x", noon, []byte(body)), body, 401, WrongSignature},
		"no time":                   {"POST", v1, body, 401, WrongSignature},
		"two times":                 {"POST", stamp + "," + good, body, 401, WrongSignature},
		"a signed time":             {"POST", "t=+" + good[2:], body, 401, WrongSignature},
		"a time beyond all times":   {"POST", "t=99999999999999999999, " + v1, body, 401, WrongSignature},
		"a signature that is short": {"POST", stamp + ", " + v1[:len(v1)-2], body, 401, WrongSignature},
		"a signature not in hex":    {"POST", stamp + ", v1=" + strings.Repeat("g", 64), body, 401, WrongSignature},
		"no signature":              {"POST", stamp + ", v1=", body, 401, WrongSignature},
		"a header without end":      {"POST", good + strings.Repeat(", v0=0", 1000), body, 401, WrongSignature},
		"GET":                       {"GET", good, body, 405, WrongMethod},
		"PUT":                       {"PUT", good, body, 405, WrongMethod},
		"a body without end":        {"POST", good, strings.Repeat("x", maxBody+1), 413, TooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			woken := 0
			var results []Result
			h := NewHandler(secret, 0, func() time.Time { return noon }, func() { woken++ })
			h.OnResult = func(r Result) { results = append(results, r) }
			w := post(h, tc.method, tc.signature, tc.body)
			require.Equal(t, tc.status, w.Code)
			require.Equal(t, []Result{tc.result}, results)
			require.Empty(t, w.Body.String(), "nothing is told to whom the secret is unknown")
			require.Equal(t, tc.status == 200, woken == 1)
			if tc.status == 405 {
				require.Equal(t, "POST", w.Header().Get("Allow"))
			}
		})
	}
	require.Equal(t, 401, post(&Handler{}, "POST", sourcetest.SignWebhook("", time.Now(), nil), "").Code, "no secret lets nobody in")
	require.Equal(t, 200, post(&Handler{Secret: secret}, "POST", sourcetest.SignWebhook(secret, time.Now(), nil), "").Code)
	require.NotContains(t, fmt.Sprintf("%v %+v %#v", &Handler{Secret: secret}, &Handler{Secret: secret}, &Handler{Secret: secret}), secret)
}

func TestABodyThatBreaksOff(t *testing.T) {
	h := NewHandler(secret, 0, nil, func() { t.Error("woken") })
	r := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
	r.Body = breaking{}
	r.Header.Set(SignatureHeader, sourcetest.SignWebhook(secret, time.Now(), nil))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, 400, w.Code)
}

type breaking struct{}

func (breaking) Read([]byte) (int, error) { return 0, context.Canceled }
func (breaking) Close() error             { return nil }

// times records when a channel of wakes is served. It is safe for concurrent use: the test reads
// while the recording goes on, and nothing else orders the two.
type times struct {
	start time.Time
	mu    sync.Mutex
	at    []time.Duration
}

func (r *times) record(ctx context.Context, wake <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
			r.mu.Lock()
			r.at = append(r.at, time.Since(r.start))
			r.mu.Unlock()
		}
	}
}

// take returns what was recorded, and forgets it.
func (r *times) take() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.at
	r.at = nil
	return at
}

func TestWakerWakesAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var w Waker
		start := time.Now()
		a, b := times{start: start}, times{start: start}
		one, _ := w.Subscribe()
		two, leave := w.Subscribe()
		idle, _ := w.Subscribe()
		go w.Run(ctx)
		go a.record(ctx, one)
		go b.record(ctx, two)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Empty(t, a.take())

		at := time.Since(start)
		w.Wake()
		time.Sleep(3 * time.Second)
		leave()
		leave()
		time.Sleep(time.Hour)
		synctest.Wait()
		s, ms := time.Second, time.Millisecond
		want := []time.Duration{at, at + 500*ms, at + s, at + 2*s, at + 4*s, at + 8*s, at + 14*s, at + 20*s}
		require.Equal(t, want, a.take())
		require.Equal(t, want[:4], b.take(), "who has left is woken no more")
		require.Len(t, idle, 1, "one wake is pending, never more")

		// A burst is merged, and each webhook starts the schedule over.
		at = time.Since(start)
		w.Wake()
		synctest.Wait()
		for range 1000 {
			w.Wake()
		}
		time.Sleep(5 * time.Second)
		w.Wake()
		time.Sleep(time.Hour)
		synctest.Wait()
		merged, again := at+250*ms, at+5*s
		require.Equal(t, []time.Duration{
			at, merged, merged + 500*ms, merged + s, merged + 2*s, merged + 4*s,
			again, again + 500*ms, again + s, again + 2*s, again + 4*s, again + 8*s, again + 14*s, again + 20*s,
		}, a.take())

		cancel()
		synctest.Wait()
		w.Wake()
		w.Wake() // nobody runs; nobody blocks
	})
}

// TestWakesAreBounded calls Wake all the time. There are at most four wakes per second, and one
// after the last call.
func TestWakesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var w Waker
		start := time.Now()
		recorded := times{start: start}
		wake, _ := w.Subscribe()
		go w.Run(ctx)
		go recorded.record(ctx, wake)
		var last time.Duration
		for time.Since(start) < 10*time.Second {
			w.Wake()
			last = time.Since(start)
			time.Sleep(7 * time.Millisecond)
		}
		synctest.Wait()
		woken := recorded.take()
		require.InDelta(t, 40, len(woken), 1)
		for i := 1; i < len(woken); i++ {
			require.GreaterOrEqual(t, woken[i]-woken[i-1], gap)
		}
		time.Sleep(gap)
		synctest.Wait()
		woken = append(woken, recorded.take()...)
		require.GreaterOrEqual(t, woken[len(woken)-1], last, "the last call is not lost")
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Len(t, recorded.take(), len(pauses))
	})
}

// An event that becomes visible only seconds after its webhook is read within seconds, though the
// next poll is an hour away.
func TestAWebhookWakesTheStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		srv := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Events: 50, Seed: 1}), sourcetest.WithHoldBack(3*time.Second))
		time.Sleep(time.Minute)
		var w Waker
		go w.Run(ctx)
		h := NewHandler(secret, 0, time.Now, w.Wake)
		go func() {
			time.Sleep(10 * time.Minute)
			body := []byte(`{"id":"event_new","event":"user.created","created_at":"` + time.Now().UTC().Format(time.RFC3339Nano) + `","data":{}}`)
			if err := srv.Append(body); err != nil {
				panic(err)
			}
			post(h, "POST", sourcetest.SignWebhook(secret, time.Now(), body), string(body))
		}()
		appended := time.Now().Add(10 * time.Minute)
		done := make(chan time.Duration, 3)
		for range 3 {
			wake, leave := w.Subscribe()
			types, err := source.Expand([]string{"*"})
			require.NoError(t, err)
			s := &source.Stream{
				Client: &source.Client{APIKey: sourcetest.DefaultAPIKey, Endpoint: srv.URL(), HTTPClient: srv.Client()},
				Events: types, PollInterval: time.Hour, Wake: wake,
			}
			go func() {
				defer leave()
				for page, err := range s.Pages(ctx, checkpoint.Position{}) {
					if err != nil {
						return
					}
					if n := len(page.Events); n > 0 && page.Events[n-1].ID == "event_new" {
						done <- time.Since(appended)
						return
					}
				}
			}()
		}
		for range 3 {
			require.Equal(t, 4*time.Second, <-done, "the first wake after the event is visible")
		}
	})
}

func FuzzSignature(f *testing.F) {
	f.Add("t=1764000000000, v1=" + strings.Repeat("ab", 32))
	f.Add("v1=,t=")
	f.Add("t=1,t=2,v1=zz")
	f.Add(strings.Repeat(",", 2000))
	f.Fuzz(func(t *testing.T, header string) {
		s, ok := parseSignature(header)
		if !ok {
			return
		}
		require.NotEmpty(t, s.v1)
		require.Equal(t, s.time, strings.TrimLeft(s.time, "+- "))
		for _, v := range s.v1 {
			require.Len(t, v, 32)
			require.True(t, s.matches(mac(v)))
		}
		// Written again, it reads the same.
		again, ok := parseSignature(fmt.Sprintf("t=%s, v1=%x", s.time, s.v1[0]))
		require.True(t, ok)
		require.Equal(t, s.at, again.at)
		// No header that is not signed gets in.
		woken := false
		h := NewHandler(secret, 0, func() time.Time { return s.at }, func() { woken = true })
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("body"))
		r.Header.Set(SignatureHeader, header)
		h.ServeHTTP(httptest.NewRecorder(), r)
		require.False(t, woken)
	})
}
