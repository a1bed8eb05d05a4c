// Package journal remembers what the lanes of this process did of late, for the status page: six
// hours of lag and rate, the last errors, the envelopes of the last events, and how many events of
// each type there were. All of it is in memory and bounded for any events and errors.
package journal

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"workos-relay/pipeline"
)

// Bounds of what is remembered, for each lane.
const (
	maxErrors   = 50
	maxEvents   = 50
	maxPerBatch = 10 // events kept of one batch
	maxTypes    = 500
	maxName     = 200  // bytes of an id or a type
	maxText     = 1000 // bytes of an error
	maxPayload  = 64 << 10
	sampleEvery = time.Second
)

// Config is how a Journal remembers. The zero Config keeps no payloads and hides nothing.
type Config struct {
	Payload int                 // most bytes kept of an event's data; 0 keeps none
	Hide    func(string) string // takes secrets out of a text that is to be shown; nil takes nothing out
	Now     func() time.Time    // nil for time.Now
}

// Journal remembers for all lanes. It is safe for concurrent use.
type Journal struct {
	cfg Config

	mu    sync.Mutex
	lanes map[string]*Lane
}

// New returns an empty Journal.
func New(cfg Config) *Journal {
	if cfg.Hide == nil {
		cfg.Hide = func(s string) string { return s }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Payload = min(cfg.Payload, maxPayload)
	return &Journal{cfg: cfg, lanes: map[string]*Lane{}}
}

// Lane returns what is remembered of the lane called name: the same for a name for as long as
// Sample is told of the lane.
func (j *Journal) Lane(name string) *Lane {
	j.mu.Lock()
	defer j.mu.Unlock()
	l, ok := j.lanes[name]
	if !ok {
		l = newLane(name, j.cfg)
		j.lanes[name] = l
	}
	return l
}

// Run takes a sample of the lanes each second, until ctx ends.
func (j *Journal) Run(ctx context.Context, status func() []pipeline.Status) {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	for {
		j.Sample(status())
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// Sample records the state of all lanes now, which is what Run does each second. A lane that is
// missing, and was there before, is
// forgotten.
func (j *Journal) Sample(lanes []pipeline.Status) {
	now := j.cfg.Now()
	here := make(map[string]bool, len(lanes))
	for i := range lanes {
		here[lanes[i].Lane] = true
		j.Lane(lanes[i].Lane).sample(now, &lanes[i])
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	maps.DeleteFunc(j.lanes, func(name string, l *Lane) bool { return !here[name] && l.sampled() })
}

func (j *Journal) all() []*Lane {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Collect(maps.Values(j.lanes))
}

// Errors returns the last errors of all lanes, the newest first, and no more than n.
func (j *Journal) Errors(n int) []Error {
	return newest(j.all(), n, func(l *Lane) []Error { return l.errors.all() }, func(a, b Error) int {
		return cmp.Or(b.Last.Compare(a.Last), cmp.Compare(a.Lane, b.Lane))
	})
}

// Events returns the envelopes of events that were committed of late, the newest first, and no more
// than n.
func (j *Journal) Events(n int) []Envelope {
	return newest(j.all(), n, func(l *Lane) []Envelope { return l.events.all() }, func(a, b Envelope) int {
		return cmp.Or(b.Committed.Compare(a.Committed), cmp.Compare(a.Lane, b.Lane))
	})
}

// newest sorts what of gives for each lane, which is the oldest first, and returns the first n.
func newest[T any](lanes []*Lane, n int, of func(*Lane) []T, order func(a, b T) int) []T {
	var out []T
	for _, l := range lanes {
		l.mu.Lock()
		some := of(l)
		l.mu.Unlock()
		slices.Reverse(some)
		out = append(out, some...)
	}
	slices.SortStableFunc(out, order)
	return out[:min(n, len(out))]
}

// TypeCount is how many events of a type this process has committed, in all lanes together.
type TypeCount struct {
	Type  string // empty for all types beyond those that are counted by name
	Count uint64
}

// Types returns the types by falling count.
func (j *Journal) Types() []TypeCount {
	sum := map[string]uint64{}
	for _, l := range j.all() {
		l.mu.Lock()
		for name, n := range l.types {
			sum[name] += *n
		}
		l.mu.Unlock()
	}
	out := make([]TypeCount, 0, len(sum))
	for name, n := range sum {
		out = append(out, TypeCount{name, n})
	}
	slices.SortFunc(out, func(a, b TypeCount) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Type, b.Type)) })
	return out
}
