package source

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
)

// newTestWindow returns a window of 16 readers whose horizon is 55 minutes after from.
func newTestWindow(t *testing.T, from time.Time) *window {
	t.Helper()
	s, _ := (&fakeAPI{}).stream()
	s.Readers = 16
	r, err := newReader(s, checkpoint.Checkpoint{Position: checkpoint.Position{EventID: "event_000001", CreatedAt: from}})
	require.NoError(t, err)
	w := newWindow(t.Context(), r)
	t.Cleanup(w.close)
	return w
}

// A pause that ends after the last look at what may be started, and before the window goes to
// sleep, wakes it all the same. With nothing under way nothing else would.
func TestAPauseThatIsJustOverIsNotSleptThrough(t *testing.T) {
	t.Parallel()
	for name, pause := range map[string]func(w *window, until time.Time){
		"of a segment":    func(w *window, until time.Time) { w.chain.segs[0].notBefore = until },
		"of every reader": func(w *window, until time.Time) { w.r.quiet.Store(&until) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := (&fakeAPI{}).stream()
				s.Readers = 2
				r, err := newReader(s, checkpoint.Checkpoint{Position: checkpoint.Position{EventID: "event_000001", CreatedAt: time.Now().Add(-24 * time.Hour)}})
				require.NoError(t, err)
				w := newWindow(t.Context(), r)
				looked := time.Now()
				pause(w, looked.Add(time.Millisecond))
				time.Sleep(2 * time.Millisecond)
				w.wait(looked)
				require.Equal(t, 2*time.Millisecond, time.Since(looked))
				w.close()
			})
		})
	}
}

// What a page costs is what Go's allocator takes for its body, if that is large.
func TestAPageCostsWhatItTakesOfTheHeap(t *testing.T) {
	t.Parallel()
	for _, size := range []int{32<<10 + 1, 40 << 10, 85_123, 200_000, 1<<20 + 1} {
		require.EqualValues(t, cap(slices.Grow([]byte(nil), size)), pageCost(nil, size), "%d bytes", size)
	}
	require.EqualValues(t, 1000+3*eventCost, pageCost(make([]Event, 3), 1000), "a small one is counted by its bytes")
}
