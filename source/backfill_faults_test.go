package source_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/time/rate"

	"workos-relay/checkpoint"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// between stands between a client and the API.
type between func(r *http.Request, next func() (*http.Response, error)) (*http.Response, error)

// interposed is a stream of many readers, the API behind f.
func interposed(t *testing.T, srv *sourcetest.Server, f between) (*source.Stream, *observer.ObservedLogs, *source.BackfillInfo) {
	t.Helper()
	s := streamOf(t, srv)
	s.Readers, s.Memory, s.Limit = 8, 1600<<10, 20 // small pages are read as fast as large ones, and tested faster
	core, logs := observer.New(zap.InfoLevel)
	s.Logger = zap.New(core)
	var total source.BackfillInfo
	s.Hooks = &source.Hooks{OnBackfill: func(i source.BackfillInfo) {
		total.Active = total.Active || i.Active
		total.Buffered = max(total.Buffered, i.Buffered)
		total.Joined += i.Joined
		total.Missed += i.Missed
		total.Dropped += i.Dropped
		total.Split += i.Split
	}}
	if f != nil {
		rt := srv.RoundTripper()
		if overWire(t) {
			w := wire(t, srv)
			rt = source.TransportWith(w.Dial, w.TLS())
		}
		s.Client.HTTPClient = &http.Client{Transport: roundTripFunc(func(r *http.Request) (*http.Response, error) {
			return f(r, func() (*http.Response, error) { return rt.RoundTrip(r) })
		})}
	}
	return s, logs, &total
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// day is a population of n events over a day, the last of them an hour ago.
func day(n int) sourcetest.Option {
	return sourcetest.WithPopulation(sourcetest.Population{Seed: 3, Profile: []sourcetest.Span{{Length: 24 * time.Hour, Events: n}, {Length: time.Hour}}})
}

const latency = 50 * time.Millisecond

// editPage changes the events of a page that came by time.
func editPage(edit func(events []string) []string) between {
	return func(r *http.Request, next func() (*http.Response, error)) (*http.Response, error) {
		resp, err := next()
		if err != nil || resp.StatusCode != http.StatusOK || !r.URL.Query().Has("range_start") {
			return resp, err
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return nil, err
		}
		var events []string
		for _, e := range gjson.GetBytes(body, "data").Array() {
			events = append(events, e.Raw)
		}
		text := `{"object":"list","data":[` + strings.Join(edit(events), ",") + `],"list_metadata":{"before":null,"after":null}}`
		resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
		return resp, nil
	}
}

// If pages by time leave events out or add some, the sequence is still the cursor's.
func TestPagesByTimeAreNotTrusted(t *testing.T) {
	t.Parallel()
	without := func(events []string, at int) []string {
		if at < 0 || at >= len(events) {
			return events
		}
		return slices.Delete(events, at, at+1)
	}
	renamed := func(e []string, upTo int) []string {
		for i := range min(upTo, len(e)) {
			id := gjson.Get(e[i], "id").String()
			e[i] = strings.Replace(e[i], id, id+"X", 1)
		}
		return e
	}
	// Events stand 22 s apart, so a seam is the third or fourth of its page; what comes before it
	// is not looked at.
	const beforeTheSeam = "before the seam, "
	for name, edit := range map[string]func(events []string) []string{
		beforeTheSeam + "one is left out":       func(e []string) []string { return without(e, 1) },
		beforeTheSeam + "one is made up":        func(e []string) []string { return renamed(e, 1) },
		"one close behind the seam is left out": func(e []string) []string { return without(e, 4) },
		"one in the middle is left out":         func(e []string) []string { return without(e, 12) },
		"two are swapped": func(e []string) []string {
			if len(e) > 16 {
				e[15], e[16] = e[16], e[15]
			}
			return e
		},
		"events that no cursor meets": func(e []string) []string { return renamed(e, 8) },
		"nothing":                     func([]string) []string { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := sourcetest.New(day(4_000), sourcetest.WithLatency(latency, latency))
				s, logs, total := interposed(t, srv, editPage(edit))
				events, err := readToTip(t.Context(), s, checkpoint.Position{})
				require.NoError(t, err)
				served(t, srv, sourcetest.Filter{}, events)
				if strings.HasPrefix(name, beforeTheSeam) {
					require.Positive(t, total.Joined)
					return
				}
				require.Zero(t, total.Joined)
				if name != "nothing" {
					require.Equal(t, 1, logs.FilterMessageSnippet("does not answer by time").Len())
				}
				require.Less(t, srv.Count(), 200+100)
			})
		})
	}
}

