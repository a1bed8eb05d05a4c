package moment

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var now = time.Date(2026, 11, 30, 1, 30, 0, 0, time.FixedZone("", 3600)) // 00:30 in UTC

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"2026-11-01":                     "2026-11-01T00:00:00Z",
		" 2026-11-01 ":                   "2026-11-01T00:00:00Z",
		"2026-11-01 15:04":               "2026-11-01T15:04:00Z",
		"2026-11-01T15:04":               "2026-11-01T15:04:00Z",
		"2026-11-01 15:04:05":            "2026-11-01T15:04:05Z",
		"2026-11-01 15:04:05.123 UTC":    "2026-11-01T15:04:05.123Z",
		"2026-11-01 15:04+02:00":         "2026-11-01T13:04:00Z",
		"2026-11-01T15:04:05Z":           "2026-11-01T15:04:05Z",
		"2026-11-01T15:04:05.678-05:30":  "2026-11-01T20:34:05.678Z",
		"2026-01-31T00:00:00.000000001Z": "2026-01-31T00:00:00.000000001Z",
		"2h":                             "2026-11-29T22:30:00Z",
		"2h ago":                         "2026-11-29T22:30:00Z",
		"-90m":                           "2026-11-29T23:00:00Z",
		"1h30m":                          "2026-11-29T23:00:00Z",
		"3d":                             "2026-11-27T00:30:00Z",
		"1w":                             "2026-11-23T00:30:00Z",
		"45s":                            "2026-11-30T00:29:15Z",
		"0s":                             "2026-11-30T00:30:00Z",
		"today":                          "2026-11-30T00:00:00Z",
		"yesterday":                      "2026-11-29T00:00:00Z",
	} {
		m, err := Parse(text)
		require.NoError(t, err, text)
		require.Equal(t, want, m.In(now).Format(time.RFC3339Nano), text)
		again, err := Parse(m.String())
		require.NoError(t, err, text)
		require.Equal(t, m, again, text)
		require.False(t, m.IsZero())
	}
	for text, want := range map[string]string{
		"": "is not a time; write 2026-11-01", "now": "UTC", "5": "is not a time", "+2h": "is not a time", "2 h": "is not a time", "--2h": "is not a time",
		"2026-02-30": "is not a time", "01.11.2026": "is not a time", "11/01/2026": "is not a time", "2026-11-01 25:00": "is not a time", "2026-11": "is not a time",
		"2h ago ago": "is not a time", "1.5h": "is not a time", "h": "is not a time", "2y": "is not a time", "1500ms": "is not a time",
		"0001-01-01T00:00:00Z": "outside of the years", "1969-12-31": "outside of the years", "9999-01-01": "outside of the years",
		"999999999w": "more than 100 years ago", "99y": "is not a time", "36500d36500d": "more than 100 years ago", "99999999999999999999h": "is not a time",
	} {
		_, err := Parse(text)
		require.ErrorContains(t, err, want, text)
	}
	require.True(t, IsAgo("-90m"))
	for _, text := range []string{"90m", "-m", "-v", "--90m", "-1"} {
		require.False(t, IsAgo(text), text)
	}
}

// FuzzParse: what is accepted lies in the range that all of relay can compute with, means the same
// when it is written out and read again, and a relative time does not lie in the future.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"2026-11-01", "2026-11-01 15:04", "2026-11-01T15:04:05.5+02:00", "-1w2d3h4m5s", "yesterday", "2200-12-31T23:59:59-23:59", "1970-01-01T00:00:00+23:59"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := Parse(text)
		if err != nil {
			require.Regexp(t, "^(is not|lies) ", err.Error())
			return
		}
		at := m.In(now)
		require.Equal(t, time.UTC, at.Location())
		require.True(t, at.Equal(time.Unix(0, at.UnixNano())))
		if m.IsRelative() {
			require.False(t, at.After(now))
		}
		again, err := Parse(m.String())
		require.NoError(t, err)
		require.Equal(t, m, again)
	})
}
