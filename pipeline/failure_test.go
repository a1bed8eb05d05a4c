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

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
)

// An outage is told when it begins, every half minute, and when it is over.
func TestAnOutageIsToldNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		g := newGuarded()
		l := newLane(newSequence(3, 2), oneToOne{}, g.bus, g.store)
		l.Target, l.Logger = g.start(), zap.New(core)
		stop := run(t, l)
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
		require.Equal(t, "the outage is over", over[0].Message)
		require.Greater(t, over[0].ContextMap()["outage"], 9*time.Minute)
		stop()
	})
}

// away is a ledger that cannot be reached until some time.
type away struct {
	*memoryLedger
	until time.Time
}

func (a *away) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	if time.Now().Before(a.until) {
		return checkpoint.Checkpoint{}, errors.New("no route to the bus")
	}
	return a.memoryLedger.Load(ctx)
}

// A standby whose bus is back does not say hours later, once it takes over, that the outage ended
// only then.
func TestTheOutageOfAStandbyEndsWithItsFirstLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
		stopActive := run(t, twin("a", slowSource(10), ledger))
		time.Sleep(time.Second)
		core, logs := observer.New(zap.InfoLevel)
		standby := twin("b", slowSource(10), &away{ledger, time.Now().Add(time.Minute)})
		standby.Logger = zap.New(core)
		stopStandby := run(t, standby)
		time.Sleep(10 * time.Minute)
		over := logs.FilterMessage("the outage is over").All()
		require.Len(t, over, 1)
		require.InDelta(t, time.Minute, over[0].ContextMap()["outage"], float64(30*time.Second))
		stopActive()
		time.Sleep(time.Minute)
		require.Equal(t, pipeline.Running, standby.Status().State)
		require.Equal(t, 1, logs.FilterMessage("the outage is over").Len(), "and it says so once")
		stopStandby()
	})
}
