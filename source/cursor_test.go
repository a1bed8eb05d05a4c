//nolint:bodyclose // a fault is a function that makes a response; the client closes it
package source

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
)

func TestALostCursorStops(t *testing.T) {
	t.Parallel()
	for name, unknown := range map[string]func(*fakeAPI) func() *http.Response{
		"400": func(*fakeAPI) func() *http.Response {
			return func() *http.Response { return respond(400, `{"message":"bad cursor"}`, "X-Request-Id", "req_x") }
		},
		"404": func(*fakeAPI) func() *http.Response { return nil },
		"410": func(*fakeAPI) func() *http.Response {
			return func() *http.Response { return respond(410, ``) }
		},
		"422": func(*fakeAPI) func() *http.Response {
			return func() *http.Response {
				return respond(422, `{"message":"m","errors":["after"]}`, "X-Request-Id", "req_422")
			}
		},
		"replayed from long ago": func(f *fakeAPI) func() *http.Response {
			return func() *http.Response { return respondList(f.events[0].json(), f.events[1].json()) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := &fakeAPI{}
				api.unknownAfter = unknown(api)
				api.add(5, epoch.Add(-time.Hour))
				s, _ := api.stream()
				gone := checkpoint.Position{EventID: "event_gone", CreatedAt: epoch}
				pages, err := take(t, s, gone, 1)
				require.ErrorIs(t, err, ErrCursorLost)
				require.Empty(t, pages, "nothing of it is yielded")
				var e *CursorLostError
				require.ErrorAs(t, err, &e)
				require.Equal(t, gone, e.Position)
				require.ErrorContains(t, err, "event_gone")
				require.ErrorContains(t, err, "choose where to go on")
				switch {
				case name == "410": // its body is not WorkOS's: it is waited out before anything is made of it
					require.GreaterOrEqual(t, time.Since(epoch), refusedLimit)
				case strings.HasPrefix(name, "4"):
					require.Equal(t, "100", api.queries[0].Get("limit"))
					for i, after := range []bool{true, false, true} { // the request, the same without the cursor, and with nothing else
						require.Equal(t, after, api.queries[i].Has("after"))
						require.Equal(t, i == 0, api.queries[i].Has("order"))
					}
					limit := map[string]time.Duration{"400": cursorLimit, "404": cursorLimit, "422": cursorLimit}[name]
					require.Equal(t, limit, time.Since(epoch), "it is refused for a while")
					require.Zero(t, api.requests()%3)
					require.LessOrEqual(t, api.requests(), 3*20)
					var refusal *APIError
					require.ErrorAs(t, err, &refusal)
				default:
					require.Equal(t, 1, api.requests())
					require.Equal(t, "req_ok", e.RequestID)
				}
			})
		})
	}
}

func TestTheCursorIsLostInMidStream(t *testing.T) {
	t.Parallel()
	for name, replay := range map[string][2]int{
		"a recent event comes again":     {180, 181},
		"a recent page comes again":      {100, 200},
		"the list from its start":        {0, 100},
		"a full page up to the position": {150, 250},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := &fakeAPI{}
				api.add(250, epoch)
				api.fault = func(n int, _ url.Values) (*http.Response, error) {
					if n < 4 {
						return nil, nil
					}
					var parts []string
					for _, e := range api.events[replay[0]:replay[1]] {
						parts = append(parts, e.json())
					}
					return respondList(parts...), nil
				}
				s, _ := api.stream()
				pages, err := take(t, s, checkpoint.Position{}, 9)
				require.ErrorIs(t, err, ErrCursorLost)
				require.Equal(t, numbered(0, 249), ids(pages))
			})
		})
	}
	t.Run("an earlier page comes again once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			api := &fakeAPI{}
			api.add(450, epoch)
			api.fault = func(n int, _ url.Values) (*http.Response, error) {
				if n != 4 {
					return nil, nil
				}
				var parts []string
				for _, e := range api.events[200:300] {
					parts = append(parts, e.json())
				}
				return respondList(parts...), nil
			}
			s, _ := api.stream()
			pages, err := take(t, s, checkpoint.Position{}, 5)
			require.NoError(t, err)
			require.Equal(t, numbered(0, 449), ids(pages))
		})
	})
	t.Run("the position itself comes again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			api := &fakeAPI{}
			api.add(250, epoch)
			api.fault = func(n int, _ url.Values) (*http.Response, error) {
				if n < 4 {
					return nil, nil
				}
				return respondList(api.events[249].json()), nil
			}
			s, _ := api.stream()
			pages, err := take(t, s, checkpoint.Position{}, 9)
			require.NoError(t, err)
			require.Equal(t, numbered(0, 249), ids(pages), "it is not relayed again")
		})
	})
}

