package client

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRetryDelayIsBounded(t *testing.T) {
	t.Parallel()
	require.Equal(t, 25*time.Millisecond, RetryDelay(0, 0))
	for n := range 100 {
		require.LessOrEqual(t, RetryDelay(n, 0.999), 2*time.Second)
		require.GreaterOrEqual(t, RetryDelay(n, 0), 25*time.Millisecond)
	}
}
