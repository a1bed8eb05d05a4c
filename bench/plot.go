package main

import (
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
	"time"
)

// Where things are in the plot, in pixels.
const (
	plotWidth, panelHeight       = 900, 420
	left, right, top, bottom     = 80, 330, 50, 50
	decadeLow, decadeHigh        = 2, 6 // of the axis of rates: 100 to 1,000,000 events/s
	markRadius                   = 4
	axisColour, gridColour, font = "#555", "#ddd", "font-family=\"system-ui, sans-serif\""
)

var colours = []string{"#888888", "#d62728", "#1f77b4", "#17a2b8", "#ff7f0e", "#2ca02c", "#9467bd", "#8c564b"}

var chartTitles = map[string]string{"nats": "Events API to NATS JetStream", "kafka": "Events API to Kafka"}

// drawPlot is an SVG with a panel for each chart: events/s, on a logarithmic axis, over the latency
// of the Events API.
func drawPlot(points []point) string {
	var charts []string
	for _, p := range points {
		if !slices.Contains(charts, p.chart) {
			charts = append(charts, p.chart)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" %s font-size="13">`+"\n",
		plotWidth, panelHeight*len(charts), plotWidth, panelHeight*len(charts), font)
	b.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	for i, chart := range charts {
		fmt.Fprintf(&b, `<g transform="translate(0 %d)">`+"\n", i*panelHeight)
		drawPanel(&b, chart, points)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func drawPanel(b *strings.Builder, chart string, all []point) {
	var series []string
	var latencies []time.Duration
	for _, p := range all {
		if p.chart != chart {
			continue
		}
		if !slices.Contains(series, p.series) {
			series = append(series, p.series)
		}
		if !slices.Contains(latencies, p.latency) {
			latencies = append(latencies, p.latency)
		}
	}
	slices.Sort(latencies)
	x := func(latency time.Duration) float64 {
		return left + float64(slices.Index(latencies, latency))*(plotWidth-left-right)/float64(max(len(latencies)-1, 1))
	}
	text := func(at, y float64, anchor, colour, s string) {
		fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s">%s</text>`+"\n", at, y, anchor, colour, html.EscapeString(s))
	}
	text(left, top-22, "start", "#000", chartTitles[chart]+": events/s by API latency")
	for decade := decadeLow; decade <= decadeHigh; decade++ {
		rate := math.Pow10(decade)
		fmt.Fprintf(b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="%s"/>`+"\n", left, y(rate), plotWidth-right, y(rate), gridColour)
		text(left-8, y(rate)+4, "end", axisColour, thousands(rate))
	}
	for _, latency := range latencies {
		text(x(latency), panelHeight-bottom+20, "middle", axisColour, latency.String())
	}
	for i, name := range series {
		colour := colours[i%len(colours)]
		var line []string
		for _, p := range all {
			if p.chart == chart && p.series == name {
				line = append(line, fmt.Sprintf("%.1f,%.1f", x(p.latency), y(p.rate)))
				fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="%d" fill="%s"><title>%s, %s: %s events/s</title></circle>`+"\n",
					x(p.latency), y(p.rate), markRadius, colour, html.EscapeString(name), p.latency, thousands(p.rate))
			}
		}
		fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(line, " "), colour)
		const lineHeight = 22
		at := float64(top + i*lineHeight)
		fmt.Fprintf(b, `<rect x="%d" y="%.1f" width="14" height="4" fill="%s"/>`+"\n", plotWidth-right+24, at-6, colour)
		text(plotWidth-right+46, at, "start", "#000", name)
	}
}

// y is where a rate stands within a panel.
func y(rate float64) float64 {
	decades := min(max(math.Log10(rate), decadeLow), decadeHigh) - decadeLow
	return panelHeight - bottom - decades*(panelHeight-top-bottom)/(decadeHigh-decadeLow)
}
