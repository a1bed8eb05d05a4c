package pipeline_test

import (
	"context"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/hint"
	"workos-relay/pipeline"
	"workos-relay/source"
)

const lateType = "late.type"

// refusing is a source that leaves out lateType from event 100 on, and then yields its events as
// late pages between the others.
type refusing struct {
	*sequence
	late []source.Event
}

func newRefusing() *refusing {
	r := &refusing{sequence: newSequence(400, 50)}
	for _, e := range newSequence(230, 1).events {
		e.ID, e.Event = "late_"+e.ID, lateType
		r.late = append(r.late, e)
	}
	return r
}

func (r *refusing) place(p checkpoint.Position) int {
	return slices.IndexFunc(r.late, func(e source.Event) bool { return e.ID == p.EventID }) + 1
}

func (r *refusing) Resume(ctx context.Context, from checkpoint.Checkpoint) iter.Seq2[source.Page, error] {
	return func(yield func(source.Page, error) bool) {
		at, done := r.index(from.Position), 0
		refused := from.Refused
		if len(refused) > 0 {
			done = r.place(refused[0].Position)
		} else if at > 100 {
			done = len(r.late)
		}
		page := func(events []source.Event, late string) bool {
			return yield(source.Page{Events: events, Late: late, Refused: append([]checkpoint.Refused{}, refused...), Size: 100 * len(events), Now: sourceNow}, nil)
		}
		for at < len(r.events) {
			if at == 100 && refused == nil {
				refused = []checkpoint.Refused{{Type: lateType, Position: r.events[99].Position()}}
			}
			end := min(at-at%50+50, len(r.events)) // no page has events on both sides of event 100
			if !page(r.events[at:end], "") {
				return
			}
			at = end
		}
		for done < len(r.late) {
			n := min(100, len(r.late)-done)
			refused = []checkpoint.Refused{{Type: lateType, Position: r.late[done+n-1].Position()}}
			if !page(r.late[done:done+n], lateType) {
				return
			}
			done += n
		}
		refused = nil
		for page(nil, "") && ctx.Err() == nil {
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
		}
		yield(source.Page{}, ctx.Err())
	}
}

// TestLateEventsDoNotMoveThePosition, with any failure: nothing is lost, and the checkpoint tells
// how far the late ones have come.
func TestLateEventsDoNotMoveThePosition(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rnd, lives := rand.New(rand.NewPCG(seed, 7)), rand.New(rand.NewPCG(seed, 8))
			src := newRefusing()
			bus := &scriptedBus{rnd: rnd, failing: 0.3}
			watched := &watchedStore{Store: checkpoint.NewMemory(testIdentity), t: t, bus: bus, src: src.sequence, rnd: rnd, failing: 0.2}
			for range 4 { // lives
				lane := newLane(src, oneToOne{}, bus, watched)
				lane.Target.(*pipeline.AtLeastOnce).Events = []string{lateType, "user.created"}
				stop := run(t, lane)
				after(time.Duration(lives.IntN(int(2 * time.Second))))
				stop()
			}
			bus.failing, watched.failing = 0, 0
			lane := newLane(src, oneToOne{}, bus, watched)
			lane.Target.(*pipeline.AtLeastOnce).Events = []string{lateType, "user.created"}
			stop := run(t, lane)
			after(time.Hour)
			require.Equal(t, pipeline.Running, lane.Status().State)
			stop()
			cp, err := watched.Load(t.Context())
			require.NoError(t, err)
			require.Empty(t, cp.Refused)
			require.Equal(t, src.events[399].Position(), cp.Position)
			require.Equal(t, len(src.events), bus.prefix(src.events))
			require.Equal(t, len(src.late), bus.prefix(src.late))
		})
	}
}

func TestALateEventThatStopsTheLane(t *testing.T) {
	src := newRefusing()
	bus := &scriptedBus{rnd: fixedRand(), poison: map[string]bool{src.late[120].ID: true}}
	lane := newLane(src, oneToOne{}, bus, checkpoint.NewMemory(testIdentity))
	lane.Target.(*pipeline.AtLeastOnce).Events = []string{lateType, "user.created"}
	err := lane.Run(t.Context())
	var stop *pipeline.StopError
	require.ErrorAs(t, err, &stop)
	require.True(t, stop.Late)
	require.NotContains(t, hint.Text("lane", err), "checkpoint set", "the position is past the event already")
	cp, err := lane.Target.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, src.late[119].Position(), cp.Refused[0].Position, "what comes before is committed")
}

// joiningSource yields one page, in which a type that was refused takes part again.
type joiningSource struct{ *sequence }

func (s joiningSource) Resume(context.Context, checkpoint.Checkpoint) iter.Seq2[source.Page, error] {
	return func(yield func(source.Page, error) bool) {
		end := s.events[len(s.events)-1].Position()
		yield(source.Page{
			Events: s.events, Size: 1, Now: sourceNow, Joining: []string{"user.created"},
			Refused: []checkpoint.Refused{{Type: "other", Position: s.events[0].Position()}, {Type: "user.created", Position: end}},
		}, nil)
	}
}

// TestAPartOfAPageInWhichATypeJoins: if a lane ends within a page, what the checkpoint says of a
// type that takes part in the page again is true for the part that is committed. Otherwise its
// events in the rest of the page would never be read.
func TestAPartOfAPageInWhichATypeJoins(t *testing.T) {
	src := newSequence(50, 50)
	bus := &scriptedBus{rnd: fixedRand()}
	lane := newLane(joiningSource{src}, oneToOne{refuse: map[string]bool{src.events[30].ID: true}}, bus, checkpoint.NewMemory(testIdentity))
	require.Error(t, lane.Run(t.Context()))
	cp, err := lane.Target.Load(t.Context())
	require.NoError(t, err)
	require.Equal(t, src.events[29].Position(), cp.Position)
	require.Equal(t, []checkpoint.Refused{{Type: "other", Position: src.events[0].Position()}, {Type: "user.created", Position: cp.Position}}, cp.Refused)
}
