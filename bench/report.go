package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// report is RESULTS.md.
type report struct {
	path   string
	facts  [][2]string
	tables []*table
	points []point
}

// point is a rate for the plot.
type point struct {
	chart, series string
	latency       time.Duration
	rate          float64 // events/s; 0 if it was not measured
}

func (r *report) point(chart, series string, latency time.Duration, rate float64) {
	if rate > 0 {
		r.points = append(r.points, point{chart, series, latency, rate})
	}
}

// remark adds a fact, once.
func (r *report) remark(text string) {
	fact := [2]string{"Left out", strings.ReplaceAll(text, "\n", " ")}
	if !slices.Contains(r.facts, fact) {
		progress("%s", text)
		r.facts = append(r.facts, fact)
	}
}

type table struct {
	title, note string
	columns     []string
	rows        [][]string
}

// newReport gathers what one must know about the machine.
func newReport(ctx context.Context, module string, l *lab) (*report, error) {
	fsync, err := fsyncTime(l.dir)
	if err != nil {
		return nil, fmt.Errorf("trying the disk: %w", err)
	}
	commit, err := output(ctx, module, "git", "describe", "--always", "--dirty")
	if err != nil {
		commit = "unknown"
	}
	r := &report{path: filepath.Join(module, "bench", "RESULTS.md"), facts: [][2]string{
		{"Date", time.Now().UTC().Format("2006-01-02 15:04 UTC")},
		{"Commit", commit},
		{"Machine", fmt.Sprintf("%s, %d CPUs, %s/%s", processor(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)},
		{"Go", runtime.Version()},
		{"Disk", fmt.Sprintf("files of the bus and checkpoints under %s; a write and fsync of 1 kB takes %s (median)", filepath.Dir(l.dir), fsync.Round(10*time.Microsecond))},
		{"Runs", fmt.Sprintf("%d of each at a latency of 0, in turn, else one; medians, and of memory the most", l.runs)},
	}}
	if len(l.relayEnv) > 0 {
		r.facts = append(r.facts, [2]string{"Environment of relay", strings.Join(l.relayEnv, " ")})
	}
	return r, nil
}

// fsyncTime shows whether the directory is on a real disk.
func fsyncTime(dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, "fsync-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	defer func() { _ = f.Close() }()
	var took []time.Duration
	for range 21 {
		start := time.Now()
		if _, err := f.Write(make([]byte, 1024)); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took = append(took, time.Since(start))
	}
	return middle(took, func(d time.Duration) time.Duration { return d }), nil
}

// processor is the model's name where the system tells it.
func processor() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	lines := bufio.NewScanner(bytes.NewReader(info))
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}

func (r *report) table(title, note string, columns ...string) *table {
	t := &table{title: title, note: note, columns: columns}
	r.tables = append(r.tables, t)
	return t
}

func (t *table) row(name string, cells ...string) {
	t.rows = append(t.rows, append([]string{name}, cells...))
}

// write writes the report to path, or to its own place, and to standard output.
func (r *report) write(path string) error {
	if path == "" {
		path = r.path
	}
	plot := filepath.Join(filepath.Dir(path), "plot.svg")
	if len(r.points) > 0 {
		if err := os.WriteFile(plot, []byte(drawPlot(r.points)), 0o644); err != nil {
			return err
		}
	}
	text := r.String()
	fmt.Print(text)
	return os.WriteFile(path, []byte(text), 0o644)
}

// String is the report in Markdown.
func (r *report) String() string {
	var b strings.Builder
	b.WriteString("# Benchmark\n\nWritten by `go run ./bench`; how it is measured stands in [main.go](main.go). Numbers compare within one table, not between machines.\n\n")
	for _, f := range r.facts {
		fmt.Fprintf(&b, "- %s: %s\n", f[0], f[1])
	}
	if len(r.points) > 0 {
		b.WriteString("\n![Throughput against the latency of the Events API](plot.svg)\n")
	}
	for _, t := range r.tables {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n", t.title, t.note)
		line(&b, t.columns)
		marks := slices.Repeat([]string{"---:"}, len(t.columns))
		marks[0] = "---"
		line(&b, marks)
		for _, row := range t.rows {
			line(&b, row)
		}
	}
	return b.String()
}

func line(b *strings.Builder, cells []string) { fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | ")) }

// middle is the median of a quantity over the runs.
func middle[T any, N cmp.Ordered](runs []T, of func(T) N) N {
	values := make([]N, len(runs))
	for i, r := range runs {
		values[i] = of(r)
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// carriedCells are the cells of one rival, bare being the rate of the bare loop, and ceiling that
// of the raw publisher, or 0.
func carriedCells(runs []carried, bare, ceiling float64) []string {
	rate := middle(runs, func(c carried) float64 { return c.rate })
	var most usage
	for _, c := range runs {
		if c.peak > most.peak {
			most = c.usage
		}
	}
	return []string{
		thousands(float64(middle(runs, func(c carried) int { return c.events }))),
		thousands(rate),
		percent(rate, bare),
		percent(rate, ceiling),
		micros(middle(runs, carried.cpuPerEvent)),
		micros(middle(runs, carried.busCPUPerEvent)),
		tenths(middle(runs, func(c carried) float64 { return c.allocs })),
		megabytes(most.peak),
		megabytes(most.mapped),
		span(middle(runs, func(c carried) time.Duration { return c.first })),
		span(middle(runs, func(c carried) time.Duration { return c.total })),
	}
}

func percent(part, whole float64) string {
	if part == 0 || whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f %%", 100*part/whole)
}

func thousands(v float64) string {
	if v == 0 {
		return "-"
	}
	s := fmt.Sprintf("%.0f", v)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func tenths(v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", v)
}

func micros(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", float64(d.Nanoseconds())/1e3)
}

func megabytes(n int64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

func span(d time.Duration) string {
	switch {
	case d == 0:
		return "-"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	default:
		return d.Round(10 * time.Millisecond).String()
	}
}
