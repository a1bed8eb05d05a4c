package sourcetest

import (
	"io"
	"net/http"
	"testing"
	"time"
)

// servePages walks in pages of 100 over RoundTrip, from the start again at the tip.
func servePages(b *testing.B, s *Server, query string) {
	b.Helper()
	rt := s.RoundTripper()
	at, served := 0, 0
	for b.Loop() {
		q := query + "&order=asc&limit=100"
		if at > 0 {
			q += "&after=" + s.store.id(at-1)
		}
		req, err := http.NewRequestWithContext(b.Context(), http.MethodGet, s.URL()+"/events?"+q, nil)
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+DefaultAPIKey)
		resp, err := rt.RoundTrip(req)
		if err != nil || resp.StatusCode != http.StatusOK {
			b.Fatal(err, resp)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil || n == 0 {
			b.Fatal(n, err)
		}
		served += 100
		at = (at + 100) % (s.Len() - 100)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(served), "ns/event")
}

func BenchmarkPageGenerated(b *testing.B) {
	servePages(b, New(WithPopulation(Population{Events: 1_000_000})), allTypes)
}

func BenchmarkPageGeneratedUneven(b *testing.B) {
	servePages(b, New(WithPopulation(Population{Profile: UnevenProfile(1_000_000, 90*24*time.Hour, 1)})), allTypes)
}

func BenchmarkPageGeneratedFiltered(b *testing.B) {
	servePages(b, New(WithPopulation(Population{Events: 1_000_000})), "events=dsync.user.created,session.created")
}

func BenchmarkPageGeneratedOneRareType(b *testing.B) {
	servePages(b, New(WithPopulation(Population{Events: 1_000_000})), "events=waitlist_user.denied")
}

func BenchmarkPageInMemory(b *testing.B) {
	servePages(b, New(WithPopulation(Population{Events: 200_000, InMemory: true})), allTypes)
}

func BenchmarkNewInMemory(b *testing.B) {
	const events = 10_000
	for b.Loop() {
		New(WithPopulation(Population{Events: events, InMemory: true}))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/events, "ns/event")
}

func BenchmarkAppend(b *testing.B) {
	s := New()
	g := NewGenerator(Population{Events: 50_000_000})
	n := 0
	for b.Loop() {
		if err := s.Append(g.Event(n)); err != nil {
			b.Fatal(err)
		}
		n++
	}
}
