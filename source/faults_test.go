//nolint:bodyclose // a fault is a function that makes a response; the client closes it
package source

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	"workos-relay/internal/retry"
)

// failing answers the first n requests by fault.
func failing(n int, fault func() (*http.Response, error)) func(int, url.Values) (*http.Response, error) {
	return func(request int, _ url.Values) (*http.Response, error) {
		if request > n {
			return nil, nil
		}
		return fault()
	}
}

func TestWhatMayPassIsWaitedOut(t *testing.T) {
	t.Parallel()
	status := func(code int, header ...string) func() (*http.Response, error) {
		return func() (*http.Response, error) { return respond(code, "no", header...), nil }
	}
	for name, tc := range map[string]struct {
		fault  func() (*http.Response, error)
		reason RetryReason
	}{
		"408":        {status(408), RetryServer},
		"429":        {status(429), RetryRateLimited},
		"500":        {status(500), RetryServer},
		"502":        {status(502), RetryServer},
		"503":        {status(503), RetryServer},
		"504":        {status(504), RetryServer},
		"204":        {status(204), RetryServer},
		"transport":  {func() (*http.Response, error) { return nil, errors.New("connection reset") }, RetryTransport},
		"malformed":  {func() (*http.Response, error) { return respond(200, "<html>"), nil }, RetryResponse},
		"other JSON": {func() (*http.Response, error) { return respond(200, `{"object":"list"}`), nil }, RetryResponse},
		"cut off": {func() (*http.Response, error) {
			r := respond(200, `{"object":"list","data":[]}`)
			r.ContentLength += 10
			return r, nil
		}, RetryResponse},
		"cut off in an event": {func() (*http.Response, error) {
			r := respond(200, `{"object":"list","data":[{"id":"event_1",`)
			r.ContentLength = -1
			return r, nil
		}, RetryResponse},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const faults = 12
				api := &fakeAPI{fault: failing(faults, tc.fault)}
				api.add(150, epoch)
				s, logs := api.stream()
				var retries []RetryInfo
				s.Hooks.OnRetry = func(i RetryInfo) { retries = append(retries, i) }
				limited := 0
				s.Hooks.OnRateLimited = func(RateLimitedInfo) { limited++ }
				pages, err := take(t, s, checkpoint.Position{}, 2)
				require.NoError(t, err)
				require.Equal(t, numbered(0, 149), ids(pages))
				require.Equal(t, faults+2, api.requests())
				require.Len(t, retries, faults)
				for i, r := range retries {
					require.Equal(t, tc.reason, r.Reason)
					require.Equal(t, i+1, r.Attempt)
					require.Equal(t, r.Wait, api.times[i+1].Sub(api.times[i]))
					full := min(retryFirst<<i, retryMax)
					require.True(t, r.Wait >= full/2 && r.Wait <= full, "wait %s of at most %s", r.Wait, full)
					require.Error(t, r.Err)
				}
				require.Equal(t, tc.reason == RetryRateLimited, limited == faults)
				warnings := logs.FilterLevelExact(zap.WarnLevel).All()
				require.Equal(t, api.times[0], warnings[0].Time, "the first failure is told at once")
				for i, w := range warnings[1:] {
					require.Greater(t, w.Time.Add(w.ContextMap()["retry_in"].(time.Duration)).Sub(warnings[i].Time), remindEvery, "and then one in half a minute")
				}
				require.Equal(t, 1, logs.FilterMessage("the Events API answers again").Len())
			})
		})
	}
}