// A page by time that leaves out an event now and then is found out where the segments meet.
func TestAPageByTimeIsCheckedAtEverySeam(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := sourcetest.New(day(8_000), sourcetest.WithLatency(latency, latency))
		var pages atomic.Int32
		s, _, total := interposed(t, srv, editPage(func(e []string) []string {
			if pages.Add(1)%7 == 0 && len(e) > 12 {
				return slices.Delete(e, 9, 10) // behind the seam, which is a minute after the time asked for
			}
			return e
		}))
		events, err := readToTip(t.Context(), s, checkpoint.Position{})
		require.NoError(t, err)
		served(t, srv, sourcetest.Filter{}, events)
		require.Greater(t, total.Joined, 5)
		require.Positive(t, total.Dropped)
	})
}

// A list whose order is not that of its times is read as it stands.
func TestBackfillOfADisorderedList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := sourcetest.New(sourcetest.WithLatency(latency, latency))
		rng := rand.New(rand.NewPCG(1, 2))
		start := time.Now().Add(-24 * time.Hour)
		for i := range 3_000 {
			at := start.Add(time.Duration(i)*2*time.Second + time.Duration(rng.IntN(9000))*time.Millisecond)
			if i == 2_999 { // the last page may be of two events, and must not descend as a whole
				at = start.Add(3 * time.Hour)
			}
			require.NoError(t, srv.Append(fmt.Appendf(nil, `{"object":"event","id":"event_%06d","event":"user.created","created_at":%q,"data":{}}`,
				i, at.UTC().Format("2006-01-02T15:04:05.000Z"))))
		}
		s, _, total := interposed(t, srv, nil)
		s.Memory = 300 << 10
		events, err := readToTip(t.Context(), s, checkpoint.Position{})
		require.NoError(t, err)
		served(t, srv, sourcetest.Filter{}, events)
		require.True(t, total.Active)
	})
}

func TestBackfillWithoutRanges(t *testing.T) {
	t.Parallel()
	for name, how := range map[string]sourcetest.RangeSupport{"refused": sourcetest.RangesRefused, "ignored": sourcetest.RangesIgnored} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := sourcetest.New(day(4_000), sourcetest.WithLatency(latency, 0), sourcetest.WithRanges(how))
				s, logs, _ := interposed(t, srv, nil)
				events, err := readToTip(t.Context(), s, checkpoint.Position{})
				require.NoError(t, err)
				served(t, srv, sourcetest.Filter{}, events)
				require.LessOrEqual(t, srv.Count(), 201+3, "one look by time, and what it cut short")
				require.Equal(t, 1, logs.FilterMessageSnippet("does not answer by time").Len(), "it is said once")
			})
		})
	}
}

// A refusal that passes, of a look by time or of a cursor, ends nothing.
func TestAPassingRefusalEndsNoBackfill(t *testing.T) {
	t.Parallel()
	for _, parameter := range []string{"range_start", "after"} {
		t.Run(parameter, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := sourcetest.New(day(4_000), sourcetest.WithLatency(latency, latency))
				var refuse atomic.Bool // the next one
				refused := false
				s, logs, total := interposed(t, srv, func(r *http.Request, next func() (*http.Response, error)) (*http.Response, error) {
					if r.URL.Query().Has(parameter) && refuse.CompareAndSwap(true, false) {
						return &http.Response{StatusCode: http.StatusNotFound, Body: http.NoBody, Request: r}, nil
					}
					return next()
				})
				add := s.Hooks.OnBackfill
				s.Hooks.OnBackfill = func(i source.BackfillInfo) {
					if add(i); total.Joined >= 3 && !refused {
						refused = true
						refuse.Store(true)
					}
				}
				events, err := readToTip(t.Context(), s, checkpoint.Position{})
				require.NoError(t, err)
				served(t, srv, sourcetest.Filter{}, events)
				require.True(t, refused)
				require.False(t, refuse.Load())
				require.Greater(t, total.Joined, 10)
				require.Zero(t, logs.FilterMessageSnippet("does not answer by time").Len())
			})
		})
	}
}

