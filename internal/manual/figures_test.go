package manual

import (
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the figures of bench/RESULTS.md into the documents")

// statement is a sentence, or a row of a table, whose figures were measured. {} stands for a figure
// in text, and a blank for any white space.
type statement struct {
	page, text string
	figures    []figure
}

// figure is where a number of a document comes from.
type figure struct {
	from    string // for messages
	measure func(results) (float64, error)
	digits  int // how many the document shows; the others are zero
}

// statements are all measured figures of the documents. After a new run of the benchmark,
//
//	go test ./internal/manual -run TestFigures -update
//	.ci/wrap --fix
//
// writes the new ones into the documents. Read the sentences then: words such as "half" do not
// follow a number.
var statements = []statement{
	{
		"README.md", "carries {} events a second into JetStream and {} into a Kafka in memory, both in exactly_once, for {} µs and {} µs of CPU time per event",
		[]figure{
			cell(2, onNATS, "relay, exactly_once", perSecond), cell(2, onKafka, "relay, exactly_once, kfake", perSecond),
			cell(2, onNATS, "relay, exactly_once", cpuTime), cell(2, onKafka, "relay, exactly_once, kfake", cpuTime),
		},
	},
	{
		"README.md", "a loop on Watermill, which waits for each acknowledgement, carries {} into JetStream, for {} µs",
		[]figure{cell(2, onNATS, "Watermill's NATS publisher", perSecond), cell(2, onNATS, "Watermill's NATS publisher", cpuTime)},
	},
	rateRow("JetStream, at_least_once", onNATS, "relay, at_least_once"),
	rateRow("JetStream, exactly_once", onNATS, "relay, exactly_once"),
	rateRow("JetStream with `sync_interval: always`, at_least_once", onNATS, "relay, at_least_once, sync_always"),
	rateRow("JetStream with `sync_interval: always`, exactly_once", onNATS, "relay, exactly_once, sync_always"),
	rateRow("kfake, at_least_once", onKafka, "relay, at_least_once, kfake"),
	rateRow("kfake, exactly_once", onKafka, "relay, exactly_once, kfake"),
	rateRow("Apache Kafka, at_least_once", onKafka, "relay, at_least_once, Apache Kafka"),
	rateRow("Apache Kafka, exactly_once", onKafka, "relay, exactly_once, Apache Kafka"),
	{
		"docs/sizing.md", "At 100 requests a second, the most that WorkOS allows, and 100 ms for each, it reads {} events a second",
		[]figure{cell(2, "A backlog of 1,000,000 uneven events", "100ms a page, 16 readers", perSecond)},
	},
	{
		"docs/sizing.md", "a lane to NATS that reads a backlog of usual events has {} MB at most",
		[]figure{highest(3, "A backlog of 1,000,000 uneven events", peak, "50ms a page, 16 readers", "100ms a page, 16 readers")},
	},
	{
		"docs/operate.md", "a lane to NATS that reads a backlog of usual events has {} MB at most",
		[]figure{highest(3, "A backlog of 1,000,000 uneven events", peak, "50ms a page, 16 readers", "100ms a page, 16 readers")},
	},
	{
		"docs/sizing.md", "Ten million events take {} MB, one million {} MB",
		[]figure{cell(3, "Memory and the length of a backlog", "10,000,000", peak), cell(3, "Memory and the length of a backlog", "1,000,000", peak)},
	},
	{
		"docs/sizing.md", "| webhooks, JetStream, exactly_once | {} ms | {} ms |",
		[]figure{cell(2, atTheTip, "JetStream, exactly_once, webhook", "p50"), cell(2, atTheTip, "JetStream, exactly_once, webhook", "p99")},
	},
	{
		"docs/sizing.md", "| webhooks, kfake, exactly_once | {} ms | {} ms |",
		[]figure{cell(2, atTheTip, "kfake, exactly_once, webhook", "p50"), cell(2, atTheTip, "kfake, exactly_once, webhook", "p99")},
	},
	{
		"docs/sizing.md", "| polls alone, JetStream, at_least_once | {} ms | {} ms |",
		[]figure{cell(2, atTheTip, "JetStream, at_least_once, polled", "p50"), cell(2, atTheTip, "JetStream, at_least_once, polled", "p99")},
	},
	{
		"docs/faq.md", "With a webhook, half of the events are on the bus within {} ms",
		[]figure{cell(2, atTheTip, "JetStream, exactly_once, webhook", "p50")},
	},
	{
		"docs/sizing.md", "relay is ready after {} ms at its first start on JetStream, {} ms on Kafka",
		[]figure{cell(2, starting, "JetStream, exactly_once", "first start"), cell(2, starting, "kfake, exactly_once", "first start")},
	},
}

// The tables and columns of bench/RESULTS.md that the documents use.
const (
	onNATS    = "Events API to NATS JetStream, API latency 0s"
	onKafka   = "Events API to Kafka, API latency 0s"
	atTheTip  = "End to end at the tip"
	starting  = "Start-up"
	perSecond = "events/s"
	cpuTime   = "CPU µs/event"
	peak      = "peak memory"
)

// rateRow is a row of the table of rates in docs/sizing.md.
func rateRow(name, table, of string) statement {
	return statement{
		"docs/sizing.md", "| " + name + " | {} | {} µs | {} MB |",
		[]figure{cell(2, table, of, perSecond), cell(2, table, of, cpuTime), cell(3, table, of, peak)},
	}
}

// cell is one cell of a table: the table whose title begins with table, the row that begins with
// name.
func cell(digits int, table, name, column string) figure {
	return figure{
		from:    fmt.Sprintf("table %q, row %q, column %q", table, name, column),
		measure: func(r results) (float64, error) { return r.cell(table, name, column) },
		digits:  digits,
	}
}

// highest is the highest of several cells of a column.
func highest(digits int, table, column string, names ...string) figure {
	return figure{
		from: fmt.Sprintf("table %q, the highest of the rows %q, column %q", table, names, column),
		measure: func(r results) (float64, error) {
			var found float64
			for _, name := range names {
				v, err := r.cell(table, name, column)
				if err != nil {
					return 0, err
				}
				found = max(found, v)
			}
			return found, nil
		},
		digits: digits,
	}
}

// results are the tables of bench/RESULTS.md by their titles, each with its head.
type results map[string][][]string

func readResults(text string) results {
	r := results{}
	title := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "## "); ok {
			title = name
		}
		if !strings.HasPrefix(line, "|") || strings.Trim(line, "|-: ") == "" {
			continue
		}
		var row []string
		for _, c := range strings.Split(strings.Trim(line, "|"), "|") {
			row = append(row, strings.TrimSpace(c))
		}
		r[title] = append(r[title], row)
	}
	return r
}

