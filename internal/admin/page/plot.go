package page

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"workos-relay/internal/journal"
)

// The coordinates of a plot: upside down as SVG has it, the top of the scale high.
const (
	plotWidth  = 360
	plotHeight = 60
)

// window is what a plot shows of time.
type window struct {
	journal.Range
	shown time.Duration // up to its right edge: the range, or less if relay began later
}

const leastShown = time.Minute

// windowOf returns what plots show of a range: no more than the uptime, in whole minutes.
func windowOf(r journal.Range, uptime time.Duration) window {
	whole := (uptime + time.Minute - 1).Truncate(time.Minute)
	return window{r, min(r.Span, max(leastShown, whole))}
}

// text names the window.
func (w window) text() string {
	if w.shown == time.Hour {
		return "last hour"
	}
	return "last " + span(w.shown)
}

// plot is a curve over a window of time.
type plot struct {
	Kind       string // names its colour
	Label, Now string
	Lane       string
	Over       string // the window, in words
	Top        string // the value at the upper edge
	Highest    string // empty if nothing is known yet
	HighestAt  *stamp // of a peak that is above the scale; else nil
	Line, Area string // path data
	Peaks      string // path data of marks at the upper edge for what is above it
	Start      string // the words at the left edge and in the middle
	Middle     string
	Points     string // "seconds before Right, a space, the value" of each point; no value if it is not known
	Last       int    // index of the last of them; -1 if there is none
	Right      int64  // time at the right edge, in milliseconds since 1970
	Shown      int64  // width in milliseconds
	Width      int
	Height     int
}

// series is what a plot is drawn of.
type series struct {
	kind, label string
	nice        func(float64) float64 // rounds up to the top of a scale
	format      func(float64) string
	value       func(journal.Point) (v float64, known bool)
}

var (
	lagSeries = series{"lag", "Lag", niceSpan, func(v float64) string { return span(seconds(v)) },
		func(p journal.Point) (float64, bool) { return p.Lag.Seconds(), p.Known }}
	rateSeries = series{"rate", "Rate", niceRate, perSecond, func(p journal.Point) (float64, bool) { return p.Rate, true }}
)

// newPlot draws each point as the step of time that it stands for, so that a gap between samples is
// one in the curve.
func newPlot(s series, lane, current string, points []journal.Point, now time.Time, w window) plot {
	var highest journal.Point
	var values []float64
	for _, p := range points {
		v, ok := s.value(p)
		if !ok {
			continue
		}
		if most, _ := s.value(highest); len(values) == 0 || v > most {
			highest = p
		}
		values = append(values, v)
	}
	top := scale(values, s.nice)
	right := edge(points, now, w.Step)
	p := plot{
		Kind: s.kind, Label: s.label, Lane: lane, Now: current, Over: w.text(), Top: strings.Replace(s.format(top), ".0/", "/", 1),
		Start: span(w.shown) + " ago", Middle: span(w.shown / 2), Last: len(points) - 1, Right: right.UnixMilli(), Shown: w.shown.Milliseconds(),
		Width: plotWidth, Height: plotHeight,
	}
	if len(values) > 0 {
		most, _ := s.value(highest)
		p.Highest = s.format(most)
		if most > top {
			p.HighestAt = stampOf(&highest.At, now)
		}
	}
	p.Line, p.Area, p.Peaks = curve(points, right, w, top, s.value)
	var b strings.Builder
	for i, point := range points {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d ", right.Sub(point.At)/time.Second)
		if v, ok := s.value(point); ok {
			b.WriteString(strconv.FormatFloat(v, 'g', 4, 64))
		}
	}
	p.Points = b.String()
	return p
}

const (
	// typicalAbove is the part of the values above zero that a scale always shows, and
	// fewestTypical how many there must be to tell what is typical.
	typicalAbove  = 0.9
	fewestTypical = 10
	// peak is how many times as high as the scale of what is typical a value must be to be left
	// above it.
	peak = 3
)

// scale returns the top of the scale for values: above all of them, unless a few are so high that
// the others would be flat. Those are left above the scale.
func scale(values []float64, nice func(float64) float64) float64 {
	var some []float64
	for _, v := range values {
		if v > 0 {
			some = append(some, v)
		}
	}
	if len(some) == 0 {
		return nice(0)
	}
	slices.Sort(some)
	highest := some[len(some)-1]
	if len(some) >= fewestTypical {
		if typical := nice(some[int(typicalAbove*float64(len(some)-1))]); highest > peak*typical {
			return typical
		}
	}
	return nice(highest)
}

// edge is the time at the right edge: that of the last point, so that a plot changes with its
// points alone, unless those have ceased.
func edge(points []journal.Point, now time.Time, step time.Duration) time.Time {
	if len(points) > 0 {
		if last := points[len(points)-1].At; now.Sub(last) < 2*step {
			return last
		}
	}
	return now.Truncate(step)
}

// curve is the path of the line, that of the area below it, and that of the marks for what is above
// the top.
func curve(points []journal.Point, right time.Time, w window, top float64, value func(journal.Point) (float64, bool)) (line, area, peaks string) {
	var l, a, above strings.Builder
	x := func(t time.Time) float64 {
		return min(plotWidth, max(0, plotWidth*(1-right.Sub(t).Seconds()/w.shown.Seconds())))
	}
	y := func(v float64) float64 { return plotHeight * (1 - min(1, v/top)) }
	var end float64 // where the piece under way has come to
	drawing := false
	finish := func() {
		if drawing {
			write(&a, "V", plotHeight)
			a.WriteString("Z")
		}
		drawing = false
	}
	var before time.Time
	for _, p := range points {
		v, ok := value(p)
		if !ok || !drawing || p.At.Sub(before) > 2*w.Step {
			finish()
		}
		before = p.At
		if !ok {
			continue
		}
		from := x(p.At.Add(-w.Step))
		if !drawing {
			write(&l, "M", from, y(v))
			write(&a, "M", from, plotHeight)
			write(&a, "V", y(v))
			drawing = true
		}
		end = x(p.At)
		for _, b := range []*strings.Builder{&l, &a} {
			write(b, "V", y(v))
			write(b, "H", end)
		}
		if v > top {
			write(&above, "M", from, 0)
			write(&above, "H", end)
		}
	}
	finish()
	return l.String(), a.String(), above.String()
}

// write appends a command with coordinates of a tenth of a unit.
func write(b *strings.Builder, command string, coordinates ...float64) {
	b.WriteString(command)
	for i, c := range coordinates {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(strconv.FormatFloat(math.Round(c*10)/10, 'f', -1, 64))
	}
}

// niceSpan is the next round span of time above v seconds.
func niceSpan(v float64) float64 {
	const minute, hour, day = 60, 3600, 86400
	for _, top := range []float64{
		10, 30, minute, 2 * minute, 5 * minute, 10 * minute, 30 * minute, hour, 2 * hour, 6 * hour, 12 * hour,
		day, 2 * day, 5 * day, 10 * day, 20 * day, 40 * day, 90 * day,
	} {
		if v <= top {
			return top
		}
	}
	return v
}

// niceRate is the next of 1, 2, 5, 10, 20 … above v.
func niceRate(v float64) float64 {
	for unit := 1.0; ; unit *= 10 {
		for _, n := range []float64{1, 2, 5} {
			if v <= n*unit || math.IsInf(unit, 0) {
				return n * unit
			}
		}
	}
}
