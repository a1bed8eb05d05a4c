package source

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
	"unsafe"

	"github.com/go-json-experiment/json/jsontext"
)

// knownNames saves an allocation per event: the name of a known type is shared.
var knownNames = func() map[string]string {
	m := make(map[string]string, len(types))
	for _, t := range types {
		m[t.Name] = t.Name
	}
	return m
}()

// decodePage decodes a page and returns its first limit events, and how many there are. The events'
// Raw and Data alias body, byte for byte. If a name stands twice in an object the last one counts;
// invalid UTF-8 inside strings is let through. What is not well-formed JSON, or not a list of
// events with id, type and time, is an error; an event after the first limit ones must only be
// well-formed.
//
// If anyList is set the list need not say that it is one, and all of its events are returned, as
// with the SDK. If cut is set, body is the beginning of a page, and it is an error unless more than
// limit events are whole.
func decodePage(body []byte, limit int, anyList, cut bool) (list ListEventsResponse, came int, err error) {
	d := newDecoder(body)
	d.limit = max(limit, 1)
	if anyList {
		d.limit = math.MaxInt
	}
	list, err = d.list()
	if cut && d.came > d.limit {
		list.Data, err = d.events, nil
	} else if err == nil {
		err = d.end("list")
	}
	if err == nil && !anyList && !d.isList {
		err = errors.New(`it is not a list: its "object" is not "list"`)
	}
	if err != nil {
		return ListEventsResponse{}, 0, err
	}
	return list, d.came, nil
}

// ParseEvent decodes one event in the form that the Events API has. Raw, Data and ID of the result
// alias raw.
func ParseEvent(raw []byte) (Event, error) {
	d := newDecoder(raw)
	var e Event
	err := d.event(&e)
	if err == nil {
		err = d.end("event")
	}
	if err != nil {
		return Event{}, fmt.Errorf("reading an event: %w", err)
	}
	return e, nil
}

// end requires that nothing follows what was read.
func (d *decoder) end(what string) error {
	if _, err := d.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("something follows the %s at byte %d", what, d.dec.InputOffset())
	}
	return nil
}

type decoder struct {
	body   []byte
	dec    *jsontext.Decoder
	isList bool    // the object says that it is a list
	limit  int     // of events
	events []Event // the first limit ones of the list
	came   int     // how many the list has
}

func newDecoder(body []byte) *decoder {
	return &decoder{body: body, dec: jsontext.NewDecoder(bytes.NewBuffer(body), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))}
}

func (d *decoder) list() (ListEventsResponse, error) {
	var list ListEventsResponse
	hasData := false
	_, err := d.object(func(name []byte) (err error) {
		switch string(name) {
		case "object":
			var v []byte
			v, err = d.text()
			d.isList = string(v) == "list"
		case "data":
			hasData = true
			err = d.readEvents()
			list.Data = d.events
		case "list_metadata":
			list.ListMetadata, err = d.metadata()
		default:
			err = d.dec.SkipValue()
		}
		return err
	})
	switch {
	case err != nil:
		return list, err
	case !hasData:
		return list, errors.New(`it has no "data"`)
	}
	return list, nil
}

// readEvents reads the array of events.
func (d *decoder) readEvents() error {
	if err := d.readStart(jsontext.KindBeginArray, "an array"); err != nil {
		return fmt.Errorf(`"data": %w`, err)
	}
	d.events, d.came = make([]Event, 0, min(d.limit, MaxLimit)), 0
	defer func() { ownIDs(d.events) }()
	for d.dec.PeekKind() != jsontext.KindEndArray {
		if len(d.events) == d.limit {
			if err := d.dec.SkipValue(); err != nil {
				return fmt.Errorf("event %d of the page: %w", d.came+1, err)
			}
			d.came++
			continue
		}
		d.events = append(d.events, Event{})
		if err := d.event(&d.events[len(d.events)-1]); err != nil {
			return fmt.Errorf("event %d of the page: %w", len(d.events), err)
		}
		d.came++
	}
	_, err := d.dec.ReadToken()
	return err //nolint:wrapcheck // by the caller
}

// rawSize is how many bytes the events have.
func rawSize(events []Event) int {
	n := 0
	for i := range events {
		n += len(events[i].Raw)
	}
	return n
}

// ownBytes returns the events with their bytes in their own buffer, so that they do not keep
// the rest of their page in memory.
func ownBytes(events []Event) []Event {
	out := slices.Clone(events)
	buf := make([]byte, 0, rawSize(events))
	for i := range out {
		e := &out[i]
		raw, data := e.Raw, e.Data
		start := len(buf)
		buf = append(buf, raw...)
		e.Raw = buf[start:len(buf):len(buf)]
		if data == nil {
			continue
		}
		at := offset(raw, data)
		e.Data = e.Raw[at : at+len(data) : at+len(data)]
	}
	return out
}

// offset returns where part, which is a part of whole, begins in it.
func offset(whole, part []byte) int {
	return int(uintptr(unsafe.Pointer(unsafe.SliceData(part))) - uintptr(unsafe.Pointer(unsafe.SliceData(whole)))) //nolint:gosec // two addresses in one array
}

// ownIDs moves the ids of a page out of its body into one string: a caller that remembers an id
// does not keep the body with it.
func ownIDs(events []Event) {
	size := 0
	for i := range events {
		size += len(events[i].ID)
	}
	var b strings.Builder
	b.Grow(size)
	for i := range events {
		b.WriteString(events[i].ID)
	}
	ids := b.String()
	for i := range events {
		n := len(events[i].ID)
		events[i].ID, ids = ids[:n], ids[n:]
	}
}

