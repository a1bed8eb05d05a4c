package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
)

var testIdentity = checkpoint.Identity{Relay: "test", Lane: "lane", Endpoint: "https://api.example.com", Destination: "scripted bus"}

// sourceNow is the API's clock, independent of the local one.
var sourceNow = time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)

// sequence is a source of n events, in pages of at most size; it then polls at the tip. It counts
// how often it was opened.
type sequence struct {
	events []source.Event
	size   int
	every  time.Duration // pause after each page that is not the last
	final  error         // yielded after the last event instead of polling
	opened atomic.Int64

	mu sync.Mutex // guards events and final while a lane reads
}

// change alters the source while a lane reads it.
func (s *sequence) change(how func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	how()
}

func (s *sequence) now() (events []source.Event, final error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.events, s.final
}

func newSequence(n, size int) *sequence {
	s := &sequence{size: size}
	for i := range n {
		raw := fmt.Appendf(nil, `{"id":"event_%06d","event":"user.created"}`, i)
		s.events = append(s.events, source.Event{
			ID: fmt.Sprintf("event_%06d", i), Event: "user.created", Raw: raw,
			CreatedAt: time.Date(2026, 1, 1, 0, 0, i, 0, time.UTC),
		})
	}
	return s
}

func (s *sequence) index(p checkpoint.Position) int {
	events, _ := s.now()
	for i := range events {
		if events[i].ID == p.EventID {
			return i + 1
		}
	}
	return 0
}

func (s *sequence) Resume(ctx context.Context, from checkpoint.Checkpoint) iter.Seq2[source.Page, error] {
	return s.Pages(ctx, from.Position)
}

func (s *sequence) Pages(ctx context.Context, after checkpoint.Position) iter.Seq2[source.Page, error] {
	s.opened.Add(1)
	return func(yield func(source.Page, error) bool) {
		for at := s.index(after); ; {
			if ctx.Err() != nil {
				yield(source.Page{}, ctx.Err())
				return
			}
			events, final := s.now()
			n := min(s.size, len(events)-at)
			page := source.Page{Events: events[at : at+n : at+n], Tip: n < s.size, Now: sourceNow, Size: 100 * n}
			if n == 0 && final != nil {
				yield(source.Page{}, final)
				return
			}
			if !yield(page, nil) {
				return
			}
			pause := s.every
			if at += n; n == 0 {
				pause = time.Second
			}
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	}
}

// oneToOne routes each event to its type, or to none or an error where the test says so.
type oneToOne struct {
	drop   map[string]bool
	refuse map[string]bool
}

func (r oneToOne) Append(batch []sink.Message, e *source.Event) ([]sink.Message, error) {
	switch {
	case r.drop[e.ID]:
		return batch, nil
	case r.refuse[e.ID]:
		return batch, errors.New("no legal topic")
	}
	return append(batch, sink.Message{Topic: e.Event, ID: e.ID, Body: e.Raw, Position: e.Position()}), nil
}

func (r oneToOne) DeadLetter(e *source.Event, _, reason string, _, _ int) (sink.Message, error) {
	return sink.Message{Topic: "dead", ID: e.ID, Body: []byte(reason), Position: e.Position()}, nil
}

// scriptedBus stores messages as rnd decides: all of a batch, or a prefix of which less is
// acknowledged. poison is refused for ever.
type scriptedBus struct {
	rnd     *rand.Rand
	failing float64
	poison  map[string]bool
	strict  bool // it refuses the dead letters of poison too

	mu     sync.Mutex
	stored []sink.Message
}

func (b *scriptedBus) Publish(_ context.Context, batch []sink.Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, m := range batch {
		if b.poison[m.ID] && (b.strict || m.Topic != "dead") {
			b.stored = append(b.stored, batch[:i]...)
			return &sink.PublishError{Durable: i, Err: &sink.RejectedError{Topic: m.Topic, Reason: "poison"}}
		}
	}
	if b.rnd.Float64() >= b.failing {
		b.stored = append(b.stored, batch...)
		return nil
	}
	durable := b.rnd.IntN(len(batch) + 1)
	b.stored = append(b.stored, batch[:durable+b.rnd.IntN(len(batch)-durable+1)]...)
	return &sink.PublishError{Durable: durable, Err: errors.New("scripted failure")}
}

func (b *scriptedBus) Close() error                            { return nil }
func (b *scriptedBus) Identity() string                        { return testIdentity.Destination }
func (b *scriptedBus) Prepare(context.Context, []string) error { return nil }
func (b *scriptedBus) Inspect(context.Context, []string) ([]sink.TopicStatus, error) {
	return nil, nil
}

func (*scriptedBus) Ping(context.Context) error { return nil }

func (*scriptedBus) Survey(context.Context, []string, []checkpoint.Part) ([]checkpoint.Part, error) {
	return nil, nil
}

func (b *scriptedBus) Holds(context.Context, []string) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.stored) > 0, nil
}

// count returns how many messages are stored.
func (b *scriptedBus) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.stored)
}

// prefix returns how many of the first events are stored, none missing.
func (b *scriptedBus) prefix(events []source.Event) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	have := make(map[string]bool, len(b.stored))
	for _, m := range b.stored {
		have[m.ID] = true
	}
	n := 0
	for n < len(events) && have[events[n].ID] {
		n++
	}
	return n
}

// watchedStore fails commits as rnd decides, before or after they took effect, and requires of
// every commit that took effect that it neither passes what the bus has stored nor goes back.
type watchedStore struct {
	checkpoint.Store
	t       *testing.T
	bus     *scriptedBus
	src     *sequence
	rnd     *rand.Rand
	failing float64
	dropped int // events that are dropped on purpose count as stored

	highest int
	commits int
}

func (s *watchedStore) Commit(ctx context.Context, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	fails := s.rnd.Float64() < s.failing
	if fails && s.rnd.IntN(2) == 0 {
		return checkpoint.Checkpoint{}, errors.New("scripted failure before the commit")
	}
	cp, err := s.Store.Commit(ctx, prev, next)
	if err == nil {
		s.commits++
		at := s.src.index(cp.Position)
		if s.dropped == 0 {
			require.LessOrEqual(s.t, at, s.bus.prefix(s.src.events), "the committed position has passed an event that is not durable")
		}
		require.GreaterOrEqual(s.t, at, s.highest, "the committed position went back")
		s.highest = at
	}
	if fails {
		return checkpoint.Checkpoint{}, errors.New("scripted failure after the commit")
	}
	return cp, err
}

// newLane wires the real engine and the real adapter to the scripted ends.
func newLane(src pipeline.Source, router pipeline.Router, bus sink.Sink, store checkpoint.Store) *pipeline.Lane {
	return &pipeline.Lane{
		Name: "lane", Source: src, Router: router,
		Target: &pipeline.AtLeastOnce{
			Sink: bus, Store: store,
			Ownership: pipeline.Ownership{
				Topics: []string{"user.created", "dead"}, Identity: testIdentity, Holder: "holder", Events: []string{"user.created"},
				Origin: func(context.Context) (checkpoint.Position, error) { return checkpoint.Position{}, nil },
				Logger: nopLogger,
			},
		},
	}
}

// fixedRand is for worlds in which nothing fails.
func fixedRand() *rand.Rand { return rand.New(rand.NewPCG(1, 1)) }
