package source_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"

	"workos-relay/checkpoint"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// allTypes is what the tests ask for: the default set.
func allTypes(t *testing.T) []string {
	t.Helper()
	types, err := source.Expand([]string{"*"})
	require.NoError(t, err)
	return types
}

func streamOf(t *testing.T, srv *sourcetest.Server) *source.Stream {
	t.Helper()
	c := &source.Client{APIKey: sourcetest.DefaultAPIKey, Endpoint: srv.URL(), HTTPClient: srv.Client()}
	if overWire(t) {
		w := wire(t, srv)
		c.Endpoint, c.HTTPClient = "https://"+sourcetest.WireHost, nil
		c.DialWith(w.Dial, w.TLS())
		t.Cleanup(c.CloseIdleConnections)
	}
	return &source.Stream{Client: c, Events: allTypes(t)}
}

// readToTip reads until an empty page at the tip.
func readToTip(ctx context.Context, s *source.Stream, after checkpoint.Position) ([]source.Event, error) {
	var events []source.Event
	for page, err := range s.Pages(ctx, after) {
		if err != nil {
			return events, err
		}
		if len(page.Events) == 0 {
			break
		}
		events = append(events, page.Events...)
	}
	return events, nil
}

// served compares what was read with what the server holds, byte for byte.
func served(t *testing.T, srv *sourcetest.Server, f sourcetest.Filter, events []source.Event) {
	t.Helper()
	i := 0
	for raw := range srv.Events(f) {
		require.Less(t, i, len(events), "events are missing at the end")
		require.Equal(t, string(raw), string(events[i].Raw), "event %d", i)
		i++
	}
	require.Len(t, events, i)
}

func TestEveryFaultIsSurvived(t *testing.T) {
	t.Parallel()
	faults := []sourcetest.Fault{
		sourcetest.Status(408), sourcetest.Status(429), sourcetest.Status(500), sourcetest.Status(502), sourcetest.Status(503),
		sourcetest.Status(504), sourcetest.Status(401), sourcetest.Status(403), sourcetest.TooManyRequests(7*time.Second, 0),
		sourcetest.TooManyRequests(7*time.Second, 1), sourcetest.Reset(), sourcetest.Cut(0.5), sourcetest.Cut(0), sourcetest.Hang(), sourcetest.Stall(0.5), sourcetest.Stall(0),
		sourcetest.Slow(2*time.Second, time.Second), sourcetest.Trickle(3 * time.Second), sourcetest.Malformed(), sourcetest.WrongShape(),
		sourcetest.Redirect("https://elsewhere.example/events"), sourcetest.Inversion(),
	}
	for _, f := range faults {
		t.Run(f.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Events: 950, Seed: 1}))
				srv.Fail(3, sourcetest.OK())
				srv.Fail(4, f)
				s := streamOf(t, srv)
				ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
				defer cancel()
				events, err := readToTip(ctx, s, checkpoint.Position{})
				require.NoError(t, err)
				require.Len(t, events, 950)
				if f.String() != "inversion" {
					served(t, srv, sourcetest.Filter{}, events)
				}
				require.LessOrEqual(t, srv.Count(), 10+4+1, "each page once, each fault once")
			})
		})
	}
}

func TestRandomFaultsInARow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Events: 5000, Seed: 2, SameInstant: 7}), sourcetest.WithLatency(20*time.Millisecond, 30*time.Millisecond))
		srv.FailRandomly(0.4, 3, sourcetest.Status(503), sourcetest.Reset(), sourcetest.Cut(0.9), sourcetest.Malformed(), sourcetest.Status(429), sourcetest.Hang())
		events, err := readToTip(t.Context(), streamOf(t, srv), checkpoint.Position{})
		require.NoError(t, err)
		served(t, srv, sourcetest.Filter{}, events)
	})
}

func TestEachLostCursor(t *testing.T) {
	t.Parallel()
	for how, name := range map[sourcetest.LostCursor]string{
		sourcetest.LostBadRequest: "bad request", sourcetest.LostNotFound: "not found", sourcetest.LostUnprocessable: "unprocessable",
		sourcetest.LostReplay: "replay", sourcetest.LostEmpty: "empty",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Events: 1000, Seed: 1}), sourcetest.WithLostCursor(how))
				s := streamOf(t, srv)
				var middle source.Event
				for page, err := range s.Pages(t.Context(), checkpoint.Position{}) {
					require.NoError(t, err)
					middle = page.Events[50]
					break
				}
				// In the API's memory the position's event no longer exists.
				gone := checkpoint.Position{EventID: "event_01GONE", CreatedAt: middle.CreatedAt.Add(2 * time.Hour)}
				events, err := readToTip(t.Context(), s, gone)
				if how == sourcetest.LostEmpty {
					// readToTip ends at an empty page; the error must come in place of it.
					require.Empty(t, events)
				}
				require.ErrorIs(t, err, source.ErrCursorLost)
				require.Empty(t, events)
			})
		})
	}
	t.Run("replay from the start", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			srv := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Events: 1000, Seed: 1}))
			srv.Fail(4, sourcetest.OK())
			srv.Fail(1, sourcetest.ReplayFromStart())
			events, err := readToTip(t.Context(), streamOf(t, srv), checkpoint.Position{})
			require.ErrorIs(t, err, source.ErrCursorLost)
			require.Len(t, events, 400)
		})
	})
}

