package pipeline_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
)

// TestRateIsOfTheLastMinute: ten events a second for two minutes, then silence.
func TestRateIsOfTheLastMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSequence(1200, 10)
		src.every = time.Second
		bus := &scriptedBus{rnd: fixedRand()}
		lane := newLane(src, oneToOne{}, bus, checkpoint.NewMemory(testIdentity))
		lane.Type, lane.Holder = "scripted", "holder"
		require.Zero(t, lane.Status().Rate)
		stop := run(t, lane)
		defer stop()
		rate := func(after time.Duration) float64 {
			time.Sleep(after)
			synctest.Wait()
			return lane.Status().Rate
		}
		require.InDelta(t, 10, rate(10500*time.Millisecond), 0.6, "over the time since the start, while that is short")
		require.InDelta(t, 10, rate(80*time.Second), 0.2)
		require.InDelta(t, 5, rate(60*time.Second), 0.2, "half a minute after the last event")
		require.Zero(t, rate(2*time.Minute))
		require.Equal(t, pipeline.Running, lane.Status().State)
		require.Equal(t, "scripted", lane.Status().Type)
		require.Equal(t, "holder", lane.Status().Holder)
	})
}
