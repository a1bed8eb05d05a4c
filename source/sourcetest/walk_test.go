package sourcetest

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
)

// walk follows the cursor from the start to the tip, and returns every id served.
func walk(t *testing.T, s *Server, query string) []string {
	t.Helper()
	return walkFrom(t, s, query, "")
}

func walkFrom(t *testing.T, s *Server, query, after string) []string {
	t.Helper()
	var ids []string
	for {
		q := query
		if after != "" {
			q += "&after=" + after
		}
		r := get(t, s, q)
		require.Equal(t, 200, r.status, r.body)
		ids = append(ids, r.ids()...)
		if after = r.next(); after == "" {
			return ids
		}
	}
}

// mixed holds a population and appended events behind it.
func mixed(t *testing.T) *Server {
	t.Helper()
	s := New(WithPopulation(Population{Events: 3000, Seed: 5, SameInstant: 3, Start: noon.Add(-48 * time.Hour), Organizations: 70}))
	tail := NewGenerator(Population{Events: 2000, Seed: 6, Start: noon.Add(-24 * time.Hour), Organizations: 30})
	for n := range tail.Len() {
		require.NoError(t, s.Append(tail.Event(n)))
	}
	return s
}

func TestWalkGivesEachEventOnce(t *testing.T) {
	s := mixed(t)
	all := s.IDs(Filter{})
	require.Len(t, all, 5000)
	for _, limit := range []int{1, 7, 100} {
		if limit > 1 {
			require.Equal(t, all, walk(t, s, fmt.Sprintf("%s&order=asc&limit=%d", allTypes, limit)))
		}
	}
	reversed := slices.Clone(all)
	slices.Reverse(reversed)
	require.Equal(t, reversed, walk(t, s, allTypes+"&order=desc&limit=100"))
	require.Equal(t, reversed, walk(t, s, allTypes+"&limit=33"))
}

func TestInMemoryIsTheSame(t *testing.T) {
	p := Population{Events: 1500, Seed: 5, SameInstant: 3, Start: noon}
	lazy := New(WithPopulation(p))
	p.InMemory = true
	held := New(WithPopulation(p))
	require.Equal(t, slices.Collect(lazy.Events(Filter{})), slices.Collect(held.Events(Filter{})))
	after := lazy.IDs(Filter{})[700]
	for _, query := range []string{
		"&order=asc", "&order=desc", "&order=asc&after=" + after, "&after=" + after, "&order=asc&organization_id=" + lazy.store.gen.orgs[3],
		"&order=asc&range_start=2026-03-01T18:00:00Z",
	} {
		require.Equal(t, get(t, lazy, allTypes+query+"&limit=100").body, get(t, held, allTypes+query+"&limit=100").body, query)
	}
}

func TestWalkWithFilters(t *testing.T) {
	s := mixed(t)
	for _, types := range [][]string{
		{"dsync.user.created"}, {"waitlist_user.denied"}, {"session.created", "user.updated", "organization.created"}, {"vault.kek.created"},
	} {
		want := s.IDs(Filter{Types: types})
		query := "events=" + strings.Join(types, ",") + "&limit=20&order="
		require.Equal(t, want, walk(t, s, query+"asc"))
		slices.Reverse(want)
		require.Equal(t, want, walk(t, s, query+"desc"))
	}
	for _, org := range []int{0, 17, 69} {
		id := s.store.gen.orgs[org]
		want := s.IDs(Filter{Organization: id})
		require.NotEmpty(t, want)
		require.Equal(t, want, walk(t, s, allTypes+"&limit=20&order=asc&organization_id="+id))
		both := s.IDs(Filter{Organization: id, Types: []string{"dsync.user.created"}})
		require.Equal(t, both, walk(t, s, "events=dsync.user.created&limit=20&order=asc&organization_id="+id))
	}
}

