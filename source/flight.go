package source

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"workos-relay/internal/contain"
	"workos-relay/internal/retry"
)

// result is what came of one request of a window.
type result struct {
	seg     *segment
	probe   bool
	opts    ListEventsOpts
	end     time.Time // of the range of a probe
	grant   *grant
	head    bool // the segment was the head when the request was made
	count   bool // for reading.count
	started time.Time
	waited  time.Duration // for the client's limiter
	a       answer
	err     error
}

// request starts the next request of a segment.
func (w *window) request(s *segment) {
	head := s == w.segs[0]
	res := result{seg: s, probe: s.probing, grant: w.room.grant(w.maxCost, head), head: head, count: w.r.countOverfull(), started: time.Now(), opts: ListEventsOpts{
		Events: w.asked, Limit: s.limit, Order: w.r.plain.order(), OrganizationId: w.r.s.OrganizationID,
	}}
	if s.probing {
		res.end = s.from.Add(maxRange)
		if h := w.r.horizon(); res.end.After(h) {
			res.end = h.Truncate(time.Millisecond) // as it is written
		}
		res.opts.RangeStart, res.opts.RangeEnd = w.r.plain.time(s.from), w.r.plain.time(res.end)
		w.probes++
	} else {
		after := s.cursor()
		res.opts.After = after.EventID
	}
	s.busy = true
	w.inFlight++
	w.running.Go(func() {
		res.waited, res.err = w.r.client.wait(w.ctx)
		if res.err == nil {
			res.err = w.waitUntilQuiet(w.ctx)
		}
		if res.err == nil {
			res.err = contain.Do(func() (err error) {
				res.a, err = w.r.client.fetchAs(w.ctx, res.opts, reading{room: res.grant.grow, count: res.count})
				return err
			})
		}
		w.results <- res // has room for every request under way
	})
}

// waitUntilQuiet waits while the API has asked for no more requests; it may have done so while this
// one waited for its turn.
func (w *window) waitUntilQuiet(ctx context.Context) error {
	for {
		d := time.Until(w.r.quietUntil())
		if err := retry.Sleep(ctx, d); err != nil || d <= 0 {
			return err
		}
	}
}

// handle takes an answer in.
func (w *window) handle(res result) {
	s, r := res.seg, w.r
	w.inFlight--
	res.grant.end()
	s.busy = false
	if res.probe {
		w.probes--
	}
	r.sent(res.a, res.waited)
	if w.left || w.ctx.Err() != nil {
		return
	}
	if res.err != nil {
		w.fail(res)
		return
	}
	r.answered(res.a)
	w.allowed = min(w.allowed+1/w.allowed, float64(r.s.Readers))
	if s.attempts = 0; r.failures.count > 0 && !w.failing() {
		r.recovered()
	}
	if s.gone {
		return
	}
	p := newSegmentPage(res.a, res.opts)
	if !p.short {
		w.pageCost = (7*w.pageCost + p.cost) / 8
		if w.took == 0 {
			w.took = res.a.took
		}
		w.took = (7*w.took + res.a.took) / 8
		w.ahead = segmentPages(w.useful(), w.room.ahead, w.pageCost)
	}
	w.maxCost = max(w.maxCost-w.maxCost/64, p.cost)
	if s.limit < r.maxLimit {
		if s.good++; s.good >= growAfter {
			s.good, s.limit = 0, min(2*s.limit, r.maxLimit)
		}
	}
	if s != w.segs[0] && !w.room.fits(p.cost) {
		if res.probe {
			w.remove(s)
		}
		return // larger than was to be expected; it is asked for again when there is room
	}
	if !w.leaveOutRepeated(s, &p, res.probe) {
		w.contradiction("a page brought nothing new", nil)
		return
	}
	if w.disordered = w.disordered || disordered(p.events); res.probe {
		w.found(s, p, res)
		return
	}
	if why := s.suspicious(p.events); why != "" {
		w.contradiction(why, nil)
		return
	}
	w.keep(s, p)
	w.read(s, p)
}

