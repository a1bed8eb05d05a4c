package router

import (
	"errors"
	"fmt"
	"strings"

	"workos-relay/sink"
	"workos-relay/source"
)

// maxToken bounds, in bytes, the part of a topic that comes from inside of an event. An id of
// WorkOS has about 30.
const maxToken = 128

// topicPattern is a topic with placeholders: the topic of an event is made from its values. Each
// placeholder is a whole token, so that two different lists of values make two different topics.
type topicPattern struct {
	text     string // as in the configuration, with the prefix
	wildcard string // what it can become: see sink.IsPattern
	tokens   []topicToken
}

// topicToken is what stands between two dots of a topic.
type topicToken struct {
	literal string // empty for a placeholder

	from     valuePath
	path     string // of the placeholder, as written
	fallback string // instead of a value; empty for none
}

// HasPlaceholders reports whether the topic of a route is meant to have placeholders.
func HasPlaceholders(topic string) bool { return strings.ContainsAny(topic, "{}") }

// parseTopic splits a topic into tokens. The error completes "… is not a valid topic name: ".
func parseTopic(text string) ([]topicToken, error) {
	var tokens []topicToken
	for rest := text; ; {
		token, after, err := nextToken(rest)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, token)
		if after == "" {
			break
		}
		if rest = after[1:]; rest == "" {
			return nil, errors.New("a part between dots is empty")
		}
	}
	if tokens[0].literal == "" {
		return nil, errors.New("it begins with a placeholder; begin it with a word, below which all of its topics are")
	}
	return tokens, nil
}

// nextToken cuts the first token off. after begins with the dot that follows, or is empty.
func nextToken(text string) (token topicToken, after string, err error) {
	const alone = "a placeholder stands alone between dots, as in workos.{organization_id}.{type}, so that two events never share a topic by accident"
	if !strings.HasPrefix(text, "{") {
		literal, _, _ := strings.Cut(text, ".")
		if strings.ContainsAny(literal, "{}") {
			return topicToken{}, "", errors.New(alone)
		}
		if reason := illegalTopic(literal); reason != "" {
			if literal == "" {
				reason = "a part between dots is empty"
			}
			return topicToken{}, "", errors.New(reason)
		}
		return topicToken{literal: literal}, text[len(literal):], nil
	}
	inside, after, closed := strings.Cut(text[1:], "}")
	if !closed {
		return topicToken{}, "", errors.New("a { is not closed")
	}
	if after != "" && after[0] != '.' {
		return topicToken{}, "", errors.New(alone)
	}
	path, fallback, hasFallback := strings.Cut(inside, ":")
	if hasFallback {
		if reason := illegalToken(fallback); reason != "" {
			return topicToken{}, "", fmt.Errorf("the fallback %q of a placeholder cannot be a part of a topic: %s", fallback, reason)
		}
		if path == varType {
			return topicToken{}, "", errors.New("{type} needs no fallback, because every event has a type")
		}
	}
	return topicToken{from: newValuePath(path), path: path, fallback: fallback}, after, nil
}

// illegalToken returns why text cannot stand between two dots of a topic, or "".
func illegalToken(text string) string {
	if text == "" {
		return "it is empty"
	}
	if len(text) > maxToken {
		return fmt.Sprintf("it has %d characters, and %d are allowed", len(text), maxToken)
	}
	for _, c := range text {
		if !isWord(c) {
			return fmt.Sprintf("%q is not allowed, only letters, digits, _ and -", c)
		}
	}
	return ""
}

// newTopicPattern returns the pattern of a topic that was validated.
func newTopicPattern(prefix, text string) *topicPattern {
	tokens, _ := parseTopic(text)
	p := &topicPattern{text: prefix + text, tokens: tokens}
	p.wildcard = prefix
	for i := range tokens {
		t := &tokens[i]
		if i > 0 {
			p.wildcard += "."
		}
		switch {
		case t.literal != "":
			p.wildcard += t.literal
		case t.from.name == varType: // which has dots itself
			p.wildcard += ">"
			return p
		default:
			p.wildcard += "*"
		}
	}
	return p
}

