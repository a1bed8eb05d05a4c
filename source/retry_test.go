package source

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRetryWait holds the waits of each kind of failure, at both ends of their random part.
func TestRetryWait(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason      RetryReason
		n           int
		after       time.Duration
		least, most time.Duration
	}{
		{RetryServer, 1, 0, 250 * time.Millisecond, 500 * time.Millisecond},
		{RetryTransport, 3, 0, time.Second, 2 * time.Second},
		{RetryResponse, 1000, 0, 15 * time.Second, 30 * time.Second},
		{RetryRateLimited, 1, 20 * time.Second, 20 * time.Second, 21 * time.Second},
		{RetryServer, 9, time.Hour, 10 * time.Minute, 10*time.Minute + 30*time.Second},
		{RetryRefused, 1, 0, 30 * time.Second, 33 * time.Second},
		{RetryUnauthorized, 3, 0, 2 * time.Minute, 2*time.Minute + 12*time.Second},
		{RetryRedirect, 100, 0, 5 * time.Minute, 5 * time.Minute},
		{RetryRefused, 1, time.Hour, 10 * time.Minute, 10 * time.Minute},
	} {
		at := func(chance float64) time.Duration {
			return retryWait(c.reason, c.n, c.after, func() float64 { return chance })
		}
		require.Equal(t, c.least, at(0), "%s after %d failures", c.reason, c.n)
		require.Equal(t, c.most, at(1), "%s after %d failures", c.reason, c.n)
	}
}
