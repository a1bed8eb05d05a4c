package source

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

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

// Segments are made for as many readers as the rate limit has use for.
func TestHowManyReadersAreOfUse(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		limiter *rate.Limiter
		took    time.Duration
		want    int
	}{
		"no limit of our own":    {nil, 100 * time.Millisecond, 16},
		"a limit that is none":   {rate.NewLimiter(rate.Inf, 1), time.Millisecond, 16},
		"nothing measured yet":   {rate.NewLimiter(rate.Inf, 1), 0, 2},
		"an API near by":         {rate.NewLimiter(100, 1), time.Millisecond, 2},
		"an API of 50 ms":        {rate.NewLimiter(100, 1), 50 * time.Millisecond, 7},
		"more than there may be": {rate.NewLimiter(100, 1), time.Second, 16},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTestWindow(t, time.Now().Add(-time.Hour))
				w.r.client.Limiter, w.took = tc.limiter, tc.took
				require.Equal(t, tc.want, w.useful())
			})
		})
	}
}

// If no segment is longer than it was made for, the one that has most left is divided, so that
// nobody is idle at the end.
func TestWhatIsLeftIsShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		from := time.Now().Add(-time.Hour)
		for pages, divided := range map[int]bool{2 * minSegmentPages: false, 2*minSegmentPages + 2: true} {
			w := newTestWindow(t, from)
			w.ahead, w.pageCost = 20, 1000
			head := w.segs[0]
			head.perPage = time.Minute
			next := &segment{from: from.Add(time.Duration(pages) * time.Minute), first: "event_000900", stopped: true}
			w.segs = append(w.segs, next)
			g, ok := w.gap()
			require.Equal(t, divided, ok, "%d pages", pages)
			if divided {
				require.Equal(t, gap{at: from.Add(time.Duration(pages/2) * time.Minute).Truncate(time.Millisecond), split: true}, g)
			}
			head.ended = true
			_, ok = w.gap()
			require.False(t, ok, "nothing is left to be read")
		}
	})
}

// The head flows out, but the segments behind it must leave room for one more, in case it is long.
func TestAHeadKeepsRoomToBeDivided(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		from := time.Now().Add(-time.Hour)
		w := newTestWindow(t, from)
		w.ahead, w.pageCost = 20, 1000
		head := w.segs[0]
		head.perPage = time.Minute
		for pages, want := range map[int]int64{5: 5, 20: 20, 50: 20} {
			w.segs = []*segment{head, {from: from.Add(time.Duration(pages) * time.Minute), first: "event_000900", stopped: true}}
			require.Equal(t, want*w.pageCost, w.claim(0), "%d pages", pages)
		}
	})
}

// A pause that ends after the last look at what may be started, and before the window goes to
// sleep, wakes it all the same. With nothing under way nothing else would.
func TestAPauseThatIsJustOverIsNotSleptThrough(t *testing.T) {
	t.Parallel()
	for name, pause := range map[string]func(w *window, until time.Time){
		"of a segment":    func(w *window, until time.Time) { w.segs[0].notBefore = until },
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
