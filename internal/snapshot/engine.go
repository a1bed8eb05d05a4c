package snapshot

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/source/lists"
	"workos-relay/state"
)

// Defaults of an Engine.
const (
	// DefaultReaders is how many lists are read at once. With an answer in 200 ms they make 80
	// requests a second.
	DefaultReaders = 16
	// margin is how long before the snapshot an event must have happened so that the lists are
	// certain to show its effect. It is longer than WorkOS holds events back, and than its clocks
	// differ.
	margin = time.Minute
	// mostNewer bounds how many objects are remembered because they changed while the snapshot was
	// read.
	mostNewer = 100_000
)

// Lists reads the lists of the API. lists.Client implements it.
type Lists interface {
	Page(ctx context.Context, q lists.Query) (lists.Page, error)
	Get(ctx context.Context, ref lists.Ref) (lists.Object, error)
}

// Stored reads the state topics of the lane.
type Stored interface {
	// Each calls fn for each object of an entity that its state topic holds now. What fn is given
	// is valid until it returns; an error of fn ends it and is returned.
	Each(ctx context.Context, entity string, fn func(key string, value []byte, headers []sink.Header) error) error
	// Empty reports whether the state topic of an entity holds no message.
	Empty(ctx context.Context, entity string) (bool, error)
}

// Engine reads the snapshots of one lane. It implements pipeline.Snapshotter, with which it shares
// the rules of which goroutine may call it. Set the fields before the lane runs.
type Engine struct {
	Lists Lists
	// Entities are those that the lane keeps. An entity of which the API has no list, or one list
	// for each user, is in no snapshot.
	Entities []string
	// Organization restricts the snapshot to what belongs to one organization, as the events of the
	// lane are; empty for no restriction.
	Organization string
	// Message appends the state message of a change that the snapshot run has found.
	Message func(batch []sink.Message, c *state.Change, run string) ([]sink.Message, error)
	// Now returns the time of the API.
	Now func(ctx context.Context) (time.Time, error)
	// Stored reads back what the bus has. Without it objects that the source does not have any more
	// stay in the state topics, and an event may turn back an object until later events have
	// passed, if relay was restarted since the snapshot.
	Stored Stored
	// Automatic makes a snapshot due of which the lane has not had each entity yet. FirstStart does
	// the same of a lane whose checkpoint has StateFromStart.
	Automatic, FirstStart bool
	// LeaveOut makes a snapshot go on without a list that WorkOS refuses, and record that. Without
	// it such a list ends the reading with an error.
	LeaveOut bool
	// Readers is how many lists are read at once; 0 for DefaultReaders.
	Readers int
	// MaxMessages and MaxBytes, in bytes of responses, bound what is gathered for one Append. A
	// page may exceed them. 0 is pipeline.DefaultBatchMessages and no bound.
	MaxMessages, MaxBytes int
	Logger                *zap.Logger // not nil

	window   window
	refuses  atomic.Bool    // WorkOS refused the last list that it was slow to give
	restarts map[string]int // how often lists were read again from their start, see restarted
	told     string         // the entities that were logged as unread
	serves   sync.Map       // by entity: WorkOS gives its objects by themselves, too
	named    sync.Map       // by entity: the parents of a list, []string, that had objects

	mu      sync.Mutex // guards pending
	pending *request
}

// request is a snapshot that an operator has asked for and that is not recorded yet.
type request struct {
	entities []string
	run      string // that reads it; empty before it began
}

// EntityError says that an entity cannot be in a snapshot.
type EntityError struct {
	Entity string
	Listed []string // what can be
}

// Error implements error.
func (e *EntityError) Error() string {
	return fmt.Sprintf("no snapshot has %q: the lane does not keep its state, or WorkOS has no list of it; it can have %s", e.Entity, strings.Join(e.Listed, ", "))
}

// ErrRequested means that an operator has asked for a snapshot that the lane has not begun yet.
var ErrRequested = errors.New("a snapshot was asked for already, and has not begun")

// Request makes a snapshot of these entities due, of all if there are none. It returns an
// *EntityError for one that cannot be in a snapshot, and ErrRequested if an earlier request is
// pending. It may be called at any time from any goroutine; the lane sees it when it asks Due.
func (e *Engine) Request(entities []string) error {
	listed := Listed(e.Entities)
	for _, name := range entities {
		if !slices.Contains(listed, name) {
			return &EntityError{Entity: name, Listed: listed}
		}
	}
	if len(entities) > 0 {
		listed = Listed(entities)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pending != nil {
		return ErrRequested
	}
	e.pending = &request{entities: listed}
	return nil
}

// Requested reports whether a request is pending: the checkpoint does not record the snapshot that
// carries it out. It may be called at any time from any goroutine.
func (e *Engine) Requested() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pending != nil
}

