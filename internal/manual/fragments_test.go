package manual

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fragments are what operators paste: what it is, and the code of the heading that has to come
// first.
var fragments = []struct{ what, pasted, code string }{
	// Lines of the log as they are.
	{"a JSON line", `{"level":"warn","time":"2026-11-30T02:12:06.453Z","msg":"cannot reach NATS at nats://127.0.0.1:20609; will try again","lane":"nats","error":"no NATS server answers at nats://127.0.0.1:20609: is one running there?: dial tcp 127.0.0.1:20609: connect: connection refused"}`, "R1401"},
	{"a JSON line of 401", `{"level":"error","time":"2026-11-30T02:12:06.453Z","msg":"a lane has stopped; the others go on","lane":"nats","error":"polling: the Events API answered 401 Unauthorized: \"Unauthorized\" (request id req_1); check WORKOS_API_KEY or source.api_key: it must be the API key of the environment"}`, "R1104"},
	{"a JSON line with the order of a collector", `{"error":"the API key's rate limit is used up: the Events API answered 429 Too Many Requests","hostname":"ip-10-0-0-1","kubernetes":{"pod":"relay-0"},"level":"warn","msg":"a request to the Events API failed; trying again"}`, "R1105"},
	{"a JSON line within a JSON line", `{"log":"{\"level\":\"error\",\"msg\":\"relay ends\",\"error\":\"/data/workos.nats.checkpoint: it was altered: the checksum does not fit the content\"}\n","stream":"stderr"}`, "R1203"},
	{"a JSON line that is cut off", `{"level":"warn","time":"2026-11-30T02:12:06.453Z","msg":"publishing failed, will try again","error":"kafka broker kafka-0:9092 does not accept conn`, "R1501"},
	{"the end of a JSON line", `ing there?: dial tcp 127.0.0.1:20609: connect: connection refused","retry_in_ms":1000}`, "R1801"},
	{"a console line", `2026-11-30 02:12:06.570 WARN publishing failed, will try again {"lane": "nats", "in": "1.5s", "error": "the stream holds its limit: stream WORKOS cannot be used: its limits or the disk are full"}`, "R1408"},
	{"a console line with a code", `2026-11-30 02:12:06.570 WARN publishing failed, will try again [R1407] {"lane": "nats", "error": "no route"}`, "R1407"},
	{"a console line with colours", "2026-11-30 02:12:06.570 \x1b[33mWARN\x1b[0m the event filter differs from the one that the checkpoint was made with; added types start at the checkpoint {\"lane\": \"nats\"}", "R1110"},
	{"colours as a pager shows them", "2026-11-30 02:12:06.570 ^[[31mERROR^[[0m SIGHUP: nothing has changed {\"error\": \"config.yaml:3:1: sinks: unknown key\"}", "R1001"},
	{"from the journal", `Nov 30 02:12:06 host-1 relay[4711]: relay: lane nats: the checkpoint directory /var/lib/relay: mkdir /var/lib/relay: permission denied; correct checkpoint.dir, or let relay write there`, "R1207"},
	{"from kubectl logs --prefix", `[pod/relay-0/relay] {"level":"error","msg":"relay ends: a lane has stopped","lane":"kafka","error":"kafka topic user.created does not exist, or relay may not see it; create it","exit_code":3}`, "R1514"},
	{"from kubectl logs --timestamps", `2026-11-30T02:12:06.453123456Z {"level":"warn","msg":"connection to NATS lost, reconnecting","error":"EOF"}`, "R1401"},
	{"from docker compose", `relay-1  | relay: admin.listen: cannot listen on "127.0.0.1:8080": listen tcp 127.0.0.1:8080: bind: address already in use; another process, perhaps another relay, listens there`, "R1703"},
	{"with a stack behind it", "{\"level\":\"error\",\"msg\":\"the lane stops because of a fault of relay itself; the others go on\",\"error\":\"index out of range [3] with length 2\",\"stack\":\"goroutine 12 [running]:\\nworkos-relay/pipeline.(*carrier).deliver(0x0)\\n\\t/src/pipeline/carrier.go:120\"}", "R1010"},
	{"a stack alone after the message", "the reload failed because of a fault of relay itself\ngoroutine 1 [running]:\nmain.main()\n\t/src/main.go:1 +0x1d", "R1010"},
	{"two lines", "relay: config.yaml:3:7: source.polinterval: unknown key; did you mean \"poll_interval\"?\nconfig.yaml:9:1: sinks[0].typ: unknown key", "R1001"},

	// Ends of commands.
	{"a wrong key", `relay: lane nats: the Events API refuses the API key; check WORKOS_API_KEY or source.api_key: it must be the whole key`, "R1104"},
	{"no key", `source.api_key: is missing; set WORKOS_API_KEY in the environment, or name a file in api_key_file`, "R1003"},
	{"a duration", `config.yaml:4:18: source.poll_interval: "10" is not a duration; use for example 10s or 2m`, "R1001"},
	{"an unknown flag", `relay: unknown flag --sice, did you mean "--since"?`, "R1015"},
	{"an unknown command", `relay: unexpected argument statsu, did you mean "status"?`, "R1015"},
	{"no relay to ask", `relay: no relay answers on 127.0.0.1:8080 (admin.listen): dial tcp 127.0.0.1:8080: connect: connection refused`, "R1601"},
	{"a lost checkpoint", `relay: lane nats: checkpoint lost: /data/workos.nats.checkpoint does not exist, and stream WORKOS holds 1200 events, so this is not a first start: the directory was not mounted; say where to go on; the command is ` + "`relay checkpoint set --lane nats`", "R1201"},
	{"a deleted stream", `checkpoint lost: stream WORKOS was deleted, or its server lost its store; relay had stored 300 messages in it`, "R1202"},
	{"a poison event", `stopped at event event_01KBF2 (user.created): cannot be published to user.created: body and headers of 9000123 bytes exceed max_payload 1048576; no dead_letter topic is configured`, "R1301"},
	{"the cursor", `cursor lost: the Events API no longer goes on after event_01KBF2 of 2026-08-01T00:00:00Z; choose where to go on with relay checkpoint set`, "R1111"},
	{"another relay", `relay: lane nats: another relay uses this directory: pid 4711 on host web-1 since 2026-11-30T02:00:00Z; stop it or give one another checkpoint.dir`, "R1205"},
	{"the mode", `lane nats ran as at_least_once and is to run as exactly_once: say which one holds`, "R1206"},
	{"a token", `403: the token is wrong: send admin.token as a bearer token, or as the password of any user`, "R1602"},

	// From status, page and probes.
	{"status, as a table", "LANE  TYPE  HEALTH    STATE     MODE          LAG      EVENTS/S\nnats  nats  degraded  retrying  exactly_once  unknown  0.0\n\ndegraded: lane nats: trying again for 53s, 12 attempts failed: publishing: no NATS server answers at nats://127.0.0.1:4222: is one running there?", "R1401"},
	{"status, as JSON", `"health_reason": "trying again for 20s, 3 attempts failed: reading: the Events API answered 503 Service Unavailable: \"upstream connect error\"; the answer is not WorkOS's: check source.endpoint",`, "R1107"},
	{"status with its code", `degraded: lane kafka: trying again for 15s: kafka broker 127.0.0.1:9092 does not accept connections [R1501]`, "R1501"},
	{"the page", "Action needed\nnats\naction needed\nretrying for 2m\nTLS with the NATS server at nats://nats:4222 failed: its certificate has expired", "R1403"},
	{"the page without a server", `No connection, trying again`, "R1704"},
	{"/readyz", `{"ready": false, "health": "degraded", "reasons": ["lane nats: paused by hand for 3m; ` + "`relay resume nats`" + ` ends it"]}`, "R1607"},

	// A part of a sentence, other case, quotes, wrapped lines.
	{"a part", `refuses the API key`, "R1104"},
	{"a part in the middle of words", `fuses the API key; check WORKOS_API_KEY or sou`, "R1104"},
	{"a part with its beginning", `server answers at nats://nats.internal:4222: is one`, "R1401"},
	{"in capitals", `NO NATS SERVER ANSWERS AT NATS://X`, "R1401"},
	{"in single quotes", `'the stream is kept in memory'`, "R1410"},
	{"in typographic quotes", `“the position has not been moved or renewed for 30s”`, "R1607"},
	{"as a quotation in a chat", "> relay: the checkpoint belongs to\n> \"staging\", and this relay is \"production\"", "R1204"},
	{"wrapped between words", "no NATS\n    server answers\n    at nats://x", "R1401"},
	{"wrapped within a word", "relay: lane nats: the Events API refu\nses the API key; check WORKOS_API_K\nEY or source.api_key", "R1104"},
	{"in backticks", "`this lane would carry nothing`", "R1006"},
	{"a heading", `The cursor is lost`, "R1111"},
	{"a code", `R1105`, "R1105"},
	{"a code in lower case and brackets", `[r1105]`, "R1105"},
	{"a code in a field", `code=R1105 level=warn`, "R1105"},

	// Words of the operating system and of others, alone and with what comes before them.
	{"refused", `connection refused`, "R1801"},
	{"refused, of Go", `dial tcp [::1]:9092: connect: connection refused`, "R1801"},
	{"refused, of Windows", `connectex: No connection could be made because the target machine actively refused it.`, "R1801"},
	{"no such host", `dial tcp: lookup nats.internal on 10.96.0.10:53: no such host`, "R1802"},
	{"no name", `Temporary failure in name resolution`, "R1802"},
	{"in use", `listen tcp 127.0.0.1:8080: bind: address already in use`, "R1803"},
	{"permission", `open /etc/relay/key: permission denied`, "R1804"},
	{"an unknown authority", `x509: certificate signed by unknown authority`, "R1805"},
	{"an unknown authority, of Go", `Get "https://api.workos.com/events": tls: failed to verify certificate: x509: certificate signed by unknown authority`, "R1805"},
	{"expired", `x509: certificate has expired or is not yet valid: current time 2026-11-30T02:12:06Z is after 2026-11-01T00:00:00Z`, "R1805"},
	{"another name", `x509: certificate is valid for *.example.com, not nats.internal`, "R1805"},
	{"no TLS", `tls: first record does not look like a TLS handshake`, "R1806"},
	{"i/o timeout", `read tcp 10.0.0.5:51234->10.0.0.9:4222: i/o timeout`, "R1807"},
	{"deadline", `context deadline exceeded`, "R1807"},
	{"broken pipe", `write tcp 10.0.0.5:51234->10.0.0.9:9092: write: broken pipe`, "R1808"},
	{"reset", `read: connection reset by peer`, "R1808"},
	{"EOF", `unexpected EOF`, "R1808"},
	{"no route", `connect: no route to host`, "R1809"},
	{"unreachable", `connect: network is unreachable`, "R1809"},
	{"full", `write /var/lib/relay/x: no space left on device`, "R1810"},
	{"read-only", `open /data/.probe: read-only file system`, "R1810"},
	{"no file", `open config.yaml: no such file or directory`, "R1811"},
	{"files", `accept4: too many open files`, "R1812"},
	{"killed", `Last State: Terminated  Reason: OOMKilled  Exit Code: 137`, "R1812"},
	{"systemd", `relay.service: Main process exited, code=exited, status=3/NOTIMPLEMENTED`, "R1813"},
	{"Kubernetes", `Warning  BackOff  2m (x9 over 5m)  kubelet  Back-off restarting failed container relay in pod relay-0`, "R1813"},
	{"a probe", `Readiness probe failed: HTTP probe failed with statuscode: 503`, "R1813"},
	{"401 alone", `401`, "R1104"},
	{"401 in words", `Unauthorized`, "R1104"},
	{"429", `429 Too Many Requests`, "R1105"},
	{"NATS", `nats: Authorization Violation`, "R1405"},
	{"NATS without JetStream", `nats: no responders available for request`, "R1407"},
	{"Kafka", `NOT_ENOUGH_REPLICAS: Messages are rejected since there are fewer in-sync replicas than required.`, "R1515"},
	{"Kafka's access", `TOPIC_AUTHORIZATION_FAILED: Not authorized to access topics: [Topic authorization failed.]`, "R1513"},
}

