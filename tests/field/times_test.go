//go:build unix

package field

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/source/sourcetest"
)

// appendAt adds an event of a type that was created at a time.
func appendAt(t testing.TB, api *sourcetest.Server, id, eventType string, at time.Time) {
	t.Helper()
	raw := fmt.Appendf(nil, `{"object":"event","id":%q,"event":%q,"data":{"id":"user_1"},"created_at":%q}`,
		id, eventType, at.UTC().Format("2006-01-02T15:04:05.000Z"))
	require.NoError(t, api.Append(raw))
}

// TestTimesAsPeopleWriteThem asks for spans in every form of a time. The bus is not there: replay
// --dry-run asks only WorkOS.
func TestTimesAsPeopleWriteThem(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	now := time.Now()
	for i, ago := range []time.Duration{4 * 24 * time.Hour, 26 * time.Hour, 100 * time.Minute, 10 * time.Minute} {
		appendAt(t, api, fmt.Sprintf("event_0%d", i), "user.created", now.Add(-ago))
		appendAt(t, api, fmt.Sprintf("event_0%d_b", i), "user.updated", now.Add(-ago))
	}
	r := newRelay(t, "relay", sourceConfig(api.URL())+"sinks: [{name: nats, type: nats, url: \"nats://127.0.0.1:1\"}]\n")
	day := now.Add(-27 * time.Hour).UTC()
	for _, c := range []struct {
		since, until string
		want         int // events of each of the two types
	}{
		{"earliest", "latest", 4},
		{"2h", "latest", 2},
		{"-2h", "latest", 2},
		{"-90m", "latest", 1},
		{"1d4h", "latest", 3},
		{"3d", "1d", 1},
		{"1w", "-1h", 3},
		{day.Format(time.DateOnly), "latest", 3},
		{day.Format("2006-01-02 15:04"), "latest", 3},
		{day.Format("2006-01-02T15:04:05"), now.Add(-time.Hour).UTC().Format("2006-01-02 15:04:05"), 2},
		{day.Format(time.RFC3339Nano), "30m", 2},
		{"event_01_b", "30m", 1},
	} {
		code, out, errs := r.Run(t, "replay", "--dry-run", "--since", c.since, "--until", c.until)
		require.Equal(t, exitDone, code, errs)
		for _, topic := range []string{"user.created", "user.updated"} {
			require.Regexp(t, fmt.Sprintf(`(?m)^%d +%s +20`, c.want, regexp.QuoteMeta(topic)), out, "%s to %s", c.since, c.until)
		}
		require.Contains(t, out, fmt.Sprintf("would publish %d events again to 2 topics of lane nats, from ", 2*c.want))
		if strings.HasSuffix(c.since, "h") { // what nobody has written is shown, with its zone
			require.Regexp(t, `from 20\S+Z to 20\S+Z`, errs)
		}
	}
	for _, c := range [][]string{
		{"replay", "--since", "1st of May", "--until", "latest"},
		{"verify", "--since", "2h", "--until", "5"},
		{"tail", "--since", "2026-31-12"},
		{"checkpoint", "set", "2 hours"},
		{"checkpoint", "set", "12:30"},
	} {
		code, _, errs := r.Run(t, c...)
		require.Equal(t, exitUsage, code, errs)
		require.Contains(t, errs, "2026-11-01 15:04 or 2026-11-01T15:04:05Z (UTC unless an offset such as +02:00 follows)", "one text for all")
		require.Contains(t, errs, "2h, 90m or 3d for that long ago")
	}
	code, _, errs := r.Run(t, "verify", "--since", "1h", "--until", "2h")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--until is before --since")
}

// TestStartIsATimeAsPeopleWriteIt: source.start may lie a while before the first start.
func TestStartIsATimeAsPeopleWriteIt(t *testing.T) {
	t.Parallel()
	api := newAPI(t)
	for i, ago := range []time.Duration{26 * time.Hour, 10 * time.Minute} {
		appendAt(t, api, fmt.Sprintf("event_0%d", i), "user.created", time.Now().Add(-ago))
	}
	bus := newNATS(t, nil)
	js := bus.connect(t)
	text := strings.Replace(sourceConfig(api.URL()), "source: {", "source: {start: 2h, ", 1)
	r := newRelay(t, "relay", text+fmt.Sprintf("sinks: [{name: nats, type: nats, url: %q}]\n", bus.URL))
	r.Start(t)
	r.Await(t, func() bool { return r.Lane("nats").AtTip && countEvents(js, stream) == 1 }, "only the event of the last two hours")
	code, out, errs := r.Run(t, "reload")
	require.Equal(t, exitDone, code, errs)
	require.Contains(t, out, "the configuration is what it was", "a relative time is the same one later")
	require.Equal(t, exitDone, r.Stop(t))
}
