package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"workos-relay/internal/contain"
	"workos-relay/internal/retry"
	"workos-relay/sink"
	"workos-relay/source/lists"
	"workos-relay/state"
)

// candidate is an object of which both sides are different, as far as is known.
type candidate struct {
	entity, key string
	known       []byte // see lists.Ref
	listed      bool   // by the list that was read first

	here, there view      // WorkOS and the bus, as they were looked at last
	before      [2]uint64 // the sums of both at the look before
	unknown     bool      // nobody can tell whether WorkOS has it
	settled     bool      // both sides agree, or it is not to be compared any more
	vanished    bool      // the list that is read again does not have it any more
	out         bool      // a route may drop what tells of it, or another organization has it
}

// view is one side of a candidate.
type view struct {
	exists bool
	bad    bool // the value on the bus is not an object with this key
	print  fingerprint
}

// Kinds of differences.
const (
	isMissing = "missing"
	isStale   = "stale"
	isGhost   = "ghost"
)

// stateFault is a difference that lasts.
type stateFault struct {
	*candidate
	kind, differs string
}

const (
	// mostLooks is how often a candidate is looked at until it counts as unsettled.
	mostLooks = 4
	// lookers is how many objects are asked for at once.
	lookers = 8
	// eventMargin is how much later than the change of an object the event may be that tells of it.
	eventMargin = time.Minute
)

// settle looks at candidates until it is known which of the differences last, and returns these.
func (r *stateRun) settle(ctx context.Context, open []*candidate) ([]stateFault, error) {
	var faults []stateFault
	var at, done time.Time // when WorkOS was looked at last, by its clock and by that of this machine
	for look := 0; len(open) > 0 && look < mostLooks; look++ {
		if look > 0 {
			r.progress("looking at differences again", float64(look)/mostLooks, len(open))
			if err := retry.Sleep(ctx, time.Until(done.Add(r.check.Wait))); err != nil {
				return nil, err
			}
		}
		if err := r.lookHere(ctx, open); err != nil {
			return nil, err
		}
		done = time.Now()
		now, carried, known, err := r.check.Source.Carried(ctx)
		if err != nil {
			return nil, fmt.Errorf("find out how far the lane has come: %w", err)
		}
		if err := r.lookThere(ctx, open); err != nil {
			return nil, err
		}
		// An event of what was seen at the last look has happened before half of the wait was over.
		passed := !known || look > 0 && !carried.Before(at.Add(r.check.Wait/2))
		left := open[:0]
		for _, c := range open {
			kind, differs := r.judge(c)
			sums := [2]uint64{c.here.sum(r), c.there.sum(r)}
			same := look > 0 && sums == c.before
			c.before = sums
			switch {
			case (c.vanished || c.unknown && !c.listed) && !c.there.exists:
				c.settled = true
			case c.unknown, c.vanished:
				r.report.of(c.entity).Undecided++
			case c.out:
				c.settled = true
				r.report.of(c.entity).LeftOut++
			case kind == "":
				c.settled = true
			case same && (passed || c.isOld(carried)):
				faults = append(faults, stateFault{c, kind, differs})
			default:
				left = append(left, c)
			}
		}
		open, at = left, now
	}
	for _, c := range open {
		r.report.of(c.entity).Unsettled++
	}
	slices.SortStableFunc(faults, func(a, b stateFault) int {
		if n := slices.Index(r.check.Entities, a.entity) - slices.Index(r.check.Entities, b.entity); n != 0 {
			return n
		}
		return strings.Compare(a.key, b.key)
	})
	return faults, nil
}

// isOld reports whether the lane has carried the event of the version that WorkOS has, although
// later ones may be on their way.
func (c *candidate) isOld(carried time.Time) bool {
	return c.here.exists && c.here.print.updated != 0 && time.Unix(0, c.here.print.updated).Add(eventMargin).Before(carried)
}

func (v *view) sum(r *stateRun) uint64 {
	switch {
	case !v.exists:
		return 0
	case v.bad:
		return 1
	}
	return v.print.sum(r.seed) | 2
}

// judge says what the difference of a candidate is; kind is empty if there is none.
func (r *stateRun) judge(c *candidate) (kind, differs string) {
	switch {
	case !c.here.exists && !c.there.exists:
		return "", ""
	case !c.here.exists:
		return isGhost, ""
	case !c.there.exists:
		return isMissing, ""
	case c.there.bad:
		return isStale, hasAnother
	}
	if differs = r.printer.differ(r.shapes[c.entity], &c.here.print, &c.there.print); differs != "" {
		return isStale, differs
	}
	return "", ""
}