func TestACursorThatGoesSilentIsContinuedByTime(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		newer time.Duration // how long after the position's event another one happens
		lost  bool
	}{
		"what follows is clearly newer":     {time.Minute + time.Millisecond, true},
		"what follows may be mere disorder": {time.Minute - time.Millisecond, false},
		"what follows may be held back":     {time.Hour + 58*time.Minute, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := &fakeAPI{}
				api.add(5, epoch)
				last := api.events[4].at
				api.fault = func(_ int, q url.Values) (*http.Response, error) {
					if q.Get("after") == "event_000004" {
						return respondList(), nil
					}
					return nil, nil
				}
				s, logs := api.stream()
				s.PollInterval = 10 * time.Minute
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour+time.Minute)
				defer cancel()
				var final error
				var pages []Page
				for page, err := range s.Pages(ctx, checkpoint.Position{}) {
					if pages = append(pages, page); err != nil {
						final = err
					} else if len(page.Events) == 5 {
						api.add(1, last.Add(tc.newer))
					} else if len(page.Events) > 0 {
						require.LessOrEqual(t, time.Since(epoch), 20*time.Minute, "it is looked into at the next poll")
					}
				}
				require.Equal(t, context.DeadlineExceeded, final)
				if tc.lost {
					require.Equal(t, numbered(0, 5), ids(pages))
					require.Equal(t, 1, logs.FilterMessageSnippet("going on by time").Len())
					return
				}
				require.Equal(t, numbered(0, 4), ids(pages))
			})
		})
	}
}

// An event that comes between the poll and the look by time proves nothing.
func TestSilenceIsNotMisjudged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		api.add(1, epoch.Add(-time.Hour))
		api.add(1, epoch.Add(-time.Minute*20))
		api.fault = func(n int, _ url.Values) (*http.Response, error) {
			if n == 1 {
				return respondList(), nil
			}
			return nil, nil
		}
		s, _ := api.stream()
		pages, err := take(t, s, checkpoint.Position{EventID: "event_000000", CreatedAt: epoch.Add(-time.Hour)}, 2)
		require.NoError(t, err)
		require.Equal(t, numbered(1, 1), ids(pages))
		require.Equal(t, 4, api.requests(), "the poll, the look by time, the poll again, the next poll")
	})
}

func TestAPassingRefusalIsNoLostCursor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{fault: failing(1, func() (*http.Response, error) { return respond(404, "try later"), nil })}
		api.add(5, epoch)
		s, _ := api.stream()
		pages, err := take(t, s, checkpoint.Position{EventID: "event_000001", CreatedAt: epoch}, 1)
		require.NoError(t, err)
		require.Equal(t, numbered(2, 4), ids(pages))

		// Where the probe fails in a way that may pass, nothing is concluded from it.
		first := api.requests()
		api.fault = func(n int, _ url.Values) (*http.Response, error) {
			switch n - first {
			case 1:
				return respond(404, ""), nil
			case 2:
				return respond(503, ""), nil
			}
			return nil, nil
		}
		pages, err = take(t, s, checkpoint.Position{EventID: "event_000001", CreatedAt: epoch}, 1)
		require.NoError(t, err)
		require.Equal(t, numbered(2, 4), ids(pages))
	})
}

