package telemetry

import (
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"workos-relay/internal/admin"
	"workos-relay/pipeline"
	"workos-relay/source"
	"workos-relay/source/webhook"
)

// Metrics is every metric of a process, in its own registry. It is safe for concurrent use.
type Metrics struct {
	registry   *prometheus.Registry
	counters   map[*family]*prometheus.CounterVec
	gauges     map[*family]*prometheus.GaugeVec
	histograms map[*family]*prometheus.HistogramVec
	watched    *watcher
	requests   *requestMeter
	limit      *rateLimit // of requests that are of no lane's work
	started    time.Time

	mu    sync.Mutex
	lanes map[string]*LaneMetrics
}

// NewMetrics returns the metrics of a process of this version of relay, with those of the Go
// runtime and the operating system.
func NewMetrics(version string) *Metrics {
	m := &Metrics{
		registry:   prometheus.NewRegistry(),
		counters:   map[*family]*prometheus.CounterVec{},
		gauges:     map[*family]*prometheus.GaugeVec{},
		histograms: map[*family]*prometheus.HistogramVec{},
		watched:    newWatcher(),
		requests:   newRequestMeter(),
		limit:      &rateLimit{},
		lanes:      map[string]*LaneMetrics{},
		started:    time.Now(),
	}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), m.watched)
	for _, f := range declared {
		if !f.snapshot {
			m.register(f)
		}
	}
	for _, result := range webhook.Results() {
		m.counters[webhookRequests].WithLabelValues(string(result))
	}
	for _, reason := range admin.Reasons() {
		m.counters[adminRefused].WithLabelValues(string(reason))
	}
	m.Reloaded(nil)
	for _, result := range []string{exportDone, exportFailed} {
		m.counters[traceSpans].WithLabelValues(result)
		m.counters[metricExports].WithLabelValues(result)
	}
	m.gauges[buildInfo].WithLabelValues(version, runtime.Version()).Set(1)
	return m
}

func (m *Metrics) register(f *family) {
	switch f.kind {
	case counter:
		m.counters[f] = prometheus.NewCounterVec(prometheus.CounterOpts{Name: f.name, Help: f.help}, f.labels)
		m.registry.MustRegister(m.counters[f])
	case gauge:
		m.gauges[f] = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: f.name, Help: f.help}, f.labels)
		m.registry.MustRegister(m.gauges[f])
	case histogram:
		opts := prometheus.HistogramOpts{Name: f.name, Help: f.help, Buckets: f.buckets}
		if f.native { // buckets a tenth wide, in bounded memory
			opts.NativeHistogramBucketFactor, opts.NativeHistogramMaxBucketNumber, opts.NativeHistogramMinResetDuration = 1.1, 160, time.Hour
		}
		m.histograms[f] = prometheus.NewHistogramVec(opts, f.labels)
		m.registry.MustRegister(m.histograms[f])
	}
}

// Handler serves the metrics in the text format of Prometheus or in OpenMetrics, as the client
// asks. If one collector fails, the others are served all the same and
// promhttp_metric_handler_errors_total counts it.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorHandling: promhttp.ContinueOnError, Registry: m.registry, EnableOpenMetrics: true,
	})
}

// Reloaded tells how a reload of the configuration went: nil if it was taken.
func (m *Metrics) Reloaded(err error) {
	m.gauges[reloadTaken].WithLabelValues().Set(oneIf(err == nil))
	if err == nil {
		m.gauges[reloadTime].WithLabelValues().SetToCurrentTime()
	}
}

// AdminRefused counts a request to the admin address that was refused access. It may be called from
// any goroutine.
func (m *Metrics) AdminRefused(reason admin.Reason) {
	m.counters[adminRefused].WithLabelValues(string(reason)).Inc()
}

// The values of the label result of relay_trace_spans_total and relay_metric_exports_total.
const (
	exportDone   = "exported"
	exportFailed = "failed"
)

func exportResult(err error) string {
	if err != nil {
		return exportFailed
	}
	return exportDone
}

func (m *Metrics) exportedSpans(n int, err error) {
	m.counters[traceSpans].WithLabelValues(exportResult(err)).Add(float64(n))
}

func (m *Metrics) pushed(err error) {
	m.counters[metricExports].WithLabelValues(exportResult(err)).Inc()
}

// Lane returns the metrics of the lane called name, always the same for a name. All its series of
// fixed labels exist from then on, at zero.
func (m *Metrics) Lane(name string) *LaneMetrics {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, ok := m.lanes[name]
	if !ok {
		l = newLaneMetrics(m, name)
		m.lanes[name] = l
	}
	return l
}

// RequestSent counts a request to WorkOS that is about to be sent. It may be called from any
// goroutine.
func (m *Metrics) RequestSent() { m.requests.sent() }

// RequestHooks returns hooks for requests that are not part of what a lane carries, as of a
// verification: no lane waits because of their answers. They may be called from any goroutine.
func (m *Metrics) RequestHooks() *source.Hooks {
	return &source.Hooks{OnRateLimited: func(source.RateLimitedInfo) { m.limit.limited(0) }}
}

// Requests returns what is known of all requests to WorkOS, without the limit. It may be called
// from any goroutine.
func (m *Metrics) Requests() admin.Requests {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := admin.Requests{PerSecond: m.requests.perSecond()}
	var last time.Time
	limits := []*rateLimit{m.limit}
	for _, l := range m.lanes {
		limits = append(limits, l.source.limit)
	}
	for _, limit := range limits {
		n, at, _ := limit.seen()
		out.RateLimited += n
		if at.After(last) {
			last = at
		}
	}
	if !last.IsZero() {
		last = last.UTC()
		out.RateLimitedAt = &last
	}
	return out
}

// JudgeBy sets who says how a lane is: whether it is ready, and which of healths it has. Without it
// the metrics relay_lane_ready and relay_lane_health are absent. judge may be called from several
// goroutines at once.
func (m *Metrics) JudgeBy(judge func(pipeline.Status) (ready bool, health string), healths []string) {
	m.watched.mu.Lock()
	defer m.watched.mu.Unlock()
	m.watched.judge, m.watched.healths = judge, healths
}

// Watch adds the metrics that are read from the lane's status, by calling status at each scrape,
// possibly from several goroutines at once. A second call with the same name replaces the first.
func (m *Metrics) Watch(name string, status func() pipeline.Status) { m.watched.add(name, status) }

// Unwatch ends what Watch began. What the lane counted stays.
func (m *Metrics) Unwatch(name string) { m.watched.remove(name) }