// topic returns the topic of an event. f are the fields of e. The error is a *sink.RejectedError:
// no value of an event is changed to fit, because another event could then have the same.
func (p *topicPattern) topic(prefix string, e *source.Event, f *fields) (string, error) {
	reject := func(format string, args ...any) (string, error) {
		return "", &sink.RejectedError{Topic: p.text, Reason: fmt.Sprintf(format, args...)}
	}
	b := make([]byte, 0, len(p.text)+64)
	b = append(b, prefix...)
	for i := range p.tokens {
		t := &p.tokens[i]
		if i > 0 {
			b = append(b, '.')
		}
		if t.literal != "" {
			b = append(b, t.literal...)
			continue
		}
		value := t.from.text(e, f)
		switch {
		case t.from.name == varType: // checked below, with its dots
		case value == "" && t.fallback == "":
			return reject("the event has no value for {%s} in the topic; give the placeholder a fallback, as in {%s:none}", t.path, t.path)
		case value == "":
			value = t.fallback
		case value == t.fallback:
			return reject("the value of the event for {%s} in the topic is the fallback, %q, of events without a value", t.path, value)
		default:
			if reason := illegalToken(value); reason != "" {
				return reject("the value of the event for {%s} cannot be a part of a topic: %s", t.path, reason)
			}
		}
		b = append(b, value...)
	}
	topic := string(b)
	if reason := illegalTopic(topic); reason != "" {
		return reject("the topic that the values of the event make is not a valid name: %s", reason)
	}
	return topic, nil
}

// validatePattern checks the topic of a route that has placeholders, without its prefix.
func (r Route) validatePattern() []error {
	tokens, err := parseTopic(r.Topic)
	if err != nil {
		return []error{keyErrorf("topic", "%q is not a valid topic name: %w", r.Topic, err)}
	}
	var errs []error
	if tokens[0].literal == strings.TrimSuffix(StatePrefix, ".") {
		errs = append(errs, keyErrorf("topic", "%q could be a topic of state, where only the newest version of each object is kept; begin it with another word", r.Topic))
	}
	for _, t := range tokens {
		if t.literal != "" {
			continue
		}
		if t.path == "event" {
			errs = append(errs, keyErrorf("topic", "%q names the member event; write {type} for the event type", r.Topic))
			continue
		}
		if reason := r.illegalValue(t.path); reason != nil {
			errs = append(errs, keyErrorf("topic", "%q has the placeholder {%s}, which %w", r.Topic, t.path, reason))
			continue
		}
		for _, path := range pathsOfValue(t.path) {
			if do, _ := r.hides(path); do != keep {
				errs = append(errs, keyErrorf("topic", "%q has the placeholder {%s}, and the route takes out or pseudonymizes %s, which cannot be a part of a topic then", r.Topic, t.path, path))
				break
			}
		}
	}
	return errs
}

// pathsOfValue returns the paths in an event that a valuePath reads.
func pathsOfValue(path string) []string {
	switch path {
	case varType:
		return nil
	case varOrganization:
		paths := []string{"data.organization_id"}
		for _, p := range otherPlaces.organization {
			if p.path != "id" {
				paths = append(paths, "data."+p.path)
			}
		}
		return paths
	default:
		return []string{path}
	}
}

// validatePatterns checks topics with placeholders against every other topic: what an event holds
// must not lead it to where something else is.
func (c Config) validatePatterns() []error {
	var errs []error
	var all []*topicPattern
	for i, route := range c.Routes {
		if !HasPlaceholders(route.Topic) || len(route.validatePattern()) > 0 {
			continue
		}
		key := fmt.Sprintf("routes[%d].topic", i)
		p := newTopicPattern(c.Prefix, route.Topic)
		if other := c.coveredBy(p, all); other != "" {
			errs = append(errs, keyErrorf(key, "%q could become %s; begin it with another word, so that no value of an event leads to a topic that something else uses", p.text, other))
		}
		all = append(all, p)
	}
	return errs
}

// coveredBy returns which other topic p may become, or "".
func (c Config) coveredBy(p *topicPattern, before []*topicPattern) string {
	switch {
	case sink.Overlap(p.wildcard, positions+">"), sink.Overlap(p.wildcard, strings.TrimSuffix(positions, ".")):
		return "a topic below " + strings.TrimSuffix(positions, ".") + ", where relay keeps its positions"
	case c.DeadLetter != "" && sink.Overlap(p.wildcard, c.Prefix+c.DeadLetter):
		return c.Prefix + c.DeadLetter + ", the topic of dead letters"
	}
	for _, t := range source.Catalogue() {
		if sink.Overlap(p.wildcard, c.Prefix+t.Name) {
			return c.Prefix + t.Name + ", the topic of that event type"
		}
	}
	for i, route := range c.Routes {
		if route.Topic != "" && !HasPlaceholders(route.Topic) && sink.Overlap(p.wildcard, c.Prefix+route.Topic) {
			return fmt.Sprintf("%s, the topic of routes[%d]", c.Prefix+route.Topic, i)
		}
	}
	for _, other := range before {
		if other.wildcard != p.wildcard && sink.Overlap(p.wildcard, other.wildcard) {
			return "the same as " + other.text + ", which has another form"
		}
	}
	return ""
}
