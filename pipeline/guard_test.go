package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/hint"
	"workos-relay/internal/operator"
	"workos-relay/pipeline"
	"workos-relay/sink"
)

// surveyedBus is a bus that tells what it is made of.
type surveyedBus struct {
	scriptedBus
	prepared int

	surveyed sync.Mutex
	parts    []checkpoint.Part
	err      error
	away     error // what Ping returns
	back     *sink.WentBackError
}

func (b *surveyedBus) Publish(ctx context.Context, batch []sink.Message) error {
	if b.back != nil {
		return &sink.PublishError{Durable: len(batch), Err: b.back}
	}
	return b.scriptedBus.Publish(ctx, batch)
}

func (b *surveyedBus) Ping(context.Context) error {
	b.surveyed.Lock()
	defer b.surveyed.Unlock()
	return b.away
}

func (b *surveyedBus) goAway(err error) {
	b.surveyed.Lock()
	defer b.surveyed.Unlock()
	b.away = err
}

func (b *surveyedBus) Survey(context.Context, []string, []checkpoint.Part) ([]checkpoint.Part, error) {
	b.surveyed.Lock()
	defer b.surveyed.Unlock()
	parts := slices.Clone(b.parts)
	for i := range parts {
		parts[i].Ends = slices.Clone(parts[i].Ends)
	}
	return parts, b.err
}

func (b *surveyedBus) change(f func(parts []checkpoint.Part) []checkpoint.Part) {
	b.surveyed.Lock()
	defer b.surveyed.Unlock()
	b.parts = f(b.parts)
}

func (b *surveyedBus) Prepare(context.Context, []string) error {
	b.prepared++
	return nil
}

// memoryOfDestination keeps what is remembered, as a file would.
type memoryOfDestination struct {
	saved *checkpoint.Destination
	fails error
}

func (m *memoryOfDestination) LoadDestination(context.Context) (checkpoint.Destination, error) {
	if m.saved == nil {
		return checkpoint.Destination{}, checkpoint.ErrNotFound
	}
	d := *m.saved
	d.Parts = slices.Clone(d.Parts)
	return d, nil
}

func (m *memoryOfDestination) SaveDestination(_ context.Context, d checkpoint.Destination) error {
	if m.fails != nil {
		return m.fails
	}
	d.Parts = slices.Clone(d.Parts)
	m.saved = &d
	return nil
}

func topicPart(topic, id string, ends ...int64) checkpoint.Part {
	return checkpoint.Part{Name: "topic " + topic, Topic: topic, ID: id, Ends: ends}
}

// guarded is an at_least_once target on a bus of two topics, and what it remembers.
type guarded struct {
	bus    *surveyedBus
	store  checkpoint.Store
	memory *memoryOfDestination
}

func newGuarded() *guarded {
	g := &guarded{bus: &surveyedBus{}, store: checkpoint.NewMemory(testIdentity), memory: &memoryOfDestination{}}
	g.bus.rnd = fixedRand()
	g.bus.parts = []checkpoint.Part{topicPart("dead", "d1", 0), topicPart("user.created", "u1", 0, 0)}
	return g
}

// start returns the target as a process that starts makes it.
func (g *guarded) start() *pipeline.AtLeastOnce {
	return &pipeline.AtLeastOnce{Sink: g.bus, Store: g.store, Ownership: pipeline.Ownership{
		Topics: []string{"user.created", "dead"}, Identity: testIdentity, Holder: "holder", Events: []string{"user.created"},
		Origin: func(context.Context) (checkpoint.Position, error) { return checkpoint.Position{}, nil },
		Guard:  &pipeline.Guard{Store: g.memory, Logger: nopLogger}, Logger: nopLogger,
	}}
}

// publish carries n events to user.created.
func (g *guarded) publish(t *testing.T, target *pipeline.AtLeastOnce, n int) {
	t.Helper()
	cp, err := target.Acquire(t.Context(), nil)
	require.NoError(t, err)
	for i := range n {
		p := checkpoint.Position{EventID: fmt.Sprintf("event_%d", i)}
		cp, err = target.Append(t.Context(), cp, []sink.Message{{Topic: "user.created", ID: p.EventID, Position: p}}, p)
		require.NoError(t, err)
		g.bus.change(func(parts []checkpoint.Part) []checkpoint.Part {
			parts[1].Ends[i%2]++
			return parts
		})
	}
}

