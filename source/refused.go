package source

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/retry"
)

// typeSet is what to ask for: the types wanted less those that the API refuses.
type typeSet struct {
	wanted  []string
	lookup  map[string]struct{} // wanted
	active  []string            // wanted less refused
	refused map[string]refusal
}

type refusal struct {
	until time.Time // when the API is asked about it again
	times int       // how often in a row it was refused
}

func newTypeSet(wanted []string) *typeSet {
	t := &typeSet{wanted: wanted, active: wanted, lookup: make(map[string]struct{}, len(wanted)), refused: map[string]refusal{}}
	for _, name := range wanted {
		t.lookup[name] = struct{}{}
	}
	return t
}

// wants reports whether name is among the types wanted, refused or not.
func (t *typeSet) wants(name string) bool {
	_, ok := t.lookup[name]
	return ok
}

// reduced reports whether the API refuses some of the types wanted.
func (t *typeSet) reduced() bool { return len(t.active) < len(t.wanted) }

// onTrial returns those of asked that count as refused.
func (t *typeSet) onTrial(asked []string) []string {
	var out []string
	for _, name := range asked {
		if _, ok := t.refused[name]; ok {
			out = append(out, name)
		}
	}
	return out
}

// due returns one of the refused types whose time has come; empty if there is none.
func (t *typeSet) due(now time.Time) string {
	if len(t.refused) == 0 {
		return ""
	}
	for _, name := range t.wanted {
		if r, ok := t.refused[name]; ok && !now.Before(r.until) {
			return name
		}
	}
	return ""
}

// exclude leaves name out for a minute, and each time that it is refused again for twice as long,
// up to an hour. It reports whether it was left out before.
func (t *typeSet) exclude(name string, now time.Time) (r refusal, again bool) {
	r, again = t.refused[name]
	r.times++
	r.until = now.Add(retry.Backoff{First: refusedFirst, Most: refusedMost}.Full(r.times))
	t.refused[name] = r
	t.update()
	return r, again
}

// askSoon sets when the API is asked about name again.
func (t *typeSet) askSoon(name string, at time.Time) {
	if r, ok := t.refused[name]; ok {
		r.until = at
		t.refused[name] = r
	}
}

// restore takes name back in if it was refused.
func (t *typeSet) restore(name string) (refusal, bool) {
	r, ok := t.refused[name]
	if ok {
		delete(t.refused, name)
		t.update()
	}
	return r, ok
}

func (t *typeSet) update() {
	t.active = slices.DeleteFunc(slices.Clone(t.wanted), func(name string) bool {
		_, ok := t.refused[name]
		return ok
	})
}

// mayRefuseTypes reports whether err is an answer of the API that may be about the event types
// asked for: 400 or 422, in any wording. A body that is not WorkOS's must name events.
func mayRefuseTypes(err error) bool {
	var e *APIError
	if !errors.As(err, &e) || e.Status != http.StatusBadRequest && e.Status != http.StatusUnprocessableEntity {
		return false
	}
	return !e.Foreign || e.blamesEvents()
}

// blamesEvents reports whether err is an answer that is about the event types asked for, going by
// its words.
func blamesEvents(err error) bool {
	var e *APIError
	return mayRefuseTypes(err) && errors.As(err, &e) && e.blamesEvents()
}

// leaveOut leaves out the types that the API was found to refuse while it accepts others. It
// returns errAskAgain.
func (r *reader) leaveOut(found *typeSearch) error {
	now := time.Now()
	r.noRanges = false // a range may have been refused for the sake of these types
	for _, name := range found.refused {
		ref, again := r.types.exclude(name, now)
		if r.leftOut(name) == nil {
			r.recordLeftOut(checkpoint.Refused{Type: name, Since: r.clock().UTC(), Position: r.pos})
		}
		r.joining = without(r.joining, []string{name})
		call(r.hooks.OnTypeRefused, TypeRefusedInfo{Type: name, Until: ref.until, Again: again})
		if !again {
			r.log.Warn("the Events API refuses an event type; going on without it, and asking again after a minute, then at growing intervals up to an hour",
				zap.String("type", name), zap.Time("until", ref.until), zap.Error(found.errs[name]))
		}
	}
	return errAskAgain
}
