package source

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

const testKey = "sk_test_f00dfacef00dface"

// roundTrip is an http.RoundTripper made of a function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// respond makes a response; header is a list of names and values.
func respond(status int, body string, header ...string) *http.Response {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body))}
}

func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c := &Client{APIKey: testKey, Endpoint: srv.URL + "/"}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func TestListEventsOverHTTP(t *testing.T) {
	t.Parallel()
	page := samplePage(2, 800)
	var got *http.Request
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Clone(context.Background())
		w.Header().Set("X-Request-Id", "req_1")
		w.Header().Set("Date", "Tue, 24 Nov 2026 08:57:44 GMT")
		_, _ = w.Write(page)
	})
	resp, err := c.fetch(t.Context(), ListEventsOpts{
		Events: []string{"a.b", "c"}, After: "event_1", RangeStart: "2026-01-01T00:00:00.000Z", OrganizationId: "org_1", Order: "asc"})
	require.NoError(t, err)
	require.Len(t, resp.Data, 2)
	require.Equal(t, "req_1", resp.RequestID)
	require.Equal(t, len(page), resp.Size)
	require.Equal(t, time.Date(2026, 11, 24, 8, 57, 44, 0, time.UTC), resp.Date)
	require.Equal(t, "/events", got.URL.Path)
	require.Equal(t, url.Values{"events": {"a.b", "c"}, "limit": {"10"}, "after": {"event_1"}, "order": {"asc"},
		"range_start": {"2026-01-01T00:00:00.000Z"}, "organization_id": {"org_1"}}, got.URL.Query())
	require.Equal(t, "Bearer "+testKey, got.Header.Get("Authorization"))
	require.Equal(t, "workos-relay (workos-go/4)", got.Header.Get("User-Agent"))
}

func TestWireForms(t *testing.T) {
	t.Parallel()
	for form, want := range map[EventList]url.Values{
		"":                {"events": {"a", "b"}, "limit": {"5"}},
		EventListComma:    {"events": {"a,b"}, "limit": {"5"}},
		EventListRepeat:   {"events": {"a", "b"}, "limit": {"5"}},
		EventListBrackets: {"events[]": {"a", "b"}, "limit": {"5"}},
	} {
		c := &Client{EventList: form}
		raw, err := c.query(ListEventsOpts{Events: []string{"a", "b"}, Limit: 5})
		require.NoError(t, err)
		got, err := url.ParseQuery(raw)
		require.NoError(t, err)
		require.Equal(t, want, got, form)
	}
	_, err := (&Client{APIKey: testKey, EventList: "json"}).ListEvents(t.Context(), ListEventsOpts{})
	require.ErrorIs(t, err, ErrMisconfigured)
	require.ErrorContains(t, err, `"json"`)
}

// TestTheTypesOfARequestAreEncodedOnce is about the hundred types and more that every request
// names. What follows another list of types, or another form, is not mistaken for them.
func TestTheTypesOfARequestAreEncodedOnce(t *testing.T) {
	c := &Client{}
	all, err := Expand([]string{"*"})
	require.NoError(t, err)
	few := testing.AllocsPerRun(10, func() { _, _ = c.query(ListEventsOpts{Events: []string{"a"}, After: "event_1"}) })
	many := testing.AllocsPerRun(10, func() { _, _ = c.query(ListEventsOpts{Events: all, After: "event_1"}) })
	require.InDelta(t, few, many, 5)
	for _, types := range [][]string{{"a", "b"}, {"a"}, {"b"}, nil, {"b"}} {
		raw, err := c.query(ListEventsOpts{Events: types})
		require.NoError(t, err)
		got, err := url.ParseQuery(raw)
		require.NoError(t, err)
		require.Equal(t, types, got["events"])
	}
	c.EventList = EventListComma
	raw, err := c.query(ListEventsOpts{Events: []string{"b"}, Limit: 7})
	require.NoError(t, err)
	require.Equal(t, "events=b&limit=7", raw)
}

