package source

import (
	"fmt"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// Type is what is known of one event type.
type Type struct {
	Name       string
	Domain     string // the first token of the name, such as dsync
	Default    bool   // subscribable, and part of the default set
	Deprecated bool   // gone from the API; never requested unless named in full
	// Successor is the type that replaces this one, empty if there is none. While both can be
	// subscribed to, events of either may come: WorkOS likely sends further events of one owner
	// under the new name only.
	Successor string
}

var families = buildFamilies()

// buildFamilies lists every pattern such as dsync.* and dsync.user.*: what a mistyped pattern may
// have meant.
func buildFamilies() []string {
	var out []string
	for _, t := range types {
		for i, c := range t.Name {
			if c == '.' {
				out = append(out, t.Name[:i]+".*")
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Catalogue returns every known event type sorted by name: those of the schemas that WorkOS
// publishes with its clients, and those that are Deprecated. The slice belongs to the caller.
func Catalogue() []Type { return slices.Clone(types) }

// Lookup returns what is known of the event type name.
func Lookup(name string) (Type, bool) {
	i, ok := slices.BinarySearchFunc(types, name, func(t Type, name string) int { return strings.Compare(t.Name, name) })
	if !ok {
		return Type{}, false
	}
	return types[i], true
}

// PatternError says that a pattern stands for no event type.
type PatternError struct {
	Pattern string
	Nearest string // the known name or pattern that was most likely meant; empty if none is near
}

// Error implements error.
func (e *PatternError) Error() string {
	switch {
	case strings.HasPrefix(e.Pattern, "+"):
		return fmt.Sprintf("%q is not an event type name: after + stands one whole name of a-z, 0-9, _ and ., at most %d bytes, and no *", e.Pattern, maxNameBytes)
	case e.Nearest != "":
		return fmt.Sprintf("%q is not a known event type or pattern; did you mean %q? (write +%s to ask for a type that relay does not know)", e.Pattern, e.Nearest, e.Pattern)
	case strings.Contains(e.Pattern, "*") || e.Pattern == "":
		return fmt.Sprintf("%q matches no known event type", e.Pattern)
	default:
		return fmt.Sprintf("%q is not a known event type (write +%s to ask for a type that relay does not know)", e.Pattern, e.Pattern)
	}
}

// Expand turns patterns into the event types they stand for, sorted and each once. A pattern is one
// of:
//   - a name: that type, opt-in and deprecated ones included;
//   - a glob, in which * stands for any run of characters, dots included: the types of the default
//     set that match, so that a
//     single * stands for the default set; if none of those matches, the opt-in types that do
//     (vault.*). Never a deprecated type;
//   - + and a name (+future.type.created): that name, known or not, for a type newer than this
//     catalogue.
//
// A pattern that stands for nothing is a *PatternError.
func Expand(patterns []string) ([]string, error) {
	var out []string
	for _, p := range patterns {
		names, err := expand(p)
		if err != nil {
			return nil, err
		}
		out = append(out, names...)
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func expand(pattern string) ([]string, error) {
	if name, ok := strings.CutPrefix(pattern, "+"); ok {
		if !wellFormedName(name) {
			return nil, &PatternError{Pattern: pattern}
		}
		return []string{name}, nil
	}
	if !strings.Contains(pattern, "*") {
		if _, ok := Lookup(pattern); !ok {
			return nil, &PatternError{Pattern: pattern, Nearest: nearest(pattern)}
		}
		return []string{pattern}, nil
	}
	var inDefault, optIn []string
	for _, t := range types {
		switch {
		case t.Deprecated || !Match(pattern, t.Name):
		case t.Default:
			inDefault = append(inDefault, t.Name)
		default:
			optIn = append(optIn, t.Name)
		}
	}
	if len(inDefault) > 0 {
		return inDefault, nil
	}
	if len(optIn) == 0 {
		return nil, &PatternError{Pattern: pattern, Nearest: nearest(pattern)}
	}
	return optIn, nil
}

// Match reports whether the event type name matches pattern: a name, with or without + before it,
// or a glob in which * stands for any run of characters, none and dots included. It knows no
// catalogue: * matches every name.
func Match(pattern, name string) bool {
	pattern = strings.TrimPrefix(pattern, "+")
	var p, n int
	star, resume := -1, 0 // the last * met, and where in name it may still grow from
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, resume = p, n
			p++
		case p < len(pattern) && pattern[p] == name[n]:
			p++
			n++
		case star >= 0:
			resume++
			p, n = star+1, resume
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// wellFormedName reports whether name has the form of WorkOS's type names: tokens of a-z, 0-9 and
// _, with dots between them.
func wellFormedName(name string) bool {
	if len(name) > maxNameBytes {
		return false
	}
	for token := range strings.SplitSeq(name, ".") {
		if token == "" {
			return false
		}
		for _, c := range []byte(token) {
			if c != '_' && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
				return false
			}
		}
	}
	return true
}

// nearest returns the known name, or for a glob the known family, that is fewest edits away; empty
// if that is too many to be a slip of the pen.
func nearest(pattern string) string {
	if len(pattern) > maxNameBytes {
		return ""
	}
	var best string
	limit := max(2, len(pattern)/3) + 1
	try := func(candidate string) {
		if d := levenshtein.ComputeDistance(pattern, candidate); d < limit {
			best, limit = candidate, d
		}
	}
	if strings.Contains(pattern, "*") {
		for _, f := range families {
			try(f)
		}
		return best
	}
	for _, t := range types {
		if !t.Deprecated {
			try(t.Name)
		}
	}
	return best
}

// maxNameBytes bounds event ids and types, which become headers and subjects.
const maxNameBytes = 256
