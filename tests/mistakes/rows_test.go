//go:build unix

package mistakes

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// fileMistakes are about the configuration file as a whole, and about keys that do not fit
// together.
var fileMistakes = []mistake{
	{name: "a configuration that may not be read", line: "check", config: "id: x\n", prepare: chmod("config.yaml", 0), code: exitUsage,
		what: `permission denied`, where: `config\.yaml`, next: `chmod|read`},
	{name: "an empty configuration", line: "check --config {dir}/empty.yaml", files: map[string]string{"empty.yaml": ""}, code: exitUsage,
		what: `the file sets nothing`, where: `empty\.yaml`, next: `relay init`},
	{name: "a configuration of comments only", line: "check --config {dir}/empty.yaml", files: map[string]string{"empty.yaml": "# nothing yet\n"}, code: exitUsage,
		what: `the file sets nothing`, where: `empty\.yaml`, next: `relay init`},
	{name: "a tab", line: "check", config: "source:\n\tendpoint: x\n", code: exitUsage,
		what: `tab`, where: `config\.yaml:2`, next: `spaces`},
	{name: "a wrong indentation", line: "check", config: "source:\n  endpoint: \"{api}\"\n events: [a]\n", code: exitUsage,
		what: `YAML|indent`, where: `config\.yaml:\d`, next: `indent|line`},
	{name: "a quote that does not end", line: "check", config: "id: \"x\nsource: {}\n", code: exitUsage,
		what: `found unexpected end of stream while scanning a quoted scalar`, where: `config\.yaml:\d`, next: `that begins on line 1`},
	{name: "a bracket that does not end", line: "check", config: "source: {events: [a\n", code: exitUsage,
		what: `did not find expected ',' or '\]'`, where: `config\.yaml:\d`, next: `that begins on line 1`},
	{name: "a key twice", line: "check", config: "id: x\nid: y\n", code: exitUsage,
		what: `id: the key stands here twice, first on line 1`, where: `config\.yaml:2:1`, next: `remove one`},
	{name: "two documents", line: "check", config: "id: x\n---\nid: y\n", code: exitUsage,
		what: `document`, where: `config\.yaml:2`, next: `remove the ---`},
	{name: "a binary file", line: "check", config: "\x00\x01\x02", code: exitUsage,
		what: `a control character`, where: `config\.yaml`, next: `save the file as UTF-8 text`},
	{name: "a file in UTF-16", line: "check", config: "\xff\xfei\x00d\x00:\x00 \x00x\x00", code: exitUsage,
		what: `UTF`, where: `config\.yaml`, next: `UTF-8`},
	{name: "the configuration of another program", line: "check", config: "apiVersion: v1\nkind: ConfigMap\ndata: {}\n", code: exitUsage,
		what: `apiVersion: unknown key`, where: `config\.yaml:1:1`, next: `known here`},
	{name: "a key in the wrong section", line: "check", config: "poll_interval: 1s\n", code: exitUsage,
		what: `poll_interval: unknown key`, where: `config\.yaml:1:1`, next: `did you mean source\.poll_interval`},
	{name: "a key of another kind of bus", line: "check", config: "sinks: [{name: a, type: nats, brokers: [x:1]}]\n", code: exitUsage,
		what: `unknown key if type is nats`, where: `config\.yaml:1:\d+: sinks\[0\]\.brokers`, next: `belongs to type kafka`},
	{name: "no sinks", line: "check", config: "sinks: []\n", code: exitUsage,
		what: `the list is empty`, where: `config\.yaml:1:\d+: sinks`, next: `give at least one sink`},
	{name: "a sink without a type", line: "check", config: "sinks: [{name: a}]\n", code: exitUsage,
		what: `is missing`, where: `config\.yaml:1:\d+: sinks\[0\]\.type`, next: `one of nats, kafka, stdout`},
	{name: "a sink of a type that does not exist", line: "check", config: "sinks: [{name: a, type: rabbitmq}]\n", code: exitUsage,
		what: `"rabbitmq"`, where: `config\.yaml:1:\d+: sinks\[0\]\.type`, next: `nats, kafka`},
	{name: "two sinks of one name", line: "check", config: "sinks:\n- {name: a, type: stdout}\n- {name: a, type: stdout}\n", code: exitUsage,
		what: `has the name "a" already`, where: `config\.yaml:3:\d+: sinks\[1\]\.name`, next: `its own name`},
	{name: "two embedded servers on one address", line: "check", config: "sinks:\n- {name: a, type: nats, url: embedded}\n- {name: b, type: nats, url: embedded}\n", code: exitUsage,
		what: `runs an embedded server on 127\.0\.0\.1:4222 already`, where: `config\.yaml:3:\d+: sinks\[1\]\.url`, next: `write its address here`},
	{name: "an event type that does not exist", line: "check", config: "source: {events: [dsync.user.craeted]}\n", code: exitUsage,
		what: `dsync\.user\.craeted`, where: `config\.yaml:1:\d+: source\.events\[0\]`, next: `relay types|did you mean`},
	{name: "a pattern that matches nothing", line: "check", config: "source: {events: [\"nothing.*\"]}\n", code: exitUsage,
		what: `nothing\.\*`, where: `config\.yaml:1:\d+: source\.events\[0\]`, next: `relay types`},
	{name: "a lane that carries nothing", line: "check", config: "source: {events: [\"dsync.*\"]}\nsinks: [{name: a, type: stdout, events: [\"user.*\"]}]\n", code: exitUsage,
		what: `none of these types is among those of source\.events`, where: `config\.yaml:2:\d+: sinks\[0\]\.events`, next: `would carry nothing`},
	{name: "a route to a topic that no bus takes", line: "check", config: "routes: [{events: [\"*\"], topic: \"a b\"}]\n", code: exitUsage,
		what: `"a b"`, where: `config\.yaml:1:\d+: routes\[0\]\.topic`, next: `only letters, digits, _ and -`},
	{name: "pseudonyms without a key", line: "check", config: "routes: [{events: [\"*\"], pseudonymize: [data.email]}]\n", code: exitUsage,
		what: `is missing`, where: `config\.yaml: redaction\.key`, next: `routes pseudonymize values`},
	{name: "a short key for pseudonyms", line: "check", config: "redaction: {key: s3cr3t}\nroutes: [{events: [\"*\"], pseudonymize: [data.email]}]\n", code: exitUsage,
		what: `16 characters`, where: `config\.yaml:1:\d+: redaction\.key`, next: `openssl rand`},
	{name: "a time that is none as the start", line: "check", config: "source: {start: yesterday-ish}\n", code: exitUsage,
		what: `"yesterday-ish"`, where: `config\.yaml:1:\d+: source\.start`, next: `earliest`},
	{name: "a secret and its file", line: "check", config: "source: {api_key: sk_s3cr3t, api_key_file: key}\n", code: exitUsage,
		what: `stands beside`, where: `config\.yaml:1:\d+: source\.api_key_file`, next: `remove one`},
	{name: "an admin address for all without a token", line: "check", config: "admin: {listen: \"0.0.0.0:8080\"}\n", code: exitUsage,
		what: `can be reached from other machines`, where: `config\.yaml:1:\d+: admin`, next: `set .*token`},
	{name: "a short admin token", line: "check", config: "admin: {token: s3cr3t}\n", code: exitUsage,
		what: `16`, where: `config\.yaml:1:\d+: admin\.token`, next: `openssl rand`},
	{name: "an admin address without a port", line: "check", config: "admin: {listen: localhost}\n", code: exitUsage,
		what: `"localhost"`, where: `config\.yaml:1:\d+: admin\.listen`, next: `host:port`},
	{name: "an admin port that is none", line: "check", config: "admin: {listen: \"127.0.0.1:99999\"}\n", code: exitUsage,
		what: `99999`, where: `config\.yaml:1:\d+: admin\.listen`, next: `65535|host:port`},
	{name: "an embedded server for all without a token", line: "check", config: "sinks: [{name: a, type: nats, url: embedded, embedded: {listen: \"0.0.0.0:4222\"}}]\n", code: exitUsage,
		what: `can be reached from other machines`, where: `config\.yaml:1:\d+: sinks\[0\]\.embedded\.listen`, next: `set embedded\.token`},
	{name: "a password in the URL of NATS", line: "check", config: natsAt("nats://relay:s3cr3t@{nats}", ""), code: exitUsage,
		what: `credentials in an address`, where: `config\.yaml:1:\d+: sinks\[0\]\.url`, next: `put them under auth`},
	{name: "a URL of http for NATS", line: "check", config: natsAt("http://{plain}", ""), code: exitUsage,
		what: `"http"`, where: `config\.yaml:1:\d+: sinks\[0\]\.url`, next: `nats, tls`},
	{name: "a broker without a port", line: "check", config: kafkaAt("kafka.example.com", ""), code: exitUsage,
		what: `"kafka\.example\.com" is not host:port`, where: `config\.yaml:1:\d+: sinks\[0\]\.brokers`, next: `such as kafka\.example\.com:9092`},
	{name: "a URL for a broker", line: "check", config: kafkaAt("kafka://localhost:9092", ""), code: exitUsage,
		what: `not host:port`, where: `config\.yaml:1:\d+: sinks\[0\]\.brokers`, next: `such as`},
	{name: "several brokers in one text", line: "check", config: kafkaAt("a:9092,b:9092", ""), code: exitUsage,
		what: `not host:port`, where: `config\.yaml:1:\d+: sinks\[0\]\.brokers`, next: `separate element`},
	{name: "credentials without a mechanism", line: "check", config: kafkaAt("{kafka}", ", sasl: {user: a, password: s3cr3t}"), code: exitUsage,
		what: `sasl\.mechanism is none`, where: `config\.yaml:1:\d+: sinks\[0\]\.sasl\.mechanism`, next: `name the listener`},
	{name: "a mechanism without credentials", line: "check", config: kafkaAt("{kafka}", ", sasl: {mechanism: plain}"), code: exitUsage,
		what: `is missing`, where: `config\.yaml:1:\d+: sinks\[0\]\.sasl\.user`, next: `plain needs it`},
	{name: "TLS files that hold no certificate", line: "check", config: sourceOK + natsAt("nats://{nats}", ", tls: {ca_file: {dir}/ca.pem}"),
		files: map[string]string{"ca.pem": "hello\n"}, code: exitFailed,
		what: `no PEM certificate`, where: `sinks\[bus\]\.tls\.ca_file {dir}/ca\.pem`, next: `ca_file`},
	{name: "a certificate without its key", line: "check", config: sourceOK + natsAt("nats://{nats}", ", tls: {cert_file: a.pem}"), code: exitUsage,
		what: `has no key_file beside it`, where: `config\.yaml:2:\d+: sinks\[0\]\.tls\.cert_file`, next: `name the file with its private key`},
	{name: "a configuration that does not exist", line: "check --config {dir}/none.yaml", code: exitUsage,
		what: `no such file`, where: `{dir}/none\.yaml`, next: `name another file with --config or RELAY_CONFIG, or let .relay init. write one`},
	{name: "a variable that names a configuration that does not exist", line: "check", env: []string{"RELAY_CONFIG={dir}/none.yaml"}, code: exitUsage,
		what: `no such file`, where: `{dir}/none\.yaml`, next: `name another file with --config or RELAY_CONFIG`},
	{name: "a configuration that is a directory", line: "check --config {dir}", code: exitUsage,
		what: `is a directory`, where: `{dir}`, next: `name another file with --config`},
}

