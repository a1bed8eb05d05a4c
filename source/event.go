package source

import (
	"encoding/json"
	"time"

	"workos-relay/checkpoint"
)

// Event is one event of the Events API. Data and Raw alias the page that the event came with: they
// are read, never written, and they keep that page in memory as long as they are held.
type Event struct {
	ID        string          `json:"id"`
	Event     string          `json:"event"` // the type, such as dsync.user.created
	Data      json.RawMessage `json:"data"`
	CreatedAt time.Time       `json:"created_at"`

	// Raw is the whole object byte for byte as received, with fields that this package does not
	// know.
	Raw json.RawMessage `json:"-"`
	// LateSince is set for an event that comes late because the API refused its type: when it
	// refused it first. It is zero for every other event.
	LateSince time.Time `json:"-"`
}

// Position is the place right after the event.
func (e *Event) Position() checkpoint.Position {
	return checkpoint.Position{EventID: e.ID, CreatedAt: e.CreatedAt}
}

// Page is what one request brought, in the order of the source.
type Page struct {
	Events    []Event
	Tip       bool          // nothing more was there when the API answered
	Now       time.Time     // the API's clock (its Date header, advanced since), else the local one
	Size      int           // bytes that the events keep in memory
	RequestID string        // X-Request-Id, for error messages
	Sent      time.Time     // when its request was sent, by the local clock; zero for a part of a page that is not the last one
	Took      time.Duration // from then to the last byte of the answer
	Request   *RequestInfo  // that it answers; nil if Sent is zero
	// Seen is an instant by the API's clock: every event that was created before it is in this page
	// or in one before it. It is zero if the page does not tell.
	Seen time.Time
	// Late is an event type if the page holds nothing but events of it that are late, and stand
	// before a page that was yielded earlier. They do not move the position.
	Late string
	// Refused is what Checkpoint.Refused must say once the page is committed, by name; nil if that
	// is not known. It is shared and never changed.
	Refused []checkpoint.Refused
	// Joining are the types of Refused of which this page holds all events, in their place. If only
	// a part of the page is committed, they are published up to the end of that part.
	Joining []string
}