// TestRepeatedEventsAreLeftOut: pages that overlap, or hold an event twice, cost nothing but
// themselves.
func TestRepeatedEventsAreLeftOut(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		opts     []sourcetest.Option
		faults   []sourcetest.Fault
		readers  int
		repeated int // at least
	}{
		"an inclusive cursor":        {opts: []sourcetest.Option{sourcetest.WithOverlap(1)}, repeated: 50},
		"pages that overlap by ten":  {opts: []sourcetest.Option{sourcetest.WithOverlap(10)}, repeated: 500},
		"pages that overlap by most": {opts: []sourcetest.Option{sourcetest.WithOverlap(90)}, repeated: 5000},
		"a single overlap":           {faults: []sourcetest.Fault{sourcetest.Overlap(1)}, repeated: 1},
		"overlaps of several sizes":  {faults: []sourcetest.Fault{sourcetest.Overlap(1), sourcetest.Overlap(50), sourcetest.Overlap(99), sourcetest.Overlap(2)}, repeated: 152},
		"a page that comes twice":    {faults: []sourcetest.Fault{sourcetest.Replay()}, repeated: 100},
		"twice within a page":        {faults: []sourcetest.Fault{sourcetest.Twice(), sourcetest.Twice()}, repeated: 2},
		"in a backlog, inclusive":    {opts: []sourcetest.Option{sourcetest.WithOverlap(1)}, readers: 8, repeated: 50},
		"in a backlog, by ten":       {opts: []sourcetest.Option{sourcetest.WithOverlap(10)}, readers: 8, repeated: 500},
		"in a backlog, twice within a page": {
			faults: []sourcetest.Fault{sourcetest.Twice(), sourcetest.Twice(), sourcetest.Twice(), sourcetest.Twice()}, readers: 8, repeated: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := sourcetest.New(append(tc.opts, sourcetest.WithLatency(50*time.Millisecond, 0), sourcetest.WithPopulation(sourcetest.Population{
					Seed: 4, Profile: []sourcetest.Span{{Length: 24 * time.Hour, Events: 5000}, {Length: time.Hour}},
				}))...)
				srv.Fail(3, sourcetest.OK())
				for _, f := range tc.faults {
					srv.Fail(1, f)
				}
				s := streamOf(t, srv)
				s.Readers = tc.readers
				s.Limit = 100
				repeated, joined := 0, 0
				s.Hooks = &source.Hooks{
					OnRepeated: func(i source.RepeatedInfo) { repeated += i.Count },
					OnBackfill: func(i source.BackfillInfo) { joined += i.Joined },
				}
				events, err := readToTip(t.Context(), s, checkpoint.Position{})
				require.NoError(t, err)
				served(t, srv, sourcetest.Filter{}, events)
				require.GreaterOrEqual(t, repeated, tc.repeated)
				if tc.readers > 1 {
					require.Positive(t, joined, "several readers are at work all the same")
				}

				// A reader that begins in the middle knows no event but its own.
				middle := events[2500]
				rest, err := readToTip(t.Context(), s, middle.Position())
				require.NoError(t, err)
				require.Equal(t, events[2501].ID, rest[0].ID)
				require.Len(t, rest, 2499)
			})
		})
	}
}

// A position in a quiet environment is not taken for a lost one, however old it is.
func TestSilenceIsNoLostCursor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Events: 100, Seed: 1}), sourcetest.WithHoldBack(5*time.Second))
		time.Sleep(40 * 24 * time.Hour)
		s := streamOf(t, srv)
		s.PollInterval = time.Minute
		var last source.Event
		pages := 0
		ctx, cancel := context.WithTimeout(t.Context(), 12*time.Hour)
		defer cancel()
		for page, err := range s.Pages(ctx, checkpoint.Position{}) {
			require.True(t, err == nil || ctx.Err() != nil, err)
			if pages++; len(page.Events) > 0 {
				last = page.Events[len(page.Events)-1]
			}
		}
		require.Len(t, srv.IDs(sourcetest.Filter{}), 100)
		require.NotEmpty(t, last.ID)
		require.InDelta(t, 3*pages, srv.Count(), 10, "two looks by time a minute")
	})
}

// A position whose type the API refuses meanwhile is not listed with the other types. That does not
// mean that its cursor is lost.
func TestAPositionOfARefusedTypeIsNoLostCursor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Events: 100, Seed: 1}), sourcetest.WithHoldBack(5*time.Second))
		time.Sleep(time.Hour)
		s := streamOf(t, srv)
		s.PollInterval = time.Minute
		events, err := readToTip(t.Context(), s, checkpoint.Position{})
		require.NoError(t, err)
		last := events[len(events)-1]
		srv.RefuseTypes(last.Event)
		ctx, cancel := context.WithTimeout(t.Context(), 12*time.Hour)
		defer cancel()
		polls := 0
		for page, err := range s.Pages(ctx, last.Position()) {
			require.True(t, err == nil || ctx.Err() != nil, err)
			require.Empty(t, page.Events)
			polls++
		}
		require.Greater(t, polls, 100)
	})
}