// Answers that lay waiting while the consumer was busy set the clock as of when they came.
func TestABackfillsClockIsRightAfterASlowConsumer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := sourcetest.New(day(4_000), sourcetest.WithLatency(latency, latency))
		s, _, total := interposed(t, srv, nil)
		pages := 0
		for page, err := range s.Pages(t.Context(), checkpoint.Position{}) {
			require.NoError(t, err)
			if page.Tip {
				break
			}
			require.WithinDuration(t, time.Now(), page.Now, 2*time.Second)
			if pages++; pages%20 == 0 {
				time.Sleep(time.Hour)
			}
		}
		require.Positive(t, total.Joined)
	})
}

func TestBackfillCostsLittleMoreThanThePages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := sourcetest.New(day(12_000), sourcetest.WithLatency(latency, latency))
		s, _, total := interposed(t, srv, nil)
		s.Memory = 6 << 20
		start := time.Now()
		events, err := readToTip(t.Context(), s, checkpoint.Position{})
		require.NoError(t, err)
		require.Len(t, events, 12_000)
		require.Greater(t, total.Joined, 8)
		require.Zero(t, total.Missed)
		require.InDelta(t, 600, srv.Count(), 10+1.5*float64(total.Joined), "at most one and a half pages for each segment beside its own")
		require.Less(t, time.Since(start), 600*latency/4, "eight readers are faster than two")
	})
}

// The head hangs in its first range: the others stop at the memory, and nothing is lost when it
// goes on.
//
// P12: in a backlog.
func TestMemoryIsBoundedWhenTheHeadIsSlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := sourcetest.New(day(12_000), sourcetest.WithLatency(latency, 0), sourcetest.WithLedger(0))
		index := map[string]int{}
		for i, id := range srv.IDs(sourcetest.Filter{}) {
			index[id] = i
		}
		var s *source.Stream
		var total *source.BackfillInfo
		var most atomic.Int64
		s, _, total = interposed(t, srv, func(r *http.Request, next func() (*http.Response, error)) (*http.Response, error) {
			after := r.URL.Query().Get("after")
			if i := index[after]; after != "" && i > 30 && i < 300 { // the earliest range
				before := srv.Count()
				time.Sleep(40 * time.Second) // within the timeout
				most.Store(max(most.Load(), int64(srv.Count()-before)))
			}
			return next()
		})
		s.Memory = 800 << 10
		events, err := readToTip(t.Context(), s, checkpoint.Position{})
		require.NoError(t, err)
		served(t, srv, sourcetest.Filter{}, events)
		page := int64(40 << 10)
		require.LessOrEqual(t, total.Buffered, s.Memory+page)
		require.Greater(t, total.Buffered, s.Memory/4, "the others do read ahead")
		require.Less(t, most.Load()*10<<10, s.Memory, "and then wait, instead of reading what they cannot hold")
	})
}

