package config

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/conf/unit"
)

// env looks names up in pairs of name and value.
func env(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i+1 < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

var withKey = env("WORKOS_API_KEY", "sk_test_1234567890")

func parse(t *testing.T, text string, lookup func(string) (string, bool)) *Config {
	t.Helper()
	c, err := relayFormat.Parse("config.yaml", []byte(text), lookup)
	require.NoError(t, err)
	return c
}

func TestDefaultNeedsOnlyTheKey(t *testing.T) {
	c, err := relayFormat.Default(withKey)
	require.NoError(t, err)
	require.Equal(t, "workos", c.ID)
	require.Equal(t, "sk_test_1234567890", c.Source.APIKey.Reveal())
	require.Equal(t, "https://api.workos.com", c.Source.Endpoint)
	require.Equal(t, []string{"*"}, c.Source.Events)
	require.Equal(t, Start{}, c.Source.Start)
	require.Equal(t, time.Second, c.Source.PollInterval)
	require.InDelta(t, 80, c.Source.RateLimit, 0)
	require.EqualValues(t, "comma", c.Source.EventList)
	require.Equal(t, 32*unit.MiB, c.Source.MaxResponse)
	require.Len(t, c.Sinks, 1)
	require.Equal(t, "nats", c.Sinks[0].Name)
	require.Equal(t, "auto", c.Sinks[0].Delivery)
	require.Nil(t, c.Sinks[0].kafka())
	require.Equal(t, "embedded", c.Sinks[0].nats().URL)
	require.Equal(t, "WORKOS", c.Sinks[0].nats().Stream)
	require.True(t, c.Sinks[0].nats().Embedded.SyncAlways)
	require.Empty(t, c.Routes)
	require.EqualValues(t, "raw", c.Encoding)
	require.Equal(t, 15*time.Second, c.TakeoverAfter)
	require.Nil(t, c.DeadLetter)
	require.Equal(t, "./relay-data", c.Checkpoint.Dir)
	require.Equal(t, "127.0.0.1:8080", c.Admin.Listen)
	require.Equal(t, 30*time.Second, c.ShutdownTimeout)
}

func TestDefaultWithoutKey(t *testing.T) {
	for _, lookup := range []func(string) (string, bool){env(), env("WORKOS_API_KEY", "")} {
		_, err := relayFormat.Default(lookup)
		require.EqualError(t, err, `source.api_key: is missing; set WORKOS_API_KEY in the environment, or name a file in api_key_file`)
	}
}

// An empty file, and one whose sections are all commented out, is as good as none.
func TestEmptyFile(t *testing.T) {
	want, err := relayFormat.Default(withKey)
	require.NoError(t, err)
	for _, text := range []string{"", "\n", "# nothing\n", "---\n", "source:\nsinks:\nroutes:\n", "{}", "\ufeffid: workos\n"} {
		require.Equal(t, want, parse(t, text, withKey), "%q", text)
	}
}

const whole = `
id: prod
source:
  endpoint: http://127.0.0.1:4101
  api_key: ${KEY}
  events: [dsync.*, user.created]
  organization_id: org_1
  start: 2026-01-31T00:00:00+01:00
  poll_interval: "${POLL:-250ms}"
  rate_limit: ${RATE}
  event_list: brackets
sinks:
  - name: nats
    type: nats
    url: nats://127.0.0.1:4222
    stream: WORKOS
    topic_prefix: acme.
    create: {enabled: false, replicas: 3, max_age: 24h, max_bytes: 1GiB}
    auth: {user: relay, password: "${NATS_PASSWORD}"}
  - name: kafka
    type: kafka
    brokers: ["${BROKER:-127.0.0.1:9092}"]
    events: ["dsync.user.*"]
    delivery: at_least_once
    topic_prefix: k.
    create: {partitions: 12, config: {retention.ms: 604800000, unclean.leader.election.enable: false}}
  - {name: out, type: stdout}
routes:
  - events: ["dsync.user.*"]
    topic: dsync.user
    key: data.directory_id
  - events: ["authentication.*"]
    drop: true
encoding: cloudevents
dead_letter: {}
admin: {listen: ""}
`

func TestWholeFile(t *testing.T) {
	c := parse(t, whole, env("KEY", "sk_live_1", "RATE", "12.5", "NATS_PASSWORD", "p$$w:{x"))
	require.Equal(t, "sk_live_1", c.Source.APIKey.Reveal())
	require.Equal(t, Start{From: checkpoint.Position{CreatedAt: time.Date(2026, 1, 30, 23, 0, 0, 0, time.UTC)}}, c.Source.Start)
	require.Equal(t, 250*time.Millisecond, c.Source.PollInterval)
	require.InDelta(t, 12.5, c.Source.RateLimit, 0)
	require.Len(t, c.Sinks, 3)
	require.Equal(t, 24*time.Hour, c.Sinks[0].nats().Create.MaxAge)
	require.Equal(t, unit.GiB, c.Sinks[0].nats().Create.MaxBytes)
	require.False(t, c.Sinks[0].nats().Create.Enabled)
	require.Equal(t, "p$$w:{x", c.Sinks[0].nats().Auth.Password.Reveal(), "a value is not expanded again")
	require.Equal(t, []string{"127.0.0.1:9092"}, c.Sinks[1].kafka().Brokers)
	require.Equal(t, 12, c.Sinks[1].kafka().Create.Partitions)
	require.Equal(t, 1, c.Sinks[1].kafka().Create.ReplicationFactor, "what is left out of a section keeps its default")
	require.Equal(t, map[string]string{"retention.ms": "604800000", "unclean.leader.election.enable": "false"}, c.Sinks[1].kafka().Create.Config)
	require.Equal(t, []string{"auto", "at_least_once", "auto"}, []string{c.Sinks[0].Delivery, c.Sinks[1].Delivery, c.Sinks[2].Delivery})
	require.Equal(t, []string{"acme.", "k.", ""}, []string{c.Sinks[0].Settings.Prefix(), c.Sinks[1].Settings.Prefix(), c.Sinks[2].Settings.Prefix()})
	require.Len(t, c.Routes, 2)
	require.Equal(t, "data.directory_id", c.Routes[0].Key)
	require.True(t, c.Routes[1].Drop)
	require.Equal(t, "relay.dead_letter", c.DeadLetter.Topic)
	require.Empty(t, c.Admin.Listen)
}

func TestAliases(t *testing.T) {
	c := parse(t, `
sinks:
  - {name: a, type: kafka, tls: &tls {enabled: true, server_name: &host kafka.example.com}}
  - {name: b, type: kafka, tls: *tls, client_id: *host}
`, withKey)
	require.Equal(t, c.Sinks[0].kafka().TLS, c.Sinks[1].kafka().TLS)
	require.Equal(t, "kafka.example.com", c.Sinks[1].kafka().ClientID)
}

// The content of a variable is one value: it opens no section, no list and no variable.
func TestEnvironmentIsInert(t *testing.T) {
	for _, value := range []string{
		"x\nadmin:\n  listen: 0.0.0.0:1", ": {", "[a, b]", "# not a comment", "${WORKOS_API_KEY}", "$", "*alias", "&anchor", "!!int 3", "'", `"`, "null", "~", "",
	} {
		c := parse(t, "sinks:\n- {name: n, type: kafka, client_id: \"a${NASTY}b\", sasl: {mechanism: plain, user: u, password: \"-${NASTY}-\"}}\n",
			env("NASTY", value, "WORKOS_API_KEY", "sk_1"))
		require.Equal(t, "a"+value+"b", c.Sinks[0].kafka().ClientID)
		require.Equal(t, "-"+value+"-", c.Sinks[0].kafka().SASL.Password.Reveal())
		require.Equal(t, "127.0.0.1:8080", c.Admin.Listen)
	}
}

func TestExpand(t *testing.T) {
	lookup := env("A", "1", "EMPTY", "")
	for text, want := range map[string]string{
		"": "", "plain": "plain", "${A}": "1", "x${A}y${A}z": "x1y1z", "$$": "$", "$${A}": "${A}", "$$$${A}": "$${A}", "$$${A}": "$1",
		"${EMPTY}": "", "${EMPTY:-d}": "d", "${NONE:-d}": "d", "${NONE:-}": "", "${NONE:-a$$b}": "a$b", "${NONE:-a:-b}": "a:-b", "${A:-d}": "1", "}{": "}{",
	} {
		got, _, err := expand(text, lookup)
		require.Nil(t, err, text)
		require.Equal(t, want, got, text)
	}
	for text, want := range map[string]string{
		"${NONE}": "the environment variable NONE is not set", "$A": "a $ that begins no ${NAME}", "a$": "a $ that begins no ${NAME}",
		"${A": "a ${ without its }", "${}": "a ${ that no name of a variable follows", "${1A}": "a ${ that no name of a variable follows",
		"${A-b}": "a ${ that no name of a variable follows", "${NONE:-${A}}": "the default of NONE holds a $",
	} {
		_, _, err := expand(text, lookup)
		require.NotNil(t, err, text)
		require.Equal(t, want, err.message, text)
	}
}

func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	require.NoError(t, os.WriteFile(key, []byte("sk_file_1 \r\n\n"), 0o600))
	c := parse(t, `
source: {api_key_file: "${DIR}/key"}
sinks: [{name: n, type: nats, auth: {user: u, password_file: "${DIR}/key"}}]
`, env("DIR", dir, "WORKOS_API_KEY", "sk_not_this"))
	require.Equal(t, "sk_file_1", c.Source.APIKey.Reveal())
	require.Equal(t, "sk_file_1", c.Sinks[0].nats().Auth.Password.Reveal())
	require.Equal(t, map[string]bool{key: true}, c.FilesInUse())
	password, err := c.SinkSecret("n", "auth.password", c.Sinks[0].nats().Auth.Password, nil)
	require.NoError(t, err)
	require.Equal(t, "sk_file_1", password.Latest().Reveal())

	require.NoError(t, os.WriteFile(key, []byte("sk_file_2"), 0o600))
	require.Equal(t, "sk_file_2", password.Latest().Reveal())
	require.Equal(t, "sk_file_1", c.Sinks[0].nats().Auth.Password.Reveal(), "a configuration does not change")

	fixed, err := parse(t, "", withKey).APIKey()
	require.NoError(t, err)
	require.False(t, fixed.Follows())
	require.True(t, fixed.Latest().IsSet())

	_, err = ReadSecretFile(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	for name, text := range map[string]string{"empty": "\n", "large": string(make([]byte, maxSecret+1))} {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		_, err = ReadSecretFile(file)
		require.ErrorContains(t, err, file)
	}
	_, err = ReadSecretFile(dir)
	require.EqualError(t, err, "the secret file "+dir+" is not a regular file; name a file that holds the secret and nothing else")
}

func TestSeveralSecrets(t *testing.T) {
	dir := t.TempDir()
	old, both := filepath.Join(dir, "old"), filepath.Join(dir, "both")
	require.NoError(t, os.WriteFile(old, []byte("whsec_1\n"), 0o600))
	require.NoError(t, os.WriteFile(both, []byte("whsec_2\n\n whsec_3 \r\n"), 0o600))
	vars := env("DIR", dir, "ONE", "whsec_0", "WORKOS_API_KEY", "sk_1")
	for text, want := range map[string][]string{
		"secret: whsec_0":                            {"whsec_0"},
		"secret: [\"${ONE}\", whsec_1]":              {"whsec_0", "whsec_1"},
		`secret_file: "${DIR}/old"`:                  {"whsec_1"},
		`secret_file: "${DIR}/both"`:                 {"whsec_2", "whsec_3"},
		`secret_file: ["${DIR}/old", "${DIR}/both"]`: {"whsec_1", "whsec_2", "whsec_3"},
	} {
		c := parse(t, `source: {webhook: {listen: "127.0.0.1:0", `+text+`}}`, vars)
		secrets, err := c.WebhookSecrets()
		require.NoError(t, err)
		require.Equal(t, want, secrets(), text)
		require.Equal(t, "[secret]", c.Hide(want[len(want)-1]), text)
		require.NotContains(t, fmt.Sprint(c.Redacted()), "whsec", text)
		require.NotContains(t, fmt.Sprintf("%v %+v %#v", c.Source.Webhook, c.Source.Webhook, c.Source.Webhook), "whsec", text)
	}
	for text, want := range map[string]string{
		"secret: []":                 "source.webhook.secret: is missing",
		`secret: ["", whsec_1]`:      "source.webhook.secret[0]: is empty",
		"secret: {a: b}":             "must be a single value",
		"secret_file: []":            "source.webhook.secret: is missing",
		`secret_file: ["${DIR}/no"]`: "source.webhook.secret_file[0]: the secret file ${DIR}/no does not exist",
		`secret: a, secret_file: b`:  "stands beside secret",
	} {
		_, err := relayFormat.Parse("c.yaml", []byte(`source: {webhook: {listen: "127.0.0.1:0", `+text+`}}`), vars)
		require.ErrorContains(t, err, want, text)
	}
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	_, err := relayFormat.Load(file, withKey)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, os.WriteFile(file, []byte("id: 7\nidd: 8\n"), 0o600))
	_, err = relayFormat.Load(file, withKey)
	var e *Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, []Problem{{File: file, Line: 2, Column: 1, Key: "idd", Message: "unknown key", Hint: `did you mean "id"?`}}, e.Problems)
	require.NoError(t, os.WriteFile(file, make([]byte, maxFile+1), 0o600))
	_, err = relayFormat.Load(file, withKey)
	require.ErrorContains(t, err, "larger than")
}

