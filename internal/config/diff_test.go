package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDiff(t *testing.T) {
	dir := t.TempDir()
	ca, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "key")
	write := func(path, text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
	write(ca, "one")
	write(key, "sk_hunter22")
	parse := func(text string) *Config {
		t.Helper()
		c, err := relayFormat.Parse("config.yaml", []byte(text), env())
		require.NoError(t, err)
		return c
	}
	base := fmt.Sprintf(`
source: {api_key_file: %q}
sinks:
- {name: nats, type: nats, url: "nats://n:4222", tls: {ca_file: %q}}
- {name: kafka, type: kafka, brokers: [a:1], sasl: {mechanism: plain, user: u, password: hunter22}}
`, key, ca)
	base2 := strings.Replace(base, "type: nats, ", "type: nats, duplicate_window: 2m, create: {max_age: 0s, enabled: true}, ", 1)
	from := parse(base)
	require.Empty(t, from.Diff(parse(base)))
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"the order of sinks, and a default written out", fmt.Sprintf(`
id: workos
source: {api_key_file: %q}
sinks:
- {name: kafka, type: kafka, brokers: [a:1], sasl: {mechanism: plain, user: u, password: hunter22}}
- {name: nats, type: nats, url: "nats://n:4222", tls: {ca_file: %q}}`, key, ca), nil},
		{"a default written out for what exists already", base2, []string{"sinks[nats].create.max_age: changed", "sinks[nats].duplicate_window: changed"}},
		{"values", fmt.Sprintf(`
source: {api_key_file: %q, poll_interval: 2s, events: ["user.*"]}
sinks:
- {name: nats, type: nats, url: "nats://m:4222", tls: {ca_file: %q}}
- {name: kafka, type: kafka, brokers: [a:1, b:2], sasl: {mechanism: plain, user: u, password: hunter23}}
routes: [{events: ["dsync.*"], topic: dsync}]
dead_letter: {}`, key, ca), []string{
			"dead_letter.topic: from nothing to relay.dead_letter",
			"routes[0].events: from nothing to [dsync.*]",
			"routes[0].topic: from nothing to dsync",
			"sinks[kafka].brokers: from [a:1] to [a:1 b:2]",
			"sinks[kafka].sasl.password: changed",
			"sinks[nats].url: from nats://n:4222 to nats://m:4222",
			"source.events: from [*] to [user.*]",
			"source.poll_interval: from 1s to 2s",
		}},
		{"sinks", fmt.Sprintf("delivery: at_least_once\nsource: {api_key_file: %q}\nsinks: [{name: out, type: stdout}, {name: nats, type: nats, url: \"nats://n:4222\", tls: {ca_file: %q}}]", key, ca), []string{
			"delivery: from auto to at_least_once",
			"sinks[kafka]: from a sink to nothing",
			"sinks[nats].delivery: from auto to at_least_once",
			"sinks[out]: from nothing to a sink",
		}},
	} {
		t.Run(c.name, func(t *testing.T) { requireChanges(t, c.want, from.Diff(parse(c.text))) })
	}
	write(ca, "two")
	write(key, "sk_hunter23")
	changes := from.Diff(parse(base))
	requireChanges(t, []string{"sinks[nats].tls.ca_file: changed", "source.api_key: changed"}, changes)
	for _, c := range changes {
		require.True(t, c.Content, c.Key)
	}
	for _, c := range from.Diff(parse(strings.ReplaceAll(base, "hunter22}", "hunter23}"))) {
		require.Equal(t, c.Key != "sinks[kafka].sasl.password", c.Content, c.Key)
	}
}

func requireChanges(t *testing.T, want []string, got []Change) {
	t.Helper()
	var texts []string
	for _, c := range got {
		texts = append(texts, c.String())
	}
	require.Equal(t, want, texts)
}
