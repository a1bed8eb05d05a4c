package client

import (
	"time"
)

const (
	windowFirst = 256 << 10 // bytes of record batches under way in all requests together
	// WindowMost is how large Pace.Window becomes.
	WindowMost  = 16 << 20
	windowLeast = 16 << 10 // one record may always be sent, however large

	transactionFirst = 512 << 10 // bytes of records in one transaction
	transactionMost  = 64 << 20

	// An answer or a commit within quick asks for more, one after slow for less: so much that it
	// would take steady.
	quick  = time.Second
	steady = 2 * time.Second
	slow   = 4 * time.Second
	// slowLeast is what a late answer leaves: below it, it is late for another reason than the
	// size.
	slowLeast = 64 << 10

	// hangUpsUntilLimit is how often in a row a connection is closed on a large request until that
	// counts as a limit. Brokers that end do that once.
	hangUpsUntilLimit = 2
	// limitForget is when a limit is tried again, because it may have been raised.
	limitForget = 15 * time.Minute
	// hangUpsUntilRejected is how often connections are closed on a request with one and the same
	// record, while the brokers answer other requests, until the record counts as one that can
	// never be published.
	hangUpsUntilRejected = 5
)

// Pace is how much a producer sends at once, and when. A request larger than what the link carries
// within the request timeout, than the quota of the brokers or than what a proxy lets through never
// arrives, however often it is sent. So a producer begins with little, sends more while answers
// come quickly, and less when they come late or not at all.
//
// A Pace counts what the caller tells it, and sends nothing. It is not safe for concurrent use.
type Pace struct {
	Window      int // bytes of record batches under way in all requests together
	Transaction int // bytes of records in one transaction

	ceiling      int // of one request, since connections are closed on larger ones; 0 if none is known
	ceilingUntil time.Time
	hangUps      int // in a row on large requests
	hungUpOn     int // bytes of the smallest of these

	// Paused has, by broker id, until when a leader takes no records, because it throttles the
	// client.
	Paused   map[int32]time.Time
	suspects map[any]*suspect
}

// suspect is a record on which connections are closed.
type suspect struct {
	hangUps int
	answers int // of the cluster, when that happened last
}

// NewPace returns a pace that begins with little.
func NewPace() *Pace {
	return &Pace{Window: windowFirst, Transaction: transactionFirst, Paused: make(map[int32]time.Time), suspects: make(map[any]*suspect)}
}

// Request returns how many bytes of record batches fill one request, at most full.
func (p *Pace) Request(full int, now time.Time) int {
	full = min(full, max(p.Window, windowLeast))
	if p.ceiling > 0 && now.Before(p.ceilingUntil) {
		full = min(full, p.ceiling)
	}
	return full
}

// Answered notes an answer to a request of size bytes, of which so many were under way together
// when it was sent.
func (p *Pace) Answered(size, underWay int, took, throttle time.Duration) {
	if size >= p.hungUpOn {
		p.hangUps, p.hungUpOn = 0, 0
	}
	switch t := took + throttle; {
	case t <= quick && 2*underWay >= p.Window:
		p.Window = min(2*p.Window, WindowMost)
	case t >= slow && size > slowLeast:
		p.Window = max(scaled(size, t), slowLeast)
	}
}

// Unanswered notes a request of size bytes that got no answer in time.
func (p *Pace) Unanswered(size int) {
	if size > windowLeast {
		p.Window = max(min(p.Window, size)/2, windowLeast)
	}
}

// HungUp notes that the connection was closed on a request of size bytes. It reports whether such
// requests are not sent any more.
func (p *Pace) HungUp(size int, now time.Time) (limited bool) {
	if size < SuspiciousRequest {
		return false
	}
	if p.hangUps++; p.hungUpOn == 0 || size < p.hungUpOn {
		p.hungUpOn = size
	}
	if p.hangUps < hangUpsUntilLimit {
		return false
	}
	p.ceiling, p.ceilingUntil = max(p.hungUpOn/2, windowLeast/2), now.Add(limitForget)
	p.hangUps = 0
	return true
}

// Committed notes a transaction of size bytes that took so long, with the time for which the
// brokers throttle the client after it.
func (p *Pace) Committed(size int, took time.Duration) {
	switch {
	case took <= quick && 2*size >= p.Transaction:
		p.Transaction = min(4*p.Transaction, transactionMost)
	case took <= slow/2 && 2*size >= p.Transaction:
		p.Transaction = min(2*p.Transaction, transactionMost)
	case took >= slow && size > slowLeast:
		p.Transaction = max(scaled(size, took), slowLeast)
	}
}

// NotCommitted notes a transaction of size bytes that was not done in time.
func (p *Pace) NotCommitted(size int) { p.Transaction = max(min(p.Transaction, size)/4, 1) }

// scaled returns how many bytes would take steady if size of them take so long.
func scaled(size int, took time.Duration) int {
	return int(float64(size) * float64(steady) / float64(took))
}

// Pause notes that a leader takes no records for so long.
func (p *Pace) Pause(leader int32, d time.Duration, now time.Time) {
	if until := now.Add(d); until.After(p.Paused[leader]) {
		p.Paused[leader] = until
	}
}

// PausedFor returns for how long at least one leader takes no records.
func (p *Pace) PausedFor(now time.Time) time.Duration {
	var longest time.Duration
	for leader, until := range p.Paused {
		if !until.After(now) {
			delete(p.Paused, leader)
			continue
		}
		longest = max(longest, until.Sub(now))
	}
	return longest
}

// Suspect notes that a connection was closed on a request with one record, which key names, and
// reports whether the record is to blame: that happens again and again, although the brokers answer
// other requests meanwhile.
func (p *Pace) Suspect(key any, answers int) bool {
	s := p.suspects[key]
	if s == nil {
		if len(p.suspects) > 100 {
			clear(p.suspects)
		}
		s = &suspect{answers: -1}
		p.suspects[key] = s
	}
	if answers > s.answers {
		s.hangUps++
	}
	s.answers = answers
	return s.hangUps >= hangUpsUntilRejected
}
