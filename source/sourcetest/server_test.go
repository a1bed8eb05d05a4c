package sourcetest

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"workos-relay/source"
)

// result is an answer as a client saw it.
type result struct {
	status int
	header http.Header
	body   string
}

func (r result) ids() []string {
	var ids []string
	for _, e := range gjson.Get(r.body, "data.#.id").Array() {
		ids = append(ids, e.String())
	}
	return ids
}

func (r result) next() string { return gjson.Get(r.body, "list_metadata.after").String() }

func fetch(ctx context.Context, c *http.Client, base, query string) (result, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/events?"+query, nil)
	if err != nil {
		return result{}, err
	}
	req.Header.Set("Authorization", "Bearer "+DefaultAPIKey)
	resp, err := c.Do(req)
	if err != nil {
		return result{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return result{resp.StatusCode, resp.Header, string(body)}, err
}

func get(t *testing.T, s *Server, query string) result {
	t.Helper()
	r, err := fetch(t.Context(), s.Client(), s.URL(), query)
	require.NoError(t, err)
	return r
}

// allTypes is every default type as `events=a,b`.
var allTypes = func() string {
	var names []string
	for _, t := range source.Catalogue() {
		if t.Default {
			names = append(names, t.Name)
		}
	}
	return "events=" + strings.Join(names, ",")
}()

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func rawEvent(id, name string, at time.Time, data string) []byte {
	return []byte(`{"object":"event","id":"` + id + `","event":"` + name + `","data":` + data + `,"created_at":"` + at.UTC().Format("2006-01-02T15:04:05.000Z") + `"}`)
}

// five returns a server that holds event_0 to event_4, a minute apart from noon, of two types and
// two organizations.
func five(t *testing.T, opts ...Option) *Server {
	t.Helper()
	s := New(opts...)
	for i := range 5 {
		name, data := "dsync.user.created", `{"organization_id":"org_a"}`
		if i%2 == 1 {
			name, data = "organization.created", `{"object":"organization","id":"org_b"}`
		}
		require.NoError(t, s.Append(rawEvent("event_"+string(rune('0'+i)), name, noon.Add(time.Duration(i)*time.Minute), data)))
	}
	return s
}

func TestStrictQueries(t *testing.T) {
	const types = "events=dsync.user.created,organization.created"
	at := func(d time.Duration) string { return url.QueryEscape(noon.Add(d).Format(time.RFC3339Nano)) }
	for _, c := range []struct {
		name, query string
		opts        []Option
		status      int
		want        string // ids without their prefix on 200, else a part of the body
	}{
		{"newest first, by default", types, nil, 200, "43210"},
		{"asc", types + "&order=asc", nil, 200, "01234"},
		{"normal", types + "&order=normal", nil, 200, "01234"},
		{"oldest first for any order", types + "&order=desc", []Option{WithOldestFirst()}, 200, "01234"},
		{"unknown order", types + "&order=up", nil, 422, `"errors":[{"code":"order_invalid","field":"order"}]`},

		{"events missing", "limit=1", nil, 400, "'events' parameter is required"},
		{"events empty", "events=", nil, 400, "'events' parameter is required"},
		{"repeated", "events=dsync.user.created&events=organization.created&order=asc", nil, 200, "01234"},
		{"brackets", "events[]=dsync.user.created&events%5B%5D=organization.created&order=asc", nil, 200, "01234"},
		{"both forms", "events=dsync.user.created&events[]=organization.created", nil, 400, "Both"},
		{"comma where only brackets are known", types, []Option{WithEventForms(Brackets)}, 400, "required"},
		{"repeat where only comma is known", "events=user.created&events=user.updated", []Option{WithEventForms(Comma)}, 400, "required"},
		{"one name where only comma is known", "events=organization.created&order=asc", []Option{WithEventForms(Comma)}, 200, "13"},
		{"comma within repeated", "events=user.created,user.updated&events=user.deleted", nil, 400, "'user.created,user.updated'"},
		{"filter", "events=organization.created&order=asc", nil, 200, "13"},
		{"filter newest first", "events=dsync.user.created", nil, 200, "420"},
		{"type that none has", "events=user.created", nil, 200, ""},
		{"unknown type", types + ",dsync.user.vanished", nil, 400, `"message":"The events parameter holds an unknown event type: 'dsync.user.vanished'.","code":"invalid_events_request"`},
		{"trailing comma", types + ",", nil, 400, "invalid_events_request"},
		{"pattern", "events=dsync.*", nil, 400, "'dsync.*'"},
		{"type gone upstream", "events=organization_membership.added", nil, 400, "'organization_membership.added'"},
		{"opt-in type", "events=vault.kek.created", nil, 200, ""},
		{"refused type", types, []Option{WithRefusedTypes("organization.created")}, 400, "'organization.created'"},

		{"limit", types + "&limit=2&order=asc", nil, 200, "01"},
		{"limit 100", types + "&limit=100&order=asc", nil, 200, "01234"},
		{"limit 0", types + "&limit=0", nil, 422, `"field":"limit"`},
		{"limit 101", types + "&limit=101", nil, 422, `"field":"limit"`},
		{"limit no number", types + "&limit=ten", nil, 422, `"field":"limit"`},
		{"limit twice", types + "&limit=1&limit=2", nil, 400, "more than once"},
		{"unknown parameter", types + "&cursor=event_1", nil, 400, "'cursor'"},
		{"empty parameter", types + "&after=", nil, 400, "'after' is empty"},
		{"unreadable query", types + "&limit=%zz", nil, 400, "cannot be read"},

		{"after", types + "&order=asc&after=event_1", nil, 200, "234"},
		{"after the last", types + "&order=asc&after=event_4", nil, 200, ""},
		{"after, newest first", types + "&after=event_2", nil, 200, "10"},
		{"before", types + "&order=asc&before=event_3&limit=2", nil, 200, "12"},
		{"before, newest first", types + "&before=event_1&limit=2", nil, 200, "32"},
		{"after and before", types + "&before=event_1&after=event_2", nil, 400, "together"},
		{"after of another type", "events=organization.created&order=asc&after=event_0", nil, 200, "13"},
		{"after of another type, where cursors are typed", "events=organization.created&order=asc&after=event_0", []Option{WithTypedCursors()}, 400, "event_0"},
		{"unknown after", types + "&order=asc&after=event_x", nil, 400, "'event_x'"},
		{"unknown after 404", types + "&order=asc&after=event_x", []Option{WithLostCursor(LostNotFound)}, 404, `"code":"entity_not_found"`},
		{"unknown after 422", types + "&order=asc&after=event_x", []Option{WithLostCursor(LostUnprocessable)}, 422, `"field":"after"`},
		{"unknown after replays", types + "&order=asc&after=event_x", []Option{WithLostCursor(LostReplay)}, 200, "01234"},
		{"unknown after is empty", types + "&order=asc&after=event_x", []Option{WithLostCursor(LostEmpty)}, 200, ""},

		{"range", types + "&order=asc&range_start=" + at(time.Minute) + "&range_end=" + at(3*time.Minute), nil, 200, "123"},
		{"range exclusive", types + "&order=asc&range_start=" + at(time.Minute) + "&range_end=" + at(3*time.Minute), []Option{WithExclusiveRange(true, true)}, 200, "2"},
		{"range_start alone", types + "&order=asc&range_start=" + at(3*time.Minute), nil, 200, "34"},
		{"range, newest first", types + "&range_start=" + at(3*time.Minute), nil, 200, "43"},
		{"range of another zone", types + "&order=asc&range_start=2026-03-01T14%3A03%3A00%2B02%3A00", nil, 200, "34"},
		{"range with an unescaped zone", types + "&range_start=2026-03-01T14:03:00+02:00", nil, 400, "'range_start'"},
		{"range of no date", types + "&range_start=yesterday", nil, 400, "'range_start'"},
		{"range backwards", types + "&range_start=" + at(time.Minute) + "&range_end=" + at(0), nil, 400, "before"},
		{"range of 30 days", types + "&order=asc&range_start=" + at(0) + "&range_end=" + at(720*time.Hour), nil, 200, "01234"},
		{"range over 30 days", types + "&range_start=" + at(0) + "&range_end=" + at(721*time.Hour), nil, 400, "30 days"},
		{"range without bound", types + "&order=asc&range_start=" + at(0) + "&range_end=" + at(721*time.Hour), []Option{WithMaxRange(0)}, 200, "01234"},
		{"range_start with after", types + "&after=event_1&range_start=" + at(0), nil, 400, "together"},
		{"range_end with after", types + "&order=asc&after=event_1&range_end=" + at(3*time.Minute), nil, 200, "23"},
		{"range_end with after ignored", types + "&order=asc&after=event_1&range_end=" + at(3*time.Minute), []Option{WithRangeEndAfter(RangeEndIgnored)}, 200, "234"},
		{"range_end with after refused", types + "&order=asc&after=event_1&range_end=" + at(3*time.Minute), []Option{WithRangeEndAfter(RangeEndRefused)}, 400, "together"},
		{"ranges refused", types + "&range_start=" + at(0), []Option{WithRanges(RangesRefused)}, 422, "not supported"},
		{"ranges ignored", types + "&order=asc&range_start=" + at(3*time.Minute), []Option{WithRanges(RangesIgnored)}, 200, "01234"},

		{"organization", types + "&order=asc&organization_id=org_a", nil, 200, "024"},
		{"organization by its own event", types + "&order=asc&organization_id=org_b", nil, 200, "13"},
		{"unknown organization", types + "&organization_id=org_x", nil, 400, `{"message":"Organization not found: 'org_x'."}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := get(t, five(t, c.opts...), c.query)
			require.Equal(t, c.status, r.status, r.body)
			if c.status == 200 {
				require.Equal(t, c.want, strings.ReplaceAll(strings.Join(r.ids(), ""), "event_", ""))
				return
			}
			require.Contains(t, r.body, c.want)
			require.NotEmpty(t, gjson.Get(r.body, "message").String())
		})
	}
}

func TestResponseForm(t *testing.T) {
	s := five(t, WithClock(func() time.Time { return noon }))
	first := get(t, s, "events=dsync.user.created,organization.created&order=asc&limit=2")
	raw := func(id string) string {
		b, ok := s.Raw(id)
		require.True(t, ok)
		return string(b)
	}
	require.Equal(t, `{"object":"list","data":[`+raw("event_0")+","+raw("event_1")+`],"list_metadata":{"before":null,"after":"event_1"}}`, first.body)
	require.Equal(t, "Sun, 01 Mar 2026 12:00:00 GMT", first.header.Get("Date"))
	require.Equal(t, "application/json; charset=utf-8", first.header.Get("Content-Type"))
	require.Regexp(t, `^req_[0-9A-Z]{26}$`, first.header.Get("X-Request-Id"))

	full := get(t, s, "events=dsync.user.created,organization.created&order=asc&limit=3&after=event_1")
	require.Equal(t, gjson.Null, gjson.Get(full.body, "list_metadata.after").Type, "a full page that is the last has no cursor")
	none := get(t, s, "events=dsync.user.created&order=asc&after=event_4")
	require.JSONEq(t, `{"object":"list","data":[],"list_metadata":{"before":null,"after":null}}`, none.body)
}

func TestAdmission(t *testing.T) {
	s := five(t, WithAPIKey("sk_live_a"))
	do := func(method, path, auth string) int {
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL()+path+"?"+allTypes, nil)
		require.NoError(t, err)
		if auth != "" {
			req.Header.Set("Authorization", auth)
		}
		resp, err := s.Client().Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp.StatusCode
	}
	require.Equal(t, 200, do("GET", "/events", "Bearer sk_live_a"))
	require.Equal(t, 401, do("GET", "/events", ""))
	require.Equal(t, 401, do("GET", "/events", "sk_live_a"))
	require.Equal(t, 401, do("GET", "/events", "Bearer sk_live_ab"))
	require.Equal(t, 404, do("GET", "/events/", "Bearer sk_live_a"))
	require.Equal(t, 404, do("GET", "/organizations", "Bearer sk_live_a"))
	require.Equal(t, 405, do("POST", "/events", "Bearer sk_live_a"))
	s.SetAPIKey("sk_live_b")
	require.Equal(t, 401, do("GET", "/events", "Bearer sk_live_a"))
	require.Equal(t, 200, do("GET", "/events", "Bearer sk_live_b"))
}

func TestUnauthorizedBody(t *testing.T) {
	r := get(t, New(WithAPIKey("another")), allTypes)
	require.Equal(t, 401, r.status)
	require.JSONEq(t, `{"message":"Unauthorized"}`, r.body)
}

func TestTypesChangeAtRuntime(t *testing.T) {
	s := five(t)
	const query = "events=dsync.user.created"
	require.Equal(t, 200, get(t, s, query).status)
	s.RefuseTypes("dsync.user.created")
	require.Equal(t, 400, get(t, s, query).status)
	s.AcceptTypes("dsync.user.created")
	require.Equal(t, 200, get(t, s, query).status)
	require.Equal(t, 400, get(t, s, "events=brand.new").status)
	require.NoError(t, s.Append(rawEvent("event_5", "brand.new", noon, `{}`)))
	require.Equal(t, []string{"event_5"}, get(t, s, "events=brand.new").ids())
}

func TestOrganizations(t *testing.T) {
	s := New()
	for i, c := range []struct{ name, data, org string }{
		{"dsync.user.created", `{"organization_id":"org_1"}`, "org_1"},
		{"authentication.sso_succeeded", `{"sso":{"organization_id":"org_1"}}`, "org_1"},
		{"dsync.group.user_added", `{"directory_id":"d","user":{"organization_id":"org_1"},"group":{"organization_id":"org_1"}}`, "org_1"},
		{"organization.updated", `{"object":"organization","id":"org_1"}`, "org_1"},
		{"user.updated", `{"object":"user","organization_id":"org_1"}`, ""},
		{"magic_auth.created", `{"id":"org_1"}`, ""},
	} {
		id := "event_" + string(rune('a'+i))
		require.NoError(t, s.Append(rawEvent(id, c.name, noon, c.data)))
		require.Equal(t, c.org != "", slices.Contains(get(t, s, allTypes+"&organization_id=org_1").ids(), id), c.name)
	}
	require.Len(t, s.IDs(Filter{Organization: "org_1"}), 4)
	require.Empty(t, s.IDs(Filter{Organization: "org_2"}))
	require.Equal(t, 400, get(t, s, allTypes+"&organization_id=org_2").status)
	s.AddOrganizations("org_2")
	require.Empty(t, get(t, s, allTypes+"&organization_id=org_2").ids())
	require.Equal(t, 200, get(t, s, allTypes+"&organization_id=org_2").status)
}

func TestAppendRefuses(t *testing.T) {
	good := rawEvent("event_1", "user.created", noon, `{}`)
	for name, bad := range map[string][]byte{
		"not JSON":   []byte(`{"id":`),
		"no id":      []byte(`{"event":"user.created","created_at":"2026-03-01T12:00:00.000Z"}`),
		"no type":    []byte(`{"id":"event_2","created_at":"2026-03-01T12:00:00.000Z"}`),
		"no time":    []byte(`{"id":"event_2","event":"user.created"}`),
		"taken id":   good,
		"wrong time": []byte(`{"id":"event_2","event":"user.created","created_at":"noon"}`),
	} {
		t.Run(name, func(t *testing.T) {
			s := New()
			require.Error(t, s.Append(good, bad, rawEvent("event_3", "user.created", noon, `{}`)))
			require.Equal(t, []string{"event_1"}, s.IDs(Filter{}))
		})
	}
	require.NoError(t, New().Append([]byte(`{"id":"evt_1","event":"user.created","created_at":"2023-04-28 20:05:31.093"}`)), "the form of one of WorkOS's samples")
}

func TestHoldBackAndRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(WithHoldBack(10*time.Second), WithRetention(time.Hour))
		require.NoError(t, s.Append(rawEvent("event_1", "user.created", time.Now(), `{}`)))
		require.Empty(t, get(t, s, allTypes+"&order=asc").ids())
		require.Len(t, get(t, s, allTypes+"&order=desc").ids(), 1, "only ascending reads are held back")
		time.Sleep(10*time.Second - time.Millisecond)
		require.Empty(t, get(t, s, allTypes+"&order=asc").ids())
		time.Sleep(time.Millisecond)
		require.Len(t, get(t, s, allTypes+"&order=asc").ids(), 1)

		require.Equal(t, 200, get(t, s, allTypes+"&order=asc&after=event_1").status)
		time.Sleep(time.Hour)
		require.Empty(t, get(t, s, allTypes+"&order=desc").ids())
		require.Equal(t, 400, get(t, s, allTypes+"&order=asc&after=event_1").status)
		require.Equal(t, []string{"event_1"}, s.IDs(Filter{}), "the ledger keeps it")
	})
}

func TestExpire(t *testing.T) {
	s := five(t)
	require.True(t, s.Expire("event_1"))
	require.False(t, s.Expire("event_9"))
	require.Equal(t, []string{"event_2", "event_3", "event_4"}, get(t, s, allTypes+"&order=asc").ids())
	require.Equal(t, 400, get(t, s, allTypes+"&order=asc&after=event_1").status)
	require.Equal(t, 200, get(t, s, allTypes+"&order=asc&after=event_2").status)
}

func TestDisorderedTimes(t *testing.T) {
	s := five(t)
	require.NoError(t, s.Append(rawEvent("event_5", "organization.created", noon.Add(90*time.Second), `{}`)))
	start := url.QueryEscape(noon.Add(time.Minute).Format(time.RFC3339))
	end := url.QueryEscape(noon.Add(2 * time.Minute).Format(time.RFC3339))
	require.Equal(t, []string{"event_1", "event_2", "event_5"}, get(t, s, allTypes+"&order=asc&range_start="+start+"&range_end="+end).ids())
}

func TestRateLimit(t *testing.T) {
	for how, want := range map[RetryAfter]string{RetryAfterSeconds: "45", RetryAfterDate: "Sat, 01 Jan 2000 00:01:00 GMT", RetryAfterAbsent: ""} {
		synctest.Test(t, func(t *testing.T) {
			s := five(t, WithRateLimit(2, time.Minute, how))
			require.Equal(t, 200, get(t, s, allTypes).status)
			time.Sleep(15 * time.Second)
			require.Equal(t, 400, get(t, s, "").status, "a refused request counts too")
			r := get(t, s, allTypes)
			require.Equal(t, 429, r.status)
			require.Equal(t, want, r.header.Get("Retry-After"))
			time.Sleep(45 * time.Second)
			require.Equal(t, 200, get(t, s, allTypes).status)
		})
	}
}

func TestLedger(t *testing.T) {
	s := five(t, WithLedger(2), WithClock(func() time.Time { return noon }))
	get(t, s, allTypes+"&limit=3")
	get(t, s, "limit=7")
	s.Fail(1, Reset())
	_, err := fetch(t.Context(), s.Client(), s.URL(), allTypes+"&limit=9")
	require.Error(t, err)

	require.Equal(t, 3, s.Count())
	reqs := s.Requests()
	require.Len(t, reqs, 2, "the ring is bounded")
	require.Equal(t, "7", reqs[0].Query().Get("limit"))
	require.Equal(t, 400, reqs[0].Status)
	require.Equal(t, noon, reqs[0].Time)
	require.Equal(t, "reset", reqs[1].Fault)
	require.Equal(t, 0, reqs[1].Status)
	stats := s.Stats()
	require.Equal(t, map[int]int{200: 1, 400: 1, 0: 1}, stats.ByStatus)
	require.EqualValues(t, 3, stats.Events)

	require.Equal(t, []string{"event_1"}, s.IDs(Filter{Types: []string{"organization.created"}, To: noon.Add(2 * time.Minute)}))
	var got []string
	for raw := range s.Events(Filter{From: noon.Add(3 * time.Minute)}) {
		require.True(t, json.Valid(raw))
		got = append(got, gjson.GetBytes(raw, "id").String())
	}
	require.Equal(t, []string{"event_3", "event_4"}, got)
}

func TestLedgerOfNone(t *testing.T) {
	s := five(t, WithLedger(0))
	get(t, s, allTypes)
	require.Empty(t, s.Requests())
	require.Equal(t, 1, s.Count())
	require.Equal(t, map[int]int{200: 1}, s.Stats().ByStatus)
}

func TestSignWebhook(t *testing.T) {
	got := SignWebhook("whsec_test", time.UnixMilli(1764000000123), []byte(`{"id":"event_1"}`))
	require.Equal(t, "t=1764000000123, v1=1cbd331b28b641de8a9ada5c160ba80deef01186d512df683c0db6d9d89e29a9", got) // by openssl dgst -sha256 -hmac
}
