package pipeline

import (
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/batch"
	"workos-relay/source"
)

// Outcome is the result of one Append.
type Outcome struct {
	Events   []source.Event // committed by it, in order; valid only during the call
	Ends     []int          // Ends[i] is the number of messages of Events[:i+1]: Ends[i-1] if event i was dropped; valid only during the call
	Messages int            // durable on the bus
	Bytes    int            // of the messages' bodies
	Dropped  int            // events that the routes drop
	Parked   []Parked       // events that went to the dead letter topic
	Took     time.Duration  // publishing and committing, retries not counted
}

// outcome returns what became of the first n events of b.
func outcome(b *batch.Batch, n int, took time.Duration) Outcome {
	t := b.Tally(n)
	o := Outcome{Events: b.Events[:n], Ends: b.Ends[:n], Messages: t.Messages, Bytes: t.Bytes, Dropped: t.Dropped, Took: took}
	for _, p := range t.Parked {
		o.Parked = append(o.Parked, Parked(p))
	}
	return o
}

// Parked is an event that went to the dead letter topic.
type Parked struct{ EventID, Type, Reason string }

// What a lane may be doing when Observer.Retrying is called. They are few and fixed, so that they
// can label a metric.
const (
	Reading    = "reading"
	Publishing = "publishing"
	Claiming   = "taking up the position"
	Renewing   = "renewing the position"
	Moving     = "moving the position by hand"
)

// Doings returns every value that Observer.Retrying may be called with.
func Doings() []string { return []string{Reading, Publishing, Claiming, Renewing, Moving} }

// Observer is told what a lane does, as it happens, from the goroutine of the lane. It must not
// block.
type Observer interface {
	Committed(o Outcome, cp checkpoint.Checkpoint)
	// Retrying is called when doing, one of Doings, has failed with err and will be tried again.
	Retrying(doing string, err error)
}

type nopObserver struct{}

func (nopObserver) Committed(Outcome, checkpoint.Checkpoint) {}
func (nopObserver) Retrying(string, error)                   {}