func TestWalkAcrossChunks(t *testing.T) {
	s := New()
	var want []string
	for n := range 4*chunkLen + 1 {
		id, name := fmt.Sprintf("event_%04d", n), "user.created"
		switch n {
		case chunkLen - 1, 3 * chunkLen, 4 * chunkLen: // the last and the first of a chunk, with a chunk without any between
			name = "user.deleted"
			want = append(want, id)
		}
		require.NoError(t, s.Append(rawEvent(id, name, noon, `{}`)))
	}
	require.Equal(t, want, walk(t, s, "events=user.deleted&order=asc&limit=1"))
	slices.Reverse(want)
	require.Equal(t, want, walk(t, s, "events=user.deleted&order=desc&limit=1"))
}

func TestWalkOfARange(t *testing.T) {
	s := mixed(t)
	from, to := noon.Add(-30*time.Hour), noon.Add(-20*time.Hour)
	want := s.IDs(Filter{From: from, To: to})
	require.NotEmpty(t, want)
	last, _ := s.Raw(want[len(want)-1])
	end := url.QueryEscape(gjson.GetBytes(last, "created_at").String())
	first := get(t, s, allTypes+"&order=asc&limit=50&range_start="+url.QueryEscape(from.Format(time.RFC3339))+"&range_end="+end)
	got := first.ids()
	require.NotEmpty(t, first.next())
	got = append(got, walkFrom(t, s, allTypes+"&order=asc&limit=50&range_end="+end, first.next())...)
	require.Equal(t, want, got[:len(want)])
}

func TestBytesAreServedAsStored(t *testing.T) {
	s := mixed(t)
	odd := []byte("{ \"id\":\"event_odd\",\r\n\t\"event\" : \"user.created\", \"created_at\":\"2026-03-01T12:00:00Z\", \"n\":123456789012345678901234567890.00, \"s\":\"\\u00e9\\/é\" }")
	big := rawEvent("event_big", "user.created", noon, `{"pad":"`+strings.Repeat("x", slabSize+1)+`"}`)
	require.NoError(t, s.Append(odd, big, rawEvent("event_end", "user.created", noon, `{}`)))
	r := get(t, s, allTypes+"&order=asc&limit=4&after="+s.IDs(Filter{})[4998])
	events := gjson.Get(r.body, "data").Array()
	require.Len(t, events, 4)
	require.Equal(t, string(odd), events[1].Raw)
	require.Equal(t, string(big), events[2].Raw)
	for _, e := range events {
		raw, ok := s.Raw(e.Get("id").String())
		require.True(t, ok)
		require.Equal(t, string(raw), e.Raw)
	}
	across := get(t, s, allTypes+"&order=asc&limit=100&after="+s.IDs(Filter{})[2950]) // from the population into the log
	require.Len(t, across.ids(), 100)
	require.Equal(t, s.IDs(Filter{})[2951:3051], across.ids())
}

func TestConcurrentUse(t *testing.T) {
	s := New(WithPopulation(Population{Events: 1000}), WithHoldBack(time.Nanosecond))
	require.NoError(t, s.Start(""))
	defer func() { require.NoError(t, s.Close()) }()
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := range 200 {
			if err := s.Append(rawEvent(fmt.Sprintf("event_%06d", n), "user.created", time.Now(), `{"organization_id":"org_1"}`)); err != nil {
				t.Error(err)
			}
			s.RefuseTypes("vault.kek.created")
			s.Fail(1, Slow(0, time.Microsecond))
		}
	})
	for i := range 4 {
		wg.Go(func() {
			c, query := s.Client(), allTypes+"&order=asc&limit=100"
			if i%2 == 1 {
				c, query = httpClient(t), "events=user.created&limit=100"
			}
			for range 20 {
				r, err := fetch(t.Context(), c, s.URL(), query)
				if err != nil || r.status != 200 || !gjson.Valid(r.body) {
					t.Error(r.status, err)
					return
				}
				s.Stats()
				s.Requests()
			}
		})
	}
	wg.Wait()
	require.Len(t, walk(t, s, "events=user.created&order=asc&limit=100"), len(s.IDs(Filter{Types: []string{"user.created"}})))
}
