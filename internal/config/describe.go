package config

import (
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"workos-relay/conf/secret"
	"workos-relay/conf/unit"
	"workos-relay/sink"
)

// kind is what a field holds; it decides how its text is read and how the documents call it.
type kind int

const (
	kindText     kind = iota // string, or any encoding.TextUnmarshaler
	kindSecret               // secret.String, with a _file twin
	kindSecrets              // secret.List: one secret or a list of them, with a _file twin that names one file or a list
	kindBool                 // true or false
	kindInt                  // whole number
	kindFloat                // number
	kindDuration             // time.Duration
	kindBytes                // unit.Bytes
	kindTexts                // []string
	kindMap                  // map[string]string
	kindSection              // struct
	kindSections             // []struct
)

// field is one key of the declaration, read from a struct field and its tags:
//
//	yaml:"name"       the key; fields without it are no configuration, ",inline" lifts the keys of a struct into the outer one
//	default:"..."     the value if the key is absent, as in YAML; variables are expanded in it too
//	doc:"..."         for the example and the reference page
//	enum:"a,b"        the only values
//	required:"true"   absent or empty is a mistake
//	example:"..."     a value to show, as in YAML
//	format:"..."      what a text must look like, a name of formats
//	min:".." max:".." bounds of a number, duration or size, as in YAML
//	file:"fixed"      on a secret: its file is read at a start and a reload only
//	file:"own"        on a secret: the struct declares the key that names its file
//
// A pointer to a struct is a section that may be absent. A field of type sink.Settings stands for
// the keys that the section gains by its key `type`, which names a kind of bus.
type field struct {
	name       string
	index      []int
	typ        reflect.Type // pointers taken off
	kind       kind
	def        *yaml.Node // nil if there is none
	defText    string
	doc        string
	example    string
	enum       []string
	required   bool
	optional   bool // a section that may be absent
	format     string
	minimum    string
	maximum    string
	object     *object // of kindSection and kindSections
	fromSecret bool    // the _file twin of a secret
	named      bool    // it matters whether the file names the key; see given.Keys
	fixedFile  bool    // a secret whose file is read at a start and a reload only
}

// object is one struct of the declaration.
type object struct {
	fields   []*field
	variants []*variant
}

// variant holds the keys that a section gains if the value of its key typeKey is name: those of the
// settings of a kind of bus.
type variant struct {
	name   string
	kind   *sink.Kind
	index  []int        // of the field of type sink.Settings
	typ    reflect.Type // of the settings, the pointer taken off
	object *object
}

// in returns the settings of the variant in a section, or false if the section is of another
// variant or of none.
func (v *variant) in(section reflect.Value) (reflect.Value, bool) {
	settings := section.FieldByIndex(v.index)
	if settings.IsNil() || settings.Elem().Type() != reflect.PointerTo(v.typ) {
		return reflect.Value{}, false
	}
	return settings.Elem().Elem(), true
}

// typeKey chooses among the variants of a section.
const typeKey = "type"

// fileKey is the key that names a file with the secret instead of holding it.
func fileKey(name string) string { return name + "_file" }

func (o *object) variant(name string) *variant {
	for _, v := range o.variants {
		if v.name == name {
			return v
		}
	}
	return nil
}

// describe reads the declaration from a struct type, with sinks of these kinds. A mistake in a
// declaration is a mistake in the program: it panics.
func describe(t reflect.Type, kinds []*sink.Kind) *object {
	o := &object{}
	describeInto(o, t, nil, kinds)
	taken := map[string]bool{}
	for _, f := range o.fields {
		claim(t, taken, f.name)
	}
	for _, v := range o.variants {
		inVariant := map[string]bool{}
		for name := range taken {
			inVariant[name] = true
		}
		for _, f := range v.object.fields {
			claim(v.typ, inVariant, f.name)
		}
	}
	for _, f := range o.fields {
		if f.name == typeKey && len(o.variants) > 0 {
			for _, v := range o.variants {
				f.enum = append(f.enum, v.name)
			}
		}
	}
	return o
}

// claim panics if a name is already taken.
func claim(t reflect.Type, taken map[string]bool, name string) {
	if taken[name] {
		panic(fmt.Sprintf("config: key %q is declared twice, in %s", name, t))
	}
	taken[name] = true
}

func describeInto(o *object, t reflect.Type, index []int, kinds []*sink.Kind) {
	for i := range t.NumField() {
		sf := t.Field(i)
		at := append(append([]int(nil), index...), i)
		if sf.Type == reflect.TypeFor[sink.Settings]() {
			for _, k := range kinds {
				o.variants = append(o.variants, describeKind(k, at))
			}
			continue
		}
		name, option, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		switch {
		case option == "inline":
			describeInto(o, sf.Type, at, kinds)
		case name != "" && name != "-":
			f := describeField(sf, name, at, kinds)
			o.fields = append(o.fields, f)
			if f.isSecret() && sf.Tag.Get("file") != "own" {
				o.fields = append(o.fields, twinOf(f))
			}
		}
	}
}

