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

// attributes calls emit for each context attribute that is a string, in the order of the
// specification. The optional ones are time and subject, the id of the object that the event is
// about.
func (r *Router) attributes(e *source.Event, f *fields, emit func(name, value string)) {
	emit("specversion", "1.0")
	emit("id", e.ID)
	emit("source", r.ceSource)
	emit("type", cloudEventsType(e.Event))
	if id := subject(e); id != "" && len(id) <= maxHeaderValue {
		emit("subject", id)
	}
	if f.createdAt != "" {
		emit("time", f.createdAt)
	}
}

// binaryHeaders appends the headers of the binary mode to h, those of every message first.
func (r *Router) binaryHeaders(h []sink.Header, e *source.Event, f *fields) []sink.Header {
	h = eventHeaders(h, e, f, 7)
	r.attributes(e, f, func(name, value string) {
		if r.binding.percent {
			value = percentEncode(value, outsideHeaders)
		} else {
			value = headerValue(value)
		}
		h = append(h, sink.Header{Key: r.binding.prefix + name, Value: value})
	})
	return append(h, sink.Header{Key: r.binding.dataType, Value: jsonType})
}

// structuredBody returns the JSON format of the CloudEvent. The event stands in it byte for byte.
func (r *Router) structuredBody(e *source.Event, f *fields) []byte {
	b := make([]byte, 0, len(e.Raw)+len(e.ID)+len(e.Event)+len(f.entity)+320)
	b = append(b, '{')
	r.attributes(e, f, func(name, value string) {
		b = append(b, '"')
		b = append(b, name...)
		b = append(b, `":`...)
		b = gjson.AppendJSONString(b, value)
		b = append(b, ',')
	})
	b = append(b, `"datacontenttype":"`+jsonType+`","data":`...)
	b = append(b, e.Raw...)
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
