package telemetry

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"workos-relay/internal/printable"
	"workos-relay/pipeline"
)

var states = pipeline.States()

// watcher collects what is read from the status of lanes at each scrape.
type watcher struct {
	descs map[*family]*prometheus.Desc

	mu      sync.Mutex
	lanes   map[string]func() pipeline.Status
	judge   func(pipeline.Status) (ready bool, health string)
	healths []string // that judge knows
}

func newWatcher() *watcher {
	w := &watcher{descs: map[*family]*prometheus.Desc{}, lanes: map[string]func() pipeline.Status{}}
	for _, f := range declared {
		if f.snapshot {
			w.descs[f] = prometheus.NewDesc(f.name, f.help, f.labels, nil)
		}
	}
	return w
}

func (w *watcher) add(name string, status func() pipeline.Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lanes[name] = status
}

func (w *watcher) remove(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.lanes, name)
}

// Describe implements prometheus.Collector.
func (w *watcher) Describe(out chan<- *prometheus.Desc) {
	for _, d := range w.descs {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (w *watcher) Collect(out chan<- prometheus.Metric) {
	w.mu.Lock()
	lanes, judge, healths := maps.Clone(w.lanes), w.judge, w.healths
	w.mu.Unlock()
	for name, status := range lanes {
		s := status()
		w.collect(out, name, &s)
		if judge == nil {
			continue
		}
		ready, health := judge(s)
		out <- w.gauge(laneReady, oneIf(ready), name)
		for _, h := range healths {
			out <- w.gauge(laneHealth, oneIf(h == health), name, h)
		}
	}
}

func (w *watcher) gauge(f *family, value float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(w.descs[f], prometheus.GaugeValue, value, labels...)
}

func (w *watcher) collect(out chan<- prometheus.Metric, name string, s *pipeline.Status) {
	send := func(f *family, value float64, labels ...string) {
		out <- w.gauge(f, value, append([]string{name}, labels...)...)
	}
	for _, state := range states {
		send(laneState, oneIf(s.State == state), string(state))
	}
	holder := printable.Text(s.Checkpoint.Holder)
	if s.Checkpoint.Released {
		holder = ""
	}
	send(laneHolder, 1, holder, s.Holder)
	if s.LagKnown() {
		send(laneLag, s.Lag().Seconds())
	}
	send(laneUnacked, age(time.Now(), s.Unacked))
	send(lanePrefetch, float64(s.Prefetched))
	send(laneLastPoll, timestamp(s.LastPoll))
	send(laneAtTip, oneIf(s.AtTip))
	send(laneTip, timestamp(s.TipAt))
	if !s.Checkpoint.CreatedAt.IsZero() {
		send(lanePosition, timestamp(s.Checkpoint.CreatedAt))
	}
	send(stateUnread, float64(len(s.Unread)))
	if snap := s.Checkpoint.Snapshot; snap != nil {
		reads := !snap.Finished() && s.Checkpoint.Holder == s.Holder && !s.Checkpoint.Released
		send(snapshotRunning, oneIf(reads && s.State != pipeline.Stopped))
		send(snapshotSuccess, timestamp(snap.LastFinishedAt()))
		left := 0
		if !snap.Finished() {
			left = len(snap.Entities) - max(0, slices.Index(snap.Entities, snap.Entity))
		}
		send(snapshotLeft, float64(left))
		if all, _ := snap.Remaining(s.At); all > 0 && reads {
			send(snapshotTime, all.Round(time.Second).Seconds())
		}
		for _, entity := range snap.Entities {
			c := snap.Count(entity)
			for outcome, n := range map[string]uint64{"published": c.Objects, "removed": c.Removed, "dropped": c.Dropped, "skipped": c.Skipped} {
				send(snapshotObjects, float64(n), printable.Text(entity), outcome)
			}
		}
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// age is how long ago t was, in seconds; 0 for the zero time.
func age(now, t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return max(0, now.Sub(t).Seconds())
}

// timestamp is t in seconds since 1970; 0 for the zero time.
func timestamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMicro()) / 1e6
}
