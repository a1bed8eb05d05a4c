package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/internal/app"
	"workos-relay/internal/config"
	"workos-relay/internal/hint"
	"workos-relay/internal/moment"
	"workos-relay/source"
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
	moveFlags
	To   string `arg:"" optional:"" help:"An event id (continue after it), earliest, latest, or a time: ${time}." predictor:"start"`
	At   string `help:"Continue with the events from this time on: ${time}." aliases:"time" placeholder:"TIME"`
	From string `help:"Take the position from another place: another lane, by the name of its sink; or file or bus, for this lane's own position in the other mode of delivery." placeholder:"file|bus|SINK" predictor:"from"`
}

// Run moves a lane.
func (c *checkpointSetCmd) Run(ctx context.Context, env *environment) error {
	given := 0
	for _, place := range []string{c.To, c.At, c.From} {
		if place != "" {
			given++
		}
	}
	if given != 1 {
		return app.Usage(errors.New("say where to: an event id, a time, earliest, latest, or --from file, bus or another lane"))
	}
	to := c.To
	if c.At != "" {
		at, err := moment.Parse(c.At)
		if err != nil {
			return app.Usage(fmt.Errorf("--at: %q %w", c.At, err))
		}
		to = at.String()
	}
	if to != "" {
		var start config.Start
		if err := start.UnmarshalText([]byte(to)); err != nil {
			return app.Usage(fmt.Errorf("%q %w", to, err))
		}
	}
	return env.move(ctx, c.laneFlag, c.moveFlags, admin.Destination{To: to, From: c.From})
}

type checkpointResetCmd struct {
	laneFlag
	moveFlags
}

// Run moves a lane to the position that it would start at without a checkpoint.
func (c *checkpointResetCmd) Run(ctx context.Context, env *environment) error {
	return env.move(ctx, c.laneFlag, c.moveFlags, admin.Destination{Reset: true})
}

// moveFlags say how a lane is moved.
type moveFlags struct {
	Skip      bool `help:"Move even if that skips events after the committed position, and do not ask. The answer says how many." aliases:"yes"`
	DryRun    bool `help:"Move nothing: say from where to where, and how many events that skips or repeats."`
	Unchecked bool `help:"Do not ask the Events API whether the event exists. A wrong id then repeats or skips events, or stops the lane."`
}

// mover moves one lane, itself or through the relay that has locked the checkpoint directory.
type mover struct {
	env    *environment
	cfg    *config.Config
	lanes  []*app.Lane
	lane   *app.Lane
	client *source.Client
}

// move moves the chosen lane. On a terminal it shows first what the move does, and asks if that
// skips events.
func (env *environment) move(ctx context.Context, which laneFlag, how moveFlags, to admin.Destination) error {
	cfg, err := env.loadConfigWith(env.keyOptional)
	if err != nil {
		return err
	}
	m := mover{env: env, cfg: cfg}
	if m.lanes, err = app.NewLanes(cfg, env.log); err != nil {
		return err
	}
	if m.lane, err = which.choose(m.lanes); err != nil {
		return err
	}
	if m.client, err = app.NewClient(cfg); err != nil {
		return err
	}
	to.Skip, to.Unchecked, to.DryRun = how.Skip, how.Unchecked, how.DryRun
	if !to.Skip && !to.DryRun && to.From != app.InFile && to.From != app.OnBus && isTerminal(env.stderr) && term.IsTerminal(int(os.Stdin.Fd())) { //nolint:gosec // a file descriptor fits
		if to, err = m.confirm(ctx, to); err != nil {
			return err
		}
	}
	done, err := m.move(ctx, to)
	if err != nil {
		return err
	}
	tellMoved(env.stdout, &done)
	return nil
}

// errNotConfirmed is the answer no.
var errNotConfirmed = errors.New("nothing was moved")

// confirm finds out what a move would do, and asks whether to do it if it skips events. It returns
// the move with the position that it has shown, so that no more is skipped.
func (m *mover) confirm(ctx context.Context, to admin.Destination) (admin.Destination, error) {
	to.DryRun = true
	would, err := m.move(ctx, to)
	if err != nil {
		return to, err
	}
	to.DryRun = false
	if would.SkippedUnknown == "" && (would.Skipped == nil || *would.Skipped == 0) {
		return to, nil
	}
	tellMoved(m.env.stderr, &would)
	fmt.Fprintf(m.env.stderr, "Move lane %s and skip that? [y/N] ", would.Lane)
	answer, err := readLine(ctx, os.Stdin)
	if answer = strings.ToLower(strings.TrimSpace(answer)); err != nil || answer != "y" && answer != "yes" {
		return to, errNotConfirmed
	}
	return admin.Destination{To: app.Argument(would.After), Skip: true, Unchecked: true}, nil
}

