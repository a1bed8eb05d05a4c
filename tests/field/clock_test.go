//go:build unix

package field

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/sink/nats"
)

// stranger holds the position of a lane as a relay on another host does whose clock is off.
type stranger struct {
	ledger *nats.Ledger
	clock  time.Duration // ahead of the real time, behind it if negative
}

func newStranger(t *testing.T, api, url string, clock time.Duration) *stranger {
	t.Helper()
	c := nats.Config{URL: url, RelayID: "workos", Lane: "nats"}
	s, err := nats.New(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return &stranger{clock: clock, ledger: s.Ledger(checkpoint.Identity{Relay: "workos", Lane: "nats", Endpoint: api, Destination: c.Identity()})}
}

// hold takes the position over, or renews it. A relay that takes it away meanwhile wins.
func (s *stranger) hold(t *testing.T) {
	t.Helper()
	prev, err := s.ledger.Load(t.Context())
	if t.Context().Err() != nil {
		return
	}
	require.NoError(t, err)
	next := prev
	next.Holder, next.Released, next.UpdatedAt = "stranger", false, time.Now().Add(s.clock).UTC()
	next.Generation++
	_, _ = s.ledger.Commit(t.Context(), nil, prev, next)
}

// TestAMoveDoesNotTrustTheClockOfAnotherHost: whether another relay is active is judged by whether
// its position moves.
func TestAMoveDoesNotTrustTheClockOfAnotherHost(t *testing.T) {
	t.Parallel()
	for name, clock := range map[string]time.Duration{"an hour ahead": time.Hour, "an hour behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			api := newAPI(t, backlog(20))
			bus := newNATS(t, nil)
			bus.connect(t)
			r := newRelay(t, "relay", natsConfig(api.URL(), bus.URL))
			runOnce(t, r)
			other := newStranger(t, api.URL(), bus.URL, clock)
			other.hold(t)

			ctx, die := context.WithCancel(t.Context())
			var renewing sync.WaitGroup
			renewing.Go(func() {
				for ctx.Err() == nil {
					other.hold(t)
					select {
					case <-time.After(time.Second):
					case <-ctx.Done():
					}
				}
			})
			code, _, errs := r.Run(t, "checkpoint", "set", "earliest")
			require.Equal(t, exitDecides, code, errs)
			require.Contains(t, errs, "holder stranger has moved or renewed the position just now; stop it first")
			require.Equal(t, "active", stateOf(t, r))
			die()
			renewing.Wait()

			require.Equal(t, "unknown", stateOf(t, r), "its relay is dead")
			code, out, errs := r.Run(t, "checkpoint", "set", "earliest")
			require.Equal(t, exitDone, code, errs)
			require.Contains(t, out, "lane nats now stands at: the earliest event")
		})
	}
}

// stateOf is the state of the only lane as relay status tells it.
func stateOf(t *testing.T, r *relay) string {
	t.Helper()
	_, out, errs := r.Run(t, "status", "--json")
	var s admin.Status
	require.NoError(t, json.Unmarshal([]byte(out), &s), errs)
	require.Len(t, s.Lanes, 1)
	return string(s.Lanes[0].State)
}
