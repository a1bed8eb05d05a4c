//go:build unix

package simulation

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/sink"
)

// mutation is a fault that relay or a bus could have, put back. The simulated parts and the
// directory ask for its name.
type mutation struct {
	name string
	plan func(*plan)
	// target puts something between a lane and its target.
	target func(*world, pipeline.Target) pipeline.Target
}

// on restricts a mutation to a bus in exactly_once, in bad weather.
func on(bus string) func(*plan) {
	return func(p *plan) {
		p.bus, p.mode, p.relays, p.stormy, p.weather = bus, checkpoint.ExactlyOnce, 2, true, bad
		p.refuses, p.purge, p.holes, p.readers = false, false, false, 1
	}
}

// atLeastOnceOn restricts a mutation to a bus in at_least_once, in bad weather.
func atLeastOnceOn(bus string) func(*plan) {
	return func(p *plan) {
		on(bus)(p)
		p.mode, p.relays = checkpoint.AtLeastOnce, 1
	}
}

// bad is weather in which most faults that can be put back are soon found.
var bad = weather{lost: 0.05, unanswered: 0.1, late: 0.1, twice: 0.1, broken: 0.05, slow: 400 * time.Millisecond, lateBy: longest}

// seedsOfAMutation is how many seeds may go by before a fault that was put back is found. Each is
// found within a hundred or so. Which seed finds it changes with everything that a relay asks of
// its bus, so there is room.
const seedsOfAMutation = 1000

// find runs seeds until one finds the fault.
func find(t *testing.T, m mutation) {
	t.Helper()
	t.Parallel()
	for seed := uint64(1); seed <= seedsOfAMutation; seed++ {
		if v := simulate(t, seed, &m, false); len(v.wrong) > 0 {
			t.Logf("found by seed %d: %s", seed, v.wrong[0])
			return
		}
	}
	require.Fail(t, "not found", "by %d seeds", seedsOfAMutation)
}

// TestAStreamThatDoesNotCompareIsFound: the stream takes a commit that replaces any position.
func TestAStreamThatDoesNotCompareIsFound(t *testing.T) {
	find(t, mutation{name: "compare", plan: on("jetstream")})
}

// TestAPartRecordedAsAWholeIsFound: on Kafka the position after a part of a batch does not know the
// events of the part, and counts a refused type as published up to the end of the batch.
func TestAPartRecordedAsAWholeIsFound(t *testing.T) {
	find(t, mutation{name: "part", plan: func(p *plan) {
		on("kafka")(p)
		p.transaction, p.batch, p.weather, p.apiStormy, p.api.repeats = 4, 20, weather{unanswered: 0.1, slow: 100 * time.Millisecond}, true, 0.3
	}})
}

// TestACoordinatorThatDoesNotFenceIsFound: the brokers take what a session sends that was fenced.
func TestACoordinatorThatDoesNotFenceIsFound(t *testing.T) {
	find(t, mutation{name: "compare", plan: on("kafka")})
}

// TestALostAnswerTakenForAYesIsFound: a commit whose answer does not come counts as done.
func TestALostAnswerTakenForAYesIsFound(t *testing.T) {
	for _, bus := range buses {
		t.Run(bus, func(t *testing.T) { find(t, mutation{name: "guess", plan: on(bus)}) })
	}
}

// TestAHolderThatDoesNotRenewIsFound: a holder without events does not show that it is alive, and
// the standby takes over from it.
func TestAHolderThatDoesNotRenewIsFound(t *testing.T) {
	for _, bus := range buses {
		t.Run(bus, func(t *testing.T) {
			find(t, mutation{name: "renewal", plan: on(bus), target: func(_ *world, t pipeline.Target) pipeline.Target { return silentTarget{t} }})
		})
	}
}

// TestALossThatLooksLikeAFirstStartIsFound: a position that is gone counts as none that there ever
// was.
func TestALossThatLooksLikeAFirstStartIsFound(t *testing.T) {
	for _, bus := range buses {
		t.Run(bus, func(t *testing.T) {
			find(t, mutation{name: "first start", plan: func(p *plan) { on(bus)(p); p.purge = true }})
		})
	}
}

// TestAPositionBeforeTheAnswerIsFound: in at_least_once the position moves before the bus has
// acknowledged.
func TestAPositionBeforeTheAnswerIsFound(t *testing.T) {
	for _, bus := range buses {
		t.Run(bus, func(t *testing.T) { find(t, mutation{name: "early", plan: atLeastOnceOn(bus)}) })
	}
}

// TestASessionWithoutAFenceIsFound: on Kafka a relay begins to write without a fence.
func TestASessionWithoutAFenceIsFound(t *testing.T) {
	find(t, mutation{name: "no fence", plan: on("kafka")})
}

// TestAPositionReadBeforeTheFenceIsFound: on Kafka a relay goes on from the position that it has
// read before the fence.
func TestAPositionReadBeforeTheFenceIsFound(t *testing.T) {
	find(t, mutation{name: "load before fence", plan: func(p *plan) {
		on("kafka")(p)
		p.takeover, p.weather = 15*time.Second, weather{late: 0.15, lateBy: 4 * time.Second, slow: time.Second} // so that commits arrive while relay claims
	}})
}

// TestAClaimWithoutASecondLookIsFound: a claim does not look again whether another relay has moved
// the position meanwhile.
func TestAClaimWithoutASecondLookIsFound(t *testing.T) {
	find(t, mutation{name: "stale look", plan: on("kafka"), target: func(_ *world, t pipeline.Target) pipeline.Target { return blindTarget{t} }})
}

// silentTarget takes a renewal for done that it has not sent. What it says of its revision has a
// mark.
type silentTarget struct{ pipeline.Target }

const renewedMark = 1 << 40

// Append implements pipeline.Target.
func (s silentTarget) Append(ctx context.Context, prev checkpoint.Checkpoint, batch []sink.Message, next checkpoint.Position) (checkpoint.Checkpoint, error) {
	if len(batch) == 0 && next.Equal(prev.Position) {
		prev.Revision ^= renewedMark
		return prev, nil
	}
	prev.Revision &^= renewedMark
	return s.Target.Append(ctx, prev, batch, next)
}

// blindTarget claims without comparing.
type blindTarget struct{ pipeline.Target }

// Acquire implements pipeline.Target.
func (b blindTarget) Acquire(ctx context.Context, _ *checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	return b.Target.Acquire(ctx, nil)
}
