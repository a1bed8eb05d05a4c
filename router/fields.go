package router

import (
	"cmp"
	"fmt"
	"strings"
	"time"
	"unsafe"

	"github.com/tidwall/gjson"

	"workos-relay/source"
)

// fields holds what headers and keys are made of. An absent field, a null, an empty string and a
// value that is neither string nor number are "".
type fields struct {
	createdAt    string
	organization string // id of the organization that the event names
	entity       string // what the event is about, if it names no organization
	actor        string // id of who or what caused the event, if that is asked for
}

// keyPlace is a path into data. It counts only if the value at ifPath is ifValue; ifPath is empty
// if there is no condition.
type keyPlace struct{ path, ifPath, ifValue string }

// typePlaces are the places of one event type; the first that holds a value counts.
type typePlaces struct{ organization, entity []keyPlace }

// otherPlaces are those of a type that the catalogue does not know, or whose payload has none of
// the fields that its schema promises.
var otherPlaces = typePlaces{
	organization: []keyPlace{
		{path: "id", ifPath: "object", ifValue: "organization"},
		{path: "sso.organization_id"},
		{path: "user.organization_id"},
		{path: "owner.organization_id"},
		{path: "owner.id", ifPath: "owner.type", ifValue: "organization"},
		{path: "connection.organization_id"},
		{path: "organization_domain.organization_id"},
		{path: "group.organization_id"},
		{path: "claimed_by.organization_id"},
		{path: "to_organization_id"},
	},
	entity: []keyPlace{
		{path: "directory_id"}, {path: "user_id"}, {path: "flag_id"}, {path: "agent_registration_id"}, {path: "group_id"},
		{path: "connection.id"}, {path: "connection_id"}, {path: "id"}, {path: "slug"}, {path: "key_id"},
	},
}

// readFields reads the places of the event's type. If the payload has none of them, it reads those
// of unknown types. An organization_id that the schema does not know yet counts too.
func readFields(e *source.Event) fields {
	data := view(e.Data)
	f := fields{createdAt: formatTime(e.CreatedAt)}
	known, isKnown := places[e.Event]
	if f.organization = firstOf(data, known.organization); f.organization == "" {
		f.organization = text(gjson.Get(data, "organization_id"))
	}
	if f.organization == "" && isKnown {
		f.entity = firstOf(data, known.entity)
	}
	if f.organization == "" && f.entity == "" {
		f.organization = firstOf(data, otherPlaces.organization)
	}
	if f.organization == "" && f.entity == "" {
		f.entity = firstOf(data, otherPlaces.entity)
	}
	return f
}

// firstOf returns the value at the first place that has one.
func firstOf(data string, list []keyPlace) string {
	for _, p := range list {
		if p.ifPath != "" && text(gjson.Get(data, p.ifPath)) != p.ifValue {
			continue
		}
		if v := text(gjson.Get(data, p.path)); v != "" {
			return v
		}
	}
	return ""
}

// subject returns the id of the object that the event is about, data.id, or "" if there is none.
func subject(e *source.Event) string { return text(gjson.Get(view(e.Data), "id")) }

// text returns a string or a number as text, and "" for every other value.
func text(value gjson.Result) string {
	switch value.Type {
	case gjson.String:
		return value.Str
	case gjson.Number:
		return value.Raw
	default:
		return ""
	}
}

// Organization returns the id of the organization that e names, as the header organization-id has
// it, or "" if it names none. The string aliases e.Data.
func Organization(e *source.Event) string {
	f := readFields(e)
	return f.organization
}

// key returns the value at the route's path, or else what keeps one organization, or one entity, in
// one order. It is never empty for an event with an id, and may alias the event's bytes.
func (f *fields) key(e *source.Event, path keyPath) []byte {
	key := cmp.Or(path.value(e), f.organization, f.entity, e.ID)
	return unsafe.Slice(unsafe.StringData(key), len(key)) //nolint:gosec // a message's key is never written
}

// keyPath is a path into the event object, names and array indexes with dots between. The zero
// keyPath finds nothing.
type keyPath struct {
	path   string
	inData string // what follows "data.", which saves going through the whole event
}

func newKeyPath(path string) keyPath {
	inData, ok := strings.CutPrefix(path, "data.")
	if !ok {
		inData = ""
	}
	return keyPath{path: path, inData: inData}
}

// find returns what is at the path. It is of type gjson.Null if nothing is.
func (p keyPath) find(e *source.Event) gjson.Result {
	switch {
	case p.inData != "":
		return gjson.Get(view(e.Data), p.inData)
	case p.path != "":
		return gjson.Get(view(e.Raw), p.path)
	default:
		return gjson.Result{}
	}
}

// value returns the string at the path, or the JSON text of another value. It returns "" for null
// and if there is no value.
func (p keyPath) value(e *source.Event) string {
	found := p.find(e)
	switch found.Type {
	case gjson.Null:
		return ""
	case gjson.String:
		return found.Str
	default:
		return found.Raw
	}
}

// illegalKeyPath says why path is not a path, or returns "". Only plain names and indexes are
// allowed: what more the JSON library understands (wildcards, queries, modifiers) would become part
// of relay's configuration.
func illegalKeyPath(path string) string {
	if path == "" {
		return ""
	}
	if len(path) > 256 {
		return "it is longer than 256 characters"
	}
	for name := range strings.SplitSeq(path, ".") {
		if name == "" {
			return "a name between dots is empty"
		}
		for _, c := range name {
			if !isWord(c) {
				return fmt.Sprintf("%q is not allowed, only names of letters, digits, _ and -, with single dots between", c)
			}
		}
	}
	return ""
}

// formatTime writes RFC 3339 in UTC with milliseconds, as WorkOS does, and with more digits only if
// t has them. The zero time is "".
func formatTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	if t.Nanosecond()%1e6 != 0 {
		return t.UTC().Format(time.RFC3339Nano)
	}
	var buffer [32]byte
	b := t.UTC().AppendFormat(buffer[:0], time.RFC3339) // which is written far faster than a layout of one's own
	ms := t.Nanosecond() / 1e6
	b = append(b[:len(b)-1], '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z') //nolint:gosec // digits
	return string(b)
}

// view is b as a string without a copy. The bytes of an event are never written, so what is cut out
// of it stays as it is.
func view(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b)) //nolint:gosec // see above
}