func TestWireFormsAreUnderstood(t *testing.T) {
	t.Parallel()
	for form, only := range map[source.EventList]sourcetest.EventForm{
		source.EventListComma: sourcetest.Comma, source.EventListRepeat: sourcetest.Repeat, source.EventListBrackets: sourcetest.Brackets,
	} {
		synctest.Test(t, func(t *testing.T) {
			srv := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Events: 150, Seed: 1}), sourcetest.WithEventForms(only))
			s := streamOf(t, srv)
			s.Client.EventList = form
			events, err := readToTip(t.Context(), s, checkpoint.Position{})
			require.NoError(t, err)
			served(t, srv, sourcetest.Filter{}, events)
		})
	}
}

func TestFiltersAndTimes(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]sourcetest.Option{
		"documented":       nil,
		"exclusive bounds": {sourcetest.WithExclusiveRange(true, true)},
		"ranges ignored":   {sourcetest.WithRanges(sourcetest.RangesIgnored)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := sourcetest.New(append(opts, sourcetest.WithPopulation(sourcetest.Population{Events: 2000, Seed: 5}))...)
				s := streamOf(t, srv)
				all, err := readToTip(t.Context(), s, checkpoint.Position{})
				require.NoError(t, err)
				from := all[777].CreatedAt
				events, err := readToTip(t.Context(), s, checkpoint.Position{CreatedAt: from})
				require.NoError(t, err)
				served(t, srv, sourcetest.Filter{From: from}, events)

				s.Events = []string{source.DsyncUserCreated, source.UserCreated}
				events, err = readToTip(t.Context(), s, checkpoint.Position{})
				require.NoError(t, err)
				require.NotEmpty(t, events)
				served(t, srv, sourcetest.Filter{Types: s.Events}, events)
			})
		})
	}
}

func TestDescendingIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Events: 1000, Seed: 1}))
		srv.Fail(2, sourcetest.OK())
		srv.Fail(1, sourcetest.Descending())
		events, err := readToTip(t.Context(), streamOf(t, srv), checkpoint.Position{})
		require.ErrorIs(t, err, source.ErrDescending)
		require.Len(t, events, 200)
	})
}

func TestTheOwnLimitKeepsUnderTheAPIs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Events: 20_000, Seed: 1}),
			sourcetest.WithRateLimit(100, time.Second, 0))
		s := streamOf(t, srv)
		s.Client.Limiter = rate.NewLimiter(80, 10)
		events, err := readToTip(t.Context(), s, checkpoint.Position{})
		require.NoError(t, err)
		require.Len(t, events, 20_000)
		require.Zero(t, srv.Stats().ByStatus[http.StatusTooManyRequests])
		require.Equal(t, 201, srv.Count())
	})
}

func TestLiveEventsOverHTTP(t *testing.T) {
	t.Parallel()
	srv := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Events: 3000, Seed: 1}))
	require.NoError(t, srv.Start(""))
	defer func() { require.NoError(t, srv.Close()) }()
	s := &source.Stream{
		Client:       &source.Client{APIKey: sourcetest.DefaultAPIKey, Endpoint: srv.URL()},
		Events:       allTypes(t),
		PollInterval: time.Millisecond,
	}
	defer s.Client.CloseIdleConnections()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	live := make(chan error, 1)
	go func() { live <- srv.Live(ctx, sourcetest.LiveConfig{Rate: 5000, Seed: 9, Max: 500}) }()
	var events []source.Event
	for page, err := range s.Pages(ctx, checkpoint.Position{}) {
		require.NoError(t, err)
		if events = append(events, page.Events...); len(events) == 3500 {
			break
		}
	}
	require.NoError(t, <-live)
	served(t, srv, sourcetest.Filter{}, events)
}

func BenchmarkPages(b *testing.B) {
	const n = 20_000
	srv := sourcetest.New(sourcetest.WithPopulation(sourcetest.Population{Events: n, Seed: 1}))
	types, err := source.Expand([]string{"*"})
	require.NoError(b, err)
	s := &source.Stream{Client: &source.Client{APIKey: sourcetest.DefaultAPIKey, Endpoint: srv.URL(), HTTPClient: srv.Client()}, Events: types}
	b.ReportAllocs()
	for b.Loop() {
		events, err := 0, error(nil)
		var page source.Page
		for page, err = range s.Pages(b.Context(), checkpoint.Position{}) {
			if events += len(page.Events); err != nil || page.Tip || events == n {
				break
			}
		}
		if err != nil || events != n {
			b.Fatal(fmt.Errorf("%d events: %w", events, err))
		}
	}
	b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "events/s")
}
