package retry

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func fixed(f float64) Random { return func() float64 { return f } }

func TestBackoffDoublesUpToItsMost(t *testing.T) {
	t.Parallel()
	b := Backoff{First: 500 * time.Millisecond, Most: 3 * time.Second}
	want := []time.Duration{500 * time.Millisecond, time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second}
	for i, d := range want {
		require.Equal(t, d, b.Full(i+1))
	}
	require.Equal(t, b.First, b.Full(0))
	require.Equal(t, b.First, b.Full(-1))
	require.Equal(t, b.Most, b.Full(math.MaxInt), "many failures do not overflow")
	require.Equal(t, time.Duration(math.MaxInt64), Backoff{First: 1, Most: math.MaxInt64}.Full(100))
}

func TestBackoffWithoutRoom(t *testing.T) {
	t.Parallel()
	require.Zero(t, Backoff{First: time.Second}.Full(3), "a Most of zero does not wait")
	require.Zero(t, Backoff{First: time.Second}.After(3))
	require.Zero(t, Backoff{Most: time.Second}.Full(math.MaxInt))
	require.Equal(t, time.Second, Backoff{First: time.Minute, Most: time.Second}.Full(1))
}

func TestBackoffIsRandomBetweenHalfAndAll(t *testing.T) {
	t.Parallel()
	b := Backoff{First: 50 * time.Millisecond, Most: 2 * time.Second, Random: fixed(0)}
	require.Equal(t, 25*time.Millisecond, b.After(1))
	require.Equal(t, time.Second, b.After(10))
	b.Random = fixed(0.5)
	require.Equal(t, 1500*time.Millisecond, b.After(10))
	b.Random = nil
	seen := map[time.Duration]bool{}
	for n := range 1000 {
		d := b.After(n)
		require.LessOrEqual(t, d, b.Full(n))
		require.GreaterOrEqual(t, d, b.Full(n)/2)
		seen[d] = true
	}
	require.Greater(t, len(seen), 10)
}

func TestBackoffCountsFailures(t *testing.T) {
	t.Parallel()
	b := Backoff{First: time.Second, Most: time.Minute, Random: fixed(0)}
	require.Equal(t, time.Second/2, b.Next())
	require.Equal(t, time.Second, b.Next())
	require.Equal(t, 2*time.Second, b.Next())
	b.Reset()
	require.Equal(t, time.Second/2, b.Next())
}

func TestRandomUpTo(t *testing.T) {
	t.Parallel()
	require.Equal(t, 250*time.Millisecond, fixed(0.25).UpTo(time.Second))
	require.Zero(t, fixed(0.25).UpTo(0))
	require.Zero(t, fixed(0.25).UpTo(-time.Second))
	for range 1000 {
		d := Random(nil).UpTo(time.Millisecond)
		require.GreaterOrEqual(t, d, time.Duration(0))
		require.LessOrEqual(t, d, time.Millisecond)
	}
}

func TestSleep(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		require.NoError(t, Sleep(t.Context(), time.Hour))
		require.Equal(t, time.Hour, time.Since(start))

		start = time.Now()
		require.NoError(t, Sleep(t.Context(), 0))
		require.NoError(t, Sleep(t.Context(), -time.Hour))
		require.Zero(t, time.Since(start))

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorIs(t, Sleep(ctx, time.Hour), context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(start))
		require.ErrorIs(t, Sleep(ctx, 0), context.DeadlineExceeded, "ctx has ended before")
		require.ErrorIs(t, Sleep(ctx, time.Hour), context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(start))
	})
}

func TestSleepUntilWoken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		wake := make(chan struct{})
		time.AfterFunc(time.Minute, func() { close(wake) })
		start := time.Now()
		require.NoError(t, SleepUntil(t.Context(), time.Second, wake))
		require.Equal(t, time.Second, time.Since(start), "nobody wakes it in time")
		require.NoError(t, SleepUntil(t.Context(), time.Hour, wake))
		require.Equal(t, time.Minute, time.Since(start))
		require.NoError(t, SleepUntil(t.Context(), time.Hour, wake))
		require.Equal(t, time.Minute, time.Since(start), "a closed channel wakes at once")
	})
}
