// Package checkpointtest is the conformance kit of checkpoint.Store: what relay relies on, wherever
// the checkpoint is kept. It proves nothing about power failures, nor about a store whose server is
// down.
package checkpointtest

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
)

// Harness says what is tested and what may be expected of it.
type Harness struct {
	// NewPlace makes a new empty place for one checkpoint at each call, and removes it with
	// t.Cleanup.
	NewPlace func(t *testing.T) Place
	// Durable: what was committed is still there when the place is opened again.
	Durable bool
	// Shared: a place can be opened more than once at the same time, and then compare and swap
	// decides between the stores.
	Shared bool
}

// Place is where one checkpoint is kept, such as a directory, a subject or a topic.
type Place interface {
	// Open returns the store of the place for id. The kit closes it if it is an io.Closer. Ids that
	// differ in nothing but Endpoint, Organization and Destination open the same checkpoint.
	Open(t *testing.T, id checkpoint.Identity) checkpoint.Store
}

// waitLimit bounds each call of a store, which may have a slow disk.
const waitLimit = 3 * time.Minute

// Identity is whose checkpoints the kit keeps.
func Identity() checkpoint.Identity {
	return checkpoint.Identity{
		Relay:        "workos",
		Lane:         "kit",
		Endpoint:     "https://api.workos.com",
		Organization: "org_01H",
		Destination:  "nats stream WORKOS",
	}
}

// Run tests the store of h.
func Run(t *testing.T, h Harness) {
	for _, tt := range []struct {
		name string
		test func(*testing.T, Harness)
		skip string
	}{
		{"nothing there", testNothingThere, ""},
		{"round trip", testRoundTrip, ""},
		{"compare and swap", testCompareAndSwap, ""},
		{"one of many commits wins", testOneWins, ""},
		{"whole while it changes", testWholeWhileItChanges, ""},
		{"commit for another", testCommitForAnother, ""},
		{"context ended", testContextEnded, ""},
		{"kept by reference to nothing", testKeepsItsOwnCopy, ""},
		{"opened again", testOpenedAgain, unless(h.Durable, "the store is not durable")},
		{"opened by another", testOpenedByAnother, unless(h.Durable, "the store is not durable")},
		{"one of many stores wins", testOneStoreWins, unless(h.Shared, "the place cannot be opened more than once at a time")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.skip != "" {
				t.Skip(tt.skip)
			}
			tt.test(t, h)
		})
	}
}

func unless(has bool, reason string) string {
	if has {
		return ""
	}
	return reason
}

// Full returns a checkpoint of Identity with every field set, different for each n.
func Full(n int) checkpoint.Checkpoint {
	at := time.Date(2026, 11, 23, 10, 20, 30, 123456789, time.UTC).Add(time.Duration(n) * time.Second)
	return checkpoint.Checkpoint{
		Position:   checkpoint.Position{EventID: fmt.Sprintf("event_%026d", n), CreatedAt: at},
		Generation: uint64(n) + 7,
		Holder:     fmt.Sprintf("holder-%d", n),
		Released:   n%2 == 1,
		Source:     Identity(),
		Mode:       checkpoint.AtLeastOnce,
		Events:     []string{"dsync.user.created", "dsync.user.updated"},
		UpdatedAt:  at.Add(time.Millisecond),
		Seen:       at.Add(time.Minute),
		Recent: checkpoint.Recent{
			Events: []checkpoint.Position{{EventID: fmt.Sprintf("event_%026d", n), CreatedAt: at}}, From: at.Add(-time.Second),
		},
		Refused: []checkpoint.Refused{{Type: "vault.data.read", Since: at, Position: checkpoint.Position{EventID: "event_before", CreatedAt: at}}},
		Snapshot: &checkpoint.Snapshot{
			Run: fmt.Sprintf("run-%d", n), Entities: []string{"directory", "directory_user"}, Tip: checkpoint.Position{CreatedAt: at},
			StartedAt: at, Entity: "directory_user", Walk: []checkpoint.SnapshotStep{{After: "directory_0", ID: "directory_1"}},
			Open:    []checkpoint.SnapshotList{{Parents: []string{"directory_1"}, After: fmt.Sprintf("directory_user_%d", n)}},
			Counts:  []checkpoint.SnapshotCount{{Entity: "directory_user", Objects: uint64(n) + 1}},
			Refused: []checkpoint.SnapshotRefusal{{Entity: "directory", Reason: "WorkOS answered 403"}},
		},
		StateFromStart: true,
	}
}

