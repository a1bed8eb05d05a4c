package pipeline_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
)

// fullStore can be read and takes nothing while it is full, as a stream does that has reached its limit and discards what is new.
type fullStore struct {
	checkpoint.Store
	full    atomic.Bool
	refused atomic.Int64
}

func (s *fullStore) Commit(ctx context.Context, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	if s.full.Load() {
		s.refused.Add(1)
		return prev, errors.New("the stream is full")
	}
	return s.Store.Commit(ctx, prev, next)
}

// TestARenewalThatFailsIsTriedAgainInMeasure: at the tip and in a pause nothing but renewals goes to the bus, and a bus that refuses
// them must not be asked without end.
func TestARenewalThatFailsIsTriedAgainInMeasure(t *testing.T) {
	const due = takeover / 3
	for name, state := range map[string]pipeline.State{"at the tip": pipeline.Retrying, "in a pause": pipeline.Paused} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &fullStore{Store: checkpoint.NewMemory(testIdentity)}
				ledger := &memoryLedger{store: store}
				src := newSequence(10, 100)
				a, b := twin("a", src, ledger), twin("b", src, ledger)
				stopA := run(t, a)
				defer stopA()
				after(0)
				if state == pipeline.Paused {
					a.Pause()
				}
				after(time.Millisecond)
				stopB := run(t, b)
				defer stopB()
				store.full.Store(true)
				after(due - time.Millisecond + 10*time.Microsecond)
				require.Positive(t, store.refused.Load(), "it has tried")
				require.LessOrEqual(t, store.refused.Load(), int64(2), "and then waits before it tries again")
				require.Equal(t, state, a.Status().State)

				after(2 * time.Second)
				revision := a.Status().Checkpoint.Revision
				store.full.Store(false)
				after(due)
				require.Greater(t, a.Status().Checkpoint.Revision, revision, "it goes on by itself")
				require.NotEqual(t, pipeline.Retrying, a.Status().State)
				require.Equal(t, pipeline.Standby, b.Status().State)
			})
		})
	}
}

// TestARenewalFollowsAPositionMovedByAnotherHand: it must neither move it back nor go on reading from where it was.
func TestARenewalFollowsAPositionMovedByAnotherHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newSequence(10, 100)
		// The first commit is the origin, the second all events, the third a renewal.
		ledger := &memoryLedger{store: &movedOnce{Store: checkpoint.NewMemory(testIdentity), to: src.events[4].Position()}}
		lane := twin("a", src, ledger)
		stop := run(t, lane)
		after(takeover)
		stop()
		require.Len(t, ledger.log, 15)
		require.Equal(t, src.events[5].ID, ledger.log[10].ID)
		require.EqualValues(t, 2, src.opened.Load())
	})
}
