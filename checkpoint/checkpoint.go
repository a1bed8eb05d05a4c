// Package checkpoint says how far a lane of relay has come: the Position up to which every event is durable on the bus, the
// Checkpoint that records it together with whose it is, and the Store that keeps it. The package knows nothing of sources,
// sinks or the pipeline.
package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"time"

	"workos-relay/internal/operator"
)

// What an operator has to do about the errors of a Store.
const (
	actOnLost    = "say where to go on with `relay checkpoint set`"
	actOnCorrupt = "restore the checkpoint, or say where to go on with `relay checkpoint set`"
	actOnForeign = "give this relay the settings that its checkpoint was made with, or say where to go on with `relay checkpoint set`"
	actOnLocked  = "stop the other relay, or give one of the two another checkpoint.dir"
)

// Sentinel errors of a Store. Each is matched with errors.Is; the error itself names the file or subject concerned and says
// what to do next. ErrLost, ErrCorrupt, ErrForeign and ErrLocked have a method OperatorAction() string: only an operator can
// resolve them. ErrNotFound and ErrConflict do not.
var (
	// ErrNotFound means that there has never been a checkpoint here. It is normal at a first start.
	ErrNotFound = errors.New("no checkpoint")
	// ErrLost means that there is no checkpoint although the destination already holds messages, so this is not a first start.
	ErrLost = operator.New("checkpoint lost", actOnLost)
	// ErrCorrupt means that the checkpoint cannot be read: it is truncated, altered, or written by a newer relay.
	ErrCorrupt = operator.New("checkpoint corrupt", actOnCorrupt)
	// ErrForeign means that the checkpoint belongs to another relay, lane, endpoint, organization, destination or mode.
	ErrForeign = operator.New("checkpoint foreign", actOnForeign)
	// ErrConflict means that somebody else has moved the checkpoint since prev was loaded.
	ErrConflict = errors.New("checkpoint conflict")
	// ErrLocked means that another process holds the store open.
	ErrLocked = operator.New("checkpoint locked", actOnLocked)
)

// Position is a place in the order of the source. With an EventID it means: everything up to and including this event. With an
// empty EventID it means: everything before CreatedAt. The zero Position is the beginning of the source.
type Position struct {
	EventID   string
	CreatedAt time.Time // of the event, UTC; may be zero where only the id is known
}

// IsZero reports whether p is the beginning of the source.
func (p Position) IsZero() bool { return p.EventID == "" && p.CreatedAt.IsZero() }

// Equal reports whether p and q are the same place. Two positions with the same event id are, whatever their times say.
func (p Position) Equal(q Position) bool {
	if p.EventID != "" || q.EventID != "" {
		return p.EventID == q.EventID
	}
	return p.CreatedAt.Equal(q.CreatedAt)
}

// String is for people: logs, errors and tables.
func (p Position) String() string {
	switch {
	case p.IsZero():
		return "the earliest event"
	case p.EventID == "":
		return "events from " + p.CreatedAt.UTC().Format(time.RFC3339Nano)
	case p.CreatedAt.IsZero():
		return p.EventID
	default:
		return p.EventID + " of " + p.CreatedAt.UTC().Format(time.RFC3339Nano)
	}
}

// Mode is the delivery guarantee under which a position was committed. It is recorded because the two keep their position in
// different places, and a silent change from one to the other would start over.
type Mode string

// The modes of delivery.
const (
	AtLeastOnce Mode = "at_least_once"
	ExactlyOnce Mode = "exactly_once"
)

// Identity says whose checkpoint it is. The API key is no part of it, since keys rotate; nor is the event filter, since a
// changed filter makes no checkpoint foreign.
type Identity struct {
	Relay        string // `id` of the configuration
	Lane         string // name of the sink
	Endpoint     string // of the Events API
	Organization string // the one the source is restricted to; empty for all
	Destination  string // what the sink writes to, such as "nats stream WORKOS"; no addresses, since these change
}

// Check returns nil where have belongs to id, otherwise a *ForeignError that names the first difference.
func (id Identity) Check(have Identity) error {
	for _, f := range []struct{ name, want, have string }{
		{"relay id", id.Relay, have.Relay},
		{"lane", id.Lane, have.Lane},
		{"endpoint", id.Endpoint, have.Endpoint},
		{"organization_id", id.Organization, have.Organization},
		{"destination", id.Destination, have.Destination},
	} {
		if f.want != f.have {
			return &ForeignError{Field: f.name, Want: f.want, Have: f.have}
		}
	}
	return nil
}

// ForeignError names what does not fit between a checkpoint and the relay that loads it. It matches ErrForeign.
type ForeignError struct {
	Field      string
	Want, Have string
}

// Error implements error.
func (e *ForeignError) Error() string {
	return fmt.Sprintf("the checkpoint belongs to %s %q, this relay has %s %q", e.Field, e.Have, e.Field, e.Want)
}

// Is makes errors.Is(err, ErrForeign) hold.
func (e *ForeignError) Is(target error) bool { return target == ErrForeign }

// OperatorAction says what an operator has to do.
func (*ForeignError) OperatorAction() string { return actOnForeign }

// Checkpoint is a Position together with whose it is and who moved it.
type Checkpoint struct {
	Position
	Generation uint64   // rises with every holder: a fencing token
	Holder     string   // which process moved it last
	Released   bool     // its holder stopped in order: a standby may take over at once
	Source     Identity // whose it is
	Mode       Mode     // how it was committed
	Events     []string // the filter of event types in force when it was committed, sorted; empty where unknown
	UpdatedAt  time.Time
	Revision   uint64 // set by the store: what compare and swap compares; 0 in a Checkpoint that no store has returned
}

// Store keeps one Checkpoint. Implementations are safe for concurrent use.
type Store interface {
	// Load reads the checkpoint in force. It returns ErrNotFound, ErrCorrupt or ErrForeign as the case may be; any other error
	// means that it could not be known.
	Load(ctx context.Context) (Checkpoint, error)
	// Commit replaces prev by next and returns next with the Revision that the store gave it. When it returns nil, next is
	// durable. It returns ErrConflict, and changes nothing, where the checkpoint in force is not prev (by Revision; a zero
	// Revision stands for "none yet"). After any other error either prev or next is in force, never anything else: Load tells.
	Commit(ctx context.Context, prev, next Checkpoint) (Checkpoint, error)
}
