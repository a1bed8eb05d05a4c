//go:build unix

package mistakes

// commandMistakes are command lines that cannot be right, and commands that find nothing to talk to.
var commandMistakes = []mistake{
	{name: "a command that does not exist", line: "stop", code: exitUsage, what: `stop`, where: `relay`, next: `Try: relay --help|did you mean`},
	{name: "a command that is misspelt", line: "chekc", code: exitUsage, what: `chekc`, where: `relay`, next: `check`},
	{name: "a flag that does not exist", line: "check --verbos", code: exitUsage, what: `--verbos`, where: `relay`, next: `--help|did you mean`},
	{name: "a flag before the command that does not exist", line: "--loglevel debug run", code: exitUsage, what: `--loglevel`, where: `relay`, next: `--log-level|--help`},
	{name: "a flag without its value", line: "check --timeout", code: exitUsage, what: `--timeout`, where: `relay`, next: `Try: relay check --help`},
	{name: "a log level that does not exist", line: "run --log-level loud", code: exitUsage, what: `--log-level`, where: `loud`, next: `debug`},
	{name: "a log level of the environment that does not exist", line: "run", env: []string{"RELAY_LOG_LEVEL=loud"}, code: exitUsage, what: `RELAY_LOG_LEVEL|--log-level`, where: `loud`, next: `debug`},
	{name: "a log format that does not exist", line: "run --log-format xml", code: exitUsage, what: `--log-format`, where: `xml`, next: `json`},
	{name: "an argument too many", line: "run fast", code: exitUsage, what: `fast`, where: `relay`, next: `relay run --help`},
	{name: "checkpoint without its command", line: "checkpoint", code: exitUsage, what: `checkpoint`, where: `relay`, next: `show`},
	{name: "checkpoint set to what is not a position", line: "checkpoint set yesterday-ish", config: sourceOK + stdoutBus + adminOff, code: exitUsage, what: `yesterday-ish`, where: `is not a place`, next: `earliest`},
	{name: "checkpoint set for a lane that does not exist", line: "checkpoint set latest --lane none", config: sourceOK + stdoutBus + adminOff, code: exitUsage, what: `none`, where: `--lane`, next: `out`},
	{name: "checkpoint show for a lane that does not exist", line: "checkpoint show --lane none", config: sourceOK + stdoutBus + adminOff, code: exitUsage, what: `none`, where: `--lane`, next: `out`},
	{name: "replay without a range", line: "replay", config: sourceOK + stdoutBus, code: exitUsage, what: `--since`, where: `relay`, next: `Try: relay replay --help`},
	{name: "replay with a time that is none", line: "replay --since tuesday --until latest", config: sourceOK + stdoutBus, code: exitUsage, what: `--since`, where: `tuesday`, next: `earliest`},
	{name: "replay from the future to the past", line: "replay --since 2026-02-01T00:00:00Z --until 2026-01-01T00:00:00Z", config: sourceOK + stdoutBus, code: exitUsage, what: `--until`, where: `--since`, next: `before`},
	{name: "replay from latest", line: "replay --since latest --until latest", config: sourceOK + stdoutBus, code: exitUsage, what: `--since`, where: `latest`, next: `earliest`},
	{name: "replay of several lanes", line: "replay --since earliest --until latest", config: sourceOK + "sinks: [{name: a, type: stdout}, {name: b, type: stdout}]\n", code: exitUsage, what: `--lane`, where: `a`, next: `b`},
	{name: "replay of a lane that does not exist", line: "replay --since earliest --until latest --lane none", config: sourceOK + stdoutBus, code: exitUsage, what: `none`, where: `--lane|lane`, next: `out`},
	{name: "replay of a type that does not exist", line: "replay --since earliest --until latest --events no.such", config: sourceOK + stdoutBus, code: exitUsage, what: `no\.such`, where: `--events`, next: `relay types`},
	{name: "verify with a number that is none", line: "verify --since earliest --until latest --examples many", config: sourceOK + natsBus, code: exitUsage, what: `--examples`, where: `many`, next: `Try: relay verify --help`},
	{name: "tail from what is not a position", line: "tail --since tuesday", config: sourceOK + stdoutBus, code: exitUsage, what: `--since`, where: `tuesday`, next: `earliest`},
	{name: "types with a schema that does not exist", line: "types --schema no.such", config: sourceOK + stdoutBus, code: exitUsage, what: `no\.such`, where: `--schema|.`, next: `relay types`},
	{name: "types in two forms", line: "types --json --asyncapi", config: sourceOK + stdoutBus, code: exitUsage, what: `--json`, where: `--asyncapi`, next: `can't be used together`},
	{name: "the completion of a shell that does not exist", line: "completion csh", code: exitUsage, what: `csh`, where: `<shell>`, next: `bash`},
	{name: "a page that does not exist", line: "help nonsense", code: exitUsage, what: `nonsense`, where: `topic`, next: `relay help`},
	{name: "init for a bus that does not exist", line: "init --bus rabbitmq --config {dir}/new.yaml", code: exitUsage, what: `rabbitmq`, where: `--bus`, next: `kafka`},
	{name: "init over a file", line: "init --bus nats --config {dir}/config.yaml", config: "id: x\n", code: exitUsage, what: `exists`, where: `config\.yaml`, next: `name another file with --config`},
	{name: "init with an address that is none", line: "init --bus nats --address http://x --config {dir}/new.yaml", code: exitUsage, what: `http`, where: `--address`, next: `nats`},
	{name: "a demo with a rate of nothing", line: "demo --rate 0", code: exitUsage, what: `--rate`, where: `--rate`, next: `positive`},
	{name: "a demo on an address that is none", line: "demo --listen nowhere", code: exitUsage, what: `nowhere|--listen`, where: `--listen`, next: `host:port`},
	{name: "a demo with an admin address that is none", line: "demo --admin nowhere", code: exitUsage, what: `nowhere|--admin`, where: `--admin`, next: `host:port`},
}
