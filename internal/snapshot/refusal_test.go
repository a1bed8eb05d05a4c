package snapshot

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/source/lists"
	"workos-relay/state"
)

// hasOf is a bus that has one object, of one entity.
type hasOf struct{ entity, key string }

func (h hasOf) Each(_ context.Context, entity string, fn func(string, []byte, []sink.Header) error) error {
	if entity != h.entity {
		return nil
	}
	return fn(h.key, []byte("{}"), nil)
}

func (hasOf) Empty(context.Context, string) (bool, error) { return false, nil }

// forbidden is a world of which WorkOS refuses some requests.
type forbidden struct {
	*world
	mu      sync.Mutex
	refuses func(q lists.Query) error // nil for none
	get     error
	unknown []string // entities of which Get finds no object
	asks    int      // how often a page was refused
}

func (f *forbidden) Page(ctx context.Context, q lists.Query) (lists.Page, error) {
	f.mu.Lock()
	refuses := f.refuses
	f.mu.Unlock()
	if refuses != nil {
		if err := refuses(q); err != nil {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.asks++
			return lists.Page{}, err
		}
	}
	return f.world.Page(ctx, q)
}

func (f *forbidden) Get(ctx context.Context, ref lists.Ref) (lists.Object, error) {
	if f.get != nil {
		return lists.Object{}, f.get
	}
	if slices.Contains(f.unknown, ref.Entity) {
		return lists.Object{}, lists.ErrNotFound
	}
	return f.world.Get(ctx, ref)
}

var errForbidden = &source.RefusalError{For: 10 * time.Second, Err: &source.APIError{Status: 403, Message: "This key may not read it", RequestID: "req_1"}}

// newForbidden returns a world with users, and with directories that each have a user.
func newForbidden(directories int, refuses func(q lists.Query) error) *forbidden {
	w := &world{rnd: rand.New(rand.NewPCG(1, 27))}
	for i := range directories {
		d := &thing{entity: "directory", id: fmt.Sprintf("directory_%03d", i)}
		w.add(true, "", d)
		w.add(true, "", &thing{entity: "directory_user", id: fmt.Sprintf("directory_user_%03d", i), parents: []string{d.id}})
	}
	w.add(true, "", &thing{entity: "user", id: "user_1"})
	return &forbidden{world: w, refuses: refuses}
}

// readAll reads the snapshot that is due, and returns the keys that it has published.
func readAll(t *testing.T, e *Engine, cp *checkpoint.Checkpoint) (keys []string, err error) {
	t.Helper()
	e.Message = func(batch []sink.Message, c *state.Change, _ string) ([]sink.Message, error) {
		return append(batch, sink.Message{Key: []byte(c.Key)}), nil
	}
	for p, err := range e.Read(t.Context(), *cp) {
		if err != nil {
			return keys, err
		}
		for _, m := range p.Messages {
			keys = append(keys, string(m.Key))
		}
		cp.Snapshot = p.Snapshot
	}
	return keys, nil
}

