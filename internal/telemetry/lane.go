package telemetry

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/internal/printable"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
)

// other stands for every value of a label that is not among those known, so that the number of
// series is bounded.
const other = "other"

// The values of the label doing, in pipeline's words.
var doings = append(pipeline.Activities(), other)

// LaneMetrics counts what one lane does. It is safe for concurrent use, though a lane calls it from
// one goroutine.
type LaneMetrics struct {
	pipeline.NopObserver

	name                                             string
	events, dropped, deadLetters, messages, bytes    prometheus.Counter
	whereFailed, verifyFailed                        prometheus.Counter
	verify                                           func(*family) *prometheus.GaugeVec
	duration, batchEvents, batchMessages, batchBytes prometheus.Observer
	delivery                                         prometheus.Observer
	begun                                            time.Time // older events do not count as delivered late
	recent                                           *recentDeliveries
	stages                                           map[pipeline.Stage]prometheus.Observer
	failures                                         map[string]prometheus.Counter // by doing
	source                                           sourceMetrics
	trace                                            *laneTracer // nil if traces are off

	mu                              sync.Mutex
	published, droppedTypes, parked *typeCounter // under mu
	deadLetter                      admin.DeadLetters
}

var _ pipeline.Observer = (*LaneMetrics)(nil)

// What becomes of an event: the values of the label outcome.
const (
	outcomePublished = "published"
	outcomeDropped   = "dropped"
	outcomeParked    = "parked"
)

func newLaneMetrics(m *Metrics, name string) *LaneMetrics {
	l := &LaneMetrics{
		name:          name,
		events:        m.counters[laneEvents].WithLabelValues(name),
		dropped:       m.counters[droppedEvents].WithLabelValues(name),
		deadLetters:   m.counters[deadLetters].WithLabelValues(name),
		messages:      m.counters[publishedMessages].WithLabelValues(name),
		bytes:         m.counters[publishedBytes].WithLabelValues(name),
		whereFailed:   m.counters[whereFailures].WithLabelValues(name),
		verifyFailed:  m.counters[verifyFailures].WithLabelValues(name),
		verify:        func(f *family) *prometheus.GaugeVec { return m.gauges[f] },
		duration:      m.histograms[appendDuration].WithLabelValues(name),
		delivery:      m.histograms[eventDelivery].WithLabelValues(name),
		begun:         m.started,
		recent:        newRecentDeliveries(),
		batchEvents:   m.histograms[appendEvents].WithLabelValues(name),
		batchMessages: m.histograms[appendMessages].WithLabelValues(name),
		batchBytes:    m.histograms[appendBytes].WithLabelValues(name),
		stages:        map[pipeline.Stage]prometheus.Observer{},
		failures:      m.countersOf(appendFailures, name, doings),
		source:        newSourceMetrics(m, name),
		published:     newTypeCounter(m.counters[eventsTotal], name, outcomePublished),
		droppedTypes:  newTypeCounter(m.counters[eventsTotal], name, outcomeDropped),
		parked:        newTypeCounter(m.counters[eventsTotal], name, outcomeParked),
	}
	for _, s := range pipeline.Stages() {
		l.stages[s] = m.histograms[stageDuration].WithLabelValues(name, string(s))
	}
	for i := range types {
		l.published.counter(i)
	}
	return l
}

// Verified records what a verification of the lane found, and whether it has compared all that it
// should. It may be called from any goroutine.
func (l *LaneMetrics) Verified(v *admin.Verified, complete bool) {
	if complete && !v.Unknown {
		l.verify(verifySuccess).WithLabelValues(l.name).Set(timestamp(v.EndedAt))
	}
	l.verify(verifyDuration).WithLabelValues(l.name).Set(v.DurationSeconds)
	l.verify(verifyChecked).WithLabelValues(l.name, "events").Set(float64(v.Events - v.Expired))
	objects := 0
	if v.State != nil {
		objects = v.State.Objects
	}
	l.verify(verifyChecked).WithLabelValues(l.name, "objects").Set(float64(objects))
	for _, f := range v.Findings() {
		l.verify(verifyFaults).WithLabelValues(l.name, f.Name).Set(float64(f.Count))
	}
}

// VerifyFailed counts a verification that was not finished. It may be called from any goroutine.
func (l *LaneMetrics) VerifyFailed() { l.verifyFailed.Inc() }

// VerifyForget removes what Verified has recorded: it does not hold any more. It may be called from
// any goroutine.
func (l *LaneMetrics) VerifyForget() {
	for _, f := range []*family{verifySuccess, verifyDuration, verifyChecked, verifyFaults} {
		l.verify(f).DeletePartialMatch(prometheus.Labels{labelLane: l.name})
	}
}

// countersOf returns the counters of a family whose second label has these values.
func (m *Metrics) countersOf(f *family, lane string, values []string) map[string]prometheus.Counter {
	out := make(map[string]prometheus.Counter, len(values))
	for _, v := range values {
		out[v] = m.counters[f].WithLabelValues(lane, v)
	}
	return out
}

// choose returns the counter of value, or that of other.
func choose(counters map[string]prometheus.Counter, value string) prometheus.Counter {
	if c, ok := counters[value]; ok {
		return c
	}
	return counters[other]
}

