package sink_test

import (
	"context"
	"errors"
	"fmt"
	"os"

	"workos-relay/sink"
	"workos-relay/sink/stdout"
)

// Publish says how much of a batch is durable. The second message can never be published, so
// the caller continues after it.
func Example() {
	s := stdout.New(stdout.Config{Envelope: true}, os.Stdout)
	defer func() { _ = s.Close() }()

	batch := []sink.Message{
		{Topic: "user.created", Body: []byte(`{"id":"event_01"}`)},
		{Topic: "user.created", Body: []byte(`not JSON`)},
		{Topic: "user.deleted", Body: []byte(`{"id":"event_03"}`)},
	}
	for len(batch) > 0 {
		err := s.Publish(context.Background(), batch)
		batch = batch[sink.Durable(err, len(batch)):]
		var rejected *sink.RejectedError
		switch {
		case err == nil:
		case errors.As(err, &rejected):
			fmt.Println("left out, on topic", rejected.Topic)
			batch = batch[1:]
		default: // it may pass: try again
		}
	}
	// Output:
	// {"topic":"user.created","headers":[],"body":{"id":"event_01"}}
	// left out, on topic user.created
	// {"topic":"user.deleted","headers":[],"body":{"id":"event_03"}}
}
