package app

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"workos-relay/sink"
)

// TestSettingsKeeper follows a keeper through its life: it waits for the position, applies once,
// looks again while something differs, and applies later what waits.
func TestSettingsKeeper(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var looks []bool
		var answer []sink.Setting
		var fails error
		core, logs := observer.New(zap.WarnLevel)
		k := newSettingsKeeper(zap.New(core), func(_ context.Context, apply bool) ([]sink.Setting, error) {
			mu.Lock()
			defer mu.Unlock()
			looks = append(looks, apply)
			return append([]sink.Setting(nil), answer...), fails
		})
		say := func(err error, s ...sink.Setting) {
			mu.Lock()
			defer mu.Unlock()
			answer, fails = s, err
		}
		seen := func() []bool {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			out := looks
			looks = nil
			return out
		}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { k.run(ctx) })
		time.Sleep(time.Hour)
		require.Empty(t, seen(), "the lane does not hold its position")

		say(errors.New("no bus"))
		k.Acquired()
		k.Acquired()
		require.Equal(t, []bool{true}, seen())
		age := sink.Setting{Of: "stream WORKOS", Key: "create.max_age", Have: "1h", Want: "2h", Outcome: sink.Changed}
		held := sink.Setting{Of: "stream WORKOS", Key: "create.max_bytes", Have: "2", Want: "1", Outcome: sink.HeldBack}
		waits := sink.Setting{Of: "topic a", Key: "create.config.min.insync.replicas", Have: "1", Want: "2", Outcome: sink.Waits}
		say(nil, age, held, waits)
		time.Sleep(settingsEvery)
		require.Equal(t, []bool{true}, seen(), "without an answer it is still to be applied")
		require.Equal(t, []sink.Setting{age, held, waits}, k.Found())
		require.Equal(t, 2, logs.Len(), "one warning for each that differs")

		say(nil, held)
		time.Sleep(settingsEvery)
		require.Equal(t, []bool{true}, seen(), "what waits is applied later")
		require.Equal(t, []sink.Setting{held, age}, k.Found(), "what was changed is remembered")
		time.Sleep(settingsEvery)
		require.Equal(t, []bool{false}, seen(), "what is held back is only looked at")
		require.Equal(t, 2, logs.Len(), "it is not said again")

		say(nil)
		time.Sleep(settingsEvery)
		require.Equal(t, []bool{false}, seen())
		require.Equal(t, []sink.Setting{age}, k.Found())
		time.Sleep(settingsEvery)
		require.Empty(t, seen(), "nothing differs: it looks rarely")

		for range 100 { // a lane that takes its position up again and again
			k.Acquired()
			time.Sleep(10 * time.Millisecond)
		}
		require.LessOrEqual(t, len(seen()), 2)
		stop()
		wg.Wait()
	})
}
