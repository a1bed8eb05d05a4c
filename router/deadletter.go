package router

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"workos-relay/internal/printable"
	"workos-relay/sink"
	"workos-relay/source"
)

// Bounds of a dead letter. It must be publishable although its event is not.
const (
	unknownLimit  = 512 << 10 // if the bus does not say how much it takes: half of what both buses take by default
	maxReason     = 4 << 10   // bytes
	maxName       = 256       // bytes of an id, a type, a topic, a header, a key
	headerMargin  = 64        // what a bus adds to a header at most
	messageMargin = 512       // what a bus adds to a message
)

// DeadLetter returns the message that replaces e if the bus can never take it on topic: JSON with
// reason, event_id, type, created_at, topic, size, sha256, redaction and, if it fits and is valid
// JSON, event.
// size is the size in bytes that was refused, or 0 for the size of the event. limit is the most
// that the bus takes for a message with its headers, or 0 if that is not known. sha256 is that of
// the event as received. Names that are too long are cut. It returns ErrNoDeadLetter if no topic is
// configured.
//
// What the route of e redacts is in no part of its dead letter: event and sha256 are those of the
// redacted event. If the event cannot be redacted, both are missing and the key is the event's id.
func (r *Router) DeadLetter(e *source.Event, topic, reason string, size, limit int) (sink.Message, error) {
	if r.deadLetter == "" {
		return sink.Message{}, fmt.Errorf("event %s cannot be published to %s: %s: %w", e.ID, topic, reason, ErrNoDeadLetter)
	}
	if limit <= 0 {
		limit = unknownLimit
	}
	if size <= 0 {
		size = len(e.Raw)
	}
	e, redaction := r.redacted(e)
	digest := ""
	if len(e.Raw) > 0 {
		sum := sha256.Sum256(e.Raw)
		digest = hex.EncodeToString(sum[:])
	}
	f := readFields(e)
	m := sink.Message{
		Topic:    r.deadLetter,
		ID:       deadLetterID(e.ID, digest),
		Key:      f.key(e, keyPath{}),
		Headers:  eventHeaders(nil, e, &f, 0),
		Position: e.Position(),
	}
	if len(m.Key) > maxName {
		m.Key = []byte(cut(e.ID))
	}
	taken := messageMargin + len(m.Topic) + len(m.ID) + len(m.Key)
	for i := range m.Headers {
		m.Headers[i].Value = cut(m.Headers[i].Value)
		taken += headerMargin + len(m.Headers[i].Key) + len(m.Headers[i].Value)
	}
	m.Body = Letter{
		Reason: printable.Clip(reason, maxReason), EventID: cut(e.ID), Type: cut(e.Event), CreatedAt: f.createdAt,
		Topic: printable.Clip(topic, maxName), Size: size, SHA256: digest, Redaction: redaction,
	}.encode()
	const member = `,"event":`
	if taken+len(m.Body)+len(member)+len(e.Raw) <= limit && json.Valid(e.Raw) && utf8.Valid(e.Raw) {
		m.Body = append(m.Body[:len(m.Body)-1], member...)
		m.Body = append(m.Body, e.Raw...)
		m.Body = append(m.Body, '}')
	}
	return m, nil
}

// Letter is the body of a dead letter: what it says of its event, in this order. The event itself
// follows as the last member, byte for byte as it was received: encoding/json would rewrite it.
type Letter struct {
	Reason    string `json:"reason"`
	EventID   string `json:"event_id"`
	Type      string `json:"type"`
	CreatedAt string `json:"created_at"`
	Topic     string `json:"topic"`
	Size      int    `json:"size"`
	SHA256    string `json:"sha256"`
	// Redaction names what the route took out of the event: "none", or a text that is equal if the
	// same was taken out. It is empty if the event could not be redacted.
	Redaction string `json:"redaction"`
	// Event is the event as its route redacted it. It is empty if it did not fit.
	Event json.RawMessage `json:"event,omitempty"`
}

// encode returns l as JSON. What is not UTF-8 in a text becomes U+FFFD.
func (l Letter) encode() []byte {
	b, err := json.Marshal(l)
	if err != nil {
		panic(err) // texts and a number can always be encoded
	}
	return b
}

// ParseLetter reads the body of a dead letter. It returns an error if the body is not one.
func ParseLetter(body []byte) (Letter, error) {
	var l Letter
	if err := json.Unmarshal(body, &l); err != nil {
		return Letter{}, fmt.Errorf("reading a dead letter: %w", err)
	}
	if l.EventID == "" || l.Type == "" || l.Reason == "" {
		return Letter{}, errors.New("reading a dead letter: event_id, type or reason is missing")
	}
	return l, nil
}

// HeaderLetter marks a message on the dead letter topic that is not a dead letter, but says what
// became of one. Its value is LetterReplayed.
const (
	HeaderLetter   = "relay-dead-letter"
	LetterReplayed = "replayed" // the body is a Replayed
)

// Replayed is the body of the message by which the dead letter topic says that the event of a dead
// letter was published again.
type Replayed struct {
	Run     string    `json:"replayed"` // the value of HeaderReplay
	At      time.Time `json:"at"`
	EventID string    `json:"event_id"` // event_id, type, created_at and sha256 are those of the dead letter
	Type    string    `json:"type"`
	Created string    `json:"created_at"`
	SHA256  string    `json:"sha256"`
	Topic   string    `json:"topic"` // to which the event was published
	// Letter is when the dead letter was stored, by the bus. In Kafka that may be the clock of the
	// producer, so it is for people to read.
	Letter time.Time `json:"letter_at"`
	// Letters are the dead letters of the event that are meant, with those before them in their
	// logs. A later dead letter of the event is not meant.
	Letters []LetterPlace `json:"letters"`
}

// LetterPlace is the place of a dead letter on the bus.
type LetterPlace struct {
	Log    string `json:"log"` // a stream, or a topic and its partition, as sink.Log names it
	Offset int64  `json:"offset"`
}

// ReplayedMessage returns the message that says so on the dead letter topic. key and headers are
// those of the dead letter.
func (r *Router) ReplayedMessage(p *Replayed, key []byte, headers []sink.Header) sink.Message {
	body, err := json.Marshal(p)
	if err != nil {
		panic(err) // texts and times of this era can always be encoded
	}
	m := sink.Message{Topic: r.deadLetter, Key: key, Body: body}
	for _, h := range headers {
		switch h.Key {
		case HeaderID, HeaderType, HeaderCreatedAt, HeaderOrganization:
			m.Headers = append(m.Headers, h)
		}
	}
	m.Headers = append(m.Headers, sink.Header{Key: HeaderLetter, Value: LetterReplayed})
	return m
}

// cut shortens s to maxName bytes, between two characters, and marks that it did.
func cut(s string) string {
	if len(s) <= maxName {
		return s
	}
	const mark = "..."
	at := maxName - len(mark)
	for at > 0 && !utf8.RuneStart(s[at]) {
		at--
	}
	return s[:at] + mark
}
