//nolint:bodyclose // a fault is a function that makes a response; the client closes it
package source

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
)

// pages are answers that do not come from WorkOS.
var pages = map[string]func(status int) *http.Response{
	"HTML": func(status int) *http.Response {
		return respond(status, "<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>nginx "+testKey+"</body></html>", "X-Request-Id", "lb_1")
	},
	"plain text":     func(status int) *http.Response { return respond(status, "default backend - 404\nsecond line") },
	"nothing":        func(status int) *http.Response { return respond(status, "") },
	"JSON of others": func(status int) *http.Response { return respond(status, `{"status":404,"path":"/events"}`) },
	"no request id": func(status int) *http.Response {
		return respond(status, `{"message":"no Route matched with those values"}`)
	},
}

var pageStatuses = []int{400, 404, 405, 406, 409, 410, 411, 413, 414, 415, 421, 422, 426, 431, 451}

// TestAnErrorPageIsWaitedOut: a page that is not WorkOS's is never final, however long it stays,
// and it leaves no trace in the sequence: at the first request, at the tip, and at a request for
// the time.
func TestAnErrorPageIsWaitedOut(t *testing.T) {
	t.Parallel()
	for name, page := range pages {
		for _, status := range pageStatuses {
			synctest.Test(t, func(t *testing.T) {
				until := epoch
				api := &fakeAPI{fault: func(int, url.Values) (*http.Response, error) {
					if time.Now().Before(until) {
						return page(status), nil
					}
					return nil, nil
				}}
				api.add(150, epoch)
				s, logs := api.stream()
				var retries []RetryInfo
				s.Hooks.OnRetry = func(i RetryInfo) { retries = append(retries, i) }
				s.Hooks.OnTypeRefused = func(i TypeRefusedInfo) { t.Errorf("%s is left out", i.Type) }

				until = epoch.Add(10 * time.Second)
				_, err := s.Now(t.Context())
				require.NoError(t, err)
				require.Len(t, retries, 1)

				until = time.Now().Add(2 * time.Hour)
				var got []Page
				for p, err := range s.Pages(t.Context(), checkpoint.Position{}) {
					require.NoError(t, err, "%s %d", name, status)
					if got = append(got, p); len(got) == 2 { // at the tip
						retries = nil
						until = time.Now().Add(2 * time.Hour)
						api.add(5, time.Now())
					}
					if len(ids(got)) == 155 {
						break
					}
				}
				require.Equal(t, numbered(0, 154), ids(got))
				require.NotEmpty(t, retries)
				for i, r := range retries {
					require.Equal(t, RetryRefused, r.Reason)
					require.True(t, r.Wait >= slowFirst && r.Wait <= slowMax, r.Wait)
					require.ErrorContains(t, r.Err, strconv.Itoa(status))
					require.Equal(t, i+1, r.Attempt)
					if name == "plain text" {
						require.ErrorContains(t, r.Err, "default backend - 404")
					}
					require.NotContains(t, r.Err.Error(), testKey)
					require.NotContains(t, r.Err.Error(), "\n")
				}
				require.Less(t, api.requests(), 300, "slowly, and without a search")
				require.NotZero(t, logs.FilterMessageSnippet("does not come from WorkOS itself").Len())
			})
		}
	}
}

// TestARefusalByWorkOSMayPass: it is final only if it stands for long enough without a break.
func TestARefusalByWorkOSMayPass(t *testing.T) {
	t.Parallel()
	refusal := func() *http.Response {
		return respond(400, `{"message":"Organization not found"}`, "X-Request-Id", "req_org")
	}
	for name, tc := range map[string]struct {
		fault func(n int, since time.Duration) *http.Response
		final bool
	}{
		"for four minutes": {func(_ int, since time.Duration) *http.Response {
			if since < 4*time.Minute {
				return refusal()
			}
			return nil
		}, false},
		"with error pages in between": {func(n int, since time.Duration) *http.Response {
			if since > 2*time.Hour {
				return nil
			}
			if n%3 == 0 {
				return respond(404, "<html>")
			}
			return refusal()
		}, false},
		"for good": {func(int, time.Duration) *http.Response { return refusal() }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := &fakeAPI{fault: func(n int, _ url.Values) (*http.Response, error) { return tc.fault(n, time.Since(epoch)), nil }}
				api.add(5, epoch)
				s, _ := api.stream()
				_, err := take(t, s, checkpoint.Position{}, 1)
				var final *RefusalError
				if tc.final {
					require.ErrorAs(t, err, &final)
					return
				}
				require.NoError(t, err)
			})
		})
	}
}

