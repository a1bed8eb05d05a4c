// Package retry waits between the attempts at something that fails. Its callers own the loop: they
// decide which failures may pass, and what they do between two attempts.
package retry

import (
	"context"
	"math/rand/v2"
	"time"
)

// Sleep waits for d. It returns ctx.Err() at once if ctx ends first, or has ended. A d that is not
// positive does not wait.
func Sleep(ctx context.Context, d time.Duration) error { return SleepUntil(ctx, d, nil) }

// SleepUntil waits like Sleep, but no longer than until wake is closed or delivers a value. It
// returns nil after a wake. A nil channel never wakes.
func SleepUntil(ctx context.Context, d time.Duration, wake <-chan struct{}) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-wake:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// Random returns numbers from 0 up to, but not including, 1. A nil Random uses Default.
type Random func() float64

// Default is math/rand. A test binary whose runs must repeat exactly may replace it before anything
// waits. It must be safe for concurrent use.
var Default Random = rand.Float64

// UpTo returns a random duration from 0 to most. It returns 0 if most is not positive.
func (r Random) UpTo(most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	if r == nil {
		r = Default
	}
	return time.Duration(r() * float64(most))
}

// Backoff is the waits after failures in a row: First, then twice as long each time, and Most at
// most. A Backoff with only First and Most is ready to use. It is not safe for concurrent use if
// Next or Reset are called.
type Backoff struct {
	First, Most time.Duration
	Random      Random

	failures int
}

// Full returns the wait after n failures in a row, without a random part. An n below 1 counts as 1.
func (b Backoff) Full(n int) time.Duration {
	d := min(b.First, b.Most)
	for ; n > 1 && d > 0 && d < b.Most; n-- {
		if d > b.Most/2 {
			return b.Most
		}
		d *= 2
	}
	return d
}

// After returns the wait after n failures in a row: a random duration between half and all of Full,
// so that those that failed together do not try again together.
func (b Backoff) After(n int) time.Duration {
	d := b.Full(n)
	return d/2 + b.Random.UpTo(d-d/2)
}

// Next counts a failure and returns the wait after it, as After does.
func (b *Backoff) Next() time.Duration {
	b.failures++
	return b.After(b.failures)
}

// Reset ends the row of failures.
func (b *Backoff) Reset() { b.failures = 0 }
