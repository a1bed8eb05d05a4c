package source

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"workos-relay/checkpoint"
)

// tipRun is what a test of polling at the tip does, and what came of it.
type tipRun struct {
	streams     int // of one client; 1 if zero
	interval    time.Duration
	fastest     time.Duration
	arrivals    []time.Duration // when events become visible, from the start
	held        time.Duration   // how much earlier they were created
	limiter     *rate.Limiter
	fault       func(n int) *http.Response
	wake        []time.Duration
	latency     time.Duration // of a request
	during      func(*Client) // at the start
	lasts       time.Duration
	polls       []time.Duration   // when, from the start
	delays      [][]time.Duration // of each stream, from visible to yielded
	waits       []time.Duration   // what OnWait was told
	waitedAt    []time.Duration   // when
	mostPerSlot int               // polls within any ten seconds
}

// run polls in virtual time. The first poll is at the start, and finds nothing.
func (tr *tipRun) run(t *testing.T) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		api.add(1, time.Now())
		if tr.fault != nil {
			api.fault = func(n int, _ url.Values) (*http.Response, error) { return tr.fault(n), nil }
		}
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), tr.lasts)
		defer cancel()
		base, _ := api.stream()
		base.Client.Limiter = tr.limiter
		base.Client.HTTPClient.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
			time.Sleep(tr.latency / 2)
			defer time.Sleep(tr.latency / 2)
			return api.RoundTrip(r)
		})
		if tr.during != nil {
			tr.during(base.Client)
		}
		var mu sync.Mutex
		visible := map[string]time.Time{}
		var running sync.WaitGroup
		n := max(tr.streams, 1)
		tr.delays = make([][]time.Duration, n)
		for i := range n {
			s := &Stream{Client: base.Client, Events: base.Events, PollInterval: tr.interval, FastestPoll: tr.fastest, Hooks: &Hooks{
				OnWait: func(w WaitInfo) {
					mu.Lock()
					defer mu.Unlock()
					tr.waits, tr.waitedAt = append(tr.waits, w.Wait), append(tr.waitedAt, time.Since(start))
				},
			}}
			if len(tr.wake) > 0 {
				wake := make(chan struct{}, 1)
				s.Wake = wake
				running.Go(func() { at(ctx, start, tr.wake, func(int) { wake <- struct{}{} }) })
			}
			running.Go(func() {
				for page, err := range s.Pages(ctx, checkpoint.Position{EventID: "event_000000", CreatedAt: start}) {
					if err != nil {
						return // the time is over
					}
					mu.Lock()
					for _, e := range page.Events {
						tr.delays[i] = append(tr.delays[i], time.Since(visible[e.ID]))
					}
					mu.Unlock()
				}
			})
		}
		at(ctx, start, tr.arrivals, func(i int) {
			mu.Lock()
			visible[numbered(i+1, i+1)[0]] = time.Now()
			mu.Unlock()
			api.add(1, time.Now().Add(-tr.held))
		})
		running.Wait()
		for _, when := range api.times {
			tr.polls = append(tr.polls, when.Sub(start))
		}
	})
	for i := range tr.polls {
		j, _ := slices.BinarySearch(tr.polls, tr.polls[i]+10*time.Second)
		tr.mostPerSlot = max(tr.mostPerSlot, j-i)
	}
}

// at calls f at each of the times from start.
func at(ctx context.Context, start time.Time, times []time.Duration, f func(int)) {
	for i, when := range times {
		select {
		case <-time.After(time.Until(start.Add(when))):
			f(i)
		case <-ctx.Done():
			return
		}
	}
}

// median returns the middle one of the delays of a stream.
func (tr *tipRun) median(stream int) time.Duration {
	sorted := slices.Sorted(slices.Values(tr.delays[stream]))
	return sorted[len(sorted)/2]
}

func ms(n ...int) []time.Duration {
	out := make([]time.Duration, len(n))
	for i := range n {
		out[i] = time.Duration(n[i]) * time.Millisecond
	}
	return out
}

// every returns n times that are d apart, from first on.
func every(d, first time.Duration, n int) []time.Duration {
	out := make([]time.Duration, n)
	for i := range out {
		out[i] = first + time.Duration(i)*d
	}
	return out
}

const fast = 100 * time.Millisecond

