package source

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"
)

// refusedFor is how long a type that the API refused is left out.
const refusedFor = 24 * time.Hour

// typeSet is what to ask for: the types wanted less those that the API refuses.
type typeSet struct {
	wanted  []string
	lookup  map[string]struct{} // wanted
	active  []string            // wanted less refused
	refused map[string]refusal
}

type refusal struct {
	since, until time.Time
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

// ask returns the types for a request at now. It adds one of the refused types whose time has come, so that the answer is about
// that one alone.
func (t *typeSet) ask(now time.Time) []string {
	if len(t.refused) == 0 {
		return t.active
	}
	for _, name := range t.wanted {
		if r, ok := t.refused[name]; ok && !now.Before(r.until) {
			return append(slices.Clone(t.active), name)
		}
	}
	return t.active
}

// refuse leaves name out until a day from now, and reports whether it was left out before.
func (t *typeSet) refuse(name string, now time.Time) (r refusal, again bool) {
	r, again = t.refused[name]
	if !again {
		r.since = now
	}
	r.until = now.Add(refusedFor)
	t.refused[name] = r
	t.update()
	return r, again
}

// restore takes name back in where it was refused.
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

// mayRefuseTypes reports whether err is an answer of the API that may be about the event types asked for: 400 or 422, in any
// wording. A body that is not WorkOS's must name events.
func mayRefuseTypes(err error) bool {
	var e *APIError
	if !errors.As(err, &e) || e.Status != http.StatusBadRequest && e.Status != http.StatusUnprocessableEntity {
		return false
	}
	return !e.Foreign || e.blamesEvents()
}

// blamesEvents reports whether err is an answer that is about the event types asked for, going by its words.
func blamesEvents(err error) bool {
	var e *APIError
	return mayRefuseTypes(err) && errors.As(err, &e) && e.blamesEvents()
}

// leaveOut leaves out the types that the API was found to refuse while it accepts others. It returns errAskAgain.
func (r *reader) leaveOut(found *typeSearch) error {
	now := time.Now()
	r.noRanges = false // a range may have been refused for the sake of these types
	for _, name := range found.refused {
		ref, again := r.types.refuse(name, now)
		call(r.hooks.OnTypeRefused, TypeRefusedInfo{Type: name, Until: ref.until, Again: again})
		if !again {
			r.log.Warn("the Events API refuses an event type; going on without it and asking again tomorrow",
				zap.String("type", name), zap.Time("until", ref.until), zap.Error(found.errs[name]))
		}
	}
	return errAskAgain
}

// restored takes note that the API accepted a request with these types.
func (r *reader) restored(accepted []string) {
	if len(r.types.refused) == 0 {
		return
	}
	for _, name := range accepted {
		if ref, ok := r.types.restore(name); ok {
			call(r.hooks.OnTypeRestored, TypeRestoredInfo{Type: name, Since: ref.since})
			r.log.Warn("the Events API accepts an event type again; what came of it in the meantime was not read, `relay replay` fetches it",
				zap.String("type", name), zap.Time("since", ref.since))
		}
	}
}
