package sourcetest

import (
	"encoding/json"
	"math/bits"
	"slices"
	"strings"
	"sync"

	"workos-relay/internal/catalogue"
)

// part appends a part of an event. Parts are compiled once for each type, so that an event costs no
// look at its schema.
type part func(r *renderer)

// program renders the data of one event type: exactly the fields of its published schema, optional
// ones present most of the time and otherwise null or absent, as the schema has it.
type program struct {
	steps []part
	// organization are the ways to an organization in data: for each, the numbers of the optional
	// fields on the way. An event names its organization if all fields of one way are present.
	organization [][]int
}

// typePrograms holds the program of each type of the catalogue; a type that is gone renders as an
// object with an id.
var typePrograms = sync.OnceValue(func() []program {
	out := make([]program, len(eventTypes))
	for i, t := range eventTypes {
		known, _ := catalogue.Lookup(t.Name)
		c := compiler{eventType: t.Name}
		if known.Schema == nil {
			known.Schema = &catalogue.Schema{Types: []string{"object"}, Required: []string{"id"}, Properties: []catalogue.Property{
				{Name: "id", Schema: catalogue.Schema{Types: []string{"string"}}},
			}}
		}
		c.object(known.Schema, "", nil)
		out[i] = program{steps: c.flush(), organization: c.organization}
	}
	return out
})

// namesOrganization reports whether the data of an event of the program names its organization.
func (p *program) namesOrganization(e event) bool {
	return slices.ContainsFunc(p.organization, func(way []int) bool {
		return !slices.ContainsFunc(way, func(field int) bool { return !e.has(field) })
	})
}

// has reports whether the optional field of that number is present.
func (e *event) has(field int) bool { return bits.RotateLeft64(e.h, field*7)&3 != 3 }

// compiler turns a schema into steps.
type compiler struct {
	eventType    string
	steps        []part
	text         []byte // of the next literal part
	optional     int    // optional fields so far
	organization [][]int
}

func (c *compiler) lit(parts ...string) {
	for _, p := range parts {
		c.text = append(c.text, p...)
	}
}

// do adds a part, after one for the text so far.
func (c *compiler) do(s part) {
	if len(c.text) > 0 {
		text := string(c.text)
		c.text = nil
		c.steps = append(c.steps, func(r *renderer) { r.b = append(r.b, text...) })
	}
	c.steps = append(c.steps, s)
}

func (c *compiler) flush() []part {
	c.do(func(*renderer) {})
	return c.steps[:len(c.steps)-1]
}

// object compiles an object with named properties. path is where it stands in data, way the
// optional fields that it depends on.
func (c *compiler) object(s *catalogue.Schema, path string, way []int) {
	c.lit("{")
	known, perhaps := false, false // whether a field stands before the next one
	for i := range s.Properties {
		p := &s.Properties[i]
		at := strings.TrimPrefix(path+"."+p.Name, ".")
		missing, optional := c.whenMissing(s, p)
		inner := compiler{eventType: c.eventType, optional: c.optional}
		if optional {
			inner.optional++
			inner.member(p, at, append(slices.Clone(way), c.optional))
		} else {
			inner.member(p, at, way)
		}
		steps, field := inner.flush(), c.optional
		c.optional = inner.optional
		c.organization = append(c.organization, inner.organization...)
		comma, maybe := known, perhaps
		c.do(func(r *renderer) {
			has := !optional || r.e.has(field)
			if !has && missing == "" {
				return
			}
			if comma || maybe && r.b[len(r.b)-1] != '{' {
				r.b = append(r.b, ',')
			}
			if !has {
				r.b = append(r.b, missing...)
				return
			}
			for _, s := range steps {
				s(r)
			}
		})
		known, perhaps = known || !optional || missing != "", true
	}
	c.lit("}")
}

// whenMissing returns what stands in the place of a property that has no value, and whether it may
// have none. A property that may be absent is absent then, another is null.
func (c *compiler) whenMissing(s *catalogue.Schema, p *catalogue.Property) (text string, optional bool) {
	switch {
	case !s.IsRequired(p.Name):
		return "", true
	case p.Schema.Null():
		return `"` + p.Name + `":null`, true
	default:
		return "", false
	}
}

func (c *compiler) member(p *catalogue.Property, path string, way []int) {
	c.lit(`"`, p.Name, `":`)
	if isOrganization(c.eventType, path) {
		c.organization = append(c.organization, way)
	}
	c.value(&p.Schema, path, way)
}

// isOrganization reports whether the place names the organization of an event.
func isOrganization(eventType, path string) bool {
	t, _ := catalogue.Lookup(eventType)
	return slices.ContainsFunc(t.Organization, func(p catalogue.Place) bool {
		at, _, _ := p.Split()
		return at == path
	})
}

// value compiles a value that is there and not null. Of several forms the first is taken.
func (c *compiler) value(s *catalogue.Schema, path string, way []int) {
	for i := range s.AnyOf {
		if v := &s.AnyOf[i]; !slices.Equal(v.Types, []string{"null"}) {
			c.value(v, path, way)
			return
		}
	}
	name := path[strings.LastIndexByte(path, '.')+1:]
	switch {
	case s.Const != nil:
		c.lit(jsonText(s.Const))
	case s.Enum != nil:
		c.enum(s.Enum)
	case s.Properties != nil:
		c.object(s, path, way)
	case slices.Contains(s.Types, "object"):
		c.do(freeForm(name))
	case slices.Contains(s.Types, "array"):
		c.array(s, path)
	case s.Format == "date-time":
		c.lit(`"`)
		c.do(moment(name))
		c.lit(`"`)
	case slices.Contains(s.Types, "string"):
		c.lit(`"`)
		c.do(stringNamed(c.eventType, path))
		c.lit(`"`)
	case slices.Contains(s.Types, "boolean"):
		c.do(func(r *renderer) { r.lit([2]string{"true", "false"}[r.r.intn(2)]) })
	case slices.Contains(s.Types, "integer"), slices.Contains(s.Types, "number"):
		c.do(func(r *renderer) { r.digits(3) })
	default: // anything
		c.lit(`"anything"`)
	}
}

// enum compiles one of the values. The one that the type's verb names is taken if there is such a
// value.
func (c *compiler) enum(values []any) {
	verb := c.eventType[strings.LastIndexByte(c.eventType, '.')+1:]
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = jsonText(v)
		if v == verb {
			c.lit(texts[i])
			return
		}
	}
	c.do(func(r *renderer) { r.lit(pick(&r.r, texts)) })
}

// array compiles a list of up to three values.
func (c *compiler) array(s *catalogue.Schema, path string) {
	item := compiler{eventType: c.eventType, optional: c.optional}
	item.value(s.Items, path+".0", nil)
	steps := item.flush()
	c.optional = item.optional
	c.lit("[")
	c.do(func(r *renderer) {
		for i := range 1 + r.r.intn(3) {
			if i > 0 {
				r.lit(",")
			}
			for _, s := range steps {
				s(r)
			}
		}
	})
	c.lit("]")
}

// jsonText is a value of a schema as JSON, in which & and < stand as they are.
func jsonText(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // it was read from JSON
	}
	return strings.TrimSuffix(b.String(), "\n")
}
