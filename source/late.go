package source

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
)

// A type that the API refuses is left out of the requests; reader.left records it with the place up
// to which its events were read. Once the API accepts it again, it comes back in two steps, so that
// it keeps its order and the position does not go back:
//
//   - Events that stand before the position are read apart, for this type alone, and yielded as
//     late pages. The last of them are found by reading all types up to the event of the position,
//     so that neither the disorder of the list nor events of one instant matter.
//   - Then the type joins the requests, and its events come in their place. Until the tip is
//     reached it still counts as refused: a reader that starts over in between goes on from what is
//     recorded.

// refusedWait bounds how long a refused type is left out before the API is asked about it again.
const (
	refusedFirst = time.Minute
	refusedMost  = time.Hour
)

// joinFor is how long a type joins at least: longer than the API holds new events back.
const joinFor = 20 * time.Second

// lateWork reads the events of one type that stand before the position.
type lateWork struct {
	name      string
	after     checkpoint.Position // events up to here were yielded
	by        time.Time           // range_start of the next request, if there is no event to go on after
	noIDs     bool                // the API does not go on after the event of `after`
	begun     bool                // a request was answered
	start     time.Time           // of `after` when the work began
	typeAlone bool                // the type is asked for alone
	read      *recentIDs          // what has come since the work, or its last part, began

	end *lateEnd // set for the last part, in which the position does not move
}

// lateEnd reads all types up to the event of the position.
type lateEnd struct {
	from   time.Time
	after  string    // the last event of the page before
	at     time.Time // of that event
	met    bool      // the event of lateWork.after has come, or lies before from
	listed bool      // the event of the position is in the list by time
}

// leftOut returns what is recorded of a type, nil if it is not refused.
func (r *reader) leftOut(name string) *checkpoint.Refused {
	i := slices.IndexFunc(r.left, func(l checkpoint.Refused) bool { return l.Type == name })
	if i < 0 {
		return nil
	}
	return &r.left[i]
}

// recordLeftOut records that events of a type are read up to a place only. The slice before is kept
// as it is: pages refer to it.
func (r *reader) recordLeftOut(l checkpoint.Refused) {
	next := slices.DeleteFunc(slices.Clone(r.left), func(have checkpoint.Refused) bool { return have.Type == l.Type })
	i, _ := slices.BinarySearchFunc(next, l, func(a, b checkpoint.Refused) int {
		if a.Type < b.Type {
			return -1
		} else if a.Type > b.Type {
			return 1
		}
		return 0
	})
	r.left = slices.Insert(next, i, l)
}

// unleave records that a type is read as all others are.
func (r *reader) unleave(name string) {
	r.left = slices.DeleteFunc(slices.Clone(r.left), func(l checkpoint.Refused) bool { return l.Type == name })
}

// resumeRefused takes over the types that a checkpoint says are left out. The API is asked about
// them soon.
func (r *reader) resumeRefused(refused []checkpoint.Refused) {
	now := time.Now()
	r.left = []checkpoint.Refused{} // none, which is more than not known
	for _, l := range refused {
		if !r.types.wants(l.Type) {
			continue
		}
		r.recordLeftOut(l)
		r.types.exclude(l.Type, now)
		r.types.askSoon(l.Type, now)
		call(r.hooks.OnTypeRefused, TypeRefusedInfo{Type: l.Type, Until: now, Again: true})
	}
}

// tryRefused asks about one of the refused types whose time has come.
func (r *reader) tryRefused(ctx context.Context) error {
	name := r.types.due(time.Now())
	if name == "" || r.anchor != nil { // by time it cannot be told which of its events are late
		return nil
	}
	opts := r.query([]string{name})
	opts.Limit = 1
	a, err := r.send(ctx, opts)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		r.setClock(a)
	case errors.Is(err, ErrTooLarge):
	case isClientFault(err):
		ref, _ := r.types.exclude(name, time.Now())
		call(r.hooks.OnTypeRefused, TypeRefusedInfo{Type: name, Until: ref.until, Again: true})
		return nil
	default: // the next poll finds out
		r.types.askSoon(name, time.Now().Add(refusedFirst))
		return nil
	}
	l := r.leftOut(name)
	if l == nil {
		r.types.restore(name)
		return nil
	}
	r.work = &lateWork{name: name, after: l.Position, by: l.Position.CreatedAt, start: l.Position.CreatedAt, read: newRecentIDs(recentCount)}
	if l.Position.Equal(r.pos) {
		r.join()
	}
	return nil
}

// join lets the type at work take part in the requests from the position on.
func (r *reader) join() {
	name := r.work.name
	r.work = nil
	r.types.restore(name)
	r.joining = append(r.joining, name)
	if r.joinUntil == nil {
		r.joinUntil = map[string]time.Time{}
	}
	r.joinUntil[name] = r.clock().Add(time.Second) // which the Date header does not tell apart
	if r.pos.EventID == "" {
		r.from = r.pos.CreatedAt // the stretches without events were read without it
	}
	r.atTip, r.silentUntil = false, time.Now().Add(silenceCheck)
}

