package snapshot

import (
	"slices"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/source"
	"workos-relay/state"
)

// window decides which events may change the state after a snapshot.
type window struct {
	snapshot *checkpoint.Snapshot // the last one
	// newer is when objects were updated that the snapshot has found and that changed after its
	// tip.
	newer    map[objectKey]time.Time
	complete bool // newer has all of them, up to mostNewer
}

type objectKey struct{ entity, key string }

// begin records that a snapshot is read from its start.
func (w *window) begin(s *checkpoint.Snapshot) {
	*w = window{snapshot: s, newer: map[objectKey]time.Time{}, complete: true}
}

// use records that s is the last snapshot, or the one that is read on.
func (w *window) use(s *checkpoint.Snapshot) {
	if s == nil || w.snapshot == nil || w.snapshot.Run != s.Run {
		*w = window{newer: map[objectKey]time.Time{}}
	}
	w.snapshot = s
}

// note records an object that the snapshot has found.
func (w *window) note(c *state.Change) {
	if c.UpdatedAt.After(w.snapshot.Tip.CreatedAt) && len(w.newer) < mostNewer {
		w.newer[objectKey{c.Entity, c.Key}] = c.UpdatedAt
	}
}

// admits reports whether an event may make a change. What happened up to the tip changes nothing,
// since the snapshot has seen its effect; but an object that is gone and whose key nothing else can
// have is removed. What happened later changes the state, unless the snapshot has found a newer
// version of the object.
func (w *window) admits(e *source.Event, c *state.Change) bool {
	s := w.snapshot
	if !s.Finished() || !s.Covers(c.Entity) || e.CreatedAt.After(s.FinishedAt.Add(margin)) {
		return true
	}
	if c.Removed() {
		entity, ok := state.Lookup(c.Entity)
		return e.CreatedAt.After(s.Tip.CreatedAt) || ok && slices.Equal(entity.Key, []string{"id"})
	}
	if !e.CreatedAt.After(s.Tip.CreatedAt) {
		return false
	}
	newer, ok := w.newer[objectKey{c.Entity, c.Key}]
	return !ok || c.UpdatedAt.IsZero() || !c.UpdatedAt.Before(newer)
}