// secretMistakes are about secrets, their files and variables.
var secretMistakes = []mistake{
	{name: "no API key", line: "check", config: stdoutBus, env: []string{"WORKOS_API_KEY="}, code: exitUsage,
		what: `source\.api_key: is (missing|empty)`, where: `config\.yaml`, next: `set WORKOS_API_KEY in the environment, or name a file in api_key_file|give it`},
	{name: "no API key and no configuration", line: "run", env: []string{"WORKOS_API_KEY="}, code: exitUsage,
		what: `source\.api_key`, where: `WORKOS_API_KEY`, next: `set WORKOS_API_KEY`},
	{name: "a secret file with another file's content", line: "check", config: "source: {api_key_file: {dir}/key}\n", files: map[string]string{"key": "-----BEGIN s3cr3t KEY-----\n"}, code: exitUsage,
		what: `another character that no API key has`, where: `config\.yaml:1:\d+: source\.api_key_file`, next: `no API key has`},
	{name: "a variable that is not set", line: "check", config: "source: {api_key: \"${MY_KEY}\"}\n", code: exitUsage,
		what: `the environment variable MY_KEY is not set`, where: `config\.yaml:1:\d+: source\.api_key`, next: `set it, or give a default`},
	{name: "a variable that is set and empty", line: "check", config: "source: {api_key: \"${MY_KEY}\"}\n", env: []string{"MY_KEY="}, code: exitUsage,
		what: `is empty`, where: `config\.yaml:1:\d+: source\.api_key`, next: `give it here, or name a file`},
	{name: "a variable that does not end", line: "check", config: "source: {api_key: \"${MY_KEY\"}\n", code: exitUsage,
		what: `\$\{`, where: `config\.yaml:1:\d+: source\.api_key`, next: `write \$\{NAME\}`},
	{name: "a variable with a dollar only", line: "check", config: "id: $NAME\n", code: exitUsage,
		what: `\$`, where: `config\.yaml:1:\d+: id`, next: `\$\{`},
	{name: "a secret file that does not exist", line: "check", config: "source: {api_key_file: {dir}/none}\n", code: exitUsage,
		what: `does not exist`, where: `config\.yaml:1:\d+: source\.api_key_file.*{dir}/none`, next: `create it, or correct the path`},
	{name: "an empty secret file", line: "check", config: "source: {api_key_file: {dir}/key}\n", files: map[string]string{"key": "\n"}, code: exitUsage,
		what: `is empty`, where: `config\.yaml:1:\d+: source\.api_key_file.*{dir}/key`, next: `write the secret into it`},
	{name: "a secret file that is a directory", line: "check", config: "source: {api_key_file: \"{dir}\"}\n", code: exitUsage,
		what: `not a regular file`, where: `config\.yaml:1:\d+: source\.api_key_file`, next: `name a file that holds the secret`},
	{name: "a password file of the bus that does not exist", line: "check", config: natsAt("nats://{nats}", ", auth: {user: a, password_file: {dir}/none}"), code: exitUsage,
		what: `does not exist`, where: `config\.yaml:1:\d+: sinks\[0\]\.auth\.password_file`, next: `create it, or correct the path`},
	{name: "a password file of Kafka that is empty", line: "check", config: kafkaAt("{kafka}", ", sasl: {mechanism: plain, user: a, password_file: {dir}/p}"),
		files: map[string]string{"p": ""}, code: exitUsage,
		what: `is empty`, where: `config\.yaml:1:\d+: sinks\[0\]\.sasl\.password_file`, next: `write the secret into it`},
	{name: "a token file of the admin server that does not exist", line: "status", config: "admin: {token_file: {dir}/none}\n", code: exitUsage,
		what: `does not exist`, where: `config\.yaml:1:\d+: admin\.token_file`, next: `create it, or correct the path`},
}

func chmod(name string, mode os.FileMode) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if os.Geteuid() == 0 {
			t.Skip("root may read everything")
		}
		require.NoError(t, os.Chmod(filepath.Join(dir, name), mode))
	}
}
