package source

import (
	"slices"

	"workos-relay/checkpoint"
)

// partSize is the size, in bytes of events, of which a large page is yielded in parts: whoever holds some of them does not hold all of it.
const partSize = 1 << 20

// yieldPage yields a page, in parts if it is large, and reports whether the loop over the pages goes on. end is the position after the
// page. A part has a copy of its bytes, unless it is one large event, and so does not keep the page in memory. p.Events is not to be used
// afterwards.
func yieldPage(p Page, end checkpoint.Position, yield func(Page, error) bool) bool {
	events := p.Events
	if rawSize(events) <= partSize {
		return yield(p, nil)
	}
	for len(events) > 0 {
		n, size := 0, 0
		for n < len(events) && (n == 0 || size+len(events[n].Raw) <= partSize) {
			size += len(events[n].Raw)
			n++
		}
		if n == len(events) {
			break
		}
		part := Page{
			Events: events[:n:n], Size: size, Now: p.Now, RequestID: p.RequestID, Late: p.Late,
			Refused: refusedAt(p.Refused, p.Late, end, events[n-1].Position()),
		}
		if size <= partSize {
			part.Events = ownBytes(part.Events)
		} else { // a single event
			part.Events = slices.Clone(part.Events)
		}
		clear(events[:n]) // whoever has the part has its bytes alone
		if events = events[n:]; !yield(part, nil) {
			return false
		}
	}
	p.Events, p.Size = events, rawSize(events)
	if p.Size <= partSize {
		p.Events = ownBytes(events)
	}
	return yield(p, nil)
}

// refusedAt returns what Page.Refused is for a part of a page that ends with the event at: types of which the events were read up to the
// end of the page, and the type of late events, are published up to that event only.
func refusedAt(refused []checkpoint.Refused, late string, end, at checkpoint.Position) []checkpoint.Refused {
	out := slices.Clone(refused)
	for i := range out {
		if late == "" && out[i].Position.Equal(end) || late != "" && out[i].Type == late {
			out[i].Position = at
		}
	}
	return out
}
