package source

import (
	"slices"
	"time"
)

// chain holds the segments of a window, and counts the memory that their pages take.
type chain struct {
	segs    []*segment          // in the order of the list, never empty; the first is the head
	seams   map[string]*segment // those behind the head whose seam is known, by it
	held    int64               // cost of every page held
	room    *room               // counts the same pages, and the responses under way
	horizon func() time.Time    // up to which the last segment reads
}

func newChain(head *segment, room *room, horizon func() time.Time) *chain {
	return &chain{segs: []*segment{head}, seams: map[string]*segment{}, room: room, horizon: horizon}
}

// head is the segment whose pages are yielded.
func (c *chain) head() *segment { return c.segs[0] }

// advance makes the next segment the head if the head has ended and nothing of it is left.
func (c *chain) advance() {
	for c.segs[0].ended && len(c.segs[0].pages) == 0 {
		c.segs[0] = nil
		c.segs = c.segs[1:]
		delete(c.seams, c.segs[0].first)
	}
}

// nextPage returns the next page to yield, if it is there.
func (c *chain) nextPage() (segmentPage, bool) {
	head := c.head()
	if len(head.pages) == 0 {
		return segmentPage{}, false
	}
	p := head.pages[0]
	head.pages[0] = segmentPage{}
	head.pages = head.pages[1:]
	c.release(head, p)
	c.room.yields(p.cost)
	return p, true
}

// endOf is when segment i ends: where the seam after it was looked for, or the horizon.
func (c *chain) endOf(i int) time.Time {
	if i+1 < len(c.segs) {
		return c.segs[i+1].from
	}
	return c.horizon()
}

// left estimates the pages that segment i has yet to read.
func (c *chain) left(i int) int { return c.segs[i].left(c.endOf(i)) }

// index is where s is in the chain.
func (c *chain) index(s *segment) int { return slices.Index(c.segs, s) }

// insert adds a segment at index i, which is behind the head.
func (c *chain) insert(i int, s *segment) { c.segs = slices.Insert(c.segs, i, s) }

// setSeam records that the seam of s was found.
func (c *chain) setSeam(s *segment, first *Event) {
	s.first, s.at, s.probing = first.ID, first.CreatedAt, false
	c.seams[s.first] = s
}

// remove drops a segment behind the head; the one before it reads on across its seam.
func (c *chain) remove(s *segment) {
	i := c.index(s)
	c.segs = slices.Delete(c.segs, i, i+1)
	if c.seams[s.first] == s {
		delete(c.seams, s.first)
	}
	s.gone = true
	c.segs[i-1].bound = time.Time{}
	c.count(-s.bytes)
	s.bytes, s.pages, s.tail = 0, nil, nil
}

// keep counts a page as held by a segment.
func (c *chain) keep(s *segment, p segmentPage) {
	s.bytes += p.cost
	c.count(p.cost)
}

// release undoes keep.
func (c *chain) release(s *segment, p segmentPage) {
	s.bytes -= p.cost
	c.count(-p.cost)
}

// count adds to the bytes that are held.
func (c *chain) count(bytes int64) {
	c.held += bytes
	c.room.add(bytes)
}

// knownBefore is the nearest segment before index i whose seam is known; there is one, the head at
// the latest.
func (c *chain) knownBefore(i int) *segment {
	i--
	for c.segs[i].probing {
		i--
	}
	return c.segs[i]
}

// knownAfter is the nearest segment after index i whose seam is known, or nil.
func (c *chain) knownAfter(i int) *segment {
	for _, s := range c.segs[i+1:] {
		if !s.probing {
			return s
		}
	}
	return nil
}

// failing reports whether a request is being repeated.
func (c *chain) failing() bool {
	return slices.ContainsFunc(c.segs, func(s *segment) bool { return s.attempts > 0 })
}

// nextStart is when a segment that pauses at now may go on, if all of them pause until quiet; zero
// if none does.
func (c *chain) nextStart(now, quiet time.Time) (at time.Time) {
	for _, s := range c.segs {
		next := s.notBefore
		if next.Before(quiet) {
			next = quiet
		}
		if s.hasMore() && !s.busy && next.After(now) && (at.IsZero() || next.Before(at)) {
			at = next
		}
	}
	return at
}
