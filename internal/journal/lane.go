package journal

import (
	"strings"
	"sync"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/printable"
	"workos-relay/pipeline"
	"workos-relay/router"
	"workos-relay/source"
)

// Envelope is what is kept of an event.
type Envelope struct {
	Lane         string
	ID           string
	Type         string
	CreatedAt    time.Time
	Organization string // empty where the event names none
	Committed    time.Time
	Data         string // its first bytes, where payloads are kept
	DataSize     int    // of the whole, in bytes; 0 where payloads are not kept
}

// Lane remembers what one lane does. It is safe for concurrent use.
type Lane struct {
	name string
	cfg  Config

	mu      sync.Mutex
	types   map[string]*uint64
	events  ring[Envelope]
	errors  ring[Error]
	history history
	state   pipeline.State // as last sampled; empty before
	view    func(*source.Event) *source.Event
	rules   string
}

func newLane(name string, cfg Config) *Lane {
	return &Lane{
		name: name, cfg: cfg, types: map[string]*uint64{},
		events: newRing[Envelope](maxEvents), errors: newRing[Error](maxErrors), history: newHistory(),
	}
}

// Redact makes the lane remember of each event only what view leaves in it. view is called from the
// goroutine of the lane that is observed, and must not keep or change the event. rules identifies
// view: if it is not what it was at the last call, the envelopes from before are forgotten, since
// they may hold what view takes out. Without a call events are remembered as they are.
func (l *Lane) Redact(rules string, view func(*source.Event) *source.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if rules != l.rules {
		l.events = newRing[Envelope](maxEvents)
	}
	l.view, l.rules = view, rules
}

// Observe returns an observer that records, then tells next, which may be nil.
func (l *Lane) Observe(next pipeline.Observer) pipeline.Observer {
	if next == nil {
		next = pipeline.NopObserver{}
	}
	return &observer{next, l}
}

type observer struct {
	pipeline.Observer // the next one

	lane *Lane
}

// Committed implements pipeline.Observer.
func (o *observer) Committed(outcome pipeline.Outcome, cp checkpoint.Checkpoint) {
	o.lane.committed(&outcome)
	o.Observer.Committed(outcome, cp)
}

// Retrying implements pipeline.Observer.
func (o *observer) Retrying(doing string, err error) {
	o.lane.failed(doing, err)
	o.Observer.Retrying(doing, err)
}

func (l *Lane) committed(o *pipeline.Outcome) {
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := 0; i < len(o.Events); {
		name, n := o.Events[i].Event, 1
		for i+n < len(o.Events) && o.Events[i+n].Event == name {
			n++
		}
		l.count(name, uint64(n)) //nolint:gosec // a count
		i += n
	}
	for i := max(0, len(o.Events)-maxPerBatch); i < len(o.Events); i++ {
		l.events.add(l.envelope(&o.Events[i], now))
	}
	for i := max(0, len(o.Parked)-maxPerBatch); i < len(o.Parked); i++ {
		p := &o.Parked[i]
		l.record(Error{
			Doing: Parking, At: now,
			Text: "event " + p.EventID + " (" + p.Type + ") went to the dead letter topic: " + p.Reason,
		})
	}
}

// count keeps its own name: that of the event is part of the page it came with.
func (l *Lane) count(name string, n uint64) {
	if c, ok := l.types[name]; ok {
		*c += n
		return
	}
	if len(name) > maxName || len(l.types) >= maxTypes {
		name = ""
	}
	c, ok := l.types[name]
	if !ok {
		c = new(uint64)
		l.types[strings.Clone(name)] = c
	}
	*c += n
}

// maxViewed is the size in bytes of an event that is redacted once more to be shown. Of a larger
// one only id, type and times are shown: a second copy of it would cost too much memory.
const maxViewed = 256 << 10

func (l *Lane) envelope(e *source.Event, now time.Time) Envelope {
	if l.view != nil && len(e.Raw) <= maxViewed {
		e = l.view(e)
	} else if l.view != nil {
		bare := *e
		bare.Raw, bare.Data = nil, nil
		e = &bare
	}
	out := Envelope{
		Lane: l.name, ID: name(e.ID), Type: name(e.Event), CreatedAt: e.CreatedAt,
		Organization: name(router.Organization(e)), Committed: now,
	}
	if l.cfg.Payload > 0 {
		// One byte more than is kept, so that clip knows that it cuts.
		out.Data, out.DataSize = clip(string(e.Data[:min(len(e.Data), l.cfg.Payload+1)]), l.cfg.Payload), len(e.Data)
	}
	return out
}

// name returns a printable copy of an id or a name, which is cut if it is too long.
func name(s string) string { return strings.Clone(printable.Clip(s, maxName)) }

// clip is a copy of the first n bytes of s, in valid UTF-8.
func clip(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "…"
	}
	return strings.ToValidUTF8(strings.Clone(s), "\uFFFD")
}

// ring keeps the last values that were added.
type ring[T any] struct {
	buf  []T
	next int // where the next one goes
	full bool
}

func newRing[T any](n int) ring[T] { return ring[T]{buf: make([]T, n)} }

func (r *ring[T]) add(v T) {
	r.buf[r.next] = v
	r.next = (r.next + 1) % len(r.buf)
	r.full = r.full || r.next == 0
}

// all returns a copy, the oldest first.
func (r *ring[T]) all() []T {
	if !r.full {
		return append([]T(nil), r.buf[:r.next]...)
	}
	return append(append([]T(nil), r.buf[r.next:]...), r.buf[:r.next]...)
}

// last returns the one added last, or nil.
func (r *ring[T]) last() *T {
	if r.next == 0 && !r.full {
		return nil
	}
	return &r.buf[(r.next+len(r.buf)-1)%len(r.buf)]
}
