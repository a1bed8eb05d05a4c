package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/internal/doctest"
	"workos-relay/source/sourcetest"
)

func pages(t *testing.T) []string {
	t.Helper()
	pages, err := filepath.Glob("../../docs/*.md")
	require.NoError(t, err)
	return append(pages, "../../README.md")
}

// world is what a block of commands finds.
type world struct {
	admin   string // the address of a running relay there
	env     []string
	files   map[string]string
	replace []string // what the page says, and what is there instead
}

// docFixtures are the worlds that a page may ask for. In each `relay` is this program, and the
// folder is empty but for what is said.
var docFixtures = map[string]func(t *testing.T) *world{
	"help":    func(*testing.T) *world { return &world{} },                  // nothing
	"fake":    func(t *testing.T) *world { return fakeWorld(t, false, "") }, // config.yaml: an Events API with events of 2026-11-01 and a NATS server that has them; no relay runs
	"running": func(t *testing.T) *world { return fakeWorld(t, true, "") },  // the same, and a relay runs on it, with its admin address
	"gap":     gapWorld,                                                     // the same as fake, but somebody has deleted an event from the stream
	"new":     newWorld,                                                     // config.yaml as in fake, before the first start
	"demo": func(t *testing.T) *world { // an empty directory and separate ports
		return &world{replace: []string{"relay demo", "relay demo --backlog 3000 --listen " + freeAddress(t) + " --admin " + freeAddress(t)}}
	},
	"kafka": kafkaWorld, // config.yaml: the same with a Kafka sink called kafka
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	require.NoError(t, err)
	return abs
}

