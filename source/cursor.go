package source

import (
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"
)

const (
	// maxStepBack is how much older than the position the event that follows it may be. More means that the API started over.
	maxStepBack = 60 * time.Second
	// recentCount is how many ids are remembered to notice that the API started over.
	recentCount = 1000
	// A page that descends as a whole is refused where it spans this time, or this many different times; less is mere
	// disorder, such as one late event before many of the same instant.
	descendingSpan  = 2 * time.Second
	descendingCount = 10
)

// checkOrder refuses a page that descends as a whole.
func (r *reader) checkOrder(a answer) error {
	if !descends(a.Data) {
		return nil
	}
	first, last := &a.Data[0], &a.Data[len(a.Data)-1]
	return &DescendingError{Position: r.pos, First: first.Position(), Last: last.Position(), RequestID: a.RequestID}
}

// descends reports whether a page descends as a whole.
func descends(events []Event) bool {
	n := len(events)
	if n < 2 {
		return false
	}
	times := 1
	for i := range n - 1 {
		switch events[i+1].CreatedAt.Compare(events[i].CreatedAt) {
		case 1:
			return false
		case -1:
			times++
		}
	}
	span := events[0].CreatedAt.Sub(events[n-1].CreatedAt)
	return times > 1 && (span >= descendingSpan || times >= descendingCount)
}

// checkCursor refuses a page that shows that the API did not go on from the position, and remembers the ids of a good one.
// An id that comes a second time says so even within one page.
func (r *reader) checkCursor(a answer, opts ListEventsOpts) error {
	lost := func(reason string) error {
		return &CursorLostError{Position: r.pos, Reason: reason, RequestID: a.RequestID}
	}
	if opts.After != "" && len(a.Data) > 0 && !r.pos.CreatedAt.IsZero() {
		first := &a.Data[0]
		if back := r.pos.CreatedAt.Sub(first.CreatedAt); back > maxStepBack {
			return &CursorLostError{
				Position: r.pos, RequestID: a.RequestID, first: first.ID,
				Reason: fmt.Sprintf("what it sent begins with %s, which is %s older", first.Position(), back.Round(time.Second)),
			}
		}
	}
	for i := range a.Data {
		if !r.seen.add(a.Data[i].ID) {
			return lost(fmt.Sprintf("it sent %s a second time", a.Data[i].Position()))
		}
	}
	return nil
}

func (r *reader) countInversions(events []Event) {
	var info InversionInfo
	last := r.pos.CreatedAt
	if r.pos.EventID == "" {
		last = time.Time{}
	}
	for i := range events {
		if events[i].CreatedAt.Before(last) {
			if info.Count++; info.Count == 1 {
				info.Position = events[i].Position()
			}
		}
		last = events[i].CreatedAt
	}
	if info.Count > 0 {
		call(r.hooks.OnInversion, info)
		r.log.Debug("events stand in another order than their times; relayed as they stand",
			zap.Int("count", info.Count), zap.Stringer("first", info.Position))
	}
}

// reportUnexpected tells the hooks of events whose type was not asked for, and the log once for each type.
func (r *reader) reportUnexpected(events []Event) {
	const maxReported = 100
	what := "the Events API sent an event of a type that was not asked for; it is left out"
	if r.s.RelayUnexpected {
		what = "the Events API sent an event of a type that was not asked for; it is relayed"
	}
	for i := range events {
		e := &events[i]
		if r.types.wants(e.Event) {
			continue
		}
		call(r.hooks.OnUnexpectedType, UnexpectedTypeInfo{Type: e.Event, Position: e.Position()})
		if !r.odd[e.Event] && len(r.odd) < maxReported {
			r.odd[e.Event] = true
			r.log.Warn(what, zap.String("type", e.Event), zap.Stringer("event", e.Position()))
		}
	}
}

// expected returns the events without those whose type was not asked for, unless they are to be relayed. The type decides where an event
// goes on the bus, so whoever answers in place of the API must not be able to choose one.
func (r *reader) expected(events []Event) []Event {
	stray := func(e Event) bool { return !r.types.wants(e.Event) }
	if r.s.RelayUnexpected || !slices.ContainsFunc(events, stray) {
		return events
	}
	return slices.DeleteFunc(slices.Clone(events), stray)
}

// recentIDs remembers the last ids added.
type recentIDs struct {
	known map[string]struct{}
	ring  []string
	next  int
}

func newRecentIDs(n int) *recentIDs {
	return &recentIDs{known: make(map[string]struct{}, n), ring: make([]string, n)}
}

// has reports whether id is remembered.
func (s *recentIDs) has(id string) bool {
	_, ok := s.known[id]
	return ok
}

// add reports whether id was not remembered yet, and remembers it.
func (s *recentIDs) add(id string) bool {
	if _, ok := s.known[id]; ok {
		return false
	}
	if old := s.ring[s.next]; old != "" {
		delete(s.known, old)
	}
	s.ring[s.next] = id
	s.next = (s.next + 1) % len(s.ring)
	s.known[id] = struct{}{}
	return true
}
