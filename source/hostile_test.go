package source

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
)

// events returns what the API holds from index i on, as JSON.
func (f *fakeAPI) raw(from, to int) []string {
	var out []string
	for _, e := range f.events[from:min(to, len(f.events))] {
		out = append(out, e.json())
	}
	return out
}

// TestAPageWithMoreEventsThanAskedFor: the first ones are used, the others are asked for again, and
// the response counts as wrong, with the numbers and the request id. It does not matter whether the
// page ends within the permitted size.
func TestAPageWithMoreEventsThanAskedFor(t *testing.T) {
	for name, tc := range map[string]struct {
		events, size int
		most         int64
		says         string
	}{
		"a few too many":                 {130, 10, 1 << 20, "it holds 130 events, although 100 were asked for (request id req_ok)"},
		"far too many":                   {2000, 10, 32 << 20, "it holds 2000 events, although 100 were asked for (request id req_ok)"},
		"more than may be read":          {2000, 10, 64 << 10, "it holds at least "},
		"so many that it is cut at once": {3000, 300, 32 << 20, "it holds 3000 events, although 100 were asked for (request id req_ok)"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := &fakeAPI{}
				api.add(tc.events, epoch)
				for i := range api.events {
					api.events[i].size = tc.size
				}
				api.fault = func(_ int, q url.Values) (*http.Response, error) {
					from := 0
					if after := q.Get("after"); after != "" {
						_, err := fmt.Sscanf(after, "event_%d", &from)
						require.NoError(t, err)
						from++
					}
					return respondList(api.raw(from, len(api.events))...), nil
				}
				s, logs := api.stream()
				s.Client.MaxResponse = tc.most
				var told []RetryInfo
				s.Hooks.OnRetry = func(i RetryInfo) { told = append(told, i) }
				pages, err := take(t, s, checkpoint.Position{}, (tc.events+99)/100)
				require.NoError(t, err)
				require.Equal(t, numbered(0, tc.events-1), ids(pages))
				require.Len(t, told, (tc.events-1)/100, "each page but the last")
				require.ErrorIs(t, told[0].Err, errOverfull)
				require.ErrorContains(t, told[0].Err, tc.says)
				require.Equal(t, 1, logs.FilterMessageSnippet("sends more events at once than were asked for").Len())
				for _, p := range pages {
					require.Less(t, p.Size, 100<<10, "only what is used is held")
				}
			})
		})
	}
}

// TestAPageThatSaysThatOthersFollow: a short page with a cursor is not the tip. An empty page with
// a cursor is an error, since it gives no way to go on, and is asked for again; the cursor that it
// names is never used.
func TestAPageThatSaysThatOthersFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		api.add(10, epoch)
		follows := func(after string, events ...string) *http.Response {
			return respond(200, `{"object":"list","data":[`+strings.Join(events, ",")+`],"list_metadata":{"before":null,"after":"`+after+`"}}`, "X-Request-Id", "req_more")
		}
		api.fault = func(n int, _ url.Values) (*http.Response, error) {
			switch {
			case n == 1:
				return follows("event_000002", api.raw(0, 3)...), nil
			case n < 6:
				return follows("event_000008"), nil
			}
			return nil, nil
		}
		s, logs := api.stream()
		var told []error
		s.Hooks.OnRetry = func(i RetryInfo) { told = append(told, i.Err) }
		pages, err := take(t, s, checkpoint.Position{}, 2)
		require.NoError(t, err)
		require.False(t, pages[0].Tip)
		require.True(t, pages[1].Tip)
		require.Equal(t, numbered(0, 9), ids(pages))
		require.Len(t, told, 4)
		require.ErrorContains(t, told[0], `it holds no event, but says that others follow (after "event_000008") (request id req_more)`)
		require.NotZero(t, logs.FilterMessageSnippet("a request to the Events API failed").Len())
		for _, q := range api.queries[1:] {
			require.Equal(t, "event_000002", q.Get("after"))
		}
	})
}

