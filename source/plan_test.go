package source

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// Segments are made for as many readers as the rate limit has use for.
func TestHowManyReadersAreOfUse(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		limiter *rate.Limiter
		took    time.Duration
		want    int
	}{
		"no limiter":             {nil, 100 * time.Millisecond, 16},
		"a limit that is none":   {rate.NewLimiter(rate.Inf, 1), time.Millisecond, 16},
		"nothing measured yet":   {rate.NewLimiter(rate.Inf, 1), 0, 2},
		"an API near by":         {rate.NewLimiter(100, 1), time.Millisecond, 2},
		"an API of 50 ms":        {rate.NewLimiter(100, 1), 50 * time.Millisecond, 7},
		"more than there may be": {rate.NewLimiter(100, 1), time.Second, 16},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTestWindow(t, time.Now().Add(-time.Hour))
				w.r.client.Limiter, w.plan.took = tc.limiter, tc.took
				require.Equal(t, tc.want, w.plan.useful())
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
			w.plan.ahead, w.plan.pageCost = 20, 1000
			head := w.chain.segs[0]
			head.perPage = time.Minute
			next := &segment{from: from.Add(time.Duration(pages) * time.Minute), first: "event_000900", stopped: true}
			w.chain.segs = append(w.chain.segs, next)
			g, ok := w.plan.gap()
			require.Equal(t, divided, ok, "%d pages", pages)
			if divided {
				require.Equal(t, gap{at: from.Add(time.Duration(pages/2) * time.Minute).Truncate(time.Millisecond), split: true}, g)
			}
			head.ended = true
			_, ok = w.plan.gap()
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
		w.plan.ahead, w.plan.pageCost = 20, 1000
		head := w.chain.segs[0]
		head.perPage = time.Minute
		for pages, want := range map[int]int64{5: 5, 20: 20, 50: 20} {
			w.chain.segs = []*segment{head, {from: from.Add(time.Duration(pages) * time.Minute), first: "event_000900", stopped: true}}
			require.Equal(t, want*w.plan.pageCost, w.plan.claim(0), "%d pages", pages)
		}
	})
}