// TestFragments: what operators paste leads to the right heading first.
func TestFragments(t *testing.T) {
	t.Parallel()
	require.Greater(t, len(fragments), 80)
	for _, f := range fragments {
		t.Run(f.what, func(t *testing.T) {
			t.Parallel()
			found := Explain(f.pasted)
			require.NotEmpty(t, found, f.pasted)
			require.Equal(t, f.code, found[0].Code, "%s\nleads to %s", f.pasted, found[0].Title)
		})
	}
}

// TestNothingIsFoundForWhatSaysNothing: a text that is not a message leads nowhere, and not to any
// heading.
func TestNothingIsFoundForWhatSaysNothing(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", " ", "x", "all is well", "hello", "the", "relay", "R9999", "r1", "{}", `{"level":"info"}`, "worker-R1104-x", "lorem ipsum dolor sit amet"} {
		require.Empty(t, Explain(text), "%q", text)
	}
}

// TestExplainTakesAnyText: a text of any length and content is looked up within bounds.
func TestExplainTakesAnyText(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		strings.Repeat("connection refused ", 1500), strings.Repeat("{", 20_000), strings.Repeat(`"`, 20_001), "\x00\xff\xfe connection refused",
		`{"error":` + strings.Repeat("[", 20_000), strings.Repeat("…", 7000),
	} {
		Explain(text)
		MarkLines(text)
		Code(text)
	}
}
