package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
)

// picky is a memoryLedger that refuses messages, and with them the batch, as a whole: the events in
// rejected for ever, those in banned as long as banned holds them, those in silent without naming
// them.
type picky struct {
	*memoryLedger
	mu                       sync.Mutex
	rejected, banned, silent map[string]bool
	largest                  int // body of a dead letter; 0 for any
	slow                     time.Duration
	renewals, refusals       int
	holder                   map[string]bool // every holder that has committed
}

func newPicky() *picky {
	return &picky{memoryLedger: &memoryLedger{store: checkpoint.NewMemory(testIdentity)}, holder: map[string]bool{}}
}

func (p *picky) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	if err := p.refuse(batch, next.Holder); err != nil {
		if p.slow > 0 {
			select {
			case <-time.After(p.slow):
			case <-ctx.Done():
				return prev, ctx.Err()
			}
		}
		return prev, err
	}
	return p.memoryLedger.Commit(ctx, batch, prev, next)
}

// refuse returns why the batch is refused, nil if it is not.
func (p *picky) refuse(batch []sink.Message, holder string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holder[holder] = true
	if len(batch) == 0 {
		p.renewals++
	}
	for i, m := range batch {
		var err error
		switch id := m.Position.EventID; {
		case m.Topic == "dead" && (p.largest == 0 || len(m.Body) <= p.largest):
		case p.rejected[id] || m.Topic == "dead":
			err = &sink.PublishError{Durable: i, Err: &sink.RejectedError{Topic: m.Topic, Reason: "too large", Limit: 1000}}
		case p.banned[id]:
			err = &sink.PublishError{Durable: i, Err: &sink.FatalError{Err: errors.New("not authorized")}}
		case p.silent[id]:
			err = errors.New("incomplete")
		}
		if err != nil {
			p.refusals++
			return err
		}
	}
	return nil
}

// threefold routes each event to three messages; those in drop to none.
type threefold struct{ oneToOne }

func (r threefold) Append(batch []sink.Message, e *source.Event) ([]sink.Message, error) {
	for range 3 {
		var err error
		if batch, err = r.oneToOne.Append(batch, e); err != nil {
			return batch, err
		}
	}
	return batch, nil
}

// TestEverythingBeforeARefusedEventIsCommitted, for any place of the event and any refusal.
//
// P9: what comes before it is committed.
func TestEverythingBeforeARefusedEventIsCommitted(t *testing.T) {
	for _, culprit := range []int{0, 1, 37, 99, 100, 150, 199} {
		for name, c := range map[string]struct {
			router  func(map[string]bool) pipeline.Router
			refuses bool
			per     int
		}{
			"by the bus":                  {func(map[string]bool) pipeline.Router { return oneToOne{} }, true, 1},
			"by the router":               {func(ids map[string]bool) pipeline.Router { return oneToOne{refuse: ids} }, false, 1},
			"with three messages each":    {func(map[string]bool) pipeline.Router { return threefold{} }, true, 3},
			"three, refused by the route": {func(ids map[string]bool) pipeline.Router { return threefold{oneToOne{refuse: ids}} }, false, 3},
		} {
			for _, atOnce := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, at %d, exactly once %v", name, culprit, atOnce), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						src := newSequence(200, 100)
						ids := map[string]bool{src.events[culprit].ID: true}
						if culprit < 150 {
							ids[src.events[180].ID] = true
						}
						var lane *pipeline.Lane
						var stored func() []sink.Message
						store := checkpoint.NewMemory(testIdentity)
						if atOnce {
							bus := newPicky()
							bus.store = store
							if c.refuses {
								bus.rejected = ids
							}
							lane = twin("a", src, bus)
							stored = func() []sink.Message { return bus.log }
						} else {
							bus := &scriptedBus{rnd: fixedRand()}
							if c.refuses {
								bus.poison = ids
							}
							lane = newLane(src, nil, bus, store)
							stored = func() []sink.Message { return bus.stored }
						}
						lane.Router = c.router(ids)
						err := runFor(t, lane, time.Minute)
						var stop *pipeline.StopError
						require.ErrorAs(t, err, &stop)
						require.Equal(t, src.events[culprit].ID, stop.EventID)
						require.Len(t, stored(), c.per*culprit)
						cp, err := store.Load(t.Context())
						require.NoError(t, err)
						require.Equal(t, culprit, src.index(cp.Position), "the lane stands right before the event")
					})
				})
			}
		}
	}
}

