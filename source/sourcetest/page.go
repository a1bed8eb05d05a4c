package sourcetest

import (
	"bytes"
	"net/http"
	"slices"
	"sync"
	"time"
)

// LostCursor is what the server does with an `after` that it does not know: never issued, expired,
// or forgotten. No document settles it.
type LostCursor uint8

// Each of these has been seen in, or is suspected of, a server or an emulator.
const (
	LostBadRequest    LostCursor = iota // 400 {message, code}
	LostNotFound                        // 404 {message, code}
	LostUnprocessable                   // 422 {message, errors}
	LostReplay                          // ignored: the list is served from its start
	LostEmpty                           // 200 and an empty page
)

// page is a selection of events: indices in the order to serve.
type page struct {
	idx  []int
	more bool // the list goes on behind the page
}

// selectPage finds the events that a query asks for. It expects store.mu to be held.
func (s *Server) selectPage(q query, now time.Time) (page, *apiError) {
	st := s.store
	lo, hi := st.floor, st.len()
	if s.cfg.retention > 0 {
		lo = max(lo, st.from(now.Add(-s.cfg.retention).UnixNano()))
	}
	if s.cfg.holdBack > 0 && !q.desc {
		hi = st.from(now.Add(-s.cfg.holdBack).UnixNano() + 1)
	}
	sc := scan{st: st, q: &q, start: minTime, end: maxTime}
	sc.all = st.allTypes()
	sc.anyType = q.types.covers(&sc.all)
	if q.org != "" {
		sc.org = st.orgIdx[q.org]
	}
	cursor := q.after + q.before
	back := q.before != ""
	if cursor != "" {
		n, ok := s.cursor(cursor, q, lo)
		switch {
		case ok && q.inclusive: // a replayed page ends with the cursor
			hi, back = min(hi, n+1), true
		case ok && back == q.desc:
			lo = max(lo, n+1-q.overlap)
		case ok:
			hi = min(hi, n)
		case s.cfg.lostCursor == LostEmpty:
			return page{}, nil
		case s.cfg.lostCursor == LostReplay:
			back = false
		default:
			return page{}, lostCursorError(s.cfg.lostCursor, cursor)
		}
	}
	sc.bounds(s.cfg.startExclusive, s.cfg.endExclusive)
	if st.ordered {
		lo, hi = max(lo, st.from(sc.start)), min(hi, st.from(sc.end))
	}
	if q.desc != back {
		sc.down(lo, hi)
	} else {
		sc.up(lo, hi)
	}
	p := page{idx: sc.found, more: back || len(sc.found) > q.limit}
	p.idx = p.idx[:min(len(p.idx), q.limit)]
	if back {
		slices.Reverse(p.idx)
	}
	return p, nil
}

// cursor finds the event of an id that a request may still go on from.
func (s *Server) cursor(id string, q query, lo int) (int, bool) {
	n, ok := s.store.index(id)
	if !ok || n < lo {
		return 0, false
	}
	if s.cfg.typedCursors {
		if typ, _ := s.store.kind(n); !q.types.has(typ) {
			return 0, false
		}
	}
	return n, true
}

func lostCursorError(how LostCursor, id string) *apiError {
	message := "Could not find event '" + id + "'."
	switch how {
	case LostNotFound:
		return &apiError{status: http.StatusNotFound, body: errorBody("entity_not_found", message)}
	case LostUnprocessable:
		return unprocessable("after", "invalid_cursor", message)
	default:
		return badRequest("invalid_cursor", message)
	}
}

const (
	minTime = -1 << 63
	maxTime = 1<<63 - 1
)

// scan collects up to limit+1 matching indices.
type scan struct {
	st      *store
	q       *query
	all     typeSet
	anyType bool   // every type there is is asked for
	org     uint32 // 0: any
	start   int64  // Unix nanoseconds, inclusive
	end     int64  // exclusive
	found   []int
}

func (s *scan) bounds(startExclusive, endExclusive bool) {
	if !s.q.start.IsZero() {
		s.start = s.q.start.UnixNano()
		if startExclusive {
			s.start++
		}
	}
	if !s.q.end.IsZero() {
		s.end = s.q.end.UnixNano()
		if !endExclusive {
			s.end++
		}
	}
	s.found = make([]int, 0, s.q.limit+1)
}

func (s *scan) full() bool { return len(s.found) > s.q.limit }

func (s *scan) match(n int) bool {
	if !s.anyType || s.org != 0 {
		typ, org := s.st.kind(n)
		if !s.q.types.has(typ) || s.org != 0 && org != s.org {
			return false
		}
	}
	if s.st.ordered {
		return true
	}
	at := s.st.created(n)
	return at >= s.start && at < s.end
}

// skips reports whether nothing in the chunk of n can match, and the indices it spans.
func (s *scan) skips(n int) (skip bool, from, to int) {
	if s.anyType && s.org == 0 {
		return false, 0, s.st.len()
	}
	c, from, to := s.st.chunkOf(n)
	return !c.types.meets(&s.q.types) || s.org != 0 && c.orgs&(1<<(s.org%64)) == 0, from, to
}

func (s *scan) up(lo, hi int) {
	for n := lo; n < hi; {
		skip, _, to := s.skips(n)
		if skip {
			n = to
			continue
		}
		for ; n < min(to, hi); n++ {
			if s.match(n) {
				if s.found = append(s.found, n); s.full() {
					return
				}
			}
		}
	}
}

func (s *scan) down(lo, hi int) {
	for n := hi - 1; n >= lo; {
		skip, from, _ := s.skips(n)
		if skip {
			n = from - 1
			continue
		}
		for ; n >= max(from, lo); n-- {
			if s.match(n) {
				if s.found = append(s.found, n); s.full() {
					return
				}
			}
		}
	}
}

// scratches are for rendering generated events, whose size is known only afterwards.
var scratches = sync.Pool{New: func() any { return new([]byte) }}

// render writes the response body of a page. Appended events are not copied: the body points into
// the slabs, adjacent events in one piece. It expects store.mu to be held; the body stays valid
// after.
func (s *Server) render(p page) [][]byte {
	st := s.store
	body := [][]byte{[]byte(`{"object":"list","data":[`)}
	var r renderer
	flush := func() {
		if len(r.b) > 0 {
			body = append(body, bytes.Clone(r.b))
			r.b = r.b[:0]
		}
	}
	prev := -2 // index of the last event where its bytes end the last piece
	for i, n := range p.idx {
		if n < st.genLen {
			if r.g == nil {
				scratch := scratches.Get().(*[]byte)
				defer func() { *scratch = r.b[:0]; scratches.Put(scratch) }()
				r = renderer{g: st.gen, b: *scratch}
			}
			if i > 0 {
				r.b = append(r.b, ',')
			}
			r.event(n, n, st.gen.tl.ms(n))
			continue
		}
		flush()
		e := &st.log[n-st.genLen]
		if prev == n-1 && st.log[prev-st.genLen].slab == e.slab {
			last := &body[len(body)-1]
			*last = (*last)[:len(*last)+1+int(e.size)]
		} else {
			if i > 0 {
				body = append(body, []byte{','})
			}
			body = append(body, st.slabs[e.slab][e.off:e.off+e.size])
		}
		prev = n
	}
	flush()
	end := []byte(`],"list_metadata":{"before":null,"after":null}}`)
	if p.more && len(p.idx) > 0 {
		end = []byte(`],"list_metadata":{"before":null,"after":"` + st.id(p.idx[len(p.idx)-1]) + `"}}`)
	}
	return append(body, end)
}
