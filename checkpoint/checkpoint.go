package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"workos-relay/internal/operator"
	"workos-relay/internal/printable"
)

// What an operator has to do about the errors of a Store.
const (
	actOnLost    = "say where to go on"
	actOnCorrupt = "restore the checkpoint, or say where to go on"
	actOnForeign = "give this relay the settings that its checkpoint was made with, or say where to go on"
	actOnLocked  = "stop the other relay, or give one of the two another checkpoint.dir"
)

// Sentinel errors of a Store. Each is matched with errors.Is; the error itself names the file or
// subject concerned and says what to do next. ErrLost, ErrCorrupt, ErrForeign and ErrLocked have a
// method OperatorAction() string: only an operator can resolve them. ErrNotFound and ErrConflict do
// not.
var (
	// ErrNotFound means that there has never been a checkpoint here. It is normal at a first start.
	ErrNotFound = errors.New("no checkpoint")
	// ErrLost means that there is no checkpoint although the destination already holds messages, so
	// this is not a first start.
	ErrLost = operator.New("checkpoint lost", actOnLost)
	// ErrCorrupt means that the checkpoint cannot be read: it is truncated, altered, or written by
	// a newer relay.
	ErrCorrupt = operator.New("checkpoint corrupt", actOnCorrupt)
	// ErrForeign means that the checkpoint belongs to another relay, lane, endpoint, organization,
	// destination or mode.
	ErrForeign = operator.New("checkpoint foreign", actOnForeign)
	// ErrConflict means that somebody else has moved the checkpoint since prev was loaded.
	ErrConflict = errors.New("checkpoint conflict")
	// ErrLocked means that another process holds the store open.
	ErrLocked = operator.New("checkpoint locked", actOnLocked)
)

// Position is a place in the order of the source. With an EventID it means: everything up to and
// including this event. With an empty EventID it means: everything before CreatedAt. The zero
// Position is the beginning of the source.
type Position struct {
	EventID   string
	CreatedAt time.Time // of the event, UTC; zero if only the id is known
}

// IsZero reports whether p is the beginning of the source.
func (p Position) IsZero() bool { return p.EventID == "" && p.CreatedAt.IsZero() }

// Equal reports whether p and q are the same place. Two positions with the same event id are equal,
// even if their times differ.
func (p Position) Equal(q Position) bool {
	if p.EventID != "" || q.EventID != "" {
		return p.EventID == q.EventID
	}
	return p.CreatedAt.Equal(q.CreatedAt)
}

// String returns text for logs, errors and tables.
func (p Position) String() string {
	switch {
	case p.IsZero():
		return "the earliest event"
	case p.EventID == "":
		return "events from " + p.CreatedAt.UTC().Format(time.RFC3339Nano)
	case p.CreatedAt.IsZero():
		return printable.Text(p.EventID)
	default:
		return printable.Text(p.EventID) + " of " + p.CreatedAt.UTC().Format(time.RFC3339Nano)
	}
}

// Mode is the delivery guarantee under which a position was committed. It is recorded because the
// two keep their position in different places, and a silent change from one to the other would
// start over.
type Mode string

// The modes of delivery.
const (
	AtLeastOnce Mode = "at_least_once"
	ExactlyOnce Mode = "exactly_once"
)

// Identity says whose checkpoint it is. The API key does not belong to it, since keys rotate, and
// neither does the event filter, since a changed filter makes no checkpoint foreign.
type Identity struct {
	Relay        string // `id` of the configuration
	Lane         string // name of the sink
	Endpoint     string // of the Events API
	Organization string // the one the source is restricted to; empty for all
	Destination  string // what the sink writes to, such as "nats stream WORKOS"; no addresses, since these change
}

// A Destination on JetStream ends with one of these and a value if the configuration names a domain
// or an API prefix.
const (
	DomainMark    = ", domain "
	APIPrefixMark = ", api_prefix "
)