// joined finishes a page of all types: it says which of its events are late, and what is left out
// once it is committed.
func (r *reader) joined(p Page) Page {
	p.Joining = slices.Clone(r.joining)
	for _, name := range slices.Clone(r.joining) {
		l := *r.leftOut(name)
		for i := range p.Events {
			if e := &p.Events[i]; e.Event == name && e.CreatedAt.Before(r.joinUntil[name]) {
				e.LateSince = l.Since
			}
		}
		if l.Position = r.pos; p.Tip && r.clock().Sub(r.joinUntil[name]) >= joinFor {
			r.unleave(name)
			r.joining = without(r.joining, []string{name})
			delete(r.joinUntil, name)
			call(r.hooks.OnTypeRestored, TypeRestoredInfo{Type: name, Since: l.Since})
			r.log.Warn("the Events API accepts an event type again; what came meanwhile is published, marked relay-late",
				zap.String("type", name), zap.Time("since", l.Since))
			continue
		}
		r.recordLeftOut(l)
	}
	p.Refused = r.left
	return p
}

// lateFirst reports whether late events are to be read now rather than the next page of all types:
// in turn, and while nothing else is due.
func (r *reader) lateFirst() bool {
	if r.work == nil {
		return false
	}
	if r.work.end != nil {
		return true
	}
	r.lateTurn = !r.lateTurn
	return r.lateTurn || r.atTip && time.Since(r.polled) < r.interval()
}

// late reads on in what is late. The page may be empty.
func (r *reader) late(ctx context.Context) (Page, error) {
	w := r.work
	if w.after.Equal(r.pos) { // all types have stood still since
		r.join()
		return Page{}, nil
	}
	if w.end == nil {
		return r.lateBulk(ctx)
	}
	return r.lateEnd(ctx)
}

// lateBulk reads up to a while before the position: all types at first, since `after` may be an
// event of any of them and of the same instant as some that were read, then the type alone.
func (r *reader) lateBulk(ctx context.Context) (Page, error) {
	w := r.work
	opts := r.query([]string{w.name})
	byID := w.after.EventID != "" && !w.noIDs
	switch {
	case byID:
		if opts.After = w.after.EventID; !w.typeAlone {
			opts.Events = append(slices.Clone(r.types.active), w.name)
		}
	case !w.by.IsZero() && !r.plain.noStart:
		opts.RangeStart = r.plain.time(w.by.Add(-r.plain.margin()))
		if end := w.by.Add(maxRange); end.Before(r.clock().Add(-heldBack)) && !r.plain.noEnd {
			opts.RangeEnd = r.plain.time(end)
		}
	}
	a, err := r.askLate(ctx, opts)
	switch {
	case err != nil || r.work == nil:
		return Page{}, err
	case byID && !w.begun && len(a.Data) > 0:
		if w.noIDs, err = r.listBegins(ctx, opts.Events, a.Data[0].ID); err != nil || w.noIDs {
			return Page{}, err // it may have started over
		}
	}
	if r.lateRepeats(a, opts, w.after.CreatedAt) {
		return Page{}, nil
	}
	w.begun = true
	cut := r.pos.CreatedAt.Add(-maxStepBack)
	var late []Event
	whole := true
	for i := range a.Data {
		e := &a.Data[i]
		if whole = e.CreatedAt.Before(cut); !whole {
			break
		}
		if e.Event == w.name && !r.trail.has(e.ID) && (byID || !e.CreatedAt.Before(w.after.CreatedAt)) {
			late = append(late, *e)
		}
		w.after, w.by, w.noIDs = e.Position(), e.CreatedAt, false
		w.typeAlone = w.typeAlone || !byID || e.CreatedAt.After(w.start.Add(maxStepBack))
	}
	switch {
	case !whole, !a.full(opts) && opts.RangeEnd == "":
		return r.latePage(a, late), r.beginEnd(ctx)
	case len(a.Data) == 0:
		w.by = w.by.Add(maxRange)
	}
	return r.latePage(a, late), nil
}