func TestAStepBackWithinAMinuteIsRelayed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		back time.Duration
		lost bool
	}{{time.Second, false}, {time.Minute, false}, {time.Minute + time.Millisecond, true}} {
		api := &fakeAPI{}
		api.add(1, epoch)
		api.add(1, epoch.Add(-tc.back))
		s, _ := api.stream()
		var inversions []InversionInfo
		s.Hooks.OnInversion = func(i InversionInfo) { inversions = append(inversions, i) }
		pages, err := take(t, s, checkpoint.Position{EventID: "event_000000", CreatedAt: epoch}, 1)
		if tc.lost {
			require.ErrorIs(t, err, ErrCursorLost)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, numbered(1, 1), ids(pages))
		require.Equal(t, []InversionInfo{{Count: 1, Position: checkpoint.Position{EventID: "event_000001", CreatedAt: epoch.Add(-tc.back)}}}, inversions)
		// With only the id known, time says nothing.
		_, err = take(t, s, checkpoint.Position{EventID: "event_000000"}, 1)
		require.NoError(t, err)
	}
}

func TestDescendingPages(t *testing.T) {
	t.Parallel()
	at := func(ms ...int) (out []fakeEvent) {
		for i, m := range ms {
			out = append(out, fakeEvent{id: fmt.Sprintf("event_%06d", i), typ: UserCreated, at: epoch.Add(time.Duration(m) * time.Millisecond)})
		}
		return out
	}
	for name, tc := range map[string]struct {
		events     []fakeEvent
		refused    bool
		inversions int
	}{
		"two events":                 {at(2000, 0), false, 1},
		"two events, a minute apart": {at(60_000, 0), false, 1},
		"two events, far apart":      {at(60_001, 0), true, 0},
		"three events":               {at(2000, 1000, 0), true, 0},
		"the last one late":          {at(9000, 9000, 9000, 0), false, 1},
		"ten different times":        {at(9, 8, 7, 6, 5, 4, 3, 2, 1, 0), true, 0},
		"long, with equal times":     {at(9000, 9000, 5000, 5000, 1), true, 0},
		"nine different times":       {at(8, 7, 6, 5, 4, 3, 2, 1, 0), false, 8},
		"small":                      {at(1999, 0), false, 1},
		"late event before a burst":  {at(7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), false, 1},
		"all at once":                {at(5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5), false, 0},
		"one pair ascends":           {at(9000, 8000, 8001, 3000, 2000), false, 3},
		"ascending, one far too old": {at(5000, 6000, 1000, 7000), false, 1},
		"ascending":                  {at(1, 2, 3), false, 0},
		"one event":                  {at(1), false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			api := &fakeAPI{events: tc.events}
			s, _ := api.stream()
			inversions := 0
			s.Hooks.OnInversion = func(i InversionInfo) { inversions += i.Count }
			pages, err := take(t, s, checkpoint.Position{}, 1)
			if tc.refused {
				require.ErrorIs(t, err, ErrDescending)
				require.ErrorContains(t, err, "req_ok")
				require.Empty(t, pages)
				return
			}
			require.NoError(t, err)
			require.Equal(t, numbered(0, len(tc.events)-1), ids(pages), "relayed as it stands")
			require.Equal(t, tc.inversions, inversions)
		})
	}
}

