package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"workos-relay/internal/admin"
	"workos-relay/internal/app"
	"workos-relay/internal/printable"
	"workos-relay/internal/snapshot"
	"workos-relay/internal/verify"
	"workos-relay/source"
	"workos-relay/source/lists"
	"workos-relay/state"
)

// stateVerdict is what `relay verify --state --json` prints.
type stateVerdict struct {
	Lane string `json:"lane"`
	verify.StateReport
	// NotCompared are entities that the lane keeps and that no list shows.
	NotCompared []notCompared `json:"not_compared"`
	Repair      *stateRepair  `json:"repair,omitempty"`
}

type notCompared struct {
	Entity string `json:"entity"`
	Why    string `json:"why"`
}

// stateRepair is what a repair did.
type stateRepair struct {
	Run      string   `json:"run"` // of the snapshot
	Entities []string `json:"entities"`
	Objects  uint64   `json:"objects"` // published
	Removed  uint64   `json:"removed"`
	// Left are the first faults that are still there, or of which it cannot be told; null if they
	// were not looked at again.
	Left []verify.StateExample `json:"left"`
}

// runState compares the state of a lane with the lists of WorkOS, and has it mended if it is told
// to.
func (c *verifyCmd) runState(ctx context.Context, env *environment) (err error) {
	if c.Strict || c.Blindly {
		return app.Usage(errors.New("--strict and --blindly are about events; leave them out with --state"))
	}
	if c.Wait < time.Second {
		return app.Usage(fmt.Errorf("--wait: %v is too short; write at least 1s", c.Wait))
	}
	p := newProgress(env.stderr)
	l, client, err := c.reach(env, p)
	if err != nil {
		return err
	}
	v := stateVerdict{Lane: l.Sink.Name, NotCompared: []notCompared{}}
	entities, err := c.entitiesOf(l, &v)
	if err != nil {
		return err
	}
	l = l.FromOutside()
	bus, err := l.OpenFromOutside(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bus.Close()) }()
	objects := l.Objects(bus.Sink)
	if objects == nil {
		return l.CannotReadBack()
	}
	if err := l.Answers(ctx, bus); err != nil {
		return err
	}
	if err := l.NoSnapshotGoesOn(ctx); err != nil {
		return err
	}
	var running *admin.Client
	if c.Repair { // a relay that does not run is noticed before everything is read
		if running, err = app.Running(ctx, l.Config); err != nil {
			return fmt.Errorf("--repair lets the running relay read a snapshot: %w", err)
		}
	}
	check := l.StateCheck(client, objects, entities)
	check.Dir, check.Wait, check.Examples, check.Progress = c.Dir, c.Wait, c.Examples, p.show
	result, err := check.Run(ctx)
	p.finish()
	if err != nil {
		return stoppedOr(ctx, l, err)
	}
	if err := l.NoSnapshotGoesOn(ctx); err != nil { // it may have begun meanwhile
		return err
	}
	v.StateReport = result.Report
	var repairErr error
	if faulty := result.Faulty(); c.Repair && len(faulty) > 0 {
		v.Repair = &stateRepair{Entities: faulty}
		repairErr = c.repairState(ctx, env, running, v.Lane, result, v.Repair)
		p.finish()
		v.Total = result.Report.Total
	}
	if err := c.printState(env.stdout, &v); err != nil {
		return err
	}
	if repairErr != nil {
		return fmt.Errorf("repairing: %w; run relay verify again to see what is still missing", repairErr)
	}
	return v.err()
}

// stoppedOr returns err of a check, or says that the check was stopped.
func stoppedOr(ctx context.Context, l *app.Lane, err error) error {
	var refused *source.RefusalError
	switch {
	case ctx.Err() != nil:
		return errors.New("stopped before the end; nothing was found out, and nothing was changed")
	case errors.As(err, &refused):
		return err
	}
	return l.ExplainFromOutside(err)
}

// entitiesOf returns the entities to compare, and notes those that have no list.
func (c *verifyCmd) entitiesOf(l *app.Lane, v *stateVerdict) ([]string, error) {
	var kept []string
	for _, e := range l.Router.Entities() {
		kept = append(kept, e.Name)
	}
	if len(kept) == 0 {
		return nil, app.KeepsNoState(l.Sink.Name)
	}
	listed := snapshot.Listed(kept)
	for _, name := range c.Entities {
		switch _, known := state.Lookup(name); {
		case !known:
			return nil, app.Usage(fmt.Errorf("--entities: %q is not a kind of object; lane %s keeps %s", printable.Text(name), l.Sink.Name, strings.Join(kept, ", ")))
		case !slices.Contains(kept, name):
			return nil, app.Usage(fmt.Errorf("--entities: lane %s does not keep the state of each %s; it keeps %s: add it to state.entities of the sink", l.Sink.Name, name, strings.Join(kept, ", ")))
		case !slices.Contains(listed, name):
			return nil, app.Usage(fmt.Errorf("--entities: %s cannot be compared: %s", name, whyNot(name)))
		}
	}
	if len(c.Entities) > 0 {
		return snapshot.Listed(c.Entities), nil
	}
	for _, name := range kept {
		if !slices.Contains(listed, name) {
			v.NotCompared = append(v.NotCompared, notCompared{name, whyNot(name)})
		}
	}
	return listed, nil
}

// whyNot says why an entity cannot be compared.
func whyNot(entity string) string {
	if e, ok := lists.Lookup(entity); ok && e.PerUser {
		return "WorkOS has one list for each user"
	}
	return "WorkOS has no list of it"
}

