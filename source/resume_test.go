package source_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"workos-relay/checkpoint"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

const aDay = 24 * time.Hour

var lostCursors = map[string]sourcetest.LostCursor{
	"bad request": sourcetest.LostBadRequest, "not found": sourcetest.LostNotFound, "unprocessable": sourcetest.LostUnprocessable,
	"replay": sourcetest.LostReplay, "empty": sourcetest.LostEmpty,
}

// quiet is an API with its own clock, and one lane of it.
type quiet struct {
	t     *testing.T
	srv   *sourcetest.Server
	ahead atomic.Int64 // of the API's clock
	logs  *observer.ObservedLogs
	added int // events so far
	cp    checkpoint.Checkpoint
	got   []string
	late  []string    // those of got that were late
	stop  func() bool // ends a life before its time, between two commits; may be nil
	// part is how many of n events of a page are committed before a life ends within the page; 0
	// for all. It may be nil.
	part func(n int) int
}

func newQuiet(t *testing.T, opts ...sourcetest.Option) *quiet {
	t.Helper()
	q := &quiet{t: t}
	q.srv = sourcetest.New(append(opts, sourcetest.WithClock(q.now))...)
	q.cp.Events = []string{source.ConnectionDeleted}
	return q
}

func (q *quiet) now() time.Time { return time.Now().Add(time.Duration(q.ahead.Load())) }

// add appends an event that is so old by the API's clock.
func (q *quiet) add(id, eventType string, age time.Duration) {
	q.t.Helper()
	at := q.now().Add(-age).UTC().Format("2006-01-02T15:04:05.000Z")
	require.NoError(q.t, q.srv.Append(fmt.Appendf(nil, `{"object":"event","id":%q,"event":%q,"data":{},"created_at":%q}`, id, eventType, at)))
	q.added++
}

// run is one life of the lane: it reads for d and keeps the checkpoint as a lane does.
func (q *quiet) run(d time.Duration) error {
	q.t.Helper()
	s := streamOf(q.t, q.srv)
	s.Events = q.cp.Events
	core, logs := observer.New(zap.WarnLevel)
	s.Logger, q.logs = zap.New(core), logs
	ctx, cancel := context.WithTimeout(q.t.Context(), d)
	defer cancel()
	for page, err := range s.Resume(ctx, q.cp) {
		if errors.Is(err, context.DeadlineExceeded) {
			return nil
		} else if err != nil {
			return err
		}
		cut := 0
		if q.part != nil && len(page.Events) > 0 {
			if cut = q.part(len(page.Events)); cut > 0 {
				page.Events, page.Seen = page.Events[:cut], time.Time{}
				page.Refused = page.RefusedAt(page.Events[cut-1].Position())
			}
		}
		var passed []checkpoint.Position
		for i := range page.Events {
			e := &page.Events[i]
			q.got = append(q.got, e.ID)
			passed = append(passed, e.Position())
			if !e.LateSince.IsZero() {
				q.late = append(q.late, e.ID)
			}
			if page.Late != "" {
				require.Equal(q.t, page.Late, e.Event)
			}
		}
		if n := len(passed); n > 0 && page.Late == "" {
			q.cp = q.cp.Moved(passed[n-1], passed)
		} else {
			q.cp = q.cp.Moved(q.cp.Position, passed)
		}
		if page.Seen.After(q.cp.Seen) {
			q.cp.Seen = page.Seen
		}
		require.NotNil(q.t, page.Refused)
		q.cp.Refused = page.Refused
		q.cp, err = checkpoint.Decode(checkpoint.Encode(q.cp))
		require.NoError(q.t, err)
		if cut > 0 || q.stop != nil && q.stop() {
			return nil
		}
	}
	return nil
}

func eachLostCursor(t *testing.T, test func(t *testing.T, how sourcetest.Option)) {
	t.Helper()
	for name, how := range lostCursors {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, sourcetest.WithLostCursor(how)) })
		})
	}
}

func TestALaneWhoseLastEventExpiresGoesOn(t *testing.T) {
	t.Parallel()
	eachLostCursor(t, func(t *testing.T, how sourcetest.Option) {
		q := newQuiet(t, how, sourcetest.WithRetention(90*aDay))
		q.add("event_1", source.ConnectionDeleted, 90*aDay-10*time.Minute)
		require.NoError(t, q.run(time.Hour))
		require.Equal(t, 1, q.logs.FilterMessageSnippet("going on by time").Len(), "it is said once")
		require.WithinDuration(t, q.now(), q.cp.Seen, 7*time.Minute)
		q.add("event_2", source.ConnectionDeleted, 0)
		q.add("event_other", source.UserCreated, 0)
		require.NoError(t, q.run(3*time.Minute), "after a restart too")
		require.Equal(t, []string{"event_1", "event_2"}, q.got)
		q.add("event_3", source.ConnectionDeleted, 0)
		require.NoError(t, q.run(3*time.Minute))
		require.Equal(t, []string{"event_1", "event_2", "event_3"}, q.got)
	})
}

// An event that comes once the cursor is lost is there within minutes, however the API answers.
func TestNewsAfterTheCursorIsLostComesSoon(t *testing.T) {
	t.Parallel()
	eachLostCursor(t, func(t *testing.T, how sourcetest.Option) {
		q := newQuiet(t, how, sourcetest.WithRetention(90*aDay))
		q.add("event_1", source.ConnectionDeleted, 90*aDay-10*time.Minute)
		go func() {
			time.Sleep(12 * time.Minute)
			q.add("event_2", source.ConnectionDeleted, 0)
		}()
		require.NoError(t, q.run(14*time.Minute))
		require.Equal(t, []string{"event_1", "event_2"}, q.got)
	})
}

