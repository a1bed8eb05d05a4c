package sink

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"workos-relay/checkpoint"
)

// Header is one message header. Headers keep their order if the bus keeps it.
type Header struct{ Key, Value string }

// Message is one message for the bus. Body and Key may alias a page of the source and are never
// modified.
type Message struct {
	Topic    string // topic in Kafka, subject in NATS; prefix included
	Key      []byte // partition key; buses without partitions ignore it
	ID       string // event id, if the bus may use it to recognize a second copy of this message; empty if it must not
	Headers  []Header
	Body     []byte
	Position checkpoint.Position // of its event; the messages of one event are adjacent in a batch
	Created  time.Time           // when its event was created; zero if the message does not stand for the event, as a dead letter
	// Entity marks a state message: the newest version of an object of this entity, or, if Body is
	// nil, that the object was removed. Key is the object's key. It is empty for every other
	// message. A state message has no ID: if one of two versions were left out as a second copy,
	// the older one could come last.
	Entity string
	// Snapshot is set if the message is part of a snapshot and has no event. Position then only
	// tells that the messages of a batch belong together, and no position of the lane is like it.
	Snapshot bool
}

// Passed returns the positions of the events of batch, in order. Messages of a snapshot have none.
func Passed(batch []Message) []checkpoint.Position {
	var passed []checkpoint.Position
	for i := range batch {
		if batch[i].Snapshot {
			continue
		}
		if n := len(passed); n == 0 || passed[n-1].EventID != batch[i].Position.EventID {
			passed = append(passed, batch[i].Position)
		}
	}
	return passed
}

// Removes reports whether m is a state message that removes its object.
func (m *Message) Removes() bool { return m.Entity != "" && m.Body == nil }

// StateTopic is a topic that holds the newest version of each object of an entity, by its key.
type StateTopic struct {
	Topic  string // prefix included
	Entity string // "directory_user"
}

// Sink is a bus. Publish is called by one goroutine at a time; Close may be called at any time and
// from any goroutine, and makes a Publish under way return. A second Close does no harm.
type Sink interface {
	Destination
	// Publish returns nil when every message of batch is durable, in the order of the batch (per
	// topic and key if the bus has partitions). Otherwise it returns a *PublishError that says how
	// long the durable prefix is; what follows the prefix may or may not be stored. When ctx ends,
	// no further message is sent, and Publish returns soon after with what is known. An
	// implementation retries inside only what keeps order and makes no duplicate. It keeps nothing
	// of batch when it returns but the strings of ids, topics and positions: the array, the headers
	// and the bytes belong to the caller again.
	Publish(ctx context.Context, batch []Message) error
	Close() error
}

// PublishError says which part of a batch is durable.
type PublishError struct {
	Durable int   // batch[:Durable] is durable
	Err     error // why batch[Durable] is not known to be
}

// Error implements error.
func (e *PublishError) Error() string {
	if e.Durable == 1 {
		return fmt.Sprintf("1 message of the batch is durable, then: %v", e.Err)
	}
	return fmt.Sprintf("%d messages of the batch are durable, then: %v", e.Durable, e.Err)
}

// Unwrap returns the cause.
func (e *PublishError) Unwrap() error { return e.Err }

// Durable returns how many messages of a batch of n are durable after Publish returned err.
func Durable(err error, n int) int {
	if err == nil {
		return n
	}
	var pe *PublishError
	if errors.As(err, &pe) {
		return min(max(pe.Durable, 0), n)
	}
	return 0
}

// WentBackError is the cause inside a PublishError if the bus has stored a message before one that
// it had acknowledged earlier, so that it has lost what came between. A Sink reports a loss once.
type WentBackError struct {
	Part    string // as checkpoint.Part.Name
	Missing uint64 // how many messages are missing
}

// Error implements error.
func (e *WentBackError) Error() string {
	return fmt.Sprintf("%s has lost %d messages that it had acknowledged, or was made again", e.Part, e.Missing)
}

// RejectedError is the cause inside a PublishError if the message at Durable can never be published
// as it is: it is too large for the bus, or its topic is not a legal name there. A retry does not
// help.
type RejectedError struct {
	Topic  string
	Size   int    // bytes that the bus would count, if the size is the reason; else 0
	Limit  int    // bytes that the bus takes, if known; else 0
	Reason string // complete on its own, with sizes in bytes: "body and headers of 1203311 bytes exceed max_payload 1048576 of ..."
}

// Error implements error.
func (e *RejectedError) Error() string {
	return fmt.Sprintf("cannot be published to %s: %s", e.Topic, e.Reason)
}

// ErrTimeout matches the errors of a batch that the bus did not take within a deadline, although a
// smaller one may fit: a slow link, a quota, a limit on the size of a request. The lane makes its
// next batch half as large. An implementation returns a *TimeoutError, within its *PublishError if
// it has one, or an error that wraps ErrTimeout. It does not return it if the bus refused the
// batch.
var ErrTimeout = errors.New("the bus did not take the batch within its deadline")

