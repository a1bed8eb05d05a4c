package sourcetest

import (
	"slices"
	"sort"
	"time"
)

// Population describes a deterministic set of lifelike events. The same values give the same bytes
// on every machine.
type Population struct {
	// Events is how many there are, spread evenly over a day. Ignored where Profile is given.
	Events int
	// Profile spreads the events over time, span after span.
	Profile []Span
	// Seed chooses the content.
	Seed uint64
	// Start is when the first span begins. Zero: so that the last span ends now, by the clock of
	// the Server; for a Generator made by NewGenerator, 2026-01-01T00:00:00Z.
	Start time.Time
	// SameInstant events in a row share one created_at; 0 is 1. Their ids ascend all the same.
	SameInstant int
	// Organizations is how many there are to belong to; 0 is 40.
	Organizations int
	// InMemory has a Server render all of it at once: about 1 kB an event held, and a page costs a
	// fraction of the time. It is for benchmarks in which the server must not count.
	InMemory bool
}

// Span is a stretch of time with so many events spread evenly over it. With zero Events it is a
// silence.
type Span struct {
	Length time.Duration
	Events int
}

// UnevenProfile spreads events over length as a real environment does: half a day of silence twice,
// a fifth of the events within one minute in the middle, the rest by day and night. A length under
// three days is taken as three days.
func UnevenProfile(events int, length time.Duration, seed uint64) []Span {
	const slot = 6 * time.Hour
	slots := max(int(length/slot), 12)
	silent := map[int]bool{2: true, 3: true, slots - 4: true, slots - 3: true}
	weights, total := make([]int, slots), 0
	for i := range weights {
		if !silent[i] {
			weights[i] = 1 + int(mix(seed, uint64(i), 1)%8)*(1+i%4)
		}
		total += weights[i]
	}
	peak := events / 5
	left := events - peak
	var spans []Span
	for i, w := range weights {
		n := (events - peak) * w / total
		if i == slots-1 {
			n = left
		}
		left -= n
		if i == slots/2 {
			spans = append(spans, Span{Length: slot - time.Minute, Events: n}, Span{Length: time.Minute, Events: peak})
			continue
		}
		spans = append(spans, Span{Length: slot, Events: n})
	}
	return spans
}

func (p Population) spans() []Span {
	if len(p.Profile) > 0 {
		return p.Profile
	}
	return []Span{{Length: 24 * time.Hour, Events: p.Events}}
}

func (p Population) length() (d time.Duration) {
	for _, s := range p.spans() {
		d += s.Length
	}
	return d
}

// timeline maps the index of an event to its time.
type timeline struct {
	first    []int   // index of the first event of each span
	startMS  []int64 // Unix milliseconds
	lengthMS []int64
	count    []int
	same     int
	n        int
}

func newTimeline(p Population) timeline {
	tl := timeline{same: max(p.SameInstant, 1)}
	at := p.Start
	for _, s := range p.spans() {
		if s.Events > 0 {
			tl.first = append(tl.first, tl.n)
			tl.startMS = append(tl.startMS, at.UnixMilli())
			tl.lengthMS = append(tl.lengthMS, s.Length.Milliseconds())
			tl.count = append(tl.count, s.Events)
			tl.n += s.Events
		}
		at = at.Add(s.Length)
	}
	return tl
}

// ms is the time of event n; it never descends.
func (tl *timeline) ms(n int) int64 {
	i, found := slices.BinarySearch(tl.first, n)
	if !found {
		i--
	}
	k := n - tl.first[i]
	k -= k % tl.same
	return tl.startMS[i] + int64(float64(tl.lengthMS[i])*(float64(k)/float64(tl.count[i])))
}

// search returns the first event at or after ms, or the number of events.
func (tl *timeline) search(ms int64) int {
	return sort.Search(tl.n, func(n int) bool { return tl.ms(n) >= ms })
}
