package page

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/journal"
)

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0 s", 0: "0 s", 400 * time.Millisecond: "0.4 s", 3 * time.Second: "3 s", 9900 * time.Millisecond: "9.9 s",
		59900 * time.Millisecond: "59 s", time.Minute: "1 min", 83 * time.Second: "1 min 23 s", 90 * time.Minute: "1 h 30 min",
		25 * time.Hour: "1 d 1 h", 30 * 24 * time.Hour: "30 d",
	} {
		require.Equal(t, want, span(d), d)
	}
}

func TestNumbers(t *testing.T) {
	require.Equal(t, []string{"0", "999", "1,000", "1,234,567"}, []string{count(0), count(999), count(1000), count(1234567)})
	for r, want := range map[float64]string{0: "0/s", 0.016: "0.02/s", 1.26: "1.3/s", 99.9: "99.9/s", 1234.5: "1,235/s"} {
		require.Equal(t, want, perSecond(r))
	}
}

func TestStampsCarryTheirDateWhereItIsAnother(t *testing.T) {
	now := time.Date(2026, 1, 2, 0, 30, 0, 0, time.FixedZone("", 3600))
	today, yesterday := now.Add(-time.Minute), now.Add(-time.Hour-31*time.Minute)
	require.Equal(t, &stamp{"23:29:00", "2026-01-01T23:29:00Z"}, stampOf(&today, now), "days are those of UTC")
	require.Equal(t, "21:59:00", stampOf(&yesterday, now).Text)
	older := now.Add(-24 * time.Hour)
	require.Equal(t, "2025-12-31 23:30:00", stampOf(&older, now).Text)
	require.Nil(t, stampOf(nil, now))
	require.Nil(t, stampOf(&time.Time{}, now))
}

func TestRoundTops(t *testing.T) {
	require.InDeltaSlice(t, []float64{10, 30, 3600, 400 * 86400}, []float64{niceSpan(0), niceSpan(11), niceSpan(1801), niceSpan(400 * 86400)}, 0)
	require.InDeltaSlice(t, []float64{1, 1, 2, 5, 10, 2000}, []float64{niceRate(0), niceRate(1), niceRate(1.1), niceRate(4), niceRate(9), niceRate(1999)}, 0)
}

func TestCurve(t *testing.T) {
	right := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(steps int) time.Time { return right.Add(-time.Duration(steps) * journal.Hour.Step) }
	points := []journal.Point{
		{At: at(10), Rate: 0}, {At: at(9), Rate: 10}, // then nothing is known for a while
		{At: at(1), Rate: 5}, {At: at(0), Rate: 20},
	}
	hour := windowOf(journal.Hour, 2*time.Hour)
	line, area, peaks := curve(points, right, hour, 10, func(p journal.Point) (float64, bool) { return p.Rate, true })
	require.Equal(t, "M349 60V60H350V0H351M358 30V30H359V0H360", line, "two pieces; what is higher than the top ends there")
	require.Equal(t, "M349 60V60V60H350V0H351V60ZM358 60V30V30H359V0H360V60Z", area)
	require.Equal(t, "M359 0H360", peaks, "and is marked")
	line, _, _ = curve(points, right, hour, 10, func(p journal.Point) (float64, bool) { return p.Rate, p.Rate != 5 })
	require.Equal(t, "M349 60V60H350V0H351M359 0V0H360", line)
	line, _, _ = curve(nil, right, hour, 10, nil)
	require.Empty(t, line)
}

func TestAPlotChangesWithItsPointsAlone(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 7, 0, time.UTC)
	points := []journal.Point{{At: now.Add(-3 * time.Second)}}
	require.Equal(t, points[0].At, edge(points, now, journal.Hour.Step))
	require.Equal(t, points[0].At, edge(points, now.Add(5*time.Second), journal.Hour.Step))
	later := now.Add(time.Minute)
	require.Equal(t, later.Truncate(journal.Hour.Step), edge(points, later, journal.Hour.Step), "but goes on where points have ceased")
	require.Equal(t, now.Truncate(journal.Hour.Step), edge(nil, now, journal.Hour.Step))
}

// A plot shows the uptime, up to its range.
func TestWindows(t *testing.T) {
	for uptime, want := range map[time.Duration]string{
		0: "last 1 min", 61 * time.Second: "last 2 min", 11 * time.Minute: "last 11 min", time.Hour: "last hour", 30 * 24 * time.Hour: "last hour",
	} {
		require.Equal(t, want, windowOf(journal.Hour, uptime).text(), uptime)
	}
	require.Equal(t, "last 5 min", windowOf(journal.FiveMinutes, time.Hour).text())
	require.Equal(t, "last 6 h", windowOf(journal.SixHours, 30*24*time.Hour).text())
	require.Equal(t, "last 1 h 20 min", windowOf(journal.SixHours, 80*time.Minute).text())
}

// A spike does not flatten the rest: it is left above the scale, and marked. What comes often, or
// is not far above the rest, is on the scale.
func TestScale(t *testing.T) {
	values := func(n int, v float64, more ...float64) (out []float64) {
		for range n {
			out = append(out, v)
		}
		return append(out, more...)
	}
	require.InDelta(t, 10, scale(values(100, 8, 5000), niceRate), 0)
	require.InDelta(t, 10, scale(values(100, 8, 5000, 0, 0, 0), niceRate), 0)
	require.InDelta(t, 20, scale(values(100, 8, 20), niceRate), 0, "is not far above the rest")
	require.InDelta(t, 5000, scale(values(80, 8, values(20, 5000)...), niceRate), 0, "comes often")
	require.InDelta(t, 5000, scale(values(100, 0, 5000), niceRate), 0, "there is nothing else to see")
	require.InDelta(t, 5000, scale([]float64{8, 5000}, niceRate), 0, "what is typical is not known")
	require.InDelta(t, 1, scale(nil, niceRate), 0)
}

func TestAPlotTellsItsPoints(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 10, 0, 0, time.UTC)
	var points []journal.Point
	for i := range 30 {
		points = append(points, journal.Point{At: now.Add(time.Duration(i-29) * 10 * time.Second), Lag: 2 * time.Second, Known: i > 0, Rate: 12.345678})
	}
	points[20].Lag = 12 * time.Minute
	p := newPlot(lagSeries, "nats", "2 s", points, now, windowOf(journal.Hour, 10*time.Minute))
	require.True(t, strings.HasPrefix(p.Points, "290 ,280 2,270 2,"), p.Points)
	require.True(t, strings.HasSuffix(p.Points, ",100 2,90 720,80 2,70 2,60 2,50 2,40 2,30 2,20 2,10 2,0 2"), p.Points)
	require.Equal(t, 29, p.Last)
	require.Equal(t, []any{now.UnixMilli(), int64(600_000), "10 s", "12 min", "00:08:30", "10 min ago", "5 min", "last 10 min"},
		[]any{p.Right, p.Shown, p.Top, p.Highest, p.HighestAt.Text, p.Start, p.Middle, p.Over})
	require.NotEmpty(t, p.Peaks)
	require.Contains(t, newPlot(rateSeries, "nats", "", points, now, windowOf(journal.Hour, time.Hour)).Points, "0 12.35")
	none := newPlot(lagSeries, "nats", "unknown", nil, now, windowOf(journal.Hour, 0))
	require.Equal(t, []any{"", "", -1}, []any{none.Points, none.Highest, none.Last})
}
