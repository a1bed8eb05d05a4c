package batch

import (
	"errors"
	"fmt"
	"time"

	"workos-relay/sink"
	"workos-relay/source"
)

const (
	// growAfter is after how many batches in a row, each as large as allowed, the next one becomes
	// larger although they were slow.
	growAfter = 16
	// refusalsUntilHalved is how many batches in a row must fail, for any reason, before the next
	// one becomes smaller.
	refusalsUntilHalved = 2
)

// portion bounds one batch after the bus has failed to take a larger one: because of a slow link,
// a quota, or a message that the bus refuses without naming it. Failures halve it, down to one
// event, and successes double it. The zero value does not bound.
type portion struct {
	events int // 0 if not bounded
	bytes  int // of Event.Raw

	failedIn time.Duration // how long the bus was given the last time that it failed
	failures int           // in a row
	filled   int           // successes in a row that were as large as allowed
}

// cut returns how many of the first events fit. It is at least one.
func (p *portion) cut(events []source.Event) int {
	if p.events == 0 {
		return len(events)
	}
	size := 0
	for i := range min(p.events, len(events)) {
		if size += len(events[i].Raw); size > p.bytes && i > 0 {
			return i
		}
	}
	return min(p.events, len(events))
}

// failed records that events could not be delivered, after took. If timedOut, the next batch is
// halved at once, else only if this is not the first failure in a row. If the bus is known to have
// received the first taken of the events, the next batch has at most three quarters of these.
func (p *portion) failed(events []source.Event, took time.Duration, timedOut bool, taken int) {
	p.failures++
	if !timedOut && p.failures < refusalsUntilHalved {
		return // says nothing about the size
	}
	p.filled = 0
	next := len(events) / 2
	p.bytes = max(1, size(events)/2)
	if 0 < taken && 3*taken/4 < next {
		next = 3 * taken / 4
		p.bytes = min(p.bytes, max(1, size(events[:next])))
	}
	p.events = max(1, next)
	p.failedIn = took
}

// succeeded records that the first done of the events were delivered, after took. mostEvents and
// mostBytes bound the growth: beyond them the portion is not bounded any more.
func (p *portion) succeeded(events []source.Event, done int, took time.Duration, mostEvents, mostBytes int) {
	p.failures = 0
	if p.events == 0 {
		return
	}
	// A batch that ended early, because there were no more events, says nothing about a larger one.
	if delivered := events[:done]; len(delivered) < p.events && 2*size(delivered) < p.bytes {
		return
	}
	if p.filled++; took > p.failedIn/4 && p.filled < growAfter {
		return
	}
	p.filled = 0
	if p.events, p.bytes = 2*p.events, 2*max(p.bytes, size(events)); p.events > mostEvents && p.bytes > mostBytes {
		*p = portion{}
	}
}

func size(events []source.Event) int {
	n := 0
	for i := range events {
		n += len(events[i].Raw)
	}
	return n
}

// explainAlone adds to an error which setting to raise if the bus did not take an event in time
// although it was sent alone.
func explainAlone(e *source.Event, failure error) error {
	advice := "if the link or the bus is slow, give it more time"
	var timeout *sink.TimeoutError
	if errors.As(failure, &timeout) && timeout.Setting != "" {
		advice = "if the link or the bus is slow, raise " + timeout.Setting
		if timeout.Value > 0 {
			advice += fmt.Sprintf(", which is %s", timeout.Value)
		}
	}
	return fmt.Errorf("event %s (%s, %d bytes) does not get through in time even alone; %s: %w", e.ID, e.Event, len(e.Raw), advice, failure)
}
