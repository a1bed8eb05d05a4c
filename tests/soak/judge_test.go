//go:build unix

package soak

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// quantity is something that must not grow.
type quantity struct {
	name   string
	unit   string
	metric string
	scale  float64 // from the metric to the unit
	share  float64 // of the middle third, that the last one may lie higher
	slack  float64 // in units, beside that
}

const mebi = 1 << 20

// quantities: the collector lets the resident memory and the heap swing by themselves, so they have
// a margin. Live objects have less of one: their lowest values are those right after a collection.
var quantities = []quantity{
	{"resident memory", "MiB", "process_resident_memory_bytes", 1.0 / mebi, 0.15, 12},
	{"heap in use", "MiB", "go_memstats_heap_inuse_bytes", 1.0 / mebi, 0.20, 4},
	{"live objects", "thousand", "go_memstats_heap_objects", 1.0 / 1000, 0.20, 20},
	{"goroutines", "", "go_goroutines", 1, 0.05, 5},
	{"file descriptors", "", "process_open_fds", 1, 0.05, 4},
}

// sample is what was scraped at a moment, by metric; those of all lanes are added up.
type sample struct {
	at     time.Duration // since the start
	values map[string]float64
}

// verdict is what became of a quantity.
type verdict struct {
	quantity
	thirds [3]float64 // the lower quartile of each
	most   float64
	hourly float64 // growth by a straight line through the last two thirds
	flat   bool
}

// judge judges a quantity over samples, of which there are at least a few in each third.
func judge(q quantity, samples []sample) verdict {
	v := verdict{quantity: q}
	end := samples[len(samples)-1].at
	var thirds [3][]float64
	var late []sample
	for _, s := range samples {
		third := min(int(3*s.at/(end+1)), 2)
		value := s.values[q.metric] * q.scale
		thirds[third] = append(thirds[third], value)
		v.most = max(v.most, value)
		if third > 0 {
			late = append(late, s)
		}
	}
	for i, values := range thirds {
		slices.Sort(values)
		v.thirds[i] = values[len(values)/4]
	}
	v.hourly = slope(q, late)
	v.flat = v.thirds[2] <= v.thirds[1]*(1+q.share)+q.slack
	return v
}

// slope is the growth per hour by the method of least squares.
func slope(q quantity, samples []sample) float64 {
	var n, x, y, xx, xy float64
	for _, s := range samples {
		at, value := s.at.Hours(), s.values[q.metric]*q.scale
		n, x, y, xx, xy = n+1, x+at, y+value, xx+at*at, xy+at*value
	}
	if d := n*xx - x*x; d > 0 {
		return (n*xy - x*y) / d
	}
	return 0
}

// table is the verdicts in Markdown, as docs/operate.md has it.
func table(verdicts []verdict) string {
	var b strings.Builder
	b.WriteString("| | first third | middle third | last third | most | growth per hour |\n|---|---|---|---|---|---|\n")
	for _, v := range verdicts {
		name := v.name
		if v.unit != "" {
			name += ", " + v.unit
		}
		fmt.Fprintf(&b, "| %s | %.1f | %.1f | %.1f | %.1f | %+.1f |\n", name, v.thirds[0], v.thirds[1], v.thirds[2], v.most, v.hourly)
	}
	return b.String()
}

func TestJudge(t *testing.T) {
	q := quantity{name: "memory", metric: "m", scale: 1, share: 0.1, slack: 4}
	rnd := rand.New(rand.NewPCG(1, 1))
	for name, c := range map[string]struct {
		at   func(share float64) float64
		flat bool
	}{
		"a level with noise":              {func(float64) float64 { return 50 + 10*rnd.Float64() }, true},
		"bursts that pass":                {func(x float64) float64 { return 50 + 200*float64(int(x*20)%2) }, true},
		"warming up":                      {func(x float64) float64 { return 100 * min(3*x, 1) }, true},
		"shrinking":                       {func(x float64) float64 { return 100 - 50*x }, true},
		"a leak":                          {func(x float64) float64 { return 50 + 60*x + 10*rnd.Float64() }, false},
		"a leak beneath bursts":           {func(x float64) float64 { return 50 + 60*x + 200*float64(int(x*20)%2) }, false},
		"a step that does not go back":    {func(x float64) float64 { return 50 + 30*float64(int(x*1.4)) }, false},
		"a leak that starts in the third": {func(x float64) float64 { return 50 + 300*max(0, x-0.67) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			var samples []sample
			for i := range 300 {
				samples = append(samples, sample{at: time.Duration(i) * time.Second, values: map[string]float64{"m": c.at(float64(i) / 300)}})
			}
			v := judge(q, samples)
			require.Equal(t, c.flat, v.flat, "%+v", v)
		})
	}
}
