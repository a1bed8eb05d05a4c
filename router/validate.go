package router

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"workos-relay/source"
)

// maxTopic is the length of the longest topic name that Kafka takes, because a directory is named
// after it. NATS takes longer names.
const maxTopic = 249

// positions is the prefix of the topics in which relays keep their positions.
const positions = "relay.position."

// isPositions reports whether relays keep their positions on a topic.
func isPositions(topic string) bool {
	return strings.HasPrefix(topic, positions) || topic == strings.TrimSuffix(positions, ".")
}

// KeyError is a fault in the configuration. It names the key at fault.
type KeyError struct {
	key string
	msg string
	err error
}

// Error implements error. It begins with the key.
func (e *KeyError) Error() string { return e.key + " " + e.msg }

// Key is the path of the key, relative to the struct that was checked.
func (e *KeyError) Key() string { return e.key }

// Unwrap returns the cause, such as a *source.PatternError; nil if the message says everything.
func (e *KeyError) Unwrap() error { return e.err }

func keyErrorf(key, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &KeyError{key: key, msg: err.Error(), err: errors.Unwrap(err)}
}

// Validate checks what tags cannot express, except for the patterns, which New checks. The error
// joins a *KeyError for each fault.
func (r Route) Validate() error {
	var errs []error
	if len(r.Events) == 0 {
		errs = append(errs, keyErrorf("events", "names no event type; without one the route can never match"))
	}
	if r.Drop && r.Topic != "" {
		errs = append(errs, keyErrorf("topic", "does not go together with drop: events that are dropped go nowhere"))
	}
	if r.Drop && r.Key != "" {
		errs = append(errs, keyErrorf("key", "does not go together with drop: events that are dropped go nowhere"))
	}
	switch {
	case HasPlaceholders(r.Topic):
		errs = append(errs, r.validatePattern()...)
	case r.Topic != "":
		if reason := illegalTopic(r.Topic); reason != "" {
			errs = append(errs, keyErrorf("topic", "%q is not a valid topic name: %s", r.Topic, reason))
		}
	}
	if r.Where != "" {
		if _, err := compileWhere(r.Where); err != nil {
			errs = append(errs, keyErrorf("where", "%w", err))
		}
	}
	errs = append(errs, r.validateHeaders()...)
	if reason := illegalKeyPath(r.Key); reason != "" {
		errs = append(errs, keyErrorf("key", "%q is not a path into an event: %s; write one such as data.directory_id", r.Key, reason))
	}
	return errors.Join(append(errs, r.validateRedaction()...)...)
}

func (r Route) validateRedaction() []error {
	var errs []error
	check := func(key string, paths []string) {
		if r.Drop && len(paths) > 0 {
			errs = append(errs, keyErrorf(key, "does not go together with drop: events that are dropped go nowhere"))
		}
		for i, path := range paths {
			if reason := illegalRedaction(path); reason != "" {
				errs = append(errs, keyErrorf(fmt.Sprintf("%s[%d]", key, i), "%q %s", path, reason))
			}
		}
	}
	check("redact", r.Redact)
	check("pseudonymize", r.Pseudonymize)
	if reason := hidesKey(r); reason != "" && illegalKeyPath(r.Key) == "" {
		errs = append(errs, keyErrorf("key", "%q %s", r.Key, reason))
	}
	return errs
}

// minRedactionKey is the length, in bytes, below which a key could be guessed.
const minRedactionKey = 16

// validateRedactionKey checks the key of the pseudonyms if a route needs one.
func (c Config) validateRedactionKey() []error {
	if !slices.ContainsFunc(c.Routes, func(r Route) bool { return len(r.Pseudonymize) > 0 }) {
		return nil
	}
	const key = "redaction.key"
	switch n := len(c.RedactionKey.Reveal()); {
	case n == 0:
		return []error{keyErrorf(key, "is missing; routes pseudonymize values, and without a key anybody could compute what stands for them")}
	case n < minRedactionKey:
		return []error{keyErrorf(key, "is shorter than %d characters and could be guessed; make one with: openssl rand -hex 32", minRedactionKey)}
	}
	return nil
}

