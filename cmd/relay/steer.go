package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"text/tabwriter"
	"time"

	"workos-relay/internal/admin"
	"workos-relay/internal/app"
	"workos-relay/pipeline"
)

// steerTime bounds a command that a running relay answers. The relay itself waits a while until a
// lane is idle.
const steerTime = time.Minute

// lanesArg names lanes of a running relay.
type lanesArg struct {
	Lanes []string `arg:"" optional:"" name:"lane" help:"Names of sinks. Default: all lanes." predictor:"lane"`
	Named []string `name:"lane" help:"Name of a sink, the same as an argument. May be repeated." placeholder:"SINK" predictor:"lane"`
	JSON  bool     `help:"As a JSON array."`
}

// steer sends a request to the running relay and prints the states of the lanes afterwards.
func (c *lanesArg) steer(ctx context.Context, env *environment, what string) ([]admin.LaneState, error) {
	ctx, cancel := context.WithTimeout(ctx, steerTime)
	defer cancel()
	client, err := env.runningRelay(ctx)
	if err != nil {
		return nil, err
	}
	states, err := client.Steer(ctx, what, slices.Concat(c.Lanes, c.Named))
	if err != nil {
		return nil, err
	}
	if c.JSON {
		return states, printJSON(env.stdout, states)
	}
	w := tabwriter.NewWriter(env.stdout, 0, 0, 2, ' ', 0)
	for _, s := range states {
		fmt.Fprintf(w, "%s\t%s\t%s\n", s.Name, s.State, s.Reason)
	}
	return states, w.Flush()
}

// runningRelay returns a client of the running relay with this configuration.
func (env *environment) runningRelay(ctx context.Context) (*admin.Client, error) {
	cfg, err := env.loadConfigWith(env.keyOptional)
	if err != nil {
		return nil, err
	}
	return app.Running(ctx, cfg)
}

type pauseCmd struct{ lanesArg }

// Run pauses lanes.
func (c *pauseCmd) Run(ctx context.Context, env *environment) error {
	states, err := c.steer(ctx, env, "pause")
	if err != nil {
		return err
	}
	for _, s := range states {
		if s.State != pipeline.Paused {
			return errors.New("not every lane is at rest: what is under way is finished first; `relay status` tells when it is")
		}
	}
	return nil
}

type resumeCmd struct{ lanesArg }

// Run resumes lanes.
func (c *resumeCmd) Run(ctx context.Context, env *environment) error {
	_, err := c.steer(ctx, env, "resume")
	return err
}

type pollCmd struct{ lanesArg }

// Run makes lanes poll WorkOS now.
func (c *pollCmd) Run(ctx context.Context, env *environment) error {
	_, err := c.steer(ctx, env, "poll")
	return err
}

type reloadCmd struct {
	JSON bool `help:"As a JSON object."`
}

// reloadTime bounds a reload, which waits for lanes to stop.
const reloadTime = 10 * time.Minute

// Run reloads the configuration of the running relay, and prints what has changed.
func (c *reloadCmd) Run(ctx context.Context, env *environment) error {
	ctx, cancel := context.WithTimeout(ctx, reloadTime)
	defer cancel()
	client, err := env.runningRelay(ctx)
	if err != nil {
		return fmt.Errorf("nothing was reloaded: %w", err)
	}
	done, err := client.Reload(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(env.stdout, done)
	}
	for _, change := range done.Changes {
		fmt.Fprintln(env.stdout, change)
	}
	if len(done.Changes) == 0 {
		fmt.Fprintln(env.stdout, "the configuration is what it was")
	}
	for _, lane := range done.Lanes {
		fmt.Fprintf(env.stdout, "lane %s\n", lane)
	}
	for _, s := range done.Settings {
		fmt.Fprintln(env.stdout, s)
	}
	return nil
}
