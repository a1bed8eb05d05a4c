package source

import (
	"context"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
)

func TestPagesAreFetchedOnceInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		api.add(250, epoch.Add(-time.Hour))
		s, _ := api.stream()
		pages, err := take(t, s, checkpoint.Position{}, 4)
		require.NoError(t, err)
		require.Equal(t, numbered(0, 249), ids(pages))
		require.Equal(t, []bool{false, false, true, true}, []bool{pages[0].Tip, pages[1].Tip, pages[2].Tip, pages[3].Tip})
		require.Empty(t, pages[3].Events)
		require.Equal(t, "req_ok", pages[0].RequestID)
		require.Positive(t, pages[0].Size)
		require.WithinDuration(t, time.Now(), pages[3].Now, time.Second)

		require.Len(t, api.queries, 4, "each page once")
		for _, q := range api.queries {
			require.Equal(t, "asc", q.Get("order"))
			require.Equal(t, "100", q.Get("limit"))
			require.Empty(t, q.Get("range_start"))
			require.False(t, q.Has("organization_id"))
		}
		require.Equal(t, []string{"", "event_000099", "event_000199", "event_000249"},
			[]string{api.queries[0].Get("after"), api.queries[1].Get("after"), api.queries[2].Get("after"), api.queries[3].Get("after")})
		require.Equal(t, time.Second, api.times[3].Sub(api.times[2]), "only the tip waits")
		require.Equal(t, api.times[0], api.times[2])
	})
}

func TestIdlePollingKeepsTheInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		api.add(3, epoch)
		s, _ := api.stream()
		s.PollInterval = 5 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute+time.Second)
		defer cancel()
		var last error
		for _, err := range s.Pages(ctx, checkpoint.Position{EventID: "event_000002", CreatedAt: epoch}) {
			last = err
		}
		require.Equal(t, context.DeadlineExceeded, last)
		require.Len(t, api.times, 13)
		for i := 1; i < len(api.times); i++ {
			require.Equal(t, 5*time.Second, api.times[i].Sub(api.times[i-1]))
		}
	})
}

func TestASlowConsumerDoesNotAddToTheInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		s, _ := api.stream()
		for _, err := range s.Pages(t.Context(), checkpoint.Position{}) {
			require.NoError(t, err)
			time.Sleep(700 * time.Millisecond)
			if api.requests() == 3 {
				break
			}
		}
		require.Equal(t, time.Second, api.times[2].Sub(api.times[1]))
	})
}

func TestWakePollsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		s, _ := api.stream()
		wake := make(chan struct{}, 1)
		s.Wake, s.PollInterval = wake, time.Hour
		go func() {
			time.Sleep(10 * time.Minute)
			wake <- struct{}{}
			for range 1000 { // a flood
				select {
				case wake <- struct{}{}:
				default:
				}
				time.Sleep(time.Millisecond)
			}
			close(wake)
		}()
		pages, err := take(t, s, checkpoint.Position{}, 12)
		require.NoError(t, err)
		require.Len(t, pages, 12)
		require.Equal(t, 10*time.Minute, api.times[1].Sub(api.times[0]))
		require.Equal(t, minPollGap, api.times[2].Sub(api.times[1]), "a flood of wakes does not make a busy loop")
		for i := 2; i < 11; i++ {
			require.GreaterOrEqual(t, api.times[i].Sub(api.times[i-1]), minPollGap)
		}
		for range wake { // until it is closed and empty
		}
		api.times = nil
		_, err = take(t, s, checkpoint.Position{}, 2)
		require.NoError(t, err)
		require.Equal(t, time.Hour, api.times[1].Sub(api.times[0]), "a closed channel wakes nobody")
	})
}

func TestBreakLeavesNothingUnderWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		api.add(500, epoch)
		s, _ := api.stream()
		pages, err := take(t, s, checkpoint.Position{}, 1)
		require.NoError(t, err)
		require.Len(t, pages[0].Events, 100)
		time.Sleep(time.Hour)
		require.Equal(t, 1, api.requests())
		// Reading on from the last page's end repeats and leaves out nothing.
		more, err := take(t, s, pages[0].Events[99].Position(), 4)
		require.NoError(t, err)
		require.Equal(t, numbered(100, 499), ids(more))
	})
}

func TestStartAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		at := epoch.Add(-time.Hour)
		api.add(10, at)
		s, _ := api.stream()
		s.OrganizationID = "org_1"
		// 5 ms after the first event: the event of that very instant is wanted, the one that the
		// margin brings along is not.
		pages, err := take(t, s, checkpoint.Position{CreatedAt: at.Add(5 * time.Millisecond)}, 2)
		require.NoError(t, err)
		require.Equal(t, numbered(5, 9), ids(pages))
		require.Equal(t, at.Add(4*time.Millisecond).Format(apiTime), api.queries[0].Get("range_start"))
		require.Equal(t, "org_1", api.queries[0].Get("organization_id"))
		require.Empty(t, api.queries[0].Get("after"))
		require.Equal(t, "event_000009", api.queries[1].Get("after"))
		require.Empty(t, api.queries[1].Get("range_start"), "never together with after")
	})
}

func TestStartAtATimeOfAnAPIWithoutRanges(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		at := epoch.Add(-time.Hour)
		api.add(350, at)
		api.events[300].at = at // a late event after the beginning is relayed: order decides, not time
		deaf := roundTripStripping(api, "range_start", "range_end")
		s, _ := api.stream()
		s.Client.HTTPClient.Transport = deaf
		pages, err := take(t, s, checkpoint.Position{CreatedAt: at.Add(220 * time.Millisecond)}, 3)
		require.NoError(t, err)
		require.Equal(t, numbered(220, 349), ids(pages))
		require.Equal(t, 5, api.requests(), "two pages to skip, two to yield, one empty poll")
	})
}

func TestStartLongAgoGoesByStretches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		api.add(2, epoch.Add(-20*24*time.Hour))
		api.add(1, epoch.Add(-time.Second))
		s, _ := api.stream()
		from := epoch.Add(-80 * 24 * time.Hour)
		pages, err := take(t, s, checkpoint.Position{CreatedAt: from}, 1)
		require.NoError(t, err)
		require.Equal(t, numbered(0, 2), ids(pages))
		require.Zero(t, time.Since(epoch), "empty stretches are not waited for")
		require.Len(t, api.queries, 3)
		for i, q := range api.queries {
			start := parseQueryTime(t, q, "range_start")
			require.Equal(t, from.Add(time.Duration(i)*maxRange-rangeMargin), start)
			if i < 2 {
				require.Equal(t, start.Add(maxRange+rangeMargin), parseQueryTime(t, q, "range_end"))
			}
		}
		require.False(t, api.queries[2].Has("range_end"), "the last stretch is open")

		// With nothing at all, the start stays far enough behind the tip for events that are held
		// back.
		api.events, api.queries, api.times = nil, nil, nil
		_, err = take(t, s, checkpoint.Position{CreatedAt: epoch.Add(-maxRange - heldBack + time.Minute)}, 300)
		require.NoError(t, err)
		for i, q := range api.queries {
			require.LessOrEqual(t, parseQueryTime(t, q, "range_start"), api.times[i].Add(-heldBack))
		}
	})
}

func TestPartOfAStretchIsNotTheTip(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		api.add(2, epoch.Add(-75*24*time.Hour))
		api.add(2, epoch.Add(-time.Hour))
		s, _ := api.stream()
		pages, err := take(t, s, checkpoint.Position{CreatedAt: epoch.Add(-80 * 24 * time.Hour)}, 2)
		require.NoError(t, err)
		require.Equal(t, numbered(0, 3), ids(pages))
		require.False(t, pages[0].Tip)
		require.True(t, pages[1].Tip)
		require.Zero(t, time.Since(epoch))
	})
}

func TestNow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		api.add(300, epoch.Add(-time.Hour))
		s, _ := api.stream()
		time.Sleep(90 * time.Minute)
		now, err := s.Now(t.Context())
		require.NoError(t, err)
		require.Equal(t, epoch.Add(90*time.Minute), now)
		require.Len(t, api.queries, 1)
		require.Equal(t, "1", api.queries[0].Get("limit"))
		require.Equal(t, "asc", api.queries[0].Get("order"))
	})
}

func TestStreamFieldsAreChecked(t *testing.T) {
	t.Parallel()
	for _, s := range []*Stream{
		{},
		{Events: []string{"dsync.*"}},
		{Events: []string{"a,b"}},
		{Events: []string{""}},
		{Events: []string{"+a.b"}},
		{Events: []string{UserCreated}, Limit: 101},
		{Events: []string{UserCreated}, Limit: -1},
		{Events: []string{UserCreated}, Client: &Client{}},
	} {
		_, err := take(t, s, checkpoint.Position{}, 1)
		require.ErrorIs(t, err, ErrMisconfigured)
		_, err = s.Now(t.Context())
		require.ErrorIs(t, err, ErrMisconfigured)
	}
}

func parseQueryTime(t *testing.T, q url.Values, name string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, q.Get(name))
	require.NoError(t, err)
	return at
}
