package source

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
)

const (
	// surelyKept is how long the API keeps events at the very least, with any retention.
	surelyKept = 24 * time.Hour
	// documentedRetention is the shortest retention that any page of WorkOS's documentation has
	// named. Newer pages say 90 days.
	documentedRetention = 30 * 24 * time.Hour
	// maxLostInRow is how often in a row the cursor may be lost before a good page comes.
	maxLostInRow = 3
)

// Resume is Pages for a lane that goes on from a checkpoint. It reads from its Position, and uses
// the rest if the API does not know that position any more: it then goes on by time, from the
// instant up to which everything is known to be read, and leaves out what was already relayed. It
// returns ErrCursorLost only if events may be missing, or if it cannot tell which ones were
// relayed.
func (s *Stream) Resume(ctx context.Context, from checkpoint.Checkpoint) iter.Seq2[Page, error] {
	return func(yield func(Page, error) bool) {
		r, err := newReader(s, from)
		if err != nil {
			yield(Page{}, err)
			return
		}
		for {
			page, err := r.next(ctx)
			if err != nil {
				yield(Page{}, err)
				return
			}
			if !yieldPage(page, yield) {
				return
			}
			if r.isFarBehind() {
				if more, err := r.backfill(ctx, yield); err != nil {
					yield(Page{}, err)
					return
				} else if !more {
					return
				}
			}
		}
	}
}

// anchor is where a reader goes on by time because the API does not know its position any more. It
// lasts until an event follows.
type anchor struct {
	lost  *CursorLostError // why
	after string           // an event that was left out and whose page was read to its end; empty for none
	// old is an instant: every event created before it was relayed or is younger than the ones that
	// are remembered.
	old time.Time
	// exact: the event of the position is still listed, so that everything up to it was relayed;
	// met once it has come.
	exact, met bool
	read       *recentIDs // what has come since
}

// reanchor goes on by time after the cursor was lost, if no event can be missing. Otherwise it
// returns the error to end with.
func (r *reader) reanchor(ctx context.Context, lost *CursorLostError) error {
	r.lostInRow++
	p := r.pos
	noRecord := r.seenTo.IsZero() && r.tip == ""
	if lost.decided || noRecord || p.EventID == "" || p.CreatedAt.IsZero() || r.lostInRow > maxLostInRow {
		return lost
	}
	if lost.first != "" {
		if over, err := r.startsOver(ctx, lost.first); err != nil && ctx.Err() != nil {
			return ctx.Err()
		} else if !over {
			return lost // perhaps the list is in such disorder
		}
	}
	old := later(r.seenTo, p.CreatedAt.Add(-maxStepBack))
	next := &anchor{lost: lost, old: old, read: newRecentIDs(recentCount)}
	from := earlier(old, r.trail.from)
	listed, err := r.isListed(ctx, p)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil: // it does not answer by time
		return lost
	case listed:
		next.exact, from = true, p.CreatedAt.Add(-maxStepBack)
	default:
		kept, err := r.isKept(ctx, old)
		if err != nil {
			return err
		}
		if !kept {
			return mayBeMissing(lost, old)
		}
	}
	r.anchor, r.from, r.atTip, r.full = next, from, false, false
	if time.Since(r.lostTold) > time.Hour || r.lostTold.IsZero() {
		r.lostTold = time.Now()
		r.log.Warn("the Events API no longer goes on after an event; nothing is missing, going on by time",
			zap.Stringer("event", p), zap.Time("from", from), zap.String("reason", lost.Reason), zap.NamedError("answer", lost.Err))
	}
	return nil
}

// mayBeMissing is lost with the reason why nobody but an operator can decide.
func mayBeMissing(lost *CursorLostError, old time.Time) error {
	return lost.because(fmt.Sprintf("everything up to %s was relayed, but events that came later may have expired meanwhile", old.UTC().Format(time.RFC3339)))
}

// because is e, decided for a further reason.
func (e *CursorLostError) because(reason string) error {
	decided := *e
	decided.decided = true
	decided.Reason += "; " + reason
	return &decided
}