func TestStart(t *testing.T) {
	for _, text := range []string{"earliest", "latest", "event_01EHZNVPK3SFK441A1RGBFSHRT", "evt_1", "2026-01-31T00:00:00Z", "2h", "3d", "yesterday"} {
		var s Start
		require.NoError(t, s.UnmarshalText([]byte(text)))
		require.Equal(t, text, s.String())
	}
	for text, want := range map[string]string{
		"2026-01-31": "2026-01-31T00:00:00Z", "2026-01-31 15:04": "2026-01-31T15:04:00Z", "2026-01-31T15:04:05+01:00": "2026-01-31T14:04:05Z", "-90m": "90m",
	} {
		var s Start
		require.NoError(t, s.UnmarshalText([]byte(text)))
		require.Equal(t, want, s.String())
	}
	for _, text := range []string{"", "now", "2026-31-01", "0001-01-01T00:00:00Z", "event_", "event_a/b", "2 hours"} {
		require.Error(t, new(Start).UnmarshalText([]byte(text)), text)
	}
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]checkpoint.Position{
		"earliest": {}, "latest": {CreatedAt: now}, "2h": {CreatedAt: now.Add(-2 * time.Hour)}, "evt_1": {EventID: "evt_1"},
		"2026-11-29": {CreatedAt: now.Add(-36 * time.Hour)},
	} {
		var s Start
		require.NoError(t, s.UnmarshalText([]byte(text)))
		require.Equal(t, want, s.At(now), text)
	}
}

