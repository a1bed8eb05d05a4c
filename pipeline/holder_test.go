package pipeline_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
)

// TestTheLeaseOfAnEarlierProcess: a lane does not wait for a lease of an earlier process with the
// same checkpoint directory, also if a version of relay that named holders otherwise had it. It
// waits for every other holder, and for a copy of its directory once it has held the lease itself.
func TestTheLeaseOfAnEarlierProcess(t *testing.T) {
	here, elsewhere := strings.Repeat("0123456789abcdef", 2), strings.Repeat("fedcba9876543210", 2)
	started := time.Date(2026, 11, 30, 1, 20, 5, 0, time.UTC)
	self := checkpoint.HolderName("web", 1, started, here)
	for _, c := range []struct {
		name, holder string
		waits        bool
	}{
		{"an earlier process", checkpoint.HolderName("other", 4711, started.Add(-time.Hour), here), false},
		{"an earlier version", here, false},
		{"an earlier version elsewhere", elsewhere, true},
		{"the same instance, process id and time elsewhere", checkpoint.HolderName("web", 1, started, elsewhere), true},
		{"no name that is known", "stranger", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
				cp, err := ledger.store.Commit(t.Context(), checkpoint.Checkpoint{}, checkpoint.Checkpoint{
					Generation: 1, Holder: c.holder, Source: testIdentity, Mode: checkpoint.ExactlyOnce, Events: []string{"user.created"},
				})
				require.NoError(t, err)
				lane := twin(self, newSequence(10, 10), ledger)
				stop := run(t, lane)
				time.Sleep(time.Second)
				state := pipeline.Running
				if c.waits {
					state = pipeline.Standby
				}
				require.Equal(t, state, lane.Status().State)
				time.Sleep(takeover)
				require.Equal(t, pipeline.Running, lane.Status().State)
				now, err := ledger.Load(t.Context())
				require.NoError(t, err)
				require.Equal(t, self, now.Holder)
				require.Greater(t, now.Generation, cp.Generation)
				stop()
			})
		})
	}
	t.Run("a copy of the directory", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ledger := &memoryLedger{store: checkpoint.NewMemory(testIdentity)}
			src := slowSource(300)
			a, b := twin(self, src, ledger), twin(checkpoint.HolderName("web", 2, started, here), src, ledger)
			stopA := run(t, a)
			time.Sleep(time.Second)
			stopB := run(t, b)
			time.Sleep(time.Minute)
			require.Equal(t, pipeline.Standby, a.Status().State, "it has lost its place to the copy once, and waits from then on")
			require.Equal(t, pipeline.Running, b.Status().State)
			stopB()
			stopA()
		})
	})
}

func TestAwaitSilenceOfAnEarlierProcess(t *testing.T) {
	here := strings.Repeat("0123456789abcdef", 2)
	cp := checkpoint.Checkpoint{Generation: 1, Revision: 1, Holder: here}
	load := func(context.Context) (checkpoint.Checkpoint, error) { return cp, nil }
	synctest.Test(t, func(t *testing.T) {
		before := time.Now()
		_, err := pipeline.AwaitSilence(t.Context(), time.Hour, checkpoint.HolderName("web", 1, before, here), load)
		require.NoError(t, err)
		require.Zero(t, time.Since(before))
	})
}
