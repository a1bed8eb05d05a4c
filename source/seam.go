package source

import (
	"iter"
	"slices"
	"time"
)

const (
	// minOverlap is the least number of events by which a page that came by time is checked against
	// the cursor's.
	minOverlap = 10
	// fullChecks is how many pages that came by time are checked wholly at the start of a backfill.
	fullChecks = 2
	// maxBad is how many seams in a row may fail before ranges count as unsupported.
	maxBad = 3
	// maxFutile is how many looks for a seam in a row may bring none, which silent stretches and
	// wrong guesses explain only so far.
	maxFutile = 20
	// maxSegmentsPerReader bounds the segments of a window, which all but the readers' are held
	// whole.
	maxSegmentsPerReader = 8
)

// gap is a place for a new seam.
type gap struct {
	after int // index of the segment that it divides, or that it follows
	at    time.Time
	split bool
}

// canGrow reports whether there is a place for a new seam behind the head.
func (w *window) canGrow() bool {
	_, ok := w.gap()
	return ok
}

// grow starts to look for a new seam, and reports whether there was a place and room for one.
func (w *window) grow() bool {
	most := max(w.r.s.Readers/4, 1)
	if !w.proven {
		most = 1
	}
	if w.probes >= most || len(w.segs) >= maxSegmentsPerReader*w.r.s.Readers {
		return false
	}
	g, ok := w.gap()
	if !ok || !w.fits(0) {
		return false
	}
	prev := w.segs[g.after]
	s := &segment{from: g.at, perPage: prev.perPage, limit: w.r.limit, probing: true}
	w.segs = slices.Insert(w.segs, g.after+1, s)
	if g.split {
		w.split++
	}
	w.request(s)
	return true
}

// gap returns the nearest place where a segment has far more to read than it was made for, or the
// one ahead of the last segment, if what the segments before it are going to hold leaves memory for
// another.
func (w *window) gap() (gap, bool) {
	var claimed int64
	segment := int64(w.ahead) * w.pageCost
	for i, s := range w.segs {
		last := i == len(w.segs)-1
		if claimed+s.bytes+segment > w.room.ahead {
			return gap{}, false
		}
		n := w.ahead
		left := s.left(w.end(i))
		if last {
			n = max(min(n, left/4), minSegmentPages) // so that the readers finish together at the horizon
		}
		if s.open() && len(s.tail) == 0 && (last || !s.probing) && left > n+n/2 {
			at := s.reached().Add(time.Duration(n) * max(s.perPage, time.Millisecond)).Truncate(time.Millisecond)
			return gap{after: i, at: at, split: !last}, true
		}
		claimed += w.claim(i)
	}
	return w.lastGap()
}

// lastGap returns a place for a new seam if no segment is longer than it was made for: in the
// middle of the one that has most left, so that readers which have nothing more to do share what
// remains.
func (w *window) lastGap() (gap, bool) {
	most, at := 2*minSegmentPages, -1
	for i, s := range w.segs {
		if left := s.left(w.end(i)); left > most && len(s.tail) == 0 && !s.probing {
			most, at = left, i
		}
	}
	if at < 0 {
		return gap{}, false
	}
	s := w.segs[at]
	middle := s.reached().Add(time.Duration(most/2) * max(s.perPage, time.Millisecond)).Truncate(time.Millisecond)
	return gap{after: at, at: middle, split: at+1 < len(w.segs)}, true
}

// claim is what segment i is going to hold in memory, as far as that can be told. The head flows
// out, but keeps room to be divided if it is long, or it would be read by one reader alone; and the
// last segment ends where the next seam is going to be set.
func (w *window) claim(i int) int64 {
	s := w.segs[i]
	ahead := s.left(w.end(i))
	if i == 0 {
		return int64(min(ahead, w.ahead)) * w.pageCost
	}
	if i == len(w.segs)-1 {
		ahead = min(ahead, w.ahead)
	}
	return s.bytes + int64(ahead)*w.pageCost
}

// found takes in what a look for a seam brought.
func (w *window) found(s *segment, p segmentPage, res result) {
	i := w.index(s)
	if len(p.events) == 0 {
		if s.void.IsZero() {
			s.void = s.from
		}
		if s.from = res.end; !s.from.Before(w.end(i)) {
			w.useless(s)
		}
		return // nothing in this stretch: on to the next one
	}
	first := &p.events[0]
	if s.from.Sub(first.CreatedAt) > time.Second {
		w.unsupported("it ignores the start of a range", nil)
		return
	}
	if why := s.suspicious(p.events); why != "" {
		w.contradiction(why, nil)
		return
	}
	s.measure(p, first.CreatedAt)
	s.whole = wholeFrom(p.events, s.from, res.end)
	if s.whole > 0 {
		p.events = p.events[s.whole:]
		first = &p.events[0]
	}
	before, after := w.knownBefore(i), w.knownAfter(i)
	switch {
	case w.seams[first.ID] != nil: // nothing lies between
		if s.void.IsZero() {
			s.void = s.from
		}
	case before.stopped, !first.CreatedAt.After(before.last.CreatedAt): // the reader before was faster
	case after != nil && !first.CreatedAt.Before(after.at): // no order to rely on
	case first.CreatedAt.After(w.r.horizon()):
	default:
		w.futile = 0
		s.first, s.at, s.probing, s.probeLen = first.ID, first.CreatedAt, false, len(p.events)
		w.seams[s.first] = s
		p.short = false // a range ends where it ends; that says nothing about the tip
		w.keep(s, p)
		w.read(s, p)
		return
	}
	w.useless(s)
}

