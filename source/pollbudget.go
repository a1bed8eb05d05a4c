package source

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// pollSpacing is the time between two polls of a PollBudget that is used up: five a second.
	pollSpacing = time.Second / 5
	// pollBurst is how much of a PollBudget can be saved up: two polls.
	pollBurst = 2 * pollSpacing
	// pollCalm is how long no stream polls early after the API has answered 429: as long as the
	// period over which WorkOS counts requests.
	pollCalm = time.Minute
)

// PollBudget bounds the early polls of all streams of an API key: the polls at the tip that come
// before Stream.PollInterval is over, see Stream.FastestPoll. All polls at the tip count, and
// together they are at most five a second on average, in a burst a few more that were saved up.
// Polls that come after PollInterval, or by Stream.Wake, are never delayed, so if these alone are
// more than five a second, no poll is early.
//
// No poll is early while a stream of the budget reads a backlog with several readers, for a minute
// after an answer 429, while a Retry-After lasts, and when the client's Limiter would delay it.
//
// The zero value is a budget that is not used yet. It is safe for concurrent use.
type PollBudget struct {
	mu        sync.Mutex
	used      time.Time // the polls so far use up the budget until then
	calm      time.Time // no early poll before
	backfills int       // under way
}

// reserve returns when a stream may poll that wants to poll at want and does so at due in any case.
// It reports false if that is not before due. If it reports true, the poll is paid for.
func (b *PollBudget) reserve(want, due time.Time) (time.Time, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := later(want, b.used.Add(-pollBurst))
	if !at.Before(due) || b.backfills > 0 || at.Before(b.calm) {
		return due, false
	}
	b.used = later(b.used, time.Now()).Add(pollSpacing)
	return at, true
}

// spend charges the budget for a poll that is due by the interval of its stream. Such a poll is
// never delayed. If such polls alone exceed the budget, the debt is bounded: it lasts just long
// enough that no stream of that interval polls early.
func (b *PollBudget) spend(interval time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	most := later(b.used, now.Add(2*interval+pollBurst))
	b.used = earlier(later(b.used, now).Add(pollSpacing), most)
}

// permits reports whether a poll that was reserved may still be early.
func (b *PollBudget) permits() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.backfills == 0 && !time.Now().Before(b.calm)
}

// hold lets no poll be early for d.
func (b *PollBudget) hold(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calm = later(b.calm, time.Now().Add(d))
}

// backfill lets no poll be early until the function that it returns is called.
func (b *PollBudget) backfill() (end func()) {
	b.add(1)
	return func() { b.add(-1) }
}

func (b *PollBudget) add(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backfills += n
}

// polls returns the budget of the client.
func (c *Client) polls() *PollBudget {
	if c.Polls != nil {
		return c.Polls
	}
	return &c.ownPolls
}

// mayPollEarly reports whether an early poll that was reserved may be made now.
func (c *Client) mayPollEarly() bool {
	if l := c.Limiter; l != nil && l.Limit() != rate.Inf && l.Tokens() < 1 {
		return false
	}
	return c.polls().permits()
}
