package layers

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// rule says which packages of the module the packages under may import. The first rule that fits a
// package decides.
type rule struct {
	of  string
	may []string
	// tests may import these as well.
	tests []string
}

// helpers are internal packages without knowledge of relay's parts, on which public packages rest.
var helpers = []string{
	"internal/catalogue", "internal/contain", "internal/listener", "internal/operator", "internal/printable",
	"internal/retry",
}

// public are the packages that other programs may import.
var public = []string{"conf/...", "checkpoint/...", "source/...", "sink/...", "state/...", "router/...", "pipeline/..."}

// buses are the packages of one kind of bus each.
var buses = []string{"sink/nats", "sink/kafka", "sink/stdout"}

// anyBus are the public packages that serve every kind of bus.
var anyBus = []string{"conf/...", "checkpoint/...", "source/...", "sink", "state/...", "router/...", "pipeline/..."}

// rules are the layers of relay from the bottom to the top. A sink does not know the source, and
// the pipeline knows neither the router nor any kind of bus.
var rules = []rule{
	{of: "conf/...", may: []string{"conf/..."}},
	{of: "checkpoint/checkpointtest", may: []string{"checkpoint"}},
	{of: "checkpoint", may: helpers, tests: []string{"checkpoint/...", "internal/powercut"}},
	{of: "source/sourcetest", may: append([]string{"source"}, helpers...)},
	{of: "source/lists", may: append([]string{"source"}, helpers...), tests: []string{"source/..."}},
	{of: "source/webhook", tests: []string{"checkpoint", "source/..."}},
	{of: "source/common"},
	{of: "source", may: append([]string{"conf/...", "checkpoint", "source/common"}, helpers...), tests: []string{"source/..."}},
	{of: "sink/sinktest", may: []string{"checkpoint", "sink"}},
	{of: "sink/stdout", may: append([]string{"conf/...", "checkpoint", "sink"}, helpers...), tests: []string{"sink/sinktest"}},
	// The tests of a bus run whole lanes.
	{of: "sink/nats", may: append([]string{"conf/...", "checkpoint", "sink", "sink/nats/..."}, helpers...), tests: append([]string{"internal/testaddr", "internal/testrun"}, public...)},
	{of: "sink/kafka", may: append([]string{"conf/...", "checkpoint", "sink", "sink/kafka/..."}, helpers...), tests: append([]string{"internal/testaddr", "internal/testrun"}, public...)},
	{of: "sink/kafka/...", may: append([]string{"conf/...", "sink/kafka/..."}, helpers...), tests: []string{"internal/testaddr"}},
	{of: "sink", may: []string{"conf/...", "checkpoint"}, tests: []string{"sink/..."}},
	{of: "state", may: append([]string{"conf/...", "source"}, helpers...)},
	{of: "router", may: append([]string{"conf/...", "source", "sink", "state"}, helpers...), tests: []string{"checkpoint"}},
	{of: "pipeline", may: append([]string{"checkpoint", "source", "sink", "state", "internal/batch"}, helpers...), tests: []string{"router", "sink/stdout", "source/...", "internal/hint"}},

	// What only relay itself uses. Helpers stay at the bottom.
	{of: "internal/batch", may: append([]string{"checkpoint", "source", "sink", "state"}, helpers...)},
	{of: "internal/catalogue", may: nil},
	{of: "internal/catalogue/generate", may: []string{"internal/catalogue"}},
	{of: "internal/contain", may: []string{"internal/printable"}},
	{of: "internal/listener"},
	{of: "internal/moment"},
	{of: "internal/operator"},
	{of: "internal/retry"},
	{of: "internal/config", may: append([]string{"internal/hint", "internal/listener", "internal/moment", "internal/operator", "internal/printable"}, anyBus...), tests: append([]string{"internal/kinds"}, buses...)},
	// The list of the kinds of bus is the only place that knows them.
	{of: "internal/kinds", may: append([]string{"sink"}, buses...)},
	// A bus that relay does not know uses what a bus may.
	{of: "internal/toybus", may: []string{"conf/...", "checkpoint", "sink"}, tests: []string{"checkpoint/checkpointtest", "pipeline", "sink/sinktest"}},
	{of: "internal/...", may: append([]string{"docs", "internal/..."}, anyBus...), tests: public},
	{of: "docs"},

	// The program, and what stands beside it.
	{of: "cmd/relay", may: append([]string{"docs", "internal/...", "sink/stdout"}, anyBus...), tests: public}, // `relay tail` prints as the sink does
	{of: "examples/...", tests: public},
	{of: "bench", may: append([]string{"internal/..."}, public...)},
	{of: "tests/...", may: append([]string{"internal/...", "tests/testkit"}, public...)},
}

func TestImports(t *testing.T) {
	t.Parallel()
	packages := golist(t, "./...")
	require.Greater(t, len(packages), 30)
	used := make([]bool, len(rules))
	for _, p := range packages {
		name, ok := short(p.ImportPath)
		require.True(t, ok, p.ImportPath)
		i := slices.IndexFunc(rules, func(r rule) bool { return under(name, []string{r.of}) })
		if !assert.GreaterOrEqual(t, i, 0, "no rule says what %s may import; add one", name) {
			continue
		}
		used[i] = true
		check := func(imports, may []string, what string) {
			for _, path := range imports {
				if imported, ours := short(path); ours && imported != name {
					assert.True(t, under(imported, may), "%s %s imports %s, which is not below it; the rule for %s allows %v", what, name, imported, rules[i].of, may)
				}
			}
		}
		may := rules[i].may
		check(p.Imports, may, "package")
		// Tests of a package may use what its tests may, and everything that the package itself
		// may.
		may = append(slices.Clone(may), rules[i].tests...)
		check(p.TestImports, may, "a test in")
		check(p.XTestImports, may, "a test of")
	}
	for i, r := range rules {
		assert.True(t, used[i], "no package is %s any more", r.of)
	}
}

// TestNothingImportsTheProgram holds also for packages for which a rule is forgotten. What runs the
// lanes belongs to the program.
func TestNothingImportsTheProgram(t *testing.T) {
	t.Parallel()
	program := []string{"cmd/...", "internal/app"}
	for _, p := range golist(t, "./...") {
		if name, _ := short(p.ImportPath); under(name, program) {
			continue
		}
		for _, imports := range [][]string{p.Imports, p.TestImports, p.XTestImports} {
			for _, path := range imports {
				if name, ours := short(path); ours {
					assert.False(t, under(name, program), "%s imports %s", p.ImportPath, name)
				}
			}
		}
	}
}
