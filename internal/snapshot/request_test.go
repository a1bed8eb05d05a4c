package snapshot

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source/lists"
	"workos-relay/state"
)

func askable(entities ...string) *Engine {
	return &Engine{
		Lists: &world{rnd: rand.New(rand.NewPCG(1, 25))}, Entities: entities, Logger: zap.NewNop(), Now: func(context.Context) (time.Time, error) { return time.Now(), nil },
		Message: func(batch []sink.Message, _ *state.Change, _ string) ([]sink.Message, error) { return batch, nil },
	}
}

// TestARequestIsPendingUntilItIsRecorded: meanwhile no other takes its place.
func TestARequestIsPendingUntilItIsRecorded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := askable("user", "directory")
		var unknown *EntityError
		require.ErrorAs(t, e.Request([]string{"role"}), &unknown)
		require.False(t, e.Requested())
		require.NoError(t, e.Request([]string{"user"}))
		require.ErrorIs(t, e.Request([]string{"directory"}), ErrRequested)
		var cp checkpoint.Checkpoint
		require.True(t, e.Due(cp))
		for p, err := range e.Read(t.Context(), cp) {
			require.NoError(t, err)
			require.Equal(t, cp.Snapshot == nil, e.Requested())
			require.Equal(t, []string{"user"}, p.Snapshot.Entities)
			cp.Snapshot = p.Snapshot
			require.Equal(t, !cp.Snapshot.Finished(), e.Due(cp))
		}
		require.True(t, cp.Snapshot.Finished())
		require.NoError(t, e.Request(nil))
		e.Withdraw()
		e.Withdraw()
		require.False(t, e.Requested())
		require.False(t, e.Due(cp))
	})
}

// TestASuccessorInheritsARequest: of the entities that it keeps. A request that its predecessor had
// begun and recorded is done.
func TestASuccessorInheritsARequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		old := askable("user", "directory", "role")
		next := askable("user", "role")
		next.Inherit(nil)
		next.Inherit(old)
		require.False(t, next.Requested())
		require.NoError(t, old.Request([]string{"user", "directory"}))
		next.Inherit(old)
		require.True(t, next.Requested())
		var cp checkpoint.Checkpoint
		for p, err := range old.Read(t.Context(), cp) {
			require.NoError(t, err)
			cp.Snapshot = p.Snapshot
			break
		}
		after, none := askable("user", "role"), askable("role")
		after.Inherit(old)
		none.Inherit(old)
		require.False(t, none.Requested(), "it keeps nothing of what was asked for")
		for _, e := range []*Engine{next, after} {
			require.True(t, e.Due(cp))
		}
		require.False(t, after.Requested(), "the snapshot that the checkpoint records is the one that was asked for")
		require.True(t, next.Requested(), "it was asked for again")
		for p, err := range next.Read(t.Context(), checkpoint.Checkpoint{}) {
			require.NoError(t, err)
			require.Equal(t, []string{"user"}, p.Snapshot.Entities)
		}
	})
}

// TestASnapshotThatIsNotContinuedIsNotRead: the lane does not say that it reads it.
func TestASnapshotThatIsNotContinuedIsNotRead(t *testing.T) {
	t.Parallel()
	e := askable("user")
	goesOn := &checkpoint.Snapshot{Run: "run_1", Entities: []string{"user"}, Entity: "user"}
	cp := checkpoint.Checkpoint{Snapshot: goesOn}
	require.False(t, e.Reads(checkpoint.Checkpoint{}))
	require.False(t, e.Reads(cp))
	require.False(t, e.Due(cp))
	e.Automatic = true
	require.True(t, e.Reads(cp))
	e.Automatic, goesOn.Requested = false, true
	require.True(t, e.Reads(cp))
}

// deaf is a bus that cannot be read, or that hides what ends the reading in another error.
type deaf struct{ err error }

func (d deaf) Each(_ context.Context, _ string, fn func(string, []byte, []sink.Header) error) error {
	if d.err != nil {
		return d.err
	}
	return fmt.Errorf("fetching: %v", fn("user_1", []byte("{}"), nil)) //nolint:errorlint // the worst that a bus can do
}

func (d deaf) Empty(context.Context, string) (bool, error) { return false, d.err }

// refusing is an API that answers no question for an object.
type refusing struct{ *world }

var errNoAnswer = errors.New("no answer")

func (refusing) Get(context.Context, lists.Ref) (lists.Object, error) {
	return lists.Object{}, errNoAnswer
}

// TestAnErrorTellsTheBusFromTheAPI: what cannot be read back is a failure of the bus, and what
// cannot be looked for is one of the API.
func TestAnErrorTellsTheBusFromTheAPI(t *testing.T) {
	t.Parallel()
	read := func(e *Engine) (last error) {
		cp := checkpoint.Checkpoint{Snapshot: &checkpoint.Snapshot{Run: "run_1", Requested: true, Entities: []string{"user"}, Entity: "user", Comparing: true}}
		for _, err := range e.Read(t.Context(), cp) {
			last = err
		}
		return last
	}
	e := askable("user")
	e.Stored = deaf{errors.New("no broker")}
	var bus *pipeline.StateError
	require.ErrorAs(t, read(e), &bus)
	require.EqualError(t, bus, "read the state of user back: no broker")
	finished := checkpoint.Checkpoint{Snapshot: &checkpoint.Snapshot{Run: "run_1", Entities: []string{"user"}, FinishedAt: time.Now()}}
	require.ErrorAs(t, e.Begin(t.Context(), finished), &bus)
	e.Stored, e.Lists = deaf{}, refusing{}
	err := read(e)
	require.NotErrorAs(t, err, &bus)
	require.ErrorIs(t, err, errNoAnswer)
}

// TestWhatIsLeftOutIsNotCalledPublished: what a route drops and what cannot be redacted is counted
// apart. It ends no snapshot, also if it is found by a second look.
func TestWhatIsLeftOutIsNotCalledPublished(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{rnd: rand.New(rand.NewPCG(1, 26))}
		for i := range 20 {
			w.add(true, "", &thing{entity: "user", id: fmt.Sprintf("user_%02d", i)})
		}
		e := askable("user")
		e.Lists = w
		e.Message = func(batch []sink.Message, c *state.Change, _ string) ([]sink.Message, error) {
			switch c.Key[len(c.Key)-1] {
			case '1':
				return batch, nil
			case '2', '3':
				return batch, errors.New("cannot be redacted")
			}
			return append(batch, sink.Message{Key: []byte(c.Key)}), nil
		}
		e.Stored = has{"user_00", "user_01", "user_02"} // of an earlier snapshot
		published := 0
		require.NoError(t, e.Request(nil))
		var cp checkpoint.Checkpoint
		for p, err := range e.Read(t.Context(), cp) {
			require.NoError(t, err)
			published += len(p.Messages)
			cp.Snapshot = p.Snapshot
		}
		require.True(t, cp.Snapshot.Finished())
		require.Equal(t, checkpoint.SnapshotCount{Entity: "user", Objects: 15, Dropped: 2, Skipped: 4}, cp.Snapshot.Count("user"))
		require.Equal(t, 15, published)
	})
}

// has is a bus that has these objects.
type has []string

func (h has) Each(_ context.Context, _ string, fn func(string, []byte, []sink.Header) error) error {
	for _, key := range h {
		if err := fn(key, []byte("{}"), nil); err != nil {
			return err
		}
	}
	return nil
}

func (has) Empty(context.Context, string) (bool, error) { return false, nil }
