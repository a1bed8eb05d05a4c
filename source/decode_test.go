package source

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// sampleEvent is one event of about size bytes.
func sampleEvent(i, size int) string {
	head := fmt.Sprintf(`{"object":"event","id":"event_01J%023d","event":"dsync.user.created","created_at":"2026-11-24T08:57:44.%03dZ",`+
		`"context":{"client_id":"client_01"},"data":{"object":"directory_user","id":"directory_user_01J%023d","directory_id":"directory_01",`+
		`"emails":[{"primary":true,"value":"a%d@example.com","type":"work"}],"big":12345678901234567890,"custom_attributes":{"name":"Zoë \u00e9","note":"`, i, i%1000, i, i)
	const tail = `"}}}`
	return head + strings.Repeat("x", max(size-len(head)-len(tail), 0)) + tail
}

func samplePage(n, size int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"object":"list","data":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(sampleEvent(i, size))
	}
	b.WriteString(`],"list_metadata":{"before":null,"after":"event_last"}}`)
	return b.Bytes()
}

func within(t *testing.T, outer, inner []byte) {
	t.Helper()
	o, i := uintptr(unsafe.Pointer(unsafe.SliceData(outer))), uintptr(unsafe.Pointer(unsafe.SliceData(inner)))
	require.True(t, i >= o && i+uintptr(len(inner)) <= o+uintptr(len(outer)), "a copy was made")
}

// decodeList decodes a page of at most limit events.
func decodeList(body []byte, limit int) (ListEventsResponse, error) {
	list, came, err := decodePage(body, limit, false, false)
	if came > limit {
		err = fmt.Errorf("%d events", came)
	}
	return list, err
}

func TestDecodeAliasesTheBody(t *testing.T) {
	t.Parallel()
	body := samplePage(3, 700)
	before := bytes.Clone(body)
	list, err := decodeList(body, 3)
	require.NoError(t, err)
	require.Equal(t, before, body, "decoding changes nothing")
	require.Len(t, list.Data, 3)
	require.Equal(t, "event_last", list.ListMetadata.After)
	require.Empty(t, list.ListMetadata.Before)
	for i, e := range list.Data {
		require.Equal(t, sampleEvent(i, 700), string(e.Raw))
		within(t, body, e.Raw)
		within(t, e.Raw, e.Data)
		require.True(t, json.Valid(e.Data))
		require.Equal(t, DsyncUserCreated, e.Event)
		require.Equal(t, time.Date(2026, 11, 24, 8, 57, 44, i*1e6, time.UTC), e.CreatedAt)
		require.Equal(t, len(e.Raw), cap(e.Raw), "appending to one event must not reach the next")
	}
}

// TestDecodingCostsNothingPerEvent: a page is its body, the array of its events and their ids in
// one string, with any content of the events. An id keeps no body in memory.
func TestDecodingCostsNothingPerEvent(t *testing.T) {
	allocations := func(events, size int) float64 {
		body := samplePage(events, size)
		return testing.AllocsPerRun(20, func() {
			if _, err := decodeList(body, events); err != nil {
				t.Error(err)
			}
		})
	}
	one, many, large := allocations(1, 500), allocations(100, 500), allocations(100, 20_000)
	require.InDelta(t, one, many, 3)
	require.InDelta(t, many, large, 3)

	body := samplePage(2, 500)
	list, err := decodeList(body, 2)
	require.NoError(t, err)
	from, id := uintptr(unsafe.Pointer(unsafe.SliceData(body))), uintptr(unsafe.Pointer(unsafe.StringData(list.Data[1].ID)))
	require.False(t, id >= from && id < from+uintptr(len(body)), "the id lies in the body")
}

