package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Snapshot records a snapshot of a lane: it reads the objects that the source has now and publishes
// them to the state topics. A Snapshot is never changed in place: a commit that gets on replaces
// it.
type Snapshot struct {
	Run      string   // names the snapshot; each of its messages has it in a header
	Entities []string // the kinds of objects that it reads, in their order
	// Earlier are the entities that earlier snapshots of the lane have read to the end, and that
	// this one does not read; sorted.
	Earlier   []string
	Requested bool // an operator has asked for it
	// Tip is a place in the order of the source. The snapshot sees the effect of every event up to
	// it, so these change no state of Entities.
	Tip       Position
	StartedAt time.Time // by the clock of the source
	// FinishedAt is when everything had been read and published, by the clock of the source. It is
	// zero while the snapshot goes on.
	FinishedAt time.Time
	// PreviousAt is when the last snapshot of the lane before this one was finished; zero if none
	// was.
	PreviousAt time.Time

	Entity string // the entity that is read now; those before it in Entities are done
	// Walk leads to the newest parent whose list of objects of Entity was begun, the outermost
	// object first. It is empty if none was, or if the list has no parent.
	Walk []SnapshotStep
	// Open are the lists of Entity that were begun and have not been read to the end. The lists of
	// all other parents up to Walk are done.
	Open []SnapshotList
	// Fresh is set if the state topic of Entity held nothing when its lists were begun, so that
	// there is nothing that only the bus has.
	Fresh bool
	// Comparing is set when all lists of Entity are read, and objects that only the bus has are
	// looked for.
	Comparing bool
	Counts    []SnapshotCount // of the entities that were begun, in the order of Entities
	// Refused are the entities that the last snapshot of them has not read as a whole, because the
	// source refuses a list: of Entities, or of earlier snapshots.
	Refused []SnapshotRefusal
	// Before is how many objects and lists the last snapshots before this one have read of each
	// entity that they have read to the end, in the fields Objects and Lists. It tells how much
	// there is to read.
	Before []SnapshotCount
}

// SnapshotRefusal says why a snapshot has not read all objects of an entity.
type SnapshotRefusal struct {
	Entity string
	Reason string // what the source said, printable and bounded
}

// SnapshotStep is an object in a list of parents.
type SnapshotStep struct {
	After string // cursor of the page that the object was in; empty for the first page
	ID    string
}

// SnapshotList is a list that a snapshot reads.
type SnapshotList struct {
	Parents []string // ids of the objects that the list belongs to, the outermost first; empty if it has no parent
	After   string   // cursor: what precedes it was published; empty at the beginning
}

// SnapshotCount counts what a snapshot has done about one entity. An object that was read again
// after a restart counts again.
type SnapshotCount struct {
	Entity  string
	Objects uint64 // published
	Removed uint64 // removed from the bus, because the source does not have them any more
	Skipped uint64 // left out, because the bus can never take them, or no message of them can be made
	Dropped uint64 // left out, because a route drops them
	// Lists is how many lists of parents were read to their end, and Parents how many the snapshot
	// has found before, which may be fewer: both are 0 of an entity with one list, and Parents is 0
	// if it is not known.
	Lists, Parents uint64
}

// Finished reports whether the snapshot was read to its end. A nil Snapshot is not.
func (s *Snapshot) Finished() bool { return s != nil && !s.FinishedAt.IsZero() }

// Refusal is why an entity was not read as a whole; empty if the source has not refused it.
func (s *Snapshot) Refusal(entity string) string {
	if s != nil {
		for _, r := range s.Refused {
			if r.Entity == entity {
				return r.Reason
			}
		}
	}
	return ""
}

// Covers reports whether the snapshot reads every object of an entity, or has read them.
func (s *Snapshot) Covers(entity string) bool {
	return s != nil && slices.Contains(s.Entities, entity) && s.Refusal(entity) == ""
}

// LastFinishedAt is when a snapshot of the lane was last finished; zero if none was.
func (s *Snapshot) LastFinishedAt() time.Time {
	switch {
	case s == nil:
		return time.Time{}
	case s.Finished():
		return s.FinishedAt
	default:
		return s.PreviousAt
	}
}

// Count returns the count of an entity, zero if it was not begun.
func (s *Snapshot) Count(entity string) SnapshotCount {
	if s != nil {
		for _, c := range s.Counts {
			if c.Entity == entity {
				return c
			}
		}
	}
	return SnapshotCount{Entity: entity}
}

