package source

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
)

const (
	// calmFirst and calmMost bound how long one request follows the other after a backfill met a
	// contradiction.
	calmFirst = time.Minute
	calmMost  = time.Hour
	// minSegmentPages is the least that a segment is made for: each costs about two thirds of a
	// page more than it yields.
	minSegmentPages = 4
)

// isFarBehind reports whether so much lies ahead of the page that was accepted last that several
// readers are worth their while. Within the time for which the API may hold events back it never
// is.
func (r *reader) isFarBehind() bool {
	if r.s.Readers < 2 || r.noRanges || !r.full || r.pos.EventID == "" || r.anchor != nil || r.work != nil || !r.floor.IsZero() || time.Now().Before(r.calmUntil) {
		return false
	}
	need := 2 * segmentPages(r.s.Readers, r.memory(), r.pageCost)
	return pagesIn(r.horizon().Sub(r.pos.CreatedAt), r.perPage) > need
}

// horizon is the time up to which a backfill reads: what is younger may still be held back, and is
// left to the plain cursor.
func (r *reader) horizon() time.Time { return r.clock().Add(-heldBack) }

func (r *reader) memory() int64 {
	if r.s.Memory == 0 {
		return DefaultMemory
	}
	return r.s.Memory
}

// backfill reads on from the position with several readers, and yields what a plain cursor would
// yield, until the horizon is near or something comes that the plain cursor has to check. It
// reports false if the loop over the pages was left, and returns errors that are final. No request
// is under way when it returns.
//
// The list from the position on is read in segments that lie next to each other, just ahead of what
// is yielded:
//
//   - A segment begins with the first event that a request by time brings, its seam; from there on it follows the cursor.
//   - It ends where it meets the id of the next seam. So the segments joined are what one cursor would have given, whatever
//     the API makes of the bounds of a range.
//   - Only the first segment, the head, is yielded. It may always fetch another page, the others as long as there is memory:
//     a head that is slow or long makes them wait, and never the other way round.
//   - A segment that turns out dense is divided by a seam ahead of its reader. A seam that the segment before does not meet
//     is given up, and read across.
//   - The page which came by time could leave out an event that stands behind younger ones. So its seam lies maxStepBack after
//     the time asked for, more than the list steps back; if events are too dense for that, at first, and whenever they stand
//     in another order than their times, all of the page is compared with what the segment before reads from the seam on.
//
// Nothing that contradicts this is judged here: the segments are dropped, and the plain cursor goes
// on from the position.
func (r *reader) backfill(ctx context.Context, yield func(Page, error) bool) (more bool, err error) {
	w := newWindow(ctx, r)
	defer w.close()
	for ctx.Err() == nil {
		w.receive()
		if w.over() {
			return true, w.err
		}
		page, ok := w.take()
		now := time.Now()
		w.schedule(now)
		if !ok {
			w.wait(now)
			continue
		}
		out, err := w.deliver(page)
		if err != nil {
			w.contradiction("the events to be yielded failed a check", err)
			continue
		}
		w.report()
		if !yieldPage(out, yield) {
			return false, nil
		}
		w.room.yields(0)
	}
	return true, nil // the plain cursor returns ctx's error
}

// deliver passes a page of the head through the checks of the plain cursor, and moves the position
// to its end.
func (w *window) deliver(p segmentPage) (Page, error) {
	r := w.r
	a := answer{ListEventsResponse: ListEventsResponse{Data: p.events}, RequestID: p.requestID, held: p.size}
	if err := r.checkOrder(a); err != nil {
		return Page{}, err
	}
	first := p.events[0].Position()
	events, dropped := withoutRepeated(p.events, func(_ int, e *Event) bool { return r.seen.has(e.ID) })
	if len(events) == 0 {
		return Page{}, &CursorLostError{Position: r.pos, Reason: fmt.Sprintf("it sent %s a second time", first), RequestID: p.requestID}
	}
	if dropped > 0 {
		r.repeated(dropped, first)
		p.events = events
	}
	a.Data = p.events
	if err := r.checkCursor(a, ListEventsOpts{After: r.pos.EventID}, first.EventID); err != nil {
		return Page{}, err
	}
	r.countInversions(p.events)
	r.reportUnexpected(p.events)
	r.s.payloads.compare(p.events, &r.hooks, r.log)
	r.passed(p.events)
	r.pos = p.events[len(p.events)-1].Position()
	r.atTip = false
	r.silentUntil = time.Now().Add(silenceCheck)
	return r.joined(Page{Events: r.expected(p.events), Now: r.clock().UTC(), Size: p.size, RequestID: p.requestID, Sent: p.sent, Took: p.took}), nil
}

// leave ends the backfill; the plain cursor goes on from the position.
func (w *window) leave(why string) {
	if w.left {
		return
	}
	w.left = true
	w.dropped += len(w.segs) - 1
	w.r.log.Debug("reading on with one reader", zap.String("reason", why), zap.Stringer("after", w.r.pos))
}

// contradiction ends the backfill over an answer that does not agree with others, and keeps from
// another one for a while.
func (w *window) contradiction(why string, err error) {
	if w.left {
		return
	}
	r := w.r
	r.calm = min(max(2*r.calm, calmFirst), calmMost)
	r.calmUntil = time.Now().Add(r.calm)
	r.log.Warn("an answer of the Events API contradicts others; reading on with one reader for a while",
		zap.String("reason", why), zap.Duration("for", r.calm), zap.Stringer("after", r.pos), zap.Error(err))
	w.leave(why)
}

// unsupported ends the backfill for good.
func (w *window) unsupported(why string, err error) {
	if w.left {
		return
	}
	w.r.noRanges = true
	w.r.log.Warn("the Events API does not answer by time as reading with several readers needs; reading with one, so more slowly",
		zap.String("reason", why), zap.Stringer("after", w.r.pos), zap.Error(err))
	w.leave(why)
}

// report tells the hook how things stand.
func (w *window) report() {
	info := BackfillInfo{
		Active: !w.closed, Joined: w.joined, Split: w.split, Missed: w.missed, Dropped: w.dropped,
	}
	w.joined, w.split, w.missed, w.dropped = 0, 0, 0, 0
	if info.Active {
		info.Readers, info.Allowed, info.Segments, info.Buffered = w.inFlight, int(w.allowed), len(w.segs), w.buffered
	}
	call(w.r.hooks.OnBackfill, info)
}