// TestListMetadataOfAnyShape: a page with list_metadata that is missing or not of its type is used
// as it is.
func TestListMetadataOfAnyShape(t *testing.T) {
	for _, metadata := range []string{``, `,"list_metadata":null`, `,"list_metadata":7`, `,"list_metadata":[]`, `,"list_metadata":"event_000001"`,
		`,"list_metadata":{}`, `,"list_metadata":{"after":7}`, `,"list_metadata":{"after":{"x":["event_000001"]}}`, `,"list_metadata":{"after":""}`} {
		synctest.Test(t, func(t *testing.T) {
			api := &fakeAPI{}
			api.add(3, epoch)
			api.fault = func(n int, _ url.Values) (*http.Response, error) {
				if n > 1 {
					return respond(200, `{"object":"list","data":[]`+metadata+`}`), nil
				}
				return respond(200, `{"object":"list","data":[`+strings.Join(api.raw(0, 3), ",")+`]`+metadata+`}`), nil
			}
			s, _ := api.stream()
			pages, err := take(t, s, checkpoint.Position{}, 3)
			require.NoError(t, err, metadata)
			require.Equal(t, numbered(0, 2), ids(pages), metadata)
			require.True(t, pages[2].Tip, metadata)
		})
	}
}

// TestAnAPIThatRepeatsAPageByTime: after the cursor was lost the API sends one page for every
// cursor, all of it known. Relay does not ask for it without pause, and ends with a cursor that is
// lost.
func TestAnAPIThatRepeatsAPageByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &fakeAPI{}
		api.add(300, epoch)
		s, _ := api.stream()
		r, err := newReader(s, checkpoint.Checkpoint{Position: checkpoint.Position{EventID: "event_000299", CreatedAt: api.events[299].at}, Seen: epoch.Add(time.Hour)})
		require.NoError(t, err)
		r.anchor = &anchor{lost: &CursorLostError{Position: r.pos, Reason: "for a test"}, old: epoch.Add(time.Hour), read: newRecentIDs(recentCount)}
		r.checked = true
		api.fault = func(n int, q url.Values) (*http.Response, error) {
			if q.Get("limit") != "100" {
				return nil, nil
			}
			from := 100 * (n % 2) // two pages by turns
			return respondList(api.raw(from, from+100)...), nil
		}
		_, err = r.next(t.Context())
		require.ErrorIs(t, err, ErrCursorLost)
		require.Less(t, api.requests(), 100)
	})
}

// TestHugeNames: a string of megabytes, escaped, in the place of any name costs no copy of itself.
func TestHugeNames(t *testing.T) {
	huge := strings.Repeat(`\u0061`, 1<<20)
	for name, page := range map[string]string{
		"object":   `{"object":"` + huge + `","data":[]}`,
		"key":      `{"object":"list","` + huge + `":1,"data":[]}`,
		"id":       `{"object":"list","data":[{"id":"` + huge + `"}]}`,
		"time":     `{"object":"list","data":[{"id":"a","event":"b","created_at":"` + huge + `"}]}`,
		"metadata": `{"object":"list","data":[],"list_metadata":{"after":"` + huge + `"}}`,
	} {
		body := []byte(page)
		require.Less(t, allocated(func() { _, _, _ = decodePage(body, 100, false, false) }), uint64(1<<20), name)
	}
}

// allocated returns how many bytes f allocates. What goes on beside it is counted too.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// TestMemoryComesWithTheData: a response that announces much and sends little costs little, and one
// is given up as soon as there is no room for what it announces or has sent.
func TestMemoryComesWithTheData(t *testing.T) {
	c := &Client{}
	for _, announced := range []int64{-1, 30 << 20} {
		asked := int64(0)
		room := func(size int64) bool { asked = max(asked, size); return size <= 1<<20 }
		err := c.readPage(&answer{}, announced, io.LimitReader(neverEnding('x'), 30<<20), ListEventsOpts{Limit: 100}, reading{room: room})
		require.True(t, isNoRoom(err), "%v", err)
		if announced < 0 {
			require.EqualValues(t, 1<<20+pieceSize, asked)
		}
	}
	require.Less(t, allocated(func() {
		_ = c.readPage(&answer{}, 30<<20, strings.NewReader(`{"object":`), ListEventsOpts{Limit: 100}, reading{})
	}), uint64(1<<20))
}

