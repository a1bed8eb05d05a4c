package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/internal/app"
	"workos-relay/internal/config"
	"workos-relay/internal/hint"
)

type checkpointCmd struct {
	Show  checkpointShowCmd  `cmd:"" help:"Print the position of each lane."`
	Set   checkpointSetCmd   `cmd:"" help:"Move a lane to another position, through the admin address if relay runs. The old checkpoint is archived."`
	Reset checkpointResetCmd `cmd:"" help:"Move a lane to source.start, through the admin address if relay runs. The old checkpoint is archived."`
}

// laneFlag chooses one of several lanes.
type laneFlag struct {
	Lane string `help:"Name of the sink. Required if there are several." placeholder:"SINK" predictor:"lane"`
}

func (f laneFlag) choose(lanes []*app.Lane) (*app.Lane, error) { return app.ChooseLane(lanes, f.Lane) }

type checkpointShowCmd struct {
	laneFlag
	JSON    bool          `help:"As a JSON array."`
	Timeout time.Duration `help:"How long to wait for a bus that keeps positions." default:"10s"`
}

// checkpointRow is the position of a lane in one of its two places.
type checkpointRow struct {
	Lane       string     `json:"lane"`
	Place      string     `json:"place,omitempty"` // file or bus
	EventID    string     `json:"event_id,omitempty"`
	CreatedAt  *time.Time `json:"created_at,omitempty"`
	UpdatedAt  *time.Time `json:"updated_at,omitempty"`
	Seen       *time.Time `json:"seen,omitempty"` // by the API's clock: nothing that was created before is missing
	Holder     string     `json:"holder,omitempty"`
	Generation uint64     `json:"generation,omitempty"`
	Released   bool       `json:"released"`
	Error      string     `json:"error,omitempty"`

	position string
}

// Run prints the positions. It takes no lock and fences nobody, so it works beside a running relay.
func (c *checkpointShowCmd) Run(ctx context.Context, env *environment) error {
	cfg, err := env.loadConfigWith(env.keyOptional)
	if err != nil {
		return err
	}
	lanes, err := app.NewLanes(cfg, env.log)
	if err != nil {
		return err
	}
	if c.Lane != "" {
		l, err := c.choose(lanes)
		if err != nil {
			return err
		}
		lanes = []*app.Lane{l}
	}
	var rows []checkpointRow
	var faults []error
	for _, l := range lanes {
		found, err := c.rows(ctx, l)
		rows = append(rows, found...)
		faults = append(faults, err)
	}
	if c.JSON {
		enc := json.NewEncoder(env.stdout)
		enc.SetIndent("", "  ")
		return errors.Join(append(faults, enc.Encode(rows))...)
	}
	return errors.Join(append(faults, printCheckpoints(env.stdout, rows))...)
}

// rows returns a row for each place that holds a position of the lane, or one that says that there
// is none.
func (c *checkpointShowCmd) rows(ctx context.Context, l *app.Lane) (rows []checkpointRow, fault error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	fromFile, err := checkpoint.ReadFile(l.Config.Checkpoint.Dir, l.Identity())
	if err == nil && fromFile.Mode != checkpoint.AtLeastOnce {
		err = checkpoint.ErrNotFound // it was taken to the bus
	}
	rows, fault = appendRow(rows, l, app.InFile, fromFile, err)
	if l.MayBeOnBus() {
		fromBus, err := l.ReadBus(ctx)
		var busFault error
		rows, busFault = appendRow(rows, l, app.OnBus, fromBus, err)
		fault = errors.Join(fault, busFault)
	}
	if len(rows) == 0 {
		rows = append(rows, checkpointRow{Lane: l.Sink.Name, Error: checkpoint.ErrNotFound.Error(), position: checkpoint.ErrNotFound.Error()})
	}
	return rows, fault
}

func appendRow(rows []checkpointRow, l *app.Lane, place string, cp checkpoint.Checkpoint, err error) ([]checkpointRow, error) {
	switch {
	case errors.Is(err, checkpoint.ErrNotFound):
		return rows, nil
	case err != nil:
		row := checkpointRow{Lane: l.Sink.Name, Place: place, Error: hint.Text(l.Sink.Name, err), position: "unknown: " + hint.Text(l.Sink.Name, err)}
		return append(rows, row), fmt.Errorf("lane %s: %w", l.Sink.Name, err)
	}
	row := checkpointRow{
		Lane: l.Sink.Name, Place: place, EventID: cp.EventID, Holder: cp.Holder, Generation: cp.Generation, Released: cp.Released,
		UpdatedAt: &cp.UpdatedAt, position: cp.String(),
	}
	if !cp.CreatedAt.IsZero() {
		row.CreatedAt = &cp.CreatedAt
	}
	if !cp.Seen.IsZero() {
		row.Seen = &cp.Seen
	}
	return append(rows, row), nil
}

