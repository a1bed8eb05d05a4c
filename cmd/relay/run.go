package main

import (
	"context"
	"errors"
	"runtime/debug"

	"workos-relay/conf/livefile"
	"workos-relay/internal/app"
	"workos-relay/internal/config"
	"workos-relay/internal/sdnotify"
)

type runCmd struct{}

// Run carries events until ctx ends or no lane runs any more.
func (*runCmd) Run(ctx context.Context, env *environment) error {
	cfg, err := env.loadConfig()
	if err != nil {
		return errors.Join(err, env.startLog(env.logging.chosen, true, logOf(err)))
	}
	if err := env.startLog(env.logging.chosen, true, cfg.Log); err != nil {
		return err
	}
	env.files = livefile.NewSet(env.log)
	cfg.Files = env.files
	defer env.limitMemory(cfg)()
	return app.Serve(ctx, cfg, env.log, app.Options{
		Reread: env.loadConfig,
		Applied: func(cfg *config.Config) {
			env.limitMemory(cfg)
			env.applyLog(cfg.Log)
		},
		Started: func(r *app.Relay) func() {
			reloads := r.ReloadAtHangup(ctx)
			manager := sdnotify.Start(ctx, env.lookupEnv, func() { r.Status() }, env.log)
			return func() { manager(); reloads() }
		},
	})
}

// limitMemory sets the memory limit of the process for cfg, unless GOMEMLIMIT is set. The function
// that it returns restores the limit.
func (env *environment) limitMemory(cfg *config.Config) (undo func()) {
	if _, set := env.lookupEnv("GOMEMLIMIT"); set {
		return func() {}
	}
	before := debug.SetMemoryLimit(app.MemoryLimit(cfg))
	return func() { debug.SetMemoryLimit(before) }
}