// RequireEqual fails the test if want and have differ in anything but Revision, which the store
// sets.
func RequireEqual(t *testing.T, want, have checkpoint.Checkpoint) {
	t.Helper()
	requireSameTime(t, "CreatedAt", want.CreatedAt, have.CreatedAt)
	requireSameTime(t, "UpdatedAt", want.UpdatedAt, have.UpdatedAt)
	want.CreatedAt, want.UpdatedAt, want.Revision = have.CreatedAt, have.UpdatedAt, have.Revision
	if len(want.Events) == 0 && len(have.Events) == 0 {
		want.Events = have.Events
	}
	require.Equal(t, want, have)
}

func requireSameTime(t *testing.T, what string, want, have time.Time) {
	t.Helper()
	require.Truef(t, want.Equal(have), "%s: want %v, have %v", what, want, have)
	require.Equal(t, time.UTC, have.Location(), what)
}

func openPlace(t *testing.T, p Place, id checkpoint.Identity) checkpoint.Store {
	t.Helper()
	s := p.Open(t, id)
	require.NotNil(t, s)
	if c, ok := s.(io.Closer); ok {
		t.Cleanup(func() { _ = c.Close() })
	}
	return s
}

func closeStore(t *testing.T, s checkpoint.Store) {
	t.Helper()
	if c, ok := s.(io.Closer); ok {
		require.NoError(t, c.Close())
	}
}

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitLimit)
	t.Cleanup(cancel)
	return ctx
}

func mustCommit(t *testing.T, s checkpoint.Store, prev, next checkpoint.Checkpoint) checkpoint.Checkpoint {
	t.Helper()
	c, err := s.Commit(limited(t), prev, next)
	require.NoError(t, err)
	return c
}

// requireCurrent fails the test if the store does not hold exactly want, its revision included.
func requireCurrent(t *testing.T, s checkpoint.Store, want checkpoint.Checkpoint) {
	t.Helper()
	have, err := s.Load(limited(t))
	require.NoError(t, err)
	RequireEqual(t, want, have)
	require.Equal(t, want.Revision, have.Revision, "the current revision")
}

func testNothingThere(t *testing.T, h Harness) {
	s := openPlace(t, h.NewPlace(t), Identity())
	_, err := s.Load(limited(t))
	require.ErrorIs(t, err, checkpoint.ErrNotFound)

	gone := Full(1)
	gone.Revision = 1
	_, err = s.Commit(limited(t), gone, Full(2))
	require.ErrorIs(t, err, checkpoint.ErrConflict)
	_, err = s.Load(limited(t))
	require.ErrorIs(t, err, checkpoint.ErrNotFound, "a conflict changed something")
}

func testRoundTrip(t *testing.T, h Harness) {
	with := func(change func(*checkpoint.Checkpoint)) checkpoint.Checkpoint {
		c := Full(3)
		change(&c)
		return c
	}
	for name, want := range map[string]checkpoint.Checkpoint{
		"every field":       Full(3),
		"nothing but whose": {Source: Identity()},
		"zero times": with(func(c *checkpoint.Checkpoint) {
			c.CreatedAt, c.UpdatedAt = time.Time{}, time.Time{}
		}),
		"a time and no event": with(func(c *checkpoint.Checkpoint) { c.EventID = "" }),
		"another zone": with(func(c *checkpoint.Checkpoint) {
			c.CreatedAt = c.CreatedAt.In(time.FixedZone("", 5*3600+1800))
		}),
		"a time of this process": with(func(c *checkpoint.Checkpoint) { c.UpdatedAt = time.Now() }),
		"unicode and controls": with(func(c *checkpoint.Checkpoint) {
			c.EventID = "event_ü😀\u2028\x00\x7f<&>\"\\\n"
			c.Holder = "主机-1"
		}),
		"largest generation": with(func(c *checkpoint.Checkpoint) { c.Generation = math.MaxUint64 }),
		"exactly once":       with(func(c *checkpoint.Checkpoint) { c.Mode = checkpoint.ExactlyOnce }),
		"many events": with(func(c *checkpoint.Checkpoint) {
			c.Events = nil
			for i := range 111 {
				c.Events = append(c.Events, fmt.Sprintf("%s.%03d", strings.Repeat("a", 40), i))
			}
		}),
		"nothing that older relays do not know": with(func(c *checkpoint.Checkpoint) {
			c.Seen, c.Recent, c.Refused, c.Snapshot = time.Time{}, checkpoint.Recent{}, nil, nil
			c.StateFromStart = false
		}),
		"no snapshot": with(func(c *checkpoint.Checkpoint) { c.Snapshot = nil }),
		"no events":   with(func(c *checkpoint.Checkpoint) { c.Events = []string{} }),
	} {
		t.Run(name, func(t *testing.T) {
			s := openPlace(t, h.NewPlace(t), Identity())
			committed := mustCommit(t, s, checkpoint.Checkpoint{}, want)
			require.NotZero(t, committed.Revision)
			RequireEqual(t, want, committed)
			requireCurrent(t, s, committed)
		})
	}
}

