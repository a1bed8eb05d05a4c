package client

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPaceFollowsAnswers(t *testing.T) {
	t.Parallel()
	now := time.Now()
	p := NewPace()
	for range 20 {
		p.Answered(p.Window, p.Window, 100*time.Millisecond, 0)
	}
	require.Equal(t, WindowMost, p.Window)
	p.Answered(1<<20, 1<<20, 10*time.Second, 6*time.Second)
	require.Equal(t, 128<<10, p.Window, "what takes two seconds")
	p.Answered(1000, 1000, 10*time.Second, 0)
	require.Equal(t, 128<<10, p.Window, "a small request is late for another reason")
	for range 20 {
		p.Unanswered(p.Window)
	}
	require.Equal(t, windowLeast, p.Window)

	p = NewPace()
	p.HungUp(1_100_000, now)
	require.Equal(t, 256<<10, p.Request(1_000_000, now), "a broker that ends does that once")
	p.HungUp(200_000, now)
	require.Equal(t, 100_000, p.Request(1_000_000, now))
	require.Equal(t, 256<<10, p.Request(1_000_000, now.Add(time.Hour)))

	for range 10 {
		p.Committed(p.Transaction, 100*time.Millisecond)
	}
	require.Equal(t, transactionMost, p.Transaction)
	p.Committed(1<<20, 8*time.Second)
	require.Equal(t, 256<<10, p.Transaction, "what takes two seconds")
	p.NotCommitted(1 << 20)
	require.Equal(t, 64<<10, p.Transaction)
}

// TestSuspectNeedsAnswersBetween: connections that are closed while no broker answers are no sign
// of a record that is too large.
func TestSuspectNeedsAnswersBetween(t *testing.T) {
	t.Parallel()
	p := NewPace()
	for range 20 {
		require.False(t, p.Suspect("a", 1))
	}
	for answers := range 2 * hangUpsUntilRejected {
		blamed := p.Suspect("b", answers)
		require.Equal(t, answers+1 >= hangUpsUntilRejected, blamed)
	}
}

func TestPausedLeaders(t *testing.T) {
	t.Parallel()
	p, now := NewPace(), time.Now()
	p.Pause(1, time.Second, now)
	p.Pause(2, 3*time.Second, now)
	p.Pause(2, time.Second, now)
	require.Equal(t, 3*time.Second, p.PausedFor(now), "the longest counts")
	require.Equal(t, time.Second, p.PausedFor(now.Add(2*time.Second)))
	require.Zero(t, p.PausedFor(now.Add(time.Minute)))
	require.Empty(t, p.Paused)
}
