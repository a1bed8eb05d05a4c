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
)

// joiner makes segments of what requests bring: it sets the seam at which a segment begins, and
// joins a segment to the next one when its reader has met that seam. What does not agree is dropped
// or ends the backfill; joiner never decides which side is right.
type joiner struct {
	chain   *chain
	retreat *retreat

	proven     bool // a page that came by time was like the cursor's
	disordered bool // events were seen in another order than their times
	confirmed  int  // seams that were met and agreed
	futile     int  // looks for a seam in a row that brought none of use
	bad        int  // seams in a row that were not met
	unlike     int  // pages that came by time and were not the cursor's

	joined, missed, dropped int // since the last report
}

// noteOrder takes note of the order of events that were read.
func (j *joiner) noteOrder(events []Event) { j.disordered = j.disordered || disordered(events) }

// found takes in what a look for a seam brought: the first page of the events from s.from to end.
func (j *joiner) found(s *segment, p segmentPage, end time.Time) {
	i := j.chain.index(s)
	if len(p.events) == 0 {
		if s.void.IsZero() {
			s.void = s.from
		}
		if s.from = end; !s.from.Before(j.chain.endOf(i)) {
			j.useless(s)
		}
		return // nothing in this stretch: on to the next one
	}
	first := &p.events[0]
	if s.from.Sub(first.CreatedAt) > time.Second {
		j.retreat.unsupported("it ignores the start of a range", nil)
		return
	}
	if why := s.suspicious(&p); why != "" {
		j.retreat.contradiction(why, nil)
		return
	}
	s.measure(p, first.CreatedAt)
	s.whole = wholeFrom(p.events, s.from, end)
	if s.whole > 0 {
		p.events = p.events[s.whole:]
		first = &p.events[0]
	}
	before, after := j.chain.knownBefore(i), j.chain.knownAfter(i)
	switch {
	case j.chain.seams[first.ID] != nil: // nothing lies between
		if s.void.IsZero() {
			s.void = s.from
		}
	case before.stopped, !first.CreatedAt.After(before.last.CreatedAt): // the reader before was faster
	case after != nil && !first.CreatedAt.Before(after.at): // no order to rely on
	case first.CreatedAt.After(j.chain.horizon()):
	default:
		j.futile = 0
		s.probeLen = len(p.events)
		j.chain.setSeam(s, first)
		p.short = false // a range may end within a page; that says nothing about the tip
		j.chain.keep(s, p)
		j.read(s, p)
		return
	}
	j.useless(s)
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
func (j *joiner) useless(s *segment) {
	prev := j.chain.segs[j.chain.index(s)-1]
	j.chain.remove(s)
	prev.bound = s.void
	if j.futile++; j.futile > maxFutile {
		j.retreat.unsupported("what it has by time does not follow what it has by cursor", nil)
	}
}

// read takes in a page that follows a segment's cursor.
func (j *joiner) read(s *segment, p segmentPage) {
	switch {
	case s.ended: // a page read to confirm its end, and no longer needed
		j.chain.release(s, p)
	case len(s.tail) == 0:
		j.scan(s, p)
	case len(p.events) == 0:
		j.chain.release(s, p)
		j.disagree(s)
	default:
		s.tail = append(s.tail, p)
		j.confirm(s)
	}
}

// scan looks for a seam in a page. A page with none is the segment's.
func (j *joiner) scan(s *segment, p segmentPage) {
	for i := range p.events {
		next := j.chain.seams[p.events[i].ID]
		if next == nil || next == s {
			continue
		}
		at := j.chain.index(s)
		if j.chain.index(next) < at {
			j.retreat.contradiction("an event of an earlier segment came in a later one", nil)
			return
		}
		for j.chain.segs[at+1] != next {
			j.miss(j.chain.segs[at+1])
		}
		s.tail = []segmentPage{p}
		j.confirm(s)
		return
	}
	if len(p.events) == 0 {
		j.chain.release(s, p)
	} else {
		if s.first == "" || s.last.EventID != "" { // a page that came by time is measured already
			s.measure(p, s.last.CreatedAt)
		}
		s.append(p)
	}
	for next := j.chain.knownAfter(j.chain.index(s)); next != nil && (p.short || s.last.CreatedAt.Sub(next.at) > maxStepBack); next = j.chain.knownAfter(j.chain.index(s)) {
		j.miss(next)
		if j.bad++; j.bad >= maxBad {
			j.retreat.unsupported("the cursor does not meet what it has by time", nil)
			return
		}
	}
	if p.short || !s.last.CreatedAt.Before(j.chain.horizon()) && j.chain.knownAfter(j.chain.index(s)) == nil {
		s.stopped = true
	}
}

// miss drops a segment that the reader before it has passed without meeting its seam.
func (j *joiner) miss(next *segment) {
	if !next.probing {
		j.missed++
		j.dropped++
	}
	j.chain.remove(next)
}

// confirm compares what a segment read from the next seam on with what the next segment holds. Once
// that is enough, the segment has ended. A page that came by time can leave out an event that
// stands behind younger ones. If that is possible, all of it is compared; elsewhere some of it, in
// case the API does not filter as it says.
func (j *joiner) confirm(s *segment) {
	next := j.chain.segs[j.chain.index(s)+1]
	need := next.probeLen
	if next.whole > 0 && !j.disordered && j.confirmed >= fullChecks {
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
				j.unlike++
				j.disordered = true
				j.disagree(s)
				return
			}
			same++
		}
	}
	switch {
	case same >= need || !all:
		j.join(s, at)
	case s.tail[len(s.tail)-1].short:
		j.disagree(s)
	}
}

// join ends a segment before event at of the page in which it met the next one.
func (j *joiner) join(s *segment, at int) {
	for i, p := range s.tail {
		if i > 0 || at == 0 {
			j.chain.release(s, p)
		}
	}
	p := s.tail[0]
	p.events = p.events[:at:at]
	s.tail = nil
	s.append(p)
	s.ended = true
	j.joined++
	j.confirmed++
	j.proven, j.bad = true, 0
}

// disagree drops the segment whose seam was met, since what it holds is not what follows the seam;
// the one before it reads on.
func (j *joiner) disagree(s *segment) {
	j.dropped++
	j.chain.remove(j.chain.segs[j.chain.index(s)+1])
	if j.unlike >= maxBad {
		j.retreat.unsupported("what it has by time leaves out what it has by cursor", nil)
		return
	}
	tail := s.tail
	s.tail = nil
	for _, p := range tail {
		if !j.retreat.left {
			j.read(s, p)
		}
	}
}
