package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"workos-relay/internal/admin"
	"workos-relay/internal/app"
	"workos-relay/internal/operator"
	"workos-relay/internal/retry"
	"workos-relay/pipeline"
)

type snapshotCmd struct {
	Lane     string   `help:"Name of the sink. Default: the only one." placeholder:"SINK" predictor:"lane"`
	Entities []string `help:"Kinds of object to read, such as user and directory_user. Default: all that the lane keeps." placeholder:"ENTITY"`
	Wait     bool     `help:"Show how far it is, and return when it is finished. --no-wait returns at once." default:"true" negatable:""`
	JSON     bool     `help:"As a JSON object."`
}

// snapshotLook is how often the command asks how far the snapshot is.
const snapshotLook = time.Second

// Run makes a lane of the running relay read a snapshot, and waits until it is finished.
func (c *snapshotCmd) Run(ctx context.Context, env *environment) error {
	client, err := env.runningRelay(ctx)
	if err != nil {
		return err
	}
	seen, err := client.Status(ctx)
	if err != nil {
		return err
	}
	lane, err := c.choose(&seen)
	if err != nil {
		return err
	}
	before := ""
	if lane.Snapshot != nil {
		before = lane.Snapshot.Run
	}
	if err := client.Snapshot(ctx, lane.Name, c.Entities); err != nil {
		return err
	}
	if !c.Wait {
		fmt.Fprintf(env.stdout, "lane %s reads a snapshot; `relay status` shows how far it is\n", lane.Name)
		return nil
	}
	done, err := c.follow(ctx, env, client, lane.Name, before)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(env.stdout, done)
	}
	w := tabwriter.NewWriter(env.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ENTITY\tOBJECTS\tREMOVED\tSKIPPED")
	for _, e := range done.Entities {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\n", e.Entity, e.Objects, e.Removed, e.Skipped)
	}
	return w.Flush()
}

// choose returns the lane that is meant.
func (c *snapshotCmd) choose(seen *admin.Status) (*admin.LaneStatus, error) {
	names := make([]string, len(seen.Lanes))
	for i := range seen.Lanes {
		l := &seen.Lanes[i]
		if names[i] = l.Name; l.Name == c.Lane || c.Lane == "" && len(seen.Lanes) == 1 {
			return l, nil
		}
	}
	if c.Lane == "" {
		return nil, app.Usage(fmt.Errorf("say which lane with --lane: one of %s", strings.Join(names, ", ")))
	}
	return nil, app.Usage(fmt.Errorf("--lane: the relay has no lane %q; it has %s", c.Lane, either(names, " and ")))
}

// follow waits until the lane has read another snapshot than before, and shows how far it is every
// few seconds. A relay that is restarted meanwhile continues the snapshot.
func (c *snapshotCmd) follow(ctx context.Context, env *environment, client *admin.Client, lane, before string) (*admin.SnapshotStatus, error) {
	var shown, started time.Time
	for {
		seen, err := client.Status(ctx)
		if gone := (*admin.UnreachableError)(nil); err != nil && (ctx.Err() != nil || !errors.As(err, &gone)) {
			return nil, err
		}
		restarted := err == nil && !started.IsZero() && !seen.Started.Equal(started)
		if err == nil {
			started = seen.Started
		}
		for i := range seen.Lanes {
			l := &seen.Lanes[i]
			if l.Name != lane {
				continue
			}
			s := l.Snapshot
			if s != nil && s.Run != before && s.FinishedAt != nil {
				return s, nil
			}
			if restarted && l.State == pipeline.Running && (s == nil || s.Run == before) {
				return nil, errors.New("relay was restarted before the snapshot began: ask for it again")
			}
			if l.State == pipeline.Stopped {
				return nil, errors.New("the lane has stopped: " + operator.Explain(l.Reason, l.Action))
			}
			if s != nil && s.Run != before && time.Since(shown) >= lineEvery {
				shown = time.Now()
				fmt.Fprintln(env.stderr, s.Text(seen.Now))
			}
		}
		if err := retry.Sleep(ctx, snapshotLook); err != nil {
			return nil, err
		}
	}
}
