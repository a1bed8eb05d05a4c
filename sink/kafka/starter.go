package kafka

import (
	"fmt"

	"workos-relay/sink"
)

// starters are the sinks of this kind that a first configuration can have.
var starters = []sink.Starter{{
	Name: "kafka", Address: "localhost:9092",
	Entry: func(address, _ string) string {
		return fmt.Sprintf(`  - name: kafka
    type: kafka
    brokers: [%q]
    # With SASL and TLS, if the cluster asks for them:
    #sasl: {mechanism: scram-sha-512, user: relay, password_file: /run/secrets/kafka_password}
    #tls: {enabled: true}
    # How topics are created that are missing:
    #create: {partitions: 6, replication_factor: 3}
`, address)
	},
}}
