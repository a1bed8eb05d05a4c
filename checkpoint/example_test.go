package checkpoint_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"workos-relay/checkpoint"
)

// A lane keeps its checkpoint in a file and moves it by compare and swap: a writer that has not
// seen the last move is refused.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "checkpoints")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()

	id := checkpoint.Identity{Relay: "workos", Lane: "nats", Endpoint: "https://api.workos.com", Destination: "nats stream WORKOS"}
	store, err := checkpoint.OpenFile(dir, id)
	if err != nil {
		panic(err)
	}
	defer func() { _ = store.Close() }()

	_, err = store.Load(ctx)
	fmt.Println("a first start:", errors.Is(err, checkpoint.ErrNotFound))

	first, err := store.Commit(ctx, checkpoint.Checkpoint{}, checkpoint.Checkpoint{
		Position: checkpoint.Position{EventID: "event_01", CreatedAt: time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)},
		Holder:   store.Holder(), Generation: 1, Source: id, Mode: checkpoint.AtLeastOnce,
	})
	if err != nil {
		panic(err)
	}
	second, err := store.Commit(ctx, first, first.Moved(checkpoint.Position{EventID: "event_02"}, nil))
	if err != nil {
		panic(err)
	}
	fmt.Println("moved to:", second.Position)

	_, err = store.Commit(ctx, first, first.Moved(checkpoint.Position{EventID: "event_99"}, nil))
	fmt.Println("a stale writer is refused:", errors.Is(err, checkpoint.ErrConflict))
	// Output:
	// a first start: true
	// moved to: event_02
	// a stale writer is refused: true
}
