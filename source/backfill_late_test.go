package source_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/source/sourcetest"
)

// TestBackfillKeepsALateEvent: one event in a list that is in order otherwise stands behind events
// that are younger, so that a request by time can leave it out. Wherever it stands, beside a seam
// or not, it comes in its place.
func TestBackfillKeepsALateEvent(t *testing.T) {
	t.Parallel()
	const events = 700
	for _, late := range []time.Duration{3 * time.Second, 55 * time.Second} {
		for _, apart := range []time.Duration{200 * time.Millisecond, 2 * time.Second} {
			t.Run(fmt.Sprintf("%s late, %s apart", late, apart), func(t *testing.T) {
				t.Parallel()
				for at := 37; at < events; at += 6 {
					synctest.Test(t, func(t *testing.T) { requireLateEvent(t, events, at, late, apart) })
				}
			})
		}
	}
}

func requireLateEvent(t *testing.T, events, at int, late, apart time.Duration) {
	t.Helper()
	srv := sourcetest.New(sourcetest.WithLatency(latency, latency/2), sourcetest.WithLedger(0))
	start := time.Now().Add(-24 * time.Hour)
	rng := rand.New(rand.NewPCG(uint64(apart), 0)) // the same list each time, but for the event that is late
	next := start
	for i := range events {
		next = next.Add(time.Duration(rng.Int64N(int64(2 * apart))))
		created := next
		if i == at {
			created = created.Add(-late)
		}
		require.NoError(t, srv.Append(fmt.Appendf(nil, `{"object":"event","id":"event_%06d","event":"user.created","created_at":%q,"data":{}}`,
			i, created.UTC().Format("2006-01-02T15:04:05.000Z"))))
	}
	s, _, total := interposed(t, srv, nil)
	s.Memory = 300 << 10
	got, err := readToTip(t.Context(), s, checkpoint.Position{})
	require.NoError(t, err)
	require.True(t, total.Active)
	require.Len(t, got, events, "the event at %d", at)
	for i := range got {
		require.Equal(t, fmt.Sprintf("event_%06d", i), got[i].ID)
	}
}
