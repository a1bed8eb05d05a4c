package checkpoint

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTheRestOfASnapshotIsEstimated from the lists that are read of those that there are, and from
// what earlier snapshots have counted; otherwise there is no estimate.
func TestTheRestOfASnapshotIsEstimated(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	s := &Snapshot{
		Entities: []string{"directory", "directory_user", "role"}, StartedAt: began, Entity: "directory_user",
		Counts: []SnapshotCount{{Entity: "directory", Objects: 100}, {Entity: "directory_user", Objects: 9_000, Dropped: 900, Lists: 100, Parents: 400}},
	}
	all, entity := s.Remaining(began.Add(20 * time.Second))
	require.Zero(t, all, "how many roles there are is not known")
	require.InDelta(t, (3 * 199 * 20 / 200.0), entity.Seconds(), 0.01, "three times as many lists, at the same pace")
	s.Before = []SnapshotCount{{Entity: "role", Objects: 300}}
	all, entity = s.Remaining(began.Add(20 * time.Second))
	require.InDelta(t, (3*199+3)*20/200.0, all.Seconds(), 0.01)
	require.Less(t, entity, all)

	for name, change := range map[string]func(*Snapshot){
		"it has just begun": func(s *Snapshot) { s.StartedAt = began.Add(16 * time.Second) },
		"little is read": func(s *Snapshot) {
			s.Counts = []SnapshotCount{{Entity: "directory_user", Objects: 500, Lists: 5, Parents: 9}}
		},
		"nobody knows how many there are": func(s *Snapshot) { s.Counts[1].Lists, s.Counts[1].Parents = 0, 0 },
		"there are more than before": func(s *Snapshot) {
			s.Counts[1].Parents, s.Before = 0, append(s.Before, SnapshotCount{Entity: "directory_user", Objects: 100})
		},
		"all lists are read":  func(s *Snapshot) { s.Counts[1].Parents = 100 },
		"it looks for ghosts": func(s *Snapshot) { s.Comparing = true },
		"it is finished":      func(s *Snapshot) { s.FinishedAt = began },
	} {
		other := *s
		other.Counts = append([]SnapshotCount(nil), s.Counts...)
		change(&other)
		all, entity := other.Remaining(began.Add(20 * time.Second))
		require.Zero(t, all, name)
		require.Zero(t, entity, name)
	}
	all, entity = (*Snapshot)(nil).Remaining(began)
	require.Zero(t, all+entity)

	s.Counts[1] = SnapshotCount{Entity: "directory_user", Objects: 9_900} // as many as there were tell as well
	s.Before = append(s.Before, SnapshotCount{Entity: "directory_user", Objects: 19_900})
	_, entity = s.Remaining(began.Add(20 * time.Second))
	require.InDelta(t, 20, entity.Seconds(), 0.01)
}

// TestTheEstimateIsBounded, also if the counts of a checkpoint are wrong.
func TestTheEstimateIsBounded(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	s := &Snapshot{
		Entities: []string{"directory_user"}, StartedAt: began, Entity: "directory_user",
		Counts: []SnapshotCount{{Entity: "directory_user", Objects: 9_000, Lists: 1, Parents: 1 << 62}},
	}
	all, entity := s.Remaining(began.Add(time.Hour))
	require.Equal(t, mostRemaining, all)
	require.Equal(t, mostRemaining, entity)
}

// TestWhatIsKnownOfEntities: what the last snapshot has read of each to its end.
func TestWhatIsKnownOfEntities(t *testing.T) {
	require.Nil(t, (*Snapshot)(nil).Known())
	s := &Snapshot{
		Entities: []string{"organization", "user", "role", "directory"}, Entity: "directory",
		Counts: []SnapshotCount{{Entity: "organization", Objects: 7, Dropped: 2, Skipped: 1, Removed: 5, Lists: 3, Parents: 4}, {Entity: "user", Objects: 9}, {Entity: "directory", Objects: 1}},
		Before: []SnapshotCount{{Entity: "organization", Objects: 1}, {Entity: "directory", Objects: 80}}, Refused: []SnapshotRefusal{{Entity: "user", Reason: "403"}},
	}
	want := []SnapshotCount{{Entity: "organization", Objects: 10, Lists: 3}, {Entity: "directory", Objects: 80}, {Entity: "role"}}
	require.Equal(t, want, s.Known())
	require.Equal(t, uint64(1), s.Before[0].Objects, "nothing is changed in place")
	s.Entity, s.FinishedAt = "", time.Now()
	want[1].Objects = 1
	require.Equal(t, want, s.Known())
}