// Withdraw implements pipeline.Snapshotter: it forgets a pending request.
func (e *Engine) Withdraw() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pending != nil {
		e.pending = nil
		e.Logger.Warn("another relay carries the lane: the snapshot that was asked for is not read; ask the active relay for it")
	}
}

// Inherit takes over the pending request of old, which belongs to the lane that this one replaces:
// those of its entities that this lane keeps. Call it before the lane runs. old may be nil.
func (e *Engine) Inherit(old *Engine) {
	if old == nil {
		return
	}
	old.mu.Lock()
	pending := old.pending
	old.mu.Unlock()
	if pending == nil {
		return
	}
	kept := slices.DeleteFunc(Listed(e.Entities), func(name string) bool { return !slices.Contains(pending.entities, name) })
	if len(kept) == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.pending = &request{entities: kept, run: pending.run}
}

// automatic reports whether the lane begins snapshots by itself.
func (e *Engine) automatic(cp *checkpoint.Checkpoint) bool {
	return e.Automatic || e.FirstStart && cp.StateFromStart
}

// Reads reports whether the snapshot of cp is finished or the lane continues it. It does not
// continue a snapshot that began by itself if the configuration does not ask for one any more. It
// may be called at any time from any goroutine.
func (e *Engine) Reads(cp checkpoint.Checkpoint) bool {
	s := cp.Snapshot
	return s != nil && (s.Finished() || e.automatic(&cp) || s.Requested)
}

// Unread returns the entities whose state topics may lack objects that no event has told of: no
// snapshot has read them as a whole, and none is about to. It may be called at any time from any
// goroutine.
func (e *Engine) Unread(cp checkpoint.Checkpoint) []pipeline.UnreadEntity {
	e.mu.Lock()
	var pending []string
	if e.pending != nil {
		pending = e.pending.entities
	}
	e.mu.Unlock()
	s := cp.Snapshot
	missing := e.missing(s)
	if s != nil && !e.Reads(cp) { // it is not continued
		for _, name := range s.Entities[max(0, slices.Index(s.Entities, s.Entity)):] {
			if !slices.Contains(s.Earlier, name) && slices.Contains(e.Entities, name) {
				missing = append(missing, name)
			}
		}
	}
	if e.automatic(&cp) {
		missing = nil
	}
	var out []pipeline.UnreadEntity
	for _, name := range Listed(e.Entities) {
		reason := s.Refusal(name)
		if (reason != "" || slices.Contains(missing, name)) && !slices.Contains(pending, name) {
			out = append(out, pipeline.UnreadEntity{Entity: name, Reason: reason})
		}
	}
	return out
}

// tell logs which entities are unread, if that has changed. It says nothing if the lane is not to
// read snapshots by itself, and of refusals, which are logged as they happen.
func (e *Engine) tell(cp checkpoint.Checkpoint) {
	var names []string
	for _, u := range e.Unread(cp) {
		if u.Reason == "" {
			names = append(names, u.Entity)
		}
	}
	text := strings.Join(names, ",")
	if text != e.told && text != "" && (e.Automatic || e.FirstStart) {
		e.Logger.Warn("state topics lack the objects that no event has told of, since no snapshot has read them; relay snapshot does, and events wait for it",
			zap.Strings("entities", names), zap.String("read_them_with", "relay snapshot --entities "+text))
	}
	e.told = text
}

// requested returns the entities that an operator has asked for. A request that s has taken up is
// forgotten.
func (e *Engine) requested(s *checkpoint.Snapshot) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pending != nil && s != nil && e.pending.run == s.Run {
		e.pending = nil
	}
	if e.pending == nil {
		return nil
	}
	return e.pending.entities
}

// took records that a run reads what an operator has asked for.
func (e *Engine) took(run string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pending != nil {
		e.pending.run = run
	}
}

// Listed returns those of the entities that a snapshot reads, each after its parents.
func Listed(entities []string) []string {
	var out []string
	for _, e := range lists.Endpoints() {
		if !e.PerUser && slices.Contains(entities, e.Entity) {
			out = append(out, e.Entity)
		}
	}
	return out
}

