package source

import (
	"iter"
	"time"

	"workos-relay/checkpoint"
)

// segment is a stretch of the list, from its seam to the next segment's.
type segment struct {
	from  time.Time // its events are not older; of a seam that is still looked for, the time asked for
	first string    // the seam: the id of its first event; empty of the first head, and while it is looked for
	at    time.Time // of that event
	void  time.Time // where its seam was looked for first, and there was nothing up to from; zero if there was something
	bound time.Time // its events are older, since what follows was void; zero if that is not known

	pages    []segmentPage // read and not yielded, in order
	bytes    int64         // what they cost
	last     checkpoint.Position
	perPage  time.Duration // what a page spans, as measured here
	probeLen int           // events in the page that came by time, from the seam on
	whole    int           // how many were left out before the seam so that nothing can be missing after it; 0 if something may be
	limit    int           // events per request
	good     int           // pages since limit was changed

	probing bool // the seam is still looked for
	busy    bool // a request is under way
	ended   bool // it met the next segment's seam
	stopped bool // nothing followed, or it reached the horizon
	stuck   bool // the API blames its request; when its turn comes, the plain cursor finds out why
	gone    bool // no longer in the window: an answer that still comes is of no use

	tail []segmentPage // from the page in which it met the next seam, until that is confirmed

	attempts  int       // failures in a row
	notBefore time.Time // of the next request
}

// segmentPage is a page, or the part of one that belongs to a segment.
type segmentPage struct {
	events    []Event
	size      int   // bytes of the response
	cost      int64 // bytes that it keeps in memory
	short     bool  // fewer events than asked for
	requestID string
	sent      time.Time
	took      time.Duration
	request   *RequestInfo
}

// eventCost is what an event takes beside its page's bytes: the struct and its id.
const eventCost = 144

// pageCost is what the page takes of Go's heap, whose objects beyond 32 KiB are made of whole pages
// of 8 KiB: of a body of a hundred small events that is some five percent more than its bytes.
func pageCost(events []Event, size int) int64 {
	const large, heapPage = 32 << 10, 8 << 10
	if size > large {
		size = (size + heapPage - 1) &^ (heapPage - 1)
	}
	return int64(size) + int64(len(events))*eventCost
}

func newSegmentPage(a answer, opts ListEventsOpts) segmentPage {
	return segmentPage{
		events: a.Data, size: a.held, cost: pageCost(a.Data, a.held), short: !a.full(opts),
		requestID: a.RequestID, sent: a.sent, took: a.took, request: a.request,
	}
}

// segmentPages is the number of pages that a segment is made for: so many readers together fill
// half of the memory, and the other half is for those that turn out larger.
func segmentPages(readers int, memory, page int64) int {
	const most = 1000
	n := memory / (2 * int64(readers)) / max(page, 1)
	return int(min(max(n, minSegmentPages), most))
}

// pagesIn estimates the number of pages within d if one spans per. Events of one instant count as
// one millisecond, the least that a query can tell apart.
func pagesIn(d, per time.Duration) int {
	const most = 1 << 20
	if d <= 0 {
		return 0
	}
	return int(min(d/max(per, time.Millisecond), most))
}

// append adds a page to what is to be yielded.
func (s *segment) append(p segmentPage) {
	if n := len(p.events); n > 0 {
		s.last = p.events[n-1].Position()
		s.pages = append(s.pages, p)
	}
}

// measure takes note of what a page spans that begins at since.
func (s *segment) measure(p segmentPage, since time.Time) {
	n := len(p.events)
	if n == 0 || p.short {
		return
	}
	span := max(p.events[n-1].CreatedAt.Sub(since), 0)
	s.perPage = (s.perPage + span) / 2
}

// cursor is the event that its next request follows.
func (s *segment) cursor() checkpoint.Position {
	held := s.tail
	if len(held) == 0 {
		held = s.pages
	}
	if len(held) == 0 {
		return s.last
	}
	events := held[len(held)-1].events
	return events[len(events)-1].Position()
}

// held yields the events that it holds, in order.
func (s *segment) held() iter.Seq[*Event] {
	return func(yield func(*Event) bool) {
		for _, pages := range [][]segmentPage{s.pages, s.tail} {
			for _, p := range pages {
				for i := range p.events {
					if !yield(&p.events[i]) {
						return
					}
				}
			}
		}
	}
}

// reached is how far its reader has come.
func (s *segment) reached() time.Time {
	if s.probing {
		return s.from
	}
	return s.last.CreatedAt
}

// hasMore reports whether its reader has more to do.
func (s *segment) hasMore() bool { return !s.ended && !s.stopped && !s.stuck }

// left estimates the pages that it has yet to read, if what follows begins at end.
func (s *segment) left(end time.Time) int {
	if !s.hasMore() {
		return 0
	}
	if !s.bound.IsZero() && s.bound.Before(end) {
		end = s.bound
	}
	return pagesIn(end.Sub(s.reached()), s.perPage)
}

// timeOf estimates the time at which its reader will have read n pages more, as precise as a query
// can ask.
func (s *segment) timeOf(n int) time.Time {
	return s.reached().Add(time.Duration(n) * max(s.perPage, time.Millisecond)).Truncate(time.Millisecond)
}

// widen takes note of a page, and asks for more events per request, most at most, once enough pages
// were good.
func (s *segment) widen(most int) {
	if s.limit >= most {
		return
	}
	if s.good++; s.good >= growAfter {
		s.good, s.limit = 0, min(2*s.limit, most)
	}
}

// suspicious says why the events of a page do not follow the segment's cursor; empty if they do.
func (s *segment) suspicious(p *segmentPage) string {
	events := p.events
	if len(events) == 0 {
		return ""
	}
	if descends(events, !p.short) {
		return "a page descends"
	}
	after := s.cursor()
	if after.CreatedAt.Sub(events[0].CreatedAt) > maxStepBack {
		return "a page begins long before the event that it follows"
	}
	return ""
}

// withoutRepeated returns events without those that the segment's reader has read before, and
// without those that stand in them twice. yielded are the ids of what it holds no more.
func (s *segment) withoutRepeated(events []Event, yielded *recentIDs) []Event {
	after := s.cursor()
	known := make(map[string]struct{}, MaxLimit)
	known[after.EventID] = struct{}{}
	for _, pages := range [][]segmentPage{s.tail, s.pages} {
		for i := len(pages) - 1; i >= 0 && len(known) < MaxLimit; i-- { // pages overlap by less than a page
			for j := range pages[i].events {
				known[pages[i].events[j].ID] = struct{}{}
			}
		}
	}
	events, _ = withoutRepeated(events, func(_ int, e *Event) bool {
		_, ok := known[e.ID]
		return ok || yielded.has(e.ID)
	})
	return events
}

// disordered reports whether events stand in another order than their times.
func disordered(events []Event) bool {
	for i := 1; i < len(events); i++ {
		if events[i].CreatedAt.Before(events[i-1].CreatedAt) {
			return true
		}
	}
	return false
}
