package router

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"workos-relay/conf/secret"
	"workos-relay/source"
)

// pseudonymPrefix begins what a value is replaced by; the HMAC-SHA-256 of the value follows, in
// hexadecimal.
const pseudonymPrefix = "hmac-sha256:"

// redaction holds what a route takes out of its events. It is safe for concurrent use.
type redaction struct {
	paths *pathNode
	key   []byte
	mark  string // names the paths and the key, and shows nothing of the key
	again bool   // a value that is a pseudonym already stays as it is
}

// redactsNothing is the mark of a route that takes out nothing.
const redactsNothing = "none"

// newRedaction returns nil for a route that takes out nothing. The paths were validated before.
func newRedaction(route Route, key secret.String) *redaction {
	if len(route.Redact)+len(route.Pseudonymize) == 0 {
		return nil
	}
	r := &redaction{paths: pathsOf(route), key: []byte(key.Reveal())}
	r.mark = r.markOf(route)
	return r
}

// markOf returns the mark of a route: equal marks for routes that make the same of every event.
func (r *redaction) markOf(route Route) string {
	var key []byte // which makes no difference to what is removed
	if len(route.Pseudonymize) > 0 {
		key = r.key
	}
	mac := hmac.New(sha256.New, key)
	for _, paths := range [][]string{route.Redact, route.Pseudonymize} {
		sorted := slices.Sorted(slices.Values(paths))
		fmt.Fprintf(mac, "%q", slices.Compact(sorted))
	}
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// redactedBefore returns a router like r for events that were redacted before: a value that is a
// pseudonym already stays as it is.
func (r *Router) redactedBefore() *Router {
	out := *r
	out.routes = slices.Clone(r.routes)
	for i := range out.routes {
		if redact := out.routes[i].redact; redact != nil {
			out.routes[i].redact = &redaction{paths: redact.paths, key: redact.key, mark: redact.mark, again: true}
		}
	}
	out.known = make(map[string]decision, len(r.known))
	for name := range r.known {
		out.known[name] = out.decide(name, 0)
	}
	return &out
}

// RouterFor returns the router for the event inside of a dead letter, by what the letter says of
// its redaction, or nil if the routes cannot do with that event what they would have done with the
// event as WorkOS sent it. It is r if nothing was taken out of the event. Else the routes must take
// out exactly the same, and choose by nothing but the type.
func (r *Router) RouterFor(l *Letter) *Router {
	if l.Redaction == redactsNothing {
		return r
	}
	if d := r.byType(l.Type); d.when == nil && d.redact != nil && d.redact.mark == l.Redaction {
		return r.forRedacted()
	}
	return nil
}

// isPseudonym reports whether text has the form of what pseudonym returns.
func isPseudonym(text []byte) bool {
	digits, found := bytes.CutPrefix(text, []byte(pseudonymPrefix))
	if !found || len(digits) != hex.EncodedLen(sha256.Size) {
		return false
	}
	return !slices.ContainsFunc(digits, func(b byte) bool { return (b < '0' || b > '9') && (b < 'a' || b > 'f') })
}

// event returns e without what the route takes out: its Raw and Data are new, and all else of a
// message is made from those. Every other value keeps its bytes, and the order of members stays;
// white space between them goes. An event that is not well-formed is an error, and the error shows
// nothing of it.
func (r *redaction) event(e *source.Event) (*source.Event, error) {
	if r == nil {
		return e, nil
	}
	w := newRewriter(r, e.Raw)
	// P11: an event that cannot be redacted is not published.
	if err := w.document(); err != nil {
		return nil, fmt.Errorf("event %s cannot be redacted: it is not well-formed JSON (near byte %d)", e.ID, w.in.InputOffset())
	}
	out := *e
	out.Raw = bytes.TrimSuffix(w.buf.Bytes(), []byte("\n"))
	out.Data = nil
	if w.dataEnd > 0 {
		out.Data = out.Raw[w.dataStart:w.dataEnd:w.dataEnd]
	}
	return &out, nil
}

// pseudonym returns what replaces a value: equal pseudonyms for equal texts.
func (r *redaction) pseudonym(text []byte) string {
	mac := hmac.New(sha256.New, r.key)
	mac.Write(text)
	return pseudonymPrefix + hex.EncodeToString(mac.Sum(nil))
}

// rewriter copies one JSON text, without what a redaction takes out. It visits each member, also if
// a name occurs twice in an object, and compares names without their escapes.
type rewriter struct {
	*redaction
	in  *jsontext.Decoder
	buf *bytes.Buffer
	out *jsontext.Encoder

	dataStart, dataEnd int64 // in the output, of the last member data of the event
}

func newRewriter(r *redaction, raw []byte) *rewriter {
	options := []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true), jsontext.PreserveRawStrings(true)}
	buf := bytes.NewBuffer(make([]byte, 0, len(raw)+128))
	return &rewriter{
		redaction: r, buf: buf,
		in:  jsontext.NewDecoder(bytes.NewReader(raw), options...),
		out: jsontext.NewEncoder(buf, options...),
	}
}

