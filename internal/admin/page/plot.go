package page

import (
	"math"
	"strconv"
	"strings"
	"time"

	"workos-relay/internal/journal"
)

// The coordinates of a plot: an hour wide and, upside down as SVG has it, the highest value high.
const (
	plotWidth  = 360
	plotHeight = 60
)

// plot is a curve over the last hour.
type plot struct {
	Kind       string // names its colour
	Label, Now string
	Top        string // the value at the upper edge
	Highest    string // empty if nothing is known yet
	Line, Area string // path data
	Width      int
	Height     int
}

func lagPlot(points []journal.Point, now time.Time, current string) plot {
	return newPlot("lag", "Lag", current, points, now, niceSpan, func(v float64) string { return span(seconds(v)) },
		func(p journal.Point) (float64, bool) { return p.Lag.Seconds(), p.Known })
}

func ratePlot(points []journal.Point, now time.Time, current string) plot {
	return newPlot("rate", "Rate", current, points, now, niceRate, perSecond,
		func(p journal.Point) (float64, bool) { return p.Rate, true })
}

// newPlot draws each point as the step of time that it stands for, so that a gap between samples is
// one in the curve.
func newPlot(kind, label, current string, points []journal.Point, now time.Time, nice func(float64) float64,
	format func(float64) string, value func(journal.Point) (float64, bool),
) plot {
	highest, known := 0.0, false
	for _, p := range points {
		if v, ok := value(p); ok {
			highest, known = max(highest, v), true
		}
	}
	top := nice(highest)
	p := plot{Kind: kind, Label: label, Now: current, Top: strings.Replace(format(top), ".0/", "/", 1), Width: plotWidth, Height: plotHeight}
	if known {
		p.Highest = format(highest)
	}
	p.Line, p.Area = curve(points, edge(points, now), top, value)
	return p
}

// edge is the time at the right edge: that of the last point, so that a plot changes with its
// points alone, but where those have
// ceased.
func edge(points []journal.Point, now time.Time) time.Time {
	if len(points) > 0 {
		if last := points[len(points)-1].At; now.Sub(last) < 2*journal.Step {
			return last
		}
	}
	return now.Truncate(journal.Step)
}

// curve is the path of the line, and that of the area below it.
func curve(points []journal.Point, right time.Time, top float64, value func(journal.Point) (float64, bool)) (line, area string) {
	var l, a strings.Builder
	x := func(t time.Time) float64 {
		return min(plotWidth, max(0, plotWidth*(1-right.Sub(t).Seconds()/journal.Span.Seconds())))
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
		if !ok || !drawing || p.At.Sub(before) > 2*journal.Step {
			finish()
		}
		before = p.At
		if !ok {
			continue
		}
		if !drawing {
			from := x(p.At.Add(-journal.Step))
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
	}
	finish()
	return l.String(), a.String()
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
