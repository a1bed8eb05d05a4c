package source

import (
	"context"
	"slices"
	"sync"
	"time"
)

// window is a backfill at work: the segments just ahead of the position. All of it belongs to the
// goroutine that runs the iterator; the requests run in separate goroutines, which hand their
// answers over by results.
type window struct {
	r       *reader
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	results chan result

	segs  []*segment          // in the order of the list, never empty; the first is the head
	seams map[string]*segment // those behind the head whose seam is known, by it
	asked []string            // the event types of every request
	room  *room               // memory for pages and responses under way
	ahead int                 // pages per segment

	inFlight int
	probes   int           // of those under way
	buffered int64         // cost of every page held
	pageCost int64         // what a page costs on average
	maxCost  int64         // what a page may cost, going by the latest
	took     time.Duration // by a request, on average
	allowed  float64       // requests that may be under way at once
	cut      time.Time     // when allowed was last cut

	proven     bool // a page that came by time was like the cursor's
	disordered bool // events were seen in another order than their times
	confirmed  int  // seams that were met and agreed
	futile     int  // looks for a seam in a row that brought none of use
	bad        int  // seams in a row that were not met
	unlike     int  // pages that came by time and were not the cursor's

	left   bool
	closed bool
	err    error // final

	joined, split, missed, dropped int // since the last report
}

func newWindow(ctx context.Context, r *reader) *window {
	w := &window{
		r: r, room: newRoom(r.memory()), seams: map[string]*segment{}, asked: r.types.active,
		results: make(chan result, r.s.Readers), allowed: float64(r.s.Readers),
	}
	w.ctx, w.cancel = context.WithCancel(ctx)
	w.segs = []*segment{{from: r.pos.CreatedAt, last: r.pos, perPage: r.perPage, limit: r.limit}}
	w.pageCost, w.maxCost = r.pageCost, r.pageCost
	w.ahead = segmentPages(r.s.Readers, w.room.ahead, w.pageCost)
	return w
}

// useful is how many readers at once the rate limit has use for, and a quarter more, since a
// request takes longer at times. The fewer they are, the longer segments may be, and each costs
// most of a page more than it yields.
func (w *window) useful() int {
	const least = 2
	if w.r.client.Limiter == nil {
		return w.r.s.Readers
	}
	n := float64(w.r.client.Limiter.Limit()) * (1.25 * w.took.Seconds()) // in this order: rate.Inf times 1.25 is beyond a float64
	return int(min(max(n+1, least), float64(w.r.s.Readers)))
}

// close ends what is under way, and waits for it.
func (w *window) close() {
	w.closed = true
	w.cancel()
	w.running.Wait()
	w.report()
}

// over moves on to the segment whose turn it is, and reports whether the plain cursor has to go on
// instead.
func (w *window) over() bool {
	if w.left || w.err != nil {
		return true
	}
	w.advance()
	head := w.segs[0]
	switch {
	case w.r.types.due(time.Now()) != "":
		w.leave("a refused event type is to be asked for again")
	case len(head.pages) > 0 || head.busy:
	case head.stuck:
		w.leave("a request was refused")
	case head.stopped, len(w.segs) == 1 && !w.canGrow():
		w.r.calm = 0
		w.leave("the tip is near")
	}
	return w.left
}

// advance makes the next segment the head if the head has ended and nothing of it is left.
func (w *window) advance() {
	for w.segs[0].ended && len(w.segs[0].pages) == 0 {
		w.segs[0] = nil
		w.segs = w.segs[1:]
		delete(w.seams, w.segs[0].first)
	}
}

// take returns the next page to yield, if it is there.
func (w *window) take() (segmentPage, bool) {
	head := w.segs[0]
	if len(head.pages) == 0 {
		return segmentPage{}, false
	}
	p := head.pages[0]
	head.pages[0] = segmentPage{}
	head.pages = head.pages[1:]
	w.release(head, p)
	w.room.yields(p.cost)
	return p, true
}

// schedule starts what may be under way at now: the segments' next pages, the nearest first, then
// looks for new seams.
func (w *window) schedule(now time.Time) {
	if w.left || now.Before(w.r.quietUntil()) || len(w.segs) == 1 && !w.canGrow() {
		return
	}
	var claimed int64 // by the segments before
	for i, s := range w.segs {
		if w.inFlight >= int(w.allowed) {
			return
		}
		if s.open() && !s.busy && !now.Before(s.notBefore) && (i == 0 && len(s.pages) == 0 || w.fits(claimed+s.bytes)) {
			w.request(s)
		}
		claimed += w.claim(i)
	}
	for w.inFlight < int(w.allowed) {
		if !w.grow() {
			return
		}
	}
}

// fits reports whether there is memory for another page of a segment, if that segment and those
// before it have a claim to so many bytes already.
func (w *window) fits(claimed int64) bool {
	// P12: no request without room for the largest page that it may bring.
	return w.room.fits(w.maxCost) && claimed+w.maxCost <= w.room.ahead
}

// end is when segment i ends: where the seam after it was looked for, or the horizon.
func (w *window) end(i int) time.Time {
	if i+1 < len(w.segs) {
		return w.segs[i+1].from
	}
	return w.r.horizon()
}

// index is where s is in the window.
func (w *window) index(s *segment) int { return slices.Index(w.segs, s) }

// remove drops a segment behind the head; the one before it reads on across its seam.
func (w *window) remove(s *segment) {
	i := w.index(s)
	w.segs = slices.Delete(w.segs, i, i+1)
	if w.seams[s.first] == s {
		delete(w.seams, s.first)
	}
	s.gone = true
	w.segs[i-1].bound = time.Time{}
	w.count(-s.bytes)
	s.bytes, s.pages, s.tail = 0, nil, nil
}

// keep counts a page as held by a segment.
func (w *window) keep(s *segment, p segmentPage) {
	s.bytes += p.cost
	w.count(p.cost)
}

// release undoes keep.
func (w *window) release(s *segment, p segmentPage) {
	s.bytes -= p.cost
	w.count(-p.cost)
}

// count adds to the bytes that are held.
func (w *window) count(bytes int64) {
	w.buffered += bytes
	w.room.add(bytes)
}

// wait sleeps until an answer comes or a pause is over. now is when schedule last looked: a pause
// that has ended since then is over.
func (w *window) wait(now time.Time) {
	var pause <-chan time.Time
	if at := w.nextStart(now); !at.IsZero() {
		t := time.NewTimer(time.Until(at))
		defer t.Stop()
		pause = t.C
	}
	select {
	case res := <-w.results:
		w.handle(res)
	case <-pause:
	case <-w.ctx.Done():
	}
}

// nextStart is when a segment that pauses at now may go on; zero if none does.
func (w *window) nextStart(now time.Time) (at time.Time) {
	quiet := w.r.quietUntil()
	for _, s := range w.segs {
		next := s.notBefore
		if next.Before(quiet) {
			next = quiet
		}
		if s.open() && !s.busy && next.After(now) && (at.IsZero() || next.Before(at)) {
			at = next
		}
	}
	return at
}

// receive handles the answers that have come.
func (w *window) receive() {
	for {
		select {
		case res := <-w.results:
			w.handle(res)
		default:
			return
		}
	}
}