// TimeoutError is an error that matches ErrTimeout and names the setting that bounds the time.
type TimeoutError struct {
	Setting string        // key of the configuration to raise if one event alone does not fit: "ack_timeout"; empty if there is none
	Value   time.Duration // of the setting; 0 if unknown
	Taken   int           // how many messages of the batch the bus had received by then, none of which need be stored; 0 if unknown
	Err     error         // what happened; complete on its own
}

// Error implements error.
func (e *TimeoutError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *TimeoutError) Unwrap() error { return e.Err }

// Is makes errors.Is(err, ErrTimeout) hold.
func (e *TimeoutError) Is(target error) bool { return target == ErrTimeout }

// FatalError is the cause inside a PublishError, or the error of Prepare, if no message can be
// published until an operator changes something: a stream was deleted, a topic was refused. A lane
// that has not acquired its position yet stops at it. A lane that has run keeps trying slowly,
// because the operator may repair the bus while relay runs, and reports the action meanwhile.
type FatalError struct {
	Err    error  // what is wrong; its text says what to do unless Action does
	Action string // what the operator has to do; may be empty
}

// Error implements error.
func (e *FatalError) Error() string {
	if e.Action == "" || strings.Contains(e.Err.Error(), e.Action) {
		return e.Err.Error()
	}
	return e.Err.Error() + "; " + e.Action
}

// Unwrap returns the cause.
func (e *FatalError) Unwrap() error { return e.Err }

// OperatorAction says what an operator has to do: Action, or without it the text of Err.
func (e *FatalError) OperatorAction() string {
	if e.Action != "" {
		return e.Action
	}
	return e.Err.Error()
}

// Destination is what relay asks of a bus besides publishing: before the first event, for
// `relay check`, and to find out if the bus has lost what it acknowledged.
type Destination interface {
	// Identity names what the sink writes to, without addresses: "nats stream WORKOS". It needs no
	// connection.
	Identity() string
	// Prepare makes the destination ready for messages on exactly these topics, which may be
	// patterns if its Settings take them, creating what the configuration lets it create. It
	// returns a *FatalError that names every topic that cannot be used and why, or another error if
	// the bus could not be asked (a retry may help). Safe to call again.
	Prepare(ctx context.Context, topics []string) error
	// Holds reports whether any of the topics already holds a message. A missing topic holds none.
	Holds(ctx context.Context, topics []string) (bool, error)
	// Inspect looks at each topic and changes nothing. The error is for a bus that could not be
	// asked.
	Inspect(ctx context.Context, topics []string) ([]TopicStatus, error)
	// Survey returns the streams or topics that messages on these topics are in, sorted by name,
	// without those that do not exist. It sets Name, Topic, ID, Ends and Position; Events is how
	// many messages the part holds now, about. known is what an earlier Survey returned: before
	// Survey leaves one of these out, or returns a lower end, it looks several times over some
	// seconds, since a cluster that starts or elects a leader may answer like that. A part that
	// relay may not look at has no Ends. A bus that cannot tell returns no parts. Survey creates
	// nothing.
	Survey(ctx context.Context, topics []string, known []checkpoint.Part) ([]checkpoint.Part, error)
	// Ping asks the bus, at the least cost, whether it answers. The error is complete on its own.
	Ping(ctx context.Context) error
}

// Forgetter is a Sink that compares what the bus acknowledges with what it acknowledged before: see
// WentBackError. It is optional.
type Forgetter interface {
	// Forget says that what the bus acknowledged until now does not matter any more, because an
	// operator has decided where to go on. It does not wait. Safe for concurrent use.
	Forget()
}

// Adviser is a Sink or a Ledger that has more to say in `relay check` than Inspect does. It is
// optional.
type Adviser interface {
	// Advice looks at the bus as a whole and changes nothing. With an error it returns what it has
	// found out until then.
	Advice(ctx context.Context, topics []string) (Advice, error)
}

// Advice is what an Adviser says of the bus as a whole.
type Advice struct {
	Facts    []string // "compression: lz4"
	Warnings []string // what weakens the guarantees, or what relay does in another way than the configuration wishes
	Faults   []string // why messages cannot be published
}

// TopicStatus is one line of `relay check`.
type TopicStatus struct {
	Topic    string
	Exists   bool     // it is there, and a message published to it would be stored
	Creates  bool     // it is not there, and Prepare would create it
	Detail   string   // what an operator wants to know: "stream WORKOS", "6 partitions, replication 3, min.insync.replicas 2"
	Problems []string // why it cannot be used; empty if it can
	Warnings []string // what weakens the guarantees
	// MaxMessage is the size in bytes of the largest message that the topic takes, or would take
	// once it is created; 0 if unknown.
	MaxMessage int
	// Unfit is set for the place of the position alone: the error with which Prepare refuses
	// exactly_once there, nil if it does not.
	Unfit error
}