func TestErrorShapes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status  int
		body    string
		want    APIError
		message string
	}{
		"message and code": {400, `{"message":"Invalid event 'dsync.nope' and 'other'","code":"invalid_events_request"}`,
			APIError{Code: "invalid_events_request", Message: "Invalid event 'dsync.nope' and 'other'", Refused: []string{"dsync.nope"}}, ""},
		"an apostrophe before the name": {400, `{"message":"Can't read 'dsync.nope'"}`,
			APIError{Message: "Can't read 'dsync.nope'", Refused: []string{"dsync.nope"}}, ""},
		"only in a 400":      {404, `{"message":"no 'dsync.nope'"}`, APIError{Message: "no 'dsync.nope'"}, ""},
		"errors as objects":  {422, `{"message":"Validation failed","errors":[{"code":"required","field":"events"},{"message":"m","code":"c"}]}`, APIError{Message: "Validation failed: events required; m"}, ""},
		"errors as texts":    {422, `{"message":"Validation failed","errors":["a","b"]}`, APIError{Message: "Validation failed: a; b"}, ""},
		"errors of no shape": {422, `{"errors":[7,{}]}`, APIError{Message: "7; {}"}, ""},
		"oauth":              {401, `{"error":"invalid_client","error_description":"Bad key"}`, APIError{Code: "invalid_client", Message: "Bad key"}, ""},
		"wrong field types":  {400, `{"message":["x"],"code":"c"}`, APIError{Code: "c"}, ""},
		"no JSON":            {502, "<html>\n<h1>Bad\x00 Gateway</h1></html>", APIError{Message: `<html> <h1>Bad\u0000 Gateway</h1></html>`, Foreign: true}, ""},
		"other JSON":         {404, `{"status":404,"path":"/events"}`, APIError{Message: `{"status":404,"path":"/events"}`, Foreign: true}, ""},
		"a list":             {400, `["no"]`, APIError{Message: `["no"]`, Foreign: true}, ""},
		"empty":              {503, ``, APIError{Foreign: true}, ""},
		"long":               {500, strings.Repeat("é", 5000), APIError{Message: strings.Repeat("é", 239) + "... (9522 more bytes)", Foreign: true}, ""},
		"the key echoed":     {401, `{"message":"no such key ` + testKey + `","code":"` + testKey + `"}`, APIError{Code: "[API key]", Message: "no such key [API key]"}, ""},
		"no content":         {204, ``, APIError{Foreign: true}, ""},
	} {
		c := &Client{APIKey: testKey, HTTPClient: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
			return respond(tc.status, tc.body, "X-Request-Id", "req_"+testKey+"\n7"), nil
		})}}
		_, err := c.ListEvents(t.Context(), ListEventsOpts{Events: []string{"dsync.nope", "user.created"}})
		var e *APIError
		require.ErrorAs(t, err, &e, name)
		tc.want.Status, tc.want.RequestID = tc.status, "req_[API key] 7"
		require.Equal(t, tc.want, *e, name)
		require.NotContains(t, err.Error(), testKey, name)
		require.NotContains(t, err.Error(), "\n", name)
		require.Contains(t, err.Error(), strconv.Itoa(tc.status), name)
	}
}

func TestRetryAfterHeader(t *testing.T) {
	t.Parallel()
	date := time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"":                              0,
		"7":                             7 * time.Second,
		"0.5":                           500 * time.Millisecond,
		"-3":                            0,
		"NaN":                           0,
		"1e300":                         24 * time.Hour,
		"Tue, 24 Nov 2026 08:00:30 GMT": 30 * time.Second,
		"Tue, 24 Nov 2026 07:00:00 GMT": 0,
		"soon":                          0,
	} {
		require.Equal(t, want, retryAfter(header, date), header)
	}
}

func TestTheKeyStaysWithTheEndpoint(t *testing.T) {
	t.Parallel()
	var leaked []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		leaked = append(leaked, r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	page := samplePage(1, 0)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("after") {
		case "same":
			http.Redirect(w, r, "/events?moved=1", http.StatusFound)
		case "away":
			http.Redirect(w, r, elsewhere.URL+"/events", http.StatusTemporaryRedirect)
		default:
			assert.Equal(t, "Bearer "+testKey, r.Header.Get("Authorization"))
			_, _ = w.Write(page)
		}
	})
	_, err := c.ListEvents(t.Context(), ListEventsOpts{After: "same"})
	require.NoError(t, err)
	_, err = c.ListEvents(t.Context(), ListEventsOpts{After: "away"})
	var e *APIError
	require.ErrorAs(t, err, &e)
	require.Equal(t, http.StatusTemporaryRedirect, e.Status)
	require.Contains(t, e.Message, elsewhere.URL)
	require.Empty(t, leaked)
}

