package pipeline

import (
	"slices"

	"workos-relay/checkpoint"
	"workos-relay/internal/batch"
	"workos-relay/source"
)

// course is how a batch changes the checkpoint. Events of the source move the position. Late events
// are before the position: they move the position of their type in Checkpoint.Refused.
type course struct {
	refused []checkpoint.Refused // the types left out while these events were read; nil if not known
	late    string               // the type of late events; empty for others
	joining []string             // types of refused of which these are all events
}

// courseOf returns the course of gathered pages, which share one.
func courseOf(pages []source.Page) course {
	if len(pages) == 0 {
		return course{}
	}
	return course{refused: pages[0].Refused, late: pages[0].Late, joining: pages[0].Joining}
}

// together reports whether the events of q may be committed together with those of p, which precede
// them. If a type was left out for q and not for p, that must be recorded with the position between
// them.
func together(p, q *source.Page) bool {
	return p.Late == q.Late && slices.Equal(p.Joining, q.Joining) && sameRefused(p.Refused, q.Refused)
}

// from returns cp as the commit of b leaves it, apart from the position.
func (c course) from(cp checkpoint.Checkpoint, b *batch.Batch) checkpoint.Checkpoint {
	if c.refused == nil {
		return cp
	}
	page := source.Page{Refused: c.refused, Late: c.late, Joining: c.joining}
	cp.Refused = page.RefusedAt(b.Next()) // a batch may end within the page
	return cp
}

// to returns the position after the commit of b.
func (c course) to(cp checkpoint.Checkpoint, b *batch.Batch) checkpoint.Position {
	if c.late != "" {
		return cp.Position
	}
	return b.Next()
}

// progress returns how many of events are committed, if before was the checkpoint and now is. found
// is false if now is neither before nor the position of one of the events.
func (c course) progress(events []source.Event, before, now checkpoint.Checkpoint) (int, bool) {
	if c.late == "" {
		return progress(events, before.Position, now.Position)
	}
	if !now.Equal(before.Position) {
		return 0, false
	}
	i, was := c.index(now), c.index(before)
	if i < 0 {
		return 0, was < 0
	}
	at := now.Refused[i].Position
	if was < 0 {
		return progress(events, at, at)
	}
	return progress(events, before.Refused[was].Position, at)
}

// progress returns how many of events lie between the positions prev and now. It is not found if
// now is neither prev nor the position of one of the events.
func progress(events []source.Event, prev, now checkpoint.Position) (int, bool) {
	for i := len(events) - 1; i >= 0; i-- {
		if now.EventID == events[i].ID {
			return i + 1, true
		}
	}
	return 0, now.Equal(prev)
}

// index returns the index of the type of late events in cp.Refused, or -1.
func (c course) index(cp checkpoint.Checkpoint) int {
	if c.late == "" {
		return -1
	}
	return slices.IndexFunc(cp.Refused, func(r checkpoint.Refused) bool { return r.Type == c.late })
}

func sameRefused(a, b []checkpoint.Refused) bool {
	return slices.EqualFunc(a, b, checkpoint.Refused.Equal)
}
