package source_test

import (
	"context"
	"fmt"

	"workos-relay/checkpoint"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// A stream yields every event in the order of the source, from the oldest one on, and then waits
// for more.
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
	stream := &source.Stream{
		Client: &source.Client{APIKey: sourcetest.DefaultAPIKey, HTTPClient: api.Client(), Endpoint: api.URL()},
		Events: []string{"user.created", "user.deleted"},
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for page, err := range stream.Pages(ctx, checkpoint.Position{}) {
		if err != nil {
			panic(err) // final: what may pass is retried inside
		}
		for _, e := range page.Events {
			fmt.Println(e.ID, e.Event)
		}
		if page.Tip { // nothing more for now
			break
		}
	}
	// Output:
	// event_01 user.created
	// event_02 user.deleted
}
