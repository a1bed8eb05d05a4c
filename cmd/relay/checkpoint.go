package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/config"
)

type checkpointCmd struct {
	Show  checkpointShowCmd  `cmd:"" help:"Print the position of each lane."`
	Set   checkpointSetCmd   `cmd:"" help:"Move a lane to another position. Stop relay first. The checkpoint before is kept beside it."`
	Reset checkpointResetCmd `cmd:"" help:"Let a lane start over at source.start. Stop relay first. The checkpoint before is kept beside it."`
}

// laneFlag chooses a lane where there are several.
type laneFlag struct {
	Lane string `help:"Name of the sink. Needed where there are several." placeholder:"SINK"`
}

func (f laneFlag) choose(lanes []*lane) (*lane, error) {
	names := make([]string, len(lanes))
	for i, l := range lanes {
		if names[i] = l.sink.Name; l.sink.Name == f.Lane || f.Lane == "" && len(lanes) == 1 {
			return l, nil
		}
	}
	if f.Lane == "" {
		return nil, &usageError{fmt.Errorf("say which lane with --lane: one of %q", names)}
	}
	return nil, &usageError{fmt.Errorf("--lane: there is no sink %q, only %q", f.Lane, names)}
}

type checkpointShowCmd struct {
	laneFlag
	JSON bool `help:"As a JSON array."`
}

// checkpointRow is one lane of `relay checkpoint show`.
type checkpointRow struct {
	Lane       string          `json:"lane"`
	EventID    string          `json:"event_id,omitempty"`
	CreatedAt  *time.Time      `json:"created_at,omitempty"`
	UpdatedAt  *time.Time      `json:"updated_at,omitempty"`
	Mode       checkpoint.Mode `json:"mode,omitempty"`
	Holder     string          `json:"holder,omitempty"`
	Generation uint64          `json:"generation,omitempty"`
	Released   bool            `json:"released"`
	Error      string          `json:"error,omitempty"`

	position string
}

// Run prints what is there. It takes no lock, so it works beside a relay that runs.
func (c *checkpointShowCmd) Run(a *app) error {
	cfg, err := a.loadConfigWith(a.keyOptional)
	if err != nil {
		return err
	}
	lanes, err := newLanes(cfg, a.log)
	if err != nil {
		return err
	}
	if c.Lane != "" {
		l, err := c.choose(lanes)
		if err != nil {
			return err
		}
		lanes = []*lane{l}
	}
	var rows []checkpointRow
	var faults []error
	for _, l := range lanes {
		cp, err := checkpoint.ReadFile(cfg.Checkpoint.Dir, l.identity())
		if err != nil && !errors.Is(err, checkpoint.ErrNotFound) {
			faults = append(faults, fmt.Errorf("lane %s: %w", l.sink.Name, err))
		}
		rows = append(rows, newCheckpointRow(l.sink.Name, cp, err))
	}
	if c.JSON {
		enc := json.NewEncoder(a.stdout)
		enc.SetIndent("", "  ")
		return errors.Join(append(faults, enc.Encode(rows))...)
	}
	return errors.Join(append(faults, printCheckpoints(a.stdout, rows))...)
}

func newCheckpointRow(name string, cp checkpoint.Checkpoint, err error) checkpointRow {
	if err != nil {
		return checkpointRow{Lane: name, Error: err.Error(), position: "unknown: " + err.Error()}
	}
	row := checkpointRow{
		Lane: name, EventID: cp.EventID, Mode: cp.Mode, Holder: cp.Holder, Generation: cp.Generation, Released: cp.Released,
		UpdatedAt: &cp.UpdatedAt, position: cp.String(),
	}
	if !cp.CreatedAt.IsZero() {
		row.CreatedAt = &cp.CreatedAt
	}
	return row
}

func printCheckpoints(out io.Writer, rows []checkpointRow) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LANE\tPOSITION\tCOMMITTED\tMODE\tHOLDER")
	for _, r := range rows {
		updated, holder := "-", r.Holder
		if r.UpdatedAt != nil {
			updated = r.UpdatedAt.Local().Format(time.DateTime)
		}
		if r.Released {
			holder += " (released)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Lane, r.position, updated, r.Mode, holder)
	}
	return w.Flush()
}

