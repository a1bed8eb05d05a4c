package pipeline_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/sink"
)

// narrowBus takes perSecond messages a second, and of a batch that does not fit its deadline
// nothing.
type narrowBus struct {
	*scriptedBus
	deadline time.Duration

	guard     sync.Mutex // guards what follows
	perSecond int
	sizes     []int // of every batch
}

func (b *narrowBus) speed(perSecond int) {
	b.guard.Lock()
	defer b.guard.Unlock()
	b.perSecond = perSecond
}

func (b *narrowBus) batches() []int {
	b.guard.Lock()
	defer b.guard.Unlock()
	return slices.Clone(b.sizes)
}

func (b *narrowBus) Publish(ctx context.Context, batch []sink.Message) error {
	b.guard.Lock()
	b.sizes = append(b.sizes, len(batch))
	took := time.Duration(len(batch)) * time.Second / time.Duration(b.perSecond)
	b.guard.Unlock()
	if took > b.deadline {
		time.Sleep(b.deadline)
		return &sink.PublishError{Err: &sink.TimeoutError{Setting: "ack_timeout", Value: b.deadline, Err: errors.New("nothing acknowledged")}}
	}
	time.Sleep(took)
	return b.scriptedBus.Publish(ctx, batch)
}

func TestABatchThatDoesNotFitItsDeadlineIsHalved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSequence(2000, 100)
		bus := &narrowBus{scriptedBus: &scriptedBus{rnd: fixedRand()}, perSecond: 10, deadline: 10 * time.Second}
		lane := newLane(src, oneToOne{}, bus, checkpoint.NewMemory(testIdentity))
		stop := run(t, lane)
		time.Sleep(time.Minute)
		require.Positive(t, lane.Status().Events, "it makes progress")
		time.Sleep(10 * time.Minute)
		require.EqualValues(t, 2000, lane.Status().Events)
		failed := 0
		for _, n := range bus.batches() {
			if n > 100 {
				failed++
			}
		}
		require.Less(t, failed, 10, "it does not try the size that failed over and over: %v", bus.batches())
		stop()
		requireSourceOrder(t, src.events, bus.stored)
		require.Len(t, bus.stored, 2000)
	})
}

func TestABatchGrowsAgainOnceTheBusIsFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSequence(4000, 100)
		bus := &narrowBus{scriptedBus: &scriptedBus{rnd: fixedRand()}, perSecond: 1, deadline: 3 * time.Second}
		lane := newLane(src, oneToOne{}, bus, checkpoint.NewMemory(testIdentity))
		stop := run(t, lane)
		defer stop()
		time.Sleep(3 * time.Minute)
		require.LessOrEqual(t, bus.batches()[len(bus.batches())-1], 6)
		bus.speed(10_000)
		time.Sleep(time.Minute)
		require.EqualValues(t, 4000, lane.Status().Events)
		largest := 0
		for _, n := range bus.batches()[len(bus.batches())-4:] {
			largest = max(largest, n)
		}
		require.Greater(t, largest, 500, "%v", bus.batches())
	})
}

func TestAnEventThatDoesNotFitAloneIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSequence(50, 50)
		bus := &narrowBus{scriptedBus: &scriptedBus{rnd: fixedRand()}, perSecond: 1, deadline: time.Second / 2}
		lane := newLane(src, oneToOne{}, bus, checkpoint.NewMemory(testIdentity))
		stop := run(t, lane)
		time.Sleep(5 * time.Minute)
		s := lane.Status()
		require.Equal(t, pipeline.Retrying, s.State)
		require.Contains(t, s.Reason, "event event_000000 (user.created, 44 bytes) does not get through in time even alone; "+
			"if the link or the bus is slow, raise ack_timeout, which is 500ms")
		stop()
		require.Empty(t, bus.stored)
	})
}
