package router

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"workos-relay/conf/secret"
	"workos-relay/internal/printable"
	"workos-relay/sink"
	"workos-relay/source"
)

// Route says where the events of some types go.
type Route struct {
	Events []string `yaml:"events" required:"true" doc:"Event types that this route takes: names, or patterns such as dsync.user.*. The first route that matches an event decides alone." example:"[\"dsync.user.*\"]"`
	Topic  string   `yaml:"topic" doc:"Topic, or subject, that they go to. Empty: each goes to the one named like its type. In Kafka only events of one topic keep their order. {path} stands for the value at a path into the event, {type} and {organization_id} for the event type and the organization; with {path:none} events without a value go to none." example:"workos.{organization_id:none}.{type}"`
	Key    string   `yaml:"key" doc:"Path into the event whose value is the partition key. If empty, or if the event has no such value: its organization, else directory, user, object or event id." example:"data.directory_id"`
	Drop   bool     `yaml:"drop" default:"false" doc:"Publish none of them. The position moves past them all the same."`
	Where  string   `yaml:"where" doc:"Expression in CEL (https://cel.dev) that an event must satisfy besides its type; one that does not goes to the next route. Variables: type, organization_id, data and event. An expression that cannot be evaluated for an event counts as false, unless the route redacts: then the event is parked." example:"organization_id == \"org_test\""`

	Headers map[string]string `yaml:"headers" doc:"More headers: names, each with the path of the value in the event; type and organization_id stand for the event type and the organization. An event without the value has no such header." example:"{tenant: data.organization_id}"`

	Redact       []string `yaml:"redact" doc:"Paths of values that are taken out of the event before anything is published: names with dots between, * for every name, \\ before a dot or a * that is part of a name. Lists are gone through, so data.emails.value is the value of each." example:"[data.raw_attributes, data.emails.value]"`
	Pseudonymize []string `yaml:"pseudonymize" doc:"Paths of values that are replaced by their HMAC-SHA-256 under redaction.key, so that equal values stay equal. An object is replaced as a whole, a list element by element." example:"[data.idp_id]"`
}

// Headers are the headers that a message has only if the configuration asks for them.
type Headers struct {
	Actor bool `yaml:"actor" default:"false" doc:"Set the header actor-id to the id of who or what caused the event, if the event names it (context.actor.id). It is personal data."`
}

// Encoding is how an event becomes the headers and the body of a message.
type Encoding string

// The encodings.
const (
	Raw                   Encoding = "raw"                    // the body is the event byte for byte as received
	CloudEvents           Encoding = "cloudevents"            // binary mode: the attributes are headers, the body is as in Raw
	CloudEventsStructured Encoding = "cloudevents_structured" // the body is a CloudEvent in JSON around the event
)

// Binding is the bus whose CloudEvents binding applies.
type Binding string

// The bindings.
const (
	NATS  Binding = "nats"
	Kafka Binding = "kafka"
)

// Config configures a Router. Only Routes and Encoding have this form in the configuration file;
// the other fields are set for each lane.
type Config struct {
	Relay      string   `yaml:"-"` // id of the relay: the source attribute of CloudEvents is relay/<id>
	Prefix     string   `yaml:"-"` // put before each topic unchanged, also before that of dead letters
	Routes     []Route  `yaml:"routes" doc:"Where events go; the first route that matches decides. An event that none matches goes to the topic named like its type."`
	Encoding   Encoding `yaml:"encoding" default:"raw" enum:"raw,cloudevents,cloudevents_structured" doc:"Form of a message: the event as received, or a CloudEvent in binary or structured mode."`
	Headers    Headers  `yaml:"-"`
	DeadLetter string   `yaml:"-"` // topic for events that can never be published; empty for none
	Binding    Binding  `yaml:"-"` // NATS if empty

	RedactionKey secret.String `yaml:"-"` // of the pseudonyms; required if a route pseudonymizes

	// State are the entities whose objects the lane keeps on state topics: names, or "*" for each
	// entity whose events the lane carries. Types are the event types that the lane carries; they
	// are needed only with State.
	State []string `yaml:"-"`
	Types []string `yaml:"-"`

	// WhereFailed is told of each event that goes on to the next route because the expression of a
	// route, by index, cannot be evaluated for it, each time that the event is routed. err holds
	// nothing of the event. It may be called from any goroutine; nil for nobody.
	WhereFailed func(route int, e *source.Event, err error) `yaml:"-"`
}

// ErrNoDeadLetter is the error of DeadLetter if no such topic is configured.
var ErrNoDeadLetter = errors.New("no dead_letter topic is configured")