// checkStart looks at the first answer of a stream. It refuses to go on if events that follow the
// position may have expired while nobody read them: if there is no event to go on after, and if the
// API may have ignored the one that there is.
func (r *reader) checkStart(ctx context.Context, a answer, opts ListEventsOpts) error {
	switch {
	case r.pos.EventID == "" && r.seenTo.After(r.pos.CreatedAt):
		kept, err := r.isKept(ctx, r.seenTo)
		if err != nil || kept {
			return err
		}
		return mayBeMissing(&CursorLostError{Position: r.pos, Reason: "no event has come since that it could go on after"}, r.seenTo)
	case opts.After == "" || opts.After != r.pos.EventID || r.pos.CreatedAt.IsZero() || len(a.Data) == 0:
		return nil
	}
	first := &a.Data[0]
	if first.CreatedAt.Before(r.pos.CreatedAt) || r.seen.has(first.ID) {
		return nil // checkCursor judges it
	}
	if listed, err := r.isListed(ctx, r.pos); err != nil || listed {
		return ctx.Err()
	}
	if over, err := r.startsOver(ctx, first.ID); err != nil || !over {
		return ctx.Err()
	}
	return &CursorLostError{
		Position: r.pos, RequestID: a.RequestID,
		Reason: "it lists that event no longer, and what it sent is its list from the start",
	}
}

// isListed reports whether the event of p is in the list by time. It returns an error if the API
// does not answer by time.
func (r *reader) isListed(ctx context.Context, p checkpoint.Position) (bool, error) {
	const most = 100 // pages of one instant
	opts := r.byTime(p.CreatedAt.Add(-rangeMargin), p.CreatedAt.Add(2*rangeMargin))
	for range most {
		a, err := r.fetchAside(ctx, opts)
		if err != nil {
			return false, err
		}
		for i := range a.Data {
			switch e := &a.Data[i]; {
			case e.ID == p.EventID:
				return true, nil
			case opts.After == "" && e.CreatedAt.Sub(p.CreatedAt).Abs() > 4*r.plain.margin():
				return false, errNoRanges
			case e.CreatedAt.After(p.CreatedAt.Add(maxStepBack)):
				return false, nil
			}
		}
		if !a.full(opts) {
			return false, nil
		}
		opts.After, opts.RangeStart, opts.RangeEnd = a.Data[len(a.Data)-1].ID, "", ""
	}
	return false, nil
}

// errNoRanges: the API does not answer by time.
var errNoRanges = errors.New("the Events API does not answer by time")

// isKept reports whether the API surely still keeps every event that was created at old or later.
// Time is the API's, except that a process that has just seen the tip trusts its own clocks
// more than a Date header.
func (r *reader) isKept(ctx context.Context, old time.Time) (bool, error) {
	age := r.clock().Sub(old)
	switch {
	case !r.sawTip():
		return false, nil
	case !r.proven.IsZero() && elapsed(r.proven) <= surelyKept:
		return true, nil
	case age <= documentedRetention-24*time.Hour && (r.pos.EventID == "" || r.clock().Sub(r.pos.CreatedAt) >= documentedRetention):
		return true, nil // and if the position has an event, its age is why it is gone
	}
	// An event that is older still, of any type, shows that the API keeps the younger ones
	// too.
	opts := r.byTime(old.Add(-maxRange), old)
	opts.Limit = 1
	wide := opts
	wide.OrganizationId = ""
	if all, err := Expand([]string{"*"}); err == nil {
		wide.Events = all
	}
	for _, opts := range []ListEventsOpts{wide, opts} {
		a, err := r.fetchAside(ctx, opts)
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case err == nil && len(a.Data) > 0 && a.Data[0].CreatedAt.Before(old) && a.Data[0].CreatedAt.After(old.Add(-maxRange-time.Second)):
			return true, nil
		}
	}
	return false, nil
}

// sawTip reports whether the API has ever said that nothing follows the position. Otherwise
// the cause that made its event disappear may have removed later ones too.
func (r *reader) sawTip() bool {
	if r.pos.EventID == "" || r.tip == r.pos.EventID {
		return true
	}
	// seenTo lies heldBack before the time when nothing followed what had been read. If the event
	// was older than maxStepBack then, it was among that.
	return !r.seenTo.IsZero() && !r.seenTo.Add(heldBack-maxStepBack).Before(r.pos.CreatedAt)
}

// startsOver reports whether a page that began with the event first was the list from its start, as
// if no cursor had been sent.
func (r *reader) startsOver(ctx context.Context, first string) (bool, error) {
	opts := r.query(r.types.active)
	opts.Limit = 1
	a, err := r.fetchAside(ctx, opts)
	return err == nil && len(a.Data) > 0 && a.Data[0].ID == first, err
}

