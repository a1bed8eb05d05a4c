package source

import (
	"errors"
	"time"

	"go.uber.org/zap"
)

// handle takes an answer in.
func (w *window) handle(res result) {
	s, r := res.seg, w.r
	w.requests.ended(res)
	s.busy = false
	r.sent(res.a, res.waited, s.attempts)
	if w.retreat.left || w.requests.stopped() {
		return
	}
	if res.err != nil {
		w.fail(res)
		return
	}
	r.setClock(res.a)
	w.requests.worked()
	if s.attempts = 0; r.failures.count > 0 && !w.chain.failing() {
		r.recovered()
	}
	if s.gone {
		return
	}
	p := newSegmentPage(res.a, res.opts)
	w.plan.learn(p)
	s.widen(r.maxLimit)
	if s != w.chain.head() && !w.plan.room.fits(p.cost) {
		if res.probe {
			w.chain.remove(s)
		}
		return // larger than was to be expected; it is asked for again when there is room
	}
	if !w.leaveOutRepeated(s, &p, res.probe) {
		w.retreat.contradiction("a page brought nothing new", nil)
		return
	}
	w.joiner.noteOrder(p.events)
	if res.probe {
		w.joiner.found(s, p, res.end)
		return
	}
	if why := s.suspicious(&p); why != "" {
		w.retreat.contradiction(why, nil)
		return
	}
	w.chain.keep(s, p)
	w.joiner.read(s, p)
}

// leaveOutRepeated removes from a page what was read before. It reports false if nothing is left of
// a full page. Of a page that came by time only what stands in it twice is removed; joiner.found
// decides about the rest.
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

// fail decides what becomes of a request that failed.
func (w *window) fail(res result) {
	s, r := res.seg, w.r
	reason := retryReason(res.err)
	switch {
	case blamesEvents(res.err):
		w.retreat.endBackfill("an event type may be refused") // the plain cursor finds out which
	case isNoRoom(res.err):
		w.noRoom(res)
	case s.gone && reason == "":
	case errors.Is(res.err, ErrTooLarge):
		w.tooLarge(res)
	case isClientFault(res.err) && !isForeign(res.err):
		w.blamed(res)
	case reason == "":
		w.retreat.err = res.err
	default:
		if isSlow(res.err) {
			s.limit, s.good = max(res.opts.Limit/2, 1), 0
		}
		s.attempts++
		wait := r.failed(res.err, reason, s.attempts)
		s.notBefore = time.Now().Add(wait)
		w.requests.hold(res, reason)
	}
}

// blamed takes in an answer that blames the request. A passing one is not a reason to lose what was
// read ahead, or to give up ranges that have proved right. If it comes again, ranges are not
// supported; for another request the plain cursor finds the cause.
func (w *window) blamed(res result) {
	s := res.seg
	s.attempts++
	switch {
	case s.attempts == 1 && (w.joiner.proven || !res.probe):
		s.notBefore = time.Now().Add(retryFirst)
	case res.probe:
		w.retreat.unsupported("it refuses a range of time", res.err)
	default:
		s.stuck = true
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
		w.chain.remove(s)
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
	w.plan.expect(e.need)
	switch {
	case s.gone:
	case s == w.chain.head() && res.head && len(s.pages) == 0:
		w.retreat.endBackfill("a page is larger than the memory that is left")
	case s.probing:
		w.chain.remove(s)
	}
}
