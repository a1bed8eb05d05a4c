package kafka

import (
	"errors"
	"fmt"
	"strings"

	kafkago "github.com/segmentio/kafka-go"

	"workos-relay/sink"
)

// Conventions implements sink.Traced. The server is the first broker.
func (c Config) Conventions() sink.Conventions {
	return sink.Conventions{System: "kafka", Operation: "send", Server: c.Brokers[0], ErrorType: errorType}
}

// errorType returns the name of the error with which a broker refuses, such as NOT_ENOUGH_REPLICAS.
// It is empty for every other error.
func errorType(err error) string {
	var code kafkago.Error
	switch {
	case !errors.As(err, &code):
		return ""
	case code.Title() == "":
		return fmt.Sprintf("KAFKA_%d", int(code))
	default:
		return strings.ToUpper(strings.ReplaceAll(code.Title(), " ", "_"))
	}
}