func TestHide(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte("hook\"secret\n"), 0o600))
	c := parse(t, `
source: {webhook: {listen: "127.0.0.1:0", secret_file: `+file+`}}
sinks: [{name: n, type: nats, url: "nats://h", auth: {user: u, password: hunter22}}]
`, withKey)
	key := c.Source.APIKey.Reveal()
	require.NotEmpty(t, key)
	require.Equal(t, `[secret] [secret] "[secret]" [secret] nats://[secret]@h plain`,
		c.Hide(key+` hook"secret "hook\"secret" hunter22 nats://u:other@h plain`))
}

func TestRedacted(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key"), []byte("sk_file_1"), 0o600))
	c := parse(t, `
source: {api_key_file: `+dir+`/key}
sinks:
  - {name: k, type: kafka, sasl: {mechanism: plain, user: u, password: hunter22}, create: {config: {sasl.jaas.config: hunter22, a: "http://u:hunter22@h"}}}
`, withKey)
	got := c.Redacted()
	require.NotContains(t, sprint(got), "hunter22")
	require.NotContains(t, sprint(got), "sk_file_1")
	source := got["source"].(map[string]any)
	require.Equal(t, "[secret]", source["api_key"])
	require.Equal(t, dir+"/key", source["api_key_file"])
	require.Equal(t, "1s", source["poll_interval"])
	require.Equal(t, "32MiB", source["max_response"])
	sink := got["sinks"].([]any)[0].(map[string]any)
	require.Equal(t, "kafka", sink["type"])
	require.Equal(t, []any{"127.0.0.1:9092"}, sink["brokers"])
	require.NotContains(t, sink, "url")
}

func TestFastestPoll(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"":                                    100 * time.Millisecond,
		"poll_interval: 1s":                   100 * time.Millisecond, // as config.example.yaml has it
		"poll_interval: 500ms":                500 * time.Millisecond,
		"poll_interval: 1m":                   time.Minute,
		"poll_interval: 1m, poll_fastest: 5s": 5 * time.Second,
		"poll_fastest: 1s":                    time.Second,
		"poll_interval: 200ms, poll_fastest: 20ms": 20 * time.Millisecond,
	} {
		c, err := relayFormat.Parse("config.yaml", []byte("source: {api_key: sk_x, "+text+"}\n"), env())
		require.NoError(t, err)
		require.Equal(t, want, c.Source.FastestPoll(), text)
	}
}
