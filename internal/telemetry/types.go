package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"

	"workos-relay/source"
)

// types is every value of the label type: the catalogue, and at the end other. typeIndex is where a
// type stands in it.
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

// typeCounter counts events of one lane and outcome by type. It gathers a batch before it touches a
// counter. One goroutine uses it at a time.
type typeCounter struct {
	vec           *prometheus.CounterVec
	lane, outcome string

	counters []prometheus.Counter // parallel to types; nil until there is something to count
	counts   []int                // of the batch being counted, parallel to types; zero between batches
}

func newTypeCounter(vec *prometheus.CounterVec, lane, outcome string) *typeCounter {
	return &typeCounter{vec: vec, lane: lane, outcome: outcome, counters: make([]prometheus.Counter, len(types)), counts: make([]int, len(types))}
}

// counter returns the counter of types[i], which is there from then on.
func (c *typeCounter) counter(i int) prometheus.Counter {
	if c.counters[i] == nil {
		c.counters[i] = c.vec.WithLabelValues(c.lane, types[i], c.outcome)
	}
	return c.counters[i]
}

// count adds events. It looks a type up once for a run of events of that type.
func (c *typeCounter) count(events []source.Event) {
	last, at := "", len(types)-1
	for i := range events {
		if t := events[i].Event; t != last {
			last, at = t, indexOf(t)
		}
		c.counts[at]++
	}
}

// flush adds what was gathered to the counters, each of which it touches once.
func (c *typeCounter) flush() {
	for i, n := range c.counts {
		if n > 0 {
			c.counter(i).Add(float64(n))
		}
		c.counts[i] = 0
	}
}