// Add returns Counts with n added to the count of its entity. It changes nothing in place.
func (s *Snapshot) Add(n SnapshotCount) []SnapshotCount {
	counts := slices.Clone(s.Counts)
	for i := range counts {
		if c := &counts[i]; c.Entity == n.Entity {
			c.Objects, c.Removed, c.Skipped, c.Dropped = c.Objects+n.Objects, c.Removed+n.Removed, c.Skipped+n.Skipped, c.Dropped+n.Dropped
			c.Lists, c.Parents = c.Lists+n.Lists, c.Parents+n.Parents
			return counts
		}
	}
	return append(counts, n)
}

// Total returns the sum of Counts. Its Entity is empty.
func (s *Snapshot) Total() (sum SnapshotCount) {
	if s != nil {
		for _, c := range s.Counts {
			sum.Objects, sum.Removed, sum.Skipped, sum.Dropped = sum.Objects+c.Objects, sum.Removed+c.Removed, sum.Skipped+c.Skipped, sum.Dropped+c.Dropped
		}
	}
	return sum
}

// Known returns what is known of the entities that were read to the end, in the form of Before: by
// this snapshot, else by those before it.
func (s *Snapshot) Known() []SnapshotCount {
	if s == nil {
		return nil
	}
	known := slices.Clone(s.Before)
	for i, name := range s.Entities {
		if !s.Covers(name) || !s.Finished() && i >= slices.Index(s.Entities, s.Entity) {
			continue
		}
		c := s.Count(name)
		read := SnapshotCount{Entity: name, Objects: c.Objects + c.Dropped + c.Skipped, Lists: c.Lists}
		if at := slices.IndexFunc(known, func(k SnapshotCount) bool { return k.Entity == name }); at >= 0 {
			known[at] = read
		} else {
			known = append(known, read)
		}
	}
	return known
}

const (
	// pageObjects is how many objects one request reads.
	pageObjects = 100
	// leastRead and leastElapsed are how many requests and how much time tell how fast they are.
	leastRead    = 20
	leastElapsed = 5 * time.Second
	// mostRemaining bounds the estimate, which says little if it is so long: counts may be wrong,
	// and the time since the start includes that in which relay was down.
	mostRemaining = 30 * 24 * time.Hour
)

// requests is about how many requests it takes to read what c counts.
func (c SnapshotCount) requests() float64 {
	return float64(c.Lists) + float64(c.Objects+c.Dropped+c.Skipped)/pageObjects
}

// Remaining estimates how much longer a snapshot takes that goes on without a pause: of all its
// entities, and of the one that is read now. Either is 0 if nothing tells: WorkOS does not say how
// much it has. What tells are the lists of parents that are read of those that there are, and
// earlier snapshots. Neither is longer than 30 days.
func (s *Snapshot) Remaining(now time.Time) (all, entity time.Duration) {
	if s == nil || s.Finished() || s.Comparing {
		return 0, 0
	}
	var read float64
	for _, c := range s.Counts {
		read += c.requests()
	}
	elapsed := now.Sub(s.StartedAt)
	if read < leastRead || elapsed < leastElapsed {
		return 0, 0
	}
	pace := elapsed.Seconds() / read
	here := s.Count(s.Entity)
	left := s.before(s.Entity).requests() - here.requests()
	if 0 < here.Lists && here.Lists <= here.Parents {
		left = here.requests() * (float64(here.Parents)/float64(here.Lists) - 1)
	}
	if left <= 0 { // or nothing tells
		return 0, 0
	}
	entity = estimate(left * pace)
	for _, name := range s.Entities[slices.Index(s.Entities, s.Entity)+1:] {
		before := s.before(name)
		if before.Entity == "" {
			return 0, entity
		}
		left += before.requests()
	}
	return estimate(left * pace), entity
}

// estimate returns a number of seconds, mostRemaining at most.
func estimate(seconds float64) time.Duration {
	return time.Duration(min(seconds, mostRemaining.Seconds()) * float64(time.Second))
}

// before returns what earlier snapshots have counted of an entity; zero if none has.
func (s *Snapshot) before(entity string) SnapshotCount {
	for _, c := range s.Before {
		if c.Entity == entity {
			return c
		}
	}
	return SnapshotCount{}
}

