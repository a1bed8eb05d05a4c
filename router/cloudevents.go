package router

import (
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"workos-relay/sink"
	"workos-relay/source"
)

// binding is what the CloudEvents bindings of the buses differ in. Sources: CloudEvents 1.0.2 with
// its Kafka binding; for NATS the binding 1.0.3 (working draft), the first with a binary mode.
type binding struct {
	prefix         string // of an attribute's header
	dataType       string // header of datacontenttype
	contentType    string // header that marks the structured mode
	structuredType string
	percent        bool // values of attributes are percent-encoded
}

var bindings = map[Binding]binding{
	NATS: {
		prefix:         "ce-",
		dataType:       "ce-datacontenttype",
		contentType:    "Content-Type",
		structuredType: "application/cloudevents+json",
		percent:        true,
	},
	Kafka: {
		prefix:         "ce_",
		dataType:       "content-type",
		contentType:    "content-type",
		structuredType: "application/cloudevents+json; charset=UTF-8",
	},
}

const jsonType = "application/json"

func cloudEventsSource(relay string) string { return "relay/" + url.PathEscape(relay) }

func cloudEventsType(eventType string) string { return "com.workos." + eventType }

// ceAttributes are the context attributes that are strings. subject, the id of the object that the
// event is about, and time are optional.
type ceAttributes struct{ id, source, typ, subject, time string }

// each calls emit for each attribute in the order of the specification.
func (a ceAttributes) each(emit func(name, value string)) {
	emit("specversion", "1.0")
	emit("id", a.id)
	emit("source", a.source)
	emit("type", a.typ)
	if a.subject != "" && len(a.subject) <= maxHeaderValue {
		emit("subject", a.subject)
	}
	if a.time != "" {
		emit("time", a.time)
	}
}

// attributesOf returns the attributes of the message of an event.
func (r *Router) attributesOf(e *source.Event, f *fields) ceAttributes {
	return ceAttributes{id: e.ID, source: r.ceSource, typ: cloudEventsType(e.Event), subject: subject(e), time: f.createdAt}
}

// binaryHeaders appends the headers of the binary mode to h, those of every message first.
func (r *Router) binaryHeaders(h []sink.Header, e *source.Event, f *fields) []sink.Header {
	h = r.appendAttributes(eventHeaders(h, e, f, 7), r.attributesOf(e, f))
	return append(h, sink.Header{Key: r.binding.dataType, Value: jsonType})
}

// appendAttributes appends a header for each attribute to h.
func (r *Router) appendAttributes(h []sink.Header, a ceAttributes) []sink.Header {
	a.each(func(name, value string) {
		if r.binding.percent {
			value = percentEncode(value, outsideHeaders)
		} else {
			value = headerValue(value)
		}
		h = append(h, sink.Header{Key: r.binding.prefix + name, Value: value})
	})
	return h
}

// structured returns the JSON format of a CloudEvent. data stands in it byte for byte.
func structured(a ceAttributes, data []byte) []byte {
	b := make([]byte, 0, len(data)+len(a.id)+len(a.typ)+len(a.subject)+320)
	b = append(b, '{')
	a.each(func(name, value string) {
		b = append(b, '"')
		b = append(b, name...)
		b = append(b, `":`...)
		b = gjson.AppendJSONString(b, value)
		b = append(b, ',')
	})
	b = append(b, `"datacontenttype":"`+jsonType+`","data":`...)
	b = append(b, data...)
	return append(b, '}')
}

// outsideHeaders reports what the NATS binding wants percent-encoded: space, double quote, percent,
// and all but printable ASCII.
func outsideHeaders(r rune) bool { return r <= 0x20 || r == '"' || r == '%' || r >= 0x7f }

// percentEncode encodes the bytes, in UTF-8, of each character that must says.
func percentEncode(s string, must func(rune) bool) string {
	const hexadecimal = "0123456789ABCDEF"
	at := strings.IndexFunc(s, must)
	if at < 0 {
		return s
	}
	b := make([]byte, at, len(s)+16)
	copy(b, s)
	for _, r := range s[at:] {
		if !must(r) {
			b = utf8.AppendRune(b, r)
			continue
		}
		for _, c := range utf8.AppendRune(nil, r) {
			b = append(b, '%', hexadecimal[c>>4], hexadecimal[c&15])
		}
	}
	return string(b)
}
