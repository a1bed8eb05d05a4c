package pipeline

import (
	"errors"
	"slices"

	"workos-relay/checkpoint"
	"workos-relay/source"
)

// course is how a batch changes the checkpoint. The events of the source move the position. Late ones stand before it: they move
// the place up to which events of their type are published, in Checkpoint.Refused.
type course struct {
	refused []checkpoint.Refused // the types left out while these events were read; nil if not known
	late    string               // the type of late events; empty for others
	joining []string             // types of refused of which these are all events
}

// courseOf returns the course of pages that were gathered, which have one in common.
func courseOf(pages []source.Page) course {
	if len(pages) == 0 {
		return course{}
	}
	return course{refused: pages[0].Refused, late: pages[0].Late, joining: pages[0].Joining}
}

// together reports whether the events of q may be committed with those of p, which come before them. A type that was left out for q
// and not for p must be recorded with the position in between.
func together(p, q *source.Page) bool {
	return p.Late == q.Late && slices.Equal(p.Joining, q.Joining) && sameRefused(p.Refused, q.Refused)
}

// from is cp as the commit of b is to leave it, apart from the position.
func (c course) from(cp checkpoint.Checkpoint, b *batch) checkpoint.Checkpoint {
	if c.refused == nil {
		return cp
	}
	page := source.Page{Refused: c.refused, Late: c.late, Joining: c.joining}
	cp.Refused = page.RefusedAt(b.next()) // a batch may end within the page
	return cp
}

// to is the position after the commit of b.
func (c course) to(cp checkpoint.Checkpoint, b *batch) checkpoint.Position {
	if c.late != "" {
		return cp.Position
	}
	return b.next()
}

// progress returns how many of events are committed, if before was in effect and now is. It is not found if now is neither before
// nor the place of one of the events.
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

// index is where the type of late events is in cp.Refused; negative if it is not there.
func (c course) index(cp checkpoint.Checkpoint) int {
	if c.late == "" {
		return -1
	}
	return slices.IndexFunc(cp.Refused, func(r checkpoint.Refused) bool { return r.Type == c.late })
}

// stop is err, told of late events if these are.
func (c course) stop(err error) error {
	var stop *StopError
	if c.late != "" && errors.As(err, &stop) {
		stop.Late = true
	}
	return err
}