var errNoObject = errors.New("it is not an object")

// document copies the whole text.
func (w *rewriter) document() error {
	if w.in.PeekKind() != jsontext.KindBeginObject {
		return errNoObject
	}
	if err := w.value([]*pathNode{w.paths}); err != nil {
		return err
	}
	if _, err := w.in.ReadToken(); !errors.Is(err, io.EOF) {
		return errors.New("something follows it")
	}
	return nil
}

// value copies the next value. at holds the places in the paths that the value corresponds to. If
// at is empty, nothing below the value is taken out.
func (w *rewriter) value(at []*pathNode) error {
	kind := w.in.PeekKind()
	if len(at) == 0 || kind != jsontext.KindBeginObject && kind != jsontext.KindBeginArray {
		return w.copyValue()
	}
	if err := w.copyToken(); err != nil {
		return err
	}
	for w.in.PeekKind() != jsontext.KindEndObject && w.in.PeekKind() != jsontext.KindEndArray {
		var err error
		if kind == jsontext.KindBeginObject {
			err = w.member(at)
		} else {
			below, do := element(at)
			err = w.apply(do, below)
		}
		if err != nil {
			return err
		}
	}
	return w.copyToken()
}

func (w *rewriter) member(at []*pathNode) error {
	quoted, err := w.in.ReadValue()
	if err != nil {
		return err
	}
	quoted = bytes.Clone(quoted)
	name, err := unquote(quoted)
	if err != nil {
		return err
	}
	below, do := step(at, string(name))
	if do == remove {
		return w.in.SkipValue()
	}
	if err := w.out.WriteValue(quoted); err != nil {
		return err
	}
	start := w.out.OutputOffset() + 1 // behind the colon
	if err := w.apply(do, below); err != nil {
		return err
	}
	if w.out.StackDepth() == 1 && string(name) == "data" {
		w.dataStart, w.dataEnd = start, w.out.OutputOffset()
	}
	return nil
}

// apply does with the next value what the paths say.
func (w *rewriter) apply(do action, below []*pathNode) error {
	switch do {
	case remove:
		return w.in.SkipValue()
	case pseudonymize:
		return w.pseudonymize()
	default:
		return w.value(below)
	}
}

// pseudonymize replaces the next value: a string by that of its characters, a number or a boolean
// by that of its text as received, an object as a whole by that of its canonical form. A list keeps
// its length and a null stays.
func (w *rewriter) pseudonymize() error {
	switch w.in.PeekKind() {
	case jsontext.KindNull:
		return w.copyToken()
	case jsontext.KindBeginArray:
		if err := w.copyToken(); err != nil {
			return err
		}
		for w.in.PeekKind() != jsontext.KindEndArray {
			if err := w.pseudonymize(); err != nil {
				return err
			}
		}
		return w.copyToken()
	default:
		v, err := w.in.ReadValue()
		if err != nil {
			return err
		}
		text, err := plain(v)
		if err != nil {
			return err
		}
		if w.again && v.Kind() == jsontext.KindString && isPseudonym(text) {
			return w.out.WriteToken(jsontext.String(string(text)))
		}
		return w.out.WriteToken(jsontext.String(w.pseudonym(text)))
	}
}

// plain returns what a pseudonym is made from.
func plain(v jsontext.Value) ([]byte, error) {
	switch v.Kind() {
	case jsontext.KindString:
		return unquote(v)
	case jsontext.KindBeginObject:
		c := v.Clone()
		err := c.Canonicalize(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true),
			jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false))
		return c, err
	default:
		return v, nil
	}
}

// unquote lets invalid UTF-8 through, as U+FFFD.
func unquote(quoted jsontext.Value) ([]byte, error) {
	text, err := jsontext.AppendUnquote(nil, quoted)
	if err != nil && quoted.IsValid(jsontext.AllowInvalidUTF8(true)) {
		err = nil
	}
	return text, err
}

func (w *rewriter) copyValue() error {
	v, err := w.in.ReadValue()
	if err != nil {
		return err
	}
	return w.out.WriteValue(v)
}

func (w *rewriter) copyToken() error {
	t, err := w.in.ReadToken()
	if err != nil {
		return err
	}
	return w.out.WriteToken(t)
}
