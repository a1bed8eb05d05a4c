package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// location is a place in the file, from 1. It is zero if there is none.
type location struct{ line, column int }

// decoder turns nodes into values by the declaration. It goes on after a mistake, so that all are
// reported at once.
type decoder struct {
	format   *Format
	file     string
	env      func(string) (string, bool)
	problems []Problem
	places   map[string]location // of each key's value, by path
	files    map[string][]string // secret files, by the path of the secret
	secrets  []string            // what no message may show
	fromEnv  []string            // what came from the environment, which only the operator may know to be secret
	aliases  int
}

// maxAliases bounds the work that a small file can ask for.
const maxAliases = 1000

func (d *decoder) report(at location, path, message, hint string) {
	d.problems = append(d.problems, Problem{File: d.file, Line: at.line, Column: at.column, Key: path, Message: message, Hint: hint})
}

// reportText reports a sentence whose advice, if any, follows a semicolon.
func (d *decoder) reportText(at location, path, sentence string) {
	message, hint, _ := strings.Cut(sentence, "; ")
	d.report(at, path, message, hint)
}

// clean reports whether nothing is wrong at path, below it, or with a section around it as a whole.
func (d *decoder) clean(path string) bool {
	for _, p := range d.problems {
		if isAtOrBelow(p.Key, path) || isAtOrBelow(path, p.Key) {
			return false
		}
	}
	return true
}

// isAtOrBelow reports whether path is outer or lies below it.
func isAtOrBelow(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (outer == "" || rest == "" || rest[0] == '.' || rest[0] == '[')
}

// locate returns where path is in the file, or else the section around it.
func (d *decoder) locate(path string) location {
	for {
		if at, ok := d.places[path]; ok {
			return at
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return location{}
		}
		path = path[:cut]
	}
}

