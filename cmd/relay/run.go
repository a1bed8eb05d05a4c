package main

import (
	"context"
	"runtime/debug"

	"workos-relay/internal/config"
)

type runCmd struct{}

// Run carries events until ctx ends or no lane runs any more.
func (*runCmd) Run(ctx context.Context, a *app) error {
	cfg, err := a.loadConfig()
	if err != nil {
		return err
	}
	defer a.limitMemory(cfg)()
	return serve(ctx, cfg, a.log, options{
		Reread:  a.loadConfig,
		Applied: func(cfg *config.Config) { a.limitMemory(cfg) },
		Started: func(r *relay) func() { return r.reloadAtHangup(ctx) },
	})
}

// limitMemory sets memoryLimit for the process, unless GOMEMLIMIT says otherwise, and returns what undoes that.
func (a *app) limitMemory(cfg *config.Config) (undo func()) {
	if _, set := a.env("GOMEMLIMIT"); set {
		return func() {}
	}
	before := debug.SetMemoryLimit(memoryLimit(cfg))
	return func() { debug.SetMemoryLimit(before) }
}
