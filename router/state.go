package router

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unsafe"

	"github.com/tidwall/gjson"

	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/state"
)

// StatePrefix begins the topic of an entity, after the prefix of all topics.
const StatePrefix = "state."

// The headers that only state messages have.
const (
	HeaderEntity   = "entity"         // of every state message
	HeaderSnapshot = "relay-snapshot" // the run of the snapshot that has read the object; such a message has none of an event
)

// kept is an entity whose objects the lane keeps.
type kept struct {
	topic  string
	entity state.Entity
	redact *redaction // of its objects, as if each were the data of an event
}

// StateTopics returns the topics of state messages, sorted by name.
func (r *Router) StateTopics() []sink.StateTopic {
	var out []sink.StateTopic
	for name, k := range r.kept {
		out = append(out, sink.StateTopic{Topic: k.topic, Entity: name})
	}
	slices.SortFunc(out, func(a, b sink.StateTopic) int { return strings.Compare(a.Topic, b.Topic) })
	return out
}

// Entities returns the entities whose objects the lane keeps, sorted by name.
func (r *Router) Entities() []state.Entity {
	var out []state.Entity
	for _, k := range r.kept {
		out = append(out, k.entity)
	}
	slices.SortFunc(out, func(a, b state.Entity) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// AppendState appends the state message of the change that e makes to an object, after the message
// of e. It appends none if e changes no object of an entity that the lane keeps. The caller does
// not call it for an event that the routes drop. admit is asked about a change before it is
// appended; nil admits every change.
//
// An event that comes late only removes an object, and only if nothing can have its key again: what
// it sets may be older than what is kept, or gone.
func (r *Router) AppendState(batch []sink.Message, e *source.Event, admit func(*source.Event, *state.Change) bool) ([]sink.Message, error) {
	if len(r.kept) == 0 {
		return batch, nil
	}
	entity, removes, ok := state.EntityOf(e.Event)
	if !ok {
		return batch, nil
	}
	k := r.kept[entity]
	if k == nil {
		return batch, nil
	}
	if final := removes && slices.Equal(k.entity.Key, []string{"id"}); !e.LateSince.IsZero() && !final {
		return batch, nil
	}
	c, ok := state.ChangeOf(e)
	if !ok || admit != nil && !admit(e, &c) {
		return batch, nil
	}
	body, err := k.body(&c)
	if err != nil {
		return batch, err
	}
	f := readFields(r.Redacted(e)) // P11: as the event's own message shows it
	m := r.stateMessage(spareHeaders(batch), k, &c, body, func(h []sink.Header) []sink.Header { return eventHeaders(h, e, &f, 8) },
		e.ID, f.createdAt)
	m.Position, m.Created = e.Position(), e.CreatedAt
	return append(batch, m), nil
}

// AppendObject appends the state message of a change that a snapshot with the id run has found, or
// nothing if the lane does not keep the entity, or if a route would drop an event with this object
// as its data. The message has no Position.
func (r *Router) AppendObject(batch []sink.Message, c *state.Change, run string) ([]sink.Message, error) {
	k := r.kept[c.Entity]
	if k == nil || !c.Removed() && r.leavesOut(k, c.Object) {
		return batch, nil
	}
	body, err := k.body(c)
	if err != nil {
		return batch, err
	}
	var f fields
	if !c.Removed() {
		f = readFields(&source.Event{Event: k.entity.Sets[0], Data: body}) // P11: without what a route takes out
	}
	m := r.stateMessage(spareHeaders(batch), k, c, body, func(h []sink.Header) []sink.Header {
		h = appendID(slices.Grow(h, 10), HeaderOrganization, f.organization)
		return append(h, sink.Header{Key: HeaderSnapshot, Value: headerValue(run)})
	}, run+"/"+c.Entity+"/"+c.Key, "")
	return append(batch, m), nil
}

// leavesOut reports whether a route drops an event that sets the object.
func (r *Router) leavesOut(k *kept, object []byte) bool {
	eventType := k.entity.Sets[0]
	if d := r.byType(eventType); d.when == nil {
		return false // else the entity would not be kept
	}
	raw := fmt.Appendf(nil, `{"object":"event","event":%q,"data":%s}`, eventType, object)
	d, err := r.decision(&source.Event{Event: eventType, Raw: raw, Data: object})
	return err == nil && d.dropped
}

// body returns the object of a change without what the routes take out; nil if it was removed.
func (k *kept) body(c *state.Change) ([]byte, error) {
	if c.Removed() {
		return nil, nil
	}
	// P11: what cannot be redacted is not published.
	body, err := k.redact.object(c.Object)
	if err != nil {
		return nil, fmt.Errorf("the %s %s cannot be redacted: %w", c.Entity, cut(c.Key), err)
	}
	return body, nil
}

// stateMessage returns the message of a change with this body. common appends the headers that
// every encoding has. id and createdAt are attributes of a CloudEvent.
func (r *Router) stateMessage(h []sink.Header, k *kept, c *state.Change, body []byte, common func([]sink.Header) []sink.Header, id, createdAt string) sink.Message {
	m := sink.Message{
		Topic:  k.topic,
		Key:    unsafe.Slice(unsafe.StringData(c.Key), len(c.Key)), //nolint:gosec // a message's key is never written
		Entity: c.Entity,
		Body:   body,
	}
	m.Headers = append(common(h), sink.Header{Key: HeaderEntity, Value: c.Entity})
	attributes := ceAttributes{id: id, source: r.ceSource + "/" + StatePrefix[:len(StatePrefix)-1] + "/" + c.Entity, typ: cloudEventsType(StatePrefix + c.Entity), subject: c.Key, time: createdAt}
	switch {
	case r.encoding == CloudEvents:
		m.Headers = r.appendAttributes(m.Headers, attributes)
		if !c.Removed() {
			m.Headers = append(m.Headers, sink.Header{Key: r.binding.dataType, Value: jsonType})
		}
	case r.encoding == CloudEventsStructured && !c.Removed():
		m.Headers = append(m.Headers, sink.Header{Key: r.binding.contentType, Value: r.binding.structuredType})
		m.Body = structured(attributes, m.Body)
	}
	return m
}

// object returns the JSON of an object without what the route takes out below data.
func (r *redaction) object(object []byte) ([]byte, error) {
	if r == nil {
		return object, nil
	}
	raw := make([]byte, 0, len(object)+16)
	raw = append(append(append(raw, `{"data":`...), object...), '}')
	e, err := r.event(&source.Event{Raw: raw})
	if err != nil || e.Data == nil {
		return nil, errors.New("it is not well-formed JSON, or the whole of it is taken out")
	}
	return e.Data, nil
}

// ObjectIn returns the object in the body of a state message: the body, or its data if the encoding
// wraps it.
func (r *Router) ObjectIn(body []byte) []byte {
	if r.encoding != CloudEventsStructured {
		return body
	}
	return []byte(gjson.GetBytes(body, "data").Raw)
}

// keep sets up the entities that the lane keeps.
func (r *Router) keep(cfg Config) error {
	if len(cfg.State) == 0 {
		return nil
	}
	carried := slices.DeleteFunc(slices.Clone(cfg.Types), func(t string) bool {
		topics, _ := r.Resolve(t)
		return len(topics) == 0
	})
	entities, err := state.Select(cfg.State, carried)
	if err != nil {
		return stateErrorf(err, "%v", err)
	}
	r.kept = map[string]*kept{}
	var errs []error
	for _, e := range entities {
		k := &kept{topic: cfg.Prefix + StatePrefix + e.Name, entity: e}
		if err := r.redactionOf(cfg, &e, carried, k); err != nil {
			errs = append(errs, err)
		}
		r.kept[e.Name] = k
	}
	for i, route := range cfg.Routes {
		if route.Topic != "" && r.holdsState(cfg.Prefix+route.Topic) {
			errs = append(errs, keyErrorf(fmt.Sprintf("routes[%d].topic", i), "%q is a topic of state, where only the newest version of each object is kept; events need their own topic", cfg.Prefix+route.Topic))
		}
	}
	if r.holdsState(r.deadLetter) {
		errs = append(errs, keyErrorf("dead_letter.topic", "%q is a topic of state, where only the newest version of each object is kept; dead letters need their own topic", r.deadLetter))
	}
	if len(entities) == 0 {
		errs = append(errs, stateErrorf(nil, "stands for no entity of which this sink carries all events"))
	}
	return errors.Join(errs...)
}

// holdsState reports whether a topic is one of state that the lane keeps, or lies below one: on
// NATS an object has a subject there.
func (r *Router) holdsState(topic string) bool {
	rest, ours := strings.CutPrefix(topic, r.prefix)
	rest, state := strings.CutPrefix(rest, StatePrefix)
	entity, _, _ := strings.Cut(rest, ".")
	return ours && state && r.kept[entity] != nil
}

func stateErrorf(err error, format string, args ...any) error {
	return &KeyError{key: "state.entities", msg: fmt.Sprintf(format, args...), err: err}
}

// redactionOf finds what is taken out of the objects of e: what the routes take out of every event
// that sets one. It returns an error if these differ, or if the key is taken out.
func (r *Router) redactionOf(cfg Config, e *state.Entity, carried []string, k *kept) error {
	var first string
	var form [2][]string
	for _, t := range e.Types() {
		if !slices.Contains(carried, t) {
			continue
		}
		for _, route := range r.routesOf(cfg, t) {
			for _, path := range e.Key {
				if do, _ := route.hides("data." + path); do != keep {
					return stateErrorf(nil, "names %s, whose objects are known by %s, and a route takes that out of %s; keep the value, or leave the entity out", e.Name, path, t)
				}
			}
			if !slices.Contains(e.Sets, t) || e.Wraps(t) {
				continue
			}
			paths := [2][]string{sorted(route.Redact), sorted(route.Pseudonymize)}
			if first == "" {
				first, form = t, paths
				k.redact = newRedaction(route, cfg.RedactionKey)
				continue
			}
			if !slices.EqualFunc(form[:], paths[:], slices.Equal[[]string]) {
				return stateErrorf(nil, "names %s, and the routes redact %s and %s in different ways; its objects have one form, so give both types the same redact and pseudonymize", e.Name, first, t)
			}
		}
	}
	return nil
}

func sorted(paths []string) []string { return slices.Compact(slices.Sorted(slices.Values(paths))) }

// routesOf returns the routes that events of a type may take, without those that drop them. Events
// that no route matches take the zero Route.
func (r *Router) routesOf(cfg Config, eventType string) []Route {
	var routes []Route
	first := r.byType(eventType)
	for d := &first; d != nil; d = d.next {
		switch {
		case d.dropped:
		case d.route < 0:
			routes = append(routes, Route{})
		default:
			routes = append(routes, cfg.Routes[d.route])
		}
	}
	return routes
}

// MayLeaveOut reports whether a route drops, by its expression, an event that sets or removes this
// object, or whether that depends on more than the object tells. State topics need not have such an
// object, and may have an old version of it.
func (r *Router) MayLeaveOut(entity string, object []byte) bool {
	k := r.kept[entity]
	if k == nil {
		return false
	}
	for _, eventType := range k.entity.Types() {
		first := r.byType(eventType)
		if first.when == nil {
			continue
		}
		raw := fmt.Appendf(nil, `{"object":"event","event":%q,"data":%s}`, eventType, object)
		open := false
		d, err := r.choose(first, &source.Event{Event: eventType, Raw: raw, Data: object}, func(route int, _ *source.Event, _ error) {
			for d := &first; d != nil; d = d.next {
				open = open || d.route == route && d.dropped
			}
		})
		if err != nil || d.dropped || open {
			return true
		}
	}
	return false
}
