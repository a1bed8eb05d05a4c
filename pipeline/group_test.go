package pipeline_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/source"
)

// TestALaneThatTheAPIRefusedStartsAgain: it does so as long as another lane runs, and goes on where
// it was.
func TestALaneThatTheAPIRefusedStartsAgain(t *testing.T) {
	refusal := &source.RefusalError{For: 5 * time.Minute, Err: &source.APIError{Status: 404, Message: "Not Found", RequestID: "req_1"}}
	newLanes := func() (src *sequence, bus *scriptedBus, refused, other *pipeline.Lane) {
		src, bus = newSequence(20, 10), &scriptedBus{rnd: fixedRand()}
		src.final = refusal
		refused = newLane(src, oneToOne{}, bus, checkpoint.NewMemory(testIdentity))
		refused.Name = "refused"
		other = newLane(newSequence(5, 10), oneToOne{}, &scriptedBus{rnd: fixedRand()}, checkpoint.NewMemory(testIdentity))
		other.Name = "other"
		return src, bus, refused, other
	}
	t.Run("while another runs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src, bus, refused, other := newLanes()
			ctx, cancel := context.WithCancel(t.Context())
			var mu sync.Mutex
			var told []string
			group := pipeline.NewGroup(ctx, func(e *pipeline.LaneError) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, e.Lane)
			})
			group.Start(refused)
			group.Start(other)
			done := make(chan error, 1)
			go func() { done <- group.Wait() }()
			time.Sleep(time.Minute)
			require.Equal(t, pipeline.Stopped, refused.Status().State)
			require.Equal(t, 20, bus.count())
			time.Sleep(5 * time.Minute) // it is started again, and refused again
			mu.Lock()
			require.Equal(t, []string{"refused", "refused"}, told)
			mu.Unlock()
			src.change(func() {
				src.final = nil
				src.events = append(src.events, newSequence(25, 10).events[20:]...)
			})
			time.Sleep(5 * time.Minute)
			require.Equal(t, pipeline.Running, refused.Status().State)
			require.Equal(t, 25, bus.count())
			cancel()
			require.NoError(t, <-done)
		})
	})
	t.Run("not after it was stopped by hand", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, _, refused, other := newLanes()
			ctx, cancel := context.WithCancel(t.Context())
			group := pipeline.NewGroup(ctx, nil)
			group.Start(refused)
			group.Start(other)
			time.Sleep(time.Minute)
			group.Stop(refused)
			time.Sleep(time.Hour)
			require.False(t, group.Runs(refused))
			cancel()
			require.NoError(t, group.Wait())
		})
	})
	t.Run("not alone", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, _, refused, _ := newLanes()
			group := pipeline.NewGroup(t.Context(), nil)
			group.Start(refused)
			var final *source.RefusalError
			require.ErrorAs(t, group.Wait(), &final)
			time.Sleep(time.Hour)
			require.False(t, group.Runs(refused))
		})
	})
}

// TestALaneWhoseSourceFailsIsRetrying: a failure that is waited out for long, or comes again, is
// the lane's state until a page comes.
func TestALaneWhoseSourceFailsIsRetrying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lane := newLane(newSequence(20, 10), oneToOne{}, &scriptedBus{rnd: fixedRand()}, checkpoint.NewMemory(testIdentity))
		lane.ReadRetrying(errors.New("a hiccup"), 1, time.Second)
		require.Equal(t, pipeline.Starting, lane.Status().State)
		lane.ReadRetrying(&source.APIError{Status: 404, Message: "<html> default backend", Foreign: true}, 1, 30*time.Second)
		s := lane.Status()
		require.Equal(t, pipeline.Retrying, s.State)
		require.Equal(t, "reading: the Events API answered 404 Not Found with a body that is not WorkOS's: <html> default backend", s.Reason)
		require.Empty(t, s.Action)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- lane.Run(ctx) }()
		time.Sleep(time.Minute)
		require.Equal(t, pipeline.Running, lane.Status().State)
		lane.ReadRetrying(&source.APIError{Status: 401, Message: "Unauthorized", RequestID: "req_1"}, 3, time.Millisecond)
		s = lane.Status()
		require.Equal(t, pipeline.Retrying, s.State)
		require.NotEmpty(t, s.Action)
		time.Sleep(time.Minute)
		require.Equal(t, pipeline.Running, lane.Status().State)
		cancel()
		require.NoError(t, <-done)
	})
}
