package nats

import (
	"fmt"

	"workos-relay/sink"
)

// starters are the sinks of this kind that a first configuration can have.
var starters = []sink.Starter{
	{
		Name: "nats", Address: "nats://127.0.0.1:4222",
		Entry: func(address, _ string) string {
			return fmt.Sprintf(`  - name: nats
    type: nats
    url: %q
    # If the server asks who relay is, one of these:
    #auth: {credentials_file: /run/secrets/relay.creds}
    #auth: {user: relay, password_file: /run/secrets/nats_password}
    # How the stream is created if it is missing; 3 replicas outlive a lost server:
    #create: {replicas: 3, max_age: 720h}
`, address)
		},
	},
	{
		Name: "embedded", About: "a NATS JetStream server inside relay", Address: "127.0.0.1:4222",
		TokenFile: ".nats-token", Server: "NATS server",
		Entry: func(address, tokenFile string) string {
			return fmt.Sprintf(`  - name: nats
    type: nats
    url: embedded             # a JetStream server inside relay, for one machine
    embedded:
      listen: %q
      # Every client must send what this file holds as its token; relay follows a change of the file.
      token_file: %q
`, address, tokenFile)
		},
	},
}
