package nats

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/sink"
)

// pausable is a ledger seen from a process that is stopped now and then: a call begins only when it
// runs again.
type pausable struct {
	sink.Ledger
	running sync.RWMutex
}

func (p *pausable) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	p.await()
	return p.Ledger.Load(ctx)
}

func (p *pausable) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	p.await()
	return p.Ledger.Commit(ctx, batch, prev, next)
}

func (p *pausable) await() {
	p.running.RLock()
	p.running.RUnlock() //nolint:staticcheck // it waits, no more
}

// takeover leaves a cluster that is busy the time to answer the looks of a standby: after one that
// comes late, by more than two fifths of it, the standby takes itself for stopped and begins to
// count again.
const takeover = 5 * time.Second

// TestRivalsOnACluster has two lanes with one identity on a stream of three replicas. While the
// active one works, leaders step down and leading servers are restarted, which may already cost it
// its place. Then it is stopped until the other has taken over, and wakes up with a commit of its
// own still to make.
func TestRivalsOnACluster(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	js := client(t, cluster.url())
	w := newLaneWorld(t)
	var ledgers [2]*pausable
	var lanes [2]*pipeline.Lane
	var stops [2]func() error
	for i := range lanes {
		cfg := created(cluster.url())
		cfg.Create.Replicas, cfg.AckTimeout = 3, 2*time.Second
		ledgers[i] = &pausable{Ledger: open(t, cfg).Ledger(laneID)}
		lanes[i] = w.lane(ledgers[i], fmt.Sprintf("holder-%d", i), takeover)
		stops[i] = run(t, lanes[i])
	}
	w.feed(t, 500)
	for round := range 3 {
		for range 2 {
			w.feedAndAwait(t, 800, lanes[:]...)
			if leader := cluster.leader(t, js, defaultStream); round%2 == 1 {
				stepDown(t, js.Conn())
			} else {
				leader.stop()
				leader.start(t)
			}
		}
		active := awaitActive(t, lanes)
		ledgers[active].running.Lock()
		require.Eventually(t, func() bool { return lanes[1-active].Status().State == pipeline.Running },
			patient, often, "the standby does not take over: %v", &states{lanes[:]})
		ledgers[active].running.Unlock()
	}
	w.feed(t, 500)
	w.awaitAll(t, lanes[:]...)
	for _, stop := range stops {
		require.NoError(t, stop())
	}
	w.requireOnce(t, js)
}

// states prints how lanes are when it is printed.
type states struct{ lanes []*pipeline.Lane }

func (s *states) String() string {
	var b strings.Builder
	for _, l := range s.lanes {
		fmt.Fprintf(&b, "\n%+v", l.Status())
	}
	return b.String()
}

func awaitActive(t testing.TB, lanes [2]*pipeline.Lane) (active int) {
	t.Helper()
	require.Eventually(t, func() bool {
		for i, l := range lanes {
			if l.Status().State == pipeline.Running && lanes[1-i].Status().State == pipeline.Standby {
				active = i
				return true
			}
		}
		return false
	}, patient, often, "no active lane with a standby: %v", &states{lanes[:]})
	return active
}
