package source

import (
	"slices"

	"workos-relay/checkpoint"
)

// partSize is the size, in bytes of events, of which a large page is yielded in parts: a caller
// that holds some of them does not hold all of it.
const partSize = 1 << 20

// yieldPage yields a page, in parts if it is large, and reports whether the loop over the pages
// goes on. A part has a copy of its bytes, unless it is one large event, and so does not keep the
// page in memory. p.Events is not to be used
// afterwards.
func yieldPage(p Page, yield func(Page, error) bool) bool {
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
			Events: events[:n:n], Size: size, Now: p.Now, RequestID: p.RequestID, Late: p.Late, Joining: p.Joining,
			Refused: p.RefusedAt(events[n-1].Position()),
		}
		if size <= partSize {
			part.Events = ownBytes(part.Events)
		} else { // a single event
			part.Events = slices.Clone(part.Events)
		}
		clear(events[:n]) // from here on only the part refers to its bytes
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

// RefusedAt returns what Checkpoint.Refused must say once the page is committed up to one of its
// events, whose position is at.
func (p *Page) RefusedAt(at checkpoint.Position) []checkpoint.Refused {
	published := func(r checkpoint.Refused) bool { return r.Type == p.Late || slices.Contains(p.Joining, r.Type) }
	if !slices.ContainsFunc(p.Refused, published) {
		return p.Refused
	}
	out := slices.Clone(p.Refused)
	for i := range out {
		if published(out[i]) {
			out[i].Position = at
		}
	}
	return out
}
