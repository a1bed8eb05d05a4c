package app

import (
	"cmp"
	"context"
	"sync"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/config"
	"workos-relay/internal/snapshot"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
	apilists "workos-relay/source/lists"
)

// snapshots returns what reads the snapshots of the lane, or nil if the lane keeps no state.
func (l *Lane) snapshots(client *source.Client, hooks *source.Hooks, bus sink.Sink) *snapshot.Engine {
	names := l.entities()
	if len(names) == 0 {
		return nil
	}
	hooks = oneAtATime(hooks)
	limits := l.Sink.Settings.Limits()
	reader := &apilists.Client{Getter: &source.Getter{Client: client, Hooks: hooks, Logger: l.Log}}
	e := &snapshot.Engine{
		Lists:        reader,
		Entities:     names,
		Organization: l.Config.Source.OrganizationID,
		Message:      l.Router.AppendObject,
		Stored:       l.stored(bus),
		Now:          func(ctx context.Context) (time.Time, error) { return l.Stream(client, hooks).Now(ctx) },
		Automatic:    l.Sink.State.Snapshot == config.SnapshotFirstStart,
		FirstStart:   l.Sink.State.Snapshot == "",
		LeaveOut:     true,
		MaxMessages:  limits.BatchMessages,
		MaxBytes:     cmp.Or(limits.Prefetch, pipeline.DefaultPrefetch),
		Logger:       l.Log,
	}
	reader.Patience = e.Patience
	return e
}

// BeginsWithState reports whether a new lane reads snapshots by itself.
func (l *Lane) BeginsWithState() bool {
	return len(l.Router.Entities()) > 0 && l.Sink.State.Snapshot != config.SnapshotNever
}

// Unread returns what snapshot.Engine.Unread does, from the checkpoint of a lane that another
// process may carry.
func (l *Lane) Unread(cp checkpoint.Checkpoint) []pipeline.UnreadEntity {
	return l.rules().Unread(cp)
}

// Listed returns the entities that a snapshot of the lane reads.
func (l *Lane) Listed() []string { return snapshot.Listed(l.entities()) }

// entities returns the names of what the lane keeps.
func (l *Lane) entities() []string {
	var names []string
	for _, entity := range l.Router.Entities() {
		names = append(names, entity.Name)
	}
	return names
}

// rules returns an engine that only answers which snapshots the lane reads.
func (l *Lane) rules() *snapshot.Engine {
	return &snapshot.Engine{Entities: l.entities(), Automatic: l.Sink.State.Snapshot == config.SnapshotFirstStart, FirstStart: l.Sink.State.Snapshot == ""}
}

// oneAtATime returns those hooks that a source.Getter calls, for several goroutines: they call them
// one at a time.
func oneAtATime(hooks *source.Hooks) *source.Hooks {
	if hooks == nil {
		return nil
	}
	mu := new(sync.Mutex)
	return &source.Hooks{
		OnRequest:     locked(mu, hooks.OnRequest),
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