func testCompareAndSwap(t *testing.T, h Harness) {
	s := openPlace(t, h.NewPlace(t), Identity())
	first := mustCommit(t, s, checkpoint.Checkpoint{}, Full(1))
	second := mustCommit(t, s, first, Full(2))
	require.Greater(t, second.Revision, first.Revision, "revisions rise")

	future := second
	future.Revision++
	for name, prev := range map[string]checkpoint.Checkpoint{
		"none yet": {}, "the one before": first, "one to come": future,
	} {
		_, err := s.Commit(limited(t), prev, Full(3))
		require.ErrorIs(t, err, checkpoint.ErrConflict, name)
		requireCurrent(t, s, second)
	}

	// Revision alone decides: what else prev says does not count, and what next says of it is
	// overwritten.
	next := Full(4)
	next.Revision = 99_999
	third := mustCommit(t, s, checkpoint.Checkpoint{Revision: second.Revision}, next)
	require.Greater(t, third.Revision, second.Revision)
	requireCurrent(t, s, third)

	// The same position again is a commit like any other: that is how a holder renews its claim.
	fourth := mustCommit(t, s, third, third)
	require.Greater(t, fourth.Revision, third.Revision)
	requireCurrent(t, s, fourth)
}

func testOneWins(t *testing.T, h Harness) {
	s := openPlace(t, h.NewPlace(t), Identity())
	race(t, []checkpoint.Store{s, s, s, s})
}

func testOneStoreWins(t *testing.T, h Harness) {
	p := h.NewPlace(t)
	stores := make([]checkpoint.Store, 4)
	for i := range stores {
		stores[i] = openPlace(t, p, Identity())
	}
	race(t, stores)
}

// race lets every store commit over the same checkpoint at once, for several rounds: exactly one
// may win each.
func race(t *testing.T, stores []checkpoint.Store) {
	var prev checkpoint.Checkpoint
	for round := range 10 {
		committed := make([]checkpoint.Checkpoint, len(stores))
		errs := make([]error, len(stores))
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i, s := range stores {
			wg.Go(func() {
				<-start
				committed[i], errs[i] = s.Commit(limited(t), prev, Full(100*round+i))
			})
		}
		close(start)
		wg.Wait()

		winner := -1
		for i, err := range errs {
			if err == nil {
				require.Equal(t, -1, winner, "two commits over the same checkpoint succeeded")
				winner = i
				continue
			}
			require.ErrorIs(t, err, checkpoint.ErrConflict)
		}
		require.NotEqual(t, -1, winner, "no commit succeeded")
		for _, s := range stores {
			requireCurrent(t, s, committed[winner])
		}
		RequireEqual(t, Full(100*round+winner), committed[winner])
		prev = committed[winner]
	}
}

