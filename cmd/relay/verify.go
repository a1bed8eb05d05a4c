package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"workos-relay/internal/app"
	"workos-relay/internal/verify"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
)

type verifyCmd struct {
	spanFlags
	JSON     bool   `help:"As a JSON object."`
	Examples int    `help:"How many cases of each finding to name; with --state, of each entity." default:"10"`
	Strict   bool   `help:"Also count what at_least_once allows as faults: copies, and events that came too early and once more in order."`
	Repair   bool   `help:"Publish the missing events, each marked with the header relay-repair. With --state: let the running relay read a snapshot of each entity that has a fault."`
	Blindly  bool   `help:"With --repair: continue even if the lane's checkpoint cannot be read. Stop the lane first, or events that it has yet to publish come twice."`
	Dir      string `help:"Where to create the temporary directory, which takes about 300 bytes per event. Default: the system's." placeholder:"DIR"`

	State    bool          `help:"Compare the objects of the state topics with WorkOS's lists instead of a range of events." xor:"since,until"`
	Entities []string      `help:"With --state: kinds of object to compare, such as user and directory_user. Default: all that the lane keeps." placeholder:"ENTITY" predictor:"entity"`
	Wait     time.Duration `help:"With --state: how long a difference must last to count, since events come later than WorkOS's lists change." default:"20s"`
}

// verdict is what `relay verify --json` prints.
type verdict struct {
	Lane  string    `json:"lane"`
	Since string    `json:"since"`
	Until time.Time `json:"until"`
	// Due is the time of the checkpoint of the lane if that is before the requested end. Later
	// events are not due yet.
	Due *time.Time `json:"due_until,omitempty"`
	verify.Report
	Repair *repairReport `json:"repair,omitempty"`
}

type repairReport struct {
	Run       string `json:"run"`
	Published int    `json:"published"`
	Parked    int    `json:"parked"`
}

// Validate is called by kong.
func (c *verifyCmd) Validate() error {
	if c.State {
		return nil
	}
	return c.missing(", or --state")
}

// Run compares source and bus, and repairs if it is told to.
func (c *verifyCmd) Run(ctx context.Context, env *environment) (err error) {
	if c.State {
		return c.runState(ctx, env)
	}
	if len(c.Entities) > 0 {
		return app.Usage(errors.New("--entities needs --state"))
	}
	p := newProgress(env.stderr)
	chosen, err := c.choose(ctx, env, p)
	if err != nil {
		return err
	}
	v := verdict{Lane: chosen.lane.Sink.Name, Since: c.Since}
	cp, err := chosen.lane.Committed(ctx)
	due := chosen.lane.Due(cp, err, &chosen.span)
	if v.Due = due.Until; c.Repair && !due.Known && !c.Blindly {
		return fmt.Errorf("--repair must know how far the lane %s has come, or it would publish what the lane is about to, and no checkpoint of it can be read in %s: "+
			"run it where relay keeps its checkpoint, or stop relay and add --blindly", v.Lane, chosen.lane.Config.Checkpoint.Dir)
	}
	v.Until = chosen.span.Until.UTC()
	bus, err := chosen.lane.OpenFromOutside(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bus.Close()) }()
	result, err := c.check(ctx, &chosen, bus, &due, p)
	p.finish()
	if err != nil {
		if ctx.Err() != nil {
			return errors.New("stopped before the end; nothing was found out, and nothing was changed")
		}
		return err
	}
	defer func() { err = errors.Join(err, result.Close()) }()
	v.Report = result.Report
	var repairErr error
	if c.Repair && v.Missing.Count > 0 {
		v.Repair, repairErr = c.repair(ctx, &chosen, bus, result, p)
		p.finish()
		v.Total -= v.Repair.Published
	}
	if err := c.print(env.stdout, &v); err != nil {
		return err
	}
	if repairErr != nil {
		return fmt.Errorf("repairing: %w; run relay verify again to see what is still missing", repairErr)
	}
	return v.err()
}

func (c *verifyCmd) check(ctx context.Context, chosen *chosen, b *app.Bus, due *app.Due, p *progress) (*verify.Result, error) {
	check, err := chosen.lane.EventCheck(chosen.client, b, chosen.span, due)
	if err != nil {
		return nil, err
	}
	if err := chosen.lane.Answers(ctx, b); err != nil {
		return nil, err
	}
	check.Dir, check.Examples, check.Progress, check.Strict = c.Dir, c.Examples, p.show, c.Strict
	result, err := check.Run(ctx)
	if err != nil {
		return nil, chosen.lane.ExplainFromOutside(err)
	}
	return result, nil
}

// repair publishes what is missing.
func (c *verifyCmd) repair(ctx context.Context, chosen *chosen, bus sink.Sink, result *verify.Result, p *progress) (*repairReport, error) {
	r := &repairReport{Run: newRun()}
	if err := bus.Prepare(ctx, chosen.lane.Topics); err != nil {
		return r, err
	}
	publisher := chosen.publisher(bus, router.HeaderRepair, r.Run)
	missing := result.Report.Missing.Count
	_, err := result.Repair(ctx, func(ctx context.Context, events []source.Event) (int, error) {
		n, err := publisher.Publish(ctx, events)
		done := publisher.Counts().Events
		p.show("repaired", float64(done)/float64(missing), done)
		return n, err
	})
	r.Published, r.Parked = publisher.Counts().Messages, publisher.Counts().Parked
	return r, err
}

