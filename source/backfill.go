package source

import (
	"context"
	"fmt"
	"time"
)

// minSegmentPages is the least that a segment is made for: each costs about two thirds of a page
// more than it yields.
const minSegmentPages = 4

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
//   - A segment begins with the first event that a request by time brings, its seam; from there on
//     it follows the cursor.
//   - It ends when it meets the id of the next seam. So the segments joined are what one cursor
//     would have given, with any meaning of the bounds of a range.
//   - Only the first segment, the head, is yielded. It may always fetch another page, the others as
//     long as there is memory: a head that is slow or long makes them wait, and never the other way
//     round.
//   - A segment that turns out dense is divided by a seam ahead of its reader. A seam that the
//     segment before does not meet is given up, and read across.
//   - The page which came by time could leave out an event that stands behind younger ones. So its
//     seam lies maxStepBack after the time asked for, more than the list steps back; if events are
//     too dense for that, at first, and whenever they stand in another order than their times, all
//     of the page is compared with what the segment before reads from the seam on.
//
// Nothing that contradicts this is judged here: the segments are dropped, and the plain cursor goes
// on from the position.
func (r *reader) backfill(ctx context.Context, yield func(Page, error) bool) (more bool, err error) {
	w := newWindow(ctx, r)
	defer w.close()
	defer r.client.polls().backfill()()
	for ctx.Err() == nil {
		w.receive()
		if w.over() {
			return true, w.retreat.err
		}
		page, ok := w.chain.nextPage()
		now := time.Now()
		w.schedule(now)
		if !ok {
			w.wait(now)
			continue
		}
		out, err := r.deliver(page)
		if err != nil {
			w.retreat.contradiction("the events to be yielded failed a check", err)
			continue
		}
		w.report()
		if !yieldPage(out, yield) {
			return false, nil
		}
		w.chain.room.yields(0)
	}
	return true, nil // the plain cursor returns ctx's error
}

// deliver passes a page of the head through the checks of the plain cursor, and moves the position
// to its end.
func (r *reader) deliver(p segmentPage) (Page, error) {
	a := answer{ListEventsResponse: ListEventsResponse{Data: p.events}, RequestID: p.requestID, held: p.size}
	// Whole pages were checked as they came: this one may be what is left of one.
	if err := r.checkOrder(a, false); err != nil {
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
	return r.joined(Page{Events: r.expected(p.events), Now: r.clock().UTC(), Size: p.size, RequestID: p.requestID, Sent: p.sent, Took: p.took, Request: p.request}), nil
}