// neverEnding gives one byte without end.
type neverEnding byte

// Read implements io.Reader.
func (b neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

func TestRoom(t *testing.T) {
	m := newRoom(800)
	a, b := m.grant(300, false), m.grant(300, false)
	require.True(t, a.grow(400))
	require.False(t, b.grow(400), "the share of the head is closed")
	head := m.grant(1000, true)
	require.EqualValues(t, 100, head.bytes, "as much as there is")
	require.False(t, head.grow(200))
	a.end()
	require.True(t, head.grow(500))
	require.False(t, head.grow(501))
	b.end()
	require.True(t, head.grow(800))
	require.True(t, head.grow(5000), "alone it may have any size")
	m.add(1)
	require.False(t, head.grow(5001))
	m.add(-1)
	m.yields(100)
	require.True(t, head.grow(6000), "the page being yielded flows out in any case")
	head.end()
	m.yields(0)
	require.Zero(t, m.used)
}

// TestPartsOfALargePage: they hold the events in order, know nothing of the whole page but the
// last, and keep no more than their own bytes.
func TestPartsOfALargePage(t *testing.T) {
	body := samplePage(100, 50_000)
	list, _, err := decodePage(body, 100, false, false)
	require.NoError(t, err)
	want := append([]Event(nil), list.Data...)
	end := want[99].Position()
	page := Page{
		Events: list.Data, Tip: true, Seen: epoch, Size: len(body), RequestID: "r", Sent: epoch, Took: time.Second,
		Refused: []checkpoint.Refused{{Type: "a", Position: want[3].Position()}, {Type: "b", Position: end}},
		Joining: []string{"b"},
	}
	var parts []Page
	require.True(t, yieldPage(page, func(p Page, err error) bool {
		require.NoError(t, err)
		parts = append(parts, p)
		return true
	}))
	require.Len(t, parts, 5)
	var got []Event
	for i, p := range parts {
		got = append(got, p.Events...)
		require.LessOrEqual(t, p.Size, partSize)
		require.Equal(t, i == 4, p.Tip)
		require.Equal(t, i == 4, !p.Seen.IsZero())
		require.Equal(t, want[3].Position(), p.Refused[0].Position)
		require.Equal(t, p.Events[len(p.Events)-1].Position(), p.Refused[1].Position)
		from, raw := offset(body, p.Events[0].Raw), p.Events[0].Raw
		require.False(t, from >= 0 && from < len(body), "the bytes lie in the page")
		require.Equal(t, `{"`, string(raw[:2]))
	}
	require.Equal(t, want, got)
	parts = nil
	huge := []Event{want[0], {ID: "huge", Raw: make([]byte, 3*partSize)}, want[1]}
	require.True(t, yieldPage(Page{Events: slices.Clone(huge)}, func(p Page, _ error) bool {
		parts = append(parts, p)
		return true
	}))
	require.Len(t, parts, 3)
	for i, p := range parts {
		require.Equal(t, huge[i:i+1], p.Events)
	}
	parts = nil
	require.False(t, yieldPage(Page{Events: slices.Clone(want), Late: "a", Refused: page.Refused}, func(p Page, _ error) bool {
		parts = append(parts, p)
		return false
	}))
	require.Len(t, parts, 1)
	require.Equal(t, parts[0].Events[len(parts[0].Events)-1].Position(), parts[0].Refused[0].Position)
	require.Equal(t, end, parts[0].Refused[1].Position)
}
