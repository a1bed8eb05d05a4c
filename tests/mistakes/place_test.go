//go:build unix

package mistakes

// dirHere keeps checkpoints below the directory of the row.
const dirHere = "checkpoint: {dir: \"{dir}/data\"}\n"

// placeMistakes are about directories, checkpoint files, ports, and what is on a bus already.
var placeMistakes = []mistake{
	{name: "a checkpoint directory that is a file", line: "run", config: sourceOK + stdoutBus + adminOff + dirHere, files: map[string]string{"data": "x"}, code: exitDecides,
		what: `not a directory`, where: `{dir}/data`, next: `checkpoint\.dir`},
	{name: "a checkpoint directory below a file", line: "run", config: sourceOK + stdoutBus + adminOff + "checkpoint: {dir: \"{dir}/config.yaml/data\"}\n", code: exitDecides,
		what: `not a directory`, where: `{dir}/config\.yaml`, next: `checkpoint\.dir`},
	{name: "a checkpoint directory that nobody can write to", line: "run", config: sourceOK + stdoutBus + adminOff + "checkpoint: {dir: /proc/relay}\n", code: exitDecides,
		what: `no such file|permission denied|not permitted`, where: `/proc/relay`, next: `checkpoint\.dir`},
	{name: "a corrupt checkpoint", line: "run", config: sourceOK + stdoutBus + adminOff + dirHere, files: map[string]string{"data/workos.out.checkpoint": "garbage"}, code: exitDecides,
		what: `corrupt|damaged|cannot be read`, where: `workos\.out\.checkpoint`, next: `relay checkpoint`},
	{name: "an empty checkpoint", line: "run", config: sourceOK + stdoutBus + adminOff + dirHere, files: map[string]string{"data/workos.out.checkpoint": ""}, code: exitDecides,
		what: `corrupt|damaged|empty`, where: `workos\.out\.checkpoint`, next: `relay checkpoint`},
	{name: "a checkpoint that is cut off", line: "run", config: sourceOK + stdoutBus + adminOff + dirHere, files: map[string]string{"data/workos.out.checkpoint": `{"relay_checkpoint":2,"crc32c":"8864`}, code: exitDecides,
		what: `corrupt|damaged`, where: `workos\.out\.checkpoint`, next: `relay checkpoint`},
	{name: "a checkpoint of a later version", line: "run", config: sourceOK + stdoutBus + adminOff + dirHere,
		files: map[string]string{"data/workos.out.checkpoint": `{"relay_checkpoint":99,"crc32c":"00000000","content":{}}`}, code: exitDecides,
		what: `format version 99 and was written by a newer relay`, where: `workos\.out\.checkpoint`, next: `run the newer relay again`},
	{name: "a checkpoint of another organization", line: "run", config: sourceOK + stdoutBus + adminOff + dirHere, before: []string{"checkpoint set earliest --config other.yaml"},
		files: map[string]string{"other.yaml": "source: {endpoint: \"{api}\", organization_id: org_other}\n" + stdoutBus + adminOff + dirHere}, code: exitDecides,
		what: `org_other|another`, where: `out`, next: `relay checkpoint`},
	{name: "a checkpoint of another environment", line: "run", config: sourceOK + stdoutBus + adminOff + dirHere, before: []string{"checkpoint set earliest --config other.yaml"},
		files: map[string]string{"other.yaml": "source: {endpoint: \"http://127.0.0.1:9\"}\n" + stdoutBus + adminOff + dirHere}, code: exitDecides,
		what: `127\.0\.0\.1:9|another`, where: `out`, next: `relay checkpoint`},
	{name: "an admin port in use", line: "run", config: sourceOK + stdoutBus + "admin: {listen: \"{plain}\"}\n" + dirHere, code: exitUsage,
		what: `address already in use`, where: `admin\.listen.*{plain}`, next: `stop it, or set admin\.listen to another address`},
	{name: "an embedded server on a port in use", line: "run", config: sourceOK + "sinks: [{name: bus, type: nats, url: embedded, embedded: {listen: \"{plain}\"}}]\n" + adminOff + dirHere, code: exitDecides,
		what: `address already in use|in use`, where: `{plain}`, next: `embedded\.listen|another address`},
	{name: "an admin address of another machine", line: "run", config: sourceOK + stdoutBus + "admin: {listen: \"192.0.2.1:8080\", token: " + secretMark + "-0123456789}\n" + dirHere, code: exitUsage,
		what: `cannot assign requested address`, where: `admin\.listen.*192\.0\.2\.1:8080`, next: `admin\.listen`},
	{name: "a first start onto a stream that holds events", line: "run", config: sourceOK + natsAt("nats://{nats_full}", ", events: [\"user.*\"]") + adminOff + dirHere, code: exitDecides,
		what: `WORKOS`, where: `lane bus`, next: `relay checkpoint set`},
	{name: "a stream that somebody else made for other subjects", line: "run", config: sourceOK + natsAt("nats://{nats_full}", ", topic_prefix: other., create: {enabled: false}") + adminOff + dirHere, code: exitDecides,
		what: `stream WORKOS does not bind other\.`, where: `lane bus`, next: `[Aa]dd|subjects|create\.enabled`},
	{name: "exactly once where the bus cannot", line: "run", config: sourceOK + "sinks: [{name: out, type: stdout, delivery: exactly_once}]\n" + adminOff + dirHere, code: exitDecides,
		what: `exactly_once`, where: `out|sinks\[0\]`, next: `at_least_once`},
	{name: "a dead letter that no bus takes", line: "run", config: sourceOK + natsBus + "dead_letter: {topic: \"a b\"}\n" + adminOff + dirHere, code: exitUsage,
		what: `"a b"`, where: `config\.yaml:3:\d+: dead_letter\.topic`, next: `words|letters`},
}

