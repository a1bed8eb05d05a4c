package checkpoint

import "time"

const (
	// MaxRecent is how many events Recent holds.
	MaxRecent = 16
	// Disorder is how far the order of the source may differ from the times of its events.
	Disorder = time.Minute
)

// Recent distinguishes events that were committed from others by id and time. Its zero value knows
// nothing.
type Recent struct {
	Events []Position // the last events that were committed, in that order; at most MaxRecent
	From   time.Time  // every event that was committed and is not among Events was created before it
}

// IsZero reports whether r knows nothing.
func (r Recent) IsZero() bool { return len(r.Events) == 0 && r.From.IsZero() }

// Seeded returns r, or, if r knows nothing, what is known of a lane whose position is p.
func (r Recent) Seeded(p Position) Recent { return r.from(p, p) }

// from is Seeded for a lane that goes on from p to the next position: if the time of p is not
// known, that of next is used.
func (r Recent) from(p, next Position) Recent {
	switch {
	case !r.IsZero() || p.IsZero():
		return r
	case p.EventID == "":
		return Recent{From: p.CreatedAt}
	case p.CreatedAt.IsZero():
		if next.CreatedAt.IsZero() {
			return Recent{Events: []Position{p}, From: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)} // nothing can be told from its time
		}
		return Recent{Events: []Position{p}, From: next.CreatedAt.Add(Disorder)}
	default:
		return Recent{Events: []Position{p}, From: p.CreatedAt.Add(Disorder)}
	}
}

// with returns r with further events.
func (r Recent) with(events []Position) Recent {
	kept := make([]Position, 0, MaxRecent)
	forget := max(0, len(r.Events)+len(events)-MaxRecent)
	for _, part := range [][]Position{r.Events, events} {
		for _, p := range part {
			if forget == 0 {
				kept = append(kept, p)
				continue
			}
			forget--
			if after := p.CreatedAt.Add(1); after.After(r.From) {
				r.From = after
			}
		}
	}
	r.Events = kept
	return r
}