// TestPollsAtTheTip asserts when a stream polls, and how long events wait.
func TestPollsAtTheTip(t *testing.T) {
	t.Parallel()
	steady := every(50*time.Millisecond, 25*time.Millisecond, 200) // 20 a second for 10 s
	for _, c := range []struct {
		name string
		tipRun
		want   []time.Duration // polls
		delays []time.Duration // of the first stream
	}{
		{
			name:   "nothing happens: as without FastestPoll",
			tipRun: tipRun{interval: time.Second, fastest: fast, lasts: 60500 * time.Millisecond},
			want:   every(time.Second, 0, 61),
		},
		{
			name:   "one event",
			tipRun: tipRun{interval: time.Second, fastest: fast, arrivals: ms(2300), lasts: 8 * time.Second},
			want:   ms(0, 1000, 2000, 3000, 3100, 3300, 3700, 4500, 5500, 6500, 7500),
			delays: ms(700),
		},
		{
			name:   "one event each ten seconds: three polls more for each",
			tipRun: tipRun{interval: time.Second, fastest: fast, arrivals: every(10*time.Second, 300*time.Millisecond, 3), lasts: 30 * time.Second},
			want: slices.Concat(ms(0, 1000, 1100, 1300, 1700, 2500), every(time.Second, 3500*time.Millisecond, 8),
				ms(10600, 10800, 11200, 12000), every(time.Second, 13*time.Second, 8),
				ms(21000, 21100, 21300, 21700, 22500), every(time.Second, 23500*time.Millisecond, 7)),
			delays: ms(700, 200, 700),
		},
		{
			name:   "a burst of single events, 120 ms apart",
			tipRun: tipRun{interval: time.Second, fastest: fast, arrivals: every(120*time.Millisecond, 950*time.Millisecond, 5), lasts: 3900 * time.Millisecond},
			want:   ms(0, 1000, 1100, 1200, 1300, 1500, 1600, 1800, 2200, 3000),
			delays: ms(50, 30, 10, 190, 70),
		},
		{
			name:   "a burst at once",
			tipRun: tipRun{interval: time.Second, fastest: fast, arrivals: every(0, 1500*time.Millisecond, 60), lasts: 5 * time.Second},
			want:   ms(0, 1000, 2000, 2100, 2300, 2700, 3500, 4500),
			delays: every(0, 500*time.Millisecond, 60),
		},
		{
			name:   "WorkOS holds events back for 3 s: only when they can be seen counts",
			tipRun: tipRun{interval: time.Second, fastest: fast, held: 3 * time.Second, arrivals: ms(2300, 3050, 3150), lasts: 5 * time.Second},
			want:   ms(0, 1000, 2000, 3000, 3100, 3200, 3300, 3500, 3900, 4700),
			delays: ms(700, 50, 50),
		},
		{
			name:   "another interval and no FastestPoll",
			tipRun: tipRun{interval: 3 * time.Second, arrivals: ms(500, 3500), lasts: 10 * time.Second},
			want:   ms(0, 3000, 6000, 9000),
			delays: ms(2500, 2500),
		},
		{
			name:   "an interval that is shorter than FastestPoll",
			tipRun: tipRun{interval: 50 * time.Millisecond, fastest: fast, arrivals: ms(60), lasts: 201 * time.Millisecond},
			want:   ms(0, 50, 100, 150, 200),
			delays: ms(40),
		},
		{
			name:   "a webhook polls at once, and pays for it",
			tipRun: tipRun{interval: 10 * time.Second, fastest: fast, arrivals: ms(1990, 2090, 2140), wake: ms(2000, 2050, 2100, 2150), lasts: 2900 * time.Millisecond},
			want:   ms(0, 2000, 2050, 2100, 2150, 2400, 2600),
			delays: ms(10, 10, 10),
		},
		{
			name: "a backfill of another stream comes first",
			tipRun: tipRun{
				interval: time.Second, fastest: fast, arrivals: steady, lasts: 5500 * time.Millisecond,
				during: func(c *Client) { time.AfterFunc(3500*time.Millisecond, c.polls().backfill()) },
			},
			want: ms(0, 1000, 2000, 3000, 4000, 4100, 4200, 4300, 4400, 4600, 4800, 5000, 5200, 5400),
		},
		{
			name:   "the rate limit has no request to spare",
			tipRun: tipRun{interval: time.Second, fastest: fast, arrivals: steady, limiter: rate.NewLimiter(0.5, 1), lasts: 5 * time.Second},
			want:   ms(0, 2000, 4000),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(t)
			require.Equal(t, c.want, c.polls)
			if c.delays != nil {
				require.Equal(t, c.delays, c.tipRun.delays[0])
			}
		})
	}
}

