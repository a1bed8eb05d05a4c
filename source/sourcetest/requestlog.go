package sourcetest

import (
	"iter"
	"maps"
	"net/url"
	"slices"
	"sync"
	"time"
)

// Request is one request as the server saw it.
type Request struct {
	Time      time.Time // of arrival, by the server's clock
	Method    string
	Path      string
	RawQuery  string
	Status    int    // 0 while under way, and if none was sent
	Events    int    // how many events the answer held
	Fault     string // name of the fault that was applied; empty for none
	RequestID string // X-Request-Id of the answer
}

// Query returns the query's values.
func (r Request) Query() url.Values {
	v, _ := url.ParseQuery(r.RawQuery)
	return v
}

// Stats are totals since the server was made.
type Stats struct {
	Requests int
	ByStatus map[int]int // 0: cut off, hung or still under way
	Events   int64       // served, each time it was
	Bytes    int64       // of bodies
}

// requestLog is a ring of the latest requests beside totals.
type requestLog struct {
	mu    sync.Mutex
	ring  []Request
	size  int
	total int
	stats Stats
}

// begin notes a request and returns its number.
func (l *requestLog) begin(r Request) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ring) < l.size {
		l.ring = append(l.ring, r)
	} else if l.size > 0 {
		l.ring[l.total%l.size] = r
	}
	l.total++
	l.stats.ByStatus[0]++
	return l.total - 1
}

// end completes request n.
func (l *requestLog) end(n int, rep *reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	status := rep.status
	if rep.reset {
		status = 0
	}
	l.stats.ByStatus[0]--
	l.stats.ByStatus[status]++
	l.stats.Events += int64(rep.events)
	l.stats.Bytes += int64(rep.size())
	if n >= l.total-l.size {
		r := &l.ring[n%l.size]
		r.Status, r.Events, r.Fault = status, rep.events, rep.fault
	}
}

// Requests returns the latest requests in order of arrival, as many as WithLedger keeps.
func (s *Server) Requests() []Request {
	l := &s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total <= l.size || l.size <= 0 {
		return slices.Clone(l.ring)
	}
	at := l.total % l.size
	return slices.Concat(l.ring[at:], l.ring[:at])
}

// Count returns how many requests arrived.
func (s *Server) Count() int {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return s.ledger.total
}

// Stats returns totals.
func (s *Server) Stats() Stats {
	l := &s.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.stats
	out.Requests = l.total
	out.ByStatus = maps.Clone(l.stats.ByStatus)
	maps.DeleteFunc(out.ByStatus, func(_, n int) bool { return n == 0 })
	return out
}

// Filter chooses events held. The zero value chooses all.
type Filter struct {
	Types        []string // exact names; empty: all
	Organization string
	From, To     time.Time // From <= created_at < To; zero: open
}

// Len returns how many events are held.
func (s *Server) Len() int {
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	return s.store.len()
}

// Events yields the JSON of the events held, in the order of the list, also of those that
// hold-back, retention and Expire hide. The bytes must not be changed. Events appended meanwhile
// may or may not be yielded.
func (s *Server) Events(f Filter) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		s.each(f, func(n int) func() bool {
			raw := s.store.bytes(n)
			return func() bool { return yield(raw) }
		})
	}
}

// IDs returns the ids of the events held, in the order of the list.
func (s *Server) IDs(f Filter) []string {
	var ids []string
	s.each(f, func(n int) func() bool {
		ids = append(ids, s.store.id(n))
		return nil
	})
	return ids
}

// Raw returns the JSON of the event with the id. The bytes must not be changed.
func (s *Server) Raw(id string) ([]byte, bool) {
	s.store.mu.RLock()
	defer s.store.mu.RUnlock()
	n, ok := s.store.index(id)
	if !ok {
		return nil, false
	}
	return s.store.bytes(n), true
}

// each calls visit under the lock for each index that f chooses, and then what visit returned
// without the lock.
func (s *Server) each(f Filter, visit func(n int) func() bool) {
	st := s.store
	for n := 0; ; n++ {
		st.mu.RLock()
		var then func() bool
		done := n >= st.len()
		if !done && st.chosen(n, f) {
			then = visit(n)
		}
		st.mu.RUnlock()
		if done || then != nil && !then() {
			return
		}
	}
}

func (s *store) chosen(n int, f Filter) bool {
	typ, org := s.kind(n)
	if len(f.Types) > 0 && !slices.Contains(f.Types, s.types[typ]) {
		return false
	}
	if f.Organization != "" {
		if want, ok := s.orgIdx[f.Organization]; !ok || org != want {
			return false
		}
	}
	at := s.created(n)
	return (f.From.IsZero() || at >= f.From.UnixNano()) && (f.To.IsZero() || at < f.To.UnixNano())
}
