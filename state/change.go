package state

import (
	"strings"
	"time"
	"unsafe"

	"github.com/tidwall/gjson"

	"workos-relay/source"
)

// Change sets or removes one object.
type Change struct {
	Entity string
	// Key is what the object is known by among those of its entity: the value of the entity's path,
	// or the values of its two paths with a slash between them. In such a pair, a slash and a
	// percent sign inside of a value are percent-encoded.
	Key string
	// Object is the JSON of the object as WorkOS sent it. It is nil if the object was removed.
	Object []byte
	// UpdatedAt is when the object was updated last. It is zero if the object does not tell.
	UpdatedAt time.Time
}

// Removed reports whether the change removes the object.
func (c *Change) Removed() bool { return c.Object == nil }

// effect is what events of one type do.
type effect struct {
	entity  *Entity
	within  string // path of the object in data; empty if it is data
	removes bool
}

// effects are those of each event type that changes an object.
var effects = buildEffects()

func buildEffects() map[string]effect {
	out := map[string]effect{}
	for i := range entities {
		e := &entities[i]
		for _, t := range e.Sets {
			out[t] = effect{entity: e, within: e.within[t]}
		}
		for _, t := range e.Removes {
			out[t] = effect{entity: e, within: e.within[t], removes: true}
		}
	}
	return out
}

// EntityOf returns the name of the entity that events of a type change, and whether they remove
// objects. ok is false for a type that changes none.
func EntityOf(eventType string) (entity string, removes, ok bool) {
	f, ok := effects[eventType]
	if !ok {
		return "", false, false
	}
	return f.entity.Name, f.removes, true
}

// ChangeOf returns the change that e makes. It returns false if e changes nothing, and also if its
// data is not an object with the key that its entity needs. What it returns may alias e.
func ChangeOf(e *source.Event) (Change, bool) {
	f, ok := effects[e.Event]
	if !ok {
		return Change{}, false
	}
	object := []byte(e.Data)
	if f.within != "" {
		inner := gjson.Get(view(object), f.within)
		object = unsafe.Slice(unsafe.StringData(inner.Raw), len(inner.Raw)) //nolint:gosec // an event is never written
	}
	c, ok := f.entity.Of(object)
	if f.removes {
		c.Object = nil
	}
	return c, ok
}

// Of returns the change that sets object, the JSON of an object of this entity, as a list or the
// data of an event has it. It returns false if the JSON is not an object with the key that the
// entity needs. What it returns aliases object.
func (e *Entity) Of(object []byte) (Change, bool) {
	text := view(object)
	if !strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{") {
		return Change{}, false
	}
	c := Change{Entity: e.Name, Object: object}
	for i, path := range e.Key {
		value := gjson.Get(text, path)
		if value.Type != gjson.String || value.Str == "" {
			return Change{}, false
		}
		switch {
		case len(e.Key) == 1:
			c.Key = value.Str
		case i == 0:
			c.Key = part(value.Str)
		default:
			c.Key += "/" + part(value.Str)
		}
	}
	if e.UpdatedAt {
		if at, err := time.Parse(time.RFC3339, gjson.Get(text, "updated_at").Str); err == nil {
			c.UpdatedAt = at
		}
	}
	return c, true
}

// escapes keep two values of a key apart.
var escapes = strings.NewReplacer("%", "%25", "/", "%2F")

// part returns a value as it stands in a key of two.
func part(value string) string { return escapes.Replace(value) }

func view(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b)) //nolint:gosec // an event is never written
}
