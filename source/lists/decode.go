package lists

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"workos-relay/source"
)

// Object is one object of a list.
type Object struct {
	Entity  string
	ID      string   // by which the API continues a list, and gives the object
	Parents []string // of the list that it comes from
	// Raw is the object byte for byte as WorkOS sent it.
	Raw []byte
	// Data is the object in the shape that the data of its events have. It is Raw, except for an
	// organization_role, to which organization_id is added, and for both kinds of memberships of
	// groups, of which Raw is only the member.
	Data      []byte
	CreatedAt time.Time // zero if the object does not say
	UpdatedAt time.Time // zero if the object does not say

	slug, typ, parent string
}

// maxID is the most bytes that an id or a slug may have. It becomes a part of keys, subjects and
// headers.
const maxID = 512

// list is a response, decoded.
type list struct {
	objects []Object
	places  []place // of what is listed: the objects, or what they are members of
	after   string  // the cursor that the API gives; empty if it says that nothing follows
	answer  source.GetAnswer
}

func newDecoder(text []byte) *jsontext.Decoder {
	return jsontext.NewDecoder(bytes.NewBuffer(text), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// decodeList decodes a response. The objects' bytes alias body.
func decodeList(body []byte, e *Endpoint) (*list, error) {
	l := &list{}
	isList, hasData := false, false
	d := newDecoder(body)
	err := members(d, body, func(name string, value []byte) (err error) {
		switch name {
		case "object":
			isList = string(value) == `"list"`
		case "data":
			hasData = true
			l.objects, l.places = l.objects[:0], l.places[:0]
			err = l.decodeObjects(value, e)
		case "list_metadata":
			if value[0] == '{' {
				err = members(newDecoder(value), value, func(name string, value []byte) (err error) {
					if name == "after" && value[0] == '"' {
						l.after, err = decodeID(value)
					}
					return err
				})
			}
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case !isList:
		return nil, errors.New(`it is not a list: its "object" is not "list"`)
	case !hasData:
		return nil, errors.New(`it has no "data"`)
	case len(l.places) == 0 && l.after != "":
		return nil, fmt.Errorf("it holds no object, but says that others follow (after %q)", l.after)
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("something follows the list at byte %d", d.InputOffset())
	}
	return l, nil
}

// members calls member for each member of the object that begins at the decoder's place, with the
// bytes of its value.
func members(d *jsontext.Decoder, text []byte, member func(name string, value []byte) error) error {
	tok, err := d.ReadToken()
	if err != nil {
		return err //nolint:wrapcheck // by the caller
	}
	if tok.Kind() != jsontext.KindBeginObject {
		return fmt.Errorf("it is not an object, at byte %d", d.InputOffset())
	}
	for d.PeekKind() != jsontext.KindEndObject {
		name, err := d.ReadToken()
		if err != nil {
			return err //nolint:wrapcheck // by the caller
		}
		key := name.String()
		v, err := d.ReadValue()
		if err != nil {
			return err //nolint:wrapcheck // by the caller
		}
		end := d.InputOffset()
		if err := member(key, text[end-int64(len(v)):end:end]); err != nil {
			return fmt.Errorf("%q: %w", key, err)
		}
	}
	_, err = d.ReadToken()
	return err //nolint:wrapcheck // by the caller
}

// decodeObjects reads an array of objects.
func (l *list) decodeObjects(text []byte, e *Endpoint) error {
	return elements(text, func(i int, value []byte) error {
		if e.Member != "" {
			outer, inner, err := decodeOuter(value, e)
			l.places = append(l.places, outer)
			l.objects = append(l.objects, inner...)
			return inObject(i, err)
		}
		o, err := decodeObject(value, e)
		l.places = append(l.places, place{id: o.ID, created: o.CreatedAt})
		l.objects = append(l.objects, o)
		return inObject(i, err)
	})
}

func inObject(i int, err error) error {
	if err != nil {
		return fmt.Errorf("object %d of the page: %w", i+1, err)
	}
	return nil
}

// decodeOuter reads the objects that a listed object has as members.
func decodeOuter(text []byte, e *Endpoint) (place, []Object, error) {
	outer, err := decodeObject(text, &Endpoint{})
	if err != nil {
		return place{}, nil, err
	}
	var inner []Object
	err = members(newDecoder(text), text, func(name string, value []byte) error {
		if name != e.Member || value[0] != '[' {
			return nil
		}
		inner = inner[:0]
		return elements(value, func(i int, value []byte) error {
			o, err := decodeObject(value, e)
			inner = append(inner, o)
			return inObject(i, err)
		})
	})
	return place{id: outer.ID, created: outer.CreatedAt}, inner, err
}

// elements calls element for each value of an array, with its bytes.
func elements(text []byte, element func(i int, value []byte) error) error {
	d := newDecoder(text)
	tok, err := d.ReadToken()
	if err != nil {
		return err //nolint:wrapcheck // by the caller
	}
	if tok.Kind() != jsontext.KindBeginArray {
		return errors.New("it is not an array")
	}
	for i := 0; d.PeekKind() != jsontext.KindEndArray; i++ {
		v, err := d.ReadValue()
		if err != nil {
			return err //nolint:wrapcheck // by the caller
		}
		end := d.InputOffset()
		if err := element(i, text[end-int64(len(v)):end:end]); err != nil {
			return err
		}
	}
	return nil
}

// decodeObject reads what relay needs of an object.
func decodeObject(text []byte, e *Endpoint) (Object, error) {
	o := Object{Entity: e.Entity, Raw: text}
	err := members(newDecoder(text), text, func(name string, value []byte) (err error) {
		if name == e.idField() {
			o.ID, err = decodeID(value)
		}
		switch {
		case err != nil:
		case name == "slug" && value[0] == '"':
			o.slug, err = decodeID(value)
		case name == "created_at" && value[0] == '"':
			o.CreatedAt, err = decodeTime(value)
		case name == "updated_at" && value[0] == '"':
			o.UpdatedAt, err = decodeTime(value)
		case name == "type" && e.only != "" && value[0] == '"':
			o.typ, err = decodeText(value)
		case e.parent != "" && name == e.parent && value[0] == '"':
			o.parent, err = decodeText(value)
		}
		return err
	})
	switch {
	case err != nil:
		return o, err
	case o.ID == "":
		return o, fmt.Errorf("it has no %q", e.idField())
	}
	return o, nil
}

func decodeText(value []byte) (string, error) {
	text, err := jsontext.AppendUnquote(nil, value)
	if err != nil && utf8.Valid(value) {
		return "", err //nolint:wrapcheck // by the caller
	}
	return string(text), nil
}

// decodeID reads an id or a slug.
func decodeID(value []byte) (string, error) {
	if value[0] != '"' {
		return "", errors.New("it is not a string")
	}
	if len(value) > 2*maxID {
		return "", fmt.Errorf("it has more than the %d bytes that relay takes", maxID)
	}
	id, err := decodeText(value)
	switch {
	case err != nil:
		return "", err
	case len(id) > maxID:
		return "", fmt.Errorf("it has more than the %d bytes that relay takes", maxID)
	case !utf8.ValidString(id) || strings.ContainsFunc(id, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }):
		return "", fmt.Errorf("it has a space or a character that cannot be printed: %q", id)
	}
	return id, nil
}

func decodeTime(value []byte) (time.Time, error) {
	text, err := decodeText(value[:min(len(value), 64)])
	if err != nil {
		return time.Time{}, err
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is not an RFC 3339 time", text)
	}
	return t.UTC(), nil
}

// belongs reports whether an object belongs to the list of these parents.
func (e *Endpoint) belongs(o *Object, parents []string) bool {
	switch {
	case e.only != "" && o.typ != e.only:
		return false
	case e.parent != "" && o.parent != "":
		return o.parent == parents[len(parents)-1]
	}
	return true
}