func worldOn(t *testing.T, sink, more string) *world {
	t.Helper()
	api := newAPI(t, spread(300, 5))
	admin, embedded := freeAddress(t), freeAddress(t)
	dir := t.TempDir()
	config := fmt.Sprintf("source: {endpoint: %q, poll_interval: 20ms, rate_limit: 5000}\nsinks: [%s]\ncheckpoint: {dir: %q}\nadmin: {listen: %q}\n%s\n",
		api.URL(), sink, dir, admin, more)
	first := api.IDs(sourcetest.Filter{})[100]
	return &world{
		admin: admin,
		env:   []string{"WORKOS_API_KEY=" + testKey, "NATS_URL=", "KEY=0123456789abcdef"},
		files: map[string]string{"config.yaml": config},
		replace: []string{
			"127.0.0.1:8080", admin, "127.0.0.1:4222", embedded, "sk_…", testKey, "./relay-data", dir, "/var/lib/relay", dir,
			"event_01M6A6FT0000000000TP83Y158", first,
		},
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	url, _ := newNATS(t)
	return worldOn(t, fmt.Sprintf("{name: nats, type: nats, url: %q}", url), "")
}

func fakeWorld(t *testing.T, runs bool, more string) *world {
	t.Helper()
	w, _ := natsWorld(t, runs, more)
	return w
}

func gapWorld(t *testing.T) *world {
	t.Helper()
	w, js := natsWorld(t, false, "")
	s, err := js.Stream(t.Context(), "WORKOS")
	require.NoError(t, err)
	events := slices.DeleteFunc(stored(t, js, "WORKOS"), func(m *jetstream.RawStreamMsg) bool { return m.Header.Get("event-id") == "" })
	require.NoError(t, s.DeleteMsg(t.Context(), events[149].Sequence))
	return w
}

// natsWorld is the world of fake or, with a running relay, of running.
func natsWorld(t *testing.T, runs bool, more string) (*world, jetstream.JetStream) {
	t.Helper()
	url, js := newNATS(t)
	w := worldOn(t, fmt.Sprintf("{name: nats, type: nats, url: %q}", url), more)
	w.replace = append(w.replace, "nats://nats-1:4222", url)
	r := start(t, "run", "--config", writeConfig(t, strings.Replace(w.files["config.yaml"], "source: {", "source: {api_key: "+testKey+", ", 1)))
	require.Eventually(t, func() bool { return events(t, js) == 300 }, patient, often, &r.stderr)
	if runs {
		t.Cleanup(func() { r.stop(t) })
	} else {
		require.Equal(t, exitDone, r.stop(t), &r.stderr)
	}
	return w, js
}

func kafkaWorld(t *testing.T) *world {
	t.Helper()
	bus := newKafka(t)
	w := worldOn(t, fmt.Sprintf("{name: kafka, type: kafka, brokers: [%q], topic_prefix: %q, create: {partitions: 1}}", bus.brokers[0], bus.prefix), "id: "+bus.id+"\ndead_letter: {}")
	w.replace = append(w.replace, "localhost:9092", bus.brokers[0], "-t dsync", "-t "+bus.prefix+"dsync")
	r := start(t, "run", "--config", writeConfig(t, strings.Replace(w.files["config.yaml"], "source: {", "source: {api_key: "+testKey+", ", 1)))
	require.Eventually(t, func() bool { return atTip(w.admin) }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	return w
}

// TestTheCommandsOfTheDocs runs every command of the docs and the README, except for those of a
// walk-through.
func TestTheCommandsOfTheDocs(t *testing.T) {
	t.Parallel()
	ran := 0
	for _, page := range pages(t) {
		for _, b := range doctest.Blocks(t, page) {
			if b.Language != "sh" {
				require.NotEmpty(t, b.Language, "%s:%d: say what it is: sh, yaml, text, …", page, b.Line)
				require.NotContains(t, []string{"bash", "shell", "console"}, b.Language, "%s:%d: write ```sh", page, b.Line)
				continue
			}
			require.NotEmpty(t, b.Mark, "%s:%d: a block of commands without a mark. %s", page, b.Line, doctest.Marks)
			if b.Mark == "walk" || strings.HasPrefix(b.Mark, "walk, ") {
				continue // tests/field runs it on the built binary
			}
			if why, none := strings.CutPrefix(b.Mark, "none:"); none {
				require.NotEmpty(t, strings.TrimSpace(why), "%s:%d: say why it is not run", page, b.Line)
				continue
			}
			ran++
			t.Run(fmt.Sprintf("%s:%d", b.Page, b.Line), func(t *testing.T) { runBlock(t, &b) })
		}
	}
	require.Greater(t, ran, 10)
}

var (
	wantsExit = regexp.MustCompile(`^exit (\d)$`)
	wantsText = regexp.MustCompile(`^until "(.*)"$`)
)

func runBlock(t *testing.T, b *doctest.Block) {
	for _, tool := range []string{"bash", "curl", "openssl", "kcat", "sed"} {
		if _, err := exec.LookPath(tool); err != nil && (tool == "bash" || regexp.MustCompile(`\b`+tool+`\b`).MatchString(b.Text)) {
			t.Skip("there is no " + tool)
		}
	}
	name, option, _ := strings.Cut(b.Mark, ", ")
	fixture := docFixtures[name]
	require.NotNil(t, fixture, "there is no fixture %q. %s", name, doctest.Marks)
	w := fixture(t)
	here := strings.NewReplacer(w.replace...)
	dir := t.TempDir()
	for file, text := range w.files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600))
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	bin := t.TempDir()
	wrapper := fmt.Sprintf("#!/bin/sh\n%s=1 exec %q \"$@\"\n", asRelay, exe)
	require.NoError(t, os.WriteFile(filepath.Join(bin, "relay"), []byte(wrapper), 0o700))

	var out, stdout output
	ctx, cancel := context.WithTimeout(t.Context(), 2*patient)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", here.Replace(b.Text))
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, io.MultiWriter(&out, &stdout), &out
	cmd.Env = append(os.Environ(), append(w.env, "PATH="+bin+":"+os.Getenv("PATH"))...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches all of a terminal's group
	require.NoError(t, cmd.Start())
	want := 0
	if m := wantsExit.FindStringSubmatch(option); m != nil {
		want = int(m[1][0] - '0')
	} else if m := wantsText.FindStringSubmatch(option); m != nil {
		require.Eventually(t, func() bool { return strings.Contains(out.String(), m[1]) }, patient, often, "it does not print what the page waits for: %s", &out)
		require.NoError(t, syscall.Kill(-cmd.Process.Pid, syscall.SIGINT))
	} else {
		require.Empty(t, option, doctest.Marks)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil {
		require.ErrorAs(t, err, &exit, &out)
	}
	require.Equal(t, want, cmd.ProcessState.ExitCode(), "%s\n%s", b.Text, &out)
	if want := doctest.Shape(here.Replace(b.Output)); b.Output != "" && !regexp.MustCompile(want).MatchString(doctest.Squeeze(stdout.String())) {
		require.Regexp(t, want, doctest.Squeeze(out.String()), "with what it says on standard error")
	}
}

// TestTheConfigurationsOfTheDocs reads every configuration that a page shows: a whole one, sinks,
// or keys of a sink.
func TestTheConfigurationsOfTheDocs(t *testing.T) {
	t.Parallel()
	read := 0
	key := func(string) (string, bool) { return "0123456789abcdef", true }
	files := regexp.MustCompile(`(\w+)_file: /run/secrets/[\w.]+`)
	indent := func(text, by string) string { return by + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+by) }
	for _, page := range pages(t) {
		for _, b := range doctest.Blocks(t, page) {
			if b.Language != "yaml" || strings.HasPrefix(b.Mark, "none:") || b.Page == "configuration.md" {
				continue // that one is generated from the declaration
			}
			read++
			text := files.ReplaceAllStringFunc(b.Text, func(s string) string {
				if strings.HasPrefix(s, "credentials_file") || strings.HasPrefix(s, "headers_file") { // these are files only
					return s
				}
				return files.ReplaceAllString(s, "$1: 0123456789abcdef")
			})
			whole := text
			switch {
			case strings.HasPrefix(text, "- "):
				whole = "sinks:\n" + indent(text, "  ")
			case strings.HasPrefix(text, "create:"), strings.HasPrefix(text, "sasl:"), strings.HasPrefix(text, "tls:"):
				whole = "sinks:\n  - name: kafka\n    type: kafka\n" + indent(text, "    ")
			}
			_, err := format.Parse(b.Page, []byte(whole), key)
			require.NoError(t, err, "%s:%d", page, b.Line)
		}
	}
	require.Greater(t, read, 5)
}

// TestThePagesAreLinked: no link of a page leads nowhere, and the index names every page.
func TestThePagesAreLinked(t *testing.T) {
	t.Parallel()
	links := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading := regexp.MustCompile(`(?m)^#+ (.*)$`)
	anchors := func(path string) []string {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		var out []string
		for _, m := range heading.FindAllStringSubmatch(string(text), -1) {
			anchor := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
			out = append(out, strings.ReplaceAll(anchor, " ", "-"))
		}
		return out
	}
	var indexed []string
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range links.FindAllStringSubmatch(string(text), -1) {
			path, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(path, "://") {
				continue
			}
			to := page
			if path != "" {
				to = filepath.Join(filepath.Dir(page), path)
			}
			require.FileExists(t, to, "%s links to %s", page, m[1])
			if anchor != "" {
				require.Contains(t, anchors(to), anchor, "%s links to %s", page, m[1])
			}
			if filepath.Base(page) == "README.md" && filepath.Base(filepath.Dir(absolute(t, page))) == "docs" {
				indexed = append(indexed, path)
			}
		}
	}
	for _, page := range pages(t) {
		if base := filepath.Base(page); base != "README.md" {
			require.True(t, slices.Contains(indexed, base), "docs/README.md does not name %s", base)
		}
	}
}
