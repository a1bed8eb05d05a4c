package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"

	"workos-relay/internal/config"
	"workos-relay/internal/kinds"
	"workos-relay/internal/toybus"
	"workos-relay/source/sourcetest"
)

// withBoards is the format of a relay that knows one kind of bus more: the line that a new bus
// needs.
var withBoards = config.For(append(slices.Clone(kinds.All), toybus.Kind))

// boardConfig is the configuration of one lane to a board, whose other keys are given.
func boardConfig(apiURL, dir, keys string) string {
	return fmt.Sprintf(`
source: {endpoint: %q, api_key: %s, poll_interval: 20ms, rate_limit: 5000}
sinks: [{name: wall, type: board, %s}]
checkpoint: {dir: %q}
admin: {listen: ""}
`, apiURL, testKey, keys, dir)
}

// doWithBoards runs a command line to its end.
func doWithBoards(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	r := startWith(t, withBoards, args...)
	code = r.wait(t)
	return code, r.stdout.String(), r.stderr.String()
}

// TestANewKindOfBusRunsByOneLine carries events to a bus that relay does not know, from the
// configuration file to the messages, and asks each command about it.
func TestANewKindOfBusRunsByOneLine(t *testing.T) {
	t.Parallel()
	const events = 250
	const later = `{"object":"event","id":"event_9%025d","event":"user.updated","data":{},"created_at":"2030-01-01T00:00:00Z"}`
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: events, Seed: 1}))
	dir, hall := t.TempDir(), "hall-"+rand.Text()
	pin := filepath.Join(dir, "pin")
	require.NoError(t, os.WriteFile(pin, []byte("4711\n"), 0o600))
	file := writeConfig(t, boardConfig(api.URL(), filepath.Join(dir, "data"), fmt.Sprintf("board: %s, topic_prefix: acme., pin_file: %q, pins: {at_once: 120}", hall, pin)))

	code, out, errs := doWithBoards(t, "--config", file, "check", unhurried, "--verbose")
	require.Equal(t, exitDone, code, out+errs)
	for _, line := range []string{"sink wall (board)", "delivery: exactly_once", "acme.user.created  <- user.created  board " + hall} {
		require.Contains(t, out, line)
	}
	require.Empty(t, toybus.Board(hall).Messages(), "relay check changes nothing")

	r := startWith(t, withBoards, "--config", file, "run")
	require.Eventually(t, func() bool { return len(toybus.Board(hall).Messages()) == events }, patient, often, &r.stderr)
	require.NoError(t, os.WriteFile(pin, []byte("4712\n"), 0o600))
	require.NoError(t, api.Append(fmt.Appendf(nil, later, 1)))
	require.Eventually(t, func() bool { return len(toybus.Board(hall).Messages()) == events+1 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	require.NotContains(t, r.stderr.String(), "4711")

	r = startWith(t, withBoards, "--config", file, "run")
	require.NoError(t, api.Append(fmt.Appendf(nil, later, 2)))
	require.Eventually(t, func() bool { return len(toybus.Board(hall).Messages()) == events+2 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)

	var ids []string
	for _, m := range toybus.Board(hall).Messages() {
		require.True(t, strings.HasPrefix(m.Topic, "acme."), m.Topic)
		ids = append(ids, m.ID)
	}
	require.Equal(t, api.IDs(sourcetest.Filter{}), ids, "in order, each once, also after a restart")
	require.LessOrEqual(t, toybus.Board(hall).LargestBatch(), 120, "pages are gathered up to the limit of the bus")
	pins := toybus.Board(hall).PINs()
	require.Equal(t, "4711", pins[0])
	require.Equal(t, "4712", pins[len(pins)-1], "a secret follows its file")

	code, out, errs = doWithBoards(t, "--config", file, "checkpoint", "show", unhurried, "--json")
	require.Equal(t, exitDone, code, errs)
	var shown []map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &shown))
	require.Len(t, shown, 1)
	require.Equal(t, "bus", shown[0]["place"], out)
	code, out, errs = doWithBoards(t, "--config", file, "verify", "--since", "earliest", "--until", "2031-01-01T00:00:00Z")
	require.Equal(t, exitDone, code, out+errs)
	require.Contains(t, out, "No fault found")
	tail := startWith(t, withBoards, "--config", file, "tail", "--from-sink", "--since", "earliest", "--events", "user.updated")
	require.Eventually(t, func() bool { return strings.Contains(tail.stdout.String(), fmt.Sprintf("event_9%025d", 2)) }, patient, often, &tail.stderr)
	require.Equal(t, exitDone, tail.stop(t), &tail.stderr)
	require.NotContains(t, tail.stdout.String(), "user.created")
	code, out, errs = doWithBoards(t, "--config", file, "types", "--asyncapi")
	require.Equal(t, exitDone, code, errs)
	var document struct {
		Servers  map[string]map[string]string
		Channels map[string]struct{ Bindings map[string]map[string]string }
	}
	require.NoError(t, yaml.Load([]byte(out), &document))
	require.Equal(t, map[string]string{"protocol": "board", "host": hall, "description": "Look at the board."}, document.Servers["wall"])
	require.Equal(t, "acme.user.created", document.Channels["acme.user.created"].Bindings["board"]["corner"])
}

