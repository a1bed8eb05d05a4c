package source

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"workos-relay/checkpoint"
)

// fakeAPI is an Events API in memory, strict where the tests of this package need it, with a fault
// for any request.
type fakeAPI struct {
	mu      sync.Mutex
	events  []fakeEvent
	queries []url.Values
	times   []time.Time

	// fault, if it returns a response or an error, answers in place of the API. n counts
	// requests from 1.
	fault func(n int, q url.Values) (*http.Response, error)
	// unknownAfter answers an `after` that the API does not have; 404 where nil.
	unknownAfter func() *http.Response
}

type fakeEvent struct {
	id, typ string
	at      time.Time
	size    int
}

func (e fakeEvent) json() string {
	at := e.at.UTC().Format(time.RFC3339Nano)
	data := `{}`
	if e.typ == UserCreated { // what its schema asks for
		data = fmt.Sprintf(`{"object":"user","id":"user_1","first_name":null,"last_name":null,"profile_picture_url":null,"email":"a@example.com",`+
			`"email_verified":true,"external_id":null,"last_sign_in_at":null,"created_at":%q,"updated_at":%q}`, at, at)
	}
	return fmt.Sprintf(`{"object":"event","id":%q,"event":%q,"created_at":%q,"data":%s,"pad":%q}`,
		e.id, e.typ, at, data, strings.Repeat("x", e.size))
}

// epoch is where synctest's clock begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// add appends n events that are a millisecond apart, the first at time at.
func (f *fakeAPI) add(n int, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range n {
		f.events = append(f.events, fakeEvent{id: fmt.Sprintf("event_%06d", len(f.events)), typ: UserCreated, at: at.Add(time.Duration(i) * time.Millisecond)})
	}
}

func (f *fakeAPI) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	q := r.URL.Query()
	f.queries = append(f.queries, q)
	f.times = append(f.times, time.Now())
	if f.fault != nil {
		if resp, err := f.fault(len(f.queries), q); resp != nil || err != nil {
			return resp, err
		}
	}
	if q.Get("after") != "" && q.Get("range_start") != "" {
		return respond(400, `{"message":"after excludes range_start"}`), nil
	}
	events := f.events
	if after := q.Get("after"); after != "" {
		i := slices.IndexFunc(events, func(e fakeEvent) bool { return e.id == after })
		if i < 0 {
			if f.unknownAfter != nil {
				return f.unknownAfter(), nil
			}
			return respond(404, `{"message":"unknown cursor"}`, "X-Request-Id", "req_404"), nil
		}
		events = events[i+1:]
	}
	return f.page(q, events), nil
}

func (f *fakeAPI) page(q url.Values, events []fakeEvent) *http.Response {
	limit, _ := strconv.Atoi(q.Get("limit"))
	from, _ := time.Parse(time.RFC3339Nano, q.Get("range_start"))
	until, _ := time.Parse(time.RFC3339Nano, q.Get("range_end"))
	types := strings.Split(q.Get("events"), ",")
	var parts []string
	for _, e := range events {
		if e.at.Before(from) || (!until.IsZero() && e.at.After(until)) || !slices.Contains(types, e.typ) {
			continue
		}
		if len(parts) == limit {
			break
		}
		parts = append(parts, e.json())
	}
	return respondList(parts...)
}

// respondList is a page of the API with its Date and a request id.
func respondList(events ...string) *http.Response {
	return respond(200, `{"object":"list","data":[`+strings.Join(events, ",")+`],"list_metadata":{"before":null,"after":null}}`,
		"Date", time.Now().UTC().Format(http.TimeFormat), "X-Request-Id", "req_ok")
}

func (f *fakeAPI) requests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.queries)
}

// stream is a stream of the fake that asks for user.created, and what it logs.
func (f *fakeAPI) stream() (*Stream, *observer.ObservedLogs) {
	core, logs := observer.New(zap.DebugLevel)
	return &Stream{
		Client: &Client{APIKey: testKey, EventList: EventListComma, HTTPClient: &http.Client{Transport: f}},
		Events: []string{UserCreated},
		Hooks:  &Hooks{},
		Logger: zap.New(core),
	}, logs
}

// take reads pages until there are n, or an error.
func take(t *testing.T, s *Stream, after checkpoint.Position, n int) ([]Page, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*24*time.Hour)
	defer cancel()
	var pages []Page
	for page, err := range s.Pages(ctx, after) {
		if err != nil {
			return pages, err
		}
		if pages = append(pages, page); len(pages) == n {
			break
		}
	}
	require.NoError(t, ctx.Err())
	return pages, nil
}

// ids are those of the pages' events, in order.
func ids(pages []Page) []string {
	var out []string
	for _, p := range pages {
		for _, e := range p.Events {
			out = append(out, e.ID)
		}
	}
	return out
}

// numbered is the ids that add gave out, from first to last.
func numbered(first, last int) []string {
	var out []string
	for i := first; i <= last; i++ {
		out = append(out, fmt.Sprintf("event_%06d", i))
	}
	return out
}

// roundTripStripping hides parameters of the query from the API, as if it did not know them.
func roundTripStripping(next http.RoundTripper, names ...string) http.RoundTripper {
	return roundTrip(func(r *http.Request) (*http.Response, error) {
		q := r.URL.Query()
		for _, name := range names {
			q.Del(name)
		}
		r = r.Clone(r.Context())
		r.URL.RawQuery = q.Encode()
		return next.RoundTrip(r)
	})
}