// readLine reads a line, or as much of it as there is when ctx ends.
func readLine(ctx context.Context, in io.Reader) (string, error) {
	type read struct {
		line string
		err  error
	}
	done := make(chan read, 1)
	go func() { // ends with the process, which ends when ctx does
		line, err := bufio.NewReader(in).ReadString('\n')
		done <- read{line, err}
	}()
	select {
	case r := <-done:
		return r.line, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// move moves the lane. If a running relay has locked the checkpoint directory, that relay does it.
func (m *mover) move(ctx context.Context, to admin.Destination) (admin.Moved, error) {
	p, err := m.lane.OpenPositions(ctx)
	if errors.Is(err, checkpoint.ErrLocked) {
		return m.moveRunning(ctx, to, err)
	}
	if err != nil {
		return admin.Moved{}, err
	}
	done, err := p.Move(ctx, m.client, to, m.lanes)
	return done, errors.Join(err, p.Close())
}

// moveRunning asks the relay that has locked the checkpoint directory to move the lane.
func (m *mover) moveRunning(ctx context.Context, to admin.Destination, locked error) (admin.Moved, error) {
	client, err := app.Running(ctx, m.cfg, m.lane.Sink.Name)
	if err != nil {
		return admin.Moved{}, fmt.Errorf("%w; it cannot be asked to move the lane itself: %w", locked, err)
	}
	if !to.DryRun {
		fmt.Fprintf(m.env.stderr, "asking the running relay at %s to move lane %s; if another relay has not released its position, that takes takeover_after (%s)\n",
			client.Addr(), m.lane.Sink.Name, m.cfg.TakeoverAfter)
	}
	return client.SetCheckpoint(ctx, m.lane.Sink.Name, to)
}

// tellMoved prints the new position and the previous one, and what lies between.
func tellMoved(out io.Writer, m *admin.Moved) {
	is, skips, repeats := "now stands at", "skipped", "repeats"
	if m.DryRun {
		is, skips, repeats = "would stand at", "would skip", "would repeat"
	}
	fmt.Fprintf(out, "lane %s %s: %s (%s, %s)\n", m.Lane, is, placeText(m.After), m.Place, m.Mode)
	switch {
	case m.Before != nil && m.DryRun:
		fmt.Fprintf(out, "it stands at: %s\n", placeText(*m.Before))
	case m.Before != nil:
		fmt.Fprintf(out, "before, it stood at: %s\n", placeText(*m.Before))
	case m.Unreadable:
		fmt.Fprintln(out, "what was there before could not be read")
	}
	switch {
	case m.SkippedUnknown != "" && m.DryRun:
		fmt.Fprintf(out, "would skip an unknown number of events: %s\n", m.SkippedUnknown)
	case m.SkippedUnknown != "":
		fmt.Fprintf(out, "events that followed its position may have been skipped; they could not be counted: %s\n", m.SkippedUnknown)
	case m.Skipped != nil && *m.Skipped == 1:
		fmt.Fprintf(out, "%s 1 event that followed its position: %s\n", skips, m.SkippedFirst)
	case m.Skipped != nil && *m.Skipped > 1:
		fmt.Fprintf(out, "%s %d events that followed its position, from %s to %s\n", skips, *m.Skipped, m.SkippedFirst, m.SkippedLast)
	case m.Skipped != nil && m.DryRun:
		fmt.Fprintln(out, "would skip nothing")
	}
	switch {
	case m.RepeatedUnknown != "":
		fmt.Fprintf(out, "%s an unknown number of events: %s\n", repeats, m.RepeatedUnknown)
	case m.Repeated != nil && *m.Repeated > 0:
		fmt.Fprintf(out, "%s %s that it has published\n", repeats, counted(*m.Repeated, "event"))
	case m.Repeated != nil && m.DryRun:
		fmt.Fprintln(out, "would repeat nothing")
	}
	if m.Kept != "" {
		fmt.Fprintf(out, "the checkpoint from before is kept in %s\n", m.Kept)
	}
	if m.DryRun {
		fmt.Fprintln(out, "nothing was moved (dry run)")
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