// err returns the error that the command ends with: nil, or the fault that remains.
func (v *verdict) err() error {
	switch {
	case v.Total > 0:
		return fmt.Errorf("%s found on the bus of lane %s", counted(v.Total, "fault"), v.Lane)
	case v.Unknown():
		return fmt.Errorf("the bus of lane %s keeps nothing of this range any more, so nothing could be compared", v.Lane)
	default:
		return nil
	}
}

func (c *verifyCmd) print(out io.Writer, v *verdict) error {
	if c.JSON {
		return printJSON(out, v)
	}
	fmt.Fprintf(out, "lane %s, from %s to %s: %s of the source against %s read from the bus\n\n",
		v.Lane, v.Since, v.Until.Format(time.RFC3339Nano), counted(v.Events, "event"), counted(v.Scanned, "message"))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, f := range v.findings() {
		means := f.means
		if f.allowed > 0 {
			means += "; at_least_once allows them"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.name, thousands(f.Count), means)
	}
	for _, f := range v.findings() {
		for i, e := range f.Examples {
			if i == 0 {
				fmt.Fprintf(w, "\n%s\n", f.name)
			}
			fmt.Fprintf(w, "  %s\t%s\t%s\n", e.EventID, e.CreatedAt.Format(time.RFC3339Nano), where(&e))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, n := range v.notes() {
		fmt.Fprintf(out, "\n%s\n", n)
	}
	if v.Faults() == 0 && !v.Unknown() {
		fmt.Fprintln(out, "\nNo fault found.")
	}
	return nil
}

// finding is a line of the table.
type finding struct {
	name, means string
	verify.Finding
	allowed int // of Finding.Count, by the mode of delivery
}

func (v *verdict) findings() []finding {
	return []finding{
		{"missing", "no message carries the event", v.Missing, 0},
		{"duplicate", "copies beside the first; replays apart", v.Duplicate, v.AllowedCopies},
		{"misrouted", "on another topic than the routes say", v.Misrouted, 0},
		{"altered", "another body than relay makes of the event", v.Altered, 0},
		{"out of order", "directly behind a later event", v.OutOfOrder, v.AllowedEarly},
	}
}

func where(e *verify.Example) string {
	s := e.Topic
	if e.Log != "" {
		s += fmt.Sprintf(", %s at %d", e.Log, e.Offset)
	}
	switch {
	case e.Behind != "":
		s += ", behind " + e.Behind
	case e.FirstLog != "":
		s += fmt.Sprintf(", first at %d", e.FirstOffset)
		if e.FirstLog != e.Log {
			s += " of " + e.FirstLog
		}
	case e.Expected != "" && e.Expected != e.Topic:
		s += ", belongs to " + e.Expected
	}
	return s
}

// notes returns what the operator must know besides the findings.
func (v *verdict) notes() []string {
	var notes []string
	note := func(when bool, format string, args ...any) {
		if when {
			notes = append(notes, fmt.Sprintf(format, args...))
		}
	}
	note(v.Due != nil, "Looked at events up to the lane's checkpoint only; later ones are not due on the bus yet.")
	note(v.Expired > 0, "%s older than what the bus keeps now, so nothing can be said of them:", numbered(v.Expired, "event is", "events are"))
	for i, t := range v.Trimmed {
		if i == 10 {
			note(true, "  and %d more", len(v.Trimmed)-i)
			break
		}
		oldest := "is empty"
		if t.Oldest != nil {
			oldest = "begins with a message stored at " + t.Oldest.Format(time.RFC3339)
		}
		note(true, "  %s %s", t.Log, oldest)
	}
	note(v.Compacted > 0, "%s gone by compaction: their topic keeps the newest event of each key, and has a newer one.", numbered(v.Compacted, "event is", "events are"))
	note(v.Displaced > 0, "%s gone by max_msgs_per_subject: their subject holds that many messages, all newer.", numbered(v.Displaced, "event is", "events are"))
	for i, u := range v.UnknownPolicies {
		if i == 10 {
			note(true, "  and %d more", len(v.UnknownPolicies)-i)
			break
		}
		note(v.Missing.Count > 0, "Whether topic %s is compacted is not known, so events may be missing because a newer one has their key: %s", u.Topic, u.Why)
	}
	note(v.AllowedCopies+v.AllowedEarly > 0, "at_least_once allows %s, and %s that came too early and again in their place; --strict lets them count as faults.",
		numbered(v.AllowedCopies, "copy", "copies"), counted(v.AllowedEarly, "event"))
	note(v.Mode == "" && v.Duplicate.Count > 0, "The lane's mode of delivery is not known here, so copies count as faults: set delivery, or run this where relay keeps its checkpoint.")
	note(len(v.NotDue) > 0, "Not compared: %s, which WorkOS refuses, or refused until lately, so that the lane has yet to publish events of it.", strings.Join(v.NotDue, ", "))
	note(v.Dropped > 0, "%s dropped by the routes.", numbered(v.Dropped, "event is", "events are"))
	note(v.Replayed > 0, "%s marked %s; they count as no duplicates.", numbered(v.Replayed, "message is", "messages are"), router.HeaderReplay)
	note(v.Repaired > 0, "%s marked %s; their place in the order does not count.", numbered(v.Repaired, "message is", "messages are"), router.HeaderRepair)
	note(v.Late > 0, "%s marked relay-late; their place in the order does not count.", numbered(v.Late, "message is", "messages are"))
	note(v.Parked > 0, "%s.", numbered(v.Parked, "message is a dead letter", "messages are dead letters"))
	if v.Repair != nil {
		note(true, "Repaired: published %s missing events, marked %s: %s.", thousands(v.Repair.Published), router.HeaderRepair, v.Repair.Run)
	}
	return notes
}
