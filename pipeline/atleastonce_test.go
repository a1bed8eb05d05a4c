package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

// fixedBus acknowledges as much of each batch as it is told to.
type fixedBus struct {
	scriptedBus
	durable   int
	published []string
}

func (b *fixedBus) Publish(_ context.Context, batch []sink.Message) error {
	for _, m := range batch {
		b.published = append(b.published, m.ID)
	}
	if b.durable >= len(batch) {
		return nil
	}
	return fmt.Errorf("wrapped: %w", &sink.PublishError{Durable: b.durable, Err: errors.New("refused")})
}

// TestOnlyWholeEventsCount: the messages of one event are adjacent, and an event of which only some
// are durable is not committed.
func TestOnlyWholeEventsCount(t *testing.T) {
	at := func(i int) checkpoint.Position {
		return checkpoint.Position{EventID: fmt.Sprint("event_", i), CreatedAt: time.Unix(int64(i), 0).UTC()}
	}
	var batch []sink.Message // three events of two, three and one messages
	for i, n := range []int{2, 3, 1} {
		for m := range n {
			batch = append(batch, sink.Message{Topic: "t", ID: fmt.Sprint(i, "-", m), Position: at(i)})
		}
	}
	for durable, want := range []string{"", "", "event_0", "event_0", "event_0", "event_1", "event_9"} {
		bus := &fixedBus{durable: durable}
		store := checkpoint.NewMemory(testIdentity)
		target := newLane(nil, nil, bus, store).Target
		prev, err := target.Acquire(t.Context(), nil)
		require.NoError(t, err)

		cp, err := target.Append(t.Context(), prev, batch, at(9))
		require.Equal(t, durable < len(batch), err != nil, "%d durable", durable)
		require.Equal(t, want, cp.EventID, "%d durable", durable)
		loaded, err := target.Load(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, loaded.EventID, "%d durable", durable)
	}
}

// TestACommitThatFailedIsMadeUpWithoutPublishingAgain also covers a batch that begins with what is
// durable already and goes on.
func TestACommitThatFailedIsMadeUpWithoutPublishingAgain(t *testing.T) {
	src := newSequence(4, 4)
	var batch []sink.Message
	for i := range src.events {
		batch, _ = oneToOne{}.Append(batch, &src.events[i])
	}
	bus := &fixedBus{durable: 9}
	store := &failingOnce{Memory: checkpoint.NewMemory(testIdentity)}
	target := newLane(nil, nil, bus, store).Target
	prev, err := target.Acquire(t.Context(), nil)
	require.NoError(t, err)

	store.fail = true
	cp, err := target.Append(t.Context(), prev, batch[:2], src.events[1].Position())
	require.ErrorContains(t, err, "disk full")
	require.Equal(t, prev.Position, cp.Position)

	cp, err = target.Append(t.Context(), prev, batch, src.events[3].Position())
	require.NoError(t, err)
	require.Equal(t, src.events[3].ID, cp.EventID)
	require.Equal(t, []string{"event_000000", "event_000001", "event_000002", "event_000003"}, bus.published)
}

type failingOnce struct {
	*checkpoint.Memory
	fail bool
}

func (s *failingOnce) Commit(ctx context.Context, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	if s.fail {
		s.fail = false
		return checkpoint.Checkpoint{}, errors.New("disk full")
	}
	return s.Memory.Commit(ctx, prev, next)
}

func TestASmallerAttemptAfterAFailedCommitMakesNoCopies(t *testing.T) {
	bus, store := &scriptedBus{rnd: fixedRand()}, &failingOnce{Memory: checkpoint.NewMemory(testIdentity)}
	target := newLane(nil, nil, bus, store).Target
	prev, err := target.Acquire(t.Context(), nil)
	require.NoError(t, err)
	events := newSequence(10, 10).events
	batch := func(from, to int) (messages []sink.Message) {
		for i := from; i < to; i++ {
			messages, _ = oneToOne{}.Append(messages, &events[i])
		}
		return messages
	}
	store.fail = true
	_, err = target.Append(t.Context(), prev, batch(0, 10), events[9].Position())
	require.Error(t, err)
	store.fail = true
	_, err = target.Append(t.Context(), prev, batch(0, 5), events[4].Position())
	require.Error(t, err)
	for i := range events { // one by one
		prev, err = target.Append(t.Context(), prev, batch(i, i+1), events[i].Position())
		require.NoError(t, err)
	}
	require.Len(t, bus.stored, 10)

	// A move backwards publishes again.
	prev, err = target.Append(t.Context(), prev, nil, checkpoint.Position{})
	require.NoError(t, err)
	_, err = target.Append(t.Context(), prev, batch(0, 10), events[9].Position())
	require.NoError(t, err)
	require.Len(t, bus.stored, 20)
}

// TestTheLockOfTheStoreDecides: in at_least_once the store lets one process in, so a look that
// failed or is out of date keeps no relay from the position of one that was killed.
func TestTheLockOfTheStoreDecides(t *testing.T) {
	store := checkpoint.NewMemory(testIdentity)
	_, err := store.Commit(t.Context(), checkpoint.Checkpoint{}, checkpoint.Checkpoint{Generation: 1, Holder: "killed", Source: testIdentity, Mode: checkpoint.AtLeastOnce})
	require.NoError(t, err)
	cp, err := newLane(nil, nil, &fixedBus{}, store).Target.Acquire(t.Context(), &checkpoint.Checkpoint{})
	require.NoError(t, err)
	require.Equal(t, uint64(2), cp.Generation)
}

func TestReleaseMovesNothing(t *testing.T) {
	bus, store := &fixedBus{}, checkpoint.NewMemory(testIdentity)
	target := newLane(nil, nil, bus, store).Target
	prev, err := target.Acquire(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, target.Release(t.Context()))
	cp, err := target.Load(t.Context())
	require.NoError(t, err)
	require.True(t, cp.Released)
	require.Equal(t, prev.Position, cp.Position)

	again, err := target.Acquire(t.Context(), nil)
	require.NoError(t, err)
	require.False(t, again.Released)
	require.Equal(t, prev.Generation+1, again.Generation, "each holder has its own generation")
}

// TestAPartOfABatchLeavesTheRestOfARefusedType: a type that takes part again is published as far as
// the part of the batch that is durable, and no further.
func TestAPartOfABatchLeavesTheRestOfARefusedType(t *testing.T) {
	src := newSequence(4, 4)
	var batch []sink.Message
	for i := range src.events {
		batch, _ = oneToOne{}.Append(batch, &src.events[i])
	}
	at := func(i int) checkpoint.Position { return src.events[i].Position() }
	target := newLane(nil, nil, &fixedBus{durable: 2}, checkpoint.NewMemory(testIdentity)).Target
	prev, err := target.Acquire(t.Context(), nil)
	require.NoError(t, err)
	prev.Refused = []checkpoint.Refused{{Type: "joins", Position: at(3)}, {Type: "missing", Position: at(0)}} // as after the whole batch
	cp, err := target.Append(t.Context(), prev, batch, at(3))
	require.Error(t, err)
	require.Equal(t, at(1), cp.Position)
	require.Equal(t, []checkpoint.Refused{{Type: "joins", Position: at(1)}, {Type: "missing", Position: at(0)}}, cp.Refused)
	require.Equal(t, prev.Moved(at(1), sink.Passed(batch[:2])).Recent, cp.Recent)
}
