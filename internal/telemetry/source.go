package telemetry

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"workos-relay/source"
	"workos-relay/source/webhook"
)

// statuses is every value of the label status: the codes that the Events API is known to give, and
// the rest by class.
var statuses = []string{
	"200", "400", "401", "403", "404", "408", "422", "429", "500", "502", "503", "504", "2xx", "3xx", "4xx", "5xx", other,
}

// reasons is every value of the label reason.
var reasons = []string{
	string(source.RetryTransport), string(source.RetryResponse), string(source.RetryRateLimited), string(source.RetryServer),
	string(source.RetryUnauthorized), string(source.RetryRedirect), string(source.RetryRefused), other,
}

// sourceMetrics counts what one lane's stream does.
type sourceMetrics struct {
	requests, retries                                              map[string]prometheus.Counter // by status, by reason
	duration                                                       prometheus.Observer
	bytes, events                                                  prometheus.Counter
	retryWait, rateLimited, limiterWait, inverted, repeated, stray prometheus.Counter
	odd                                                            *prometheus.CounterVec // by lane and type
	refused                                                        *refusedTypes
	backfillReaders, backfillBuffered                              prometheus.Gauge
	backfillDropped                                                prometheus.Counter
	pollInterval                                                   prometheus.Gauge
	clock                                                          *apiClock
	limit                                                          *rateLimit
}

func newSourceMetrics(m *Metrics, lane string) sourceMetrics {
	of := func(f *family) prometheus.Counter { return m.counters[f].WithLabelValues(lane) }
	return sourceMetrics{
		requests:         m.countersOf(sourceRequests, lane, statuses),
		retries:          m.countersOf(sourceRetries, lane, reasons),
		duration:         m.histograms[sourceDuration].WithLabelValues(lane),
		bytes:            of(sourceBytes),
		events:           of(sourceEvents),
		retryWait:        of(sourceRetryWait),
		rateLimited:      of(sourceRateLimited),
		limiterWait:      of(sourceLimiterWait),
		inverted:         of(sourceInversions),
		repeated:         of(sourceRepeated),
		stray:            of(sourceUnexpected),
		backfillReaders:  m.gauges[backfillReaders].WithLabelValues(lane),
		backfillBuffered: m.gauges[backfillBuffered].WithLabelValues(lane),
		backfillDropped:  of(backfillDropped),
		pollInterval:     m.gauges[sourcePollInterval].WithLabelValues(lane),
		odd:              m.counters[sourceOddPayloads],
		clock:            &apiClock{},
		limit:            &rateLimit{},
		refused:          &refusedTypes{lane: lane, gauge: m.gauges[sourceRefused], names: map[string]struct{}{}},
	}
}

func (s *sourceMetrics) hooks() *source.Hooks {
	return &source.Hooks{
		OnResponse: s.response,
		OnRetry: func(i source.RetryInfo) {
			choose(s.retries, string(i.Reason)).Inc()
			s.retryWait.Add(i.Wait.Seconds())
		},
		OnRateLimited: func(i source.RateLimitedInfo) {
			s.rateLimited.Inc()
			s.limit.limited(i.Wait)
		},
		OnWait:           func(i source.WaitInfo) { s.pollInterval.Set(i.Wait.Seconds()) },
		OnLimiterWait:    func(i source.LimiterWaitInfo) { s.limiterWait.Add(i.Wait.Seconds()) },
		OnTypeRefused:    func(i source.TypeRefusedInfo) { s.refused.add(i.Type) },
		OnTypeRestored:   func(i source.TypeRestoredInfo) { s.refused.remove(i.Type) },
		OnInversion:      func(i source.InversionInfo) { s.inverted.Add(float64(i.Count)) },
		OnRepeated:       func(i source.RepeatedInfo) { s.repeated.Add(float64(i.Count)) },
		OnUnexpectedType: func(source.UnexpectedTypeInfo) { s.stray.Inc() },
		OnOddPayload: func(i source.OddPayloadInfo) {
			s.odd.WithLabelValues(s.refused.lane, types[indexOf(i.Type)]).Inc()
		},
		OnBackfill: func(i source.BackfillInfo) {
			s.backfillReaders.Set(float64(i.Readers))
			s.backfillBuffered.Set(float64(i.Buffered))
			s.backfillDropped.Add(float64(i.Dropped))
		},
	}
}

func (s *sourceMetrics) response(i source.ResponseInfo) {
	s.clock.answered(&i)
	if i.Status != http.StatusTooManyRequests {
		s.limit.answered(i.Duration)
	}
	c, ok := s.requests[strconv.Itoa(i.Status)]
	if !ok {
		c = choose(s.requests, fmt.Sprintf("%dxx", i.Status/100))
	}
	c.Inc()
	s.duration.Observe(i.Duration.Seconds())
	s.bytes.Add(float64(i.Bytes))
	s.events.Add(float64(i.Events))
}

// refusedTypes keeps the gauge of refused types. It knows their names, since a stream that starts
// again reports them again.
type refusedTypes struct {
	lane  string
	gauge *prometheus.GaugeVec

	mu    sync.Mutex
	names map[string]struct{}
}

func (r *refusedTypes) add(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.names[name]; !known {
		r.names[name] = struct{}{}
		r.gauge.WithLabelValues(r.lane, types[indexOf(name)]).Inc()
	}
}

func (r *refusedTypes) remove(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.names[name]; known {
		delete(r.names, name)
		r.gauge.WithLabelValues(r.lane, types[indexOf(name)]).Dec()
	}
}

// Webhook counts requests to the webhook address. It may be called from any goroutine.
func (m *Metrics) Webhook(result webhook.Result) {
	m.counters[webhookRequests].WithLabelValues(string(result)).Inc()
}

// WebhookUnasked counts an accepted webhook of an event type that relay does not ask for. It may be
// called from any goroutine.
func (m *Metrics) WebhookUnasked(eventType string) {
	m.counters[webhookUnasked].WithLabelValues(types[indexOf(eventType)]).Inc()
}
