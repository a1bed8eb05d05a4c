// Package asyncapi describes what relay puts on the buses as an AsyncAPI 3 document:
// https://www.asyncapi.com/docs/reference/specification/v3.0.0
package asyncapi

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"workos-relay/internal/catalogue"
	"workos-relay/router"
	"workos-relay/sink"
)

// Bus is one sink, as a server of the document.
type Bus struct {
	Name       string              // of the sink
	Kind       *sink.AsyncAPI      // the bindings of its kind
	Server     sink.AsyncAPIServer // the sink itself
	Topics     []Topic
	DeadLetter string // topic of the events that the bus can never take; empty if there is none
}

// Topic is a topic, or subject, with the event types that it carries.
type Topic struct {
	Name  string // may be a pattern: see sink.IsPattern
	Text  string // Name as the configuration writes it, with placeholders for values of the event
	Types []string
}

// object is a JSON object; YAML writes its members sorted by name, so that a document is always the
// same.
type object = map[string]any

// Document returns the document in YAML. It describes relay, whose operations send. id is the id of
// the relay, and encoding the form of its messages, which have the bindings of all these kinds.
func Document(id string, encoding router.Encoding, kinds []*sink.Kind, buses []Bus) ([]byte, error) {
	d := document{encoding: encoding, bindings: messageBindings(kinds), channels: object{}, operations: object{}, servers: object{}, messages: object{}}
	for _, b := range buses {
		d.add(b)
	}
	text, err := yaml.Dump(struct {
		AsyncAPI    string `yaml:"asyncapi"`
		Info        object `yaml:"info"`
		ContentType string `yaml:"defaultContentType"`
		Servers     object `yaml:"servers"`
		Channels    object `yaml:"channels"`
		Operations  object `yaml:"operations"`
		Components  object `yaml:"components"`
	}{
		"3.0.0",
		object{
			"title":       "WorkOS events by relay " + id,
			"version":     "1.0.0",
			"description": "Every event of the WorkOS Events API, republished in order. relay sends; your services receive. The schema of data is the one that WorkOS publishes with its clients; a route can take values out of it.",
		},
		"application/json",
		d.servers, d.channels, d.operations,
		object{"messages": d.messages, "schemas": schemas(encoding)},
	})
	if err != nil {
		return nil, fmt.Errorf("writing the AsyncAPI document: %w", err)
	}
	return text, nil
}

// document is being put together.
type document struct {
	encoding                                router.Encoding
	bindings                                object // of every message
	servers, channels, operations, messages object
}

func (d *document) add(b Bus) {
	d.servers[b.Name] = server(b)
	for _, t := range b.Topics {
		for _, eventType := range t.Types {
			d.messages[eventType] = d.message(eventType)
		}
		d.channel(b, t.Name, "", t.Types)
		d.parameters(t)
	}
	if b.DeadLetter != "" {
		d.messages[deadLetter] = d.deadLetterMessage()
		d.messages[replayedLetter] = d.replayedLetterMessage()
		d.channel(b, b.DeadLetter, "Events that the bus can never take, for example because they are too large.", []string{deadLetter, replayedLetter})
	}
}

func server(b Bus) object {
	return object{"host": b.Server.Host, "protocol": b.Server.Protocol, "description": b.Server.Description}
}

// messageBindings returns the bindings of a message on buses of these kinds.
func messageBindings(kinds []*sink.Kind) object {
	bindings := object{}
	for _, k := range kinds {
		if k.AsyncAPI != nil && k.AsyncAPI.Message != nil {
			bindings[k.AsyncAPI.Binding] = k.AsyncAPI.Message(ref("components", "schemas", "key"))
		}
	}
	return bindings
}