// missing returns the listed entities that no snapshot of the lane has or will have read, or has
// tried to.
func (e *Engine) missing(s *checkpoint.Snapshot) []string {
	listed := Listed(e.Entities)
	if s == nil {
		return listed
	}
	return slices.DeleteFunc(listed, func(name string) bool {
		return slices.Contains(s.Entities, name) || slices.Contains(s.Earlier, name) || s.Refusal(name) != ""
	})
}

// Due implements pipeline.Snapshotter.
func (e *Engine) Due(cp checkpoint.Checkpoint) bool {
	s := cp.Snapshot
	switch {
	case len(e.requested(s)) > 0:
		return true
	case s != nil && !s.Finished():
		return e.Reads(cp)
	default:
		return e.automatic(&cp) && len(e.missing(s)) > 0
	}
}

// Begin implements pipeline.Snapshotter.
func (e *Engine) Begin(ctx context.Context, cp checkpoint.Checkpoint) error {
	e.tell(cp)
	e.window.use(cp.Snapshot)
	if e.window.complete || e.Stored == nil || !cp.Snapshot.Finished() || hasPassed(&cp, cp.Snapshot) {
		return nil
	}
	return e.readBack(ctx, cp.Snapshot)
}

// hasPassed reports whether the lane has carried every event that happened while s was read.
func hasPassed(cp *checkpoint.Checkpoint, s *checkpoint.Snapshot) bool {
	end := s.FinishedAt.Add(margin)
	return cp.CreatedAt.After(end) || cp.Seen.After(end)
}

// Admit implements pipeline.Snapshotter.
func (e *Engine) Admit(event *source.Event, c *state.Change) bool { return e.window.admits(event, c) }