// P3: a destination that lost events, in every form.
func TestGuard(t *testing.T) {
	type change = func([]checkpoint.Part) []checkpoint.Part
	for name, c := range map[string]struct {
		change change
		lost   string // what the error says; empty if the lane goes on
	}{
		"nothing":     {func(p []checkpoint.Part) []checkpoint.Part { return p }, ""},
		"deleted":     {func(p []checkpoint.Part) []checkpoint.Part { return p[:1] }, "topic user.created was deleted, or its server lost its store; relay had stored 5 events in it"},
		"all deleted": {func([]checkpoint.Part) []checkpoint.Part { return nil }, "topic user.created was deleted"},
		"made again": {func(p []checkpoint.Part) []checkpoint.Part {
			return []checkpoint.Part{p[0], topicPart("user.created", "u2", 0, 0)}
		}, "topic user.created was deleted and made again; relay had stored 5 events in it"},
		"made again, filled": {func(p []checkpoint.Part) []checkpoint.Part {
			return []checkpoint.Part{p[0], topicPart("user.created", "u2", 9, 9)}
		}, "made again"},
		"made again, no ids": {func(p []checkpoint.Part) []checkpoint.Part {
			return []checkpoint.Part{p[0], topicPart("user.created", "", 0, 0)}
		}, "topic user.created ends 5 messages before the end that it had"},
		"fewer partitions": {func(p []checkpoint.Part) []checkpoint.Part {
			return []checkpoint.Part{p[0], topicPart("user.created", "", 9)}
		}, "made again"},
		"tail lost": {func(p []checkpoint.Part) []checkpoint.Part {
			return []checkpoint.Part{p[0], topicPart("user.created", "u1", 3, 1)}
		}, "topic user.created ends 1 message before the end that it had"},
		"more partitions": {func(p []checkpoint.Part) []checkpoint.Part {
			return []checkpoint.Part{p[0], topicPart("user.created", "u1", 3, 2, 0)}
		}, ""},
		"emptied": {func(p []checkpoint.Part) []checkpoint.Part { p[1].Events = 0; return p }, ""},
		"not to be seen": {func(p []checkpoint.Part) []checkpoint.Part {
			return []checkpoint.Part{p[0], topicPart("user.created", "")}
		}, ""},
		"unused and deleted": {func(p []checkpoint.Part) []checkpoint.Part { return p[1:] }, ""},
		"unused, made again": {func(p []checkpoint.Part) []checkpoint.Part { p[0].ID = "d2"; return p }, ""},
		"a topic of another": {func(p []checkpoint.Part) []checkpoint.Part { return append(p, topicPart("x", "x1", 7)) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, restarts := range []bool{false, true} {
				g := newGuarded()
				target := g.start()
				g.publish(t, target, 5)
				require.NoError(t, target.Verify(t.Context()))
				if restarts {
					require.NoError(t, target.Release(t.Context()))
					target = g.start()
				}
				g.bus.change(c.change)
				prepared := g.bus.prepared
				_, err := target.Acquire(t.Context(), nil)
				if c.lost == "" {
					require.NoError(t, err)
					require.NoError(t, target.Verify(t.Context()))
					continue
				}
				require.ErrorIs(t, err, checkpoint.ErrLost)
				require.ErrorContains(t, err, c.lost)
				require.Contains(t, hint.Action("lane", err), "`relay checkpoint set --lane lane event_4`")
				require.Equal(t, prepared, g.bus.prepared, "nothing may be made again")
				require.ErrorIs(t, target.Verify(t.Context()), checkpoint.ErrLost)
				_, err = g.start().Acquire(t.Context(), nil)
				require.ErrorIs(t, err, checkpoint.ErrLost, "it asks again")
			}
		})
	}
}

// TestGuardOfABusThatWentBack: what is published after a loss may hide it, and the position stands
// still all the same. A later process knows it too, until an operator decides.
//
// P3: a loss that an acknowledgement tells of.
func TestGuardOfABusThatWentBack(t *testing.T) {
	t.Parallel()
	for part, remembered := range map[string]bool{"topic user.created": true, "another part": false} {
		g := newGuarded()
		target := g.start()
		g.publish(t, target, 5)
		before, err := g.store.Load(t.Context())
		require.NoError(t, err)
		g.bus.back = &sink.WentBackError{Part: part, Missing: 3}
		g.bus.change(func(p []checkpoint.Part) []checkpoint.Part { p[1].Ends[0] += 100; return p })
		p := checkpoint.Position{EventID: "event_9"}
		_, err = target.Append(t.Context(), before, []sink.Message{{Topic: "user.created", ID: p.EventID, Position: p}}, p)
		require.Equal(t, !remembered, errors.Is(err, checkpoint.ErrLost), "%v", err)
		require.Error(t, err)
		after, err := g.store.Load(t.Context())
		require.NoError(t, err)
		require.Equal(t, before, after, "the position stands still")
		if !remembered {
			continue
		}
		for _, target := range []*pipeline.AtLeastOnce{target, g.start()} {
			_, err = target.Acquire(t.Context(), nil)
			require.ErrorIs(t, err, checkpoint.ErrLost)
			require.ErrorContains(t, err, "topic user.created ends 3 messages before the end that it had")
			var lost *pipeline.LostError
			require.ErrorAs(t, err, &lost)
			require.Equal(t, "say where to go on", lost.OperatorAction(), "relay asks again after a restore")
			require.NoError(t, target.Release(t.Context()))
		}
	}
}

