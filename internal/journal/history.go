package journal

import (
	"time"

	"workos-relay/pipeline"
)

// Range is how far back a history goes, and how fine it is.
type Range struct {
	Span time.Duration
	Step time.Duration // from one point to the next, at least
}

// The ranges of a history. With all of them a lane takes about 40 KB.
var (
	FiveMinutes = Range{5 * time.Minute, 5 * time.Second}
	Hour        = Range{time.Hour, 10 * time.Second}
	SixHours    = Range{6 * time.Hour, time.Minute}
)

// Ranges returns every Range, the shortest first.
func Ranges() []Range { return []Range{FiveMinutes, Hour, SixHours} }

// Point is what one Step of a lane's history comes to.
type Point struct {
	At    time.Time     // its end
	Lag   time.Duration // the longest seen in it
	Known bool          // the lag was known
	Rate  float64       // events committed per second
}

// history is the samples of a lane.
type history struct {
	total    uint64 // events committed; never falls, unlike Status.Events where the lane is replaced
	reported uint64 // Status.Events of the last sample
	series   []series

	everSample bool
}

// series is a history in one Range.
type series struct {
	Range
	steps ring[Point]
	began count // of the step under way
	step  Point // as far as it has come
}

// count is how many events had been committed at a time.
type count struct {
	at    time.Time
	total uint64
}

func newHistory() history {
	var h history
	for _, r := range Ranges() {
		h.series = append(h.series, series{Range: r, steps: newRing[Point](int(r.Span / r.Step))})
	}
	return h
}

func (h *history) sample(now time.Time, s *pipeline.Status) {
	delta := s.Events - h.reported
	if s.Events < h.reported {
		delta = s.Events
	}
	h.total, h.reported = h.total+delta, s.Events
	for i := range h.series {
		if !h.everSample {
			h.series[i].began = count{now, h.total}
		}
		h.series[i].sample(count{now, h.total}, s)
	}
	h.everSample = true
}

func (r *series) sample(at count, s *pipeline.Status) {
	if s.LagKnown() {
		r.step.Known = true
		r.step.Lag = max(r.step.Lag, s.Lag())
	}
	if at.at.Sub(r.began.at) >= r.Step {
		r.step.At, r.step.Rate = at.at, perSecond(r.began, at)
		r.steps.add(r.step)
		r.began, r.step = at, Point{}
	}
}

func perSecond(from, to count) float64 {
	d := to.at.Sub(from.at).Seconds()
	if d <= 0 {
		return 0
	}
	return float64(to.total-from.total) / d
}

// sample records the lane's state at now.
func (l *Lane) sample(now time.Time, s *pipeline.Status) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.history.sample(now, s)
	if s.State == pipeline.Stopped && l.state != pipeline.Stopped {
		l.stopped(now, s)
	}
	l.state = s.State
}

func (l *Lane) sampled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.history.everSample
}

// History returns the points of a Range, one of Ranges, the oldest first.
func (l *Lane) History(r Range) []Point {
	since := l.cfg.Now().Add(-r.Span)
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.history.series {
		if l.history.series[i].Range != r {
			continue
		}
		points := l.history.series[i].steps.all()
		for len(points) > 0 && points[0].At.Before(since) {
			points = points[1:]
		}
		return points
	}
	return nil
}
