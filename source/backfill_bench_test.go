package source_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"workos-relay/checkpoint"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// backlog is what a measured backfill is to read.
type backlog struct {
	events  int
	latency time.Duration
	rate    int // requests/s; 0 for no limit
	readers int
	memory  int64
	profile []sourcetest.Span
}

// outcome is what it did, in virtual time.
type outcome struct {
	middle, whole float64 // events/s: between the 10th and the 90th hundredth of the events, and of all
	requests      int
	most          int64 // bytes held
	counts        source.BackfillInfo
}

// run reads the backlog in a bubble, so that time is what the API's latency and the rate limit
// cost, and nothing else.
func (b backlog) run(tb testing.TB) (out outcome) {
	tb.Helper()
	types, err := source.Expand([]string{"*"})
	if err != nil {
		tb.Fatal(err)
	}
	srv := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Profile: b.profile, Seed: 1, SameInstant: 2}),
		sourcetest.WithLatency(b.latency, b.latency/10), sourcetest.WithLedger(0), sourcetest.WithRetention(0))
	s := &source.Stream{
		Client: &source.Client{APIKey: sourcetest.DefaultAPIKey, Endpoint: srv.URL(), HTTPClient: srv.Client()},
		Events: types, Readers: b.readers, Memory: b.memory,
		Hooks: &source.Hooks{OnBackfill: func(i source.BackfillInfo) {
			out.most = max(out.most, i.Buffered)
			out.counts.Joined += i.Joined
			out.counts.Split += i.Split
			out.counts.Missed += i.Missed
			out.counts.Dropped += i.Dropped
		}},
	}
	if b.rate > 0 {
		s.Client.Limiter = rate.NewLimiter(rate.Limit(b.rate), 1)
	}
	start := time.Now()
	var from, to time.Time
	n := 0
	for page, err := range s.Pages(tb.Context(), checkpoint.Position{}) {
		if err != nil {
			tb.Fatal(err)
		}
		n += len(page.Events)
		if from.IsZero() && n >= b.events/10 {
			from = time.Now()
		}
		if to.IsZero() && n >= b.events*9/10 {
			to = time.Now()
		}
		if page.Tip {
			break
		}
	}
	if n != b.events {
		tb.Fatalf("%d events instead of %d", n, b.events)
	}
	out.whole = float64(n) / time.Since(start).Seconds()
	out.middle = float64(b.events) * 8 / 10 / to.Sub(from).Seconds()
	out.requests = srv.Count()
	return out
}

// BenchmarkBackfill reports events/s of virtual time: what the API's latency and rate limit leave.
func BenchmarkBackfill(b *testing.B) {
	const events = 1_000_000
	uneven := sourcetest.UnevenProfile(events, 60*24*time.Hour, 1)
	for _, latency := range []time.Duration{50 * time.Millisecond, 100 * time.Millisecond} {
		for _, readers := range []int{1, 16} {
			if readers == 1 && testing.Short() {
				continue
			}
			b.Run(fmt.Sprintf("latency=%v/readers=%d", latency, readers), func(b *testing.B) {
				var out outcome
				for range b.N {
					out = inBubble(b, backlog{events: events, latency: latency, rate: 100, readers: readers, memory: 64 << 20, profile: uneven})
				}
				b.ReportMetric(out.middle, "middle-events/s")
				b.ReportMetric(out.whole, "events/s")
				b.ReportMetric(float64(out.requests), "requests")
				b.ReportMetric(float64(out.most)/(1<<20), "MiB-held")
			})
		}
	}
}

// inBubble runs a backlog under synctest, which takes a test and no benchmark.
func inBubble(b *testing.B, l backlog) (out outcome) {
	b.Helper()
	all := func(string, string) (bool, error) { return true, nil }
	ok := testing.RunTests(all, []testing.InternalTest{{Name: b.Name(), F: func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { out = l.run(t) })
	}}})
	if !ok {
		b.Fatal("the backlog was not read as it should be")
	}
	return out
}