// describeKind reads the declaration of the settings of a kind.
func describeKind(k *sink.Kind, index []int) *variant {
	t := reflect.TypeOf(k.New())
	if t.Kind() != reflect.Pointer || t.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("config: the settings of a sink of type %s are a %s, not a pointer to a struct", k.Name, t))
	}
	return &variant{name: k.Name, kind: k, index: index, typ: t.Elem(), object: describe(t.Elem(), nil)}
}

// isSecret reports whether f has a _file twin.
func (f *field) isSecret() bool { return f.kind == kindSecret || f.kind == kindSecrets }

// twinOf returns the key that names the file of a secret.
func twinOf(f *field) *field {
	t := &field{
		name: fileKey(f.name), index: f.index, typ: f.typ, kind: kindText, fromSecret: true, format: f.format, example: "/run/secrets/" + f.name,
		doc: fmt.Sprintf("File that holds %s, instead of %s itself. White space at its end is dropped.", f.name, f.name),
	}
	if f.kind == kindSecrets {
		t.doc = fmt.Sprintf("File that holds %s, instead of %s itself, or a list of files. A file may hold several secrets, one on each line.", f.name, f.name)
	}
	if f.fixedFile {
		t.doc += " New content takes effect by reload only."
	} else {
		t.doc += " New content takes effect without a reload."
	}
	return t
}

func describeField(sf reflect.StructField, name string, index []int, kinds []*sink.Kind) *field {
	f := &field{
		name: name, index: index, typ: sf.Type,
		doc: sf.Tag.Get("doc"), example: sf.Tag.Get("example"), format: sf.Tag.Get("format"),
		minimum: sf.Tag.Get("min"), maximum: sf.Tag.Get("max"),
		required:  sf.Tag.Get("required") == "true",
		named:     sf.Tag.Get("named") == "true",
		fixedFile: sf.Tag.Get("file") == "fixed",
	}
	if f.typ.Kind() == reflect.Pointer {
		f.typ, f.optional = f.typ.Elem(), true
	}
	if enum := sf.Tag.Get("enum"); enum != "" {
		f.enum = strings.Split(enum, ",")
	}
	f.kind = kindOf(f.typ)
	switch f.kind {
	case kindSection:
		f.object = describe(f.typ, kinds)
	case kindSections:
		f.object = describe(f.typ.Elem(), kinds)
	default:
	}
	if f.optional && f.kind != kindSection {
		panic(fmt.Sprintf("config: %s: only a section may be a pointer", name))
	}
	if def, ok := sf.Tag.Lookup("default"); ok {
		f.defText, f.def = def, parseTag(name, def)
	}
	return f
}

func kindOf(t reflect.Type) kind {
	switch {
	case t == reflect.TypeFor[secret.String]():
		return kindSecret
	case t == reflect.TypeFor[secret.List]():
		return kindSecrets
	case t == reflect.TypeFor[time.Duration]():
		return kindDuration
	case t == reflect.TypeFor[unit.Bytes]():
		return kindBytes
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return kindText
	}
	switch t.Kind() {
	case reflect.String:
		return kindText
	case reflect.Bool:
		return kindBool
	case reflect.Int, reflect.Int64, reflect.Int32:
		return kindInt
	case reflect.Float64:
		return kindFloat
	case reflect.Struct:
		return kindSection
	case reflect.Map:
		if t.Key().Kind() == reflect.String && t.Elem().Kind() == reflect.String {
			return kindMap
		}
	case reflect.Slice:
		switch t.Elem().Kind() {
		case reflect.String:
			return kindTexts
		case reflect.Struct:
			return kindSections
		default:
		}
	default:
	}
	panic(fmt.Sprintf("config: %s cannot be configured", t))
}

// parseTag reads a value written in a tag.
func parseTag(name, text string) *yaml.Node {
	var doc yaml.Node
	if text == "" {
		return &yaml.Node{Kind: yaml.ScalarNode, Style: yaml.DoubleQuotedStyle, Tag: "!!str"}
	}
	if err := yaml.Load([]byte(text), &doc); err != nil || len(doc.Content) != 1 {
		panic(fmt.Sprintf("config: %s: a value in its tag is not YAML: %q: %v", name, text, err))
	}
	return doc.Content[0]
}

// moved copies a tree of nodes to one place of the file.
func moved(n *yaml.Node, at location) *yaml.Node {
	c := *n
	c.Line, c.Column = at.line, at.column
	c.Content = make([]*yaml.Node, len(n.Content))
	for i, child := range n.Content {
		c.Content[i] = moved(child, at)
	}
	return &c
}
