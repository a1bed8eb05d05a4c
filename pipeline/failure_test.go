package pipeline_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// An outage is told when it begins, every half minute, and when it is over.
func TestAnOutageIsToldNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		g := newGuarded()
		l := newLane(newSequence(3, 2), oneToOne{}, g.bus, g.store)
		l.Target, l.Logger = g.start(), zap.New(core)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- l.Run(ctx) }()
		time.Sleep(time.Minute)
		logs.TakeAll()

		g.bus.goAway(errors.New("no route to the bus"))
		time.Sleep(10 * time.Second)
		begun := logs.TakeAll()
		require.Len(t, begun, 1)
		require.Equal(t, zap.WarnLevel, begun[0].Level)
		require.Equal(t, "no route to the bus", begun[0].ContextMap()["error"])
		last := begun[0].Time
		time.Sleep(10 * time.Minute)
		reminders := logs.TakeAll()
		require.InDelta(t, 20, len(reminders), 2)
		for _, e := range reminders {
			require.LessOrEqual(t, e.Time.Sub(last), 30*time.Second)
			require.Greater(t, e.Time.Sub(last), 20*time.Second)
			require.Positive(t, e.ContextMap()["failures"])
			last = e.Time
		}

		g.bus.goAway(nil)
		time.Sleep(time.Minute)
		over := logs.TakeAll()
		require.Len(t, over, 1)
		require.Equal(t, zap.InfoLevel, over[0].Level)
		require.Equal(t, "the lane gets on again", over[0].Message)
		require.Greater(t, over[0].ContextMap()["outage"], 9*time.Minute)
		cancel()
		require.NoError(t, <-ended)
	})
}