func TestTheKeyIsNeverPrinted(t *testing.T) {
	t.Parallel()
	refused := &Client{APIKey: testKey, Endpoint: "http://127.0.0.1:1"}
	_, err := refused.ListEvents(t.Context(), ListEventsOpts{Events: []string{"user.created"}})
	var te *TransportError
	require.ErrorAs(t, err, &te)
	require.Equal(t, "127.0.0.1:1", te.Host)
	require.NotContains(t, err.Error(), "user.created", "the query would fill the log")
	for _, s := range []string{err.Error(), fmt.Sprint(refused), fmt.Sprintf("%+v %#v %s %v", refused, refused, refused, refused)} {
		require.NotContains(t, s, testKey)
	}
	for _, bad := range []string{"", testKey + "\n", "sk test", "sk_\x00"} {
		_, err := (&Client{APIKey: bad}).ListEvents(t.Context(), ListEventsOpts{})
		require.ErrorIs(t, err, ErrMisconfigured)
		require.NotContains(t, err.Error(), testKey)
	}
	for _, endpoint := range []string{"api.workos.com", "ftp://x", "http://[::1", "://", "http://"} {
		_, err := (&Client{APIKey: testKey, Endpoint: endpoint}).ListEvents(t.Context(), ListEventsOpts{})
		require.ErrorIs(t, err, ErrMisconfigured, endpoint)
	}
}

func TestBodies(t *testing.T) {
	t.Parallel()
	page := samplePage(5, 1000)
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	_, err := zw.Write(page)
	require.NoError(t, err)
	require.NoError(t, zw.Close())
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("after") {
		case "gzip":
			assert.Contains(t, r.Header.Get("Accept-Encoding"), "gzip")
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(packed.Bytes())
		case "chunked":
			_, _ = w.Write(page[:100])
			w.(http.Flusher).Flush()
			_, _ = w.Write(page[100:])
		case "large-chunked":
			_, _ = w.Write(page[:100])
			w.(http.Flusher).Flush()
			_, _ = w.Write(bytes.Repeat([]byte(" "), 10000))
		case "large":
			_, _ = w.Write(bytes.Repeat([]byte(" "), 10001))
		case "short":
			w.Header().Set("Content-Length", strconv.Itoa(len(page)))
			_, _ = w.Write(page[:2000])
		case "short-chunked":
			_, _ = w.Write(page[:2000])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case "half":
			_, _ = w.Write(page[:2000])
		}
	})
	c.MaxResponse = 10000
	list := func(after string) (answer, error) {
		return c.fetch(t.Context(), ListEventsOpts{After: after, Limit: 5})
	}
	for _, after := range []string{"gzip", "chunked"} {
		resp, err := list(after)
		require.NoError(t, err, after)
		require.Equal(t, len(page), resp.Size, after)
		require.Equal(t, sampleEvent(4, 1000), string(resp.Data[4].Raw), after)
	}
	for after, want := range map[string]string{
		"large": "permitted response of 10000 bytes", "large-chunked": "permitted response of 10000 bytes", "half": "cannot be decoded",
		"short": "cut off after 2000 of ", "short-chunked": "cut off after 2000 bytes",
	} {
		_, err := list(after)
		var e *ResponseError
		require.ErrorAs(t, err, &e, after)
		require.ErrorContains(t, err, want, after)
		require.Equal(t, strings.HasPrefix(after, "large"), errors.Is(err, ErrTooLarge), after)
	}
}

func TestTimeoutAndCancellation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &Client{APIKey: testKey, Timeout: 3 * time.Second, HTTPClient: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})}}
		start := time.Now()
		_, err := c.ListEvents(t.Context(), ListEventsOpts{})
		require.Equal(t, 3*time.Second, time.Since(start))
		var te *TransportError
		require.ErrorAs(t, err, &te)
		require.ErrorIs(t, err, errNoAnswer)
		require.NotErrorIs(t, err, context.DeadlineExceeded, "a slow API is not the end of the caller's context")

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = c.ListEvents(ctx, ListEventsOpts{})
		require.Equal(t, context.DeadlineExceeded, err)
	})
}