// wholeFrom returns the index of the first event of a page that came by time from which on the page
// can leave nothing out, although the list may be in another order than its times: what follows it
// in the list is at most maxStepBack older, so within the range; and so is everything up to the
// last one, which must be as much older than the end. The bounds themselves count as outside, since
// no document says whether the API includes them. It is 0 if there is none.
func wholeFrom(events []Event, from, end time.Time) int {
	if end.Sub(events[len(events)-1].CreatedAt) <= maxStepBack {
		return 0
	}
	return max(0, slices.IndexFunc(events, func(e Event) bool { return e.CreatedAt.Sub(from) > maxStepBack }))
}

// useless drops a segment for which no seam was found. If that is for lack of events, the segment
// before ends there.
func (w *window) useless(s *segment) {
	prev := w.segs[w.index(s)-1]
	w.remove(s)
	prev.bound = s.void
	if w.futile++; w.futile > maxFutile {
		w.unsupported("what it has by time does not follow what it has by cursor", nil)
	}
}

// knownBefore is the nearest segment before index i whose seam is known; there is one, the head at
// the latest.
func (w *window) knownBefore(i int) *segment {
	i--
	for w.segs[i].probing {
		i--
	}
	return w.segs[i]
}

// knownAfter is the nearest segment after index i whose seam is known, or nil.
func (w *window) knownAfter(i int) *segment {
	for _, s := range w.segs[i+1:] {
		if !s.probing {
			return s
		}
	}
	return nil
}

// read takes in a page that follows a segment's cursor.
func (w *window) read(s *segment, p segmentPage) {
	switch {
	case s.ended: // a page read to confirm its end, and no longer needed
		w.release(s, p)
	case len(s.tail) == 0:
		w.scan(s, p)
	case len(p.events) == 0:
		w.release(s, p)
		w.disagree(s)
	default:
		s.tail = append(s.tail, p)
		w.confirm(s)
	}
}

// scan looks for a seam in a page. A page with none is the segment's.
func (w *window) scan(s *segment, p segmentPage) {
	for i := range p.events {
		next := w.seams[p.events[i].ID]
		if next == nil || next == s {
			continue
		}
		at := w.index(s)
		if w.index(next) < at {
			w.contradiction("an event of an earlier segment came in a later one", nil)
			return
		}
		for w.segs[at+1] != next {
			w.miss(w.segs[at+1])
		}
		s.tail = []segmentPage{p}
		w.confirm(s)
		return
	}
	if len(p.events) == 0 {
		w.release(s, p)
	} else {
		if s.first == "" || s.last.EventID != "" { // a page that came by time is measured already
			s.measure(p, s.last.CreatedAt)
		}
		s.append(p)
	}
	for next := w.knownAfter(w.index(s)); next != nil && (p.short || s.last.CreatedAt.Sub(next.at) > maxStepBack); next = w.knownAfter(w.index(s)) {
		w.miss(next)
		if w.bad++; w.bad >= maxBad {
			w.unsupported("the cursor does not meet what it has by time", nil)
			return
		}
	}
	if p.short || !s.last.CreatedAt.Before(w.r.horizon()) && w.knownAfter(w.index(s)) == nil {
		s.stopped = true
	}
}

// miss drops a segment that the reader before it has passed without meeting its seam.
func (w *window) miss(next *segment) {
	if !next.probing {
		w.missed++
		w.dropped++
	}
	w.remove(next)
}

// confirm compares what a segment read from the next seam on with what the next segment holds. Once
// that is enough, the segment has ended. A page that came by time can leave out an event that
// stands behind younger ones. If that is possible, all of it is compared; elsewhere some of it, in
// case the API does not filter as it says.
func (w *window) confirm(s *segment) {
	next := w.segs[w.index(s)+1]
	need := next.probeLen
	if next.whole > 0 && !w.disordered && w.confirmed >= fullChecks {
		need = min(need, minOverlap)
	}
	at := slices.IndexFunc(s.tail[0].events, func(e Event) bool { return e.ID == next.first })
	same, all := 0, true
	theirs, stop := iter.Pull(next.held())
	defer stop()
	for t, p := range s.tail {
		events := p.events
		if t == 0 {
			events = events[at:]
		}
		for i := range events {
			e, ok := theirs()
			if !ok {
				all = false
				break
			}
			// P16: segments are joined only if both sides of the seam have the same events.
			if e.ID != events[i].ID {
				w.unlike++
				w.disordered = true
				w.disagree(s)
				return
			}
			same++
		}
	}
	switch {
	case same >= need || !all:
		w.join(s, at)
	case s.tail[len(s.tail)-1].short:
		w.disagree(s)
	}
}

// join ends a segment before event at of the page in which it met the next one.
func (w *window) join(s *segment, at int) {
	for i, p := range s.tail {
		if i > 0 || at == 0 {
			w.release(s, p)
		}
	}
	p := s.tail[0]
	p.events = p.events[:at:at]
	s.tail = nil
	s.append(p)
	s.ended = true
	w.joined++
	w.confirmed++
	w.proven, w.bad = true, 0
}

// disagree drops the segment whose seam was met, since what it holds is not what follows the seam;
// the one before it reads on.
func (w *window) disagree(s *segment) {
	w.dropped++
	w.remove(w.segs[w.index(s)+1])
	if w.unlike >= maxBad {
		w.unsupported("what it has by time leaves out what it has by cursor", nil)
		return
	}
	tail := s.tail
	s.tail = nil
	for _, p := range tail {
		if !w.left {
			w.read(s, p)
		}
	}
}