// Committed implements pipeline.Observer.
func (l *LaneMetrics) Committed(o pipeline.Outcome, _ checkpoint.Checkpoint) {
	l.countTypes(&o)
	l.timeDelivery(&o)
	l.noteDeadLetters(o.Parked)
	l.events.Add(float64(len(o.Events)))
	l.dropped.Add(float64(o.Dropped))
	l.deadLetters.Add(float64(len(o.Parked)))
	l.messages.Add(float64(o.Messages))
	l.bytes.Add(float64(o.Bytes))
	l.duration.Observe(o.Took.Seconds())
	l.batchEvents.Observe(float64(len(o.Events)))
	l.batchMessages.Observe(float64(o.Messages))
	l.batchBytes.Observe(float64(o.Bytes))
}

// timeDelivery observes how long each event took from WorkOS to the bus, by WorkOS's clock as far
// as the answers of the API tell it. What is left of a difference makes no time negative.
func (l *LaneMetrics) timeDelivery(o *pipeline.Outcome) {
	ahead, before := l.source.clock.ahead(), 0
	now, begun := time.Now().Add(-ahead), l.begun.Add(-ahead)
	took := make([]time.Duration, 0, len(o.Events))
	for i := range o.Events {
		dropped := false
		if o.Dropped > 0 {
			dropped, before = o.Ends[i] == before, o.Ends[i]
		}
		if created := o.Events[i].CreatedAt; !dropped && created.After(begun) {
			d := max(0, now.Sub(created))
			l.delivery.Observe(d.Seconds())
			took = append(took, d)
		}
	}
	l.recent.add(took)
}

// noteDeadLetters counts dead letters and keeps the last of them.
func (l *LaneMetrics) noteDeadLetters(parked []pipeline.Parked) {
	if len(parked) == 0 {
		return
	}
	last := &parked[len(parked)-1]
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deadLetter.Events += uint64(len(parked))
	l.deadLetter.Newest = &admin.DeadLetter{
		EventID: strings.Clone(printable.Text(last.EventID)), Type: strings.Clone(printable.Text(last.Type)), // not parts of the page
		Reason: strings.Clone(printable.Block(last.Reason, maxReason)), At: time.Now().UTC(),
	}
}

// maxReason bounds the reason of a dead letter in bytes.
const maxReason = 2000

// Activity returns what the lane has done of late and since the process started. It is the same
// before and after the lane is replaced. The reason of a dead letter may name what the
// configuration hides.
func (l *LaneMetrics) Activity() admin.Activity {
	l.mu.Lock()
	dead := l.deadLetter
	l.mu.Unlock()
	out := admin.Activity{Delivery: l.recent.quantiles(), DeadLetters: &dead}
	if _, _, until := l.source.limit.seen(); !until.IsZero() {
		until = until.UTC()
		out.RateLimitedUntil = &until
	}
	return out
}

// countTypes counts each event under its outcome. Every event that is neither dropped nor parked is
// published, so that a batch of nothing else is gone through once.
func (l *LaneMetrics) countTypes(o *pipeline.Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.published.count(o.Events)
	if o.Dropped > 0 {
		before := 0
		for i, end := range o.Ends {
			if end == before {
				l.move(o.Events[i].Event, l.droppedTypes)
			}
			before = end
		}
		l.droppedTypes.flush()
	}
	for _, p := range o.Parked {
		l.move(p.Type, l.parked)
	}
	if len(o.Parked) > 0 {
		l.parked.flush()
	}
	l.published.flush()
}

// move counts an event of this type to another outcome than published.
func (l *LaneMetrics) move(eventType string, to *typeCounter) {
	at := indexOf(eventType)
	l.published.counts[at]--
	to.counts[at]++
}

// Retrying implements pipeline.Observer.
func (l *LaneMetrics) Retrying(doing string, _ error) { choose(l.failures, doing).Inc() }

// WhereFailed counts an event for which the expression of a route cannot be evaluated. It may be
// called from any goroutine.
func (l *LaneMetrics) WhereFailed() { l.whereFailed.Inc() }

// SourceHooks returns hooks that count what the lane's stream does, and trace its requests if
// traces are on. They may be given to several streams.
func (l *LaneMetrics) SourceHooks() *source.Hooks {
	hooks := l.source.hooks()
	hooks.OnRequest = func(i *source.RequestInfo) {
		if l.trace != nil {
			l.trace.requested(i)
		}
	}
	return hooks
}

// BeginDelivery implements pipeline.Observer. It begins a trace if traces are on.
func (l *LaneMetrics) BeginDelivery(ctx context.Context, pages []source.Page) (context.Context, func(error)) {
	if l.trace == nil {
		return ctx, func(error) {}
	}
	return l.trace.deliver(ctx, pages)
}

// BeginStage implements pipeline.Observer. It measures how long a stage takes that succeeds, and
// traces each one if traces are on.
func (l *LaneMetrics) BeginStage(ctx context.Context, s pipeline.Stage, batch []sink.Message, next checkpoint.Position) (context.Context, func(error)) {
	traced := func(error) {}
	if l.trace != nil {
		ctx, traced = l.trace.begin(ctx, s, batch, next)
	}
	started := time.Now()
	return ctx, func(err error) {
		if took := l.stages[s]; err == nil && took != nil {
			took.Observe(time.Since(started).Seconds())
		}
		traced(err)
	}
}

// Trace makes the lane send spans to traces, or none if traces is nil. It is called while the lane
// does not run. bus says how the spans name its bus.
func (l *LaneMetrics) Trace(traces *Traces, bus sink.Conventions) {
	l.trace = nil
	if traces != nil {
		l.trace = newLaneTracer(traces, l.name, bus)
	}
}
