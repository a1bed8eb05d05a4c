package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v4"
)

// asyncAPI runs `relay types --asyncapi` with a configuration and returns the document, as text and
// read.
func asyncAPI(t *testing.T, file string) (string, map[string]any) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	none := func(string) (string, bool) { return "", false }
	require.Equal(t, exitDone, execute(t.Context(), []string{"--config", file, "types", "--asyncapi"}, none, &stdout, &stderr), stderr.String())
	var doc map[string]any
	require.NoError(t, yaml.Load(stdout.Bytes(), &doc))
	return stdout.String(), doc
}

func TestTheAsyncAPIDocumentIsCurrent(t *testing.T) {
	t.Parallel()
	text, doc := asyncAPI(t, "testdata/asyncapi.yaml")
	published, err := os.ReadFile("../../docs/asyncapi.yaml")
	require.NoError(t, err)
	require.Equal(t, text, string(published), "out of date: make generate")
	require.Contains(t, doc["channels"], "dsync.user.created")
	require.Contains(t, doc["channels"], "relay.dead_letter")
}

func TestTheAsyncAPIDocumentFollowsTheRoutes(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"raw", "cloudevents", "cloudevents_structured"} {
		t.Run(encoding, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "relay.yaml")
			require.NoError(t, os.WriteFile(file, []byte(`
encoding: `+encoding+`
source: {events: ["dsync.*", "user.*"]}
sinks:
  - {name: a-bus, type: nats, url: "nats://nats.example:4333,nats://other:4222", auth: {user: relay, password: secret}, topic_prefix: acme.}
  - {name: b, type: kafka, brokers: ["kafka.example:9093"], tls: {enabled: true}, events: ["dsync.*"]}
  - {name: c, type: stdout}
routes:
  - {events: ["dsync.user.*"], topic: people}
  - {events: ["user.*"], drop: true}
`), 0o600))
			text, doc := asyncAPI(t, file)
			require.NotContains(t, text, "secret")
			servers := doc["servers"].(map[string]any)
			require.Len(t, servers, 2)
			require.Equal(t, "nats.example:4333", servers["a-bus"].(map[string]any)["host"])
			require.Equal(t, "kafka-secure", servers["b"].(map[string]any)["protocol"])
			channels := doc["channels"].(map[string]any)
			require.Contains(t, channels, "acme.people")
			people := channels["people"].(map[string]any)
			require.Len(t, people["messages"], 3)
			require.Equal(t, []any{map[string]any{"$ref": "#/servers/b"}}, people["servers"])
			require.NotContains(t, channels, "user.created")
			everyReferenceLeadsSomewhere(t, doc, doc)
		})
	}
}

// everyReferenceLeadsSomewhere follows each $ref of v.
func everyReferenceLeadsSomewhere(t *testing.T, doc, v any) {
	t.Helper()
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			everyReferenceLeadsSomewhere(t, doc, e)
		}
	case map[string]any:
		for name, e := range v {
			if name != "$ref" {
				everyReferenceLeadsSomewhere(t, doc, e)
				continue
			}
			at := doc
			for part := range strings.SplitSeq(strings.TrimPrefix(e.(string), "#/"), "/") {
				require.Contains(t, at, part, "%s", e)
				at = at.(map[string]any)[part]
			}
		}
	}
}
