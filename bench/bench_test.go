package main

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/internal/testrun"
)

// TestMain lets the test binary play the roles that the benchmark starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == roleArgument {
		main()
		return
	}
	testrun.ManyAtOnce()
	if err := os.Unsetenv("RELAY_TEST_KAFKA"); err != nil { // it measures a cluster in this process
		panic(err)
	}
	os.Exit(m.Run())
}

// TestEveryPartMeasures runs the whole benchmark with few events. What it measures is not judged.
func TestEveryPartMeasures(t *testing.T) {
	if testing.Short() {
		t.Skip("builds relay and starts some thirty processes")
	}
	relay := filepath.Join(t.TempDir(), "relay")
	_, err := output(t.Context(), "..", "go", "build", "-o", relay, "./cmd/relay")
	require.NoError(t, err)
	for only, rows := range map[string][]string{
		"nats": {
			`## Events API to NATS JetStream, API latency 0s`,
			`## Events API to NATS JetStream, API latency 1ms`,
			`\| bare loop: fetches and discards \| 3,000 \| [\d,]+ \| 100 % \| - \| \d+\.\d`,
			`\| raw publisher, asynchronous \| 3,000 \| [\d,]+ \|`,
			`\| raw publisher, atomic batches \| 3,000 \| [\d,]+ \|`,
			`\| relay, at_least_once \| 3,000 \| [\d,-]+ \| [^|]+ \| [^|]+ \| \d+\.\d`,
			`\| relay, at_least_once, sync_always \| [\d,-]+ \| [^|]+ \| [^|]+ \| [^|]+ \| \d+\.\d`,
			`\| relay, exactly_once \| 3,000 \| [\d,-]+ \| [^|]+ \| [^|]+ \| \d+\.\d`,
			`!\[[^\]]+\]\(plot\.svg\)`,
		},
		"kafka": {
			`\| raw producer, idempotent, kfake \| 3,000 \| [\d,]+ \|`,
			`\| raw producer, transactions, kfake \| 3,000 \| [\d,]+ \|`,
			`\| relay, at_least_once, kfake \| 3,000 \| [\d,-]+ \| [^|]+ \| [^|]+ \| \d+\.\d`,
			`\| relay, exactly_once, kfake \| 3,000 \| [\d,-]+ \| [^|]+ \| [^|]+ \| \d+\.\d`,
			`!\[[^\]]+\]\(plot\.svg\)`,
		},
		"publish": {
			`## Publishing pages of 100 events to kfake, 750 events`,
			`\| relay's sink \| none \| [\d,]+ \| \d+\.\d`,
			`\| kafka.Writer \| lz4 \| [\d,]+ \| \d+\.\d`,
			`\| franz-go, ProduceSync \| lz4 \| [\d,]+ \| \d+\.\d`,
		},
		"tip,start,memory": {
			`\| JetStream, at_least_once, webhook \| [\d.]+m?s`,
			`\| kfake, exactly_once \| [\d.]+m?s`,
			`\| 10,000 \| [\d,-]+ \| \d+\.\d`,
		},
		"state,snapshot": {
			`\| JetStream, without state \| 1,500 \| [\d,-]+ \| - \| \d+\.\d`,
			`\| JetStream, with state \| 1,500 \| [\d,-]+ \| [^|]+ \| \d+\.\d`,
			`\| kfake, with state \| 1,500 \| [\d,-]+ \| [^|]+ \| \d+\.\d`,
			`\| JetStream \| 2,002 \| [\d.]+m?s \| \d+\.\d\d \| \d+\.\d`,
			`\| kfake \| 2,002 \| [\d.]+m?s \| \d+\.\d\d \| \d+\.\d`,
		},
	} {
		t.Run(only, func(t *testing.T) {
			t.Parallel()
			out := filepath.Join(t.TempDir(), "RESULTS.md")
			require.NoError(t, run(t.Context(), []string{"-only", only, "-relay", relay, "-quick", "-events", "3000", "-memory-events", "10000",
				"-latency", "0s,1ms", "-dir", t.TempDir(), "-out", out}))
			text, err := os.ReadFile(out)
			require.NoError(t, err)
			for _, row := range rows {
				require.Regexp(t, row, string(text))
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	for name, args := range map[string][]string{
		"an unknown part":     {"-only", "nats,rabbit"},
		"no latency":          {"-latency", "soon"},
		"a negative latency":  {"-latency", "-1s"},
		"too few events":      {"-events", "10"},
		"no run":              {"-runs", "0"},
		"something that lies": {"nats"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(args)
			require.Error(t, err)
		})
	}
	s, err := parse(nil)
	require.NoError(t, err)
	require.Equal(t, []string{"nats", "kafka", "publish", "backfill", "tip", "start", "memory", "state", "snapshot"}, s.only)
}

func TestARoleThatFailsSaysWhy(t *testing.T) {
	var done fetched
	_, err := startRole(t.Context(), &done, "fetch", "-api", "http://127.0.0.1:1", "-events", "100")
	require.ErrorContains(t, err, "connection refused")
	require.NotErrorIs(t, err, io.ErrUnexpectedEOF)
}

func TestCursor(t *testing.T) {
	require.Equal(t, "event_2", cursor([]byte(`{"data":[{"after":"x"}],"list_metadata":{"before":null,"after":"event_2"}}`)))
	require.Empty(t, cursor([]byte(`{"data":[],"list_metadata":{"before":null,"after":null}}`)))
}