// testWholeWhileItChanges reads while another goroutine commits: each reading is one of the
// committed checkpoints, and none is older than the one before.
func testWholeWhileItChanges(t *testing.T, h Harness) {
	const commits = 50
	s := openPlace(t, h.NewPlace(t), Identity())
	prev := mustCommit(t, s, checkpoint.Checkpoint{}, Full(0))

	ctx := limited(t)
	done := make(chan error, 1)
	go func() {
		var err error
		for n := 1; n < commits && err == nil; n++ {
			prev, err = s.Commit(ctx, prev, Full(n))
		}
		done <- err
	}()
	var last checkpoint.Checkpoint
	for stop := false; !stop; {
		select {
		case err := <-done:
			require.NoError(t, err)
			stop = true
		default:
		}
		have, err := s.Load(ctx)
		require.NoError(t, err)
		require.GreaterOrEqual(t, have.Revision, last.Revision)
		var n int
		_, err = fmt.Sscanf(have.Holder, "holder-%d", &n)
		require.NoError(t, err)
		RequireEqual(t, Full(n), have)
		last = have
	}
	RequireEqual(t, Full(commits-1), last)
}

// others are the identities under which the place of Identity opens although the checkpoint is not
// theirs.
func others() map[string]checkpoint.Identity {
	endpoint, organization, destination := Identity(), Identity(), Identity()
	endpoint.Endpoint = "http://127.0.0.1:4101"
	organization.Organization = ""
	destination.Destination = "nats stream OTHER"
	return map[string]checkpoint.Identity{"endpoint": endpoint, "organization": organization, "destination": destination}
}

func testCommitForAnother(t *testing.T, h Harness) {
	s := openPlace(t, h.NewPlace(t), Identity())
	first := mustCommit(t, s, checkpoint.Checkpoint{}, Full(1))
	for name, other := range others() {
		next := Full(2)
		next.Source = other
		_, err := s.Commit(limited(t), first, next)
		require.ErrorIs(t, err, checkpoint.ErrForeign, name)
		requireCurrent(t, s, first)
	}
}

func testOpenedByAnother(t *testing.T, h Harness) {
	for name, other := range others() {
		t.Run(name, func(t *testing.T) {
			p := h.NewPlace(t)
			s := openPlace(t, p, Identity())
			first := mustCommit(t, s, checkpoint.Checkpoint{}, Full(1))
			closeStore(t, s)

			foreign := openPlace(t, p, other)
			_, err := foreign.Load(limited(t))
			var fe *checkpoint.ForeignError
			require.ErrorAs(t, err, &fe)
			require.ErrorIs(t, err, checkpoint.ErrForeign)
			next := Full(2)
			next.Source = other
			_, err = foreign.Commit(limited(t), first, next)
			require.Error(t, err, "a foreign checkpoint was replaced")
			closeStore(t, foreign)

			requireCurrent(t, openPlace(t, p, Identity()), first)
		})
	}
}

func testOpenedAgain(t *testing.T, h Harness) {
	p := h.NewPlace(t)
	var prev checkpoint.Checkpoint
	for n := range 5 {
		s := openPlace(t, p, Identity())
		if n > 0 {
			requireCurrent(t, s, prev)
		}
		for i := range 3 {
			prev = mustCommit(t, s, prev, Full(10*n+i))
		}
		closeStore(t, s)
	}
}

func testContextEnded(t *testing.T, h Harness) {
	s := openPlace(t, h.NewPlace(t), Identity())
	first := mustCommit(t, s, checkpoint.Checkpoint{}, Full(1))

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Load(ended)
	require.ErrorIs(t, err, context.Canceled)
	_, err = s.Commit(ended, first, Full(2))
	require.ErrorIs(t, err, context.Canceled)
	requireCurrent(t, s, first)

	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	_, err = s.Commit(late, first, Full(2))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	requireCurrent(t, s, first)
}

// testKeepsItsOwnCopy changes what was handed in and what was handed out.
func testKeepsItsOwnCopy(t *testing.T, h Harness) {
	s := openPlace(t, h.NewPlace(t), Identity())
	next := Full(1)
	committed := mustCommit(t, s, checkpoint.Checkpoint{}, next)
	next.Events[0] = "changed"
	committed.Events[0] = "changed"
	loaded, err := s.Load(limited(t))
	require.NoError(t, err)
	RequireEqual(t, Full(1), loaded)
	loaded.Events[0] = "changed"
	loaded, err = s.Load(limited(t))
	require.NoError(t, err)
	RequireEqual(t, Full(1), loaded)
}