// TestANewKindOfBusSaysWhatItCannotDo: a board with green pins holds no positions, and one that has
// burnt cannot be opened.
func TestANewKindOfBusSaysWhatItCannotDo(t *testing.T) {
	t.Parallel()
	api := newAPI(t, sourcetest.WithPopulation(sourcetest.Population{Events: 20, Seed: 1}))
	garden := "garden-" + rand.Text()
	file := writeConfig(t, boardConfig(api.URL(), t.TempDir(), "board: "+garden+", pins: {color: green}"))
	code, out, errs := doWithBoards(t, "--config", file, "check", unhurried)
	require.Equal(t, exitDone, code, out+errs)
	require.Contains(t, out, "delivery: at_least_once, since the bus cannot do exactly_once: board "+garden+": positions need red pins; set pins.color to red")
	r := startWith(t, withBoards, "--config", file, "run")
	require.Eventually(t, func() bool { return len(toybus.Board(garden).Messages()) == 20 }, patient, often, &r.stderr)
	require.Equal(t, exitDone, r.stop(t), &r.stderr)
	code, out, _ = doWithBoards(t, "--config", file, "checkpoint", "show", unhurried)
	require.Equal(t, exitDone, code)
	require.Regexp(t, `wall +file +event_`, out)

	file = writeConfig(t, boardConfig(api.URL(), t.TempDir(), "board: burnt"))
	code, _, errs = doWithBoards(t, "--config", file, "run")
	require.Equal(t, exitUsage, code, errs)
	require.Contains(t, errs, "the board has burnt: name another one in board")
}

// TestANewKindOfBusCanBeginAConfiguration: relay init offers it.
func TestANewKindOfBusCanBeginAConfiguration(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "relay.yaml")
	code, _, errs := doWithBoards(t, "--config", file, "init", "--bus", "wall")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, `--bus: "wall" is none of board, kafka, nats, embedded`)
	code, _, errs = doWithBoards(t, "--config", file, "init", "--bus", "board")
	require.Equal(t, exitDone, code, errs)
	cfg, err := withBoards.Load(file, func(string) (string, bool) { return testKey, true })
	require.NoError(t, err)
	require.Equal(t, "board hall", cfg.Sinks[0].Settings.Identity())
}

// TestTheKeysOfANewKindOfBus: its keys are known wherever those of other buses are.
func TestTheKeysOfANewKindOfBus(t *testing.T) {
	t.Parallel()
	for keys, want := range map[string]string{
		`colour: red, board: a`:                   `sinks[0].colour: unknown key`,
		`bord: a, board: b`:                       `sinks[0].bord: unknown key; did you mean "board"?`,
		`board: a, brokers: [b]`:                  `sinks[0].brokers: unknown key if type is board; it belongs to type kafka`,
		`topic_prefix: a.`:                        `sinks[0].board: is missing`,
		`board: "two words"`:                      `sinks[0].board: "two words" is not one word`,
		`board: a, pins: {color: blue}`:           `sinks[0].pins.color: "blue" is none of red, green`,
		`board: a, pins: {at_once: 1001}`:         `sinks[0].pins.at_once: "1001" is not between 1 and 1000`,
		`board: a, pin: "1", pin_file: /dev/null`: `sinks[0].pin_file: stands beside pin, and only one of them can hold; remove one`,
	} {
		code, _, errs := doWithBoards(t, "--config", writeConfig(t, boardConfig("http://127.0.0.1:1", t.TempDir(), keys)), "check")
		require.Equal(t, exitUsage, code, keys)
		require.Contains(t, errs, want, keys)
	}
	code, _, errs := do(t, "--config", writeConfig(t, boardConfig("http://127.0.0.1:1", t.TempDir(), "board: a")), "check")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, `sinks[0].type: "board" is none of nats, kafka, stdout`)

	schema := compiled(t, withBoards.Schema())
	for text, valid := range map[string]bool{
		"sinks: [{name: a, type: board, board: b, pins: {at_once: 5}}]":  true,
		"sinks: [{name: a, type: board}]":                                false,
		"sinks: [{name: a, type: board, board: b, brokers: [c]}]":        false,
		"sinks: [{name: a, type: board, board: b, pins: {color: blue}}]": false,
		"sinks: [{name: a, type: nats, board: b}]":                       false,
	} {
		var v any
		require.NoError(t, yaml.Load([]byte(text), &v))
		require.Equal(t, valid, schema.Validate(v) == nil, text)
	}
	require.Contains(t, string(withBoards.Reference()), "### `sinks[]`, `type: board`\n")
	require.Contains(t, string(withBoards.Example()), "    #type: board\n")
	require.NotContains(t, string(format.Schema())+string(format.Reference())+string(format.Example()), "board:")
}

// compiled returns a schema that can check values.
func compiled(t *testing.T, text []byte) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	require.NoError(t, c.AddResource("schema.json", doc))
	s, err := c.Compile("schema.json")
	require.NoError(t, err)
	return s
}

// TestTheHintsOfAFirstConfigurationHold: each line that relay init writes as a comment is a key
// that relay knows, once the # in front of it is gone.
func TestTheHintsOfAFirstConfigurationHold(t *testing.T) {
	t.Parallel()
	hint := regexp.MustCompile(`(?m)^( *)#(\w+: .*)$`)
	hints := 0
	for _, s := range starters(format.Kinds()) {
		text := (&initCmd{Address: s.Address}).text(&s, "/nonexistent/token")
		for _, at := range hint.FindAllStringSubmatchIndex(text, -1) {
			hints++
			with := text[:at[3]] + text[at[4]:]
			_, err := format.Parse("", []byte(with), func(string) (string, bool) { return testKey, true })
			if err != nil { // files that it names are missing here, and a key may stand beside its twin
				require.NotContains(t, err.Error(), "unknown key", text[at[4]:at[5]])
				require.NotContains(t, err.Error(), "is none of", text[at[4]:at[5]])
			}
		}
	}
	require.Greater(t, hints, 5)
}