func TestDecodeTakesWhatIsUnusual(t *testing.T) {
	t.Parallel()
	const created = `"created_at":"2026-11-24T08:57:44.123Z"`
	for name, tc := range map[string]struct{ event, id, typ string }{
		"unknown fields, any order":   {`{"zz":[{"a":null}],"data":{},"event":"a.b",` + created + `,"id":"e1"}`, "e1", "a.b"},
		"escaped names and values":    {`{"\u0069d":"e\u0031","event":"a\/b",` + created + `}`, "e1", "a/b"},
		"the last of two names":       {`{"id":"e0","id":"e1","event":"a",` + created + `,"data":1,"data":2}`, "e1", "a"},
		"invalid UTF-8 in the data":   {"{\"id\":\"e1\",\"event\":\"a\"," + created + ",\"data\":{\"n\":\"\xff\xfe\",\"\xff\":1}}", "e1", "a"},
		"invalid UTF-8 and an escape": {"{\"x\\n\xff\":1,\"id\":\"e1\",\"event\":\"a\"," + created + "}", "e1", "a"},
		"white space":                 {"{ \n\t\"id\" : \"e1\" , \"event\":\"a\", " + created + " }", "e1", "a"},
		"unicode id":                  {`{"id":"ereignis_ü","event":"a",` + created + `}`, "ereignis_ü", "a"},
		"nothing but data null":       {`{"id":"e1","event":"a",` + created + `,"data":null}`, "e1", "a"},
	} {
		list, err := decodeList([]byte(`{"list_metadata":{"after":null,"x":{}},"data":[ `+tc.event+` ],"extra":{},"object":"list"}`), 1)
		require.NoError(t, err, name)
		require.Len(t, list.Data, 1, name)
		require.Equal(t, tc.event, string(list.Data[0].Raw), name)
		require.Equal(t, tc.id, list.Data[0].ID, name)
		require.Equal(t, tc.typ, list.Data[0].Event, name)
	}
	list, err := decodeList([]byte(`{"object":"list","data":[],"list_metadata":null}`), 100)
	require.NoError(t, err)
	require.Empty(t, list.Data)
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	event := func(fields string) string { return `{"object":"list","data":[` + fields + `]}` }
	const ok = `"event":"a","created_at":"2026-11-24T08:57:44Z"`
	for body, want := range map[string]string{
		``:                                       "EOF",
		`null`:                                   "not an object",
		`[]`:                                     "not an object",
		`<html>502</html>`:                       "invalid character",
		`{"object":"list"}`:                      `no "data"`,
		`{"data":[]}`:                            "not a list",
		`{"object":"error","data":[]}`:           "not a list",
		`{"object":7,"data":[]}`:                 "not a string",
		`{"object":"list","data":null}`:          "not an array",
		`{"object":"list","data":{}}`:            "not an array",
		`{"object":"list","data":[]} x`:          "something follows",
		`{"object":"list","data":[]}{}`:          "something follows",
		event(`7`):                               "not an object",
		event(`{` + ok + `}`):                    `no "id"`,
		event(`{"id":"",` + ok + `}`):            `no "id"`,
		event(`{"id":7,` + ok + `}`):             "not a string",
		event(`{"id":null,` + ok + `}`):          "not a string",
		event(`{"id":"e1","event":"a"}`):         "not an RFC 3339 time",
		event(`{"id":"e1","created_at":"x"}`):    `no "event"`,
		event(`{"id":"e\u000a1",` + ok + `}`):    "cannot be printed",
		event("{\"id\":\"e\xff\"," + ok + "}"):   "cannot be printed",
		event(`{"id":"e\u007f",` + ok + `}`):     "cannot be printed",
		event(`{"id":"e1",` + ok + `}`)[:60]:     "EOF",
		event(`{"id":"e1",` + ok + `,}`):         "invalid character",
		event(`{"id":"e1",` + ok + `} {}`):       "invalid character",
		event(`{"id":"e1",` + ok + `,"d":01}`):   "invalid",
		event(`{"id":"e1",` + ok + `,"d":"\x"}`): "invalid",
		event(`{"id":"` + strings.Repeat("e", 257) + `",` + ok + `}`):                   "257 bytes",
		event(`{"id":"e1","event":"` + strings.Repeat("e", 257) + `"}`):                 "257 bytes",
		event(`{"id":"e1","event":"a","created_at":"yesterday"}`):                       "not an RFC 3339 time",
		event(`{"id":"e1","event":"a","created_at":"2026-02-30T00:00:00Z"}`):            "not an RFC 3339 time",
		event(`{"id":"e1","event":"a","created_at":"` + strings.Repeat("9", 99) + `"}`): "99 bytes",
		strings.Repeat(`{"a":`, 20000):                                                  "depth",
	} {
		_, err := decodeList([]byte(body), 1)
		require.ErrorContains(t, err, want, "%.200s", body)
	}
}