func placeOf(n *yaml.Node) location { return location{n.Line, n.Column} }

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// resolve follows an alias and refuses what no configuration needs. It returns nil after a report.
func (d *decoder) resolve(n *yaml.Node, path string) *yaml.Node {
	at := placeOf(n)
	for ; n.Kind == yaml.AliasNode && n.Alias != nil; n = n.Alias {
		if d.aliases++; d.aliases > maxAliases {
			if d.aliases == maxAliases+1 {
				d.report(at, path, fmt.Sprintf("more than %d aliases", maxAliases), "")
			}
			return nil
		}
	}
	if n.Style&yaml.TaggedStyle != 0 {
		d.report(placeOf(n), path, "tags such as !!str are not supported", "remove it: the key decides the type")
		return nil
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// pair is a key of the file with its value.
type pair struct{ key, value *yaml.Node }

// pairs reads a mapping and reports keys that occur twice or are not plain text.
func (d *decoder) pairs(n *yaml.Node, path string) ([]pair, bool) {
	if isNull(n) {
		return nil, true
	}
	if n.Kind != yaml.MappingNode {
		d.report(placeOf(n), path, "must be a section of keys, not "+shape(n), "")
		return nil, false
	}
	out := make([]pair, 0, len(n.Content)/2)
	first := make(map[string]int, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch line, twice := first[key.Value]; {
		case key.Kind != yaml.ScalarNode || key.Style&yaml.TaggedStyle != 0:
			d.report(placeOf(key), path, "a key must be a plain word", "")
		case key.ShortTag() == "!!merge":
			d.report(placeOf(key), join(path, key.Value), "merge keys are not supported", "use an alias for a whole section, or write the keys out")
		case twice:
			d.report(placeOf(key), join(path, key.Value), fmt.Sprintf("the key stands here twice, first on line %d", line), "remove one")
		default:
			first[key.Value] = key.Line
			out = append(out, pair{key, n.Content[i+1]})
		}
	}
	return out, true
}

func shape(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section of keys"
	case yaml.SequenceNode:
		return "a list"
	default:
		return "a single value"
	}
}

// section decodes a mapping into the struct v. A nil n is an empty section at the place of its
// parent.
func (d *decoder) section(o *object, n *yaml.Node, v reflect.Value, path string) {
	var pairs []pair
	if n != nil {
		var ok bool
		if pairs, ok = d.pairs(n, path); !ok {
			return
		}
		if path != "" {
			d.places[path] = placeOf(n)
		}
	}
	given := make(map[string]*yaml.Node, len(pairs))
	for _, p := range pairs {
		given[p.key.Value] = p.value
	}
	d.fields(o.fields, given, v, path)
	note(v, given)
	chosen, decided := choose(o, v)
	if chosen != nil {
		keys := reflect.ValueOf(chosen.kind.New())
		d.fields(chosen.object.fields, given, keys.Elem(), path)
		note(keys.Elem(), given)
		v.FieldByIndex(chosen.index).Set(keys)
	}
	for _, p := range pairs {
		d.unknown(o, chosen, decided, p.key, path)
	}
}

// noter is a section that distinguishes keys that the file names from defaults; see given.Keys.
type noter interface{ Note(names []string) }

func note(v reflect.Value, names map[string]*yaml.Node) {
	if s, ok := v.Addr().Interface().(noter); ok {
		s.Note(slices.Collect(maps.Keys(names)))
	}
}

// choose returns the variant that v's type key names; decided is false if that key is missing or
// wrong, which has been reported, so that nothing can be said about the keys of the variant.
func choose(o *object, v reflect.Value) (_ *variant, decided bool) {
	for _, f := range o.fields {
		if f.name == typeKey && len(o.variants) > 0 {
			chosen := o.variant(v.FieldByIndex(f.index).String())
			return chosen, chosen != nil
		}
	}
	return nil, true
}

func (d *decoder) fields(fields []*field, given map[string]*yaml.Node, v reflect.Value, path string) {
	for _, f := range fields {
		target, at := v.FieldByIndex(f.index), join(path, f.name)
		n := given[f.name]
		switch {
		case f.fromSecret:
			if n != nil {
				d.secretFile(f, n, given, target, path)
			}
			continue
		case n != nil:
			if n = d.resolve(n, at); n != nil {
				d.value(f, n, target, at)
			}
		case f.isSecret() && given[fileKey(f.name)] != nil:
			continue
		case f.optional:
			continue
		default:
			d.absent(f, target, at)
		}
		if f.required && target.IsZero() && d.clean(at) {
			d.reportMissing(f, at, n != nil)
		}
	}
}

func (d *decoder) reportMissing(f *field, path string, given bool) {
	message, hint := "is missing", ""
	if given {
		message = "is empty"
	}
	switch {
	case f.kind == kindSecret && f.def != nil && !given:
		hint = fmt.Sprintf("set %s in the environment, or name a file in %s", strings.Trim(f.defText, "${}"), fileKey(f.name))
	case f.isSecret():
		hint = fmt.Sprintf("give it here, or name a file in %s", fileKey(f.name))
	case len(f.enum) > 0:
		hint = "one of " + strings.Join(f.enum, ", ")
	}
	d.report(d.locate(path), path, message, hint)
}

// absent gives v its default. A default that asks for a variable which is not set leaves a required
// field empty.
func (d *decoder) absent(f *field, v reflect.Value, path string) {
	switch {
	case f.kind == kindSection:
		d.section(f.object, nil, v, path)
	case f.def != nil:
		if f.required && f.def.Kind == yaml.ScalarNode {
			if _, _, err := expand(f.def.Value, d.env); err != nil && err.unset != "" {
				return
			}
		}
		d.value(f, moved(f.def, d.locate(path)), v, path)
	}
}

// value decodes n into v by the kind of f.
func (d *decoder) value(f *field, n *yaml.Node, v reflect.Value, path string) {
	d.places[path] = placeOf(n)
	switch f.kind {
	case kindSection:
		if f.optional {
			if isNull(n) {
				d.report(placeOf(n), path, "has no value", fmt.Sprintf("write %s: {} for its defaults, or remove it", f.name))
				return
			}
			v.Set(reflect.New(f.typ))
			v = v.Elem()
		}
		d.section(f.object, n, v, path)
	case kindSections, kindTexts:
		d.list(f, n, v, path)
	case kindSecrets:
		d.secretList(f, n, v, path)
	case kindMap:
		d.texts(n, v, path)
	default:
		d.scalar(f, n, v, path)
	}
}

func (d *decoder) list(f *field, n *yaml.Node, v reflect.Value, path string) {
	switch {
	case isNull(n):
		d.absent(f, v, path)
		return
	case n.Kind != yaml.SequenceNode:
		d.report(placeOf(n), path, "must be a list, not "+shape(n), "write [a, b], or each entry on its own line after a dash")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	entry := &field{name: f.name, typ: f.typ.Elem(), kind: kindText, enum: f.enum, format: f.format, required: true}
	for i, child := range n.Content {
		at := path + "[" + strconv.Itoa(i) + "]"
		if child = d.resolve(child, at); child == nil {
			continue
		}
		d.places[at] = placeOf(child)
		if f.kind == kindTexts {
			d.scalar(entry, child, v.Index(i), at)
		} else {
			d.section(f.object, child, v.Index(i), at)
		}
	}
}

// texts decodes a map whose keys are free.
func (d *decoder) texts(n *yaml.Node, v reflect.Value, path string) {
	pairs, _ := d.pairs(n, path)
	if len(pairs) == 0 {
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	entry := &field{typ: v.Type().Elem(), kind: kindText}
	for _, p := range pairs {
		at := join(path, p.key.Value)
		value := d.resolve(p.value, at)
		if value == nil {
			continue
		}
		d.places[at] = placeOf(value)
		text := reflect.New(v.Type().Elem()).Elem()
		d.scalar(entry, value, text, at)
		v.SetMapIndex(reflect.ValueOf(p.key.Value).Convert(v.Type().Key()), text)
	}
}

// scalar expands and parses a single value.
func (d *decoder) scalar(f *field, n *yaml.Node, v reflect.Value, path string) {
	text, ok := d.text(f, n, path)
	if !ok {
		return
	}
	if f.kind == kindSecret {
		d.secrets = append(d.secrets, text)
	}
	if err := f.setText(v, text); err != nil {
		d.reportText(placeOf(n), path, d.fault(f, n, text, err))
	}
}

// text returns the expanded text of a scalar. It reports a fault and returns false if there is
// none.
func (d *decoder) text(f *field, n *yaml.Node, path string) (string, bool) {
	switch {
	case n.Kind != yaml.ScalarNode:
		d.report(placeOf(n), path, fmt.Sprintf("must be a single value (%s), not %s", f.kind.noun(), shape(n)), "")
		return "", false
	case isNull(n):
		d.report(placeOf(n), path, "has no value", `write "" for an empty text, or remove the key for the default`)
		return "", false
	}
	text, values, err := expand(n.Value, d.env)
	if err != nil {
		d.report(placeOf(n), path, err.message, err.hint)
		return "", false
	}
	d.fromEnv = append(d.fromEnv, values...)
	return text, true
}

// fault says what is wrong with a value. It shows the value as written in the file, never with
// variables expanded, and nothing of a secret or of an address that may hold one.
func (d *decoder) fault(f *field, n *yaml.Node, text string, err error) string {
	masked := maskCredentials(n.Value)
	shown := masked
	if len(shown) > 80 {
		shown = strings.ToValidUTF8(shown[:80], "") + "..."
	}
	switch {
	case f.kind == kindSecret:
		return err.Error()
	case (f.format == "url" || f.format == "address") && strings.ContainsAny(strings.ReplaceAll(masked, "[secret]@", ""), "@?#%"):
		return fmt.Sprintf("the value, which is not shown because it may hold credentials, %v", err)
	case text != n.Value:
		return fmt.Sprintf("%q, once expanded, %v", shown, err)
	default:
		return fmt.Sprintf("%q %v", shown, err)
	}
}
