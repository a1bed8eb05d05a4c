package source

import (
	"sync"
	"unsafe"

	"go.uber.org/zap"

	"workos-relay/internal/catalogue"
)

const (
	// Of each type the first events are all compared with the schema, and later ones now and then:
	// a payload that changes for good is found soon, and a backlog is not slowed down.
	payloadsCompared = 40
	payloadsBetween  = 32
)

// payloadCheck compares payloads with the schemas that WorkOS publishes. An event whose payload
// does not fit is relayed like any other. It is safe for concurrent use.
type payloadCheck struct {
	mu   sync.Mutex // guards what follows
	seen map[string]int
	odd  map[string]bool // types that were reported
}

// compare looks at the events and tells the hooks, and once for each type the log, which do not
// fit.
func (c *payloadCheck) compare(events []Event, hooks *Hooks, log *zap.Logger) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen, c.odd = map[string]int{}, map[string]bool{}
	}
	for i := range events {
		e := &events[i]
		if _, known := Lookup(e.Event); !known {
			continue // nor does the map grow with it
		}
		n := c.seen[e.Event]
		c.seen[e.Event] = n + 1
		if n >= payloadsCompared && n%payloadsBetween != 0 {
			continue
		}
		why := catalogue.Mismatch(e.Event, unsafe.String(unsafe.SliceData(e.Data), len(e.Data))) //nolint:gosec // an event is never written
		if why == "" {
			continue
		}
		call(hooks.OnOddPayload, OddPayloadInfo{Type: e.Event, EventID: e.ID, Why: why})
		if !c.odd[e.Event] {
			c.odd[e.Event] = true
			log.Warn("the payload of an event does not fit the schema that WorkOS publishes; it is relayed as it is",
				zap.String("type", e.Event), zap.String("event", e.ID), zap.String("why", why))
		}
	}
}
