//go:build unix

package simulation

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
	"workos-relay/sink"
	"workos-relay/sink/sinktest"
	"workos-relay/tests/testkit"
)

// calm returns a world outside of a bubble in which nothing goes wrong, for the kits that the real
// sinks pass. Its time is that of the machine, which may stand still for longer than a bus is
// waited for.
func calm(bus string) *world {
	w := newWorld(1, &mutation{plan: func(p *plan) { p.bus, p.transaction = bus, 0 }}, false)
	w.weather = weather{slow: 100 * time.Microsecond}
	w.judged, w.patience = false, testkit.Patient
	return w
}

// TestNothingIsGivenUpInACalmWorld: the machine may stand still between a request and its answer.
// What is lost is still given up in time.
func TestNothingIsGivenUpInACalmWorld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := calm("jetstream")
		w.weather.slow = time.Minute
		for range 20 {
			_, err := call(t.Context(), w.user(), request{what: "ping", patience: ackTimeout}, func(*fate) (struct{}, error) { return struct{}{}, nil })
			require.NoError(t, err)
		}
		w.weather.lost = 1
		began := time.Now()
		_, err := call(t.Context(), w.user(), request{what: "ping", patience: ackTimeout}, func(*fate) (struct{}, error) { return struct{}{}, nil })
		require.ErrorIs(t, err, errNoAnswer)
		require.Equal(t, ackTimeout, time.Since(began))
	})
}

// user returns a process that only has calls to make.
func (w *world) user() *process {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count.seeds++
	return w.newProcess(w.count.seeds)
}

// TestKitOnSimulatedBuses: the simulated buses do what the real ones do in every case of the kit of
// sinks.
func TestKitOnSimulatedBuses(t *testing.T) {
	t.Parallel()
	for _, bus := range buses {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			w := calm(bus)
			open := func(strict bool) sink.Sink {
				s, _ := w.bus.open(w.user())
				switch s := s.(type) {
				case *jetSink:
					s.create = !strict
				case *kafkaSink:
					s.create = !strict
				}
				return s
			}
			h := sinktest.Harness{
				Features: sinktest.Features{
					Dedupe: bus == "jetstream", Partitions: bus == "kafka", RejectsTooLarge: true, LegalTopics: true, CreatesTopics: true, HoldsState: true,
					AtomicPrefix: true,
				},
				IllegalTopics: []string{"a b", "", "a*b"}, MaxMessage: mostBytes,
				New:       func(testing.TB) sink.Sink { return open(false) },
				NewStrict: func(testing.TB) sink.Sink { return open(true) },
				Read: func(_ testing.TB, topics []string) (all []sink.Message) {
					w.mu.Lock()
					defer w.mu.Unlock()
					w.bus.read(func(_ string, _ uint64, m *sink.Message) {
						if slices.Contains(topics, m.Topic) {
							all = append(all, *m)
						}
					})
					return all
				},
				Stop:  func(testing.TB) { w.set(func() { w.busDown = true }) },
				Start: func(testing.TB) { w.set(func() { w.busDown = false }) },
				Disturb: func(testing.TB) {
					w.set(func() { w.weather = weather{lost: 0.2, broken: 0.1, slow: time.Millisecond} })
					time.Sleep(20 * time.Millisecond)
					w.set(func() { w.weather = weather{slow: 100 * time.Microsecond} })
				},
				Elections: true,
			}
			sinktest.Run(t, h)
		})
	}
}

// simulatedPlace is a bus with one position.
type simulatedPlace struct{ w *world }

// Open implements checkpointtest.Place.
func (p simulatedPlace) Open(t *testing.T, id checkpoint.Identity) checkpoint.Store {
	_, ledger := p.w.bus.open(p.w.user())
	switch l := ledger.(type) {
	case *jetLedger:
		l.id = id
	case *kafkaLedger:
		l.id = id
	}
	require.NoError(t, ledger.Prepare(t.Context(), nil))
	return fencing{ledger}
}

// fencing is a ledger as a checkpoint.Store that fences if it finds that another has.
type fencing struct{ sink.Ledger }

// Commit implements checkpoint.Store.
func (f fencing) Commit(ctx context.Context, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	cp, err := f.Ledger.Commit(ctx, nil, prev, next)
	if errors.Is(err, errNoSession) || errors.Is(err, checkpoint.ErrConflict) {
		if err := f.Fence(ctx); err != nil {
			return cp, err
		}
		return f.Ledger.Commit(ctx, nil, prev, next)
	}
	return cp, err
}

// TestPositionsOfSimulatedBuses: a position on a simulated bus is what a position on a real one is.
func TestPositionsOfSimulatedBuses(t *testing.T) {
	t.Parallel()
	for _, bus := range buses {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			checkpointtest.Run(t, checkpointtest.Harness{
				NewPlace: func(*testing.T) checkpointtest.Place { return simulatedPlace{calm(bus)} },
				Durable:  true, Shared: true,
			})
		})
	}
}

// directoryPlace is a simulated checkpoint directory.
type directoryPlace struct {
	w *world
	d *disk
}

// Open implements checkpointtest.Place.
func (p directoryPlace) Open(_ *testing.T, id checkpoint.Identity) checkpoint.Store {
	return p.d.of(p.w.user(), id)
}

// TestSimulatedDirectoryIsAStore: a simulated directory is what checkpoint.File is.
func TestSimulatedDirectoryIsAStore(t *testing.T) {
	t.Parallel()
	checkpointtest.Run(t, checkpointtest.Harness{
		NewPlace: func(*testing.T) checkpointtest.Place {
			w := calm("jetstream")
			return directoryPlace{w, &disk{w: w}}
		},
		Durable: true,
	})
}
