package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func sprint(v any) string { return fmt.Sprintf("%v %#v", v, v) }

// Each mistake is printed in these words, at this place, and nothing else is.
func TestProblems(t *testing.T) {
	lookup := env("WORKOS_API_KEY", "sk_test_1234567890", "POLL", "hunter22", "EMPTY", "", "NASTY", "hunter22: {\n- x", "COLON", "hunter22:8080:x")
	for _, tc := range []struct{ name, text, want string }{
		{"unknown key", "sinks:\n  - name: a\n    typ: nats\n", `
config.yaml:2:5: sinks[0].type: is missing; one of nats, kafka, stdout
config.yaml:3:5: sinks[0].typ: unknown key; did you mean "type"?`},
		{"dash for underscore", "source:\n  api-key: sk_1\n", `
config.yaml:2:3: source.api-key: unknown key; did you mean "api_key"?`},
		{"run together", "source: {apikey: sk_1}\n", `
config.yaml:1:10: source.apikey: unknown key; did you mean "api_key"?`},
		{"singular", "sinks: [{name: k, type: kafka, broker: a:1}]\n", `
config.yaml:1:32: sinks[0].broker: unknown key; did you mean "brokers"?`},
		{"key of another section", "poll_interval: 1s\n", `
config.yaml:1:1: poll_interval: unknown key; did you mean source.poll_interval?`},
		{"key of another type", "sinks: [{name: k, type: nats, brokers: [a:1]}]\n", `
config.yaml:1:31: sinks[0].brokers: unknown key if type is nats; it belongs to type kafka`},
		{"key near nothing", "admin: {xyzzy: 1}\n", `
config.yaml:1:9: admin.xyzzy: unknown key; known here: listen, token, token_file, tls, open_metrics, show_payloads`},
		{"admin for everybody", "admin: {listen: \":8080\"}\n", `
config.yaml:1:17: admin.listen: ":8080" can be reached from other machines, and anyone there could control relay: set admin.token (or admin.token_file), or admin.tls.client_ca_file`},
		{"short admin token", "admin: {token: hunter22}\n", `
config.yaml:1:16: admin.token: is shorter than 16 characters; make one with: openssl rand -hex 24`},
		{"admin tls without a key", "admin:\n  tls: {cert_file: x}\n", `
config.yaml:2:8: admin.tls: needs both cert_file and key_file`},
		{"nested unknown key", "sinks: [{name: k, type: kafka, tls: {ca-file: x}}]\n", `
config.yaml:1:38: sinks[0].tls.ca-file: unknown key; did you mean "ca_file"?`},
		{"duplicate key", "id: a\nadmin: {}\nid: b\n", `
config.yaml:3:1: id: the key stands here twice, first on line 1; remove one`},
		{"duplicate sink name", "sinks:\n- {name: a, type: stdout}\n- {name: a, type: stdout}\n", `
config.yaml:3:10: sinks[1].name: sinks[0] has the name "a" already; each lane needs its own name`},
		{"unknown type", "sinks: [{name: a, type: natz, url: x, brokers: [y]}]\n", `
config.yaml:1:25: sinks[0].type: "natz" is none of nats, kafka, stdout; did you mean "nats"?`},
		{"placeholders on a bus without", "routes: [{events: [\"*\"], topic: \"w.{type}\"}]\nsinks: [{name: k, type: kafka, brokers: [x:1], create: {enabled: false}}]\n", `
config.yaml:1:33: routes[0].topic: has placeholders, and create.enabled is false, so relay cannot create the topics that it makes; set it to true (sink k)`},
		{"no topics for placeholders", "sinks: [{name: k, type: kafka, brokers: [x:1], create: {max_topics: 0}}]\n", `
config.yaml:1:69: sinks[0].create.max_topics: is 0: it must be at least 1 and at most 2000`},
		{"state of nothing", "sinks: [{name: k, type: nats, url: embedded, state: {entities: [], snapshot: first_start}}]\n", `
config.yaml:1:64: sinks[0].state.entities: names no kind of object, so the sink keeps no state; name some, such as [user, organization], or write ["*"] for all, or remove the section state`},
		{"verify too often", "verify: {every: 10m}\n", `
config.yaml:1:17: verify.every: "10m" is not between 1h and 720h`},
		{"nothing to verify", "sinks: [{name: k, type: stdout}]\nverify: {every: 24h}\n", `
config.yaml:2:17: verify.every: no sink keeps anything that could be compared; remove the section verify`},
		{"no sinks", "sinks: []\n", `
config.yaml:1:8: sinks: the list is empty; give at least one sink, or remove the key for an embedded NATS server`},
		{"missing name", "sinks:\n- type: stdout\n", `
config.yaml:2:3: sinks[0].name: is missing`},
		{"bad name", "id: a.b\nsinks: [{name: a b, type: stdout}]\n", `
config.yaml:1:5: id: "a.b" is not a valid name; write 1 to 64 of A-Z, a-z, 0-9, _ and -
config.yaml:2:16: sinks[0].name: "a b" is not a valid name; write 1 to 64 of A-Z, a-z, 0-9, _ and -`},
		{"empty id", "id: \"\"\n", `
config.yaml:1:5: id: "" is not a valid name; write 1 to 64 of A-Z, a-z, 0-9, _ and -`},
		{"duration without unit", "source: {poll_interval: 5}\n", `
config.yaml:1:25: source.poll_interval: "5" is not a duration; write a number with its unit, such as 500ms, 1s, 2m or 24h`},
		{"negative duration", "shutdown_timeout: -1s\n", `
config.yaml:1:19: shutdown_timeout: "-1s" is not a duration; write a number with its unit, such as 500ms, 1s, 2m or 24h`},
		{"duration out of bounds", "source: {poll_interval: 1ms}\n", `
config.yaml:1:25: source.poll_interval: "1ms" is not between 10ms and 1h`},
		{"size", "source: {max_response: 32Mb}\n", `
config.yaml:1:24: source.max_response: "32Mb" is not a size; write a number with B, KiB, MiB or GiB, such as 64MiB`},
		{"number", "source: {rate_limit: fast}\n", `
config.yaml:1:22: source.rate_limit: "fast" is not a number`},
		{"zero rate", "source: {rate_limit: 0}\n", `
config.yaml:1:22: source.rate_limit: "0" is not between 0.1 and 10000`},
		{"whole number", "sinks: [{name: k, type: kafka, create: {partitions: 1.5}}]\n", `
config.yaml:1:53: sinks[0].create.partitions: "1.5" is not a whole number`},
		{"bool", "sinks: [{name: k, type: kafka, create: {enabled: yes}}]\n", `
config.yaml:1:50: sinks[0].create.enabled: "yes" is neither true nor false`},
		{"enum", "encoding: cloudevent\n", `
config.yaml:1:11: encoding: "cloudevent" is none of raw, cloudevents, cloudevents_structured; did you mean "cloudevents"?`},
		{"pattern", "source:\n  events:\n    - dsync.*\n    - dsync.user.creatd\n", `
config.yaml:4:7: source.events[1]: "dsync.user.creatd" is not a known event type or pattern; did you mean "dsync.user.created"? (write +dsync.user.creatd to ask for a type that relay does not know)`},
		{"no pattern", "source: {events: []}\n", `
config.yaml:1:18: source.events: the list is empty; name at least one event type, or write ["*"]`},
		{"lane that carries nothing", "source: {events: [dsync.*]}\nsinks:\n- name: a\n  type: stdout\n  events: [user.*]\n", `
config.yaml:5:11: sinks[0].events: none of these types is among those of source.events; this lane would carry nothing`},
		{"pattern of a route", "routes:\n- events: [dsnc.user.*]\n  topic: a\n", `
config.yaml:2:12: routes[0].events[0]: "dsnc.user.*" is not a known event type or pattern; did you mean "dsync.user.*"? (write +dsnc.user.* to ask for a type that relay does not know)`},
		{"topic of the dead letters", "dead_letter: {topic: a..b}\n", `
config.yaml:1:22: dead_letter.topic: "a..b" is not a valid topic; write words of A-Z, a-z, 0-9, _ and - with single dots between them, 200 characters at most`},
		{"reserved topic", "dead_letter: {topic: relay.position.x}\n", `
config.yaml:1:22: dead_letter.topic: "relay.position.x" is not a topic for events: relay keeps its positions below relay.position`},
		{"dead letters among events", "routes: [{events: [user.*], topic: a}]\ndead_letter: {topic: a}\n", `
config.yaml:2:22: dead_letter.topic: "a" is a topic that events go to; dead letters have another form and need their own topic`},
		{"topic of a route", "routes:\n- events: [user.*]\n  topic: a..b\n", `
config.yaml:3:10: routes[0].topic: "a..b" is not a valid topic name: a part between dots is empty`},
		{"topic of what is dropped", "routes:\n- events: [user.*]\n  topic: a\n  drop: true\n", `
config.yaml:3:10: routes[0].topic: does not go together with drop: events that are dropped go nowhere`},
		{"route without events", "routes:\n- topic: a\n", `
config.yaml:2:3: routes[0].events: is missing`},
		{"once for all lanes", "sinks: [{name: a, type: stdout}, {name: b, type: stdout, topic_prefix: \"?\"}]\nroutes: [{events: [usr.*]}]\n", `
config.yaml:1:72: sinks[1].topic_prefix: "?" does not make a valid topic name: '?' is not allowed, only letters, digits, _ and -, with single dots between
config.yaml:2:20: routes[0].events[0]: "usr.*" is not a known event type or pattern; did you mean "user.*"? (write +usr.* to ask for a type that relay does not know)`},
		{"dead letter without value", "dead_letter:\n", `
config.yaml:1:13: dead_letter: has no value; write dead_letter: {} for its defaults, or remove it`},
		{"value forgotten", "id:\n", `
config.yaml:1:4: id: has no value; write "" for an empty text, or remove the key for the default`},
		{"start", "source: {start: 2026-31-01}\n", `
config.yaml:1:17: source.start: "2026-31-01" is not a place to start from; write earliest, latest, an event id, or a time: 2026-11-01, 2026-11-01 15:04 or 2026-11-01T15:04:05Z (UTC unless an offset such as +02:00 follows), today, yesterday, or 2h, 90m or 3d for that long ago`},
		{"endpoint", "source: {endpoint: api.workos.com}\n", `
config.yaml:1:20: source.endpoint: "api.workos.com" is not a URL; write https://host, such as https://api.workos.com`},
		{"credentials in the endpoint", "source: {endpoint: \"https://u:hunter22@h\"}\n", `
config.yaml:1:20: source.endpoint: "https://[secret]@h" holds credentials, which would end up in logs; remove them`},
		{"address", "admin: {listen: 8080}\n", `
config.yaml:1:17: admin.listen: "8080" is not an address; write host:port, such as 127.0.0.1:8080, or :8080 for every interface`},
		{"port", "admin: {listen: \"127.0.0.1:http\"}\n", `
config.yaml:1:17: admin.listen: "127.0.0.1:http" is not an address; write host:port, such as 127.0.0.1:8080, or :8080 for every interface`},
		{"from a sink's own checks", "sinks:\n- name: k\n  type: kafka\n  brokers: [nowhere]\n", `
config.yaml:4:12: sinks[0].brokers: broker "nowhere" is not host:port, such as kafka.example.com:9092: address nowhere: missing port in address`},
		{"from a sink's own checks, without its key", "sinks:\n- name: k\n  type: kafka\n  create: {partitions: 0}\n", `
config.yaml:4:24: sinks[0].create.partitions: is 0: it must be at least 1 and at most 100000`},
		{"two embedded servers", "sinks: [{name: a, type: nats, url: embedded}, {name: b, type: nats, url: embedded}]\n", `
config.yaml:1:74: sinks[1].url: sinks[0] runs an embedded server on 127.0.0.1:4222 already; write its address here, with another stream`},

		{"section for a value", "id: {a: 1}\n", `
config.yaml:1:5: id: must be a single value (text), not a section of keys`},
		{"list for a value", "shutdown_timeout: [1s]\n", `
config.yaml:1:19: shutdown_timeout: must be a single value (duration), not a list`},
		{"value for a section", "source: here\n", `
config.yaml:1:9: source: must be a section of keys, not a single value`},
		{"list for a section", "source:\n  - endpoint: x\n", `
config.yaml:2:3: source: must be a section of keys, not a list`},
		{"value for a list", "source: {events: dsync.*}\n", `
config.yaml:1:18: source.events: must be a list, not a single value; write [a, b], or each entry on its own line after a dash`},
		{"section for a list", "sinks: {name: a}\n", `
config.yaml:1:8: sinks: must be a list, not a section of keys; write [a, b], or each entry on its own line after a dash`},
		{"value in a list of sections", "sinks: [nats]\n", `
config.yaml:1:9: sinks[0]: must be a section of keys, not a single value`},
		{"list in a map", "sinks: [{name: k, type: kafka, create: {config: {a: [1]}}}]\n", `
config.yaml:1:53: sinks[0].create.config.a: must be a single value (text), not a list`},
		{"list at the top", "- a\n", `
config.yaml:1:1: must be a section of keys, not a list`},

		{"webhook without a secret", "source:\n  webhook: {listen: \":9\"}\n", `
config.yaml:2:12: source.webhook.secret: is missing; without it anybody could wake relay`},
		{"webhook path", "source:\n  webhook: {listen: \":9\", secret: s3cret, path: hook}\n", `
config.yaml:2:49: source.webhook.path: does not begin with /`},
		{"too many readers", "source: {backfill: {readers: 1000}}\n", `
config.yaml:1:30: source.backfill.readers: "1000" is not between 1 and 64`},

		{"unset variable", "id: a\nadmin: {listen: \"${LISTEN}\"}\n", `
config.yaml:2:17: admin.listen: the environment variable LISTEN is not set; set it, or give a default: ${LISTEN:-value}`},
		{"unset key", "source: {api_key: \"${OTHER_KEY}\"}\n", `
config.yaml:1:19: source.api_key: the environment variable OTHER_KEY is not set; set it, or give a default: ${OTHER_KEY:-value}`},
		{"variable set to nothing", "source: {api_key: \"${EMPTY}\"}\n", `
config.yaml:1:19: source.api_key: is empty; give it here, or name a file in api_key_file`},
		{"lone dollar", "id: a$b\n", `
config.yaml:1:5: id: a $ that begins no ${NAME}; write ${NAME} for a variable, $$ for a dollar`},
		{"bad duration from a variable", "source:\n  poll_interval: ${POLL}\n", `
config.yaml:2:18: source.poll_interval: "${POLL}", once expanded, is not a duration; write a number with its unit, such as 500ms, 1s, 2m or 24h`},
		{"YAML from a variable", "id: ${NASTY}\n", `
config.yaml:1:5: id: "${NASTY}", once expanded, is not a valid name; write 1 to 64 of A-Z, a-z, 0-9, _ and -`},
		{"pattern from a variable", "source: {events: [\"${POLL}\"]}\n", `
config.yaml:1:19: source.events[0]: "[from the environment]" is not a known event type (write +[from the environment] to ask for a type that relay does not know); ` + "`relay types`" + ` lists them`},
		{"a sink's own checks on a variable", "sinks: [{name: k, type: kafka, brokers: [\"${COLON}\"]}]\n", `
config.yaml:1:41: sinks[0].brokers: an address in brokers is not host:port, such as kafka.example.com:9092; give user and password under sasl, and each broker as a separate element`},
		{"variable in a key", "${ID}: a\n", `
config.yaml:1:1: ${ID}: unknown key; variables are expanded in values only`},
		{"key of two lines", "\"a\\nb: \\e[31m\": 1\n", `
config.yaml:1:1: a\nb: \u001b[31m: unknown key; known here: id, instance, source, sinks, routes, redaction, encoding, headers, delivery, takeover_after, dead_letter, checkpoint, verify, admin, telemetry, log, on_stop, shutdown_timeout`},
		{"secret with a space", "source: {api_key: sk_ hunter22}\n", `
config.yaml:1:19: source.api_key: holds a space, a line break or another character that no API key has`},
		{"secret of many lines from a variable", "source: {api_key: \"${NASTY}\"}\n", `
config.yaml:1:19: source.api_key: holds a space, a line break or another character that no API key has`},
		{"secret twice", "source:\n  api_key: sk_1\n  api_key_file: /nowhere\n", `
config.yaml:3:17: source.api_key_file: stands beside api_key, and only one of them can hold; remove one`},
		{"no secret file", "source: {api_key_file: /nowhere/key}\n", `
config.yaml:1:24: source.api_key_file: the secret file /nowhere/key does not exist; create it, or correct the path`},
		{"the secret for the name of its file", "source: {api_key_file: \"${WORKOS_API_KEY}\"}\n", `
config.yaml:1:24: source.api_key_file: the secret file ${WORKOS_API_KEY} does not exist; create it, or correct the path`},

		{"syntax", "id: a: b\n", `
config.yaml:1:6: no YAML: mapping values are not allowed in this context`},
		{"variable without quotes", "admin: {listen: ${LISTEN:-x}}\n", `
config.yaml:1:18: no YAML: did not find expected ',' or '}' while parsing a flow mapping; inside { } and [ ], put quotes around "${NAME}"`},
		{"tab", "source:\n\tid: a\n", `
config.yaml:2:1: no YAML: found character that cannot start any token while scanning for the next token; indent with spaces, not with tabs`},
		{"unclosed", "source: {\nid: [\n", `
config.yaml:3:1: no YAML: did not find expected node content while parsing a flow node`},
		{"not UTF-8", "id: a\nadmin: \xff\n", `
config.yaml:2:8: a byte that is not UTF-8; save the file as UTF-8 text`},
		{"control character", "id: \x01\n", `
config.yaml:1:5: a control character (0x01); save the file as UTF-8 text`},
		{"two documents", "id: a\n---\nid: b\n", `
config.yaml:2:1: a second document begins here; a configuration is one document: remove the ---`},
		{"merge key", "source:\n  <<: {endpoint: x}\n", `
config.yaml:2:3: source.<<: merge keys are not supported; use an alias for a whole section, or write the keys out`},
		{"tag", "id: !!str 3\n", `
config.yaml:1:5: id: tags such as !!str are not supported; remove it: the key decides the type`},
		{"list as a key", "? [a]\n: b\n", `
config.yaml:1:3: a key must be a plain word`},

		{"all at once, in the order of the file", "shutdown_timeout: x\nadmin: {listen: y}\nsource:\n  start: z\n  wat: 1\nid: \"?\"\n", `
config.yaml:1:19: shutdown_timeout: "x" is not a duration; write a number with its unit, such as 500ms, 1s, 2m or 24h
config.yaml:2:17: admin.listen: "y" is not an address; write host:port, such as 127.0.0.1:8080, or :8080 for every interface
config.yaml:4:10: source.start: "z" is not a place to start from; write earliest, latest, an event id, or a time: 2026-11-01, 2026-11-01 15:04 or 2026-11-01T15:04:05Z (UTC unless an offset such as +02:00 follows), today, yesterday, or 2h, 90m or 3d for that long ago
config.yaml:5:3: source.wat: unknown key; known here: endpoint, api_key, api_key_file, tls, proxy, proxy_file, events, unexpected, organization_id, start, poll_interval, poll_fastest, rate_limit, event_list, max_response, backfill, webhook
config.yaml:6:5: id: "?" is not a valid name; write 1 to 64 of A-Z, a-z, 0-9, _ and -`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := relayFormat.Parse("config.yaml", []byte(tc.text), lookup)
			require.EqualError(t, err, strings.TrimPrefix(tc.want, "\n"))
			require.NotContains(t, err.Error(), "hunter22")
			require.NotContains(t, err.Error(), "sk_test")
		})
	}
}

func TestTooManyAliases(t *testing.T) {
	_, err := relayFormat.Parse("c", []byte("id: &a x\nroutes:\n- events: ["+strings.Repeat("*a,", maxAliases+1)+"]\n  drop: true\n"), withKey)
	require.ErrorContains(t, err, "routes[0].events[1000]: more than 1000 aliases")
}

// Nesting beyond all reason is a problem like any other, not the end of the stack.
func TestDeepNesting(t *testing.T) {
	for _, text := range []string{strings.Repeat("[", 100_000), strings.Repeat("{a: ", 100_000), strings.Repeat("- ", 100_000)} {
		_, err := relayFormat.Parse("c", []byte(text), withKey)
		var e *Error
		require.ErrorAs(t, err, &e)
	}
}