// poisson returns when events happen at random, so many a second on average, for so long.
func poisson(seed uint64, perSecond float64, long time.Duration) []time.Duration {
	random := rand.New(rand.NewPCG(seed, 0))
	var out []time.Duration
	for at := time.Duration(0); ; {
		if at += time.Duration(random.ExpFloat64() / perSecond * float64(time.Second)); at > long {
			return out
		}
		out = append(out, at)
	}
}

// TestEventsThatComeAreReadSoon asserts what an event waits, and what that costs, at several rates.
func TestEventsThatComeAreReadSoon(t *testing.T) {
	t.Parallel()
	const long = 40 * time.Second
	for _, c := range []struct {
		name      string
		perSecond float64
		streams   int
		latency   time.Duration
		median    time.Duration // at most, of each stream
		polls     int           // at most, of all streams within ten seconds
	}{
		{name: "20 a second", perSecond: 20, streams: 1, median: 105 * time.Millisecond, polls: 54},
		{name: "20 a second, answers take 80 ms", perSecond: 20, streams: 1, latency: 80 * time.Millisecond, median: 190 * time.Millisecond, polls: 54},
		{name: "200 a second", perSecond: 200, streams: 1, median: 105 * time.Millisecond, polls: 54},
		{name: "2 a second", perSecond: 2, streams: 1, median: 170 * time.Millisecond, polls: 50},
		{name: "2 streams", perSecond: 20, streams: 2, median: 205 * time.Millisecond, polls: 54},
		{name: "4 streams", perSecond: 20, streams: 4, median: 460 * time.Millisecond, polls: 54},
		{name: "more streams than the budget has polls for", perSecond: 20, streams: 8, median: 530 * time.Millisecond, polls: 84},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tr := tipRun{
				streams: c.streams, interval: time.Second, fastest: fast, latency: c.latency,
				arrivals: poisson(1, c.perSecond, long), lasts: long,
			}
			tr.run(t)
			for i := range c.streams {
				require.LessOrEqual(t, tr.median(i), c.median)
			}
			require.LessOrEqual(t, tr.mostPerSlot, c.polls)
		})
	}
}

// TestNoEarlyPollAfter429 asserts that every stream keeps to PollInterval for a minute after an
// answer 429, and for as long as Retry-After asks.
func TestNoEarlyPollAfter429(t *testing.T) {
	t.Parallel()
	for retryAfter, held := range map[string]time.Duration{"0": time.Minute, "90": 90 * time.Second} {
		t.Run(retryAfter, func(t *testing.T) {
			t.Parallel()
			tr := tipRun{
				streams: 2, interval: time.Second, fastest: fast, arrivals: every(7*time.Second, 500*time.Millisecond, 20), lasts: 140 * time.Second,
				fault: func(n int) *http.Response {
					if n == 3 {
						return respond(http.StatusTooManyRequests, `{"message":"too many"}`, "Retry-After", retryAfter)
					}
					return nil
				},
			}
			tr.run(t)
			limited := tr.polls[2]
			var early []time.Duration
			for i, w := range tr.waits {
				if w < time.Second {
					early = append(early, tr.waitedAt[i]+w-limited)
				}
			}
			require.NotEmpty(t, early)
			require.GreaterOrEqual(t, slices.Min(early), held)
			require.Less(t, slices.Min(early), held+15*time.Second)
		})
	}
}

// TestFailuresEndEarlyPolls asserts that a stream whose request has failed is back at PollInterval
// until events come again.
func TestFailuresEndEarlyPolls(t *testing.T) {
	t.Parallel()
	tr := tipRun{
		interval: time.Second, fastest: fast, arrivals: ms(500), lasts: 8 * time.Second,
		fault: func(n int) *http.Response {
			if n == 3 { // the first early poll
				return respond(http.StatusBadGateway, "")
			}
			return nil
		},
	}
	tr.run(t)
	require.Equal(t, ms(0, 1000, 1100), tr.polls[:3])
	for i := 4; i < len(tr.polls); i++ { // tr.polls[3] repeats the request
		require.Equal(t, time.Second, tr.polls[i]-tr.polls[i-1])
	}
}