func (d *decoder) event(e *Event) (err error) {
	var created []byte
	e.Raw, err = d.object(func(name []byte) (err error) {
		switch string(name) {
		case "id":
			e.ID, err = d.name()
		case "event":
			var name string
			name, err = d.name()
			e.Event = typeName(name)
		case "created_at":
			created, err = d.text()
		case "data":
			e.Data, err = d.value()
		default:
			return d.dec.SkipValue()
		}
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case e.ID == "":
		return errors.New(`it has no "id"`)
	case e.Event == "":
		return fmt.Errorf(`%s has no "event"`, e.ID)
	}
	if e.CreatedAt, err = parseTime(created); err != nil {
		return fmt.Errorf(`%s: "created_at": %w`, e.ID, err)
	}
	return nil
}

// metadata reads the two cursors; null, and any other shape than strings, is none.
func (d *decoder) metadata() (ListMetadata, error) {
	var m ListMetadata
	if d.dec.PeekKind() != jsontext.KindBeginObject {
		return m, d.dec.SkipValue()
	}
	_, err := d.object(func(name []byte) error {
		if d.dec.PeekKind() != jsontext.KindString {
			return d.dec.SkipValue()
		}
		v, err := d.text()
		switch string(name) {
		case "before":
			m.Before = string(v[:min(len(v), maxNameBytes)])
		case "after":
			m.After = string(v[:min(len(v), maxNameBytes)])
		}
		return err
	})
	return m, err
}

// object reads an object, calling member after each name to read the value, and returns the
// object's bytes.
func (d *decoder) object(member func(name []byte) error) ([]byte, error) {
	if err := d.readStart(jsontext.KindBeginObject, "an object"); err != nil {
		return nil, err
	}
	start := d.dec.InputOffset() - 1
	for d.dec.PeekKind() != jsontext.KindEndObject {
		name, err := d.text()
		if err != nil {
			return nil, err
		}
		if err := member(name); err != nil {
			return nil, err
		}
	}
	if _, err := d.dec.ReadToken(); err != nil {
		return nil, err
	}
	end := d.dec.InputOffset()
	return d.body[start:end:end], nil
}

func (d *decoder) readStart(want jsontext.Kind, what string) error {
	tok, err := d.dec.ReadToken()
	if err != nil {
		return err
	}
	if tok.Kind() != want {
		return fmt.Errorf("it is not %s, at byte %d", what, d.dec.InputOffset())
	}
	return nil
}

// value reads any value and returns its bytes. They are cut out of body, so that nothing depends on
// what the decoder does with its buffer.
func (d *decoder) value() ([]byte, error) {
	v, err := d.dec.ReadValue()
	if err != nil {
		return nil, err
	}
	end := d.dec.InputOffset()
	return d.body[end-int64(len(v)) : end : end], nil
}

// maxTextBytes is more than any text has that relay reads, even if all of it is escaped.
const maxTextBytes = 4 << 10

// text reads a string, or the name of a member, without its quotes and escapes. One of more than
// maxTextBytes keeps its escapes.
func (d *decoder) text() ([]byte, error) {
	v, err := d.value()
	if err != nil {
		return nil, err
	}
	if v[0] != '"' {
		return nil, fmt.Errorf("it is not a string, at byte %d", d.dec.InputOffset())
	}
	if len(v) > maxTextBytes || bytes.IndexByte(v, '\\') < 0 {
		return v[1 : len(v)-1], nil
	}
	out, err := jsontext.AppendUnquote(nil, v)
	if err != nil && !utf8.Valid(v) {
		return out, nil // only a complaint about the UTF-8
	}
	return out, err
}

// typeName returns the shared string of a known type, and a copy of another name.
func typeName(name string) string {
	if known, ok := knownNames[name]; ok {
		return known
	}
	return strings.Clone(name)
}

// name reads an id or a type; what it returns may lie in the body. They become headers and
// subjects, hence the bounds.
func (d *decoder) name() (string, error) {
	b, err := d.text()
	if err != nil {
		return "", err
	}
	if len(b) > maxNameBytes {
		return "", fmt.Errorf("it has %d bytes, more than the %d that relay takes", len(b), maxNameBytes)
	}
	for i := 0; i < len(b); {
		r, n := rune(b[i]), 1
		if r > ' ' && r < 0x7f {
			i++
			continue
		}
		if r >= utf8.RuneSelf {
			r, n = utf8.DecodeRune(b[i:])
		}
		if (r == utf8.RuneError && n == 1) || !unicode.IsPrint(r) {
			return "", fmt.Errorf("it has a character that cannot be printed: %q", b)
		}
		i += n
	}
	return unsafe.String(unsafe.SliceData(b), len(b)), nil //nolint:gosec // the bytes of a page are never written
}

// parseTime reads a time as RFC 3339 has it, and as one sample of WorkOS's documentation has it: a
// space in place of T and no zone, which is taken as UTC.
func parseTime(b []byte) (time.Time, error) {
	if len(b) > 64 {
		return time.Time{}, fmt.Errorf("it has %d bytes and is not a time", len(b))
	}
	t, err := time.Parse(time.RFC3339Nano, string(b))
	if err == nil {
		return t.UTC(), nil
	}
	if len(b) > 10 && (b[10] == ' ' || b[10] == 'T') {
		for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04:05Z07:00"} {
			if t, err := time.Parse(layout, string(b)); err == nil {
				return t.UTC(), nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("%q is not an RFC 3339 time", b)
}
