package sourcetest

import (
	"bytes"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"workos-relay/source"
)

func TestGeneratedEvents(t *testing.T) {
	g := NewGenerator(Population{Events: 10_000, Seed: 3, SameInstant: 7})
	seen := map[string]int{}
	var lastID string
	var lastAt time.Time
	total, shared := 0, 0
	for n := range g.Len() {
		raw := g.Event(n)
		total += len(raw)
		require.True(t, gjson.ValidBytes(raw), "%s", raw)
		require.True(t, utf8.Valid(raw))
		require.LessOrEqual(t, len(raw), 3<<10)

		f := gjson.ParseBytes(raw)
		id, name := f.Get("id").String(), f.Get("event").String()
		seen[name]++
		require.Greater(t, id, lastID, "ids ascend")
		at, err := time.Parse(time.RFC3339Nano, f.Get("created_at").String())
		require.NoError(t, err)
		require.False(t, at.Before(lastAt))
		if at.Equal(lastAt) {
			shared++
		}
		u, err := ulid.ParseStrict(strings.TrimPrefix(id, "event_"))
		require.NoError(t, err)
		require.Equal(t, at.UnixMilli(), int64(u.Time()))
		require.Equal(t, id, g.ID(n))
		require.True(t, at.Equal(g.CreatedAt(n)))
		k, ok := g.index(id)
		require.True(t, ok)
		require.Equal(t, n, k)
		lastID, lastAt = id, at

		e := g.plan(n)
		read := readFields(raw)
		org := read.organization()
		if want, ok := g.orgOf(e); ok {
			require.Equal(t, g.orgs[want], org, "%s", raw)
		} else {
			require.Empty(t, org, "%s", raw)
		}
	}
	require.Equal(t, g.Len()-g.Len()/7-1, shared, "seven in a row share an instant")
	mean := total / g.Len()
	require.True(t, mean > 500 && mean < 2000, "mean size %d", mean)
	for _, typ := range source.Catalogue() {
		require.Equal(t, typ.Default, seen[typ.Name] > 0, "%s", typ.Name)
	}
	require.Greater(t, seen["dsync.user.created"], g.Len()/20)
}

func TestGeneratedContentIsHard(t *testing.T) {
	g := NewGenerator(Population{Events: 2000})
	var all bytes.Buffer
	for n := range g.Len() {
		all.Write(g.Event(n))
	}
	for _, want := range []string{`\u2019`, `\/`, `\"`, "桜", "🦊", `1.0E+0`, `"context":{}`, `"previous_attributes":{"seat":`, `"badge":`} {
		require.Contains(t, all.String(), want)
	}
	for _, at := range regexp.MustCompile(`@([^"]*)"`).FindAllStringSubmatch(all.String(), -1) {
		require.True(t, strings.HasSuffix(at[1], ".example.com"), at[1])
	}
}

func TestGeneratorIsDeterministic(t *testing.T) {
	p := Population{Events: 1000, Seed: 9}
	a, b := NewGenerator(p), NewGenerator(p)
	p.Seed++
	c := NewGenerator(p)
	require.Equal(t, string(a.Event(500)), string(b.Event(500)))
	require.NotEqual(t, string(a.Event(500)), string(c.Event(500)))
	_, known := c.index(a.ID(500))
	require.False(t, known, "ids of another population are unknown")
}

func TestUnevenProfile(t *testing.T) {
	const events = 1_000_000
	spans := UnevenProfile(events, 90*24*time.Hour, 1)
	var sum int
	var length, silence, longest time.Duration
	var densest float64
	for _, s := range spans {
		require.GreaterOrEqual(t, s.Events, 0)
		sum += s.Events
		length += s.Length
		silence += s.Length
		if s.Events > 0 {
			silence = 0
			densest = max(densest, float64(s.Events)/s.Length.Minutes())
		}
		longest = max(longest, silence)
	}
	require.Equal(t, events, sum)
	require.Equal(t, 90*24*time.Hour, length)
	require.GreaterOrEqual(t, longest, 12*time.Hour)
	require.GreaterOrEqual(t, densest, 200_000.0, "events within one minute")

	g := NewGenerator(Population{Profile: spans})
	require.Equal(t, events, g.Len())
	prev := int64(0)
	for n := 0; n < events; n += 97 {
		require.GreaterOrEqual(t, g.tl.ms(n), prev)
		prev = g.tl.ms(n)
	}
	for _, n := range []int{0, 1, events / 2, events - 1} {
		first := g.tl.search(g.tl.ms(n))
		require.LessOrEqual(t, first, n)
		require.Equal(t, g.tl.ms(n), g.tl.ms(first))
		require.True(t, first == 0 || g.tl.ms(first-1) < g.tl.ms(n))
	}
}

func TestPopulationEndsNow(t *testing.T) {
	s := New(WithClock(func() time.Time { return noon }), WithPopulation(Population{Events: 1000}))
	at := s.store.gen.CreatedAt(0)
	require.Equal(t, noon.Add(-24*time.Hour), at)
	require.True(t, s.store.gen.CreatedAt(999).Before(noon))
}

func TestAppendTime(t *testing.T) {
	for _, s := range []string{
		"1970-01-01T00:00:00.000Z", "1969-12-31T23:59:59.999Z", "2000-02-29T23:59:59.999Z", "2026-01-31T10:11:12.013Z",
		"2100-02-28T00:00:00.100Z", "2400-12-31T12:00:00.007Z",
	} {
		at, err := time.Parse(time.RFC3339Nano, s)
		require.NoError(t, err)
		require.Equal(t, s, string(appendTime(nil, at.UnixMilli())))
	}
	for d := range 366 * 8 {
		at := noon.AddDate(-3, 0, d)
		require.Equal(t, at.Format("2006-01-02T15:04:05.000Z"), string(appendTime(nil, at.UnixMilli())))
	}
}

func TestULID(t *testing.T) {
	for _, c := range []struct {
		ms int64
		hi uint16
		lo uint64
	}{{0, 0, 0}, {1<<48 - 1, 1<<16 - 1, 1<<64 - 1}, {noon.UnixMilli(), 0x1234, 0xfedcba9876543210}} {
		text := string(appendULID(nil, c.ms, c.hi, c.lo))
		u, err := ulid.ParseStrict(text)
		require.NoError(t, err)
		require.Equal(t, c.ms, int64(u.Time()))
		ms, hi, lo, ok := parseULID(text)
		require.True(t, ok)
		require.Equal(t, c.ms, ms)
		require.Equal(t, c.hi, hi)
		require.Equal(t, c.lo, lo)
		require.Equal(t, slices.Concat([]byte{byte(c.hi >> 8), byte(c.hi)}, []byte{byte(c.lo >> 56)}), u.Entropy()[:3])
	}
	for _, bad := range []string{"", "01ARZ3NDEKTSV4RRFFQ69G5FA", "81ARZ3NDEKTSV4RRFFQ69G5FAV", "01ARZ3NDEKTSV4RRFFQ69G5FAU"} {
		_, _, _, ok := parseULID(bad)
		require.False(t, ok, bad)
	}
}
