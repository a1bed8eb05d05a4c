package pipeline_test

import (
	"context"
	"iter"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/contain"
	"workos-relay/pipeline"
	"workos-relay/source"
)

// brokenSource panics when it is read.
type brokenSource struct{}

func (brokenSource) Resume(context.Context, checkpoint.Checkpoint) iter.Seq2[source.Page, error] {
	return func(func(source.Page, error) bool) { panic("broken source") }
}

// brokenRouter panics at the first event, as a nil pointer does.
type brokenRouter struct{ pipeline.Router }

// TestAPanicStopsOnlyItsLane lets one lane panic in its reader and one in its delivery. Each stops
// with an error and releases its position; a third lane goes on.
//
// P13: a panic.
func TestAPanicStopsOnlyItsLane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		g := pipeline.NewGroup(ctx, nil)
		lanes := map[string]*pipeline.Lane{}
		stores := map[string]checkpoint.Store{}
		for _, name := range []string{"reading", "delivering", "well"} {
			stores[name] = checkpoint.NewMemory(testIdentity)
			lanes[name] = newLane(newSequence(5, 5), oneToOne{}, &scriptedBus{rnd: fixedRand()}, stores[name])
			lanes[name].Name = name
		}
		lanes["reading"].Source, lanes["delivering"].Router = brokenSource{}, brokenRouter{}
		for _, l := range lanes {
			g.Start(l)
		}
		synctest.Wait()
		for _, name := range []string{"reading", "delivering"} {
			require.Equal(t, pipeline.Stopped, lanes[name].Status().State, name)
			require.Contains(t, lanes[name].Status().Reason, "a fault of relay itself", name)
			cp, err := stores[name].Load(t.Context())
			require.NoError(t, err)
			require.True(t, cp.Released, name)
		}
		require.True(t, g.Runs(lanes["well"]))
		require.Equal(t, uint64(5), lanes["well"].Status().Events)
		cancel()
		var fault *contain.PanicError
		require.ErrorAs(t, g.Wait(), &fault)
	})
}