func TestTheCursorIsLostInABackfill(t *testing.T) {
	t.Parallel()
	expire := func(srv *sourcetest.Server, all []string) { srv.Expire(all[6_000]) }
	for name, tc := range map[string]struct {
		how  sourcetest.LostCursor
		lose func(srv *sourcetest.Server, all []string)
	}{
		"bad request":   {sourcetest.LostBadRequest, expire},
		"not found":     {sourcetest.LostNotFound, expire},
		"unprocessable": {sourcetest.LostUnprocessable, expire},
		"replay":        {sourcetest.LostReplay, func(srv *sourcetest.Server, _ []string) { srv.Fail(-1, sourcetest.ReplayFromStart()) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := sourcetest.New(day(8_000), sourcetest.WithLatency(latency, latency), sourcetest.WithLostCursor(tc.how))
				all := srv.IDs(sourcetest.Filter{})
				s, _, total := interposed(t, srv, nil)
				var got []string
				var final error
				for page, err := range s.Pages(t.Context(), checkpoint.Position{}) {
					final = err
					for _, e := range page.Events {
						got = append(got, e.ID)
					}
					if len(got) > 2_000 && len(got)-len(page.Events) <= 2_000 {
						tc.lose(srv, all)
					}
				}
				require.ErrorIs(t, final, source.ErrCursorLost)
				require.Positive(t, total.Joined)
				require.GreaterOrEqual(t, len(got), 2_000)
				require.Less(t, len(got), 6_000, "nothing was skipped")
				require.Equal(t, all[:len(got)], got, "what came before is whole and in order")
			})
		})
	}
}

func TestATypeIsRefusedInABackfill(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := sourcetest.New(day(8_000), sourcetest.WithLatency(latency, latency))
		s, _, total := interposed(t, srv, nil)
		var refused []string
		s.Hooks.OnTypeRefused = func(i source.TypeRefusedInfo) { refused = append(refused, i.Type) }
		const gone = source.SessionCreated
		var got []source.Event
		for page, err := range s.Pages(t.Context(), checkpoint.Position{}) {
			require.NoError(t, err)
			if got = append(got, page.Events...); page.Tip && len(page.Events) == 0 {
				break
			}
			if len(got) > 2_000 && len(refused) == 0 {
				srv.RefuseTypes(gone)
			}
		}
		require.Equal(t, []string{gone}, refused, "once, however many requests were under way")
		require.Positive(t, total.Dropped)
		last := 0 // the last event of the type
		for i := range got {
			if got[i].Event == gone {
				last = i
			}
		}
		i := 0
		for raw := range srv.Events(sourcetest.Filter{}) {
			if i > last && gjson.GetBytes(raw, "event").String() == gone {
				continue
			}
			require.Equal(t, string(raw), string(got[i].Raw), "event %d", i)
			i++
		}
		require.Len(t, got, i)
		require.Less(t, last, 4_000)
	})
}

// The API's limit is half of what the readers would use: they give way and obey, and come back.
func TestBackfillGivesWayTo429(t *testing.T) {
	t.Parallel()
	for _, how := range []sourcetest.RetryAfter{sourcetest.RetryAfterSeconds, sourcetest.RetryAfterDate, sourcetest.RetryAfterAbsent} {
		synctest.Test(t, func(t *testing.T) {
			srv := sourcetest.New(day(8_000), sourcetest.WithLatency(latency, 0), sourcetest.WithRateLimit(240, 4*time.Second, how))
			s, _, _ := interposed(t, srv, nil)
			s.Client.Limiter = rate.NewLimiter(100, 1)
			var told, quiet time.Time
			early, fewest, most := 0, 8, 0
			s.Hooks.OnRateLimited = func(i source.RateLimitedInfo) {
				if !time.Now().Before(quiet) {
					told, quiet = time.Now(), time.Now().Add(i.Wait)
				}
			}
			s.Hooks.OnBackfill = func(i source.BackfillInfo) {
				if i.Active {
					fewest, most = min(fewest, i.Allowed), max(most, i.Allowed)
				}
			}
			s.Hooks.OnResponse = func(i source.ResponseInfo) {
				if sent := time.Now().Add(-i.Duration); sent.After(told) && sent.Before(quiet) {
					early++
				}
			}
			events, err := readToTip(t.Context(), s, checkpoint.Position{})
			require.NoError(t, err)
			served(t, srv, sourcetest.Filter{}, events)
			refused := srv.Stats().ByStatus[http.StatusTooManyRequests]
			require.Positive(t, refused)
			require.Less(t, refused, srv.Count()/5)
			require.Zero(t, early, "no request is made before the time that the API gave")
			require.Less(t, fewest, 8)
			require.Equal(t, 8, most)
		})
	}
}