// Router turns events into messages. It is safe for concurrent use.
type Router struct {
	routes      []compiledRoute
	known       map[string]decision
	prefix      string
	deadLetter  string
	encoding    Encoding
	headers     Headers
	ceSource    string
	binding     binding
	whereFailed whereFailed

	kept  map[string]*kept // by entity; nil if the lane keeps none
	fixed map[string]bool  // topics that routes name, with the prefix

	patterns []*topicPattern

	forRedacted func() *Router // as redactedBefore returns it, made once
}

// compiledRoute is a route without its prefix. The topic of its decision is empty if the type names
// it.
type compiledRoute struct {
	patterns []string
	decision
}

// decision says what is done with the events of one type.
type decision struct {
	topic   string // with the prefix; of a pattern the wildcard
	typed   bool   // topic is made of the event's type
	pattern *topicPattern
	key     keyPath
	dropped bool
	redact  *redaction
	headers []headerRule

	route int        // its index; -1 if no route matches
	when  *condition // nil if it is true of every event
	next  *decision  // what is done with the events for which when is false; set if when is
}

// New checks cfg and returns its Router. The error joins a *KeyError for each fault.
func New(cfg Config) (*Router, error) {
	if cfg.Encoding == "" {
		cfg.Encoding = Raw
	}
	if cfg.Binding == "" {
		cfg.Binding = NATS
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	r := &Router{
		prefix:   cfg.Prefix,
		encoding: cfg.Encoding,
		headers:  cfg.Headers,
		ceSource: cloudEventsSource(cfg.Relay),
		binding:  bindings[cfg.Binding],
		known:    make(map[string]decision),
		fixed:    make(map[string]bool),

		whereFailed: cfg.WhereFailed,
	}
	if r.whereFailed == nil {
		r.whereFailed = tellNobody
	}
	if cfg.DeadLetter != "" {
		r.deadLetter = cfg.Prefix + cfg.DeadLetter
	}
	for i, route := range cfg.Routes {
		d := decision{key: newKeyPath(route.Key), dropped: route.Drop, redact: newRedaction(route, cfg.RedactionKey), headers: headerRules(route), route: i}
		if route.Topic != "" {
			d.topic = cfg.Prefix + route.Topic
			r.fixed[d.topic] = true
		}
		if HasPlaceholders(route.Topic) {
			d.pattern = newTopicPattern(cfg.Prefix, route.Topic)
			d.topic = d.pattern.wildcard
			r.patterns = append(r.patterns, d.pattern)
		}
		if route.Where != "" {
			program, err := compileWhere(route.Where)
			if err != nil {
				return nil, keyErrorf(fmt.Sprintf("routes[%d].where", i), "%w", err)
			}
			d.when = &condition{program}
		}
		r.routes = append(r.routes, compiledRoute{slices.Clone(route.Events), d})
	}
	for _, t := range source.Catalogue() {
		r.known[t.Name] = r.decide(t.Name, 0)
	}
	if err := r.keep(cfg); err != nil {
		return nil, err
	}
	r.forRedacted = sync.OnceValue(r.redactedBefore)
	return r, nil
}

// decide applies the routes from the one at index from on.
func (r *Router) decide(eventType string, from int) decision {
	matches := func(pattern string) bool { return source.Match(pattern, eventType) }
	for i := from; i < len(r.routes); i++ {
		if !slices.ContainsFunc(r.routes[i].patterns, matches) {
			continue
		}
		d := r.routes[i].decision
		if d.topic == "" {
			d.topic, d.typed = r.prefix+eventType, true
		}
		if d.when != nil {
			next := r.decide(eventType, i+1)
			d.next = &next
		}
		return d
	}
	return decision{topic: r.prefix + eventType, typed: true, route: -1}
}

// byType returns the decision of the first route that matches the type. Its expression is not
// evaluated.
func (r *Router) byType(eventType string) decision {
	if d, ok := r.known[eventType]; ok {
		return d
	}
	return r.decide(eventType, 0)
}

// decision returns what is done with e. The error is a *sink.RejectedError.
func (r *Router) decision(e *source.Event) (decision, error) {
	d := r.byType(e.Event)
	if d.when == nil {
		return d, nil
	}
	return r.choose(d, e, tellNobody)
}

// forbidden returns why no event of a type may go to the topic of d, or nil.
//
// P15: an event's type does not lead it to a position, to state, to the dead letters, or to a topic
// that a route names for other events.
func (r *Router) forbidden(d *decision, eventType string) error {
	var why string
	isKnown := func() bool { _, known := source.Lookup(eventType); return known }
	switch {
	case d.pattern != nil: // validated
	case isPositions(d.topic):
		why = "topics below " + positions + " hold the positions of relays, and no event may go there"
	case r.holdsState(d.topic), d.typed && strings.HasPrefix(d.topic, r.prefix+StatePrefix):
		why = "only the newest version of each object is kept there, and no event may take its place"
	case !d.typed:
	case d.topic == r.deadLetter:
		why = "dead letters go there, and no event may go there by its type"
	case r.fixed[d.topic] && !isKnown():
		why = "a route sends other events there, and no event may go there by its type"
	case len(r.patterns) > 0 && slices.ContainsFunc(r.patterns, func(p *topicPattern) bool { return sink.Matches(p.wildcard, d.topic) }):
		why = "a route makes such topics from values of events, and no event may go there by its type"
	}
	if why == "" {
		return nil
	}
	return &sink.RejectedError{Topic: d.topic, Reason: why}
}

// Resolve returns the topics, prefix included, that the events of a type, known or not, can go to,
// in the order of the routes and each once, and whether some of them are dropped. Without an
// expression of a route there is one topic, or all are dropped. A topic with placeholders is a
// pattern; see sink.IsPattern.
func (r *Router) Resolve(eventType string) (topics []string, dropped bool) {
	d := r.byType(eventType)
	for at := &d; at != nil; at = at.next {
		switch {
		case at.dropped:
			dropped = true
		case !slices.Contains(topics, at.topic):
			topics = append(topics, at.topic)
		}
	}
	return topics, dropped
}

// Destination returns the topic that e goes to, prefix included, and whether a route drops it
// instead. If no topic can be found for e, it is the dead letter topic, which may be "".
func (r *Router) Destination(e *source.Event) (topic string, dropped bool) {
	d, err := r.decision(e)
	if err == nil && d.dropped {
		return "", true
	}
	if topic = d.topic; err == nil && d.pattern != nil {
		if e, err = d.redact.event(e); err == nil {
			f := readFields(e)
			topic, err = d.pattern.topic(r.prefix, e, &f)
		}
	}
	if err != nil {
		return r.deadLetter, false
	}
	return topic, false
}

// Text returns a topic that Resolve or Topics has returned as the configuration writes it: with
// placeholders instead of wildcards. Routes that write the same topics in different ways stand one
// after the other.
func (r *Router) Text(topic string) string {
	var texts []string
	for _, p := range r.patterns {
		if p.wildcard == topic && !slices.Contains(texts, p.text) {
			texts = append(texts, p.text)
		}
	}
	if texts == nil {
		return topic
	}
	return strings.Join(texts, " or ")
}

// Topics returns the topics that the events of these types can go to, prefix included, sorted and
// each once. Those of a topic with placeholders are a pattern. The dead letter is not among them.
func (r *Router) Topics(types []string) []string {
	var topics []string
	for _, t := range types {
		some, _ := r.Resolve(t)
		topics = append(topics, some...)
	}
	slices.Sort(topics)
	return slices.Compact(topics)
}

// DeadLetterTopic returns the topic for events that can never be published, prefix included, or ""
// if there is none.
func (r *Router) DeadLetterTopic() string { return r.deadLetter }

// Route returns the messages that carry e: one, or none if a route drops it. Body, and the strings
// of key and headers, may alias e. An event whose type is not a legal topic on the bus still gives
// a message. The sink rejects it by name, so that it becomes a dead letter like every event that
// cannot be published. Route returns an error, and no message, for an event that no source yields:
// one without its raw bytes, or one that is not well-formed although the route redacts it.
func (r *Router) Route(e *source.Event) ([]sink.Message, error) { return r.Append(nil, e) }

// Append appends the messages that Route returns to batch. If batch has spare capacity, Append
// reuses the header array of the message there, so that refilling a batch that was emptied with
// batch[:0] does not allocate.
func (r *Router) Append(batch []sink.Message, e *source.Event) ([]sink.Message, error) {
	d, err := r.byType(e.Event), error(nil)
	if d.when != nil {
		d, err = r.choose(d, e, r.whereFailed)
	}
	if err != nil {
		return batch, err
	}
	if d.dropped {
		return batch, nil
	}
	if err := r.forbidden(&d, e.Event); err != nil {
		return batch, err
	}
	if len(e.Raw) == 0 {
		return batch, fmt.Errorf("route event %s: its bytes as received are missing", e.ID)
	}
	if e, err = d.redact.event(e); err != nil {
		return batch, err
	}
	f := readFields(e)
	topic := d.topic
	if d.pattern != nil {
		if topic, err = d.pattern.topic(r.prefix, e, &f); err != nil {
			return batch, err
		}
	}
	if r.headers.Actor {
		context, _ := e.Context()
		f.actor = context.Actor.ID
	}
	// P10: the body is the bytes of the event as they came.
	m := sink.Message{
		Topic:    topic,
		Key:      f.key(e, d.key),
		ID:       messageID(e.ID),
		Headers:  spareHeaders(batch),
		Body:     e.Raw,
		Position: e.Position(),
		Created:  e.CreatedAt,
	}
	switch r.encoding {
	case CloudEvents:
		m.Headers = r.binaryHeaders(m.Headers, e, &f)
	case CloudEventsStructured:
		m.Headers = append(eventHeaders(m.Headers, e, &f, 1), sink.Header{Key: r.binding.contentType, Value: r.binding.structuredType})
		m.Body = structured(r.attributesOf(e, &f), e.Raw)
	case Raw:
		m.Headers = eventHeaders(m.Headers, e, &f, 0)
	}
	for _, h := range d.headers {
		m.Headers = appendID(m.Headers, h.name, h.from.text(e, &f))
	}
	return append(batch, m), nil
}

// Redacted returns e as a consumer may see it: without what its route takes out. If e cannot be
// redacted because it is not well-formed, or because the expression of a route that redacts cannot
// be evaluated, the result has neither Raw nor Data. The result may be e itself.
func (r *Router) Redacted(e *source.Event) *source.Event {
	shown, _ := r.redacted(e)
	return shown
}

// redacted returns what Redacted does, and the mark of what was taken out; the mark is empty if e
// cannot be redacted.
func (r *Router) redacted(e *source.Event) (shown *source.Event, mark string) {
	d, err := r.decision(e)
	if err == nil {
		shown, err = d.redact.event(e)
	}
	switch {
	case err != nil:
		bare := *e
		bare.Raw, bare.Data = nil, nil
		return &bare, ""
	case d.redact == nil:
		return shown, redactsNothing
	default:
		return shown, d.redact.mark
	}
}

// spareHeaders returns the array of headers that the next message of batch has left behind, if any,
// emptied.
func spareHeaders(batch []sink.Message) []sink.Header {
	if n := len(batch); n < cap(batch) {
		return batch[:n+1][n].Headers[:0]
	}
	return nil
}

// The headers of every message, in this order.
const (
	HeaderID           = "event-id"
	HeaderType         = "event-type"
	HeaderCreatedAt    = "event-created-at" // RFC 3339 in UTC, with milliseconds, or more digits if the event has them
	HeaderOrganization = "organization-id"  // if the event names its organization
	HeaderActor        = "actor-id"         // if Headers.Actor is set and the event names its actor
)

// The headers that mark what an operator published in addition to a lane. Each carries the id of
// the run.
const (
	HeaderReplay = "relay-replay" // a copy, by `relay replay`
	HeaderRepair = "relay-repair" // an event that was missing, by `relay verify --repair`
)

// HeaderLate marks an event that comes late because WorkOS refused its type for a while. Its value
// is when WorkOS refused the type first, RFC 3339 in UTC.
const (
	HeaderLate = "relay-late"
)

// eventHeaders appends the headers of every message to h, with room for more.
func eventHeaders(h []sink.Header, e *source.Event, f *fields, more int) []sink.Header {
	h = slices.Grow(h, 6+more)
	h = append(h, sink.Header{Key: HeaderID, Value: headerValue(e.ID)}, sink.Header{Key: HeaderType, Value: headerValue(e.Event)})
	if f.createdAt != "" {
		h = append(h, sink.Header{Key: HeaderCreatedAt, Value: f.createdAt})
	}
	h = appendID(h, HeaderOrganization, f.organization)
	h = appendID(h, HeaderActor, f.actor)
	if !e.LateSince.IsZero() {
		h = append(h, sink.Header{Key: HeaderLate, Value: e.LateSince.UTC().Format(time.RFC3339)})
	}
	return h
}

// maxHeaderValue bounds, in bytes, a header that is made from a value inside of an event. An id of
// WorkOS has about 30.
const maxHeaderValue = 512

// appendID appends a header for a value from inside of an event, unless there is none or it is too
// long to be an id.
func appendID(h []sink.Header, key, id string) []sink.Header {
	if id == "" || len(id) > maxHeaderValue {
		return h
	}
	if id = headerValue(id); len(id) > maxHeaderValue {
		return h
	}
	return append(h, sink.Header{Key: key, Value: id})
}

// headerValue returns s with the characters percent-encoded that cannot be shown, such as control
// characters, line separators and overrides of direction. Invalid UTF-8 becomes that of U+FFFD.
func headerValue(s string) string {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return percentEncode(s, unprintable)
		}
	}
	return s // plain text, as nearly all of it is
}

func unprintable(r rune) bool { return !printable.Safe(r) }
