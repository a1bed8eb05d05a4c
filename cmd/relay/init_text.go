package main

import (
	"fmt"
	"io"
)

// text is the configuration. Without tokenFile the bus is not embedded.
func (c *initCmd) text(tokenFile string) string {
	sink := map[string]string{
		busKafka: fmt.Sprintf(`  - name: kafka
    type: kafka
    brokers: [%q]
    # With SASL and TLS, if the cluster asks for them:
    #sasl: {mechanism: scram-sha-512, user: relay, password_file: /run/secrets/kafka_password}
    #tls: {enabled: true}
    # How topics are created that are missing:
    #create: {partitions: 6, replication: 3}
`, c.Address),
		busNATS: fmt.Sprintf(`  - name: nats
    type: nats
    url: %q
    # If the server asks who relay is, one of these:
    #auth: {credentials_file: /run/secrets/relay.creds}
    #auth: {user: relay, password_file: /run/secrets/nats_password}
    # How the stream is created if it is missing; 3 replicas outlive a lost server:
    #create: {replicas: 3, max_age: 720h}
`, c.Address),
		busEmbedded: fmt.Sprintf(`  - name: nats
    type: nats
    url: embedded             # a JetStream server inside relay, for one machine
    embedded:
      listen: %q
      # Every client must send what this file holds as its token; relay follows a change of the file.
      token_file: %q
`, c.Address, tokenFile),
	}[c.Bus]
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
` + sink + `
# The topic for events that the bus can never take. Without it the lane stops at such an event and names it.
dead_letter: {topic: relay.dead_letter}

checkpoint:
  # Holds positions and the streams of an embedded server. It must outlive the process, and no other user may write to it.
  dir: ./relay-data

admin:
  # Status page, probes, metrics, and the commands that steer a running relay. Other addresses than loopback need admin.token_file.
  listen: 127.0.0.1:8080
`
}

// say tells what was written and what comes next.
func (c *initCmd) say(out io.Writer, path, tokenFile, token string) error {
	text := fmt.Sprintf("Wrote %s, which only you can read.\n", path)
	if token != "" {
		text += fmt.Sprintf(`
The embedded NATS server asks every client for this token. It is shown once, and kept in %s:

  %s
`, tokenFile, token)
	}
	_, err := fmt.Fprintf(out, `%s
Next, with the secret key of the WorkOS environment in WORKOS_API_KEY:

  relay check --config %s
  relay run --config %[2]s
`, text, path)
	return err
}
