package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/operator"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
)

// errTurnedOff asks an operator to act.
var errTurnedOff = operator.New("turned off", "turn it on")

// troubled is a bus whose Prepare and Publish fail as the test says.
type troubled struct {
	scriptedBus
	prepare, publish error
}

func (b *troubled) Prepare(context.Context, []string) error { return b.prepare }

func (b *troubled) Publish(ctx context.Context, batch []sink.Message) error {
	if b.publish != nil {
		return &sink.PublishError{Err: b.publish}
	}
	return b.scriptedBus.Publish(ctx, batch)
}

func TestALaneStopsIfOnlyAnOperatorCanHelp(t *testing.T) {
	passing := errors.New("out of reach")
	fatal := &sink.FatalError{Err: errors.New("the stream is sealed"), Action: "use another stream"}
	lost := &sink.FatalError{Err: fmt.Errorf("at stream: %w", checkpoint.ErrLost)}
	for name, c := range map[string]struct {
		prepare, publish, read error
		stops                  bool
		action                 string
	}{
		"at start, of the bus":           {prepare: fatal, stops: true, action: "use another stream"},
		"at start, beside what may pass": {prepare: errors.Join(passing, errTurnedOff), stops: true, action: "turn it on"},
		"at start, what may pass":        {prepare: passing},

		"publishing":                       {publish: errTurnedOff, stops: true, action: "turn it on"},
		"publishing, beside what may pass": {publish: errors.Join(passing, errTurnedOff), stops: true, action: "turn it on"},
		"publishing, a lost position":      {publish: lost, stops: true, action: lost.OperatorAction()},
		"publishing, what may pass":        {publish: passing},
		"publishing, what may be repaired": {publish: fatal, action: "use another stream"},
		"publishing, what may be repaired although a message is its cause": {
			publish: &sink.FatalError{Err: fmt.Errorf("the position: %w", &sink.RejectedError{Topic: "position", Reason: "too large"}), Action: "raise the limit"},
			action:  "raise the limit",
		},

		"reading":                  {read: errTurnedOff, stops: true, action: "turn it on"},
		"reading, a final refusal": {read: &source.APIError{Status: 400}, stops: true, action: (&source.APIError{Status: 400}).OperatorAction()},
		"reading, what may pass":   {read: passing},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := newSequence(20, 10)
				src.final = c.read
				bus := &troubled{scriptedBus: scriptedBus{rnd: fixedRand()}, prepare: c.prepare, publish: c.publish}
				lane := newLane(src, oneToOne{}, bus, checkpoint.NewMemory(testIdentity))
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- lane.Run(ctx) }()
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				s := lane.Status()
				require.Equal(t, c.action, s.Action)
				want := pipeline.Retrying
				if c.stops {
					want = pipeline.Stopped
				}
				require.Equal(t, want, s.State, s.Reason)
				cancel()
				err := <-done
				require.Equal(t, c.stops, operator.Required(err), err)
				if c.stops {
					require.Equal(t, c.action, operator.Action(err))
				}
			})
		})
	}
}

// flaky yields an error after each page, until it has done so often enough.
type flaky struct {
	*sequence
	failures int
}

func (s *flaky) Resume(ctx context.Context, from checkpoint.Checkpoint) iter.Seq2[source.Page, error] {
	return func(yield func(source.Page, error) bool) {
		for page, err := range s.sequence.Resume(ctx, from) {
			if !yield(page, err) {
				return
			}
			if s.failures > 0 {
				s.failures--
				yield(source.Page{}, errors.New("an error that nobody foresaw"))
				return
			}
		}
	}
}

func TestALaneReadsAgainAfterAnErrorThatMayPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &flaky{sequence: newSequence(95, 10), failures: 8}
		bus := &scriptedBus{rnd: rand.New(rand.NewPCG(1, 1))}
		store := &watchedStore{Store: checkpoint.NewMemory(testIdentity), t: t, bus: bus, src: src.sequence, rnd: bus.rnd}
		lane := newLane(src, oneToOne{}, bus, store)
		require.NoError(t, runFor(t, lane, time.Minute))
		require.Equal(t, 95, store.highest)
		require.Len(t, bus.stored, 95)
		require.Zero(t, src.failures)
	})
}

func TestALaneStopsOnceItsLockIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &lockless{Store: checkpoint.NewMemory(testIdentity)}
		err := runFor(t, newLane(newSequence(20, 10), oneToOne{}, &scriptedBus{rnd: fixedRand()}, store), time.Hour)
		require.ErrorIs(t, err, checkpoint.ErrLocked)
	})
}

// lockless is a store that loses its lock after the first commit.
type lockless struct {
	checkpoint.Store
	commits int
}

func (s *lockless) Commit(ctx context.Context, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	if s.commits++; s.commits > 1 {
		return checkpoint.Checkpoint{}, fmt.Errorf("%w: the file was removed", checkpoint.ErrLocked)
	}
	return s.Store.Commit(ctx, prev, next)
}