// The API's clock leaps while the lane is at the tip: its own clocks say that it has missed
// nothing.
func TestALeapOfTheAPIsClock(t *testing.T) {
	t.Parallel()
	eachLostCursor(t, func(t *testing.T, how sourcetest.Option) {
		q := newQuiet(t, how, sourcetest.WithRetention(90*aDay))
		q.add("event_1", source.ConnectionDeleted, time.Hour)
		go func() {
			time.Sleep(10 * time.Minute)
			q.ahead.Store(int64(95 * aDay))
			q.add("event_2", source.ConnectionDeleted, 0)
		}()
		require.NoError(t, q.run(25*time.Minute))
		require.Equal(t, []string{"event_1", "event_2"}, q.got)
	})
}

// The event of the position is removed, however young it is, while the lane has nothing left to
// read.
func TestAYoungEventDisappears(t *testing.T) {
	t.Parallel()
	eachLostCursor(t, func(t *testing.T, how sourcetest.Option) {
		q := newQuiet(t, how)
		q.add("event_1", source.ConnectionDeleted, 0)
		go func() {
			time.Sleep(30 * time.Second)
			q.srv.Expire("event_1")
			q.add("event_2", source.ConnectionDeleted, 0)
		}()
		require.NoError(t, q.run(15*time.Minute))
		require.Equal(t, []string{"event_1", "event_2"}, q.got)
	})
}

func TestALaneThatWasDownAsksIfEventsMayHaveExpired(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		retention, age, down time.Duration
		witness              bool // an older event of another type is still there
		asks                 bool
	}{
		"longer than the retention":                     {90 * aDay, aDay, 100 * aDay, false, true},
		"longer than the shorter retention":             {30 * aDay, aDay, 40 * aDay, false, true},
		"for less than any retention":                   {90 * aDay, 80 * aDay, 20 * aDay, false, false},
		"for less than any retention, the shorter":      {30 * aDay, 29 * aDay, 20 * aDay, false, false},
		"between both":                                  {90 * aDay, 80 * aDay, 40 * aDay, false, true},
		"between both, but the API shows what it keeps": {90 * aDay, 80 * aDay, 40 * aDay, true, false},
		"the event is too young to have expired":        {3 * aDay, aDay, 5 * aDay, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			eachLostCursor(t, func(t *testing.T, how sourcetest.Option) {
				q := newQuiet(t, how, sourcetest.WithRetention(tc.retention))
				q.add("event_1", source.ConnectionDeleted, tc.age)
				if tc.witness {
					q.add("event_witness", source.UserCreated, aDay)
				}
				require.NoError(t, q.run(10*time.Minute))
				require.Equal(t, []string{"event_1"}, q.got)

				q.ahead.Add(int64(tc.down / 2))
				q.add("event_2", source.ConnectionDeleted, 0)
				q.ahead.Add(int64(tc.down / 2))
				q.add("event_3", source.ConnectionDeleted, 20*time.Minute)
				err := q.run(10 * time.Minute)
				if tc.asks {
					require.ErrorIs(t, err, source.ErrCursorLost)
					require.ErrorContains(t, err, "may have expired")
					require.Equal(t, []string{"event_1"}, q.got)
					return
				}
				require.NoError(t, err)
				require.Equal(t, []string{"event_1", "event_2", "event_3"}, q.got)
			})
		})
	}
}

// A lane that has never had an event has no cursor to lose, but can miss events all the same.
func TestALaneWithoutAnEventThatWasDown(t *testing.T) {
	t.Parallel()
	for down, asks := range map[time.Duration]bool{20 * aDay: false, 100 * aDay: true} {
		t.Run(down.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQuiet(t, sourcetest.WithRetention(90*aDay))
				q.cp.Position = checkpoint.Position{CreatedAt: q.now()}
				require.NoError(t, q.run(10*time.Minute))
				require.False(t, q.cp.Seen.IsZero())
				q.ahead.Add(int64(down))
				q.add("event_1", source.ConnectionDeleted, 0)
				err := q.run(10 * time.Minute)
				if asks {
					require.ErrorIs(t, err, source.ErrCursorLost)
					require.Empty(t, q.got)
					return
				}
				require.NoError(t, err)
				require.Equal(t, []string{"event_1"}, q.got)
			})
		})
	}
}

// The events around a lost position are told apart by their ids, those of the same instant too.
func TestWhatWasRelayedIsNotRelayedAgain(t *testing.T) {
	t.Parallel()
	eachLostCursor(t, func(t *testing.T, how sourcetest.Option) {
		q := newQuiet(t, how, sourcetest.WithTypedCursors())
		for i := range 5 {
			q.add(fmt.Sprintf("event_%d", i), source.UserCreated, 0) // of one instant
		}
		q.add("event_5", source.ConnectionDeleted, 0)
		q.cp.Events = []string{source.ConnectionDeleted, source.UserCreated}
		require.NoError(t, q.run(30*time.Minute))
		require.Len(t, q.got, 6)
		// The type of the last event is no longer asked for, so the API does not know the position,
		// and does not list it.
		q.cp.Events = []string{source.UserCreated}
		q.add("event_6", source.UserCreated, 30*time.Minute) // of the same instant too, and listed late
		q.add("event_7", source.UserCreated, 0)
		err := q.run(15 * time.Minute)
		if err != nil { // relay cannot know that nothing expired
			require.ErrorIs(t, err, source.ErrCursorLost)
			require.Len(t, q.got, 6)
			q.add("event_0", source.UserCreated, 60*aDay)
		}
		require.NotContains(t, q.got[6:], "event_0")
	})
}
