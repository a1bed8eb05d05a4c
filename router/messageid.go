package router

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"strings"
)

// What the ids of messages begin with, other than those of events whose own id is taken as it
// stands.
const (
	deadLetterMark   = "dead_letter."
	deadLetterDigest = "dead_letter_digest." // if the id of the event cannot stand in that of its dead letter
	eventMark        = "event."              // of an event whose id would be taken for another message's
)

// messageID returns the id of the message that carries the event id. Two events never have the
// same, and no event has that of a dead letter, also on a bus that drops blanks at both ends: it
// would take one message for a second copy of the other and drop it.
func messageID(id string) string {
	if strings.HasPrefix(id, deadLetterMark) || strings.HasPrefix(id, deadLetterDigest) || strings.HasPrefix(id, eventMark) || blankEnds(id) {
		return eventMark + url.QueryEscape(id)
	}
	return id
}

// deadLetterID returns the id of the dead letter of the event id. digest is that of the event as
// far as there is one.
func deadLetterID(id, digest string) string {
	if len(id) <= maxName && !blankEnds(id) {
		return deadLetterMark + id
	}
	sum := sha256.Sum256([]byte(digest + "." + id)) // a digest is empty or has one length
	return deadLetterDigest + hex.EncodeToString(sum[:])
}

// blankEnds reports whether a bus may store another id than this.
func blankEnds(id string) bool { return strings.TrimSpace(id) != id }
