package pipeline_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/pipeline"
)

// A lane at the tip has nothing to publish and notices all the same that its bus is away, since
// when, and that it is back.
func TestABusThatIsAwayIsNoticedAtTheTip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuarded()
		l := newLane(newSequence(3, 2), oneToOne{}, g.bus, g.store)
		l.Target = g.start()
		stop := run(t, l)
		time.Sleep(time.Minute)
		s := l.Status()
		require.Equal(t, pipeline.Running, s.State)
		require.True(t, s.AtTip)

		away := time.Now()
		g.bus.goAway(errors.New("no route to the bus"))
		time.Sleep(10 * time.Second)
		s = l.Status()
		require.Equal(t, pipeline.Retrying, s.State)
		require.Equal(t, pipeline.Reaching+": no route to the bus", s.Reason)
		require.Equal(t, pipeline.Reaching, s.Failing)
		require.Positive(t, s.Failures)
		require.LessOrEqual(t, away.Sub(s.Since).Abs(), 5*time.Second, "since the bus last answered")
		before := s
		time.Sleep(time.Minute)
		s = l.Status()
		require.Equal(t, before.Since, s.Since)
		require.Greater(t, s.Failures, before.Failures)

		g.bus.goAway(nil)
		time.Sleep(6 * time.Second)
		s = l.Status()
		require.Equal(t, pipeline.Running, s.State)
		require.Empty(t, s.Reason)
		require.Zero(t, s.Failures)
		stop()
	})
}
