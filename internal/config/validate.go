package config

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"workos-relay/internal/hint"
	"workos-relay/internal/operator"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
)

// keyed is an error that names the key at fault, relative to the struct that returned it.
type keyed interface{ Key() string }

// validate calls Validate on v and on every struct below it, inner ones first, if nothing is wrong
// with them yet.
func (d *decoder) validate(o *object, v reflect.Value, path string) {
	for _, f := range o.fields {
		at, target := join(path, f.name), v.FieldByIndex(f.index)
		switch {
		case f.kind == kindSection && f.optional && target.IsNil():
		case f.kind == kindSection:
			d.validate(f.object, reflect.Indirect(target), at)
		case f.kind == kindSections:
			for i := range target.Len() {
				d.validate(f.object, target.Index(i), fmt.Sprintf("%s[%d]", at, i))
			}
		}
	}
	for _, variant := range o.variants {
		if settings, ok := variant.in(v); ok {
			d.validate(variant.object, settings, path)
		}
	}
	validator, ok := v.Addr().Interface().(interface{ Validate() error })
	if !ok || path == "" || !d.clean(path) {
		return
	}
	for _, err := range split(validator.Validate()) {
		d.reportKeyed(path, err)
	}
}

// reportKeyed reports what a package said of its configuration, which is at path. Its message
// may hold values as the environment filled them in.
func (d *decoder) reportKeyed(path string, err error) {
	sentence, key := withCommand(err), path
	if k, ok := err.(keyed); ok && k.Key() != "" { //nolint:errorlint // the error itself names its key; a wrapped one may be relative to an inner struct
		key = join(path, k.Key())
		sentence = strings.TrimPrefix(sentence, k.Key()+" ")
	}
	d.report(d.locate(key), key, maskCredentials(conceal(sentence, d.fromEnv, "[from the environment]")), "")
}

// withCommand returns the text of err, with the command that lists the event types if err says that
// a pattern matches none.
func withCommand(err error) string {
	text := err.Error()
	if pattern := (*source.PatternError)(nil); errors.As(err, &pattern) {
		text = operator.Explain(text, hint.Types(pattern)...)
	}
	return text
}

// split undoes errors.Join.
func split(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error }) //nolint:errorlint // only the outermost error is split
	if !ok {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, split(e)...)
	}
	return out
}

// check says what no single section can know.
func (d *decoder) check(c *Config) {
	all := d.patterns(c.Source.Events, "source.events")
	if d.clean("sinks") || len(c.Sinks) > 0 {
		d.checkSinks(c, all)
	}
	for i := range c.Sinks {
		d.checkRouting(c, i)
	}
	d.checkVerify(c)
}

// checkVerify reports verify.every if no sink can be compared with anything.
func (d *decoder) checkVerify(c *Config) {
	known := func(s Sink) bool { return s.Kind != nil }
	if c.Verify.Every == 0 || !slices.ContainsFunc(c.Sinks, known) ||
		slices.ContainsFunc(c.Sinks, func(s Sink) bool { return !known(s) || s.Kind.ReadsBack }) {
		return
	}
	d.report(d.locate("verify.every"), "verify.every", "no sink keeps anything that could be compared", "remove the section verify")
}

// checkRouting lets the router of a sink's lane check the routes, the dead letter and their topics
// with the sink's prefix. What is wrong for one lane as for the next is reported once.
func (d *decoder) checkRouting(c *Config, i int) {
	path := fmt.Sprintf("sinks[%d]", i)
	if s := &c.Sinks[i]; len(s.State.Entities) > 0 && s.Kind != nil && !s.Kind.KeepsState {
		d.report(d.locate(path+".state"), path+".state", fmt.Sprintf("a sink of type %s cannot keep state", s.Type), "remove the section")
		return
	}
	d.checkState(&c.Sinks[i], path)
	_, err := router.New(c.RouterConfig(&c.Sinks[i]))
	for _, err := range split(err) {
		at := ""
		k, ok := err.(keyed) //nolint:errorlint // as in reportKeyed
		if ok && (k.Key() == "topic_prefix" || strings.HasPrefix(k.Key(), "state.")) {
			at = path
		}
		if !ok || d.clean(join(at, k.Key())) {
			d.reportKeyed(at, err)
		}
	}
	d.checkPlaceholders(c, &c.Sinks[i])
}