func TestParseTime(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Time{
		"2026-11-24T08:57:44Z":             time.Date(2026, 11, 24, 8, 57, 44, 0, time.UTC),
		"2026-11-24T08:57:44.123456789Z":   time.Date(2026, 11, 24, 8, 57, 44, 123456789, time.UTC),
		"2026-11-24T10:57:44.5+02:00":      time.Date(2026, 11, 24, 8, 57, 44, 5e8, time.UTC),
		"2020-05-06 04:21:48.649164":       time.Date(2020, 5, 6, 4, 21, 48, 649164e3, time.UTC),
		"2020-05-06 04:21:48":              time.Date(2020, 5, 6, 4, 21, 48, 0, time.UTC),
		"2020-05-06T04:21:48.649164":       time.Date(2020, 5, 6, 4, 21, 48, 649164e3, time.UTC),
		"2020-05-06 04:21:48.649164Z":      time.Date(2020, 5, 6, 4, 21, 48, 649164e3, time.UTC),
		"2020-05-06 06:21:48.649164+02:00": time.Date(2020, 5, 6, 4, 21, 48, 649164e3, time.UTC),
	} {
		got, err := parseTime([]byte(in))
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for _, in := range []string{"", "now", "2020-05-06", "1588738908", "2020-05-06x04:21:48"} {
		_, err := parseTime([]byte(in))
		require.Error(t, err, in)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(samplePage(2, 0))
	f.Add([]byte(`{"object":"list","data":[],"list_metadata":{"before":null,"after":null}}`))
	f.Add([]byte(`{"\u006fbject":"list","data":[{"id":"\u0065","event":"a","created_at":"2020-05-06 04:21:48.649164","id":"b"}]}`))
	f.Add([]byte("{\"object\":\"list\",\"data\":[{\"id\":\"e1\",\"event\":\"a\",\"created_at\":\"2026-11-24T08:57:44Z\",\"x\":\"\xff\"}]}"))
	f.Add([]byte(`{"object":"list","data":[{"id":"e1"`))
	f.Add([]byte(`{"message":"Invalid event 'x'","code":"invalid_events_request"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		list, came, err := decodePage(body, 10, false, false)
		require.Equal(t, before, body, "decoding changes nothing")
		if err != nil {
			require.Empty(t, list.Data)
			return
		}
		require.True(t, json.Valid(body))
		require.True(t, len(list.Data) == came || len(list.Data) == 10 && came > 10)
		end := 0
		for _, e := range list.Data {
			require.True(t, json.Valid(e.Raw))
			require.True(t, e.Data == nil || json.Valid(e.Data))
			require.NotEmpty(t, e.ID)
			require.NotEmpty(t, e.Event)
			require.LessOrEqual(t, max(len(e.ID), len(e.Event)), maxNameBytes)
			at := bytes.Index(body[end:], e.Raw)
			require.GreaterOrEqual(t, at, 0, "raw bytes are those of the body, in order")
			end += at + len(e.Raw)
			var m map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(e.Raw, &m))
			var id string
			require.NoError(t, json.Unmarshal(m["id"], &id))
			require.Equal(t, id, e.ID)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	const n, size = 100, 1500
	body := samplePage(n, size)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		list, err := decodeList(body, n)
		if err != nil || len(list.Data) != n {
			b.Fatal(err, len(list.Data))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/event")
}
