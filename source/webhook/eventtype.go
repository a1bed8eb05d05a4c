package webhook

import (
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// maxEventType bounds the name of an event type that is taken from a webhook.
const maxEventType = 256

// eventType reads a webhook's body as far as its member "event" and returns its value, or "" if it
// finds none. It keeps no more of the body than one token. What it returns comes from the sender of
// the request, so it counts only once the signature is checked.
func eventType(body io.Reader) string {
	d := jsontext.NewDecoder(body, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	if t, err := d.ReadToken(); err != nil || t.Kind() != jsontext.KindBeginObject {
		return ""
	}
	for d.PeekKind() == jsontext.KindString {
		name, err := d.ReadToken()
		if err != nil {
			return ""
		}
		if name.String() != "event" {
			if d.SkipValue() != nil {
				return ""
			}
			continue
		}
		value, err := d.ReadToken()
		if err != nil || value.Kind() != jsontext.KindString || len(value.String()) > maxEventType {
			return ""
		}
		return value.String()
	}
	return ""
}
