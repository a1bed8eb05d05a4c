package telemetry

import (
	"sync"
	"time"

	"workos-relay/source"
)

// clockDrift is how fast two clocks may drift apart, as a part of the time that passes.
const clockDrift = 0.0001

// apiClock measures how far the local clock is ahead of that of the Events API. Each answer bounds
// the difference, because its Date header, in whole seconds, was written between request and
// answer. It is safe for concurrent use.
type apiClock struct {
	mu          sync.Mutex
	least, most time.Duration // the local clock is ahead by no less, and by no more
	at          time.Time     // of the last answer; zero before the first
}

// answered takes note of an answer of the API that has just come.
func (c *apiClock) answered(i *source.ResponseInfo) {
	if i.Now.IsZero() || i.Status != 200 { // a proxy may answer errors itself
		return
	}
	now := time.Now()
	most := now.Sub(i.Now)
	least := most - i.Duration - time.Second // Date leaves out the fraction of a second
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.at.IsZero() {
		drift := time.Duration(float64(now.Sub(c.at)) * clockDrift)
		l, m := max(least, c.least-drift), min(most, c.most+drift)
		if l <= m { // otherwise one of the clocks was set
			least, most = l, m
		}
	}
	c.least, c.most, c.at = least, most, now
}

// ahead returns how far the local clock is certainly ahead of that of the API: negative if it is
// behind, and 0 if they may agree or if nothing is known.
func (c *apiClock) ahead() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.least > 0:
		return c.least
	case c.most < 0:
		return c.most
	default:
		return 0
	}
}