// lookHere looks at the candidates in WorkOS: by id, or in the lists of an entity that cannot be
// asked for by id.
func (r *stateRun) lookHere(ctx context.Context, open []*candidate) error {
	again := map[string]map[string]*candidate{}
	list := func(c *candidate) {
		if again[c.entity] == nil {
			again[c.entity] = map[string]*candidate{}
		}
		again[c.entity][c.key] = c
	}
	var ask []*candidate
	for _, c := range open {
		c.unknown, c.vanished, c.out = false, false, false
		e, _ := lists.Lookup(c.entity)
		switch {
		case c.key == "": // nothing has it
			c.here = view{}
		case e.One == "" && !isMembership(c.entity):
			list(c)
		default:
			ask = append(ask, c)
		}
	}
	objects := make([]lists.Object, len(ask))
	errs := make([]error, len(ask))
	if err := r.get(ctx, ask, objects, errs); err != nil {
		return err
	}
	for i, c := range ask {
		if c.listed && errors.Is(errs[i], lists.ErrNoGet) {
			list(c)
			continue
		}
		if err := r.take(c, &objects[i], errs[i]); err != nil {
			return err
		}
		objects[i] = lists.Object{}
	}
	for entity, of := range again {
		if err := r.listAgain(ctx, entity, of); err != nil {
			return err
		}
	}
	return nil
}

// get asks for objects, several at a time. It returns an error of the first for which nothing can
// be said of any object, such as one that WorkOS refuses: only after minutes it is known to last.
func (r *stateRun) get(ctx context.Context, ask []*candidate, objects []lists.Object, errs []error) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	next := make(chan int)
	var busy sync.WaitGroup
	for range min(lookers, len(ask)) {
		busy.Add(1)
		go func() {
			defer busy.Done()
			for i := range next {
				if ctx.Err() != nil {
					continue
				}
				c := ask[i]
				errs[i] = contain.Do(func() (err error) {
					objects[i], err = r.check.Source.Get(ctx, lists.Ref{Entity: c.entity, Key: c.key, Known: c.known})
					return err
				})
				if err := errs[i]; err != nil && !errors.Is(err, lists.ErrNotFound) && !errors.Is(err, lists.ErrNoGet) {
					end(fmt.Errorf("look for %s %s: %w", c.entity, c.key, err))
				}
			}
		}()
	}
	for i := range ask {
		if i%progressEvery == 0 {
			r.progress("looking at differences by id", float64(i)/float64(len(ask)), i)
		}
		next <- i // a request ends when ctx does
	}
	close(next)
	busy.Wait()
	return context.Cause(ctx)
}

// take notes what WorkOS says of a candidate.
func (r *stateRun) take(c *candidate, found *lists.Object, err error) error {
	switch {
	case errors.Is(err, lists.ErrNotFound):
		c.here = view{}
		return nil
	case errors.Is(err, lists.ErrNoGet):
		c.unknown = true
		return nil
	case err != nil:
		return fmt.Errorf("look for %s %s: %w", c.entity, c.key, err)
	case r.check.Organization != "" && !c.listed: // it may be that of another organization
		c.out = true
		return nil
	}
	c.here = view{exists: true}
	if found.Data == nil {
		return nil
	}
	got, ok := r.shapes[c.entity].entity.Of(found.Data)
	if !ok || got.Key != c.key {
		c.unknown = true // WorkOS answers with another object
		return nil
	}
	shown, out := r.check.Form.Object(c.entity, found.Data)
	if c.out = out; out {
		return nil
	}
	c.here.print, _ = r.printer.of(shown)
	return nil
}

// listAgain looks at candidates in the lists of their entity. Of one that the lists do not have
// nobody can tell whether it is gone.
func (r *stateRun) listAgain(ctx context.Context, entity string, of map[string]*candidate) error {
	for _, c := range of {
		c.here, c.vanished = view{}, true
	}
	err := r.check.Source.List(ctx, entity, func(change *state.Change) error {
		c := of[change.Key]
		if c == nil {
			return nil
		}
		c.vanished = false
		return r.take(c, &lists.Object{Data: change.Object}, nil)
	})
	if err != nil {
		return fmt.Errorf("read the lists of %s again: %w", entity, err)
	}
	return nil
}

// lookThere looks at the candidates on the bus.
func (r *stateRun) lookThere(ctx context.Context, open []*candidate) error {
	of := map[string]map[string]*candidate{}
	for _, c := range open {
		if c.there = (view{}); of[c.entity] == nil {
			of[c.entity] = map[string]*candidate{}
		}
		of[c.entity][c.key] = c
	}
	for entity, wanted := range of {
		err := r.check.Stored.Each(ctx, entity, func(key string, value []byte, _ []sink.Header) error {
			if c := wanted[key]; c != nil {
				o := r.storedObject(entity, key, value)
				c.there = view{exists: true, bad: o.bad, print: o.print}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("read the state of %s again: %w", entity, err)
		}
	}
	return nil
}
