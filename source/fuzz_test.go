package source

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// FuzzResponse reads any body as a response to a request for 3 events, from a server that cuts it
// into pieces of any size. What is used of it are whole events of the body in their order, at most
// 3, and what is held of it is bounded.
func FuzzResponse(f *testing.F) {
	f.Add(samplePage(2, 0), uint8(0))
	f.Add(samplePage(9, 100), uint8(7))
	f.Add([]byte(`{"object":"list","data":[],"list_metadata":{"before":null,"after":"event_elsewhere"}}`), uint8(1))
	f.Add([]byte(`{"object":"list","data":[`+strings.Repeat(`{},`, 100)+`{}]}`), uint8(255))
	f.Add([]byte(`{"object":"list","data":[],"data":[],"list_metadata":7}`), uint8(3))
	f.Fuzz(func(t *testing.T, text []byte, piece uint8) {
		const limit, most = 3, 4 << 10
		c := &Client{MaxResponse: most}
		var a answer
		from := &choppy{text: text, size: int(piece) + 1}
		err := c.readPage(&a, -1, from, ListEventsOpts{Limit: limit}, reading{})
		if err != nil {
			require.Empty(t, a.Data)
			require.LessOrEqual(t, len(c.responseError(a, getRequest{}, err).Error()), 700)
			return
		}
		require.LessOrEqual(t, len(a.Data), limit)
		require.LessOrEqual(t, a.held, most+1)
		require.Equal(t, a.over != nil, a.over != nil && a.over.Came > limit)
		if len(a.Data) == 0 {
			require.Empty(t, a.ListMetadata.After)
		}
		end := 0
		for _, e := range a.Data {
			require.True(t, json.Valid(e.Raw))
			require.True(t, e.Data == nil || bytes.Contains(e.Raw, e.Data))
			at := bytes.Index(text[end:], e.Raw)
			require.GreaterOrEqual(t, at, 0, "raw bytes are those of the body, in order")
			end += at + len(e.Raw)
		}
	})
}

// choppy gives text in pieces of at most size bytes.
type choppy struct {
	text []byte
	size int
}

// Read implements io.Reader.
func (c *choppy) Read(p []byte) (int, error) {
	n, err := bytes.NewReader(c.text).Read(p[:min(len(p), c.size)])
	c.text = c.text[n:]
	return n, err //nolint:wrapcheck // io.EOF
}

// FuzzErrorBody makes an error of any body: its texts can be printed, are bounded and hold no key,
// and the types that it is said to refuse are some that were asked for.
func FuzzErrorBody(f *testing.F) {
	f.Add(400, []byte(`{"message":"Invalid event 'user.created'","code":"invalid_events_request"}`), "req_1")
	f.Add(422, []byte(`{"message":"bad","errors":[{"code":"x","field":"events"},"user.deleted",7,{"message":"m"}]}`), "")
	f.Add(401, []byte(`{"error":"unauthorized","error_description":"the key `+testKey+` is unknown"}`), "req\x1b[31m")
	f.Add(502, []byte("<html>\u202e502\u0085</html>"), strings.Repeat("r", 9999))
	f.Add(429, []byte(`{"errors":[`+strings.Repeat(`1,`, 999)+`1]}`), "x")
	f.Fuzz(func(t *testing.T, status int, text []byte, requestID string) {
		c := &Client{APIKey: testKey}
		asked := []string{UserCreated, UserDeleted, DsyncUserCreated}
		resp := &http.Response{StatusCode: status, Header: http.Header{"X-Request-Id": {requestID}, "Location": {requestID}}}
		a := answer{RequestID: c.clean(requestID)}
		e := c.apiError(resp, bytes.NewReader(text), a, getRequest{types: asked})
		for _, s := range []string{e.Message, e.Code, e.RequestID} {
			require.LessOrEqual(t, len(s), 600)
			require.NotContains(t, s, testKey)
			require.NotContains(t, s, url.QueryEscape(testKey))
			require.True(t, utf8.ValidString(s))
			require.False(t, strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }), "%q", s)
		}
		require.Subset(t, asked, e.Refused)
		require.NotEmpty(t, e.Error())
		_ = e.OperatorAction()
		require.NotEmpty(t, retryReason(e))
	})
}

// FuzzRetryAfter reads any header: the time to wait is never negative, and never longer than a day
// or than the date says.
func FuzzRetryAfter(f *testing.F) {
	for _, header := range []string{"", "0", "-1", "7", "1e999", "NaN", "0x1p-2", "Inf", "Wed, 21 Oct 2026 07:28:00 GMT", "Sun, 06 Nov 9999 08:49:37 GMT"} {
		f.Add(header, int64(1792567680))
	}
	f.Fuzz(func(t *testing.T, header string, date int64) {
		at := time.Unix(date%(1<<40), 0).UTC()
		d := retryAfter(header, at)
		require.GreaterOrEqual(t, d, time.Duration(0))
		if until, err := http.ParseTime(header); err == nil && !at.IsZero() {
			require.LessOrEqual(t, d, max(until.Sub(at), 0))
		} else {
			require.LessOrEqual(t, d, 24*time.Hour)
		}
		for _, reason := range []RetryReason{RetryRateLimited, RetryServer, RetryRefused} {
			wait := retryWait(reason, 1, d, nil)
			require.GreaterOrEqual(t, wait, time.Duration(0))
			require.LessOrEqual(t, wait, 2*retryAfterMax)
		}
	})
}

// FuzzTime reads any text as created_at.
func FuzzTime(f *testing.F) {
	for _, text := range []string{"", "2026-11-24T08:57:44.123456789Z", "2020-05-06 04:21:48.649164", "0000-01-01T00:00:00Z", "9999-12-31T23:59:60Z", "2026-02-30T00:00:00+99:99"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		at, err := parseTime(text)
		if err != nil {
			require.True(t, at.IsZero())
			return
		}
		require.Equal(t, time.UTC, at.Location())
		again, err := parseTime([]byte(at.Format(time.RFC3339Nano)))
		require.NoError(t, err)
		require.True(t, again.Equal(at))
	})
}

// FuzzContext reads the context of any event that a page may hold.
func FuzzContext(f *testing.F) {
	for _, text := range []string{
		`{"actor":{"id":"user_1","name":"A","source":"api"},"client_id":"c","previous_attributes":{"a":1}}`,
		`{"actor":[]}`, `{"actor":{"id":7,"id":"x"},"previous_attributes":[{}]}`, `null`, `"x"`, "{\"actor\":{\"name\":\"\xff\\ud800\"}}",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		page := []byte(`{"object":"list","data":[{"id":"e1","event":"a","created_at":"2026-11-24T08:57:44Z","context":` + string(text) + `}]}`)
		list, _, err := decodePage(page, 1, false, false)
		if err != nil || len(list.Data) == 0 {
			return
		}
		c, ok := list.Data[0].Context()
		if !ok {
			require.Zero(t, c)
		}
		require.True(t, c.PreviousAttributes == nil || json.Valid(c.PreviousAttributes))
	})
}
