package source

import "time"

// maxSegmentsPerReader bounds the segments of a window, which all but the readers' are held whole.
const maxSegmentsPerReader = 8

// plan says how many pages a segment is to have, where the next one begins, and whether a page has
// room in memory. It goes by what pages have cost and how long requests have taken.
type plan struct {
	chain   *chain
	room    *room
	client  *Client // for its limiter
	readers int

	ahead    int           // pages per segment
	pageCost int64         // what a page costs on average
	maxCost  int64         // what a page may cost, going by the latest
	took     time.Duration // by a request, on average
}

func newPlan(c *chain, room *room, r *reader) *plan {
	return &plan{
		chain: c, room: room, client: r.client, readers: r.s.Readers, pageCost: r.pageCost, maxCost: r.pageCost,
		ahead: segmentPages(r.s.Readers, room.ahead, r.pageCost),
	}
}

// gap is a place for a new seam.
type gap struct {
	after int // index of the segment that it divides, or that it follows
	at    time.Time
	split bool
}

// useful is how many readers at once the rate limit has use for, and a quarter more, since a
// request takes longer at times. The fewer they are, the longer segments may be, and each costs
// most of a page more than it yields.
func (p *plan) useful() int {
	const least = 2
	if p.client.Limiter == nil {
		return p.readers
	}
	n := float64(p.client.Limiter.Limit()) * (1.25 * p.took.Seconds()) // in this order: rate.Inf times 1.25 is beyond a float64
	return int(min(max(n+1, least), float64(p.readers)))
}

// learn takes note of what a page cost, and how long it took.
func (p *plan) learn(page segmentPage) {
	if !page.short {
		p.pageCost = (7*p.pageCost + page.cost) / 8
		if p.took == 0 {
			p.took = page.took
		}
		p.took = (7*p.took + page.took) / 8
		p.ahead = segmentPages(p.useful(), p.room.ahead, p.pageCost)
	}
	p.maxCost = max(p.maxCost-p.maxCost/64, page.cost)
}

// expect makes pages count as that large at least.
func (p *plan) expect(cost int64) { p.maxCost = max(p.maxCost, cost) }

// grant returns the memory for a response of the size to be expected.
func (p *plan) grant(head bool) *grant { return p.room.grant(p.maxCost, head) }

// fits reports whether there is memory for another page of a segment, if that segment and those
// before it have a claim to so many bytes already.
func (p *plan) fits(claimed int64) bool {
	// P12: no request without room for the largest page that it may bring.
	return p.room.fits(p.maxCost) && claimed+p.maxCost <= p.room.ahead
}

// claim is what segment i is going to hold in memory, as far as that can be told. The head flows
// out, but keeps room to be divided if it is long, or it would be read by one reader alone; and the
// last segment ends where the next seam is going to be set.
func (p *plan) claim(i int) int64 {
	ahead := p.chain.left(i)
	if i == 0 {
		return int64(min(ahead, p.ahead)) * p.pageCost
	}
	if i == len(p.chain.segs)-1 {
		ahead = min(ahead, p.ahead)
	}
	return p.chain.segs[i].bytes + int64(ahead)*p.pageCost
}

// canGrow reports whether there is a place for a new seam behind the head.
func (p *plan) canGrow() bool {
	_, ok := p.gap()
	return ok
}

// gap returns the nearest place where a segment has far more to read than it was made for, or the
// one ahead of the last segment, if what the segments before it are going to hold leaves memory for
// another.
func (p *plan) gap() (gap, bool) {
	var claimed int64
	segment := int64(p.ahead) * p.pageCost
	for i, s := range p.chain.segs {
		last := i == len(p.chain.segs)-1
		if claimed+s.bytes+segment > p.room.ahead {
			return gap{}, false
		}
		n := p.ahead
		left := p.chain.left(i)
		if last {
			n = max(min(n, left/4), minSegmentPages) // so that the readers finish together at the horizon
		}
		if s.hasMore() && len(s.tail) == 0 && (last || !s.probing) && left > n+n/2 {
			return gap{after: i, at: s.timeOf(n), split: !last}, true
		}
		claimed += p.claim(i)
	}
	return p.lastGap()
}

// lastGap returns a place for a new seam if no segment is longer than it was made for: in the
// middle of the one that has most left, so that readers which have nothing more to do share what
// remains.
func (p *plan) lastGap() (gap, bool) {
	most, at := 2*minSegmentPages, -1
	for i, s := range p.chain.segs {
		if left := p.chain.left(i); left > most && len(s.tail) == 0 && !s.probing {
			most, at = left, i
		}
	}
	if at < 0 {
		return gap{}, false
	}
	return gap{after: at, at: p.chain.segs[at].timeOf(most / 2), split: at+1 < len(p.chain.segs)}, true
}