func (r results) cell(table, name, column string) (float64, error) {
	for title, rows := range r {
		if !strings.HasPrefix(title, table) {
			continue
		}
		at := slices.Index(rows[0], column)
		if at < 0 {
			return 0, fmt.Errorf("the table %q has no column %q, only %q", title, column, rows[0])
		}
		for _, row := range rows[1:] {
			if row[0] == name {
				return quantity(row[at])
			}
		}
		return 0, fmt.Errorf("the table %q has no row %q", title, name)
	}
	return 0, fmt.Errorf("there is no table %q", table)
}

// quantity reads a cell: a number, which may have a unit. Times are milliseconds.
func quantity(text string) (float64, error) {
	if d, err := time.ParseDuration(text); err == nil && strings.HasSuffix(text, "s") {
		return float64(d) / float64(time.Millisecond), nil
	}
	number, _, _ := strings.Cut(text, " ")
	v, err := strconv.ParseFloat(strings.ReplaceAll(number, ",", ""), 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a figure", text)
	}
	return v, nil
}

// shown is a figure as a document shows it: with so many digits that are not zero.
func shown(v float64, digits int) string {
	if v == 0 {
		return "0"
	}
	decimals := digits - 1 - int(math.Floor(math.Log10(math.Abs(v))))
	unit := math.Pow10(decimals)
	v = math.Round(v*unit) / unit
	s := strconv.FormatFloat(v, 'f', max(0, decimals), 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	whole, fraction, _ := strings.Cut(s, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if fraction == "" {
		return whole
	}
	return whole + "." + fraction
}

// pattern finds a statement in its page, with a group for each figure.
func (s *statement) pattern() *regexp.Regexp {
	text := regexp.QuoteMeta(s.text)
	text = strings.ReplaceAll(text, regexp.QuoteMeta("{}"), `([0-9][0-9,.]*[0-9]|[0-9]|\?)`)
	return regexp.MustCompile(strings.ReplaceAll(text, " ", `\s+`))
}

// TestFigures: every measured figure of the README and the manual is that of bench/RESULTS.md, and
// there are no others.
func TestFigures(t *testing.T) {
	text, err := os.ReadFile("../../bench/RESULTS.md")
	require.NoError(t, err)
	measured := readResults(string(text))
	pages := map[string]string{}
	for _, name := range append(figurePages(t), "README.md") {
		page, err := os.ReadFile(filepath.Join("../..", name))
		require.NoError(t, err)
		pages[name] = string(page)
	}
	known := map[string]string{} // the pages without the statements
	for name, page := range pages {
		known[name] = page
	}
	var wrong []string
	for i := range statements {
		s := &statements[i]
		require.Equal(t, len(s.figures), strings.Count(s.text, "{}"), s.text)
		at := s.pattern().FindStringSubmatchIndex(pages[s.page])
		if at == nil {
			wrong = append(wrong, fmt.Sprintf("%s does not say %q any more: correct or remove it in figures_test.go", s.page, s.text))
			continue
		}
		page := pages[s.page]
		says := strings.Join(strings.Fields(page[at[0]:at[1]]), " ")
		for k := len(s.figures) - 1; k >= 0; k-- { // from the last, so that places stay
			f := s.figures[k]
			v, err := f.measure(measured)
			if err != nil {
				wrong = append(wrong, fmt.Sprintf("%s says %q; bench/RESULTS.md: %v", s.page, says, err))
				continue
			}
			from, to := at[2+2*k], at[3+2*k]
			if want := shown(v, f.digits); page[from:to] != want {
				wrong = append(wrong, fmt.Sprintf("%s says %s in %q; bench/RESULTS.md has %s (%v), in %s", s.page, page[from:to], says, want, v, f.from))
				page = page[:from] + want + page[to:]
			}
		}
		if *update && page != pages[s.page] {
			require.NoError(t, os.WriteFile(filepath.Join("../..", s.page), []byte(page), 0o644))
		}
		pages[s.page] = page
		known[s.page] = s.pattern().ReplaceAllString(known[s.page], "")
	}
	if *update {
		t.Log("written: run .ci/wrap --fix, and read the sentences")
		for _, w := range wrong {
			t.Log(w)
		}
		return
	}
	require.Empty(t, strings.Join(wrong, "\n"), "run: go test ./internal/manual -run TestFigures -update")

	var unknown []string
	for name, page := range known {
		for _, other := range notMeasured[name] {
			before := len(page)
			page = regexp.MustCompile(strings.ReplaceAll(regexp.QuoteMeta(other.text), " ", `\s+`)).ReplaceAllString(page, "")
			require.NotEqual(t, before, len(page), "%s does not say %q any more: remove it from figures_test.go", name, other.text)
		}
		for _, at := range measurement.FindAllStringIndex(page, -1) {
			unknown = append(unknown, fmt.Sprintf("%s: … %s …", name, strings.Join(strings.Fields(page[max(0, at[0]-40):min(len(page), at[1]+20)]), " ")))
		}
	}
	slices.Sort(unknown)
	require.Empty(t, strings.Join(unknown, "\n"), "figures that bench/RESULTS.md does not give: add the sentence to statements, or to notMeasured with the reason")
}

// measurement is what a figure looks like that somebody measured. Limits and defaults are in MiB
// and KiB, and those in milliseconds stand with their key.
var measurement = regexp.MustCompile(`[0-9][0-9,.]*\s+(?:events/s|events\s+a\s+second|events\s+per\s+second|µs|MB|kB|GB|ms|times\s+(?:as|faster|slower|more|less))\b`)

// notMeasured are other numbers with such units, by page, each with its source.
var notMeasured = map[string][]struct{ text, why string }{
	"docs/guarantees.md": {
		{"a window of 100 ms", "a setting of the crash tests"},
		{"sends pages of 30 MB", "what the test sends"},
	},
	"docs/kafka.md": {{"The AWS SDK adds 3.5 MB to the binary", "the size of the binary with and without it"}},
	"docs/operate.md": {
		{"`source.poll_fastest` (100 ms)", "a default"},
		{"With 20 events a second, half of them are read within 100 ms", "follows from 5 polls a second"},
		{"(six lanes, or 100 ms)", "a setting"},
		{"with 150 events a second", "the load of make soak, whose table follows"},
		{"It takes some 40 MB of memory", "measured with relay verify --state, for which there is no benchmark"},
	},
	"docs/sizing.md": {
		{"at most 8,000 events a second", "100 events a page, 80 requests a second"},
		{"with 20 events a second", "the load of the benchmark"},
		{"below 1 MB for each lane | | ten earlier positions after moves by hand | the same | below 1 MB", "the size of the files"},
		{"An event has 0.5 to 1 kB in the usual case", "the size of WorkOS's examples"},
		{"about 1.2 kB for each event and replica, so ten million events are some 12 GB", "an event and its headers"},
		{"Both buses take 1 MB", "their defaults"},
	},
	"docs/state.md": {{"takes some 15 MB of memory", "measured with relay list, for which there is no benchmark"}},
}

// figurePages are the pages of the manual that people write.
func figurePages(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	var out []string
	for _, name := range names {
		switch base := filepath.Base(name); base {
		case "configuration.md", "event-types.md", "licenses.md", "metrics.md", "troubleshoot.md": // generated, or messages that a test compares
		default:
			out = append(out, "docs/"+base)
		}
	}
	require.Greater(t, len(out), 10)
	return out
}

func TestShownFigures(t *testing.T) {
	for want, v := range map[string]float64{"51,000": 51148, "8.9": 8.9, "38": 38.4, "150,000": 153611, "1": 0.999, "0.52": 0.521, "100": 104.4, "1,200": 1234.5} {
		require.Equal(t, want, shown(v, 2), v)
	}
	for text, want := range map[string]float64{"51,148": 51148, "103.6 MB": 103.6, "38ms": 38, "3.39s": 3390, "97 %": 97, "0s": 0} {
		v, err := quantity(text)
		require.NoError(t, err)
		require.InDelta(t, want, v, 1e-6)
	}
	_, err := quantity("-")
	require.Error(t, err)
	r := readResults("## A, 0s\n\n|  | b | c |\n| --- | ---: | ---: |\n| x | 1 | 2 |\n\n## D\n\n| n | b |\n| --- | --- |\n| 10 | 3 |\n")
	v, err := r.cell("A", "x", "c")
	require.NoError(t, err)
	require.InDelta(t, 2, v, 0)
	_, err = r.cell("A", "y", "c")
	require.ErrorContains(t, err, `no row "y"`)
	_, err = r.cell("D", "10", "c")
	require.ErrorContains(t, err, `no column "c"`)
}