func TestRetryAfterIsKept(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status int
		header []string
		want   time.Duration
	}{
		"seconds":         {429, []string{"Retry-After", "17"}, 17 * time.Second},
		"of a 503":        {503, []string{"Retry-After", "45"}, 45 * time.Second},
		"date":            {429, []string{"Retry-After", "Tue, 24 Nov 2026 08:01:30 GMT", "Date", "Tue, 24 Nov 2026 08:00:00 GMT"}, 90 * time.Second},
		"not for ever":    {429, []string{"Retry-After", "86400"}, retryAfterMax},
		"a 401 is slower": {401, []string{"Retry-After", "1"}, slowFirst},
		"a 403 may wait":  {403, []string{"Retry-After", "400"}, 400 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := &fakeAPI{fault: failing(3, func() (*http.Response, error) { return respond(tc.status, "", tc.header...), nil })}
				s, _ := api.stream()
				_, err := take(t, s, checkpoint.Position{}, 1)
				require.NoError(t, err)
				require.Len(t, api.times, 4)
				gap := api.times[1].Sub(api.times[0])
				require.GreaterOrEqual(t, gap, tc.want)
				require.LessOrEqual(t, gap, tc.want*11/10)
			})
		})
	}
}

func TestARefusedKeyIsReportedAndRetriedSlowly(t *testing.T) {
	t.Parallel()
	for _, status := range []int{401, 403, 307} {
		synctest.Test(t, func(t *testing.T) {
			api := &fakeAPI{fault: failing(10, func() (*http.Response, error) {
				return respond(status, `{"message":"no `+testKey+`"}`, "Location", "https://elsewhere.example/?"+testKey), nil
			})}
			s, logs := api.stream()
			retries := 0
			s.Hooks.OnRetry = func(RetryInfo) { retries++ }
			_, err := take(t, s, checkpoint.Position{}, 1)
			require.NoError(t, err)
			require.Equal(t, 10, retries)
			for i := 1; i < len(api.times); i++ {
				gap := api.times[i].Sub(api.times[i-1])
				require.True(t, gap >= slowFirst && gap <= slowMax, gap)
			}
			warnings := logs.FilterLevelExact(zap.WarnLevel).All()
			require.Len(t, warnings, 10, "attempts are half a minute apart, and each is told")
			for i, w := range warnings {
				require.EqualValues(t, i+1, w.ContextMap()["attempt"])
			}
			for _, entry := range logs.All() {
				require.NotContains(t, entry.Message, testKey)
				for _, v := range entry.ContextMap() {
					require.NotContains(t, fmt.Sprint(v), testKey)
				}
			}
		})
	}
}

func TestCancellationEndsAnyWait(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(int, url.Values) (*http.Response, error){
		"at the tip":      nil,
		"in a long retry": func(int, url.Values) (*http.Response, error) { return respond(429, "", "Retry-After", "500"), nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := &fakeAPI{fault: fault}
				s, _ := api.stream()
				s.PollInterval = time.Hour
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				var errs []error
				for _, err := range s.Pages(ctx, checkpoint.Position{}) {
					if err != nil {
						errs = append(errs, err)
					}
				}
				require.Equal(t, []error{context.DeadlineExceeded}, errs)
				require.Equal(t, time.Minute, time.Since(epoch))
				require.Equal(t, 1, api.requests())
			})
		})
	}
}

func TestOtherRefusalsAreFinal(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 404, 409, 422} {
		synctest.Test(t, func(t *testing.T) {
			api := &fakeAPI{fault: func(int, url.Values) (*http.Response, error) {
				return respond(status, `{"message":"unknown organization"}`, "X-Request-Id", "req_7"), nil
			}}
			s, _ := api.stream()
			for _, after := range []checkpoint.Position{{}, {EventID: "event_1"}} {
				_, err := take(t, s, after, 1)
				var e *APIError
				require.ErrorAs(t, err, &e)
				require.Equal(t, status, e.Status)
				require.ErrorContains(t, err, "req_7")
				require.ErrorContains(t, err, "has refused the request for 5m0s")
				var final *RefusalError
				require.ErrorAs(t, err, &final)
				require.NotErrorIs(t, err, ErrCursorLost, "refused without the cursor too")
			}
			require.Equal(t, 2*refusedLimit, time.Since(epoch), "it stands for a while before it is final")
			require.Equal(t, 2*5*2, api.requests(), "the request and the least one, at 0, 30 s, 90 s, 210 s and 300 s")
		})
	}
}