// channel adds a topic of a bus, or the bus to a topic that another has as well.
func (d *document) channel(b Bus, topic, description string, types []string) {
	c, known := d.channels[topic].(object)
	if !known {
		c = object{"address": topic, "servers": []object{}, "messages": object{}}
		if description != "" {
			c["description"] = description
		}
		d.channels[topic] = c
		d.operations["send."+topic] = object{"action": "send", "channel": ref("channels", topic), "bindings": object{}}
	}
	c["servers"] = append(c["servers"].([]object), ref("servers", b.Name)) //nolint:forcetypeassert // made above
	for _, t := range types {
		c["messages"].(object)[t] = ref("components", "messages", t) //nolint:forcetypeassert // made above
	}
	if b.Kind.Channel != nil && !sink.IsPattern(topic) { // a binding names one topic
		bindings, known := c["bindings"].(object)
		if !known {
			bindings = object{}
			c["bindings"] = bindings
		}
		bindings[b.Kind.Binding] = b.Kind.Channel(topic)
	}
	if b.Kind.Operation != nil {
		d.operations["send."+topic].(object)["bindings"].(object)[b.Kind.Binding] = b.Kind.Operation //nolint:forcetypeassert // made above
	}
}

// placeholder is one in a topic of the configuration: its path, and what follows it.
var placeholder = regexp.MustCompile(`\{([^}:]*)(:[^}]*)?\}`)

// parameters writes the placeholders of a topic as the parameters of its channel, whose names have
// no dots.
func (d *document) parameters(t Topic) {
	if !sink.IsPattern(t.Name) {
		return
	}
	c := d.channels[t.Name].(object) //nolint:forcetypeassert // made by channel
	text, _, _ := strings.Cut(t.Text, " or ")
	parameters := object{}
	c["address"] = placeholder.ReplaceAllStringFunc(text, func(found string) string {
		parts := placeholder.FindStringSubmatch(found)
		name := strings.ReplaceAll(parts[1], ".", "_")
		description := "The value of the event at " + parts[1] + "."
		if fallback := strings.TrimPrefix(parts[2], ":"); fallback != "" {
			description += " Without one it is " + fallback + "."
		}
		parameters[name] = object{"description": description}
		return "{" + name + "}"
	})
	c["parameters"] = parameters
}

// ref is a reference to an element of the document. The names of sinks, topics and types need no
// escape in it.
func ref(path ...string) object { return object{"$ref": "#/" + strings.Join(path, "/")} }

func (d *document) message(eventType string) object {
	m := object{
		"name":     eventType,
		"title":    eventType,
		"headers":  ref("components", "schemas", "headers"),
		"payload":  payload(d.encoding, eventType),
		"bindings": d.bindings,
	}
	if d.encoding == router.CloudEventsStructured {
		m["contentType"] = "application/cloudevents+json"
	}
	return m
}

// payload is the schema of the body of an event of one type.
func payload(encoding router.Encoding, eventType string) object {
	properties := object{"event": object{"const": eventType}}
	if known, ok := catalogue.Lookup(eventType); ok && known.Schema != nil {
		properties["data"] = known.Data()
	}
	event := object{"allOf": []object{
		ref("components", "schemas", "event"),
		{"properties": properties},
	}}
	if encoding != router.CloudEventsStructured {
		return event
	}
	return object{"allOf": []object{
		ref("components", "schemas", "cloudEvent"),
		{"properties": object{"type": object{"const": "com.workos." + eventType}, "data": event}},
	}}
}

// The names of the messages on the dead letter topic.
const (
	deadLetter     = "dead_letter"
	replayedLetter = "dead_letter_replayed"
)

func (d *document) deadLetterMessage() object {
	return object{
		"name":     deadLetter,
		"title":    "An event that could not be published",
		"headers":  ref("components", "schemas", "eventHeaders"),
		"payload":  ref("components", "schemas", "deadLetter"),
		"bindings": d.bindings,
	}
}

func (d *document) replayedLetterMessage() object {
	return object{
		"name":     replayedLetter,
		"title":    "The event of a dead letter was published again",
		"headers":  ref("components", "schemas", "eventHeaders"),
		"payload":  ref("components", "schemas", "replayedLetter"),
		"bindings": d.bindings,
	}
}

func text(description string) object { return object{"type": "string", "description": description} }

func instant(description string) object {
	return object{"type": "string", "format": "date-time", "description": description}
}

func schema(properties object, required ...string) object {
	slices.Sort(required)
	return object{"type": "object", "properties": properties, "required": required}
}

