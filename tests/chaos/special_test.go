//go:build unix

package chaos

import (
	"context"
	"testing"
	"time"

	"workos-relay/tests/testkit"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

const exitOperator = 3 // of relay: operator action required

// TestLeaderOfTheStreamKilled kills the server that leads the stream while relay is in the middle
// of a backlog, so that a batch is under way.
func TestLeaderOfTheStreamKilled(t *testing.T) {
	skipIfShort(t)
	t.Parallel()
	b := newNATSBus(t, 3)
	w := newWorld(t, b, exactlyOnce, 1, 30_000)
	w.start()
	stop := w.live(300, 1)
	w.flows(500)
	i := w.leader()
	b.nodes[i].Kill()
	w.note("kill leader", " server %d at message %d", i, b.count())
	w.flows(100)
	require.NotEqual(t, i, w.leader())
	b.nodes[i].Start(t)
	w.flows(100)
	stop()
	w.finish().RequireNothingWrong(t, testkit.Allowance{})
}

// TestAPositionTakenAway: with the position gone while relay is down, and events there, a relay
// that starts asks and publishes nothing, with its old folder as with a new one.
func TestAPositionTakenAway(t *testing.T) {
	skipIfShort(t)
	t.Parallel()
	b := newNATSBus(t, 1)
	w := newWorld(t, b, exactlyOnce, 2, 500)
	first := w.relays[0]
	first.Start(t)
	w.flows(501)
	require.Zero(t, first.Stop(t)) // a kill could leave something on its way, and the position would come back with it

	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	s, err := b.js.Stream(ctx, stream)
	require.NoError(t, err)
	require.NoError(t, s.Purge(ctx, func(r *jetstream.StreamPurgeRequest) error { r.Subject = positionTopics + ">"; return nil }))
	before, err := s.Info(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 500, before.State.Msgs)
	for _, r := range w.relays {
		r.Start(t)
		require.Equal(t, exitOperator, r.Wait(t), r.Tail(2000))
		require.Contains(t, r.Tail(2000), "relay checkpoint set")
	}
	after, err := s.Info(ctx)
	require.NoError(t, err)
	require.Equal(t, before.State.LastSeq, after.State.LastSeq, "something was published")
	w.read().RequireNothingWrong(t, testkit.Allowance{})
}

// TestAnOutageLongerThanTheDuplicateWindow kills relay in the middle of a backlog and leaves it
// down until the stream has forgotten every id that it could recognise a copy by; and does so again
// with the server down as well.
func TestAnOutageLongerThanTheDuplicateWindow(t *testing.T) {
	skipIfShort(t)
	t.Parallel()
	b := newNATSBus(t, 1)
	w := newWorld(t, b, exactlyOnce, 1, 30_000)
	relay, server := w.relays[0], b.nodes[0]
	relay.Start(t)
	stop := w.live(300, 1) // so that something flows in each round, however much did in those before
	w.flows(1)
	var info *jetstream.StreamInfo
	require.Eventually(t, func() bool { info = b.info(); return info != nil }, patient, often)
	require.Equal(t, duplicateWindow, info.Config.Duplicates)
	for round := range 4 {
		w.flows(2000)
		relay.Kill()
		if round%2 == 1 {
			server.Kill()
		}
		<-time.After(5 * duplicateWindow)
		if round%2 == 1 {
			server.Start(t)
		}
		relay.Start(t)
	}
	stop()
	w.finish().RequireNothingWrong(t, testkit.Allowance{})
}

// TestAWriteThatComesTooLate holds back what the active relay sends, the batch and every further
// try, until the standby has taken over and written the same events; then lets it through.
func TestAWriteThatComesTooLate(t *testing.T) {
	skipIfShort(t)
	t.Parallel()
	b := newNATSBus(t, 1)
	w := newWorld(t, b, exactlyOnce, 2, 100)
	active, standby := w.relays[0], w.relays[1]
	active.Start(t)
	w.flows(101)
	standby.Start(t)
	const events = 500
	b.links[0][0].Set(testkit.Weather{Silent: true})
	w.append(events)
	w.flows(events)
	b.links[0][0].Set(testkit.Weather{})
	w.append(events)
	w.flows(events)
	w.finish().RequireNothingWrong(t, testkit.Allowance{})
}
