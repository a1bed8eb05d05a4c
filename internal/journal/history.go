package journal

import (
	"time"

	"workos-relay/pipeline"
)

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
	steps    ring[Point]

	began      count // of the step under way
	step       Point // as far as it has come
	everSample bool
}

// count is how many events had been committed at a time.
type count struct {
	at    time.Time
	total uint64
}

func newHistory() history {
	return history{steps: newRing[Point](historySteps)}
}

func (h *history) sample(now time.Time, s *pipeline.Status) {
	delta := s.Events - h.reported
	if s.Events < h.reported {
		delta = s.Events
	}
	h.total, h.reported = h.total+delta, s.Events
	at := count{now, h.total}
	if !h.everSample {
		h.everSample, h.began = true, at
	}
	if !s.SourceNow.IsZero() {
		h.step.Known = true
		h.step.Lag = max(h.step.Lag, s.Lag())
	}
	if now.Sub(h.began.at) >= Step {
		h.step.At, h.step.Rate = now, perSecond(h.began, at)
		h.steps.add(h.step)
		h.began, h.step = at, Point{}
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

// History returns the points of the last hour, the oldest first.
func (l *Lane) History() []Point {
	since := l.cfg.Now().Add(-Span)
	l.mu.Lock()
	defer l.mu.Unlock()
	points := l.history.steps.all()
	for len(points) > 0 && points[0].At.Before(since) {
		points = points[1:]
	}
	return points
}
