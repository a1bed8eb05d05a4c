package page

import (
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
	at := func(steps int) time.Time { return right.Add(-time.Duration(steps) * journal.Step) }
	points := []journal.Point{
		{At: at(10), Rate: 0}, {At: at(9), Rate: 10}, // then nothing is known for a while
		{At: at(1), Rate: 5}, {At: at(0), Rate: 20},
	}
	line, area := curve(points, right, 10, func(p journal.Point) (float64, bool) { return p.Rate, true })
	require.Equal(t, "M349 60V60H350V0H351M358 30V30H359V0H360", line, "two pieces; what is higher than the top ends there")
	require.Equal(t, "M349 60V60V60H350V0H351V60ZM358 60V30V30H359V0H360V60Z", area)
	line, _ = curve(points, right, 10, func(p journal.Point) (float64, bool) { return p.Rate, p.Rate != 5 })
	require.Equal(t, "M349 60V60H350V0H351M359 0V0H360", line)
	line, _ = curve(nil, right, 10, nil)
	require.Empty(t, line)
}

func TestAPlotChangesWithItsPointsAlone(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 7, 0, time.UTC)
	points := []journal.Point{{At: now.Add(-3 * time.Second)}}
	require.Equal(t, points[0].At, edge(points, now))
	require.Equal(t, points[0].At, edge(points, now.Add(5*time.Second)))
	later := now.Add(time.Minute)
	require.Equal(t, later.Truncate(journal.Step), edge(points, later), "but goes on where points have ceased")
	require.Equal(t, now.Truncate(journal.Step), edge(nil, now))
}
