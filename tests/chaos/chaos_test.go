//go:build unix

package chaos

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"workos-relay/tests/testkit"

	"github.com/stretchr/testify/require"
)

const (
	exactlyOnce = "exactly_once"
	atLeastOnce = "at_least_once"
)

func TestChaosNATS(t *testing.T) {
	skipIfShort(t)
	t.Parallel()
	profile(t, newNATSBus(t, 3), exactlyOnce, true)
}

func TestChaosNATSAtLeastOnce(t *testing.T) {
	skipIfShort(t)
	if *killsFlag <= defaultKills {
		t.Skip("runs with more kills than those of a plain `go test`")
	}
	profile(t, newNATSBus(t, 3), atLeastOnce, true)
}

func TestChaosKafka(t *testing.T) {
	skipIfShort(t)
	profile(t, newKafkaBus(t), exactlyOnce, false)
}

func TestChaosKafkaAtLeastOnce(t *testing.T) {
	skipIfShort(t)
	profile(t, newKafkaBus(t), atLeastOnce, false)
}

// profile lets a schedule loose on relays that carry events of a live API, two of them if one
// can stand by, and judges what came of it. samePlaces says that the places of positions and events
// are of one count.
func profile(t *testing.T, b bus, delivery string, samePlaces bool) {
	t.Helper()
	t.Logf("again with RELAY_CHAOS_SEED=%d RELAY_CHAOS_KILLS=%d", *seedFlag, *killsFlag)
	relays := 2
	if delivery == atLeastOnce {
		relays = 1
	}
	endure(t, b, delivery, relays, samePlaces, func(w *world) { w.schedule(int(*killsFlag)) })
}

// twins pauses one of two relays or both, over and over, for as long as -chaos.twins says: so long
// that the other one takes over, or for less.
func twins(t *testing.T, b bus, samePlaces bool) {
	t.Helper()
	if *twinsFlag == 0 {
		t.Skip("runs for as long as RELAY_CHAOS_TWINS says, such as 10m")
	}
	t.Logf("again with RELAY_CHAOS_SEED=%d RELAY_CHAOS_TWINS=%v", *seedFlag, *twinsFlag)
	endure(t, b, exactlyOnce, 2, samePlaces, func(w *world) {
		for end := time.Now().Add(*twinsFlag); time.Now().Before(end); {
			pauseRelay(w)
			w.pass(w.upTo(4 * time.Second))
			if w.rnd.IntN(3) == 0 {
				w.burst()
			}
			w.requireAlive()
		}
		w.mendAll()
	})
}

func TestTwinsNATS(t *testing.T) {
	skipIfShort(t)
	twins(t, newNATSBus(t, 3), true)
}

func TestTwinsKafka(t *testing.T) {
	skipIfShort(t)
	twins(t, newKafkaBus(t), false)
}

// endure has relays carry the events of a live API while they are broken, and judges what came of
// it.
func endure(t *testing.T, b bus, delivery string, relays int, samePlaces bool, breaks func(*world)) {
	t.Helper()
	seed := *seedFlag
	w := newWorld(t, b, delivery, relays, 3000)
	w.rnd = rand.New(rand.NewPCG(seed, 0))

	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { b.watch(ctx) })
	t.Cleanup(func() { cancel(); watching.Wait() })

	w.start()
	w.flows(500)
	stop := w.live(150, seed)
	breaks(w)
	stop()
	o := w.finish()
	cancel()
	watching.Wait()

	t.Logf("%s; seed %d", w.summary(), seed)
	again := delivery == atLeastOnce
	o.RequireNothingWrong(t, testkit.Allowance{Copies: again, Early: again && b.early()})
	if delivery == exactlyOnce {
		positions := b.positions(t)
		require.Empty(t, o.FaultsOf(positions, samePlaces))
		last := positions[len(positions)-1] // in order of place by now
		t.Logf("%d positions seen, %d holders in turn", len(positions), last.Generation)
		require.Equal(t, o.IDs[len(o.IDs)-1], last.EventID, "the last position seen")
	}
}