// elapsed is how much time has passed since t, by the monotonic clock or the wall clock, whichever
// says more: one of them stands still while the machine sleeps, the other can be set.
func elapsed(t time.Time) time.Duration {
	return max(time.Since(t), time.Now().Round(0).Sub(t.Round(0)))
}

// byTime is a query for what was created from one instant to another, both included.
func (r *reader) byTime(from, to time.Time) ListEventsOpts {
	opts := r.query(r.types.active)
	opts.RangeStart, opts.RangeEnd = r.plain.time(from), r.plain.endTime(to)
	return opts
}

// fetchAside gets the answer to a query apart from the next page. It waits out what may pass, and
// asks for fewer events if an answer is too large. Any other refusal is an error.
func (r *reader) fetchAside(ctx context.Context, opts ListEventsOpts) (answer, error) {
	for {
		a, err := r.send(ctx, opts)
		switch {
		case err == nil:
			r.setClock(a)
			return a, nil
		case ctx.Err() != nil:
			return answer{}, ctx.Err()
		case errors.Is(err, ErrTooLarge) && opts.Limit > 1:
			opts.Limit /= 2
			continue
		case isClientFault(err) && !isForeign(err):
			return answer{}, err
		}
		if err := r.backOff(ctx, err); err != nil {
			return answer{}, err
		}
	}
}

// leaveOutOld removes from a page that came by time what was already relayed. It returns the error
// to end with if it cannot tell, and errNothingNew if a full page brought nothing that was not in
// the pages before it.
func (r *reader) leaveOutOld(a *answer, opts ListEventsOpts) error {
	n, events, goesOn := r.anchor, a.Data, !a.full(opts)
	a.Data = nil
	for i := range events {
		e := &events[i]
		goesOn = n.read.add(e.ID) || goesOn
		if opts.After == "" && e.CreatedAt.Before(r.from.Add(-time.Second)) {
			return n.lost.because("it does not answer by time")
		}
		isNew, err := r.isNew(e)
		if err != nil {
			return err
		}
		if isNew {
			a.Data = append(a.Data, *e)
		}
		if e.ID != r.pos.EventID {
			n.after = e.ID
		}
	}
	switch {
	case len(a.Data) > 0:
		r.anchor = nil
	case !goesOn:
		return errNothingNew
	}
	return nil
}

// isNew reports whether an event that came by time was not relayed yet.
func (r *reader) isNew(e *Event) (bool, error) {
	n := r.anchor
	switch {
	case e.ID == r.pos.EventID:
		n.met = true
		return false, nil
	case n.exact && !n.met:
		if e.CreatedAt.After(r.pos.CreatedAt.Add(maxStepBack)) {
			return false, n.lost.because("it lists that event no longer")
		}
		return false, nil
	case r.trail.has(e.ID):
		return false, nil
	case n.exact, !e.CreatedAt.Before(r.trail.from):
		return true, nil
	case e.CreatedAt.Before(n.old):
		return false, nil
	}
	return false, n.lost.because(fmt.Sprintf("whether %s was already relayed cannot be told", e.Position()))
}

// trail remembers the last events that were passed, with their times.
type trail struct {
	from  time.Time // every event that was passed and is not remembered was created before it
	known map[string]struct{}
	ring  []checkpoint.Position
	next  int
}

func newTrail(n int, seed checkpoint.Recent) *trail {
	t := &trail{from: seed.From, known: make(map[string]struct{}, n), ring: make([]checkpoint.Position, n)}
	for _, p := range seed.Events {
		t.add(p)
	}
	return t
}

func (t *trail) has(id string) bool {
	_, ok := t.known[id]
	return ok
}

func (t *trail) add(p checkpoint.Position) {
	if t.has(p.EventID) {
		return
	}
	if old := t.ring[t.next]; old.EventID != "" {
		delete(t.known, old.EventID)
		t.from = later(t.from, old.CreatedAt.Add(1))
	}
	t.ring[t.next] = p
	t.next = (t.next + 1) % len(t.ring)
	t.known[p.EventID] = struct{}{}
}

// passed takes note of events that are yielded.
func (r *reader) passed(events []Event) {
	for i := range events {
		r.trail.add(events[i].Position())
	}
}

// sawAll takes note that everything that was created before an instant of the API's clock was read.
func (r *reader) sawAll(until time.Time) {
	r.seenTo, r.proven = later(r.seenTo, until), time.Now()
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