// repairState has the running lane read a snapshot of each entity with a fault, and looks at the
// faults again afterwards.
func (c *verifyCmd) repairState(ctx context.Context, env *environment, running *admin.Client, lane string, result *verify.StateResult, r *stateRepair) error {
	done, err := readSnapshot(ctx, env, running, lane, r.Entities)
	if err != nil {
		return err
	}
	r.Run = done.Run
	for _, e := range done.Entities {
		r.Objects, r.Removed = r.Objects+e.Objects, r.Removed+e.Removed
	}
	r.Left, err = result.Again(ctx)
	return err
}

// readSnapshot has a lane read a snapshot, and waits until it is finished.
func readSnapshot(ctx context.Context, env *environment, client *admin.Client, lane string, entities []string) (*admin.SnapshotStatus, error) {
	seen, err := client.Status(ctx)
	if err != nil {
		return nil, err
	}
	before := ""
	for i := range seen.Lanes {
		if l := &seen.Lanes[i]; l.Name == lane && l.Snapshot != nil {
			before = l.Snapshot.Run
		}
	}
	if err := askSnapshot(ctx, client, lane, entities); err != nil {
		return nil, err
	}
	f := follower{relay: client, out: env.stderr, lane: lane, before: before, started: seen.Started}
	return f.follow(ctx)
}

// err returns the error that the command ends with: nil, or the fault that remains.
func (v *stateVerdict) err() error {
	switch unchecked := v.Sum(func(c *verify.StateCount) int { return c.Unchecked }); {
	case v.Total > 0:
		return fmt.Errorf("%s found on the bus of lane %s", counted(v.Total, "fault"), v.Lane)
	case unchecked > 0:
		return fmt.Errorf("%s of the state of lane %s not looked at again; run relay verify --state again", numbered(unchecked, "difference was", "differences were"), v.Lane)
	case len(v.Entities) == 0:
		return fmt.Errorf("of what lane %s keeps WorkOS has no lists, so nothing could be compared", v.Lane)
	default:
		return nil
	}
}

func (c *verifyCmd) printState(out io.Writer, v *stateVerdict) error {
	if c.JSON {
		return printJSON(out, v)
	}
	fmt.Fprintf(out, "lane %s: %s in WorkOS's lists against %s in the state on the bus\n\n", v.Lane,
		counted(v.Sum(func(c *verify.StateCount) int { return c.Listed }), "object"), thousands(v.Sum(func(c *verify.StateCount) int { return c.Stored })))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ENTITY\tLISTED\tON THE BUS\tMISSING\tSTALE\tGHOSTS")
	for _, e := range v.Entities {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Entity, thousands(e.Listed), thousands(e.Stored), thousands(e.Missing), thousands(e.Stale), thousands(e.Ghosts))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, f := range []struct {
		name, means string
		verify.StateFinding
	}{
		{"missing", "WorkOS has the object, the bus has not", v.Missing},
		{"stale", "the bus has another version of the object than WorkOS", v.Stale},
		{"ghosts", "the bus has the object, WorkOS has not", v.Ghosts},
	} {
		if len(f.Examples) > 0 {
			fmt.Fprintf(out, "\n%s: %s\n", f.name, f.means)
		}
		for i := range f.Examples {
			fmt.Fprintf(out, "  %s\n", exampleText(&f.Examples[i]))
		}
	}
	for _, n := range v.notes() {
		fmt.Fprintf(out, "\n%s\n", n)
	}
	if v.err() == nil && v.Sum(func(c *verify.StateCount) int { return c.Unsettled + c.Undecided }) == 0 {
		fmt.Fprintln(out, "\nNo fault found.")
	}
	return nil
}

// exampleText is a line about an object.
func exampleText(e *verify.StateExample) string {
	text := fmt.Sprintf("%s %s", e.Entity, printable.Text(e.Key))
	if e.Differs != "" {
		text += ", differs in " + printable.Text(e.Differs)
	}
	if e.UpdatedAt != nil {
		text += ", updated " + e.UpdatedAt.Format(time.RFC3339Nano)
	}
	if e.StoredUpdatedAt != nil {
		text += ", on the bus " + e.StoredUpdatedAt.Format(time.RFC3339Nano)
	}
	return text
}

// notes returns what the operator must know besides the findings.
func (v *stateVerdict) notes() []string {
	var notes []string
	note := func(count func(*verify.StateCount) int, one, many, why string) {
		if n := v.Sum(count); n > 0 {
			notes = append(notes, numbered(n, one, many)+" "+why)
		}
	}
	note(func(c *verify.StateCount) int { return c.Unsettled }, "difference has", "differences have",
		"not lasted, or the lane has not carried yet what may explain it: nothing can be said of that now.")
	note(func(c *verify.StateCount) int { return c.Unchecked }, "difference was", "differences were",
		"not looked at again: verify looks at 10,000 of each entity.")
	note(func(c *verify.StateCount) int { return c.Undecided }, "object is", "objects are",
		"on the bus and in no list, and WorkOS does not tell whether it has them.")
	note(func(c *verify.StateCount) int { return c.LeftOut }, "object was", "objects were",
		"not compared, since a route drops events about them or may do so, or since another organization has them.")
	for _, n := range v.NotCompared {
		notes = append(notes, fmt.Sprintf("Not compared: %s, since %s.", n.Entity, n.Why))
	}
	if r := v.Repair; r != nil && r.Run != "" {
		text := fmt.Sprintf("Snapshot %s of %s: published %s, removed %s", r.Run, strings.Join(r.Entities, ", "),
			counted(int(r.Objects), "object"), thousands(int(r.Removed))) //nolint:gosec // less than there are
		if r.Left != nil { // it was looked at again
			text += fmt.Sprintf("; %s left", counted(v.Total, "fault"))
		}
		notes = append(notes, text+".")
		for i := range r.Left {
			notes = append(notes, "  left: "+exampleText(&r.Left[i]))
		}
	}
	return notes
}