// TestARefusedListIsLeftOut: the others are read, nothing of its entity is removed, and events set
// its objects whenever they happened. It is not asked for again until somebody wants that.
func TestARefusedListIsLeftOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newForbidden(20, func(q lists.Query) error {
			if q.Entity == "directory_user" && q.Parents[0] == "directory_007" {
				return errForbidden
			}
			return nil
		})
		e := askable("user", "directory", "directory_user")
		e.Lists, e.FirstStart, e.LeaveOut, e.Stored = f, true, true, hasOf{"directory_user", "directory_user_ghost"}
		cp := checkpoint.Checkpoint{Generation: 1, StateFromStart: true}
		require.Empty(t, e.Unread(cp), "a snapshot is due")
		keys, err := readAll(t, e, &cp)
		require.NoError(t, err)
		require.Len(t, keys, 1+20+19)
		require.Equal(t, 2, f.asks, "it is asked for twice")
		require.True(t, cp.Snapshot.Finished())
		require.Equal(t, []checkpoint.SnapshotRefusal{{Entity: "directory_user", Reason: errForbidden.Err.Error()}}, cp.Snapshot.Refused)
		require.Empty(t, f.asked, "no ghost is looked for")
		require.Zero(t, cp.Snapshot.Count("directory_user").Removed)
		require.False(t, e.Due(cp))
		unread := []pipeline.UnreadEntity{{Entity: "directory_user", Reason: errForbidden.Err.Error()}}
		require.Equal(t, unread, e.Unread(cp))

		require.NoError(t, e.Begin(t.Context(), cp))
		old := &source.Event{CreatedAt: time.Now().Add(-time.Hour)}
		require.True(t, e.Admit(old, &state.Change{Entity: "directory_user", Key: "directory_user_007", Object: []byte("{}")}))
		require.False(t, e.Admit(old, &state.Change{Entity: "directory", Key: "directory_007", Object: []byte("{}")}))

		// Another snapshot keeps what is known, and does not call it read.
		time.Sleep(time.Second)
		require.NoError(t, e.Request([]string{"user"}))
		require.Equal(t, unread, e.Unread(cp))
		_, err = readAll(t, e, &cp)
		require.NoError(t, err)
		require.NotContains(t, cp.Snapshot.Entities, "directory_user")
		require.NotContains(t, cp.Snapshot.Earlier, "directory_user")
		require.Equal(t, unread, e.Unread(cp))
		require.False(t, e.Due(cp))

		f.refuses = nil
		require.NoError(t, e.Request([]string{"directory_user"}))
		require.Empty(t, e.Unread(cp), "it is about to be read")
		_, err = readAll(t, e, &cp)
		require.NoError(t, err)
		require.Empty(t, cp.Snapshot.Refused)
		require.Empty(t, e.Unread(cp))
		require.Equal(t, "directory_user_ghost", f.asked[0])
		require.NotContains(t, f.asked[1:], "directory_user_ghost")
		require.Len(t, f.asked, 2, "and one that a list has named")
	})
}

// TestAPathThatIsNotServed: an answer that an object or a list is not there says that it is gone
// only if the same path gives what is there. The entity is left out otherwise, and nothing of it is
// removed.
func TestAPathThatIsNotServed(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		gone, unknown []string // entities of which WorkOS says that no list, or no object, is there
		refused       []string
		removed       uint64
	}{
		"it is gone":                    {removed: 1},
		"its lists":                     {gone: []string{"directory_user"}, refused: []string{"directory_user"}},
		"its objects":                   {unknown: []string{"directory_user"}, refused: []string{"directory_user"}},
		"its lists and all its parents": {gone: []string{"directory_user"}, unknown: []string{"directory", "directory_user"}, refused: []string{"directory_user"}},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newForbidden(20, func(q lists.Query) error {
				if slices.Contains(test.gone, q.Entity) {
					return &lists.GoneError{Entity: q.Entity, Parent: q.Parents[0], Err: errNoAnswer}
				}
				return nil
			})
			f.unknown = test.unknown
			e := askable("directory", "directory_user")
			e.Lists, e.Automatic, e.LeaveOut, e.Stored = f, true, true, hasOf{"directory_user", "directory_user_ghost"}
			cp := checkpoint.Checkpoint{Generation: 1}
			_, err := readAll(t, e, &cp)
			require.NoError(t, err, name)
			require.True(t, cp.Snapshot.Finished(), name)
			require.Equal(t, test.removed, cp.Snapshot.Count("directory_user").Removed, name)
			var refused []string
			for _, r := range cp.Snapshot.Refused {
				refused = append(refused, r.Entity)
			}
			require.Equal(t, test.refused, refused, name)
			require.LessOrEqual(t, f.asks, 2*(mostRefused+DefaultReaders), name)
		})
	}
}

// TestAnEntityIsGivenUp: if WorkOS refuses each list, or those of the parents, few are asked for.
func TestAnEntityIsGivenUp(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]string{"its lists": "directory_user", "the lists of its parents": "directory_group"} {
		synctest.Test(t, func(t *testing.T) {
			f := newForbidden(100, func(q lists.Query) error {
				if q.Entity == refused {
					return errForbidden
				}
				return nil
			})
			e := askable("directory_user", "directory_group_membership")
			if refused == "directory_group" {
				e.Entities = e.Entities[1:]
			}
			e.Lists, e.Automatic, e.LeaveOut = f, true, true
			cp := checkpoint.Checkpoint{Generation: 1}
			_, err := readAll(t, e, &cp)
			require.NoError(t, err, name)
			require.True(t, cp.Snapshot.Finished(), name)
			require.LessOrEqual(t, f.asks, 2*2*(mostRefused+DefaultReaders), name)
			require.NotEmpty(t, cp.Snapshot.Refusal(e.Entities[0]), name)
		})
	}
}