func printCheckpoints(out io.Writer, rows []checkpointRow) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LANE\tPLACE\tPOSITION\tCOMMITTED\tHOLDER")
	for _, r := range rows {
		updated, holder := "-", r.Holder
		if r.UpdatedAt != nil {
			updated = r.UpdatedAt.Local().Format(time.DateTime)
		}
		if r.Released {
			holder += " (released)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Lane, r.Place, r.position, updated, holder)
	}
	return w.Flush()
}

type checkpointSetCmd struct {
	laneFlag
	skipFlag
	To   string `arg:"" optional:"" help:"An event id (continue after it), earliest, latest, or a time: ${time}." predictor:"start"`
	From string `help:"Take the position from another place: another lane, by the name of its sink; or file or bus, for this lane's own position in the other mode of delivery." placeholder:"file|bus|SINK" predictor:"from"`
}

// Run moves a lane.
func (c *checkpointSetCmd) Run(ctx context.Context, env *environment) error {
	if (c.To == "") == (c.From == "") {
		return app.Usage(errors.New("say where to: an event id, a time, earliest, latest, or --from file, bus or another lane"))
	}
	var to config.Start
	if c.To != "" {
		if err := to.UnmarshalText([]byte(c.To)); err != nil {
			return app.Usage(fmt.Errorf("%q %w", c.To, err))
		}
	}
	return env.move(ctx, c.laneFlag, admin.Destination{To: c.To, From: c.From, Skip: c.Skip})
}

type checkpointResetCmd struct {
	laneFlag
	skipFlag
}

// Run moves a lane to the position that it would start at without a checkpoint.
func (c *checkpointResetCmd) Run(ctx context.Context, env *environment) error {
	return env.move(ctx, c.laneFlag, admin.Destination{Reset: true, Skip: c.Skip})
}

// move moves the chosen lane. If a running relay has locked the checkpoint directory, that relay
// moves the lane.
func (env *environment) move(ctx context.Context, which laneFlag, to admin.Destination) error {
	cfg, err := env.loadConfigWith(env.keyOptional)
	if err != nil {
		return err
	}
	lanes, err := app.NewLanes(cfg, env.log)
	if err != nil {
		return err
	}
	l, err := which.choose(lanes)
	if err != nil {
		return err
	}
	client, err := app.NewClient(cfg)
	if err != nil {
		return err
	}
	p, err := l.OpenPositions(ctx)
	var done admin.Moved
	switch {
	case errors.Is(err, checkpoint.ErrLocked):
		done, err = moveRunning(ctx, cfg, l, to, err)
	case err != nil:
		return err
	default:
		done, err = p.Move(ctx, client, to, lanes)
		err = errors.Join(err, p.Close())
	}
	if err != nil {
		return err
	}
	tellMoved(env.stdout, &done)
	return nil
}

// moveRunning asks the relay that has locked the checkpoint directory to move the lane.
func moveRunning(ctx context.Context, cfg *config.Config, l *app.Lane, to admin.Destination, locked error) (admin.Moved, error) {
	client, err := app.Running(ctx, cfg, l.Sink.Name)
	if err != nil {
		return admin.Moved{}, fmt.Errorf("%w; it cannot be asked to move the lane itself: %w", locked, err)
	}
	l.Log.Info("asking the running relay to move the lane; if another relay has not released its position, that takes takeover_after",
		zap.String("relay", client.Addr()), zap.Duration("takeover_after", l.Config.TakeoverAfter))
	return client.SetCheckpoint(ctx, l.Sink.Name, to)
}

// skipFlag permits a move to skip events.
type skipFlag struct {
	Skip bool `help:"Move even if that skips events after the committed position. The answer says how many."`
}

// tellMoved prints the new position and the previous one.
func tellMoved(out io.Writer, m *admin.Moved) {
	fmt.Fprintf(out, "lane %s now stands at: %s (%s, %s)\n", m.Lane, placeText(m.After), m.Place, m.Mode)
	if m.Before != nil {
		fmt.Fprintf(out, "before, it stood at: %s\n", placeText(*m.Before))
	} else if m.Unreadable {
		fmt.Fprintln(out, "what was there before could not be read")
	}
	switch {
	case m.SkippedUnknown != "":
		fmt.Fprintf(out, "events that followed its position may have been skipped; they could not be counted: %s\n", m.SkippedUnknown)
	case m.Skipped != nil && *m.Skipped == 1:
		fmt.Fprintf(out, "skipped 1 event that followed its position: %s\n", m.SkippedFirst)
	case m.Skipped != nil && *m.Skipped > 1:
		fmt.Fprintf(out, "skipped %d events that followed its position, from %s to %s\n", *m.Skipped, m.SkippedFirst, m.SkippedLast)
	}
	if m.Kept != "" {
		fmt.Fprintf(out, "the checkpoint from before is kept in %s\n", m.Kept)
	}
}

// placeText formats a position.
func placeText(p admin.Position) string {
	at := checkpoint.Position{EventID: p.EventID}
	if p.CreatedAt != nil {
		at.CreatedAt = *p.CreatedAt
	}
	return at.String()
}
