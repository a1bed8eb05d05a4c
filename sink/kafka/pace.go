package kafka

import (
	"errors"
	"fmt"
	"time"

	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// How much relay sends at once. A request larger than what the link carries within request_timeout,
// than the quota of the brokers or than what a proxy lets through never arrives, however often it
// is sent. So a sink begins with little, sends more while answers come quickly, and less when they
// come late or not at all.
const (
	windowFirst = 256 << 10 // bytes of record batches under way in all requests together
	windowMost  = 16 << 20
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

// pace is how much a sink sends at once, and when. It belongs to whoever holds Sink.publishing.
type pace struct {
	window      int
	transaction int

	ceiling      int // of one request, since connections are closed on larger ones; 0 if none is known
	ceilingUntil time.Time
	hangUps      int // in a row on large requests
	hungUpOn     int // bytes of the smallest of these

	paused   map[int32]time.Time // leaders that throttle produce requests
	suspects map[messageKey]*suspect
}

// suspect is a record on which connections are closed.
type suspect struct {
	hangUps int
	answers int // of the cluster, when that happened last
}

func newPace() *pace {
	return &pace{window: windowFirst, transaction: transactionFirst, paused: make(map[int32]time.Time), suspects: make(map[messageKey]*suspect)}
}

// request returns how many bytes of record batches fill one request, at most full.
func (p *pace) request(full int, now time.Time) int {
	full = min(full, max(p.window, windowLeast))
	if p.ceiling > 0 && now.Before(p.ceilingUntil) {
		full = min(full, p.ceiling)
	}
	return full
}

// answered notes an answer to a request of size bytes, of which so many were under way together
// when it was sent.
func (p *pace) answered(size, underWay int, took, throttle time.Duration) {
	if size >= p.hungUpOn {
		p.hangUps, p.hungUpOn = 0, 0
	}
	switch t := took + throttle; {
	case t <= quick && 2*underWay >= p.window:
		p.window = min(2*p.window, windowMost)
	case t >= slow && size > slowLeast:
		p.window = max(scaled(size, t), slowLeast)
	}
}

// unanswered notes a request of size bytes that got no answer in time.
func (p *pace) unanswered(size int) {
	if size > windowLeast {
		p.window = max(min(p.window, size)/2, windowLeast)
	}
}

// hungUp notes that the connection was closed on a request of size bytes.
func (p *pace) hungUp(size int, now time.Time) {
	if size < client.SuspiciousRequest {
		return
	}
	if p.hangUps++; p.hungUpOn == 0 || size < p.hungUpOn {
		p.hungUpOn = size
	}
	if p.hangUps < hangUpsUntilLimit {
		return
	}
	p.ceiling, p.ceilingUntil = max(p.hungUpOn/2, windowLeast/2), now.Add(limitForget)
	p.hangUps = 0
}

// committed notes a transaction of size bytes that took so long, with the time for which the
// brokers throttle relay after it.
func (p *pace) committed(size int, took time.Duration) {
	switch {
	case took <= quick && 2*size >= p.transaction:
		p.transaction = min(4*p.transaction, transactionMost)
	case took <= slow/2 && 2*size >= p.transaction:
		p.transaction = min(2*p.transaction, transactionMost)
	case took >= slow && size > slowLeast:
		p.transaction = max(scaled(size, took), slowLeast)
	}
}

// notCommitted notes a transaction of size bytes that was not done in time.
func (p *pace) notCommitted(size int) { p.transaction = max(min(p.transaction, size)/4, 1) }

// scaled returns how many bytes would take steady if size of them take so long.
func scaled(size int, took time.Duration) int {
	return int(float64(size) * float64(steady) / float64(took))
}

// pause notes that a leader takes no records for so long.
func (p *pace) pause(leader int32, d time.Duration, now time.Time) {
	if until := now.Add(d); until.After(p.paused[leader]) {
		p.paused[leader] = until
	}
}

// pausedFor returns for how long at least one leader takes no records.
func (p *pace) pausedFor(now time.Time) time.Duration {
	var longest time.Duration
	for leader, until := range p.paused {
		if !until.After(now) {
			delete(p.paused, leader)
			continue
		}
		longest = max(longest, until.Sub(now))
	}
	return longest
}

// suspect notes that a connection was closed on a request with this one record, and reports whether
// the record is to blame: that happens again and again, although the brokers answer other requests
// meanwhile.
func (p *pace) suspect(key messageKey, answers int) bool {
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

// errThrottledLeader is the error of what was not sent because a leader throttles relay's records.
func errThrottledLeader(left time.Duration) error {
	return &sink.TimeoutError{Err: fmt.Errorf("the brokers take no records of relay for another %s, because it has used up its quota; "+
		"raise producer_byte_rate of relay's user or client id", left.Round(100*time.Millisecond))}
}

// tooSlow marks err as one that a smaller batch may not have.
func tooSlow(setting string, value time.Duration, err error) error {
	var already *sink.TimeoutError
	if errors.As(err, &already) {
		return err
	}
	return &sink.TimeoutError{Setting: setting, Value: value, Err: err}
}
