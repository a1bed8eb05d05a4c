package verify

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/router"
	"workos-relay/sink"
)

// TestAgainstAnOracle damages a stream of several parts at random, and holds the counts against
// those of a plain comparison in memory.
func TestAgainstAnOracle(t *testing.T) {
	const events = 2*partEvents + 5000
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	l := some(events)
	b := stream(t, l)
	place := map[string]int{}
	for i, e := range l {
		place[e.ID] = i
	}
	var out []sink.Stored
	for _, m := range b.stored[0] {
		switch rnd.IntN(200) {
		case 0: // lost
		case 1:
			out = append(out, m, m)
		case 2:
			m.Topic = "elsewhere"
			out = append(out, m)
		case 3:
			m.Body = []byte("{}")
			out = append(out, m)
		case 4:
			out = slices.Insert(out, max(len(out)-rnd.IntN(50), 0), m)
		case 5:
			out = append(out, m, marked(m, router.HeaderReplay))
		default:
			out = append(out, m)
		}
	}
	b.stored[0] = out

	var want [5]int
	seen, first := map[string]bool{}, map[string]bool{}
	last := -1
	for i := range out {
		m := &out[i]
		id := m.Header(router.HeaderID)
		seen[id] = true
		if string(m.Body) == "{}" {
			want[3]++
		}
		switch {
		case m.Topic == "elsewhere":
			want[2]++
		case m.Header(router.HeaderReplay) != "":
		case first[id]:
			want[1]++
		default:
			first[id] = true
			if place[id] < last {
				want[4]++
			}
			last = place[id]
		}
	}
	want[0] = events - len(seen)
	r := check(t, l, b)
	require.Equal(t, want, counts(&r.Report))
	require.Equal(t, len(out), r.Report.Messages)
	require.Equal(t, 3, r.run.parts)
}

func TestTheFilterNeverDeniesAnId(t *testing.T) {
	const n = 20_000
	f := newFilter(n)
	for i := range n {
		f.add(f.hash(fmt.Sprint(i)))
	}
	strangers := 0
	for i := range n {
		require.True(t, f.has(f.hash(fmt.Sprint(i))))
		if f.has(f.hash(fmt.Sprint("x", i))) {
			strangers++
		}
	}
	require.Less(t, strangers, n/100)
}
