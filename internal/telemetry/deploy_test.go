package telemetry

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"
)

const (
	alertsFile    = "../../deploy/prometheus/alerts.yml"
	dashboardFile = "../../deploy/grafana/relay.json"
)

// unwatched are the metrics that neither the dashboard nor an alert needs.
var unwatched = []string{
	"relay_committed_events_total", // the sum of relay_events_total
	"relay_lane_holder_info",       // names of processes
}

// alertExprs returns the expression of each alert by its name.
func alertExprs(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(alertsFile)
	require.NoError(t, err)
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &file))
	out := map[string]string{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			out[r.Alert] = r.Expr
		}
	}
	require.NotEmpty(t, out)
	return out
}

type panel struct {
	ID      int
	Type    string
	Title   string
	Targets []struct{ Expr string }
	GridPos struct{ X, Y, W, H int }
}

func dashboard(t *testing.T) (panels []panel, queries []string) {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	require.NoError(t, err)
	var file struct {
		Panels     []panel
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	require.NoError(t, json.Unmarshal(text, &file))
	var variables []string
	for _, v := range file.Templating.List {
		variables = append(variables, v.Name)
		if v.Definition != "" {
			queries = append(queries, v.Definition)
		}
	}
	require.Equal(t, []string{"datasource", "job", "lane"}, variables)
	for _, p := range file.Panels {
		for _, target := range p.Targets {
			queries = append(queries, target.Expr)
		}
	}
	return file.Panels, queries
}

var (
	metricName = regexp.MustCompile(`\b(?:relay|go|process)_[a-z_]+\b`)
	quotedText = regexp.MustCompile(`"[^"]*"`)
	matchers   = regexp.MustCompile(`([a-z_]+)\{([^}]*)\}`)
	grouping   = regexp.MustCompile(`\b(?:by|without|on|ignoring) \([^)]*\)`)
)

// served is every metric that relay serves, with its labels; those of a histogram under the names
// that queries use.
func served(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for series := range scrape(t, NewMetrics("test")) {
		name, _, _ := strings.Cut(series, "{")
		out[name] = nil
	}
	for _, f := range declared {
		names := []string{f.name}
		if f.kind == histogram {
			names = []string{f.name + "_bucket", f.name + "_sum", f.name + "_count"}
		}
		for _, name := range names {
			out[name] = append([]string{"le"}, f.labels...)
		}
	}
	return out
}

func TestDashboardAndAlertsKnowTheMetrics(t *testing.T) {
	have, used := served(t), map[string]bool{}
	check := func(where, expr string) {
		for _, name := range metricName.FindAllString(grouping.ReplaceAllString(quotedText.ReplaceAllString(expr, ""), ""), -1) {
			require.Contains(t, have, name, "%s uses a metric that there is not: %s", where, expr)
			used[regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")] = true
		}
		for _, m := range matchers.FindAllStringSubmatch(expr, -1) {
			if !strings.HasPrefix(m[1], "relay_") {
				continue
			}
			for _, matcher := range strings.Split(m[2], ",") {
				label := regexp.MustCompile(`^\s*([a-z_]+)`).FindString(matcher)
				require.Contains(t, append(have[m[1]], "job"), strings.TrimSpace(label), "%s: %s has no such label: %s", where, m[1], expr)
			}
		}
	}
	for name, expr := range alertExprs(t) {
		check("alert "+name, expr)
	}
	_, queries := dashboard(t)
	for _, q := range queries {
		check("the dashboard", q)
	}
	for _, f := range declared {
		require.Equal(t, !slices.Contains(unwatched, f.name), used[f.name], "%s: every metric is shown or alerted on, or listed as unwatched", f.name)
	}
}

func TestDashboardIsWellLaidOut(t *testing.T) {
	panels, _ := dashboard(t)
	var rows []string
	ids := map[int]bool{}
	at := map[[2]int]string{}
	for _, p := range panels {
		require.False(t, ids[p.ID], "id %d is taken twice", p.ID)
		ids[p.ID] = true
		if p.Type == "row" {
			rows = append(rows, p.Title)
		} else {
			require.NotEmpty(t, p.Targets, p.Title)
		}
		require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, p.Title)
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				cell := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				require.Empty(t, at[cell], "%s lies upon it", p.Title)
				at[cell] = p.Title
			}
		}
	}
	require.Equal(t, []string{"Overview", "Delivery: from WorkOS to the bus", "Source: the Events API", "Bus", "Process", "State: snapshots", "Verification: what a lane finds on its bus"}, rows)
}