// lateRepeats gives the work on late events up for a while if the API sends again what was read,
// and nothing new: a full page of it, or one that begins long before the event of the time at,
// after which it was asked for. The events stay recorded as left out.
func (r *reader) lateRepeats(a answer, opts ListEventsOpts, at time.Time) bool {
	w := r.work
	goesOn := !a.full(opts)
	for i := range a.Data {
		goesOn = w.read.add(a.Data[i].ID) || goesOn
	}
	if goesOn && (opts.After == "" || len(a.Data) == 0 || at.Sub(a.Data[0].CreatedAt) <= maxStepBack) {
		return false
	}
	ref, _ := r.types.exclude(w.name, time.Now())
	r.work = nil
	err := &ResponseError{Reason: errNothingNew.Error(), RequestID: a.RequestID, Err: errNothingNew}
	call(r.hooks.OnRetry, RetryInfo{Reason: RetryResponse, Attempt: 1, Err: err})
	r.log.Warn("events that the Events API refused before cannot be read yet; they stay recorded as left out, and are asked for again later",
		zap.String("type", w.name), zap.Time("until", ref.until), zap.Error(err))
	return true
}

// listBegins reports whether the list of these types begins with an event.
func (r *reader) listBegins(ctx context.Context, types []string, id string) (bool, error) {
	opts := r.query(types)
	opts.Limit = 1
	a, err := r.askLate(ctx, opts)
	return len(a.Data) > 0 && a.Data[0].ID == id, err
}

// beginEnd begins the last part of what is late.
func (r *reader) beginEnd(ctx context.Context) error {
	end := &lateEnd{from: r.pos.CreatedAt.Add(-2 * maxStepBack)}
	end.met = r.work.after.EventID == "" || r.work.after.CreatedAt.Before(end.from)
	var err error
	if end.listed, err = r.isListed(ctx, r.pos); ctx.Err() != nil {
		return ctx.Err()
	} else if err != nil {
		r.log.Debug("the Events API does not list the position by time", zap.Error(err))
	}
	r.work.end, r.work.read = end, newRecentIDs(recentCount)
	return nil
}

// lateEnd reads all types from shortly before the position up to its event, and yields those of the
// one type.
func (r *reader) lateEnd(ctx context.Context) (Page, error) {
	w, end := r.work, r.work.end
	opts := r.query(append(slices.Clone(r.types.active), w.name))
	if opts.After = end.after; end.after == "" && !r.plain.noStart {
		opts.RangeStart = r.plain.time(end.from.Add(-r.plain.margin()))
	}
	a, err := r.askLate(ctx, opts)
	if err != nil || r.work == nil || r.lateRepeats(a, opts, end.at) {
		return Page{}, err
	}
	var late []Event
	over := !a.full(opts)
	for i := range a.Data {
		e := &a.Data[i]
		if over = over || e.ID == r.pos.EventID; e.ID == r.pos.EventID {
			break
		}
		switch {
		case e.CreatedAt.After(r.pos.CreatedAt.Add(maxStepBack)) && !end.listed:
			over = true
		case !end.listed && e.CreatedAt.After(r.pos.CreatedAt), e.Event != w.name, e.ID == w.after.EventID, r.trail.has(e.ID):
		case !end.met && !e.CreatedAt.After(w.after.CreatedAt), e.CreatedAt.Before(end.from):
			// Before what was read already, as far as it is known.
		default:
			late = append(late, *e)
		}
		end.met = end.met || e.ID == w.after.EventID
		end.after, end.at = e.ID, e.CreatedAt
	}
	if n := len(late); n > 0 {
		w.after, end.met = late[n-1].Position(), true
	}
	p := r.latePage(a, late)
	if over {
		r.recordLeftOut(checkpoint.Refused{Type: w.name, Since: r.leftOut(w.name).Since, Position: r.pos})
		p.Refused = r.left
		r.join()
	}
	return p, nil
}

// latePage is a page of events that do not move the position.
func (r *reader) latePage(a answer, late []Event) Page {
	l := *r.leftOut(r.work.name)
	for i := range late {
		late[i].LateSince = l.Since
	}
	r.passed(late)
	l.Position = r.work.after
	r.recordLeftOut(l)
	return Page{
		Events: late, Late: l.Type, Refused: r.left, Now: r.clock().UTC(), Size: a.held, RequestID: a.RequestID, Sent: a.sent, Took: a.took,
		Request: a.request,
	}
}

// askLate is ask for late events. If the API refuses the type again, there is no work any more.
func (r *reader) askLate(ctx context.Context, opts ListEventsOpts) (answer, error) {
	for {
		a, err := r.send(ctx, opts)
		switch {
		case err == nil:
			r.setClock(a)
			r.recovered()
			return a, nil
		case ctx.Err() != nil:
			return answer{}, ctx.Err()
		case errors.Is(err, ErrTooLarge):
			if err := r.shrinkLimit(opts, err); err != nil {
				return answer{}, err
			}
			return answer{}, errAskAgain
		case isClientFault(err) && opts.After != "" && r.work.end == nil:
			r.work.noIDs = true // its cursor may be for other types only
			return answer{}, errAskAgain
		case isClientFault(err):
			r.types.exclude(r.work.name, time.Now())
			r.work = nil
			return answer{}, nil
		}
		if err := r.backOff(ctx, err); err != nil {
			return answer{}, err
		}
	}
}