// refuseParameter answers every request with a parameter as how does, unless fits accepts its
// value.
func refuseParameter(name string, how func() *http.Response, fits func(value string) bool) func(int, url.Values) (*http.Response, error) {
	return func(_ int, q url.Values) (*http.Response, error) {
		if !q.Has(name) || fits != nil && fits(q.Get(name)) {
			return nil, nil
		}
		return how(), nil
	}
}

// TestOptionalParametersAreLeftOut: if the API refuses an optional parameter, in any words, reading
// goes on without it.
func TestOptionalParametersAreLeftOut(t *testing.T) {
	t.Parallel()
	words := map[string]func(name string) *http.Response{
		"400 that names it": func(name string) *http.Response {
			return respond(400, `{"message":"Unknown query parameter '`+name+`'.","code":"unknown_parameter"}`, "X-Request-Id", "req_p")
		},
		"422 by field": func(name string) *http.Response {
			return respond(422, `{"message":"Validation failed","errors":[{"code":"invalid","field":"`+name+`"}]}`, "X-Request-Id", "req_p")
		},
		"422 that names nothing": func(string) *http.Response {
			return respond(422, `{"message":"Validation failed"}`, "X-Request-Id", "req_p")
		},
		"422 that blames events": func(string) *http.Response {
			return respond(422, `{"message":"bad events or order"}`, "X-Request-Id", "req_p")
		},
		"404": func(string) *http.Response { return respond(404, `{"message":"Not Found"}`, "X-Request-Id", "req_p") },
	}
	start := epoch.Add(-100 * 24 * time.Hour)
	for name, fits := range map[string]func(string) bool{
		"order":                  nil,
		"limit":                  func(v string) bool { n, _ := strconv.Atoi(v); return n <= 20 },
		"range_end":              nil,
		"range_start":            func(v string) bool { return !strings.Contains(v, ".") },
		"range_start as a whole": nil,
	} {
		parameter, _, _ := strings.Cut(name, " ")
		for wording, how := range words {
			t.Run(name+", "+wording, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					fault := refuseParameter(parameter, func() *http.Response { return how(parameter) }, fits)
					api := &fakeAPI{fault: func(n int, q url.Values) (*http.Response, error) {
						if resp, err := fault(n, q); resp != nil {
							return resp, err
						}
						if parameter == "range_start" && fits != nil { // so is range_end
							return refuseParameter("range_end", func() *http.Response { return how("range_end") }, fits)(n, q)
						}
						return nil, nil
					}}
					api.add(120, start)
					api.add(130, epoch.Add(-time.Hour))
					s, logs := api.stream()
					s.Hooks.OnRetry = func(i RetryInfo) { t.Errorf("it is not a failure: %v", i) }
					s.Hooks.OnTypeRefused = func(i TypeRefusedInfo) { t.Errorf("%s is left out", i.Type) }
					for _, from := range []struct {
						pos   checkpoint.Position
						first int
					}{
						{checkpoint.Position{}, 0},
						{checkpoint.Position{CreatedAt: start.Add(50 * time.Millisecond)}, 50},
						{checkpoint.Position{EventID: "event_000010", CreatedAt: start}, 11},
					} {
						ctx, cancel := context.WithTimeout(t.Context(), 48*time.Hour)
						var got []Page
						for p, err := range s.Pages(ctx, from.pos) {
							require.NoError(t, err)
							if got = append(got, p); p.Tip && len(p.Events) == 0 {
								break
							}
						}
						cancel()
						require.Equal(t, numbered(from.first, 249), ids(got))
					}
					require.Less(t, api.requests(), 130)
					require.LessOrEqual(t, logs.FilterLevelExact(zap.WarnLevel).Len(), 3*3, "it is said once for each stream")
					for _, q := range api.queries {
						require.False(t, q.Has("before"))
					}
				})
			})
		}
	}
}

// TestOrderIsCheckedWithoutTheParameter: an API that refuses order and answers newest first is
// found out.
func TestOrderIsCheckedWithoutTheParameter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		api.fault = func(_ int, q url.Values) (*http.Response, error) {
			if q.Has("order") {
				return respond(400, `{"message":"no such parameter: order"}`, "X-Request-Id", "req_o"), nil
			}
			var parts []string
			for i := range 50 {
				parts = append(parts, api.events[len(api.events)-1-i].json())
			}
			return respondList(parts...), nil
		}
		api.add(100, epoch.Add(-time.Hour))
		s, _ := api.stream()
		pages, err := take(t, s, checkpoint.Position{}, 1)
		require.ErrorIs(t, err, ErrDescending)
		require.Empty(t, pages)
	})
}
