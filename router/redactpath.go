package router

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// action is what is done with a value. If several paths name it, the greatest action applies.
type action int

const (
	keep action = iota
	pseudonymize
	remove
)

// pathNode is a place in the paths of a route, which are joined to a tree.
type pathNode struct {
	names map[string]*pathNode
	any   *pathNode // what follows a *
	do    action
}

// pathsOf returns the root of the paths of a route.
func pathsOf(route Route) *pathNode {
	root := &pathNode{}
	for _, path := range route.Pseudonymize {
		root.add(path, pseudonymize)
	}
	for _, path := range route.Redact {
		root.add(path, remove)
	}
	return root
}

// add leaves out a path that is none; validation has reported it.
func (n *pathNode) add(path string, do action) {
	parts, err := splitPath(path)
	if err != nil {
		return
	}
	for _, p := range parts {
		next := n.any
		if !p.any {
			next = n.names[p.name]
		}
		if next == nil {
			next = &pathNode{}
			switch {
			case p.any:
				n.any = next
			case n.names == nil:
				n.names = map[string]*pathNode{p.name: next}
			default:
				n.names[p.name] = next
			}
		}
		n = next
	}
	n.do = max(n.do, do)
}

// step goes from the places at to the member name of an object, and says what is done with its
// value.
func step(at []*pathNode, name string) (below []*pathNode, do action) {
	for _, n := range at {
		for _, next := range [...]*pathNode{n.names[name], n.any} {
			if next != nil {
				below, do = with(below, next), max(do, next.do)
			}
		}
	}
	return below, do
}

// element goes from the places at of a list to those of each element: a list is gone through as if
// each element stood in its place.
func element(at []*pathNode) (below []*pathNode, do action) {
	below = slices.Clone(at)
	for _, n := range at {
		if n.any != nil {
			below, do = with(below, n.any), max(do, n.any.do)
		}
	}
	return below, do
}

// with adds n unless at has it already, so that no list has more places than the paths have.
func with(at []*pathNode, n *pathNode) []*pathNode {
	if slices.Contains(at, n) {
		return at
	}
	return append(at, n)
}

// pathPart is one name of a path.
type pathPart struct {
	name string
	any  bool // a *, which matches every name and every element
}

// splitPath splits a path into names at its dots. A \ escapes the character after it. The error
// completes the sentence "<path> is not a path into an event: ".
func splitPath(path string) ([]pathPart, error) {
	const longest = 512
	if len(path) > longest {
		return nil, fmt.Errorf("it is longer than %d bytes", longest)
	}
	var parts []pathPart
	var name strings.Builder
	escaped, literal := false, false
	end := func() error {
		text := name.String()
		part := pathPart{name: text, any: text == "*" && !literal}
		switch {
		case text == "":
			return errors.New("a name between dots is empty")
		case !part.any && !literal && strings.Contains(text, "*"):
			return fmt.Errorf("%q mixes * with other characters; * stands for a whole name", text)
		case text == "#" || strings.Trim(text, "0123456789") == "":
			return fmt.Errorf("%q is a place in a list; leave it out, for a list is always gone through as a whole", text)
		}
		parts = append(parts, part)
		name.Reset()
		literal = false
		return nil
	}
	for _, c := range path {
		switch {
		case unicode.IsControl(c) || c == unicode.ReplacementChar:
			return nil, fmt.Errorf("%q is not allowed", c)
		case escaped:
			name.WriteRune(c)
			escaped, literal = false, true
		case c == '\\':
			escaped = true
		case c == '.':
			if err := end(); err != nil {
				return nil, err
			}
		default:
			name.WriteRune(c)
		}
	}
	if escaped {
		return nil, errors.New(`it ends in a \ that nothing follows`)
	}
	if err := end(); err != nil {
		return nil, err
	}
	return parts, nil
}

// illegalRedaction returns why the path cannot be taken out of an event, or "".
func illegalRedaction(path string) string {
	parts, err := splitPath(path)
	if err != nil {
		return "is not a path into an event: " + err.Error() + "; write one such as data.emails or data.emails.value"
	}
	switch first := parts[0]; {
	case first.any, first.name == "id", first.name == "event", first.name == "created_at", first.name == "object":
		return "cannot be taken out: relay and its consumers know an event by its id, event, created_at and object; write a path such as data.emails"
	}
	return ""
}

// hidesKey returns why no event would have a value at the route's key, or "".
func hidesKey(route Route) string {
	if route.Key == "" {
		return ""
	}
	switch do, inside := route.hides(route.Key); {
	case do == remove:
		return "is taken out by redact; pseudonymize it instead, and the pseudonym is the key"
	case do == pseudonymize && inside:
		return "lies inside a value that pseudonymize replaces; pseudonymize the key's own path"
	}
	return ""
}

// hides returns what the route does with the value at a path of names and indexes. inside is set if
// it does that with a value that the path leads through.
func (r Route) hides(path string) (do action, inside bool) {
	at := []*pathNode{pathsOf(r)}
	names := strings.Split(path, ".")
	for i, name := range names {
		below, do := step(at, name)
		if strings.Trim(name, "0123456789") == "" {
			elements, of := element(at)
			below, do = append(below, elements...), max(do, of)
		}
		if do != keep {
			return do, i < len(names)-1
		}
		at = below
	}
	return keep, false
}