// Check returns nil if have belongs to id, otherwise a *ForeignError that names the first
// difference. Versions of relay before this one left domain and API prefix out of Destination, so a
// have without one belongs to an id with any.
func (id Identity) Check(have Identity) error {
	if rest, ok := strings.CutPrefix(id.Destination, have.Destination); ok &&
		(strings.HasPrefix(rest, DomainMark) || strings.HasPrefix(rest, APIPrefixMark)) {
		have.Destination = id.Destination
	}
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

// ForeignError names what does not fit between a checkpoint and the relay that loads it. It matches
// ErrForeign.
type ForeignError struct {
	Field      string
	Want, Have string
}

// Error implements error.
func (e *ForeignError) Error() string {
	return fmt.Sprintf("the checkpoint belongs to %s %q, this relay has %s %q", e.Field, printable.Text(e.Have), e.Field, e.Want)
}

// Is makes errors.Is(err, ErrForeign) hold.
func (e *ForeignError) Is(target error) bool { return target == ErrForeign }

// OperatorAction says what an operator has to do.
func (*ForeignError) OperatorAction() string { return actOnForeign }

// Checkpoint is a Position together with whose it is and who moved it.
type Checkpoint struct {
	Position
	Generation uint64   // rises with every holder: a fencing token
	Holder     string   // which process moved it last; see HolderName
	Released   bool     // its holder stopped in order: a standby may take over at once
	Source     Identity // whose it is
	Mode       Mode     // how it was committed
	Events     []string // the event types asked for when it was committed, sorted; empty if unknown
	UpdatedAt  time.Time
	// Seen is an instant by the clock of the source. Every event of the types Events that was
	// created before it, types in Refused apart, is at or before Position. It is zero if nothing of
	// that kind is known.
	Seen    time.Time
	Recent  Recent    // the last events committed: what a reader must not repeat if the source does not know Position any more
	Refused []Refused // the event types that the source refused and of which events may be missing, by name; at most one for each type
	// WaitedSeconds is how long events had waited to be committed after Position when the lease was
	// last renewed, by the clocks of its holders; 0 if none is known to wait.
	WaitedSeconds uint64
	// Snapshot is the last snapshot of the lane, or the one that it reads now; nil if there was
	// none.
	Snapshot *Snapshot
	// StateFromStart means that the lane was to read snapshots by itself when its checkpoint was
	// made, so that its state topics are complete from the beginning.
	StateFromStart bool
	// Revision is set by the store: what compare and swap compares; 0 in a Checkpoint that no store
	// has returned.
	Revision uint64
}

// Refused is an event type that the source refuses, or has refused, while the lane goes on with the
// others.
type Refused struct {
	Type  string
	Since time.Time // when it was refused first, by the clock of the source
	// Position is a place in the order of the source. Events of the type that follow it have not
	// been published.
	Position Position
}

// Equal reports whether r and o are the same.
func (r Refused) Equal(o Refused) bool {
	return r.Type == o.Type && r.Since.Equal(o.Since) &&
		r.Position.EventID == o.Position.EventID && r.Position.CreatedAt.Equal(o.Position.CreatedAt)
}

// Moved returns c at another position, to, reached by committing the events passed; the last of
// them need not be to. It shares nothing that changes with c. A move that commits nothing and
// leaves Position as it is changes nothing.
func (c Checkpoint) Moved(to Position, passed []Position) Checkpoint {
	if len(passed) > 0 || !to.Equal(c.Position) {
		c.Recent = c.Recent.from(c.Position, to).with(passed)
		if n := len(c.Recent.Events); to.EventID != "" && !to.Equal(c.Position) && (n == 0 || c.Recent.Events[n-1].EventID != to.EventID) {
			c.Recent = c.Recent.with([]Position{to}) // an event without messages
		}
	}
	if !to.Equal(c.Position) {
		c.WaitedSeconds = 0
	}
	c.Position = to
	return c
}

// MovedPartly returns c after the events passed, which are the first ones of a commit that moves it
// to end. Refused of c holds for the whole commit: a type whose position there is end is published
// by it, and so no further than to the last of passed.
func (c Checkpoint) MovedPartly(passed []Position, end Position) Checkpoint {
	at := passed[len(passed)-1]
	c.Refused = slices.Clone(c.Refused)
	for i := range c.Refused {
		if c.Refused[i].Position.Equal(end) {
			c.Refused[i].Position = at
		}
	}
	return c.Moved(at, passed)
}

// Asking returns c with these event types, sorted, instead of Events. What was recorded about the
// earlier ones is dropped as far as it does not hold for these: Seen if types are added, Refused of
// types that are gone.
func (c Checkpoint) Asking(types []string) Checkpoint {
	if len(c.Events) == 0 || slices.ContainsFunc(types, func(name string) bool { return !slices.Contains(c.Events, name) }) {
		c.Seen = time.Time{}
	}
	c.Events = types
	c.Refused = slices.DeleteFunc(slices.Clone(c.Refused), func(r Refused) bool { return !slices.Contains(types, r.Type) })
	return c
}

// Placed returns c at a position that an operator chose. What was recorded about the way to the old
// position is dropped: Seen and Recent. Events of refused types stay missing; if the new position
// is known to be earlier, they are missing from there on.
func (c Checkpoint) Placed(to Position) Checkpoint {
	c.Seen, c.Recent, c.WaitedSeconds = time.Time{}, Recent{}, 0
	c.Refused = slices.Clone(c.Refused)
	for i := range c.Refused {
		if to.IsZero() || !to.CreatedAt.IsZero() && to.CreatedAt.Before(c.Refused[i].Position.CreatedAt) {
			c.Refused[i].Position = to
		}
	}
	c.Position = to
	return c
}

// Store keeps one Checkpoint. Implementations are safe for concurrent use.
type Store interface {
	// Load reads the current checkpoint. It returns ErrNotFound, ErrCorrupt or ErrForeign if that
	// applies. Any other error means that the checkpoint could not be read now.
	Load(ctx context.Context) (Checkpoint, error)
	// Commit replaces prev by next and returns next with the Revision that the store gave it. When
	// it returns nil, next is durable. It returns ErrConflict, and changes nothing, if the current
	// checkpoint is not prev (by Revision; a zero Revision means that there is none yet). After any
	// other error the current checkpoint is either prev or next: Load tells.
	Commit(ctx context.Context, prev, next Checkpoint) (Checkpoint, error)
}