// Equal reports whether s and o are the same record. Both may be nil.
func (s *Snapshot) Equal(o *Snapshot) bool {
	if s == nil || o == nil {
		return s == o
	}
	a, errA := json.Marshal(formatSnapshot(s))
	b, errB := json.Marshal(formatSnapshot(o))
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

type contentSnapshot struct {
	Run        string                   `json:"run"`
	Entities   []string                 `json:"entities"`
	Earlier    []string                 `json:"earlier,omitempty"`
	Requested  bool                     `json:"requested,omitempty"`
	Tip        contentPosition          `json:"tip"`
	StartedAt  string                   `json:"started_at"`
	FinishedAt string                   `json:"finished_at,omitempty"`
	PreviousAt string                   `json:"previous_at,omitempty"`
	Entity     string                   `json:"entity,omitempty"`
	Walk       []contentSnapshotStep    `json:"walk,omitempty"`
	Open       []contentSnapshotList    `json:"open,omitempty"`
	Fresh      bool                     `json:"fresh,omitempty"`
	Comparing  bool                     `json:"comparing,omitempty"`
	Counts     []contentSnapshotCount   `json:"counts,omitempty"`
	Refused    []contentSnapshotRefusal `json:"refused,omitempty"`
	Before     []contentSnapshotCount   `json:"before,omitempty"`
}

type contentSnapshotRefusal struct {
	Entity string `json:"entity"`
	Reason string `json:"reason"`
}

type contentSnapshotStep struct {
	After string `json:"after,omitempty"`
	ID    string `json:"id"`
}

type contentSnapshotList struct {
	Parents []string `json:"parents,omitempty"`
	After   string   `json:"after,omitempty"`
}

type contentSnapshotCount struct {
	Entity  string `json:"entity"`
	Objects uint64 `json:"objects"`
	Removed uint64 `json:"removed,omitempty"`
	Skipped uint64 `json:"skipped,omitempty"`
	Dropped uint64 `json:"dropped,omitempty"`
	Lists   uint64 `json:"lists,omitempty"`
	Parents uint64 `json:"parents,omitempty"`
}

func formatSnapshot(s *Snapshot) *contentSnapshot {
	if s == nil {
		return nil
	}
	out := &contentSnapshot{
		Run: s.Run, Entities: s.Entities, Earlier: s.Earlier, Requested: s.Requested, Tip: formatPosition(s.Tip),
		StartedAt: formatTime(s.StartedAt), FinishedAt: formatTime(s.FinishedAt), PreviousAt: formatTime(s.PreviousAt),
		Entity: s.Entity, Fresh: s.Fresh, Comparing: s.Comparing,
	}
	for _, w := range s.Walk {
		out.Walk = append(out.Walk, contentSnapshotStep(w))
	}
	for _, l := range s.Open {
		out.Open = append(out.Open, contentSnapshotList(l))
	}
	for _, c := range s.Counts {
		out.Counts = append(out.Counts, contentSnapshotCount(c))
	}
	for _, c := range s.Before {
		out.Before = append(out.Before, contentSnapshotCount(c))
	}
	for _, r := range s.Refused {
		out.Refused = append(out.Refused, contentSnapshotRefusal(r))
	}
	return out
}

func parseSnapshot(in *contentSnapshot) (*Snapshot, error) {
	if in == nil {
		return nil, nil //nolint:nilnil // there is none, which is no error
	}
	s := &Snapshot{
		Run: in.Run, Entities: some(in.Entities), Earlier: some(in.Earlier), Requested: in.Requested,
		Entity: in.Entity, Fresh: in.Fresh, Comparing: in.Comparing,
	}
	var err error
	if s.Tip, err = parsePosition(in.Tip); err != nil {
		return nil, fmt.Errorf("snapshot: tip: %w", err)
	}
	if s.StartedAt, err = parseTime(in.StartedAt); err != nil {
		return nil, fmt.Errorf("snapshot: started_at: %w", err)
	}
	if s.FinishedAt, err = parseTime(in.FinishedAt); err != nil {
		return nil, fmt.Errorf("snapshot: finished_at: %w", err)
	}
	if s.PreviousAt, err = parseTime(in.PreviousAt); err != nil {
		return nil, fmt.Errorf("snapshot: previous_at: %w", err)
	}
	for _, w := range in.Walk {
		s.Walk = append(s.Walk, SnapshotStep(w))
	}
	for _, l := range in.Open {
		s.Open = append(s.Open, SnapshotList{Parents: some(l.Parents), After: l.After})
	}
	for _, c := range in.Counts {
		s.Counts = append(s.Counts, SnapshotCount(c))
	}
	for _, c := range in.Before {
		s.Before = append(s.Before, SnapshotCount(c))
	}
	for _, r := range in.Refused {
		s.Refused = append(s.Refused, SnapshotRefusal(r))
	}
	return s, nil
}

// some returns list, or nil if it is empty.
func some(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	return list
}
