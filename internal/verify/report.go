package verify

import (
	"slices"
	"time"

	"workos-relay/checkpoint"
)

// Report is what a check found.
type Report struct {
	Events   int `json:"events"`   // of the source, in the span, that the bus should hold
	Dropped  int `json:"dropped"`  // of the source, in the span, that a route drops
	Scanned  int `json:"scanned"`  // messages read from the bus
	Messages int `json:"messages"` // of them, those that carry an event of the span

	Missing    Finding `json:"missing"`      // events that no message carries
	Duplicate  Finding `json:"duplicate"`    // messages after the first of their event on its topic, without replays
	Misrouted  Finding `json:"misrouted"`    // messages on another topic than the present routes say
	Altered    Finding `json:"altered"`      // messages whose body is not the one that relay makes of the event
	OutOfOrder Finding `json:"out_of_order"` // messages directly behind one whose event comes later in the source

	Replayed int `json:"replayed"` // messages with the header relay-replay, on their topic
	Repaired int `json:"repaired"` // messages with the header relay-repair, on their topic
	Parked   int `json:"parked"`   // dead letters
	Late     int `json:"late"`     // messages with the header relay-late, on their topic: their place in the order does not count
	// Expired are events that were not found, and that the bus may have held and let go by
	// retention: nothing can be said of them.
	Expired int       `json:"expired"`
	Trimmed []Trimmed `json:"trimmed,omitempty"` // the logs in which older messages are gone, if that concerns the span
	// Compacted are events that were not found on a compacted topic that has a newer event with the
	// same key; Displaced are events that were not found on a topic that holds as many messages as
	// it may (max_msgs_per_subject), all of them newer.
	Compacted int `json:"compacted"`
	Displaced int `json:"displaced"`
	// UnknownPolicies names the topics of which it is not known whether they are compacted, and
	// why.
	UnknownPolicies []UnknownPolicy `json:"unknown_policies,omitempty"`

	// NotDue are event types that were not compared, since WorkOS refuses them, or has refused them
	// and the lane has yet to publish what came meanwhile.
	NotDue []string `json:"not_due,omitempty"`

	Mode   checkpoint.Mode `json:"mode"` // of delivery, in which the lane published; empty if it is not known
	Strict bool            `json:"strict"`
	// AllowedCopies are duplicates, and AllowedEarly are messages out of order, that the mode of
	// delivery allows: they are no faults, unless Strict is set. Those out of order came again in
	// their place.
	AllowedCopies int `json:"allowed_copies"`
	AllowedEarly  int `json:"allowed_early"`
	Total         int `json:"faults"` // what is left of all findings
}

// UnknownPolicy is a topic of which it is not known whether it is compacted.
type UnknownPolicy struct {
	Topic string `json:"topic"`
	Why   string `json:"why"`
}

// Finding is how often something was found, and the first cases.
type Finding struct {
	Count    int       `json:"count"`
	Examples []Example `json:"examples"`

	limit int
}

// Example is one case of a finding. What does not apply to the finding is empty.
type Example struct {
	EventID   string    `json:"event_id"`
	CreatedAt time.Time `json:"created_at"`
	Topic     string    `json:"topic"`              // where the message is, or, of a missing one, should be
	Expected  string    `json:"expected,omitempty"` // the topic that the routes choose
	Log       string    `json:"log,omitempty"`      // stream or partition
	Offset    int64     `json:"offset,omitempty"`   // sequence in the stream, or offset in the partition

	FirstLog    string `json:"first_log,omitempty"` // of a duplicate: where the first copy is
	FirstOffset int64  `json:"first_offset,omitempty"`
	Behind      string `json:"behind,omitempty"` // of one out of order: the later event that precedes it
}

// Trimmed is a log that no longer holds its oldest messages.
type Trimmed struct {
	Log    string     `json:"log"`
	Oldest *time.Time `json:"oldest,omitempty"` // when the oldest message that is left was stored; absent if there is none
}

func newReport(examples int) Report {
	var r Report
	for _, f := range r.findings() {
		f.limit, f.Examples = max(examples, 0), []Example{}
	}
	return r
}

func (r *Report) findings() []*Finding {
	return []*Finding{&r.Missing, &r.Duplicate, &r.Misrouted, &r.Altered, &r.OutOfOrder}
}

// Allows reports whether copies are no faults.
func (r *Report) Allows() bool { return r.Mode == checkpoint.AtLeastOnce && !r.Strict }

// Faults is how many faults were found: the findings without what the mode of delivery allows.
func (r *Report) Faults() int {
	n := -r.AllowedCopies - r.AllowedEarly
	for _, f := range r.findings() {
		n += f.Count
	}
	return n
}

// unknown notes a topic once.
func (r *Report) unknown(topic, why string) {
	u := UnknownPolicy{topic, why}
	if !slices.Contains(r.UnknownPolicies, u) {
		r.UnknownPolicies = append(r.UnknownPolicies, u)
	}
}

// Unknown reports whether nothing of the span could be compared, since the bus no longer keeps any
// of it.
func (r *Report) Unknown() bool { return r.Events > 0 && r.Expired == r.Events }

func (f *Finding) add(example func() Example) {
	if f.Count++; len(f.Examples) < f.limit {
		f.Examples = append(f.Examples, example())
	}
}

func (r *Report) trimmed(log string, oldest time.Time) {
	t := Trimmed{Log: log}
	if !oldest.IsZero() {
		oldest = oldest.UTC()
		t.Oldest = &oldest
	}
	r.Trimmed = append(r.Trimmed, t)
}