// TestGuardAfterACrash: the first message of a topic is remembered before it is published, and
// counts after a crash are said to be rough.
func TestGuardAfterACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGuarded()
		g.publish(t, g.start(), 1) // and no release
		g.bus.change(func(p []checkpoint.Part) []checkpoint.Part { return p[:1] })
		_, err := g.start().Acquire(t.Context(), nil)
		require.ErrorContains(t, err, "relay had stored events in it")

		g = newGuarded()
		target := g.start()
		g.publish(t, target, 3)
		time.Sleep(time.Minute)
		require.NoError(t, target.Verify(t.Context()))
		g.bus.change(func(p []checkpoint.Part) []checkpoint.Part { return p[:1] })
		_, err = g.start().Acquire(t.Context(), nil)
		require.ErrorContains(t, err, "relay had stored about 3 events in it")
	})
}

// TestGuardOfTopicsThatAreMade: a topic of a pattern that is made while the lane runs is remembered
// before anything is stored there. One that takes the place of a topic that held messages does not
// hide the loss.
//
// P3: topics that are made on demand.
func TestGuardOfTopicsThatAreMade(t *testing.T) {
	g := newGuarded()
	start := func() *pipeline.AtLeastOnce {
		target := g.start()
		target.Topics = []string{"user.created", "dead", "org.*"}
		return target
	}
	target := start()
	g.publish(t, target, 1)
	g.bus.change(func(p []checkpoint.Part) []checkpoint.Part { return append(p, topicPart("org.1", "o1", 0)) })
	require.NoError(t, target.Made(t.Context(), []string{"org.1"}))
	require.ErrorContains(t, target.Made(t.Context(), []string{"org.1", "org.2"}), "does not show topic org.2 yet", "it would not be remembered")
	require.NoError(t, start().Verify(t.Context()), "after a crash the topic is not lost")
	g.bus.change(func(p []checkpoint.Part) []checkpoint.Part { p[2].Ends[0] = 3; return p })
	require.NoError(t, target.Verify(t.Context()))
	g.bus.change(func(p []checkpoint.Part) []checkpoint.Part { return p[:2] })
	require.ErrorContains(t, start().Verify(t.Context()), "topic org.1 was deleted")
	g.bus.change(func(p []checkpoint.Part) []checkpoint.Part { return append(p, topicPart("org.1", "o2", 0)) })
	err := target.Made(t.Context(), []string{"org.1"})
	require.ErrorIs(t, err, checkpoint.ErrLost)
	require.ErrorContains(t, err, "topic org.1 was deleted and made again")
	g.bus.change(func(p []checkpoint.Part) []checkpoint.Part { return append(p[:2], topicPart("other", "x", 5)) })
	require.ErrorContains(t, start().Verify(t.Context()), "topic org.1 was deleted", "that of no pattern is not in its place")
}

// TestGuardOfAPositionThatIsGone: retention may have emptied the topics, so that they look like
// those of a first start.
func TestGuardOfAPositionThatIsGone(t *testing.T) {
	g := newGuarded()
	g.publish(t, g.start(), 2)
	g.store = checkpoint.NewMemory(testIdentity)
	g.bus.stored = nil
	_, err := g.start().Acquire(t.Context(), nil)
	require.ErrorIs(t, err, checkpoint.ErrLost)
	require.ErrorContains(t, err, "this relay committed a position in mode at_least_once before")
}

// TestGuardOfAnotherDestination: a destination that the configuration names now, and did not
// before, is another one.
func TestGuardOfAnotherDestination(t *testing.T) {
	g := newGuarded()
	g.publish(t, g.start(), 2)
	target := g.start()
	target.Identity.Destination += checkpoint.DomainMark + "hub"
	_, err := target.Acquire(t.Context(), nil)
	require.ErrorIs(t, err, checkpoint.ErrForeign)
	require.Contains(t, hint.Text("lane", err), "relay checkpoint set --lane lane")
}

// TestGuardIsNotInTheWay: a bus that cannot be asked, or a disk that is full, is not a loss.
func TestGuardIsNotInTheWay(t *testing.T) {
	g := newGuarded()
	g.memory.fails = errors.New("disk full")
	target := g.start()
	g.publish(t, target, 2)
	g.bus.err = errors.New("no leader")
	err := target.Verify(t.Context())
	require.ErrorContains(t, err, "no leader")
	require.False(t, operator.Required(err))
	g.bus.err = nil
	require.NoError(t, target.Verify(t.Context()))
}
