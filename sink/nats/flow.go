package nats

import (
	"time"

	"workos-relay/sink"
)

const (
	// minInFlight and maxInFlight bound how many bytes are sent before the server has answered for
	// half of them. A stream takes 128 MiB of messages that it has not looked at yet; beyond that
	// it drops them.
	minInFlight = 256 << 10
	maxInFlight = 16 << 20
	// A half that is answered within quickHalf doubles the bytes in flight; one that takes longer
	// than slowHalf halves them.
	quickHalf = 500 * time.Millisecond
	slowHalf  = 3 * time.Second
)

// flow adapts the bytes in flight to the link, so that what waits on a slow one is answered, or
// given up, within seconds. Only the holder of the token in Sink.busy uses it.
type flow struct{ bytes int }

func (f *flow) inFlight() int { return max(f.bytes, minInFlight) }

// answered notes how long the answer for half of the bytes in flight took.
func (f *flow) answered(took time.Duration) {
	switch {
	case took <= quickHalf:
		f.bytes = min(2*f.inFlight(), maxInFlight)
	case took >= slowHalf:
		f.bytes = f.inFlight() / 2
	}
}

// failed starts over with few bytes in flight.
func (f *flow) failed() { f.bytes = 0 }

// wireSize is about how many bytes m takes on the link.
func wireSize(m *sink.Message) int {
	n := len(m.Topic) + len(m.Body) + 64
	for i := range m.Headers {
		n += len(m.Headers[i].Key) + len(m.Headers[i].Value) + 4
	}
	return n
}
