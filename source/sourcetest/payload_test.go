package sourcetest

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/catalogue"
)

// TestPayloadsAreThoseOfTheSchemas renders each type of the catalogue many times and compares what
// comes out with its published schema, both ways: there is no field that the schema lacks, and each
// field of the schema is there, null or absent as the schema has it.
func TestPayloadsAreThoseOfTheSchemas(t *testing.T) {
	t.Parallel()
	g := NewGenerator(Population{Events: 1})
	for i, typ := range eventTypes {
		known, ok := catalogue.Lookup(typ.Name)
		require.True(t, ok, typ.Name)
		if known.Schema == nil {
			continue
		}
		seen := map[string]map[string]bool{} // by path: present, null, absent
		for n := range 300 {
			r := renderer{g: g, e: event{typ: uint8(i), org: n % 3, user: n, h: mix(7, uint64(n), uint64(i))}, name: typ.Name, ms: 1_767_225_600_000, r: rng(n)}
			for _, p := range typePrograms()[i].steps {
				p(&r)
			}
			var data any
			require.NoError(t, json.Unmarshal(r.b, &data), "%s: %s", typ.Name, r.b)
			matchSchema(t, known.Schema, data, typ.Name, seen)
		}
		for path, states := range wantedStates(known.Schema, typ.Name) {
			for _, s := range states {
				require.True(t, seen[path][s], "%s is never %s", path, s)
			}
		}
	}
}

// matchSchema requires that value is of the schema, and notes in which state each field was seen.
func matchSchema(t *testing.T, s *catalogue.Schema, value any, path string, seen map[string]map[string]bool) {
	t.Helper()
	if len(s.AnyOf) > 0 {
		for i := range s.AnyOf {
			if v := &s.AnyOf[i]; !slices.Equal(v.Types, []string{"null"}) || value == nil {
				if value != nil || slices.Equal(v.Types, []string{"null"}) {
					matchSchema(t, v, value, path, seen)
					return
				}
			}
		}
	}
	switch v := value.(type) {
	case nil:
		require.True(t, s.Null(), "%s is null", path)
	case map[string]any:
		require.Contains(t, s.Types, "object", path)
		matchObject(t, s, v, path, seen)
	case []any:
		require.Contains(t, s.Types, "array", path)
		for _, item := range v {
			matchSchema(t, s.Items, item, path+"[]", seen)
		}
	default:
		matchScalar(t, s, v, path)
	}
}

func matchObject(t *testing.T, s *catalogue.Schema, value map[string]any, path string, seen map[string]map[string]bool) {
	t.Helper()
	if s.Properties == nil {
		return // free form
	}
	for name := range value {
		_, ok := s.Property(name)
		require.True(t, ok, "the schema has no field %s.%s", path, name)
	}
	for i := range s.Properties {
		p := &s.Properties[i]
		at := path + "." + p.Name
		if seen[at] == nil {
			seen[at] = map[string]bool{}
		}
		member, ok := value[p.Name]
		switch {
		case !ok:
			require.False(t, s.IsRequired(p.Name), "%s is absent", at)
			seen[at]["absent"] = true
		case member == nil:
			seen[at]["null"] = true
			matchSchema(t, &p.Schema, member, at, seen)
		default:
			seen[at]["present"] = true
			matchSchema(t, &p.Schema, member, at, seen)
		}
	}
}

func matchScalar(t *testing.T, s *catalogue.Schema, value any, path string) {
	t.Helper()
	if s.Const != nil {
		require.Equal(t, s.Const, value, path)
		return
	}
	if s.Enum != nil {
		require.Contains(t, s.Enum, value, path)
		return
	}
	if len(s.Types) == 0 {
		return // anything
	}
	kinds := map[string][]string{"string": {"string"}, "bool": {"boolean"}, "float64": {"number", "integer"}}
	kind := "float64"
	switch v := value.(type) {
	case string:
		kind = "string"
		if s.Format == "date-time" {
			_, err := time.Parse(time.RFC3339, v)
			require.NoError(t, err, path)
		}
	case bool:
		kind = "bool"
	}
	require.True(t, slices.ContainsFunc(kinds[kind], func(k string) bool { return slices.Contains(s.Types, k) }), "%s: %v", path, value)
}

// wantedStates returns the states that each field must be seen in: those of the form of an object
// that is rendered.
func wantedStates(s *catalogue.Schema, path string) map[string][]string {
	out := map[string][]string{}
	for i := range s.AnyOf {
		if v := &s.AnyOf[i]; !slices.Equal(v.Types, []string{"null"}) {
			return wantedStates(v, path)
		}
	}
	for i := range s.Properties {
		p := &s.Properties[i]
		at := path + "." + p.Name
		states := []string{"present"}
		switch {
		case !s.IsRequired(p.Name):
			states = append(states, "absent")
		case p.Schema.Null():
			states = append(states, "null")
		}
		out[at] = states
		inner := &p.Schema
		if inner.Items != nil {
			inner, at = inner.Items, at+"[]"
		}
		for path, states := range wantedStates(inner, at) {
			out[path] = states
		}
	}
	return out
}

// TestOrganizationsOfPayloads compares what the generator says of an event's organization with the
// places of the catalogue.
func TestOrganizationsOfPayloads(t *testing.T) {
	t.Parallel()
	g := NewGenerator(Population{Events: 1})
	for i, typ := range eventTypes {
		known, _ := catalogue.Lookup(typ.Name)
		for n := range 200 {
			e := event{typ: uint8(i), org: n % 3, user: n, h: mix(9, uint64(n), uint64(i))}
			r := renderer{g: g, e: e, name: typ.Name, r: rng(n)}
			for _, p := range typePrograms()[i].steps {
				p(&r)
			}
			named := slices.ContainsFunc(known.Organization, func(p catalogue.Place) bool {
				path, _, _ := p.Split()
				return strings.Contains(string(r.b), `"`+path[strings.LastIndexByte(path, '.')+1:]+`":"`+g.orgs[e.org])
			})
			_, has := g.orgOf(e)
			require.Equal(t, named, has, "%s: %s", typ.Name, r.b)
		}
	}
}
