// Package verify compares a span of the source with what a bus holds of it.
//
// It works in memory that hardly depends on the length of the span. What both sides say of an event
// (its id, its topic, a hash of its body; never the body) is written to files in a temporary
// directory, divided by a hash of the id, and compared one part at a time. In memory are one part
// of some 32,000 events (up to 16 million events; beyond that, a 512th of them), a buffer for each
// file, and a bit and two bytes of a bloom filter for each event, the filter being 64 MiB at most.
// On disk an event takes about 150 bytes, and each copy of it on the bus 100.
package verify

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/republish"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
)

// skew is how much earlier than its event a message may be stored, by the bus's clock, and still be
// found.
const skew = 24 * time.Hour

// Router says where an event belongs, and how its message looks; see router.Router.
type Router interface {
	Append(batch []sink.Message, e *source.Event) ([]sink.Message, error)
	DeadLetter(e *source.Event, topic, reason string, size, limit int) (sink.Message, error)
	DeadLetterTopic() string
}

// Check says what to compare with what.
type Check struct {
	Source republish.Source
	Span   republish.Span
	Router Router
	Bus    sink.Scanner
	Topics []string // what to read on the bus, in addition to the topics that the events belong to
	Dir    string   // the temporary directory is made in it; empty for that of the system
	// Mode is the mode in which the lane published; empty if it is not known. Copies that
	// at_least_once allows are reported and are no faults, unless Strict is set.
	Mode   checkpoint.Mode
	Strict bool
	// NotDue are event types that Source leaves out, since the lane has yet to publish events of
	// them.
	NotDue []string
	// MayComeEarly: the bus may store an event before its predecessor in at_least_once, if it
	// stores it once more in its place.
	MayComeEarly bool
	// Examples is how many cases of each finding are named.
	Examples int
	// Progress, if not nil, is called now and then with the progress of the stage, from 0 to 1, and
	// with how many events or messages it has read.
	Progress func(stage string, done float64, seen int)
}

// The stages of a check.
const (
	StageSource  = "reading the source"
	StageBus     = "reading the bus"
	StageCompare = "comparing"
)

// Result is a finished check. It keeps the temporary directory until it is closed.
type Result struct {
	Report Report
	check  *Check
	run    *run
}

// Close removes the temporary directory.
func (r *Result) Close() error { return r.run.close() }

// Run reads both sides and compares them. The error says that it could not be done; findings are no
// error. The source is read first, so that a message which is published meanwhile is not missed.
func (c *Check) Run(ctx context.Context) (*Result, error) {
	dir, err := os.MkdirTemp(c.Dir, "relay-verify-")
	if err != nil {
		return nil, fmt.Errorf("making a temporary directory: %w", err)
	}
	r := &run{check: c, dir: dir, topics: map[string]uint32{}, report: newReport(c.Examples), held: map[uint32]*held{}, seed: maphash.MakeSeed()}
	r.report.Mode, r.report.Strict, r.report.NotDue = c.Mode, c.Strict, c.NotDue
	err = r.all(ctx)
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return &Result{Report: r.report, check: c, run: r}, nil
}

// run is the state of a check.
type run struct {
	check  *Check
	dir    string
	topics map[string]uint32 // number by name
	names  []string          // of topics, by number
	oldest time.Time         // created_at of the earliest event
	count  uint64            // of events that the bus should hold
	parts  int
	filter *filter
	lanes  []busLog
	scans  uint64           // copies taken from the bus
	found  bitset           // by event: a message that carries it is on the bus
	newer  bitset           // by event that was not found, of a compacted topic: one with the same key is on the bus that is not older
	held   map[uint32]*held // by topic, of logs that keep only so many messages of each
	seed   maphash.Seed     // of keys

	compacted map[uint32]bool // topics; nil if there are none
	report    Report
}

func (r *run) close() error { return os.RemoveAll(r.dir) }

func (r *run) all(ctx context.Context) error {
	if err := r.readSource(ctx); err != nil {
		return fmt.Errorf("%s: %w", StageSource, err)
	}
	if r.count == 0 {
		return nil
	}
	if err := r.split(ctx); err != nil {
		return err
	}
	if err := r.readBus(ctx); err != nil {
		return fmt.Errorf("%s: %w", StageBus, err)
	}
	if err := r.compare(ctx); err != nil {
		return fmt.Errorf("%s: %w", StageCompare, err)
	}
	return nil
}

func (r *run) progress(stage string, done float64, seen int) {
	if r.check.Progress != nil {
		r.check.Progress(stage, min(max(done, 0), 1), seen)
	}
}

// topic returns the number of a topic.
func (r *run) topic(name string) uint32 {
	n, ok := r.topics[name]
	if !ok {
		n = uint32(len(r.names)) //nolint:gosec // far fewer
		r.topics[name] = n
		r.names = append(r.names, name)
	}
	return n
}

// carrier returns the message that should be on the bus for e, and the id by which it is known
// there. The message is nil if a route drops e.
func (c *Check) carrier(e *source.Event) (*sink.Message, string, error) {
	messages, err := c.Router.Append(nil, e)
	var rejected *sink.RejectedError
	if errors.As(err, &rejected) { // a lane parks the event, and its dead letter has the same headers
		letter, letterErr := c.Router.DeadLetter(e, rejected.Topic, rejected.Reason, 0, 0)
		if letterErr != nil {
			return nil, "", err
		}
		letter.Topic, letter.Body = rejected.Topic, nil
		messages, err = []sink.Message{letter}, nil
	}
	if err != nil || len(messages) == 0 {
		return nil, "", err
	}
	m := &messages[0]
	for _, h := range m.Headers {
		if h.Key == router.HeaderID {
			return m, h.Value, nil
		}
	}
	return nil, "", fmt.Errorf("the message of event %s has no header %s", e.ID, router.HeaderID)
}
