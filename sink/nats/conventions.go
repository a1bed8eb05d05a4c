package nats

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"workos-relay/sink"
)

// Conventions implements sink.Traced. The server is the first one of the URL, and the destination
// is the stream, since the subjects of a batch differ and may be made of what events hold.
func (c Config) Conventions() sink.Conventions {
	return sink.Conventions{System: "nats", Operation: "publish", Server: c.host(), Destination: c.Stream, ErrorType: errorType}
}

// errorType returns the code with which JetStream refuses, such as jetstream:10077, or the reason
// why no stream answers. It is empty for every other error.
func errorType(err error) string {
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api):
		return fmt.Sprintf("jetstream:%d", api.ErrorCode)
	case errors.Is(err, nats.ErrPermissionViolation):
		return "permission_violation"
	case errors.Is(err, nats.ErrNoResponders):
		return "no_responders"
	}
	return ""
}
