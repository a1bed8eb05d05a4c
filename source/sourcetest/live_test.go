package sourcetest

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
)

func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(WithPopulation(Population{Events: 500}))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		start := time.Now()
		go func() { done <- s.Live(ctx, LiveConfig{Rate: 20, Seed: 4}) }()
		time.Sleep(10 * time.Minute)
		cancel()
		require.NoError(t, <-done)

		made := s.Len() - 500
		require.InEpsilon(t, 20*600, made, 0.2)
		ids := s.IDs(Filter{})
		require.IsIncreasing(t, ids)
		types, last := map[string]int{}, time.Time{}
		for raw := range s.Events(Filter{From: start}) {
			f := gjson.ParseBytes(raw)
			types[f.Get("event").String()]++
			require.False(t, f.Get("created_at").Time().Before(last))
			last = f.Get("created_at").Time()
		}
		require.WithinDuration(t, time.Now(), last, 10*time.Second)
		require.Greater(t, types["dsync.user.created"], made/20)
		require.Greater(t, types["session.created"], made/20)
		require.Greater(t, types["authentication.sso_succeeded"], made/50)
		require.Greater(t, types["organization.created"], 3)
		require.Equal(t, ids[len(ids)-1], get(t, s, allTypes+"&limit=1").ids()[0])
	})
}

func TestLiveComesInBursts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		start := time.Now()
		require.NoError(t, s.Live(t.Context(), LiveConfig{Rate: 10, Max: blockLen}))
		burst := time.Since(start)
		require.Equal(t, blockLen, s.Len())
		require.Less(t, burst, 5*time.Second, "a first sync is ten times faster than the average")
		require.Equal(t, "organization.created", typesFirst(t, s))
	})
}

func typesFirst(t *testing.T, s *Server) string {
	for raw := range s.Events(Filter{}) {
		return gjson.GetBytes(raw, "event").String()
	}
	t.Fatal("no event")
	return ""
}

func TestLiveIsDeterministic(t *testing.T) {
	run := func() (out []string) {
		synctest.Test(t, func(t *testing.T) {
			s := New()
			require.NoError(t, s.Live(t.Context(), LiveConfig{Rate: 5000, Seed: 8, Max: 1000}))
			for raw := range s.Events(Filter{}) {
				out = append(out, string(raw))
			}
		})
		return out
	}
	first := run()
	require.Len(t, first, 1000)
	require.Equal(t, first, run())
}

func TestLiveFollowsALaterEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New()
		later := time.Now().Add(time.Hour + time.Microsecond).UTC()
		require.NoError(t, s.Append([]byte(`{"id":"event_0","event":"user.created","data":{},"created_at":"`+later.Format(time.RFC3339Nano)+`"}`)))
		require.NoError(t, s.Live(t.Context(), LiveConfig{Rate: 10, Max: 3}))
		require.Len(t, s.IDs(Filter{From: later}), 4)
	})
}

func TestLiveNeedsARate(t *testing.T) {
	require.Error(t, New().Live(t.Context(), LiveConfig{}))
}