func TestLimiterIsShared(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		requests := 0
		c := &Client{APIKey: testKey, Limiter: rate.NewLimiter(2, 1), HTTPClient: &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
			requests++
			return respond(200, `{"object":"list","data":[]}`), nil
		})}}
		start := time.Now()
		for range 5 {
			_, err := c.ListEvents(t.Context(), ListEventsOpts{})
			require.NoError(t, err)
		}
		require.Equal(t, 2*time.Second, time.Since(start))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := c.ListEvents(ctx, ListEventsOpts{})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 5, requests)
		c.Limiter = rate.NewLimiter(1, 0)
		_, err = c.ListEvents(t.Context(), ListEventsOpts{})
		require.ErrorIs(t, err, ErrMisconfigured)
	})
}

// OnRequest is called for each request that is sent, also for those that follow a redirect or try
// another key, and for no other.
func TestOnRequest(t *testing.T) {
	t.Parallel()
	sent, told, key := 0, 0, "sk_test_old"
	c := &Client{
		Key: func(refused bool) string {
			if refused {
				key = testKey
			}
			return key
		},
		Endpoint: "https://api.example", OnRequest: func() { told++ },
		HTTPClient: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			sent++
			switch sent {
			case 1:
				return respond(401, `{"message":"Unauthorized"}`), nil
			case 2:
				moved := respond(307, "")
				moved.Header = http.Header{"Location": {"https://api.example/v2/events"}}
				return moved, nil
			case 3:
				moved := respond(307, "")
				moved.Header = http.Header{"Location": {"https://elsewhere.example/events"}} // which is not followed
				return moved, nil
			default:
				return nil, errors.New("no connection")
			}
		})},
	}
	_, err := c.ListEvents(t.Context(), ListEventsOpts{})
	require.Error(t, err)
	require.Equal(t, []int{3, 3}, []int{sent, told})
	_, err = c.ListEvents(t.Context(), ListEventsOpts{})
	require.Error(t, err)
	require.Equal(t, []int{4, 4}, []int{sent, told})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.ListEvents(ctx, ListEventsOpts{})
	require.Error(t, err)
	require.Equal(t, sent, told)
}

func TestReach(t *testing.T) {
	t.Parallel()
	var requests int
	client := func(answer func(q url.Values) *http.Response) *Client {
		requests = 0
		return &Client{APIKey: testKey, EventList: EventListComma, HTTPClient: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			requests++
			require.Equal(t, "1", r.URL.Query().Get("limit"))
			return answer(r.URL.Query()), nil
		})}}
	}
	good := client(func(url.Values) *http.Response { return respond(200, `{"object":"list","data":[]}`) })
	require.NoError(t, good.Reach(t.Context(), []string{"a", "b"}, ""))
	require.Equal(t, 1, requests)

	picky := client(func(q url.Values) *http.Response {
		for _, name := range []string{"b", "d"} {
			if strings.Contains(","+q.Get("events")+",", ","+name+",") {
				return respond(400, `{"code":"invalid_events_request","message":"Unknown '`+name+`'"}`)
			}
		}
		return respond(200, `{"object":"list","data":[]}`)
	})
	for _, asked := range [][]string{{"d", "a", "b"}, {"d", "b"}} {
		err := picky.Reach(t.Context(), asked, "")
		var e *RefusedTypesError
		require.ErrorAs(t, err, &e)
		require.Equal(t, []string{"b", "d"}, e.Types)
		require.ErrorContains(t, err, "b, d")
	}
	for status, hint := range map[int]string{401: "source.api_key", 403: "enabled", 404: "source.endpoint", 429: "rate limit", 400: "organization_id org_1"} {
		bad := client(func(url.Values) *http.Response { return respond(status, `{"message":"no"}`) })
		err := bad.Reach(t.Context(), []string{"a"}, "org_1")
		require.ErrorContains(t, err, hint)
		var e *APIError
		require.ErrorAs(t, err, &e)
		require.Equal(t, 1, requests)
	}
}
