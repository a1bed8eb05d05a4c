package router

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
)

// leaf is a value that is neither object nor list, or an empty one of those, with the names that
// lead to it.
type leaf struct {
	path   string
	text   string
	hashed bool
}

// oracle says for each value, by the names and places that lead to it, what should become of it. It
// backtracks over the whole path and knows nothing of how the router goes through an event.
type oracle struct{ removed, hashed []pathPart }

func oracleOf(t *testing.T, removed, hashed string) oracle {
	t.Helper()
	var o oracle
	var err error
	o.removed, err = splitPath(removed)
	require.NoError(t, err)
	o.hashed, err = splitPath(hashed)
	require.NoError(t, err)
	return o
}

// place is a name, or an element of a list.
type place struct {
	name    string
	element bool
}

// matches reports whether pattern names exactly the value at path.
func matches(pattern []pathPart, path []place) bool {
	a := attempt{pattern, path, make([]bool, (len(pattern)+1)*(len(path)+1))}
	return a.at(0, 0)
}

// attempt remembers failed places: in lists within lists there are too many ways to most places to
// try each.
type attempt struct {
	pattern []pathPart
	path    []place
	failed  []bool // by how much of each is done
}

func (a *attempt) at(part, level int) bool {
	here := part*(len(a.path)+1) + level
	if a.failed[here] {
		return false
	}
	ok := a.try(part, level)
	a.failed[here] = !ok
	return ok
}

func (a *attempt) try(part, level int) bool {
	done := part == len(a.pattern)
	switch {
	case level == len(a.path):
		return done
	case a.path[level].element && a.at(part, level+1): // a list stands for its elements
		return !done
	case done:
		return false
	case a.path[level].element:
		return a.pattern[part].any && a.at(part+1, level+1)
	default:
		return (a.pattern[part].any || a.pattern[part].name == a.path[level].name) && a.at(part+1, level+1)
	}
}

func (o oracle) walk(text string, path []place, to []leaf) []leaf {
	return o.value(gjson.Parse(text), path, to, false)
}

func (o oracle) value(v gjson.Result, path []place, to []leaf, hashed bool) []leaf {
	if len(path) > 0 && o.removed != nil && !hashed && matches(o.removed, path) {
		return to
	}
	hashed = hashed || o.hashed != nil && matches(o.hashed, path)
	if entered := v.IsArray() || v.IsObject() && !hashed; !entered {
		return append(to, leaf{path: named(path), text: v.Raw, hashed: hashed && v.Type != gjson.Null})
	}
	to = append(to, leaf{path: named(path), text: v.Raw[:1]})
	v.ForEach(func(name, child gjson.Result) bool {
		at := place{name: strings.ToValidUTF8(name.String(), "\uFFFD"), element: v.IsArray()}
		if at.element {
			at.name = ""
		}
		to = o.value(child, append(slices.Clone(path), at), to, hashed)
		return true
	})
	return to
}

func named(path []place) string {
	var b strings.Builder
	for _, p := range path {
		b.WriteByte('/')
		b.WriteString(p.name)
	}
	return b.String()
}
