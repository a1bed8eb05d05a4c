package pipeline_test

import (
	"context"
	"iter"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/source"
)

// seeing is a source whose pages at the tip say up to when everything was seen.
type seeing struct {
	*sequence
	resumed []checkpoint.Checkpoint
}

func (s *seeing) Resume(ctx context.Context, from checkpoint.Checkpoint) iter.Seq2[source.Page, error] {
	s.resumed = append(s.resumed, from)
	return func(yield func(source.Page, error) bool) {
		for page, err := range s.Pages(ctx, from.Position) {
			if page.Tip {
				page.Seen = time.Now()
			}
			if !yield(page, err) {
				return
			}
		}
	}
}

// TestWhatWasSeenIsRecorded without moving the position: soon, at a bounded rate, and at an orderly
// stop.
func TestWhatWasSeenIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &seeing{sequence: newSequence(250, 100)}
		bus := &scriptedBus{rnd: fixedRand()}
		store := &countingStore{Store: checkpoint.NewMemory(testIdentity)}
		stop := run(t, newLane(src, oneToOne{}, bus, store))
		after(time.Minute + time.Second)
		commits := store.commits.Load()
		cp, err := store.Load(t.Context())
		require.NoError(t, err)
		require.Equal(t, src.events[249].Position(), cp.Position)
		require.WithinDuration(t, time.Now(), cp.Seen, 3*time.Second)
		require.Len(t, cp.Recent.Events, checkpoint.MaxRecent)
		require.Equal(t, src.events[249].Position(), cp.Recent.Events[checkpoint.MaxRecent-1])
		after(10 * time.Minute)
		require.LessOrEqual(t, store.commits.Load()-commits, int64(11))
		stop()
		cp, err = store.Load(t.Context())
		require.NoError(t, err)
		require.True(t, cp.Released)
		require.WithinDuration(t, time.Now(), cp.Seen, 2*time.Second)

		// The next life begins with what is known.
		lane := newLane(src, oneToOne{}, bus, store)
		stop = run(t, lane)
		after(0)
		require.Equal(t, cp.Seen.UTC(), src.resumed[1].Seen)
		stop()
	})
}

type countingStore struct {
	checkpoint.Store
	commits atomic.Int64
}

func (s *countingStore) Commit(ctx context.Context, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	s.commits.Add(1)
	return s.Store.Commit(ctx, prev, next)
}
