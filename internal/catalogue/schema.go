package catalogue

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Schema is the part of JSON Schema that the payloads use. Every other keyword is an error when it
// is read.
type Schema struct {
	Types      []string   // string, integer, number, boolean, array, object, null; empty for anything
	Format     string     // date-time or empty
	Const      any        // nil if there is none
	Enum       []any      // nil if there is none
	Properties []Property // in the order of the table; nil if there are none
	Required   []string   // of the properties
	Items      *Schema    // of an array
	Values     *Schema    // of the members of an object whose names are not known; nil if there are no such members
	AnyOf      []Schema

	text json.RawMessage // as it was read
}

// Property is a field of an object.
type Property struct {
	Name   string
	Schema Schema
}

// Null reports whether null is a value of the schema.
func (s *Schema) Null() bool {
	return slices.Contains(s.Types, "null") || slices.ContainsFunc(s.AnyOf, func(v Schema) bool { return v.Null() })
}

// IsRequired reports whether a property is always there.
func (s *Schema) IsRequired(name string) bool { return slices.Contains(s.Required, name) }

// Property returns a field of the object.
func (s *Schema) Property(name string) (*Schema, bool) {
	for i := range s.Properties {
		if s.Properties[i].Name == name {
			return &s.Properties[i].Schema, true
		}
	}
	return nil, false
}

// At returns the schemas of the values at a path of names and list indexes with dots between: one
// for each variant of the objects on the way, none if the schema knows no such path.
func (s *Schema) At(path string) []*Schema {
	name, rest, more := strings.Cut(path, ".")
	var found []*Schema
	for i := range s.AnyOf {
		found = append(found, s.AnyOf[i].At(path)...)
	}
	next, ok := s.Property(name)
	if _, err := strconv.Atoi(name); !ok && err == nil && s.Items != nil {
		next, ok = s.Items, true
	}
	switch {
	case !ok:
	case more:
		found = append(found, next.At(rest)...)
	default:
		found = append(found, next)
	}
	return found
}

// Guarantees reports whether every payload of the schema holds a value other than null at the path.
func (s *Schema) Guarantees(path string) bool {
	if len(s.AnyOf) > 0 {
		return !slices.ContainsFunc(s.AnyOf, func(v Schema) bool { return !v.Guarantees(path) })
	}
	name, rest, more := strings.Cut(path, ".")
	next, ok := s.Property(name)
	if !ok || !s.IsRequired(name) || next.Null() {
		return false
	}
	return !more || next.Guarantees(rest)
}

// Variants returns the schemas that s covers: one for each combination of the forms that its own
// object properties may have.
func (s *Schema) Variants() []Schema {
	out := []Schema{*s}
	for i := range s.Properties {
		forms := slices.DeleteFunc(slices.Clone(s.Properties[i].Schema.AnyOf), func(v Schema) bool { return v.Properties == nil })
		if len(forms) < 2 {
			continue
		}
		var next []Schema
		for _, base := range out {
			for _, form := range forms {
				v := base
				v.Properties = slices.Clone(base.Properties)
				v.Properties[i].Schema = form
				next = append(next, v)
			}
		}
		out = next
	}
	return out
}

// IsConst reports whether the value at the path can only be value.
func (s *Schema) IsConst(path, value string) bool {
	found := s.At(path)
	return len(found) > 0 && !slices.ContainsFunc(found, func(at *Schema) bool { return at.Const != any(value) })
}

// MarshalJSON writes the schema as it was read.
func (s *Schema) MarshalJSON() ([]byte, error) { return s.text, nil }

// UnmarshalJSON reads a schema and keeps the order of properties.
func (s *Schema) UnmarshalJSON(text []byte) error {
	members, err := ordered(text)
	if err != nil {
		return err
	}
	s.text = bytes.Clone(text)
	for _, m := range members {
		if err := s.set(m.name, m.value); err != nil {
			return err
		}
	}
	for _, name := range s.Required {
		if _, ok := s.Property(name); !ok {
			return fmt.Errorf("required field %s is not among the properties", name)
		}
	}
	return nil
}

func (s *Schema) set(keyword string, value json.RawMessage) (err error) {
	switch keyword {
	case "type":
		if value[0] == '[' {
			err = json.Unmarshal(value, &s.Types)
		} else {
			s.Types = make([]string, 1)
			err = json.Unmarshal(value, &s.Types[0])
		}
		for _, t := range s.Types {
			if !slices.Contains([]string{"string", "integer", "number", "boolean", "array", "object", "null"}, t) {
				return fmt.Errorf("type %q is not known", t)
			}
		}
	case "format":
		if err = json.Unmarshal(value, &s.Format); err == nil && s.Format != "date-time" {
			return fmt.Errorf("format %q is not known", s.Format)
		}
	case "const":
		err = json.Unmarshal(value, &s.Const)
	case "enum":
		err = json.Unmarshal(value, &s.Enum)
	case "required":
		err = json.Unmarshal(value, &s.Required)
	case "items":
		err = json.Unmarshal(value, &s.Items)
	case "anyOf":
		err = json.Unmarshal(value, &s.AnyOf)
	case "additionalProperties":
		s.Values = &Schema{}
		if string(value) != "true" {
			err = json.Unmarshal(value, s.Values)
		}
	case "properties":
		err = s.setProperties(value)
	default:
		return fmt.Errorf("keyword %q of JSON Schema is not known", keyword)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", keyword, err)
	}
	return nil
}

func (s *Schema) setProperties(value json.RawMessage) error {
	members, err := ordered(value)
	if err != nil {
		return err
	}
	s.Properties = []Property{}
	for _, m := range members {
		p := Property{Name: m.name}
		if err := json.Unmarshal(m.value, &p.Schema); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		s.Properties = append(s.Properties, p)
	}
	return nil
}

// member is a name of a JSON object with its value.
type member struct {
	name  string
	value json.RawMessage
}

// ordered returns the members of an object in their order.
func ordered(text []byte) ([]member, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.Join(errors.New("an object is expected"), err)
	}
	var members []member
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		m := member{name: fmt.Sprint(name)}
		if err := d.Decode(&m.value); err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		members = append(members, m)
	}
	return members, nil
}
