package nats

import (
	"fmt"
	"strings"

	"workos-relay/sink"
)

const (
	// maxSubject keeps a subject well below the protocol line that a server accepts
	// (max_control_line, 4096 by default): a longer one ends the connection.
	maxSubject = 1024
	// maxHeaders is the size of the headers that a JetStream server refuses to exceed, error 10097.
	maxHeaders = 65535
	// headerLine and headerEntry are what the NATS encoding of headers adds: "NATS/1.0\r\n" and the
	// closing "\r\n"; ": " and "\r\n".
	headerLine  = 12
	headerEntry = 4
	// msgIDHeader carries the id by which a stream recognises a second copy.
	msgIDHeader = "Nats-Msg-Id"
	// positionSubjects is where relay keeps positions in a stream; no event is there.
	positionSubjects = "relay.position.>"
)

// illegalSubject returns why subject cannot be published to, or "". It is stricter than the server,
// which takes wildcards literally and answers empty tokens only with silence.
func illegalSubject(subject string) string {
	if subject == "" {
		return "it is empty"
	}
	if len(subject) > maxSubject {
		return fmt.Sprintf("it is longer than %d characters", maxSubject)
	}
	empty := true
	for _, r := range subject {
		switch {
		case r == '.':
			if empty {
				return "a token between dots is empty"
			}
			empty = true
			continue
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '-':
		default:
			return fmt.Sprintf("%q is not allowed: only letters, digits, _ and - in tokens separated by dots", r)
		}
		empty = false
	}
	if empty {
		return "it ends in a dot"
	}
	return ""
}

// binds reports whether one of the patterns of a stream matches subject.
func binds(patterns []string, subject string) bool {
	for _, p := range patterns {
		if sink.Matches(p, subject) {
			return true
		}
	}
	return false
}

// illegalTopic is illegalSubject for a topic of a lane, which may be a pattern below a first token.
func illegalTopic(topic string) string {
	if !sink.IsPattern(topic) {
		return illegalSubject(topic)
	}
	tokens := strings.Split(topic, ".")
	for i, t := range tokens {
		if i > 0 && (t == "*" || t == ">" && i == len(tokens)-1) {
			tokens[i] = "any"
		}
	}
	return illegalSubject(strings.Join(tokens, "."))
}

// limits are the sizes that a message must keep to.
type limits struct {
	maxPayload int64  // of the server that the connection leads to; headers and body together
	server     string // its name or address, for messages
	maxMsgSize int64  // of the stream; 0 or less if there is none
	stream     string
}

// check returns why m can never be published as it is, or nil. added is the size of the headers
// that the sink puts to those of m.
func (l limits) check(m *sink.Message, added int) *sink.RejectedError {
	reject := func(format string, args ...any) *sink.RejectedError {
		return &sink.RejectedError{Topic: m.Topic, Reason: fmt.Sprintf(format, args...)}
	}
	var reason string
	if m.Entity == "" {
		reason = illegalSubject(m.Topic)
	} else {
		reason = illegalStateSubject(m.Topic)
	}
	if reason != "" {
		return reject("%q is not a legal subject: %s", m.Topic, reason)
	}
	for _, h := range m.Headers {
		if !legalHeaderKey(h.Key) {
			return reject("%q is not a legal header name", h.Key)
		}
		if strings.ContainsAny(h.Value, "\r\n") {
			return reject("the value of header %s holds a line break, which NATS cannot carry", h.Key)
		}
	}
	return l.checkSize(m, added)
}

// checkSize returns why m is too large, or nil.
func (l limits) checkSize(m *sink.Message, added int) *sink.RejectedError {
	reject := func(format string, args ...any) *sink.RejectedError {
		return &sink.RejectedError{Topic: m.Topic, Reason: fmt.Sprintf(format, args...)}
	}
	headers := int64(added)
	for _, h := range m.Headers {
		headers += int64(len(h.Key) + len(h.Value) + headerEntry)
	}
	if headers > 0 {
		headers += headerLine
	}
	size := headers + int64(len(m.Body))
	switch {
	case headers > maxHeaders:
		return reject("headers of %d bytes exceed the %d that JetStream stores", headers, maxHeaders)
	case l.maxPayload > 0 && size > l.maxPayload:
		return reject("body and headers of %d bytes exceed max_payload %d of server %s", size, l.maxPayload, l.server)
	case l.maxMsgSize > 0 && size > l.maxMsgSize:
		return reject("body and headers of %d bytes exceed max_msg_size %d of stream %s", size, l.maxMsgSize, l.stream)
	}
	return nil
}

// idHeaderSize is what the id of m adds to its headers.
func idHeaderSize(m *sink.Message) int {
	if m.ID == "" {
		return 0
	}
	return len(msgIDHeader) + len(m.ID) + headerEntry
}

func legalHeaderKey(key string) bool {
	for i := range len(key) {
		if c := key[i]; c <= ' ' || c >= 0x7f || c == ':' {
			return false
		}
	}
	return key != ""
}
