package telemetry

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/source"
)

// other stands for every value of a label that is not among those known, so that the number of series is bounded.
const other = "other"

// The values of the label doing, in pipeline's words.
var doings = append(pipeline.Doings(), other)

// types is every value of the label type: the catalogue, and at the end other. typeIndex is where a type stands in it.
var types, typeIndex = knownTypes()

func knownTypes() (names []string, index map[string]int) {
	index = map[string]int{}
	for i, t := range source.Catalogue() {
		names = append(names, t.Name)
		index[t.Name] = i
	}
	return append(names, other), index
}

func indexOf(eventType string) int {
	if i, ok := typeIndex[eventType]; ok {
		return i
	}
	return len(types) - 1
}

// LaneMetrics counts what one lane does. It is safe for concurrent use, though a lane calls it from one goroutine.
type LaneMetrics struct {
	dropped, deadLetters, messages, bytes prometheus.Counter
	duration, batch                       prometheus.Observer
	failures                              map[string]prometheus.Counter // by doing
	source                                sourceMetrics

	mu     sync.Mutex
	events []prometheus.Counter // parallel to types
	counts []int                // of the batch being counted, parallel to types; zero between calls
}

var _ pipeline.Observer = (*LaneMetrics)(nil)

func newLaneMetrics(m *Metrics, name string) *LaneMetrics {
	l := &LaneMetrics{
		dropped:     m.counters[droppedEvents].WithLabelValues(name),
		deadLetters: m.counters[deadLetters].WithLabelValues(name),
		messages:    m.counters[publishedMessages].WithLabelValues(name),
		bytes:       m.counters[publishedBytes].WithLabelValues(name),
		duration:    m.histograms[appendDuration].WithLabelValues(name),
		batch:       m.histograms[appendEvents].WithLabelValues(name),
		failures:    m.countersOf(appendFailures, name, doings),
		source:      newSourceMetrics(m, name),
		counts:      make([]int, len(types)),
	}
	for _, t := range types {
		l.events = append(l.events, m.counters[eventsTotal].WithLabelValues(name, t))
	}
	return l
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
	l.countTypes(o.Events)
	l.dropped.Add(float64(o.Dropped))
	l.deadLetters.Add(float64(len(o.Parked)))
	l.messages.Add(float64(o.Messages))
	l.bytes.Add(float64(o.Bytes))
	l.duration.Observe(o.Took.Seconds())
	l.batch.Observe(float64(len(o.Events)))
}

// countTypes touches each counter once for a batch, and looks a type up once for a run of events of that type.
func (l *LaneMetrics) countTypes(events []source.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last, at := "", len(types)-1
	for i := range events {
		if t := events[i].Event; t != last {
			last, at = t, indexOf(t)
		}
		l.counts[at]++
	}
	for i, n := range l.counts {
		if n > 0 {
			l.events[i].Add(float64(n))
			l.counts[i] = 0
		}
	}
}

// Retrying implements pipeline.Observer.
func (l *LaneMetrics) Retrying(doing string, _ error) { choose(l.failures, doing).Inc() }

// SourceHooks returns hooks that count what the lane's stream does. They may be given to several streams.
func (l *LaneMetrics) SourceHooks() *source.Hooks { return l.source.hooks() }
