package app

import (
	"cmp"
	"context"
	"sync"
	"time"

	"workos-relay/internal/snapshot"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
	apilists "workos-relay/source/lists"
)

// snapshots returns what reads the snapshots of the lane, or nil if the lane keeps no state.
func (l *Lane) snapshots(client *source.Client, hooks *source.Hooks, bus sink.Sink) *snapshot.Engine {
	entities := l.Router.Entities()
	if len(entities) == 0 {
		return nil
	}
	names := make([]string, len(entities))
	for i := range entities {
		names[i] = entities[i].Name
	}
	hooks = oneAtATime(hooks)
	limits := l.Sink.Settings.Limits()
	return &snapshot.Engine{
		Lists:        &apilists.Client{Getter: &source.Getter{Client: client, Hooks: hooks, Logger: l.Log}},
		Entities:     names,
		Organization: l.Config.Source.OrganizationID,
		Message:      l.Router.AppendObject,
		Stored:       l.stored(bus),
		Now:          func(ctx context.Context) (time.Time, error) { return l.Stream(client, hooks).Now(ctx) },
		Automatic:    l.Sink.State.Snapshot == "first_start",
		MaxMessages:  limits.BatchMessages,
		MaxBytes:     cmp.Or(limits.Prefetch, pipeline.DefaultPrefetch),
		Logger:       l.Log,
	}
}

// oneAtATime returns those hooks that a source.Getter calls, for several goroutines: they call them
// one at a time.
func oneAtATime(hooks *source.Hooks) *source.Hooks {
	if hooks == nil {
		return nil
	}
	mu := new(sync.Mutex)
	return &source.Hooks{
		OnResponse:    locked(mu, hooks.OnResponse),
		OnRetry:       locked(mu, hooks.OnRetry),
		OnRateLimited: locked(mu, hooks.OnRateLimited),
		OnLimiterWait: locked(mu, hooks.OnLimiterWait),
	}
}

func locked[T any](mu *sync.Mutex, hook func(T)) func(T) {
	if hook == nil {
		return nil
	}
	return func(info T) {
		mu.Lock()
		defer mu.Unlock()
		hook(info)
	}
}
