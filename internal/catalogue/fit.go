package catalogue

import (
	"fmt"
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
	return t.Schema.mismatch(gjson.Parse(data), "data")
}

func (s *Schema) mismatch(value gjson.Result, path string) string {
	if len(s.AnyOf) > 0 {
		return s.mismatchOfAll(value, path)
	}
	if len(s.Types) > 0 && !s.allows(value) {
		return fmt.Sprintf("%s is %s", path, kindOf(value))
	}
	if s.Const != nil && value.Value() != s.Const || s.Enum != nil && !slices.Contains(s.Enum, value.Value()) {
		return path + " has a value that is not listed"
	}
	switch {
	case value.IsObject() && s.Properties != nil:
		return s.mismatchOfObject(value, path)
	case value.IsArray() && s.Items != nil:
		why := ""
		n := 0
		value.ForEach(func(_, item gjson.Result) bool {
			why = s.Items.mismatch(item, path+"."+strconv.Itoa(n))
			n++
			return why == ""
		})
		return why
	}
	return ""
}

// mismatchOfAll returns "" if one of the forms fits, and else what the last one says.
func (s *Schema) mismatchOfAll(value gjson.Result, path string) (why string) {
	for i := range s.AnyOf {
		form := &s.AnyOf[i]
		if len(form.Types) > 0 && !form.allows(value) {
			continue
		}
		if why = form.mismatch(value, path); why == "" {
			return ""
		}
	}
	if why == "" {
		why = fmt.Sprintf("%s is %s", path, kindOf(value))
	}
	return why
}

func (s *Schema) mismatchOfObject(value gjson.Result, path string) (why string) {
	found := 0
	value.ForEach(func(name, member gjson.Result) bool {
		p, ok := s.Property(name.String())
		if !ok {
			return true
		}
		if s.IsRequired(name.String()) {
			found++
		}
		why = p.mismatch(member, path+"."+name.String())
		return why == ""
	})
	if why != "" || found >= len(s.Required) {
		return why
	}
	for _, name := range s.Required {
		if !value.Get(gjson.Escape(name)).Exists() {
			return fmt.Sprintf("%s.%s is missing", path, name)
		}
	}
	return ""
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
