package source

import (
	"context"
	"time"
)

// window is a backfill at work. It decides which request is made next, takes in the answers, and
// hands on the pages of the head. All of it belongs to the goroutine that runs the iterator; only
// the requests run in separate goroutines.
//
// Each of its jobs has a type:
//
//   - chain holds the segments in the order of the list, with their pages.
//   - plan says how long a segment is to be, where the next one begins, and what fits into memory.
//   - joiner finds the seams, and joins a segment to the next one.
//   - requests are the requests under way.
//   - retreat gives way to the plain cursor.
type window struct {
	r        *reader
	chain    *chain
	plan     *plan
	joiner   *joiner
	requests *requests
	retreat  *retreat

	asked  []string // the event types of every request
	split  int      // segments divided since the last report
	closed bool
}

func newWindow(ctx context.Context, r *reader) *window {
	room := newRoom(r.memory())
	head := &segment{from: r.pos.CreatedAt, last: r.pos, perPage: r.perPage, limit: r.limit}
	c := newChain(head, room, r.horizon)
	back := &retreat{r: r, chain: c}
	return &window{
		r: r, chain: c, plan: newPlan(c, room, r), joiner: &joiner{chain: c, retreat: back}, requests: newRequests(ctx, r), retreat: back,
		asked: r.types.active,
	}
}

// close ends what is under way, and waits for it.
func (w *window) close() {
	w.closed = true
	w.requests.close()
	w.report()
}

// over moves on to the segment whose turn it is, and reports whether the plain cursor has to go on
// instead.
func (w *window) over() bool {
	if w.retreat.left || w.retreat.err != nil {
		return true
	}
	w.chain.advance()
	head := w.chain.head()
	switch {
	case w.r.types.due(time.Now()) != "":
		w.retreat.endBackfill("a refused event type is to be asked for again")
	case len(head.pages) > 0 || head.busy:
	case head.stuck:
		w.retreat.endBackfill("a request was refused")
	case head.stopped, len(w.chain.segs) == 1 && !w.plan.canGrow():
		w.r.contradictions = 0
		w.retreat.endBackfill("the tip is near")
	}
	return w.retreat.left
}

// schedule starts what may be under way at now: the segments' next pages, the nearest first, then
// looks for new seams.
func (w *window) schedule(now time.Time) {
	if w.retreat.left || now.Before(w.r.quietUntil()) || len(w.chain.segs) == 1 && !w.plan.canGrow() {
		return
	}
	var claimed int64 // by the segments before
	for i, s := range w.chain.segs {
		if w.requests.full() {
			return
		}
		if s.hasMore() && !s.busy && !now.Before(s.notBefore) && (i == 0 && len(s.pages) == 0 || w.plan.fits(claimed+s.bytes)) {
			w.request(s)
		}
		claimed += w.plan.claim(i)
	}
	for !w.requests.full() {
		if !w.grow() {
			return
		}
	}
}

// grow starts to look for a new seam, and reports whether there was a place and room for one.
func (w *window) grow() bool {
	most := max(w.r.s.Readers/4, 1)
	if !w.joiner.proven {
		most = 1
	}
	if w.requests.probes >= most || len(w.chain.segs) >= maxSegmentsPerReader*w.r.s.Readers {
		return false
	}
	g, ok := w.plan.gap()
	if !ok || !w.plan.fits(0) {
		return false
	}
	s := &segment{from: g.at, perPage: w.chain.segs[g.after].perPage, limit: w.r.limit, probing: true}
	w.chain.insert(g.after+1, s)
	if g.split {
		w.split++
	}
	w.request(s)
	return true
}

// request starts the next request of a segment.
func (w *window) request(s *segment) {
	head := s == w.chain.head()
	res := result{seg: s, probe: s.probing, grant: w.plan.grant(head), head: head, count: w.r.countOverfull(), started: time.Now(), opts: ListEventsOpts{
		Events: w.asked, Limit: s.limit, Order: w.r.plain.order(), OrganizationId: w.r.s.OrganizationID,
	}}
	if s.probing {
		res.end = s.from.Add(maxRange)
		if h := w.r.horizon(); res.end.After(h) {
			res.end = h.Truncate(time.Millisecond) // as it is written
		}
		res.opts.RangeStart, res.opts.RangeEnd = w.r.plain.time(s.from), w.r.plain.time(res.end)
	} else {
		res.opts.After = s.cursor().EventID
	}
	s.busy = true
	w.requests.start(res)
}

// wait sleeps until an answer comes or a pause is over. now is when schedule last looked: a pause
// that has ended since then is over.
func (w *window) wait(now time.Time) {
	if res, ok := w.requests.await(w.chain.nextStart(now, w.r.quietUntil())); ok {
		w.handle(res)
	}
}

// receive handles the answers that have come.
func (w *window) receive() {
	for res, ok := w.requests.poll(); ok; res, ok = w.requests.poll() {
		w.handle(res)
	}
}

// report tells the hook how things stand.
func (w *window) report() {
	j := w.joiner
	info := BackfillInfo{Active: !w.closed, Joined: j.joined, Split: w.split, Missed: j.missed, Dropped: j.dropped + w.retreat.dropped}
	w.split, j.joined, j.missed, j.dropped, w.retreat.dropped = 0, 0, 0, 0, 0
	if info.Active {
		info.Readers, info.Allowed = w.requests.inFlight, int(w.requests.allowed)
		info.Segments, info.Buffered = len(w.chain.segs), w.chain.held
	}
	call(w.r.hooks.OnBackfill, info)
}