// readBack finds out which objects changed while the snapshot was read, after a restart.
func (e *Engine) readBack(ctx context.Context, s *checkpoint.Snapshot) error {
	for _, name := range s.Entities {
		entity, ok := state.Lookup(name)
		if !ok || !entity.UpdatedAt {
			continue
		}
		err := e.each(ctx, name, func(key string, value []byte, headers []sink.Header) error {
			if runOf(headers) == s.Run {
				if c, ok := entity.Of(value); ok {
					c.Key = key
					e.window.note(&c)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	e.window.complete = true
	return nil
}

// each calls fn for each object of an entity that the bus has. It returns an error of fn as it is,
// and a *pipeline.StateError if the bus cannot be read.
func (e *Engine) each(ctx context.Context, entity string, fn func(key string, value []byte, headers []sink.Header) error) error {
	var ended error
	err := e.Stored.Each(ctx, entity, func(key string, value []byte, headers []sink.Header) error {
		ended = fn(key, value, headers)
		return ended
	})
	switch {
	case ended != nil:
		return ended
	case err == nil || ctx.Err() != nil:
		return err
	default:
		return &pipeline.StateError{Entity: entity, Err: err}
	}
}

// runOf returns the run that has read an object; empty if an event has told of it.
func runOf(headers []sink.Header) string {
	m := sink.Stored{Headers: headers}
	return m.Header(router.HeaderSnapshot)
}

// first returns the record of a snapshot that begins now.
func (e *Engine) first(ctx context.Context, cp checkpoint.Checkpoint) (*checkpoint.Snapshot, error) {
	before := cp.Snapshot
	now, err := e.Now(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask WorkOS for its time, at the start of a snapshot: %w", err)
	}
	s := &checkpoint.Snapshot{Run: newRun(now), StartedAt: now.UTC(), Tip: checkpoint.Position{CreatedAt: now.Add(-margin).UTC()}}
	asked := e.requested(before)
	s.Requested = len(asked) > 0
	again := slices.Clone(asked)
	if e.automatic(&cp) {
		again = append(again, e.missing(before)...)
	}
	s.PreviousAt, s.Before = before.LastFinishedAt(), before.Known()
	if before != nil {
		// Until the events have passed the snapshot before, only a snapshot knows which of them may
		// change what it has read; and what it has not read to the end is read again.
		if !before.Finished() || !hasPassed(&cp, before) {
			for _, name := range before.Entities {
				if before.Covers(name) {
					again = append(again, name)
				}
			}
		}
		read := before.Entities
		if !before.Finished() {
			read = read[:max(0, slices.Index(read, before.Entity))]
		}
		s.Earlier = slices.Concat(before.Earlier, read)
	}
	s.Entities = slices.DeleteFunc(Listed(again), func(name string) bool { return !slices.Contains(e.Entities, name) })
	if len(s.Entities) == 0 {
		return nil, errors.New("nothing is due that the lane keeps")
	}
	if before != nil {
		s.Refused = slices.DeleteFunc(slices.Clone(before.Refused), func(r checkpoint.SnapshotRefusal) bool { return slices.Contains(s.Entities, r.Entity) })
	}
	s.Earlier = slices.DeleteFunc(s.Earlier, func(name string) bool { return slices.Contains(s.Entities, name) || s.Refusal(name) != "" })
	slices.Sort(s.Earlier)
	s.Earlier = slices.Compact(s.Earlier)
	s.Entity = s.Entities[0]
	e.took(s.Run)
	return s, nil
}

// newRun returns the name of a snapshot: when it began, and something that no other has.
func newRun(now time.Time) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // it never fails
	return now.UTC().Format("20060102T150405Z") + "-" + hex.EncodeToString(b[:])
}

// errStopped says that the lane wants no more portions.
var errStopped = errors.New("stopped")

// Read implements pipeline.Snapshotter.
func (e *Engine) Read(ctx context.Context, cp checkpoint.Checkpoint) iter.Seq2[pipeline.SnapshotPortion, error] {
	return func(yield func(pipeline.SnapshotPortion, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		err := e.read(ctx, cp, func(p pipeline.SnapshotPortion) error {
			if !yield(p, nil) {
				return errStopped
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStopped) {
			yield(pipeline.SnapshotPortion{}, err)
		}
	}
}

func (e *Engine) read(ctx context.Context, cp checkpoint.Checkpoint, give func(pipeline.SnapshotPortion) error) error {
	s := cp.Snapshot
	e.refuses.Store(false)
	if !e.Reads(cp) || s.Finished() || len(e.requested(s)) > 0 {
		var err error
		if s, err = e.first(ctx, cp); err != nil {
			return err
		}
		e.Logger.Info("snapshot: reading what WorkOS has now; events follow afterwards", zap.String("run", s.Run), zap.Strings("entities", s.Entities))
		e.restarts = nil
		e.serves.Clear()
		e.named.Clear()
		e.window.begin(s)
		if err := give(pipeline.SnapshotPortion{Snapshot: s}); err != nil {
			return err
		}
	} else {
		e.Logger.Info("snapshot: continuing", zap.String("run", s.Run), zap.String("entity", s.Entity), zap.Uint64("objects", s.Count(s.Entity).Objects))
		e.window.use(s)
	}
	s, left := e.stillKept(s)
	for _, entity := range left {
		next := *s
		if next.Entity != entity {
			next.Entity, next.Walk, next.Open, next.Fresh, next.Comparing = entity, nil, nil, false, false
		}
		var err error
		if s, err = e.readEntity(ctx, &next, give); err != nil {
			return err
		}
	}
	now, err := e.Now(ctx)
	if err != nil {
		return fmt.Errorf("ask WorkOS for its time, at the end of a snapshot: %w", err)
	}
	next := *s
	next.Entity, next.Walk, next.Open, next.Fresh, next.Comparing, next.FinishedAt = "", nil, nil, false, false, now.UTC()
	return give(pipeline.SnapshotPortion{Snapshot: &next})
}

// stillKept returns s without the entities that were taken out of the configuration before they
// were read, so that they are missing if they come back, and what is left to be read.
func (e *Engine) stillKept(s *checkpoint.Snapshot) (kept *checkpoint.Snapshot, left []string) {
	at := max(0, slices.Index(s.Entities, s.Entity))
	for _, entity := range s.Entities[at:] {
		if slices.Contains(e.Entities, entity) {
			left = append(left, entity)
		}
	}
	next := *s
	next.Entities = slices.Concat(s.Entities[:at], left)
	return &next, left
}

// readEntity reads all lists of s.Entity from where s is, removes what only the bus has, and
// returns the record of the last portion.
func (e *Engine) readEntity(ctx context.Context, s *checkpoint.Snapshot, give func(pipeline.SnapshotPortion) error) (*checkpoint.Snapshot, error) {
	if !s.Comparing {
		var err error
		if s, err = e.begun(ctx, s); err != nil {
			return s, err
		}
		r, err := newReading(ctx, e, s)
		if err != nil {
			return s, err
		}
		err = r.run(give)
		r.stop()
		if err != nil {
			return s, err
		}
		s = r.record()
		s.Open, s.Walk, s.Comparing = nil, nil, true
		// The lane takes a portion once the one before is durable, so that what compare reads has
		// it.
		if err := give(pipeline.SnapshotPortion{Snapshot: s}); err != nil {
			return s, err
		}
	}
	return e.compare(ctx, s, give)
}

// begun returns s with Fresh, if no list of s.Entity was begun yet.
func (e *Engine) begun(ctx context.Context, s *checkpoint.Snapshot) (*checkpoint.Snapshot, error) {
	if e.Stored == nil || s.Walk != nil || s.Open != nil || s.Count(s.Entity) != (checkpoint.SnapshotCount{Entity: s.Entity}) {
		return s, nil
	}
	next := *s
	var err error
	if next.Fresh, err = e.Stored.Empty(ctx, s.Entity); err != nil && ctx.Err() == nil {
		err = &pipeline.StateError{Entity: s.Entity, Err: err}
	}
	return &next, err
}

// compare publishes that objects are gone that only the bus has: of the newest versions there,
// those that are not of this snapshot, after a second look at each, which is believed if WorkOS
// gives what its lists name. No event changes the state meanwhile. If a list was refused, or WorkOS
// refuses to look, what was not looked for stays. Only what WorkOS names by its key alone is looked
// for: other names are in the object on the bus, which may be old or redacted.
func (e *Engine) compare(ctx context.Context, s *checkpoint.Snapshot, give func(pipeline.SnapshotPortion) error) (*checkpoint.Snapshot, error) {
	endpoint, _ := lists.Lookup(s.Entity)
	entity, known := state.Lookup(s.Entity)
	if e.Stored == nil || !known || !endpoint.ByKey() || s.Fresh || s.Refusal(s.Entity) != "" {
		return s, nil
	}
	p := pipeline.SnapshotPortion{Snapshot: s}
	flush := func() error {
		err := give(p)
		p = pipeline.SnapshotPortion{Snapshot: p.Snapshot}
		return err
	}
	err := e.each(ctx, s.Entity, func(key string, value []byte, headers []sink.Header) error {
		if runOf(headers) == s.Run {
			return nil
		}
		c := state.Change{Entity: s.Entity, Key: key}
		count := checkpoint.SnapshotCount{Entity: s.Entity}
		switch found, err := e.get(ctx, lists.Ref{Entity: s.Entity, Key: key, Known: value}); {
		case errors.Is(err, lists.ErrNotFound):
			switch err := e.served(ctx, s.Entity); {
			case isRefused(err):
				p.Snapshot = e.refuse(p.Snapshot, err)
				return err
			case err != nil:
				return fmt.Errorf("find out whether WorkOS gives single objects of %s: %w", s.Entity, err)
			}
			count.Removed = 1
		case errors.Is(err, lists.ErrNoGet), err == nil && found.Data == nil:
			return nil // nobody can tell, or it is there
		case isRefused(err):
			p.Snapshot = e.refuse(p.Snapshot, err)
			return err
		case err != nil:
			return fmt.Errorf("look for %s %s, which no list has: %w", s.Entity, key, err)
		case !e.concerns(&endpoint, &found):
			return nil
		default:
			if got, ok := entity.Of(found.Data); !ok || got.Key != key {
				return nil // WorkOS answers with another object, and nobody can tell
			}
			c.Object, count.Objects = found.Data, 1
		}
		messages, err := e.Message(p.Messages, &c, s.Run)
		if err != nil {
			e.leftOut(&c, err)
			return nil // it stays as it is, and counts if a list has it
		}
		if len(messages) == len(p.Messages) { // a route drops it
			return nil
		}
		next := *p.Snapshot
		next.Counts = next.Add(count)
		p.Messages, p.Snapshot = messages, &next
		if len(p.Messages) >= e.most() {
			return flush()
		}
		return nil
	})
	if err != nil && !isRefused(err) {
		return s, err
	}
	s = p.Snapshot
	if len(p.Messages) == 0 {
		return s, nil
	}
	return s, flush()
}

func (e *Engine) most() int {
	if e.MaxMessages > 0 {
		return e.MaxMessages
	}
	return pipeline.DefaultBatchMessages
}
