package pipeline_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/router"
	"workos-relay/sink/stdout"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// A whole lane: from an Events API through a router to standard output, at least once. The
// checkpoint follows the acknowledgement.
func Example() {
	api := sourcetest.New()
	defer func() { _ = api.Close() }()
	err := api.Append(
		[]byte(`{"object":"event","id":"event_01","event":"user.created","data":{"id":"user_1"},"created_at":"2026-01-01T12:00:00.000Z"}`),
		[]byte(`{"object":"event","id":"event_02","event":"user.deleted","data":{"id":"user_1"},"created_at":"2026-01-01T12:00:01.000Z"}`),
	)
	if err != nil {
		panic(err)
	}
	types := []string{"user.created", "user.deleted"}
	routes, err := router.New(router.Config{})
	if err != nil {
		panic(err)
	}
	out := stdout.New(stdout.Config{}, os.Stdout)
	id := checkpoint.Identity{Relay: "example", Lane: "stdout", Endpoint: api.URL(), Destination: out.Identity()}
	lane := &pipeline.Lane{
		Name: "stdout",
		Source: &source.Stream{
			Client: &source.Client{APIKey: sourcetest.DefaultAPIKey, HTTPClient: api.Client(), Endpoint: api.URL()},
			Events: types,
		},
		Router: routes,
		Target: &pipeline.AtLeastOnce{
			Ownership: pipeline.Ownership{
				Topics: routes.Topics(types), Identity: id, Holder: "example", Events: types, Logger: zap.NewNop(),
				Origin: func(context.Context) (checkpoint.Position, error) { return checkpoint.Position{}, nil },
			},
			Sink: out, Store: checkpoint.NewMemory(id),
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- lane.Run(ctx) }()
	for s := lane.Status(); !s.AtTip || s.Events < 2; s = lane.Status() {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		panic(err)
	}
	fmt.Println("committed up to", lane.Status().Checkpoint.EventID)
	// Output:
	// {"object":"event","id":"event_01","event":"user.created","data":{"id":"user_1"},"created_at":"2026-01-01T12:00:00.000Z"}
	// {"object":"event","id":"event_02","event":"user.deleted","data":{"id":"user_1"},"created_at":"2026-01-01T12:00:01.000Z"}
	// committed up to event_02
}