// TestDroppedEventsBeforeARefusedOne: they are passed, so that nothing lies between the position
// and the event.
func TestDroppedEventsBeforeARefusedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, bus := newSequence(20, 20), &scriptedBus{rnd: fixedRand(), poison: map[string]bool{"event_000010": true}}
		store := checkpoint.NewMemory(testIdentity)
		lane := newLane(src, oneToOne{drop: map[string]bool{"event_000008": true, "event_000009": true}}, bus, store)
		var stop *pipeline.StopError
		require.ErrorAs(t, runFor(t, lane, time.Minute), &stop)
		cp, err := store.Load(t.Context())
		require.NoError(t, err)
		require.Equal(t, "event_000009", cp.EventID)
	})
}

// TestEventsBeforeOneThatMayPassLater: a refusal that is not for ever holds up what follows, and
// not what comes before, whether or not the bus names the message.
func TestEventsBeforeOneThatMayPassLater(t *testing.T) {
	for _, named := range []bool{true, false} {
		t.Run(fmt.Sprint("named ", named), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src, bus := newSequence(200, 100), newPicky()
				ids := map[string]bool{"event_000137": true}
				if bus.silent = ids; named {
					bus.silent, bus.banned = nil, ids
				}
				lane := twin("a", src, bus)
				stop := run(t, lane)
				defer stop()
				time.Sleep(2 * time.Minute)
				require.Len(t, bus.log, 137)
				require.Equal(t, pipeline.Retrying, lane.Status().State)
				bus.mu.Lock()
				clear(ids)
				bus.mu.Unlock()
				time.Sleep(time.Minute)
				require.Len(t, bus.log, 200)
			})
		})
	}
}

// TestALeaseIsRenewedWhileABatchIsRefused: no standby takes over from a relay that lives, however
// slowly the bus refuses.
func TestALeaseIsRenewedWhileABatchIsRefused(t *testing.T) {
	for _, slow := range []time.Duration{0, time.Second, takeover / 2, time.Minute} {
		t.Run(slow.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src, bus := newSequence(200, 100), newPicky()
				bus.banned, bus.slow = map[string]bool{"event_000000": true}, slow
				a, b := twin("a", src, bus), twin("b", src, bus)
				stopA := run(t, a)
				after(time.Second)
				stopB := run(t, b)
				after(20 * time.Minute)
				require.Equal(t, pipeline.Retrying, a.Status().State)
				require.Equal(t, pipeline.Standby, b.Status().State)
				bus.mu.Lock()
				require.Equal(t, map[string]bool{"a": true}, bus.holder)
				require.Greater(t, bus.renewals, 100)
				require.Less(t, bus.renewals, 1000)
				bus.banned = nil
				bus.mu.Unlock()
				after(2 * time.Minute)
				stopA()
				stopB()
				requireOnce(t, src, bus.memoryLedger)
			})
		})
	}
}

// letters makes a dead letter with the event in it if the limit is unknown or not small.
type letters struct{ oneToOne }

func (letters) DeadLetter(e *source.Event, _, reason string, _, limit int) (sink.Message, error) {
	body := []byte(reason)
	if limit == 0 || limit > len(e.Raw)+len(body) {
		body = append(body, e.Raw...)
	}
	return sink.Message{Topic: "dead", ID: e.ID, Body: body, Position: e.Position()}, nil
}

func TestADeadLetterFallsBackToItsShortForm(t *testing.T) {
	for name, largest := range map[string]int{"fits": 20, "does not fit either": 5} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src, bus := newSequence(100, 100), newPicky()
				bus.rejected, bus.largest = map[string]bool{"event_000042": true}, largest
				lane := twin("a", src, bus)
				lane.Park, lane.Router = true, letters{}
				err := runFor(t, lane, time.Minute)
				if largest == 20 {
					require.NoError(t, err)
					requireOnce(t, src, bus.memoryLedger)
					require.Equal(t, "too large", string(bus.log[42].Body))
					return
				}
				var stop *pipeline.StopError
				require.ErrorAs(t, err, &stop)
				require.True(t, stop.Parks)
				require.Equal(t, "event_000042", stop.EventID)
				require.Len(t, bus.log, 42)
			})
		})
	}
}
