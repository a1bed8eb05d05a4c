package app

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/config"
	"workos-relay/sink"
)

// surveyed is a destination that tells what it is made of.
type surveyed struct {
	sink.Destination // nil: nothing else is asked of it
	parts            []checkpoint.Part
	err              error
}

func (s surveyed) Survey(context.Context, []string, []checkpoint.Part) ([]checkpoint.Part, error) {
	return s.parts, s.err
}

type named struct{ sink.Settings }

func (named) Identity() string { return "a bus" }

// TestALossForgetsTheSnapshot: what a snapshot has published may be lost with the rest, so that its
// entities count as unread after the operator has said where to go on. A move without a loss keeps
// the record.
func TestALossForgetsTheSnapshot(t *testing.T) {
	t.Parallel()
	part := func(id string, end int64) []checkpoint.Part {
		return []checkpoint.Part{{Name: "topic state.user", Topic: "state.user", ID: id, Ends: []int64{end}, Used: true}}
	}
	for name, test := range map[string]struct {
		now    surveyed
		forget bool // nothing is remembered
		kept   bool
	}{
		"it is as it was":         {now: surveyed{parts: part("t1", 7)}, kept: true},
		"it has grown":            {now: surveyed{parts: part("t1", 9)}, kept: true},
		"it ends early":           {now: surveyed{parts: part("t1", 6)}},
		"it was deleted":          {},
		"it was made again":       {now: surveyed{parts: part("t2", 7)}},
		"nobody can tell":         {now: surveyed{err: errors.New("no answer")}},
		"nothing was ever stored": {forget: true, kept: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lane := &Lane{Config: &config.Config{ID: "relay"}, Sink: &config.Sink{Name: "bus"}, Types: []string{"user.created"}, Topics: []string{"state.user"}, Log: zap.NewNop()}
			lane.Sink.Settings = named{}
			disk, err := checkpoint.OpenFile(t.TempDir(), lane.Identity())
			require.NoError(t, err)
			defer func() { require.NoError(t, disk.Close()) }()
			s := &checkpoint.Snapshot{Run: "run_1", Entities: []string{"user"}, StartedAt: time.Unix(1e9, 0).UTC(), FinishedAt: time.Unix(2e9, 0).UTC()}
			_, err = disk.Commit(t.Context(), checkpoint.Checkpoint{}, checkpoint.Checkpoint{
				Position: checkpoint.Position{EventID: "event_1"}, Generation: 1, Source: lane.Identity(), Mode: checkpoint.AtLeastOnce, Snapshot: s, StateFromStart: true,
			})
			require.NoError(t, err)
			if !test.forget {
				require.NoError(t, disk.SaveDestination(t.Context(), checkpoint.Destination{Source: lane.Identity(), Mode: checkpoint.AtLeastOnce, Parts: part("t1", 7)}))
			}
			at := &place{name: InFile, mode: checkpoint.AtLeastOnce, store: disk}
			p := &Positions{lane: lane, file: at, disk: disk, holding: test.now, holder: "holder"}
			_, _, err = p.replace(t.Context(), at, func(prev checkpoint.Checkpoint) checkpoint.Checkpoint {
				return prev.Placed(checkpoint.Position{EventID: "event_0"})
			})
			require.NoError(t, err)
			cp, err := disk.Load(t.Context())
			require.NoError(t, err)
			require.Equal(t, test.kept, cp.Snapshot != nil)
			require.True(t, cp.StateFromStart)
			require.Equal(t, "event_0", cp.EventID)
		})
	}
}
