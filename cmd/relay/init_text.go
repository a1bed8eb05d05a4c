package main

import (
	"fmt"
	"io"

	"workos-relay/sink"
)

// text returns the configuration. tokenFile is empty if the sink needs no token.
func (c *initCmd) text(starter *sink.Starter, tokenFile string) string {
	return `# A configuration of relay, written by "relay init". Every key with its default: config.example.yaml, or "relay help configuration".
# Look at it with "relay check", which changes nothing.

# Names this relay on the bus and in its checkpoints. Another id starts over.
id: workos

source:
  # Secret key of the WorkOS environment. A file is safer than a variable: replace this line by the next one.
  api_key: ${WORKOS_API_KEY}
  #api_key_file: /run/secrets/workos
  # Event types to read: names, or patterns such as dsync.*
  events: ["*"]
  # Where to begin if there is no checkpoint yet: earliest, latest, a time, or an event id.
  start: earliest

# The buses that the events go to. Each sink is a separate lane.
sinks:
` + starter.Entry(c.Address, tokenFile) + `
# The topic for events that the bus can never take. Without it the lane stops at such an event and names it.
dead_letter: {topic: relay.dead_letter}

checkpoint:
  # Holds positions and the streams of an embedded server. It must outlive the process, and no other user may write to it.
  dir: ./relay-data

admin:
  # Status page, probes, metrics, and the commands that steer a running relay. Other addresses than loopback need admin.token_file.
  listen: 127.0.0.1:8080

log:
  # auto: JSON, one object per line, unless standard error is a terminal.
  format: auto
  # debug, info, warn or error. A reload changes it.
  level: info
`
}

// say tells what was written and what comes next.
func (c *initCmd) say(out io.Writer, starter *sink.Starter, path, tokenFile, token string) error {
	text := fmt.Sprintf("Wrote %s, which only you can read.\n", path)
	if token != "" {
		text += fmt.Sprintf(`
The embedded %s asks every client for this token. It is shown once, and kept in %s:

  %s
`, starter.Server, tokenFile, token)
	}
	_, err := fmt.Fprintf(out, `%s
Next, with the secret key of the WorkOS environment in WORKOS_API_KEY:

  relay check --config %s
  relay run --config %[2]s
`, text, path)
	return err
}