type checkpointSetCmd struct {
	laneFlag
	To   string `arg:"" optional:"" help:"An event id (go on after it), a time such as 2026-01-31T00:00:00Z, earliest, or latest."`
	From string `help:"Take the position of this other lane." placeholder:"SINK" xor:"to"`
}

// Run moves a lane.
func (c *checkpointSetCmd) Run(ctx context.Context, a *app) error {
	if (c.To == "") == (c.From == "") {
		return &usageError{errors.New("say where to: an event id, a time, earliest, latest, or --from another lane")}
	}
	return a.move(ctx, c.laneFlag, func(lanes []*lane, l *lane) (checkpoint.Position, error) {
		if c.From != "" {
			other, err := laneFlag{Lane: c.From}.choose(lanes)
			if err != nil {
				return checkpoint.Position{}, err
			}
			cp, err := checkpoint.ReadFile(other.cfg.Checkpoint.Dir, other.identity())
			if err != nil {
				return checkpoint.Position{}, fmt.Errorf("reading the position of lane %s: %w", c.From, err)
			}
			return cp.Position, nil
		}
		var to config.Start
		if err := to.UnmarshalText([]byte(c.To)); err != nil {
			return checkpoint.Position{}, &usageError{fmt.Errorf("%q %w", c.To, err)}
		}
		return l.position(ctx, newClient(l.cfg), to)
	})
}

type checkpointResetCmd struct {
	laneFlag
}

// Run moves a lane to where it would begin without a checkpoint.
func (c *checkpointResetCmd) Run(ctx context.Context, a *app) error {
	return a.move(ctx, c.laneFlag, func(_ []*lane, l *lane) (checkpoint.Position, error) {
		return l.position(ctx, newClient(l.cfg), l.cfg.Source.Start)
	})
}

// move commits another position for a lane, whatever is there now, and keeps what was.
func (a *app) move(ctx context.Context, which laneFlag, where func([]*lane, *lane) (checkpoint.Position, error)) (err error) {
	cfg, err := a.loadConfigWith(a.keyOptional)
	if err != nil {
		return err
	}
	lanes, err := newLanes(cfg, a.log)
	if err != nil {
		return err
	}
	l, err := which.choose(lanes)
	if err != nil {
		return err
	}
	to, err := where(lanes, l)
	if err != nil {
		return err
	}
	store, err := checkpoint.OpenFile(cfg.Checkpoint.Dir, l.identity())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	return a.replace(ctx, l, store, to)
}

func (a *app) replace(ctx context.Context, l *lane, store *checkpoint.File, to checkpoint.Position) error {
	prev, kept, err := keepPrevious(ctx, store)
	if err != nil {
		return err
	}
	next := checkpoint.Checkpoint{
		Position: to, Generation: prev.Generation + 1, Holder: store.Holder(), Released: true,
		Source: l.identity(), Mode: checkpoint.AtLeastOnce, Events: l.types, UpdatedAt: time.Now().UTC(),
	}
	if _, err := store.Commit(ctx, prev, next); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "lane %s now stands at: %s\n", l.sink.Name, to)
	if kept != "" {
		fmt.Fprintf(a.stdout, "before, it stood at: %s; that checkpoint is kept in %s\n", prev.Position, kept)
	}
	return nil
}

// keepPrevious archives the checkpoint in force. One that cannot be read, or is another's, is moved away, so that the next commit
// finds none.
func keepPrevious(ctx context.Context, store *checkpoint.File) (prev checkpoint.Checkpoint, kept string, err error) {
	prev, err = store.Load(ctx)
	switch {
	case err == nil:
		kept, err = store.Archive(ctx)
	case errors.Is(err, checkpoint.ErrNotFound):
		err = nil
	case errors.Is(err, checkpoint.ErrCorrupt), errors.Is(err, checkpoint.ErrForeign):
		prev = checkpoint.Checkpoint{}
		kept, err = store.Remove(ctx)
	}
	return prev, kept, err
}