// TestDescendingFullPages: events may lie in the step of a full page, so one step back is enough.
func TestDescendingFullPages(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		ms      []int
		refused bool
	}{
		"two events":         {[]int{2000, 0}, true},
		"two times":          {[]int{9000, 9000, 5000, 5000}, true},
		"small":              {[]int{1999, 0}, false},
		"two and a next one": {[]int{2000, 0, 3000}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := &fakeAPI{}
			for i, ms := range tc.ms {
				api.events = append(api.events, fakeEvent{id: fmt.Sprintf("event_%06d", i), typ: UserCreated, at: epoch.Add(time.Duration(ms) * time.Millisecond)})
			}
			s, _ := api.stream()
			if s.Limit = len(tc.ms); len(tc.ms) == 3 {
				s.Limit = 2
			}
			pages, err := take(t, s, checkpoint.Position{}, 1)
			if tc.refused {
				require.ErrorIs(t, err, ErrDescending)
				require.Empty(t, pages)
				return
			}
			require.NoError(t, err)
		})
	}
}

// TestNothingIsLostNewestFirst: an API lists newest first what follows a cursor, in pages of any
// size. relay stops, or has every event that the API had when it asked last.
//
// P2.
func TestNothingIsLostNewestFirst(t *testing.T) {
	t.Parallel()
	stopped := 0
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 6))
			api := &fakeAPI{}
			s, _ := api.stream()
			s.Limit = 1 + random.IntN(4)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			listed := 0
			api.fault = func(n int, q url.Values) (*http.Response, error) {
				if n > 40 {
					cancel()
					return nil, ctx.Err()
				}
				for range max(0, random.IntN(6)-3) {
					api.events = append(api.events, fakeEvent{id: fmt.Sprintf("event_%06d", len(api.events)), typ: UserCreated, at: time.Now()})
					time.Sleep(time.Duration(1+random.IntN(8)) * time.Second)
				}
				from := 1 + slices.IndexFunc(api.events, func(e fakeEvent) bool { return e.id == q.Get("after") })
				listed = len(api.events)
				var parts []string
				for _, e := range slices.Backward(api.events[from:]) {
					if len(parts) < s.Limit {
						parts = append(parts, e.json())
					}
				}
				return respondList(parts...), nil
			}
			read := map[string]bool{}
			for p, err := range s.Pages(ctx, checkpoint.Position{}) {
				if err != nil {
					if ctx.Err() == nil {
						require.True(t, errors.Is(err, ErrDescending) || errors.Is(err, ErrCursorLost), "%v", err)
						stopped++
						return
					}
					break
				}
				for _, e := range p.Events {
					read[e.ID] = true
				}
			}
			if s.Limit > 1 { // of one event at a time no order is seen
				require.Len(t, read, listed, "seed %d", seed)
			}
		})
	}
	require.Greater(t, stopped, 10)
}

// refuseTypes answers like the API does to names that it does not know.
func refuseTypes(names ...string) func(int, url.Values) (*http.Response, error) {
	return func(_ int, q url.Values) (*http.Response, error) {
		for _, asked := range strings.Split(q.Get("events"), ",") {
			if slices.Contains(names, asked) {
				return respond(400, `{"message":"Invalid event '`+asked+`'","code":"invalid_events_request"}`, "X-Request-Id", "req_types"), nil
			}
		}
		return nil, nil
	}
}

func TestARefusedTypeIsLeftOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{fault: refuseTypes("vault.data.read", "vault.kek.created")}
		api.add(3, epoch.Add(100*time.Hour)) // so new that a silence after them is not looked into
		s, logs := api.stream()
		s.Events = []string{"vault.data.read", UserCreated, "vault.kek.created"}
		s.PollInterval = time.Hour
		var refused []TypeRefusedInfo
		var restored []TypeRestoredInfo
		s.Hooks.OnTypeRefused = func(i TypeRefusedInfo) { refused = append(refused, i) }
		s.Hooks.OnTypeRestored = func(i TypeRestoredInfo) { restored = append(restored, i) }
		s.Hooks.OnRetry = func(i RetryInfo) { t.Errorf("a refused type is not a failure: %v", i) }
		pages := 0
		for page, err := range s.Pages(t.Context(), checkpoint.Position{}) {
			require.NoError(t, err)
			switch pages++; pages {
			case 1:
				require.Equal(t, 7, api.requests(), "the request, 5 to see which types are refused, and the request without them")
				require.Equal(t, UserCreated, api.queries[6].Get("events"))
				require.Len(t, refused, 2)
				require.Len(t, page.Refused, 2)
				require.Equal(t, "vault.data.read", page.Refused[0].Type)
				require.Zero(t, page.Refused[0].Position, "nothing was read before")
			case 25: // each on its own, at each poll
				require.LessOrEqual(t, api.requests(), 30+2*24)
				require.Equal(t, "vault.data.read", api.queries[8].Get("events"))
				require.Equal(t, "1", api.queries[8].Get("limit"))
				require.True(t, refused[2].Again)
				api.fault = refuseTypes("vault.kek.created")
			case 50:
				require.Len(t, restored, 1)
				require.Equal(t, "vault.data.read", restored[0].Type)
				require.Equal(t, epoch.Unix(), restored[0].Since.Unix())
				require.Len(t, page.Refused, 1)
				require.Equal(t, "vault.data.read,"+UserCreated, api.queries[len(api.queries)-1].Get("events"))
				require.Equal(t, 3, logs.FilterLevelExact(zap.WarnLevel).Len(), "two refused, one restored; no noise in between")
				return
			}
		}
	})
}

func TestEveryTypeRefusedIsFinal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{fault: refuseTypes("a.b", "c.d")}
		s, _ := api.stream()
		s.Events = []string{"a.b", "c.d"}
		s.Hooks.OnTypeRefused = func(i TypeRefusedInfo) { t.Errorf("%s is left out although no other type is accepted", i.Type) }
		_, err := take(t, s, checkpoint.Position{}, 1)
		require.ErrorIs(t, err, ErrAllRefused)
		var e *APIError
		require.ErrorAs(t, err, &e)
		require.Equal(t, refusedLimit, time.Since(epoch))
		require.Equal(t, 5*5, api.requests(), "5 requests at 0, 30 s, 90 s, 210 s and 300 s")
	})
}

func TestAnEventNobodyAskedForIsRelayed(t *testing.T) {
	t.Parallel()
	api := &fakeAPI{}
	api.fault = func(int, url.Values) (*http.Response, error) {
		return respondList(
			fakeEvent{"event_1", "future.thing", epoch, 0}.json(), fakeEvent{"event_2", UserCreated, epoch, 0}.json(),
			fakeEvent{"event_3", "future.thing", epoch, 0}.json()), nil
	}
	s, logs := api.stream()
	var odd []string
	s.Hooks.OnUnexpectedType = func(i UnexpectedTypeInfo) { odd = append(odd, i.Type+" "+i.Position.EventID) }
	pages, err := take(t, s, checkpoint.Position{}, 1)
	require.NoError(t, err)
	require.Equal(t, []string{"event_2"}, ids(pages))
	require.Equal(t, []string{"future.thing event_1", "future.thing event_3"}, odd)
	require.Equal(t, 1, logs.FilterLevelExact(zap.WarnLevel).Len())

	s.RelayUnexpected, odd = true, nil
	pages, err = take(t, s, checkpoint.Position{}, 1)
	require.NoError(t, err)
	require.Equal(t, []string{"event_1", "event_2", "event_3"}, ids(pages))
	require.Equal(t, []string{"future.thing event_1", "future.thing event_3"}, odd)
}

func TestRecentIDs(t *testing.T) {
	t.Parallel()
	s := newRecentIDs(3)
	for _, id := range []string{"a", "b", "c"} {
		require.True(t, s.add(id))
		require.False(t, s.add(id))
	}
	require.True(t, s.add("d"), "takes the place of a")
	require.False(t, s.add("b"))
	require.True(t, s.add("a"))
	require.Len(t, s.known, 3)
}
