package source_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

const (
	refusedType = source.DsyncUserCreated
	otherType   = source.UserCreated
)

// typed reports, for each of ids, whether it is of the refused type: see feed.
func ofType(ids []string, eventType string) (out []string) {
	for _, id := range ids {
		if id[:5] == eventType[:5] {
			out = append(out, id)
		}
	}
	return out
}

// feed appends n events of one type, whose ids begin as the type does.
func (q *quiet) feed(n int, eventType string) (ids []string) {
	for range n {
		id := fmt.Sprintf("%s_%06d", eventType[:5], q.added)
		q.add(id, eventType, 0)
		ids = append(ids, id)
	}
	return ids
}

func newRefusing(t *testing.T, opts ...sourcetest.Option) *quiet {
	t.Helper()
	q := newQuiet(t, opts...)
	q.cp.Events = []string{refusedType, otherType}
	return q
}

// requireWhole requires that nothing is missing, nothing is repeated, and each type is in order.
func (q *quiet) requireWhole() {
	q.t.Helper()
	all := q.srv.IDs(sourcetest.Filter{})
	for _, eventType := range q.cp.Events {
		require.Equal(q.t, ofType(all, eventType), ofType(q.got, eventType), eventType)
	}
	require.Len(q.t, q.got, len(all))
}

func TestEventsOfARefusedTypeComeLate(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]sourcetest.Option{
		"as documented":    nil,
		"cursors by type":  {sourcetest.WithTypedCursors()},
		"cursors are gone": {sourcetest.WithTypedCursors(), sourcetest.WithLostCursor(sourcetest.LostReplay)},
		"exclusive ranges": {sourcetest.WithExclusiveRange(true, true)},
		"events held back": {sourcetest.WithHoldBack(5 * time.Second)},
		"too many a page":  {sourcetest.WithExcess(170)},
		"another refusal":  {sourcetest.WithTypeRefusal(func(string) (int, []byte) { return 422, []byte(`{"message":"Validation failed"}`) })},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newRefusing(t, opts...)
				q.feed(30, refusedType)
				q.feed(30, otherType)
				require.NoError(t, q.run(10*time.Minute))
				q.requireWhole()

				q.srv.RefuseTypes(refusedType)
				require.NoError(t, q.run(time.Minute))
				require.Len(t, q.cp.Refused, 1)
				require.Equal(t, refusedType, q.cp.Refused[0].Type)
				require.Equal(t, q.cp.Position, q.cp.Refused[0].Position)
				want := q.feed(250, refusedType) // of one instant with the next
				q.feed(10, otherType)
				require.NoError(t, q.run(10*time.Minute))
				rounds := 5
				if raceEnabled {
					rounds = 2
				}
				for range rounds {
					want = append(want, q.feed(20, refusedType)...)
					q.feed(20, otherType)
					require.NoError(t, q.run(20*time.Minute))
				}
				want = append(want, q.feed(20, refusedType)...)
				require.Empty(t, q.late)
				at := q.cp.Position

				q.srv.AcceptTypes(refusedType)
				require.NoError(t, q.run(10*time.Minute))
				q.requireWhole()
				require.Equal(t, want, q.late)
				require.Empty(t, q.cp.Refused)
				require.True(t, q.cp.CreatedAt.After(at.CreatedAt) || q.cp.EventID == want[len(want)-1], "the position does not go back")

				late := len(q.late)
				q.feed(3, refusedType)
				q.feed(3, otherType)
				require.NoError(t, q.run(10*time.Minute))
				q.requireWhole()
				require.Len(t, q.late, late, "what comes now is not late")
			})
		})
	}
}

// TestARefusalAtAnyTime: relay dies and starts again between any two commits, also with a part of a
// page committed, types come and go, and nothing is lost or repeated.
func TestARefusalAtAnyTime(t *testing.T) {
	t.Parallel()
	seeds := uint64(40)
	if raceEnabled {
		seeds = 6
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				q := newRefusing(t)
				q.stop = func() bool { return rnd.IntN(6) == 0 }
				if seed%2 == 1 {
					q.feed(1, otherType) // the list does not begin with the position
					require.NoError(t, q.run(time.Minute))
					q.part = func(n int) int { return max(0, rnd.IntN(4*n)-3*n) }
				}
				q.feed(rnd.IntN(3), otherType)
				refused := false
				for range 40 {
					switch rnd.IntN(4) {
					case 0:
						q.feed(rnd.IntN(250), refusedType)
					case 1:
						q.feed(rnd.IntN(250), otherType)
					case 2:
						if refused = !refused; refused {
							q.srv.RefuseTypes(refusedType)
						} else {
							q.srv.AcceptTypes(refusedType)
						}
					}
					require.NoError(t, q.run(time.Duration(rnd.IntN(int(20*time.Minute)))))
				}
				q.srv.AcceptTypes(refusedType)
				q.stop, q.part = nil, nil
				require.NoError(t, q.run(30*time.Minute))
				q.requireWhole()
				require.Empty(t, q.cp.Refused)
			})
		})
	}
}

func TestARefusedTypeIsAskedForAtGrowingIntervals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newRefusing(t, sourcetest.WithRefusedTypes(refusedType), sourcetest.WithLedger(1<<20))
		q.feed(1, otherType)
		require.NoError(t, q.run(6*time.Hour))
		var asked []time.Time
		for _, r := range q.srv.Requests() {
			if r.Query().Get("events") == refusedType {
				asked = append(asked, r.Time)
			}
		}
		asked = asked[slices.IndexFunc(asked, func(at time.Time) bool { return at.Sub(asked[0]) > 0 }):]
		for i, want := range []time.Duration{2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 32 * time.Minute, time.Hour, time.Hour} {
			require.InDelta(t, want, asked[i+1].Sub(asked[i]), float64(3*time.Second))
		}
		require.LessOrEqual(t, len(asked), 12, "once an hour from then on")
	})
}

// A lane that begins with nothing but refused types asks for them before anything else.
func TestEveryTypeWasRefusedBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newRefusing(t)
		ids := q.feed(5, refusedType)
		q.cp.Events = []string{refusedType}
		q.cp.Refused = []checkpoint.Refused{{Type: refusedType, Since: time.Now()}}
		q.srv.RefuseTypes(refusedType)
		require.NoError(t, q.run(5*time.Minute))
		require.Empty(t, q.got)
		q.srv.AcceptTypes(refusedType)
		require.NoError(t, q.run(5*time.Minute))
		require.Equal(t, ids, q.got)
		require.Equal(t, ids, q.late)
	})
}
