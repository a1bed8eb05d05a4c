package catalogue

import (
	"slices"
	"strconv"

	"github.com/tidwall/gjson"
)

// Mismatch says how the payload of an event of a type differs from its published schema: at which
// place, and what is there. It returns "" if the payload fits, and for a type that has no schema.
// Fields that the schema does not know are no mismatch.
func Mismatch(eventType, data string) string {
	t, ok := Lookup(eventType)
	if !ok || t.Schema == nil {
		return ""
	}
	if m := t.Schema.mismatch(gjson.Parse(data)); m != nil {
		return "data" + m.path + m.what
	}
	return ""
}

// mismatch is a difference: below the value that was compared, at path, there is what. An event
// that fits costs no memory, since a path is put together only on the way out of a difference.
type mismatch struct {
	path string // ".name" or ".0" for each step, from the outside in
	what string // " is a string"
}

// below returns m as seen from the value that has its value under name.
func (m *mismatch) below(name string) *mismatch {
	m.path = "." + name + m.path
	return m
}

func (s *Schema) mismatch(value gjson.Result) *mismatch {
	if len(s.AnyOf) > 0 {
		return s.mismatchOfAll(value)
	}
	if len(s.Types) > 0 && !s.allows(value) {
		return &mismatch{what: " is " + kindOf(value)}
	}
	if s.Const != nil && !equal(value, s.Const) || s.Enum != nil && !slices.ContainsFunc(s.Enum, func(v any) bool { return equal(value, v) }) {
		return &mismatch{what: " has a value that is not listed"}
	}
	switch {
	case value.IsObject() && s.Properties != nil:
		return s.mismatchOfObject(value)
	case value.IsArray() && s.Items != nil:
		var m *mismatch
		n := 0
		value.ForEach(func(_, item gjson.Result) bool {
			if m = s.Items.mismatch(item); m != nil {
				m = m.below(strconv.Itoa(n))
			}
			n++
			return m == nil
		})
		return m
	}
	return nil
}

// equal reports whether value is want. It compares strings, of which most lists are made, without
// making one an interface.
func equal(value gjson.Result, want any) bool {
	if s, ok := want.(string); ok {
		return value.Type == gjson.String && value.Str == s
	}
	return value.Value() == want
}

// mismatchOfAll returns nil if one of the forms fits, and else what the last one says.
func (s *Schema) mismatchOfAll(value gjson.Result) (m *mismatch) {
	for i := range s.AnyOf {
		form := &s.AnyOf[i]
		if len(form.Types) > 0 && !form.allows(value) {
			continue
		}
		if m = form.mismatch(value); m == nil {
			return nil
		}
	}
	if m == nil {
		m = &mismatch{what: " is " + kindOf(value)}
	}
	return m
}

func (s *Schema) mismatchOfObject(value gjson.Result) (m *mismatch) {
	found := 0
	value.ForEach(func(name, member gjson.Result) bool {
		p, ok := s.Property(name.Str)
		if !ok {
			return true
		}
		if s.IsRequired(name.Str) {
			found++
		}
		if m = p.mismatch(member); m != nil {
			m = m.below(name.Str)
		}
		return m == nil
	})
	if m != nil || found >= len(s.Required) {
		return m
	}
	for _, name := range s.Required {
		if !value.Get(gjson.Escape(name)).Exists() {
			return &mismatch{path: "." + name, what: " is missing"}
		}
	}
	return nil
}

// allows reports whether the type of value is among those of the schema.
func (s *Schema) allows(value gjson.Result) bool {
	return slices.ContainsFunc(s.Types, func(t string) bool {
		switch t {
		case "string":
			return value.Type == gjson.String
		case "integer", "number":
			return value.Type == gjson.Number
		case "boolean":
			return value.IsBool()
		case "array":
			return value.IsArray()
		case "object":
			return value.IsObject()
		default:
			return value.Type == gjson.Null
		}
	})
}

func kindOf(value gjson.Result) string {
	switch {
	case value.IsObject():
		return "an object"
	case value.IsArray():
		return "a list"
	case value.IsBool():
		return "a boolean"
	case value.Type == gjson.Number:
		return "a number"
	case value.Type == gjson.String:
		return "a string"
	default:
		return "null"
	}
}
