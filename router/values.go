package router

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tidwall/gjson"

	"workos-relay/source"
)

// valuePath is where a header of a route, or a placeholder of its topic, takes its value from: the
// event type, the organization, or a path into the event.
type valuePath struct {
	name string // varType or varOrganization; empty for a path
	path keyPath
}

func newValuePath(text string) valuePath {
	if text == varType || text == varOrganization {
		return valuePath{name: text}
	}
	return valuePath{path: newKeyPath(text)}
}

// text returns a string, a number or a boolean as text, and "" for every other value. f are the
// fields of e. The text may alias the event's bytes.
func (p valuePath) text(e *source.Event, f *fields) string {
	switch p.name {
	case varType:
		return e.Event
	case varOrganization:
		return f.organization
	}
	found := p.path.find(e)
	switch found.Type {
	case gjson.True, gjson.False:
		return found.Raw
	default:
		return text(found)
	}
}

// headerRule is one entry of Route.Headers.
type headerRule struct {
	name string
	from valuePath
}

// headerRules returns the headers of a route, sorted by name.
func headerRules(route Route) []headerRule {
	var rules []headerRule
	for _, name := range slices.Sorted(maps.Keys(route.Headers)) {
		rules = append(rules, headerRule{name, newValuePath(route.Headers[name])})
	}
	return rules
}

// Bounds of Route.Headers.
const (
	maxRouteHeaders = 16
	maxHeaderName   = 64 // characters
)

// ownHeaders are headers, and ownHeaderPrefixes what headers begin with, that relay or a bus sets
// itself, in lower case.
var (
	ownHeaders        = []string{HeaderOrganization, HeaderActor, "content-type", HeaderEntity}
	ownHeaderPrefixes = []string{"event-", "relay-", "nats-", "kv-", "ce-", "ce_"}
)

// illegalHeader returns why name is not the name of a header that a route can set, or "".
func illegalHeader(name string) string {
	if name == "" {
		return "it is empty"
	}
	if len(name) > maxHeaderName {
		return fmt.Sprintf("it has %d characters, and %d are allowed", len(name), maxHeaderName)
	}
	for _, c := range name {
		if !isWord(c) {
			return fmt.Sprintf("%q is not allowed, only letters, digits, _ and -", c)
		}
	}
	lower := strings.ToLower(name)
	own := func(prefix string) bool { return strings.HasPrefix(lower, prefix) }
	if slices.Contains(ownHeaders, lower) || slices.ContainsFunc(ownHeaderPrefixes, own) {
		return "relay or the bus sets headers of that name; choose another one"
	}
	return ""
}

// validateHeaders checks Route.Headers.
func (r Route) validateHeaders() []error {
	if len(r.Headers) == 0 {
		return nil
	}
	var errs []error
	if r.Drop {
		errs = append(errs, keyErrorf("headers", "do not go together with drop: events that are dropped go nowhere"))
	}
	if len(r.Headers) > maxRouteHeaders {
		errs = append(errs, keyErrorf("headers", "has %d entries, and %d are allowed", len(r.Headers), maxRouteHeaders))
	}
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(r.Headers)) {
		key := "headers." + name
		if reason := illegalHeader(name); reason != "" {
			errs = append(errs, keyErrorf(key, "%q is not a name for a header: %s", name, reason))
		}
		lower := strings.ToLower(name)
		if other, taken := seen[lower]; taken {
			errs = append(errs, keyErrorf(key, "differs from %s in upper and lower case alone, and consumers may take them for one", other))
		}
		seen[lower] = name
		if reason := r.illegalValue(r.Headers[name]); reason != nil {
			errs = append(errs, keyErrorf(key, "%q %w", r.Headers[name], reason))
		}
	}
	return errs
}

// illegalValue returns why no event of the route has a value at path, or nil.
func (r Route) illegalValue(path string) error {
	const example = "; write one such as data.directory_id"
	if path == "" {
		return errors.New("is not a path into an event: it is empty" + example)
	}
	if path == varType || path == varOrganization {
		return nil
	}
	if reason := illegalKeyPath(path); reason != "" {
		return errors.New("is not a path into an event: " + reason + example)
	}
	switch do, inside := r.hides(path); {
	case do == remove:
		return errors.New("is taken out by redact; pseudonymize it instead")
	case do == pseudonymize && inside:
		return errors.New("lies inside a value that pseudonymize replaces; pseudonymize its own path")
	}
	return nil
}
