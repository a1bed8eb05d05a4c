package config

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"

	"workos-relay/conf/given"
)

// The files made from the declaration are what the declaration says today.
func TestGeneratedFilesAreInStep(t *testing.T) {
	for name, want := range relayFormat.Generated() {
		have, err := os.ReadFile(filepath.Join("..", "..", name))
		require.NoError(t, err, "run: go generate ./internal/config")
		require.True(t, bytes.Equal(want, have), "%s is stale; run: go generate ./internal/config", name)
	}
}

func TestExampleIsTheDefault(t *testing.T) {
	want, err := relayFormat.Default(withKey)
	require.NoError(t, err)
	have := parse(t, string(relayFormat.Example()), withKey)
	for _, c := range []*Config{want, have} { // the example names every key, the default none
		require.Len(t, c.Sinks, 1)
		n := c.Sinks[0].nats()
		n.Keys, n.Create.Keys = given.Keys{}, given.Keys{}
	}
	require.Equal(t, want, have)
}

// Every key is in the example, and what is commented out there can be parsed: only its values may
// contradict others.
func TestExampleHasEveryKey(t *testing.T) {
	text := regexp.MustCompile(`(?m)^( *)#(- |  )?([a-z_]+:)`).ReplaceAllString(string(relayFormat.Example()), "$1$2$3")
	_, err := relayFormat.Parse("config.yaml", []byte(text), withKey)
	var e *Error
	if err != nil {
		require.ErrorAs(t, err, &e)
		for _, p := range e.Problems {
			contradicts := strings.HasSuffix(p.Key, "_file") || strings.HasPrefix(p.Key, "sinks[")
			require.True(t, contradicts && !strings.Contains(p.Message, "unknown"), p.String())
		}
	}
	reference := string(relayFormat.Reference())
	relayFormat.root().walk("", func(path string, f *field) {
		require.Regexp(t, `(?m)^ *#? *(- )?`+f.name+`:`, string(relayFormat.Example()), path)
		if f.object == nil {
			require.Contains(t, reference, "| `"+f.name+"` |", path)
			require.NotEmpty(t, f.doc, path)
		} else {
			require.Regexp(t, "(?m)^##+ `"+regexp.QuoteMeta(path), reference)
		}
	})
}

// Defaults and bounds are legal values of their fields.
func TestDeclarationHolds(t *testing.T) {
	relayFormat.root().walk("", func(path string, f *field) {
		require.NotPanics(t, func() {
			for _, bound := range []string{f.minimum, f.maximum} {
				if bound != "" {
					f.bound(bound)
				}
			}
		}, path)
		if f.format != "" {
			require.Contains(t, formats, f.format, path)
		}
	})
}

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(relayFormat.Schema()))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	require.NoError(t, c.AddResource("config.schema.json", doc))
	s, err := c.Compile("config.schema.json")
	require.NoError(t, err)
	return s
}

// instance is text as an editor sees it: of the types of JSON, to which a time is a text.
func instance(t *testing.T, text string) any {
	t.Helper()
	text = regexp.MustCompile(`start: (2\S+)`).ReplaceAllString(text, `start: "$1"`)
	var v any
	require.NoError(t, yaml.Load([]byte(text), &v))
	return v
}

func TestSchemaAccepts(t *testing.T) {
	s := schema(t)
	for _, text := range []string{
		string(relayFormat.Example()), whole, "{}", "source:\nsinks:\n", "id: ${ID:-x}", "source: {rate_limit: \"${RATE}\", max_response: 1048576}",
		"sinks: [{name: \"${N}\", type: \"${T}\"}]", "source: {organization_id: \"\"}", "dead_letter: {topic: a.b}",
	} {
		require.NoError(t, s.Validate(instance(t, text)), text)
	}
}

func TestSchemaRefuses(t *testing.T) {
	s := schema(t)
	for _, text := range []string{
		"idd: a", "id: a.b", "source: {poll_interval: 5}", "source: {poll_interval: fast}", "source: {rate_limit: 0}", "source: {max_response: 32Mb}",
		"source: {api_key: a, api_key_file: b}", "source: {event_list: x}", "sinks: []", "sinks: [{name: a}]", "sinks: [{type: nats}]",
		"sinks: [{name: a, type: natz}]", "sinks: [{name: a, type: nats, brokers: [b]}]", "sinks: [{name: a, type: nats, create: {replica: 1}}]",
		"sinks: [{name: a, type: kafka, create: {partitions: many}}]", "sinks: [{name: a, type: kafka, delivery: none}]", "routes: {}", "dead_letter: null",
		"dead_letter: {topic: a..b}", "encoding: xml", "source: {backfill: {readers: 0}}", "delivery: twice", "admin: [a]",
	} {
		require.Error(t, s.Validate(instance(t, text)), text)
		_, err := relayFormat.Parse("", []byte(text), withKey)
		require.Error(t, err, "the loader is as strict: %s", text)
	}
}

func TestReferenceHasNoBrokenRows(t *testing.T) {
	for line := range strings.Lines(string(relayFormat.Reference())) {
		if strings.HasPrefix(line, "|") {
			require.Equal(t, 5, strings.Count(strings.ReplaceAll(line, `\|`, ""), "|"), line)
		}
	}
}
