package page

import (
	"fmt"
	"strconv"
	"time"
)

// span writes how long something takes or took, in its two largest units.
func span(d time.Duration) string {
	d = max(0, d)
	switch {
	case d == 0:
		return "0 s"
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Truncate(100*time.Millisecond).Seconds(), 'f', -1, 64) + " s"
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return units(d, time.Minute, "min", time.Second, "s")
	case d < 24*time.Hour:
		return units(d, time.Hour, "h", time.Minute, "min")
	default:
		return units(d, 24*time.Hour, "d", time.Hour, "h")
	}
}

func units(d, large time.Duration, largeName string, small time.Duration, smallName string) string {
	s := fmt.Sprintf("%d %s", d/large, largeName)
	if rest := d % large / small; rest > 0 {
		s += fmt.Sprintf(" %d %s", rest, smallName)
	}
	return s
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// count writes n with a comma between groups of three digits.
func count(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// perSecond writes a rate with what digits it needs.
func perSecond(r float64) string {
	switch {
	case r < 0.005:
		return "0/s"
	case r < 1:
		return strconv.FormatFloat(r, 'f', 2, 64) + "/s"
	case r < 100:
		return strconv.FormatFloat(r, 'f', 1, 64) + "/s"
	default:
		return count(uint64(r+0.5)) + "/s"
	}
}

// latency writes how long an event took, in seconds: short times in milliseconds.
func latency(s float64) string {
	switch {
	case s < 0.001:
		return "less than 1 ms"
	case s < 0.9995:
		return strconv.FormatFloat(1000*s, 'f', 0, 64) + " ms"
	case s < 9.995:
		return strconv.FormatFloat(s, 'f', 2, 64) + " s"
	default:
		return span(seconds(s))
	}
}

// stamp is a time for people and for machines.
type stamp struct{ Text, Machine string }

// stampOf writes a time of the day of now as such, and any other with its date. All times are UTC.
func stampOf(t *time.Time, now time.Time) *stamp {
	if t == nil || t.IsZero() {
		return nil
	}
	u, layout := t.UTC(), time.TimeOnly
	if u.Format(time.DateOnly) != now.UTC().Format(time.DateOnly) {
		layout = time.DateTime
	}
	return &stamp{u.Format(layout), u.Format(time.RFC3339Nano)}
}
