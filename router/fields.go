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

// fields is what headers and keys are made of, read in one pass over the event's data. An absent field, a null, an empty
// string and one that is neither string nor number are "".
type fields struct {
	createdAt    string
	organization string // id of the organization that the event is about
	directory    string // data.directory_id
	user         string // data.user_id
	object       string // data.id
}

// readFields looks only at the members of data itself, and of its sso and user, the first of a name counting.
func readFields(e *source.Event) fields {
	var f fields
	var kind, own, sso, user string
	data := gjson.Parse(view(e.Data))
	if data.IsObject() {
		data.ForEach(func(name, value gjson.Result) bool {
			switch name.Str {
			case "organization_id":
				first(&own, value)
			case "object":
				first(&kind, value)
			case "id":
				first(&f.object, value)
			case "directory_id":
				first(&f.directory, value)
			case "user_id":
				first(&f.user, value)
			case "sso":
				first(&sso, member(value, "organization_id"))
			case "user":
				first(&user, member(value, "organization_id"))
			}
			return own == "" || f.object == "" // with both, nothing that follows counts
		})
	}
	switch {
	case own != "":
		f.organization = own
	case kind == "organization" && f.object != "":
		f.organization = f.object
	case sso != "":
		f.organization = sso
	default:
		f.organization = user
	}
	f.createdAt = formatTime(e.CreatedAt)
	return f
}

// Organization returns the id of the organization that e is about, as the header organization-id has it; "" where e names none. The
// string aliases e.Data.
func Organization(e *source.Event) string {
	f := readFields(e)
	return f.organization
}

func member(value gjson.Result, name string) gjson.Result {
	if !value.IsObject() {
		return gjson.Result{}
	}
	return value.Get(name)
}

func first(to *string, value gjson.Result) {
	if *to != "" {
		return
	}
	switch value.Type {
	case gjson.String:
		*to = value.Str
	case gjson.Number:
		*to = value.Raw
	default: // nothing that names something
	}
}

// key returns the value at the route's path, or else what keeps one organization in one order. It is never empty for an event
// with an id, and may lie in the event's bytes.
func (f *fields) key(e *source.Event, path keyPath) []byte {
	key := cmp.Or(path.value(e), f.organization, f.directory, f.user, f.object, e.ID)
	return unsafe.Slice(unsafe.StringData(key), len(key)) //nolint:gosec // a message's key is never written
}

// keyPath is a path into the event object, names and array indexes with dots between. The zero keyPath finds nothing.
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

// value returns the string at the path, or the JSON text of another value; "" where there is none or null.
func (p keyPath) value(e *source.Event) string {
	var found gjson.Result
	switch {
	case p.inData != "":
		found = gjson.Get(view(e.Data), p.inData)
	case p.path != "":
		found = gjson.Get(view(e.Raw), p.path)
	}
	switch found.Type {
	case gjson.Null:
		return ""
	case gjson.String:
		return found.Str
	default:
		return found.Raw
	}
}

// illegalKeyPath says why path is no path, or returns "". Only plain names and indexes are allowed: what more the JSON library
// understands (wildcards, queries, modifiers) would become part of relay's configuration.
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

// formatTime writes RFC 3339 in UTC with milliseconds, as WorkOS does, and with more digits only where t has them. The zero
// time is "".
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

// view is b as a string without a copy. The bytes of an event are never written, so what is cut out of it stays as it is.
func view(b []byte) string {
	return unsafe.String(unsafe.SliceData(b), len(b)) //nolint:gosec // see above
}
