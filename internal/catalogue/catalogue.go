// Package catalogue holds the facts about every event type of WorkOS: whether it can be subscribed
// to, which type succeeds it, which fields of its payload name its organization and its entity, and
// the JSON Schema of its payload. types.jsonl is the only source of these facts; go generate makes
// constants, key lookup and documents from it.
//
// The facts were read from the newest official Python client (PyPI workos 10.8.0). .ci/catalogue
// compares them with the newest release.
package catalogue

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// Status says whether an event type is asked for.
type Status string

// The statuses.
const (
	Default Status = "default" // can be subscribed to, and is part of the default set
	OptIn   Status = "opt_in"  // has a schema, but the documentation offers no subscription; asked for only by name
	Gone    Status = "gone"    // no longer sent; its name stays readable
)

// Type holds the facts about one event type.
type Type struct {
	Name      string `json:"type"`
	Status    Status `json:"status"`
	Successor string `json:"successor,omitempty"` // the type that replaces it; empty if there is none
	// Organization are the places of the payload that name the organization; the first one that
	// holds a value counts.
	Organization []Place `json:"organization,omitempty"`
	// Entity are the places that name the event's entity, in the same way. They are read if no
	// organization is named.
	Entity []Place `json:"entity,omitempty"`
	Schema *Schema `json:"schema,omitempty"` // of data; nil if Status is Gone
}

// Place is a path into the payload, with dots between names and indexes of lists. It may carry a
// condition, as in "owner.id if owner.type=organization".
type Place string

// Split returns the path, and the path and value of the condition; both are empty if there is no
// condition.
func (p Place) Split() (path, conditionPath, conditionValue string) {
	path, condition, _ := strings.Cut(string(p), " if ")
	conditionPath, conditionValue, _ = strings.Cut(condition, "=")
	return path, conditionPath, conditionValue
}

//go:generate go run ./generate

// File is the name of the table, for messages.
const File = "internal/catalogue/types.jsonl"

//go:embed types.jsonl
var table []byte

// Types returns every event type, sorted by name. The slice and what it points to are shared: do
// not change them.
var Types = sync.OnceValue(func() []Type {
	types, err := Parse(File, table)
	if err != nil {
		panic(err) // a test parses the same bytes
	}
	return types
})

// Lookup returns the type of a name.
func Lookup(name string) (Type, bool) {
	types := Types()
	i, ok := slices.BinarySearchFunc(types, name, func(t Type, name string) int { return strings.Compare(t.Name, name) })
	if !ok {
		return Type{}, false
	}
	return types[i], true
}

var typeName = regexp.MustCompile(`^[a-z0-9_]+(\.[a-z0-9_]+)+$`)

// Parse reads a table of one JSON object per line. Each error names file and line.
func Parse(file string, text []byte) ([]Type, error) {
	var types []Type
	lines := map[string]int{}
	for n, line := range bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n")) {
		t, err := parseLine(line)
		if err == nil && lines[t.Name] != 0 {
			err = fmt.Errorf("%s stands in line %d already", t.Name, lines[t.Name])
		}
		if err == nil && len(types) > 0 && types[len(types)-1].Name > t.Name {
			err = fmt.Errorf("%s is not in alphabetical order", t.Name)
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, n+1, err)
		}
		lines[t.Name] = n + 1
		types = append(types, t)
	}
	for _, t := range types {
		if t.Successor != "" && lines[t.Successor] == 0 {
			return nil, fmt.Errorf("%s:%d: successor %s of %s is not in the table", file, lines[t.Name], t.Successor, t.Name)
		}
	}
	return types, nil
}

func parseLine(line []byte) (Type, error) {
	var t Type
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return t, fmt.Errorf("reading the line: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return t, errors.New("something follows the object")
	}
	switch {
	case !typeName.MatchString(t.Name):
		return t, fmt.Errorf("type %q is not a name of a-z, 0-9 and _ with dots between", t.Name)
	case t.Status != Default && t.Status != OptIn && t.Status != Gone:
		return t, fmt.Errorf("%s: status %q is none of %s, %s and %s", t.Name, t.Status, Default, OptIn, Gone)
	case t.Status == Gone && (t.Schema != nil || t.Organization != nil || t.Entity != nil):
		return t, fmt.Errorf("%s: a type that is gone has no payload", t.Name)
	case t.Status == Gone:
		return t, nil
	case t.Schema == nil || t.Schema.Properties == nil:
		return t, fmt.Errorf("%s: the schema has no properties", t.Name)
	}
	for _, p := range slices.Concat(t.Organization, t.Entity) {
		path, condition, _ := p.Split()
		for _, at := range []string{path, condition} {
			if at != "" && len(t.Schema.At(at)) == 0 {
				return t, fmt.Errorf("%s: the schema has no field %s", t.Name, at)
			}
		}
	}
	return t, nil
}