func (c Config) validate() error {
	var errs []error
	if !slices.Contains([]Encoding{Raw, CloudEvents, CloudEventsStructured}, c.Encoding) {
		errs = append(errs, keyErrorf("encoding", "%q is not known; it is one of %s, %s and %s", c.Encoding, Raw, CloudEvents, CloudEventsStructured))
	}
	if _, ok := bindings[c.Binding]; !ok {
		errs = append(errs, keyErrorf("binding", "%q is not known; it is %s or %s", c.Binding, NATS, Kafka))
	}
	if c.Relay == "" && (c.Encoding == CloudEvents || c.Encoding == CloudEventsStructured) {
		errs = append(errs, keyErrorf("id", "is empty, and CloudEvents carry it in their source"))
	}
	if c.Prefix != "" {
		if reason := illegalTopic(c.Prefix + "x"); reason != "" {
			errs = append(errs, keyErrorf("topic_prefix", "%q does not make a valid topic name: %s", c.Prefix, reason))
			c.Prefix = "" // the rest is checked without it
		} else if strings.HasPrefix(c.Prefix+"x", positions) {
			errs = append(errs, keyErrorf("topic_prefix", "%q would put events where relay keeps its positions", c.Prefix))
		}
	}
	for i, route := range c.Routes {
		errs = append(errs, c.validateRoute(fmt.Sprintf("routes[%d].", i), route)...)
	}
	errs = append(errs, c.validateRedactionKey()...)
	errs = append(errs, c.validatePatterns()...)
	return errors.Join(append(errs, c.validateTopics()...)...)
}

func (c Config) validateRoute(at string, route Route) []error {
	var errs []error
	for i, pattern := range route.Events {
		if _, err := source.Expand([]string{pattern}); err != nil {
			errs = append(errs, &KeyError{key: fmt.Sprintf("%sevents[%d]", at, i), msg: err.Error(), err: err})
		}
	}
	joined, ok := route.Validate().(interface{ Unwrap() []error })
	if !ok {
		return errs
	}
	for _, err := range joined.Unwrap() {
		var ke *KeyError
		if errors.As(err, &ke) {
			errs = append(errs, &KeyError{key: at + ke.key, msg: ke.msg, err: ke.err})
		}
	}
	return errs
}

// validateTopics checks the topics with the prefix. Those that are illegal without it were reported
// before.
func (c Config) validateTopics() []error {
	var errs []error
	check := func(key, topic string) {
		full := c.Prefix + topic
		switch {
		case topic == "" || illegalTopic(topic) != "":
		case strings.HasPrefix(full+".", positions):
			errs = append(errs, keyErrorf(key, "%q is not a topic for events: relay keeps its positions below %s", full, strings.TrimSuffix(positions, ".")))
		case illegalTopic(full) != "":
			errs = append(errs, keyErrorf(key, "%q is not a valid topic name: %s", full, illegalTopic(full)))
		}
	}
	for i, route := range c.Routes {
		if !HasPlaceholders(route.Topic) {
			check(fmt.Sprintf("routes[%d].topic", i), route.Topic)
		}
	}
	if longest := len(c.Prefix) + longestType(); longest > maxTopic {
		errs = append(errs, keyErrorf("topic_prefix", "has %d characters; with the longest event type that makes %d, and a topic name may have %d",
			len(c.Prefix), longest, maxTopic))
	}
	if c.DeadLetter == "" {
		return errs
	}
	const key = "dead_letter.topic"
	if reason := illegalTopic(c.DeadLetter); reason != "" {
		errs = append(errs, keyErrorf(key, "%q is not a valid topic name: %s", c.DeadLetter, reason))
	}
	check(key, c.DeadLetter)
	taken := func(r Route) bool { return r.Topic == c.DeadLetter }
	if _, isType := source.Lookup(c.DeadLetter); isType || slices.ContainsFunc(c.Routes, taken) {
		errs = append(errs, keyErrorf(key, "%q is a topic that events go to; dead letters have another form and need their own topic", c.DeadLetter))
	}
	return errs
}

func longestType() int {
	longest := 0
	for _, t := range source.Catalogue() {
		longest = max(longest, len(t.Name))
	}
	return longest
}

// illegalTopic returns why one of the buses does not take name as a topic, or "".
func illegalTopic(name string) string {
	if name == "" {
		return "it is empty"
	}
	if len(name) > maxTopic {
		return fmt.Sprintf("it has %d characters, and %d are allowed", len(name), maxTopic)
	}
	for token := range strings.SplitSeq(name, ".") {
		if token == "" {
			return "a part between dots is empty"
		}
		for _, c := range token {
			if !isWord(c) {
				return fmt.Sprintf("%q is not allowed, only letters, digits, _ and -, with single dots between", c)
			}
		}
	}
	return ""
}

func isWord(c rune) bool {
	return c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
