package app

import (
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"workos-relay/internal/admin"
	"workos-relay/source"
)

// maxUnasked bounds how many event types are remembered that relay does not ask for.
const maxUnasked = 50

// unrequestedTypes remembers the event types that signed webhooks name and that no lane asks for:
// types that WorkOS has added, or that a filter excludes. It is safe for concurrent use.
type unrequestedTypes struct {
	asked func() []string // every event type that some lane asks for; called for each webhook
	count func(eventType string)
	log   *zap.Logger
	now   func() time.Time

	mu    sync.Mutex // guards types
	types map[string]*admin.UnaskedType
}

// note records the type of an accepted webhook. It warns when a type appears for the first time.
func (u *unrequestedTypes) note(eventType string) {
	name, ok := typeToAdd(eventType)
	if !ok || slices.Contains(u.asked(), eventType) {
		return
	}
	u.count(eventType)
	if !u.add(eventType, name) {
		return
	}
	u.log.Warn("WorkOS sends webhooks of an event type that relay does not ask for; its events are not published",
		zap.String("type", eventType), zap.String("to_add_it", "source.events: [..., "+name+"]"))
}

// add counts a webhook and reports whether its type is new.
func (u *unrequestedTypes) add(eventType, name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.types == nil {
		u.types = map[string]*admin.UnaskedType{}
	}
	t, known := u.types[eventType]
	if !known {
		if len(u.types) >= maxUnasked {
			return false
		}
		t = &admin.UnaskedType{Type: eventType, Add: name, First: u.now().UTC()}
		u.types[eventType] = t
	}
	t.Webhooks++
	t.Last = u.now().UTC()
	return !known
}

// list returns the types that no lane asks for now, sorted by name.
func (u *unrequestedTypes) list() []admin.UnaskedType {
	asked := u.asked()
	u.mu.Lock()
	defer u.mu.Unlock()
	out := []admin.UnaskedType{}
	for name, t := range u.types {
		if !slices.Contains(asked, name) { // a reload may have added it
			out = append(out, *t)
		}
	}
	slices.SortFunc(out, func(a, b admin.UnaskedType) int { return strings.Compare(a.Type, b.Type) })
	return out
}

// typeToAdd returns the entry for source.events that adds an event type: its name, with a + before
// it if the catalogue does not know it. ok is false if eventType is not a valid name.
func typeToAdd(eventType string) (name string, ok bool) {
	if _, known := source.Lookup(eventType); known {
		return eventType, true
	}
	_, err := source.Expand([]string{"+" + eventType})
	return "+" + eventType, err == nil
}