func schemas(encoding router.Encoding) object {
	all := object{
		"event": schema(object{
			"object":     object{"const": "event"},
			"id":         text("Names the event; the same however often it comes."),
			"event":      text("The type."),
			"data":       object{"type": "object", "description": "What the event is about, by type."},
			"created_at": instant("When it happened, by WorkOS's clock."),
			"context":    catalogue.Context(),
		}, "id", "event", "data", "created_at"),
		"eventHeaders": schema(object{
			router.HeaderID:           text("Id of the event. Handle each once."),
			router.HeaderType:         text("Type of the event."),
			router.HeaderCreatedAt:    instant("When it happened, by WorkOS's clock."),
			router.HeaderOrganization: text("Organization that the event is about, if it names one."),
			router.HeaderActor:        text("Who or what caused the event, with headers.actor: true."),
			router.HeaderLate:         instant("When WorkOS refused the type of the event first; set if the event comes late because of that."),
			router.HeaderReplay:       text("Id of the run of relay replay, or of relay deadletter replay, that published this copy."),
			router.HeaderLetter:       object{"const": router.LetterReplayed, "description": "On the dead letter topic: the message only says that the event of one was published again."},
			router.HeaderRepair:       text("Id of the run of relay verify --repair that published it."),
		}, router.HeaderID, router.HeaderType),
		"headers": ref("components", "schemas", "eventHeaders"),
		"key":     text("The organization that the event names, else its entity (docs/event-types.md), or what the route says."),
		"deadLetter": schema(object{
			"reason":     text("Why it could not be published."),
			"event_id":   text("Id of the event."),
			"type":       text("Type of the event."),
			"created_at": text("When it happened."),
			"topic":      text("Topic that it was meant for."),
			"size":       object{"type": "integer", "description": "Bytes that were refused."},
			"sha256":     text("Of the event as received, in hexadecimal."),
			"redaction":  text("none if nothing was taken out of the event; else a name for what was, equal if paths and key were equal."),
			"event":      object{"type": "object", "description": "The event itself, if it fits."},
		}, "reason", "event_id", "type", "created_at", "topic", "size", "sha256", "redaction"),
		"replayedLetter": schema(object{
			"replayed":   text("Id of the run that published the event again, as in the header relay-replay."),
			"at":         instant("When."),
			"event_id":   text("Id of the event, as in its dead letter."),
			"type":       text("Type of the event."),
			"created_at": text("When it happened."),
			"sha256":     text("As in its dead letter."),
			"topic":      text("Topic that it was published to."),
			"letter_at":  instant("When the bus stored the dead letter."),
			"letters": object{"type": "array", "description": "The dead letters of the event that are meant.", "items": schema(object{
				"log":    text("Stream, or topic and partition."),
				"offset": object{"type": "integer", "description": "Sequence in the stream, or offset in the partition."},
			}, "log", "offset")},
		}, "replayed", "at", "event_id", "type", "created_at", "sha256", "topic", "letter_at", "letters"),
	}
	switch encoding {
	case router.CloudEvents:
		all["headers"] = object{"allOf": []object{ref("components", "schemas", "eventHeaders"), {
			"type":        "object",
			"description": "The attributes of a CloudEvent in binary mode: by the Kafka binding ce_id, ce_source and so on, by the NATS binding ce-id, ce-source.",
			"patternProperties": object{
				"^ce[-_](specversion|id|source|type|subject|time)$": object{"type": "string"},
				"^(ce-data)?content-?type$":                         object{"const": "application/json"},
			},
		}}}
	case router.CloudEventsStructured:
		all["cloudEvent"] = schema(object{
			"specversion":     object{"const": "1.0"},
			"id":              text("Id of the event."),
			"source":          text("relay/ and the id of the relay."),
			"type":            text("com.workos. and the type of the event."),
			"subject":         text("Id of the object that the event is about."),
			"time":            instant("When it happened, by WorkOS's clock."),
			"datacontenttype": object{"const": "application/json"},
			"data":            object{"type": "object"},
		}, "specversion", "id", "source", "type", "data")
	case router.Raw:
	}
	return all
}
