// Command bench measures relay on this machine and writes the tables of RESULTS.md and plot.svg:
//
//	go run ./bench
//
// It takes about twenty minutes on two cores; -quick takes one or two, and -kafka adds a real Kafka
// to the parts that have one:
//
//	go run ./bench -kafka "$(.ci/kafka/start --dir /tmp/kafka --port-base 18600 | tail -1)"
//
// Afterwards `go test ./internal/manual -run TestFigures -update` writes the figures into the
// manual.
//
// Every part runs in its own process: the Events API, the bus, and relay, which is the real
// binary, built first. So memory and CPU time of relay are relay's alone. Beside relay stands a
// bare loop that fetches the same pages from the same API and does nothing with them: no relay with
// one cursor can be faster than that. Before each bus stands a raw publisher, which sends the same
// messages from memory: no relay can be faster than that either.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// settings is what the command line says.
type settings struct {
	quick     bool
	events    int
	runs      int
	only      []string
	latencies []time.Duration
	out       string
	dir       string
	relay     string // the binary
	relayEnv  []string
	brokers   []string // of a real Kafka; empty for none
	most      int      // events of the longest backlog of the part memory
}

// part is one part of the benchmark, chosen by -only.
type part struct {
	name string
	run  func(context.Context, *lab) error
}

var parts = []part{
	{"nats", carryToNATS},
	{"kafka", carryToKafka},
	{"publish", publishToKafka},
	{"backfill", readBacklogs},
	{"tip", waitAtTip},
	{"start", startUp},
	{"memory", holdMemory},
	{"state", keepState},
	{"snapshot", readSnapshots},
}

func main() {
	var err error
	if args := os.Args[1:]; len(args) > 1 && args[0] == roleArgument {
		err = play(context.Background(), args[1], args[2:])
	} else {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = run(ctx, args)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // what stop would undo ends with the process
	}
}

func run(ctx context.Context, args []string) error {
	s, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	r, err := measure(ctx, s)
	if err != nil {
		return err
	}
	return r.write(s.out)
}

func parse(args []string) (settings, error) {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	var s settings
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.BoolVar(&s.quick, "quick", false, "see that everything runs, in a minute or two: few events, one run; what is given beside comes first")
	flags.IntVar(&s.events, "events", 200_000, "events to carry at a latency of 0; with latency fewer, so that a run stays under 10 s")
	flags.IntVar(&s.runs, "runs", 3, "how often is measured what the machine decides; the tables show medians, and of memory the most")
	only := flags.String("only", strings.Join(names, ","), "parts to run")
	latencies := flags.String("latency", "0s,10ms,50ms,100ms", "latencies of the Events API in the parts nats and kafka")
	kafka := flags.String("kafka", os.Getenv("RELAY_TEST_KAFKA"), "brokers of a real Kafka beside kfake, such as .ci/kafka/start prints; default RELAY_TEST_KAFKA")
	flags.IntVar(&s.most, "memory-events", 10_000_000, "the longest backlog of the part memory")
	flags.StringVar(&s.out, "out", "", "file to write the tables to (default bench/RESULTS.md of this module)")
	flags.StringVar(&s.dir, "dir", "", "folder for the bus's files and the checkpoints, on the disk to be measured (default in the user's cache folder)")
	flags.StringVar(&s.relay, "relay", "", "binary of relay to measure, such as one of another version (default built from this module)")
	env := flags.String("relay-env", "", "environment of relay alone, such as GOGC=50,GOMEMLIMIT=32MiB")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	given := make(map[string]bool)
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if s.quick {
		quick := map[string]string{"events": "20000", "runs": "1", "latency": "0s,10ms", "memory-events": "100000"}
		for name, value := range quick {
			if !given[name] {
				if err := flags.Set(name, value); err != nil {
					return s, err
				}
			}
		}
	}
	s.only = split(*only)
	for _, o := range s.only {
		if !slices.Contains(names, o) {
			return s, fmt.Errorf("-only: there is no part %q, only %s", o, strings.Join(names, ", "))
		}
	}
	for _, l := range split(*latencies) {
		d, err := time.ParseDuration(l)
		if err != nil || d < 0 {
			return s, fmt.Errorf("-latency: %q is not a latency", l)
		}
		s.latencies = append(s.latencies, d)
	}
	if flags.NArg() > 0 || s.events < 1000 || s.runs < 1 {
		return s, errors.New("usage: bench [flags], with at least 1000 events and one run")
	}
	s.relayEnv, s.brokers = split(*env), split(*kafka)
	return s, nil
}

func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

// lab is where everything is measured.
type lab struct {
	settings
	module string // where its source is
	dir    string // for files on the real disk; removed at the end
	report *report

	rival    string // the binary of the loop on Watermill; empty while not built
	rivalErr error  // why it cannot be
}

func measure(ctx context.Context, s settings) (r *report, err error) {
	module, err := output(ctx, "", "go", "list", "-m", "-f", "{{.Dir}}", "workos-relay")
	if err != nil {
		return nil, fmt.Errorf("finding the module (run this within it): %w", err)
	}
	if s.dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("finding a directory to work in (name one with -dir): %w", err)
		}
		s.dir = filepath.Join(cache, "workos-relay")
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	l := &lab{settings: s, module: module}
	if l.dir, err = os.MkdirTemp(s.dir, "bench-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(l.dir)) }()

	if l.relay == "" {
		l.relay = filepath.Join(l.dir, "relay")
		if _, err := output(ctx, module, "go", "build", "-trimpath", "-o", l.relay, "./cmd/relay"); err != nil {
			return nil, err
		}
	}
	if l.report, err = newReport(ctx, module, l); err != nil {
		return nil, err
	}
	for _, p := range parts {
		if !slices.Contains(s.only, p.name) {
			continue
		}
		began := time.Now()
		if err := p.run(ctx, l); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		progress("-- %s took %s", p.name, time.Since(began).Round(time.Second))
	}
	return l.report, nil
}

// output runs a command in dir and returns what it prints, without white space around.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// progress reports each measurement while the benchmark runs.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
