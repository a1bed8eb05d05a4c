package source

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/retry"
)

const (
	// maxStepBack is how much older than the position the event that follows it may be. More means
	// that the API started over.
	maxStepBack = 60 * time.Second
	// recentCount is how many ids are remembered, to leave out events that come again.
	recentCount = 1000
	// A page that descends as a whole is refused if it spans this time, or this many different
	// times; less is mere disorder, such as one late event before many of the same instant.
	descendingSpan  = 2 * time.Second
	descendingCount = 10
)

// checkOrder refuses a page that descends as a whole. full says whether the list may go on behind
// the page.
//
// P2: a page that is newest first never becomes a position.
func (r *reader) checkOrder(a answer, full bool) error {
	if !descends(a.Data, full) {
		return nil
	}
	first, last := &a.Data[0], &a.Data[len(a.Data)-1]
	return &DescendingError{Position: r.pos, First: first.Position(), Last: last.Position(), RequestID: a.RequestID}
}

// descends reports whether a page descends as a whole.
//
// A single step back at the tip, as in a page of two events, proves nothing: the API sorts by when
// events happened, and may list one of them late. It is safe to relay them as they stand, because
// the list holds nothing else behind the position. In a full page, the events that are missing may
// lie in the step; and no event is listed more than maxStepBack late.
func descends(events []Event, full bool) bool {
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
	if times == 2 && !full && span <= maxStepBack {
		return false
	}
	return times > 1 && (span >= descendingSpan || times >= descendingCount)
}

// checkCursor refuses a page that shows that the API did not go on from the position, and remembers
// the ids of a good one. first is the id that the page began with, before repeated events were left
// out.
func (r *reader) checkCursor(a answer, opts ListEventsOpts, first string) error {
	if opts.After != "" && len(a.Data) > 0 && !r.pos.CreatedAt.IsZero() {
		oldest := &a.Data[0]
		if back := r.pos.CreatedAt.Sub(oldest.CreatedAt); back > maxStepBack {
			return &CursorLostError{
				Position: r.pos, RequestID: a.RequestID, first: first,
				Reason: fmt.Sprintf("what it sent begins with %s, which is %s older", oldest.Position(), back.Round(time.Second)),
			}
		}
	}
	for i := range a.Data {
		r.seen.add(a.Data[i].ID)
	}
	return nil
}

// leaveOutRepeated removes from a page the events that were read before, as with pages that
// overlap, and those that stand in it twice. It returns errNothingNew if the page gives no way to
// go on, and a *CursorLostError if what it sent lies before the position.
func (r *reader) leaveOutRepeated(a *answer, opts ListEventsOpts) error {
	at := -1 // of the position's event
	if r.pos.EventID != "" {
		at = slices.IndexFunc(a.Data, func(e Event) bool { return e.ID == r.pos.EventID })
	}
	full := a.full(opts)
	first := firstPosition(a.Data)
	var dropped int
	a.Data, dropped = withoutRepeated(a.Data, func(i int, e *Event) bool {
		// What stands before the position was read, unless it is remembered that it was not: it has
		// come late.
		return r.seen.has(e.ID) || i < at && e.CreatedAt.Before(r.trail.from)
	})
	if dropped == 0 {
		return nil
	}
	r.repeated(dropped, first)
	switch {
	case len(a.Data) > 0 || opts.After == "" || opts.After != r.pos.EventID:
		return nil
	case at < 0:
		return &CursorLostError{Position: r.pos, Reason: fmt.Sprintf("it sent %s a second time", first), RequestID: a.RequestID}
	case full:
		return errNothingNew
	}
	return nil // it is the tip
}

// errNothingNew means that a full page holds only events that were read before, up to the position.
// Whether others follow it does not tell.
var errNothingNew = errors.New("the Events API sends again what was read, and nothing new")

// firstPosition is the position of the first of events.
func firstPosition(events []Event) checkpoint.Position {
	if len(events) == 0 {
		return checkpoint.Position{}
	}
	return events[0].Position()
}

// withoutRepeated returns events without those for which known returns true, and without those that
// stand in events before. It returns events itself if there are none, and how many there are.
func withoutRepeated(events []Event, known func(i int, e *Event) bool) ([]Event, int) {
	var out []Event
	ids := make(map[string]struct{}, len(events))
	dropped := 0
	for i := range events {
		e := &events[i]
		_, twice := ids[e.ID]
		ids[e.ID] = struct{}{}
		switch {
		case twice || known(i, e):
			if dropped++; dropped == 1 {
				out = append(make([]Event, 0, len(events)), events[:i]...)
			}
		case dropped > 0:
			out = append(out, *e)
		}
	}
	if dropped == 0 {
		return events, 0
	}
	return out, dropped
}

// repeated tells of events that were left out since they were read before.
func (r *reader) repeated(n int, first checkpoint.Position) {
	call(r.hooks.OnRepeated, RepeatedInfo{Count: n, Position: first})
	if r.repeatTold.IsZero() || time.Since(r.repeatTold) > time.Hour {
		r.repeatTold = time.Now()
		r.log.Warn("the Events API sent events again that were read before; leaving them out", zap.Int("count", n), zap.Stringer("page_from", first))
	}
}

// noteOverfull tells of a response that held more events than were asked for.
func (r *reader) noteOverfull(a answer) {
	err := a.over.err(a.RequestID)
	call(r.hooks.OnRetry, RetryInfo{Reason: RetryResponse, Attempt: 1, Err: err})
	if r.countOverfull() {
		r.overfullTold = time.Now()
		r.log.Warn("the Events API sends more events at once than were asked for; using the first ones and asking again for the others",
			zap.Stringer("after", r.pos), zap.Error(err))
	}
}

// countOverfull reports whether the next response with too many events is to be counted and
// reported.
func (r *reader) countOverfull() bool {
	return r.overfullTold.IsZero() || time.Since(r.overfullTold) > time.Hour
}

// stuckRounds is how often a page without anything new is asked for again before the cursor counts
// as lost.
const stuckRounds = 6

// askAgain waits before a page that brought nothing new is asked for again.
func (r *reader) askAgain(ctx context.Context, a answer) error {
	if r.stuck++; r.stuck > stuckRounds {
		return &CursorLostError{Position: r.pos, Reason: errNothingNew.Error(), RequestID: a.RequestID}
	}
	err := &ResponseError{Reason: errNothingNew.Error(), RequestID: a.RequestID, Err: errNothingNew}
	if r.impatient {
		return err
	}
	wait := retry.Backoff{First: time.Second, Most: 15 * time.Second}.Full(r.stuck)
	call(r.hooks.OnRetry, RetryInfo{Reason: RetryResponse, Attempt: r.stuck, Wait: wait, Err: err})
	return retry.Sleep(ctx, wait)
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

// reportUnexpected tells the hooks of events whose type was not asked for, and the log once for
// each type.
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

// expected returns the events without those whose type was not asked for, unless they are to be
// relayed. The type decides the topic of an event, so a server that answers in place of
// the API must not be able to choose one.
func (r *reader) expected(events []Event) []Event {
	stray := func(e Event) bool { return !r.types.wants(e.Event) }
	// P15: a type that was not asked for makes no topic.
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