// TestAListThatIsNotContinuedIsLeftOut after it was read from its start a few times.
func TestAListThatIsNotContinuedIsLeftOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newForbidden(3, func(q lists.Query) error {
			if q.Entity == "directory_user" && q.Parents[0] == "directory_001" {
				return fmt.Errorf("read: %w", lists.ErrNotContinued)
			}
			return nil
		})
		e := askable("directory_user")
		e.Lists, e.Automatic, e.LeaveOut = f, true, true
		cp := checkpoint.Checkpoint{Generation: 1}
		for range mostRestarts {
			_, err := readAll(t, e, &cp)
			require.ErrorIs(t, err, lists.ErrNotContinued)
		}
		_, err := readAll(t, e, &cp)
		require.NoError(t, err)
		require.True(t, cp.Snapshot.Finished())
		require.Contains(t, cp.Snapshot.Refusal("directory_user"), lists.ErrNotContinued.Error())
	})
}

// TestTheListsOfParentsAreNotContinued: they are walked through from their start a few times, and
// then what needs them is left out, instead of holding the lane for ever.
func TestTheListsOfParentsAreNotContinued(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var stuck sync.Map // entities of which no list is continued
		f := newForbidden(30, func(q lists.Query) error {
			if _, ok := stuck.Load(q.Entity); ok && q.After != "" {
				return fmt.Errorf("read: %w", lists.ErrNotContinued)
			}
			return nil
		})
		stuck.Store("directory", true)
		e := askable("directory_user")
		e.Lists, e.Automatic, e.LeaveOut = f, true, true
		cp := checkpoint.Checkpoint{Generation: 1}
		for range mostRestarts {
			_, err := readAll(t, e, &cp)
			require.ErrorIs(t, err, lists.ErrNotContinued)
			require.Empty(t, cp.Snapshot.Walk, "the next attempt begins at the first parent")
		}
		_, err := readAll(t, e, &cp)
		require.NoError(t, err)
		require.True(t, cp.Snapshot.Finished())
		require.Contains(t, cp.Snapshot.Refusal("directory_user"), lists.ErrNotContinued.Error())

		stuck.Delete("directory") // and a walk that gets on reads all
		require.NoError(t, e.Request([]string{"directory_user"}))
		keys, err := readAll(t, e, &cp)
		require.NoError(t, err)
		require.Len(t, keys, 30)
		require.Empty(t, cp.Snapshot.Refused)
	})
}

// TestRestartsCountForEachList: that some lists were not continued once leaves out none.
func TestRestartsCountForEachList(t *testing.T) {
	t.Parallel()
	e := askable("directory_user")
	e.LeaveOut = true
	for i := range 2 * mostRestarts {
		require.False(t, isRefused(e.restarted("directory_user", []string{fmt.Sprint("directory_", i)}, errNoAnswer)))
	}
	for range mostRestarts - 1 {
		require.False(t, isRefused(e.restarted("directory_user", []string{"directory_0"}, errNoAnswer)))
	}
	require.True(t, isRefused(e.restarted("directory_user", []string{"directory_0"}, errNoAnswer)))
	for i := range mostRestartsOfAll {
		_ = e.restarted("directory_user", []string{fmt.Sprint("other_", i)}, errNoAnswer)
	}
	require.True(t, isRefused(e.restarted("directory_user", []string{"directory_x"}, errNoAnswer)), "all of them together are bounded")
}

// TestARefusalIsNoneIfWorkOSDoesNotAnswer: the key or the network may be at fault, so that nothing
// is left out.
func TestARefusalIsNoneIfWorkOSDoesNotAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newForbidden(1, func(lists.Query) error { return errForbidden })
		e := askable("user")
		e.Lists, e.Automatic = f, true
		cp := checkpoint.Checkpoint{Generation: 1, Snapshot: &checkpoint.Snapshot{Run: "run_1", Entities: []string{"user"}, Entity: "user"}}
		_, err := readAll(t, e, &cp)
		require.ErrorAs(t, err, new(*source.RefusalError), "without LeaveOut it ends the reading")
		require.Zero(t, e.Patience())

		e.LeaveOut = true
		require.Equal(t, patience, e.Patience())
		e.Now = func(context.Context) (time.Time, error) { return time.Time{}, errNoAnswer }
		_, err = readAll(t, e, &cp)
		require.ErrorIs(t, err, errNoAnswer)
		require.Empty(t, cp.Snapshot.Refused)

		e.Now = func(context.Context) (time.Time, error) { // meanwhile the key is right
			f.mu.Lock()
			defer f.mu.Unlock()
			f.refuses = nil
			return time.Now(), nil
		}
		keys, err := readAll(t, e, &cp)
		require.NoError(t, err)
		require.Equal(t, []string{"user_1"}, keys)
		require.Empty(t, cp.Snapshot.Refused)
		require.Equal(t, patience, e.Patience())
	})
}

