//go:build unix

package simulation

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/retry"
)

var (
	seedsFlag = flag.Uint64("seeds", 2000, "how many seeds TestSimulation runs")
	firstFlag = flag.Uint64("first", 1, "the first of them")
	// Off as long as relay may stop with a question if the API refuses the type of the last event
	// and nothing follows it: seed 101631.
	refusalsFlag = flag.Bool("refusals", false, "in some seeds the API refuses an event type for a while")
	repeatFlag   = flag.Uint64("repeat", 25, "how many seeds TestASeedRepeats runs several times, from the first on")
)

func TestMain(m *testing.M) {
	// The random part of each pause follows from the virtual time at which it begins.
	retry.Default = func() float64 { return float64(mix(uint64(time.Now().UnixNano()))>>11) / (1 << 53) }
	flag.Parse()
	os.Exit(m.Run())
}

// TestSimulation runs the seeds from -first on. Of the first that fails it prints what happened.
func TestSimulation(t *testing.T) {
	t.Parallel()
	var next atomic.Uint64
	var mu sync.Mutex
	var total counts
	var failed []verdict
	began := time.Now()
	t.Run("seeds", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for n := next.Add(1) - 1; n < *seedsFlag; n = next.Add(1) - 1 {
					v := simulate(t, *firstFlag+n, nil, false)
					mu.Lock()
					total.add(v.count)
					if len(v.wrong) > 0 {
						failed = append(failed, v)
					}
					enough := len(failed) >= 20
					mu.Unlock()
					if enough {
						return
					}
				}
			})
		}
	})
	t.Logf("simulation: %s; in %v", &total, time.Since(began).Round(time.Second))
	for i, v := range failed {
		t.Errorf("seed %d: %s\nagain with: go test ./tests/simulation -v -run 'TestSimulation$' -first %d -seeds 1", v.seed, strings.Join(v.wrong, "\n"), v.seed)
		if i == 0 {
			var b strings.Builder
			for _, s := range simulate(t, v.seed, nil, true).trace {
				fmt.Fprintln(&b, s)
			}
			t.Logf("what happened:\n%s", b.String())
		}
	}
}

// TestASeedRepeats runs seeds several times, beside each other, and requires that everything that
// happens, happens at the same time.
func TestASeedRepeats(t *testing.T) {
	t.Parallel()
	const times = 4
	var runs [times]map[uint64][]step
	t.Run("runs", func(t *testing.T) {
		for i := range runs {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				runs[i] = map[uint64][]step{}
				for seed := *firstFlag; seed < *firstFlag+*repeatFlag; seed++ {
					runs[i][seed] = simulate(t, seed, nil, true).trace
				}
			})
		}
	})
	for i := 1; i < times; i++ {
		for seed, trace := range runs[i] {
			for n := range min(len(trace), len(runs[0][seed])) {
				require.Equal(t, runs[0][seed][n], trace[n], "seed %d, step %d", seed, n)
			}
			require.Len(t, trace, len(runs[0][seed]), "seed %d", seed)
		}
	}
}