// checkState reports a section state of the sink at path that names no entity: the sink keeps
// nothing, which nobody means who writes an empty list, or wants a snapshot.
func (d *decoder) checkState(s *Sink, path string) {
	at := path + ".state"
	snapshot, _ := reflect.TypeFor[State]().FieldByName("Snapshot")
	_, written := d.places[at+".entities"]
	if len(s.State.Entities) > 0 || !written && s.State.Snapshot == snapshot.Tag.Get("default") || !d.clean(at) {
		return
	}
	d.report(d.locate(at+".entities"), at+".entities", "names no kind of object, so the sink keeps no state",
		`name some, such as [user, organization], or write ["*"] for all, or remove the section state`)
}

// checkPlaceholders reports topics with placeholders if the bus of a sink has none.
func (d *decoder) checkPlaceholders(c *Config, s *Sink) {
	if s.Settings == nil {
		return
	}
	why := fmt.Errorf("a sink of type %s takes none", s.Type)
	if p, ok := s.Settings.(sink.PatternSettings); ok {
		why = p.TakesPatterns()
	}
	for i, route := range c.Routes {
		key := fmt.Sprintf("routes[%d].topic", i)
		if why != nil && router.HasPlaceholders(route.Topic) && d.clean(key) {
			d.report(d.locate(key), key, fmt.Sprintf("has placeholders, and %v (sink %s)", why, s.Name), "")
		}
	}
}

func (d *decoder) checkSinks(c *Config, all []string) {
	if len(c.Sinks) == 0 {
		d.report(d.locate("sinks"), "sinks", "the list is empty", "give at least one sink, or remove the key for an embedded NATS server")
	}
	first := map[string]int{}
	listeners := map[string]int{}
	for i := range c.Sinks {
		s, path := &c.Sinks[i], fmt.Sprintf("sinks[%d]", i)
		if j, twice := first[s.Name]; twice && s.Name != "" && d.clean(path+".name") {
			d.report(d.locate(path+".name"), path+".name", fmt.Sprintf("sinks[%d] has the name %q already", j, s.Name), "each lane needs its own name")
		} else if !twice {
			first[s.Name] = i
		}
		known := d.patterns(s.Events, path+".events")
		if len(all) > 0 && len(known) > 0 && len(carried(all, s.Events)) == 0 {
			d.report(d.locate(path+".events"), path+".events", "none of these types is among those of source.events", "this lane would carry nothing")
		}
		server := s.EmbeddedServer()
		if server == nil {
			continue
		}
		if j, twice := listeners[server.Listen]; twice {
			d.report(d.locate(path+"."+server.Key), path+"."+server.Key, fmt.Sprintf("sinks[%d] runs an embedded server on %s already", j, server.Listen),
				"write its address here, with another "+server.Holds)
		} else {
			listeners[server.Listen] = i
		}
	}
}

// carried returns those of types that one of the patterns matches.
func carried(types, patterns []string) []string {
	var out []string
	for _, t := range types {
		if slices.ContainsFunc(patterns, func(p string) bool { return source.Match(p, t) }) {
			out = append(out, t)
		}
	}
	return out
}

// patterns expands event patterns and reports each that matches nothing. It returns nil if there is
// such a pattern.
func (d *decoder) patterns(patterns []string, path string) []string {
	if !d.clean(path) {
		return nil
	}
	if len(patterns) == 0 {
		d.report(d.locate(path), path, "the list is empty", `name at least one event type, or write ["*"]`)
		return nil
	}
	var all []string
	for i, p := range patterns {
		types, err := source.Expand([]string{p})
		if err != nil {
			at := fmt.Sprintf("%s[%d]", path, i)
			d.reportText(d.locate(at), at, conceal(withCommand(err), d.fromEnv, "[from the environment]"))
		}
		all = append(all, types...)
	}
	return all
}

// conceal puts a placeholder for each of the values in text. Values of one or two characters are no
// secret and would make the text unreadable.
func conceal(text string, values []string, placeholder string) string {
	for _, v := range values {
		if len(v) < 3 {
			continue
		}
		quoted := fmt.Sprintf("%q", v)
		text = strings.ReplaceAll(text, v, placeholder)
		text = strings.ReplaceAll(text, quoted[1:len(quoted)-1], placeholder)
	}
	return text
}

// scrub is the last guard before messages leave: it removes every secret from them.
func (d *decoder) scrub(problems []Problem) []Problem {
	for i := range problems {
		problems[i].Message = conceal(problems[i].Message, d.secrets, "[secret]")
		problems[i].Hint = conceal(problems[i].Hint, d.secrets, "[secret]")
	}
	return problems
}