// TestWhatCannotBeLookedForStays: if WorkOS refuses the second look, the snapshot is finished
// without it.
func TestWhatCannotBeLookedForStays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newForbidden(1, nil)
		f.get = errForbidden
		e := askable("user", "directory")
		e.Lists, e.Automatic, e.LeaveOut, e.Stored = f, true, true, hasOf{"user", "user_gone"}
		cp := checkpoint.Checkpoint{Generation: 1}
		keys, err := readAll(t, e, &cp)
		require.NoError(t, err)
		require.Equal(t, []string{"user_1", "directory_000"}, keys)
		require.True(t, cp.Snapshot.Finished())
		require.NotEmpty(t, cp.Snapshot.Refusal("user"))
	})
}

// TestALaneWithoutAMarkReadsNothingByItself: only one whose checkpoint says that it began with
// state does.
func TestALaneWithoutAMarkReadsNothingByItself(t *testing.T) {
	t.Parallel()
	e := askable("user", "directory", "connected_account")
	e.FirstStart = true
	cp := checkpoint.Checkpoint{Generation: 1}
	require.False(t, e.Due(cp))
	require.Equal(t, []pipeline.UnreadEntity{{Entity: "user"}, {Entity: "directory"}}, e.Unread(cp), "of the third there is no list")
	cp.StateFromStart = true
	require.True(t, e.Due(cp))
	require.Empty(t, e.Unread(cp))

	cp.Snapshot = &checkpoint.Snapshot{Run: "run_1", Entities: []string{"user", "directory"}, Entity: "directory"}
	require.True(t, e.Due(cp), "it goes on")
	require.Empty(t, e.Unread(cp))
	e.FirstStart = false // snapshot: never
	require.False(t, e.Due(cp))
	require.Equal(t, []pipeline.UnreadEntity{{Entity: "directory"}}, e.Unread(cp))
	cp.Snapshot.Earlier = []string{"directory"}
	require.Empty(t, e.Unread(cp))
}

// TestAReasonIsBounded, since the checkpoint keeps it.
func TestAReasonIsBounded(t *testing.T) {
	t.Parallel()
	e := askable("user")
	s := e.refuse(&checkpoint.Snapshot{Entity: "user"}, errors.New(strings.Repeat("x\n", 1000)))
	require.LessOrEqual(t, len(s.Refusal("user")), reasonLimit)
	require.Same(t, s, e.refuse(s, errNoAnswer), "the first reason stays")
}

// topic is a bus whose state topics are empty or hold nothing that any snapshot has published.
type topic struct {
	empty bool
	read  int // how often it was read
}

func (b *topic) Each(context.Context, string, func(string, []byte, []sink.Header) error) error {
	b.read++
	return nil
}

func (b *topic) Empty(context.Context, string) (bool, error) { return b.empty, nil }

// TestAnEmptyTopicIsNotReadBack: after the first snapshot of an entity there is nothing that only
// the bus has, also if relay was restarted in its middle.
func TestAnEmptyTopicIsNotReadBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, empty := range []bool{true, false} {
			b := &topic{empty: empty}
			f := newForbidden(20, nil)
			e := askable("directory_user")
			e.Lists, e.Automatic, e.Stored = f, true, b
			cp := checkpoint.Checkpoint{Generation: 1}
			for p, err := range e.Read(t.Context(), cp) {
				require.NoError(t, err)
				cp.Snapshot = p.Snapshot
				if cp.Snapshot.Count("directory_user").Dropped > 0 { // it makes no messages yet
					break
				}
			}
			require.Equal(t, empty, cp.Snapshot.Fresh)
			b.empty = false // now it holds what was read
			_, err := readAll(t, e, &cp)
			require.NoError(t, err)
			require.True(t, cp.Snapshot.Finished())
			require.Equal(t, empty, b.read == 0)
			require.False(t, cp.Snapshot.Fresh)
		}
	})
}