// leaveOutRepeated removes from a page what was read before. It reports false if nothing is left of
// a full page. Of a page that came by time only what stands in it twice is removed; found judges
// the rest.
func (w *window) leaveOutRepeated(s *segment, p *segmentPage, probe bool) bool {
	first, before := firstPosition(p.events), len(p.events)
	if probe {
		p.events, _ = withoutRepeated(p.events, func(int, *Event) bool { return false })
	} else {
		p.events = s.withoutRepeated(p.events, w.r.seen)
	}
	if dropped := before - len(p.events); dropped > 0 {
		w.r.repeated(dropped, first)
	}
	return len(p.events) > 0 || p.short
}

// failing reports whether a request is being repeated.
func (w *window) failing() bool {
	for _, s := range w.segs {
		if s.attempts > 0 {
			return true
		}
	}
	return false
}

// fail decides what becomes of a request that failed.
func (w *window) fail(res result) {
	s, r := res.seg, w.r
	reason := retryReason(res.err)
	switch {
	case blamesEvents(res.err):
		w.leave("an event type may be refused") // the plain cursor finds out which
	case isNoRoom(res.err):
		w.noRoom(res)
	case s.gone && reason == "":
	case errors.Is(res.err, ErrTooLarge):
		w.tooLarge(res)
	case isClientFault(res.err) && !isForeign(res.err):
		w.blamed(res)
	case reason == "":
		w.err = res.err
	default:
		if isSlow(res.err) {
			s.limit, s.good = max(res.opts.Limit/2, 1), 0
		}
		s.attempts++
		wait := r.failed(res.err, reason, s.attempts)
		s.notBefore = time.Now().Add(wait)
		w.hold(res, reason)
	}
}

// blamed takes in an answer that blames the request. A passing one is not a reason to lose what was
// read ahead, or to give up ranges that have proved right. If it comes again, ranges are not
// supported; for another request the plain cursor finds the cause.
func (w *window) blamed(res result) {
	s := res.seg
	s.attempts++
	switch {
	case s.attempts == 1 && (w.proven || !res.probe):
		s.notBefore = time.Now().Add(retryFirst)
	case res.probe:
		w.unsupported("it refuses a range of time", res.err)
	default:
		s.stuck = true
	}
}

// hold keeps all readers back if a failure is about the key or the load, not about one request.
func (w *window) hold(res result, reason RetryReason) {
	if reason == RetryRateLimited && !res.started.Before(w.cut) {
		w.cut = time.Now()
		w.allowed = max(w.allowed/2, 2) // one for the head, and one that looks ahead
	}
	if retryAfterOf(res.err) > 0 || reason == RetryRateLimited || isSlowReason(reason) {
		if until := res.seg.notBefore; until.After(w.r.quietUntil()) {
			w.r.quiet.Store(&until)
		}
	}
}

// tooLarge asks for fewer events at a time. If one alone is too large, the plain cursor says so
// when its turn comes.
func (w *window) tooLarge(res result) {
	s := res.seg
	switch {
	case s.gone:
		return
	case res.opts.Limit <= 1 && s.probing:
		w.remove(s)
		return
	case res.opts.Limit <= 1:
		s.stuck = true
		return
	}
	s.limit, s.good = res.opts.Limit/2, 0
	w.r.log.Warn("a response was larger than permitted; asking for fewer events at a time",
		zap.Int("limit", s.limit), zap.Stringer("after", s.last), zap.Error(res.err))
}

// noRoom takes in that there was no memory for a response. Behind the head it is asked for again
// once there is room. The head goes first: everything else is given up for it, since what is held
// cannot flow out before it.
func (w *window) noRoom(res result) {
	s := res.seg
	var e *noRoomError
	errors.As(res.err, &e)
	w.maxCost = max(w.maxCost, e.need)
	switch {
	case s.gone:
	case s == w.segs[0] && res.head && len(s.pages) == 0:
		w.leave("a page is larger than the memory that is left")
	case s.probing:
		w.remove(s)
	}
}
