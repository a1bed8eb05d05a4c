package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"workos-relay/internal/admin"
	"workos-relay/pipeline"
)

// steerTime bounds a command that a running relay answers; it waits a while itself for a lane to come to rest.
const steerTime = time.Minute

// lanesArg names lanes of the relay that runs.
type lanesArg struct {
	Lanes []string `arg:"" optional:"" name:"lane" help:"Names of sinks. Default: all lanes."`
	JSON  bool     `help:"As a JSON array."`
}

// steer asks the relay that runs for something and prints how the lanes are then.
func (c *lanesArg) steer(ctx context.Context, a *app, what string) ([]admin.LaneState, error) {
	ctx, cancel := context.WithTimeout(ctx, steerTime)
	defer cancel()
	client, err := a.runningRelay(ctx)
	if err != nil {
		return nil, err
	}
	states, err := client.Steer(ctx, what, c.Lanes)
	if err != nil {
		return nil, err
	}
	if c.JSON {
		return states, printJSON(a.stdout, states)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	for _, s := range states {
		fmt.Fprintf(w, "%s\t%s\t%s\n", s.Name, s.State, s.Reason)
	}
	return states, w.Flush()
}

// runningRelay returns a client of the relay that runs by the configuration.
func (a *app) runningRelay(ctx context.Context) (*admin.Client, error) {
	cfg, err := a.loadConfigWith(a.keyOptional)
	if err != nil {
		return nil, err
	}
	return runningRelay(ctx, cfg)
}

type pauseCmd struct{ lanesArg }

// Run pauses lanes.
func (c *pauseCmd) Run(ctx context.Context, a *app) error {
	states, err := c.steer(ctx, a, "pause")
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

// Run ends the pause of lanes.
func (c *resumeCmd) Run(ctx context.Context, a *app) error {
	_, err := c.steer(ctx, a, "resume")
	return err
}

type pollCmd struct{ lanesArg }

// Run lets lanes ask WorkOS at once.
func (c *pollCmd) Run(ctx context.Context, a *app) error {
	_, err := c.steer(ctx, a, "poll")
	return err
}

type reloadCmd struct {
	JSON bool `help:"As a JSON object."`
}

// reloadTime bounds a reload: it waits for lanes that are stopped.
const reloadTime = 10 * time.Minute

// Run lets the relay read its configuration again, and prints what has changed.
func (c *reloadCmd) Run(ctx context.Context, a *app) error {
	ctx, cancel := context.WithTimeout(ctx, reloadTime)
	defer cancel()
	client, err := a.runningRelay(ctx)
	if err != nil {
		return fmt.Errorf("nothing was reloaded: %w", err)
	}
	done, err := client.Reload(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(a.stdout, done)
	}
	for _, change := range done.Changes {
		fmt.Fprintln(a.stdout, change)
	}
	if len(done.Changes) == 0 {
		fmt.Fprintln(a.stdout, "the configuration is what it was")
	}
	for _, lane := range done.Lanes {
		fmt.Fprintf(a.stdout, "lane %s\n", lane)
	}
	for _, s := range done.Settings {
		fmt.Fprintln(a.stdout, s)
	}
	return nil
}
