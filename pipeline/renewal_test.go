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
	"workos-relay/sink"
)

// fullStore can be read and takes nothing while it is full, as a stream does that has reached its
// limit and discards what is new.
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

// TestARenewalThatFailsIsTriedAgainInMeasure: at the tip and in a pause nothing but renewals goes
// to the bus, and a bus that refuses them must not be asked without end.
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

// TestARenewalFollowsAPositionMovedByAnotherHand: it must neither move it back nor go on reading
// from where it was.
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

// refusingLedger prepares no topics while it is refusing, as a bus does on which somebody has
// changed a topic.
type refusingLedger struct {
	*memoryLedger
	refusing atomic.Bool
	refused  atomic.Int64
}

func (l *refusingLedger) Prepare(context.Context, []string) error {
	if !l.refusing.Load() {
		return nil
	}
	l.refused.Add(1)
	return &sink.FatalError{Err: errors.New("the topic takes no messages of this size")}
}

// TestALeaseIsKeptWhileItsTopicsAreRefused: a lane that cannot make its topics ready any more
// renews its lease while it tries again, so that no standby takes over what it could not use
// either, and goes on once the topics are repaired.
func TestALeaseIsKeptWhileItsTopicsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := slowSource(600)
		ledger := &refusingLedger{memoryLedger: &memoryLedger{store: checkpoint.NewMemory(testIdentity)}}
		a, b := twin("a", src, ledger), twin("b", src, ledger)
		stopA := run(t, a)
		defer stopA()
		after(time.Second)
		stopB := run(t, b)
		defer stopB()
		after(2 * takeover)
		ledger.refusing.Store(true)
		cp := a.Status().Checkpoint
		_, err := ledger.store.Commit(t.Context(), cp, cp) // the lane's next commit conflicts, so that it has to acquire again
		require.NoError(t, err)
		after(10 * takeover)
		require.Greater(t, ledger.refused.Load(), int64(3))
		require.Equal(t, pipeline.Retrying, a.Status().State)
		require.Equal(t, pipeline.Standby, b.Status().State)
		ledger.refusing.Store(false)
		after(5 * takeover)
		require.Equal(t, pipeline.Running, a.Status().State)
		require.Equal(t, pipeline.Standby, b.Status().State)
		after(600 * time.Second)
		requireOnce(t, src, ledger.memoryLedger)
		for _, holder := range ledger.holders {
			require.Equal(t, "a", holder)
		}
	})
}