// The single reader that goes on after a backfill keeps the silence that the backfill was asked
// for.
func TestAfterABackfillTheAPIsSilenceIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		srv := sourcetest.New(day(4_000))
		var mu sync.Mutex
		var sent []time.Time
		s, _, total := interposed(t, srv, func(r *http.Request, next func() (*http.Response, error)) (*http.Response, error) {
			mu.Lock()
			sent = append(sent, time.Now())
			n := len(sent)
			mu.Unlock()
			if n == 60 { // another one that is under way meets the 429, and this one's answer comes after that
				srv.Fail(1, sourcetest.TooManyRequests(time.Minute, sourcetest.RetryAfterSeconds))
				time.Sleep(2 * latency)
				srv.RefuseTypes(source.SessionCreated)
				return next()
			}
			time.Sleep(latency)
			return next()
		})
		var told, ended, refused time.Time
		s.Hooks.OnTypeRefused = func(source.TypeRefusedInfo) { refused = time.Now() }
		s.Hooks.OnRateLimited = func(source.RateLimitedInfo) { told = time.Now() }
		add := s.Hooks.OnBackfill
		s.Hooks.OnBackfill = func(i source.BackfillInfo) {
			if add(i); !i.Active && ended.IsZero() {
				ended = time.Now()
			}
		}
		_, err := readToTip(t.Context(), s, checkpoint.Position{})
		require.NoError(t, err)
		require.True(t, total.Active)
		require.True(t, ended.After(told) && ended.Before(told.Add(time.Minute)), "the backfill ends within the silence")
		require.False(t, refused.Before(told.Add(time.Minute)))
		for _, at := range sent {
			require.False(t, at.After(told) && at.Before(told.Add(time.Minute)), "a request %s after the 429", at.Sub(told))
		}
	})
}

// Leaving the loop ends all requests in flight, at any point, also those that hang.
func TestLeavingABackfillLeavesNothingUnderWay(t *testing.T) {
	t.Parallel()
	for n := 1; n < 120; n += 13 {
		synctest.Test(t, func(t *testing.T) {
			srv := sourcetest.New(day(4_000), sourcetest.WithLatency(latency, latency))
			var underWay atomic.Int32
			s, _, _ := interposed(t, srv, func(r *http.Request, next func() (*http.Response, error)) (*http.Response, error) {
				underWay.Add(1)
				defer underWay.Add(-1)
				resp, err := next()
				if r.Context().Err() != nil {
					time.Sleep(time.Second) // what a connection takes to be given up
				}
				return resp, err
			})
			running := 0
			s.Hooks.OnBackfill = func(i source.BackfillInfo) { running = i.Readers }
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			pages := 0
			for _, err := range s.Pages(ctx, checkpoint.Position{}) {
				if pages++; pages == n && n%2 == 0 {
					srv.Fail(-1, sourcetest.Hang())
					time.AfterFunc(time.Second, cancel)
				} else if pages == n {
					break
				}
				if err != nil {
					require.Equal(t, context.Canceled, err)
				}
			}
			require.Zero(t, running)
			require.Zero(t, underWay.Load())
			count := srv.Count()
			synctest.Wait()
			time.Sleep(time.Hour)
			require.Equal(t, count, srv.Count())
		})
	}
}

func TestReadersAndMemoryAreChecked(t *testing.T) {
	t.Parallel()
	srv := sourcetest.New()
	for _, change := range []func(*source.Stream){
		func(s *source.Stream) { s.Readers = -1 },
		func(s *source.Stream) { s.Readers = source.MaxReaders + 1 },
		func(s *source.Stream) { s.Memory = -1 },
	} {
		s := streamOf(t, srv)
		change(s)
		_, err := readToTip(t.Context(), s, checkpoint.Position{})
		require.ErrorIs(t, err, source.ErrMisconfigured)
	}
}