// TestPromtool has Prometheus's own tool look at everything in deploy/prometheus, and at the
// dashboard's queries.
func TestPromtool(t *testing.T) {
	tool := os.Getenv("RELAY_TEST_PROMTOOL")
	if tool == "" {
		t.Skip("RELAY_TEST_PROMTOOL names no promtool; .ci/promtool gets one")
	}
	run := func(t *testing.T, args ...string) {
		cmd := exec.CommandContext(t.Context(), tool, args...)
		cmd.Dir = filepath.Dir(alertsFile)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	t.Run("check rules", func(t *testing.T) { run(t, "check", "rules", "--lint=all", "--lint-fatal", "alerts.yml") })
	t.Run("test rules", func(t *testing.T) { run(t, "test", "rules", "alerts_test.yml") })
	t.Run("check config", func(t *testing.T) { run(t, "check", "config", "prometheus.yml") })
	t.Run("queries of the dashboard", func(t *testing.T) {
		_, queries := dashboard(t)
		var b strings.Builder
		b.WriteString("groups:\n  - name: dashboard\n    rules:\n")
		for i, q := range queries {
			if !strings.HasPrefix(q, "label_values(") {
				q = strings.NewReplacer("$__rate_interval", "1m", "$lane", "nats", "$job", "relay").Replace(q)
				fmt.Fprintf(&b, "      - record: dashboard:query%d\n        expr: %q\n", i, q)
			}
		}
		file := filepath.Join(t.TempDir(), "dashboard.yml")
		require.NoError(t, os.WriteFile(file, []byte(b.String()), 0o600))
		run(t, "check", "rules", file)
	})
}

// TestEveryAlertHasARunbook: the annotation runbook_url of each alert leads to a section of
// docs/runbooks.md, which says the same four things of each, and wakes somebody for what is
// critical. The page has no other sections.
func TestEveryAlertHasARunbook(t *testing.T) {
	const installed = "file:///usr/share/doc/relay/runbooks.md"
	text, err := os.ReadFile(alertsFile)
	require.NoError(t, err)
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert               string
				Labels, Annotations map[string]string
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &file))
	page, err := os.ReadFile("../../docs/runbooks.md")
	require.NoError(t, err)
	sections := map[string]string{}
	for _, s := range strings.Split(string(page), "\n## ")[1:] {
		name, body, _ := strings.Cut(s, "\n")
		sections[name] = body
	}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			require.Equal(t, installed+"#"+strings.ToLower(r.Alert), r.Annotations["runbook_url"], r.Alert)
			body := sections[r.Alert]
			for _, part := range []string{"Means", "Look at", "Do", "Wake somebody"} {
				require.Regexp(t, `(?m)^- \*\*`+part+`:\*\* \S+`, body, "docs/runbooks.md, %s", r.Alert)
			}
			answer := map[string]string{"critical": "yes", "warning": "no"}[r.Labels["severity"]]
			require.NotEmpty(t, answer, r.Alert)
			require.Regexp(t, `\*\*Wake somebody:\*\* `+answer+`\b`, body, r.Alert)
			delete(sections, r.Alert)
		}
	}
	require.Empty(t, sections, "docs/runbooks.md has sections of no alert")
}

// Every alert has a test that sees it fire.
func TestEveryAlertIsTested(t *testing.T) {
	tests, err := os.ReadFile(filepath.Join(filepath.Dir(alertsFile), "alerts_test.yml"))
	require.NoError(t, err)
	for _, name := range slices.Sorted(maps.Keys(alertExprs(t))) {
		fires := regexp.MustCompile(`(?s)alertname: ` + name + `\n\s+exp_alerts:\n\s+- exp_labels|alertname="` + name + `", [^}]*alertstate="firing"[^}]*\}\)',`)
		require.Regexp(t, fires, string(tests), "no test sees %s fire", name)
	}
}
