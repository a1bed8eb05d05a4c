package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

var indices = regexp.MustCompile(`\[\d+\]`)

// withoutIndices makes sinks[0].url the same for every entry: sinks[].url.
func withoutIndices(path string) string { return indices.ReplaceAllString(path, "[]") }

// unknown reports key if neither o nor its chosen variant declares it. While the variant is not
// decided, the keys of any variant are let pass.
func (d *decoder) unknown(o *object, chosen *variant, decided bool, key *yaml.Node, path string) {
	known := o.names()
	if chosen != nil {
		known = append(known, chosen.object.names()...)
	}
	if slices.Contains(known, key.Value) {
		return
	}
	var elsewhere string
	for _, v := range o.variants {
		if slices.Contains(v.object.names(), key.Value) {
			elsewhere = v.name
		}
	}
	at := join(path, key.Value)
	switch {
	case elsewhere != "" && !decided:
	case elsewhere != "":
		d.report(placeOf(key), at, fmt.Sprintf("unknown key if %s is %s", typeKey, chosen.name), fmt.Sprintf("it belongs to %s %s", typeKey, elsewhere))
	case strings.Contains(key.Value, "${"):
		d.report(placeOf(key), at, "unknown key", "variables are expanded in values only")
	default:
		d.report(placeOf(key), at, "unknown key", d.suggestion(key.Value, known, withoutIndices(path)))
	}
}

func (o *object) names() []string {
	names := make([]string, len(o.fields))
	for i, f := range o.fields {
		names[i] = f.name
	}
	return names
}

// suggestion names the nearest key of the section, or else the places where the same word is a key.
func (d *decoder) suggestion(word string, known []string, section string) string {
	if near := nearest(word, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	var places []string
	d.format.root().walk("", func(path string, f *field) {
		if f.name == strings.ReplaceAll(strings.ToLower(word), "-", "_") && path != join(section, word) && !slices.Contains(places, path) {
			places = append(places, path)
		}
	})
	switch len(places) {
	case 0:
		if len(known) <= 20 {
			return "known here: " + strings.Join(known, ", ")
		}
		return ""
	case 1, 2, 3:
		return "did you mean " + strings.Join(places, " or ") + "?"
	default:
		return ""
	}
}

// walk calls visit for every key below o, those of variants included, with its path in the form
// sinks[].url.
func (o *object) walk(path string, visit func(path string, f *field)) {
	for _, f := range o.fields {
		at := join(path, f.name)
		visit(at, f)
		switch f.kind {
		case kindSection:
			f.object.walk(at, visit)
		case kindSections:
			f.object.walk(at+"[]", visit)
		default:
		}
	}
	for _, v := range o.variants {
		v.object.walk(path, visit)
	}
}
