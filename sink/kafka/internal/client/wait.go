package client

import (
	"context"
	"time"
)

// RetryDelay is how long to wait after so many failures in a row: 50 ms doubling to 2 s, and half
// of it by chance.
func RetryDelay(failures int, chance float64) time.Duration {
	const least, most = 50 * time.Millisecond, 2 * time.Second
	d := most
	if failures < 6 {
		d = least << failures
	}
	return time.Duration(float64(d) * (0.5 + chance/2))
}

// Wait waits, and reports false where ctx ended first.
func Wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
