// Package kinds has the list of the kinds of bus that relay knows. A new bus is a package below
// sink and one line here; docs/internals/writing-a-sink.md shows how.
package kinds

import (
	"workos-relay/sink"
	"workos-relay/sink/kafka"
	"workos-relay/sink/nats"
	"workos-relay/sink/stdout"
)

// All is every kind of bus, in the order of the documentation. Nothing changes it.
var All = []*sink.Kind{
	nats.Kind,
	kafka.Kind,
	stdout.Kind,
}
