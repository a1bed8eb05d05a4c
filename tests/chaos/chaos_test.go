//go:build unix

package chaos

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"

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

// profile lets a schedule loose on relays that carry events of a live API, two of them where one can stand by, and judges what came
// of it. samePlaces says that the places of positions and events are of one count.
func profile(t *testing.T, b bus, delivery string, samePlaces bool) {
	t.Helper()
	seed, enough := *seedFlag, int(*killsFlag)
	t.Logf("again with RELAY_CHAOS_SEED=%d RELAY_CHAOS_KILLS=%d", seed, enough)
	relays := 2
	if delivery == atLeastOnce {
		relays = 1
	}
	w := newWorld(t, b, delivery, relays, 3000)
	w.rnd = rand.New(rand.NewPCG(seed, 0))

	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { b.watch(ctx) })
	t.Cleanup(func() { cancel(); watching.Wait() })

	w.start()
	w.flows(500)
	stop := w.live(150, seed)
	w.schedule(enough)
	stop()
	o := w.finish()
	cancel()
	watching.Wait()

	t.Logf("%s; seed %d", w.summary(), seed)
	o.requireNothingWrong(t, delivery == atLeastOnce)
	if delivery == exactlyOnce {
		positions := b.positions(t)
		require.Empty(t, o.faultsOf(positions, samePlaces))
		last := positions[len(positions)-1] // in order of place by now
		t.Logf("%d positions seen, %d holders in turn", len(positions), last.Generation)
		require.Equal(t, o.ids[len(o.ids)-1], last.EventID, "the last position seen")
	}
}