func TestALargeResponseIsAskedForInParts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		api.add(400, epoch)
		for i := 110; i < 130; i++ {
			api.events[i].size = 20000
		}
		s, _ := api.stream()
		s.Client.MaxResponse = 50000
		var pages []Page
		for page, err := range s.Pages(t.Context(), checkpoint.Position{}) {
			require.NoError(t, err)
			if pages = append(pages, page); page.Tip {
				break
			}
		}
		require.Equal(t, numbered(0, 399), ids(pages))
		var limits []string
		for _, q := range api.queries {
			limits = append(limits, q.Get("limit"))
		}
		limits = slices.Compact(limits)
		require.Equal(t, []string{"100", "50", "25", "12", "6", "3", "1"}, limits[:7], "halved until it fits")
		require.Equal(t, "2", limits[7], "and grown back")
		require.Zero(t, time.Since(epoch), "nothing of it is waited for")
	})
}

// slowBody brings a kilobyte a second.
type slowBody struct {
	io.ReadCloser
	ctx context.Context
}

func (b slowBody) Read(p []byte) (int, error) {
	if err := retry.Sleep(b.ctx, time.Second); err != nil {
		return 0, err
	}
	return b.ReadCloser.Read(p[:min(len(p), 1<<10)])
}

func TestAPageThatDoesNotArriveInTimeIsAskedForInParts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		api.add(100, epoch)
		for i := range api.events {
			api.events[i].size = 3000
		}
		s, logs := api.stream()
		s.Client.HTTPClient = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			resp, err := api.RoundTrip(r)
			if err == nil {
				resp.Body = slowBody{resp.Body, r.Context()}
			}
			return resp, err
		})}
		var got []Page
		for page, err := range s.Pages(t.Context(), checkpoint.Position{}) {
			require.NoError(t, err)
			if got = append(got, page); page.Tip {
				break
			}
		}
		require.Equal(t, numbered(0, 99), ids(got))
		require.NotZero(t, logs.FilterMessageSnippet("did not arrive in time").Len())
	})
}

func TestOneEventTooLargeIsFinalAndNamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		api.add(10, epoch)
		api.events[7].size = 60000
		s, _ := api.stream()
		s.Client.MaxResponse = 50000
		pages, err := take(t, s, checkpoint.Position{}, 40)
		require.ErrorIs(t, err, ErrTooLarge)
		require.ErrorContains(t, err, "event_000006")
		require.ErrorContains(t, err, "50000")
		require.Equal(t, numbered(0, 6), ids(pages))
	})
}

func TestSecretsAreInNoError(t *testing.T) {
	t.Parallel()
	for _, body := range []string{`{"message":"key ` + testKey + ` of 'user.created'"}`, testKey, `{"object":"` + testKey} {
		for _, status := range []int{200, 400, 404, 500} {
			c := &Client{APIKey: testKey, HTTPClient: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
				return respond(status, body, "X-Request-Id", testKey), nil
			})}}
			_, err := c.ListEvents(t.Context(), ListEventsOpts{Events: []string{UserCreated}})
			require.Error(t, err)
			require.NotContains(t, err.Error(), testKey)
			require.NotContains(t, c.Reach(t.Context(), []string{UserCreated}, "o").Error(), testKey)
		}
	}
}

func TestAPageWithStatus200IsQuoted(t *testing.T) {
	t.Parallel()
	for body, quoted := range map[string]bool{
		"<html><title>Please log in</title> " + testKey: true, `{"object":"list","data":[{"secret":"Please log in"}]}`: false, "": false,
	} {
		c := &Client{APIKey: testKey, HTTPClient: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
			return respond(200, body), nil
		})}}
		_, err := c.fetch(t.Context(), ListEventsOpts{Events: []string{UserCreated}})
		require.Error(t, err)
		require.Equal(t, quoted, strings.Contains(err.Error(), "Please log in"))
		require.NotContains(t, err.Error(), testKey)
	}
}