// rightToken is what the relay of the stage asks for.
const rightToken = "token: right-admin-token-" + secretMark

// toRunning is a configuration that talks to the relay of the stage.
func toRunning(more string) string {
	return sourceOK + stdoutBus + "admin: {listen: \"{running}\"" + more + "}\n" + dirHere
}

// runningMistakes need a running relay.
var runningMistakes = []mistake{
	{name: "status without the token", line: "status", config: toRunning(""), code: exitFailed,
		what: `401|token`, where: `{running}`, next: `admin\.token`},
	{name: "status with a wrong token", line: "status", config: toRunning(", token: wrong-admin-token-" + secretMark), code: exitFailed,
		what: `401|token`, where: `{running}`, next: `admin\.token`},
	{name: "pause without the token", line: "pause", config: toRunning(""), code: exitFailed,
		what: `401|token`, where: `{running}`, next: `admin\.token`},
	{name: "pause with a wrong token", line: "pause out", config: toRunning(", token: wrong-admin-token-" + secretMark), code: exitFailed,
		what: `401|token`, where: `{running}`, next: `admin\.token`},
	{name: "pause of a lane that does not exist", line: "pause none", config: toRunning(", " + rightToken), code: exitFailed,
		what: `there is no lane "none"`, where: `lane`, next: `the lanes are out`},
	{name: "resume of a lane that does not exist", line: "resume none", config: toRunning(", " + rightToken), code: exitFailed,
		what: `there is no lane "none"`, where: `lane`, next: `the lanes are out`},
	{name: "poll of a lane that does not exist", line: "poll none", config: toRunning(", " + rightToken), code: exitFailed,
		what: `there is no lane "none"`, where: `lane`, next: `the lanes are out`},
	{name: "a second relay on the admin address", line: "run", config: toRunning(", " + rightToken), code: exitUsage,
		what: `address already in use`, where: `admin\.listen.*{running}`, next: `perhaps another relay`},
	{name: "checkpoint set beside a running relay with another admin address", line: "checkpoint set earliest", config: sourceOK + stdoutBus + "admin: {listen: \"{refused}\"}\ncheckpoint: {dir: \"{running_dir}\"}\n", code: exitDecides,
		what: `another relay .* uses this directory`, where: `{running_dir}`, next: `stop it or give one another checkpoint\.dir`},
}
