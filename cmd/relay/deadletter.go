package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"workos-relay/internal/app"
	"workos-relay/internal/config"
	"workos-relay/internal/deadletter"
	"workos-relay/internal/operator"
	"workos-relay/internal/printable"
	"workos-relay/internal/republish"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
)

type deadletterCmd struct {
	List   deadletterListCmd   `cmd:"" help:"List the dead letters of a lane whose events were not published again."`
	Show   deadletterShowCmd   `cmd:"" help:"Print a dead letter and its event, redacted as its route says. Asks WorkOS for an event that is not in its dead letter."`
	Replay deadletterReplayCmd `cmd:"" help:"Publish the events of dead letters again through the routes, each marked with the header relay-replay. Moves no checkpoint, and may run beside a running relay. Exit 3 if an event stays a dead letter."`
}

// letters is the dead letters of one lane, with the open bus that they are on.
type letters struct {
	cfg   *config.Config
	lane  *app.Lane
	bus   *app.Bus
	index *deadletter.Index
}

// readLetters reads the dead letters of a lane. The caller closes the bus.
func (env *environment) readLetters(ctx context.Context, cfg *config.Config, name string, p *progress) (*letters, error) {
	log, err := p.logger(env)
	if err != nil {
		return nil, err
	}
	lanes, err := app.NewLanes(cfg, log)
	if err != nil {
		return nil, err
	}
	l, err := app.ChooseLane(lanes, name)
	if err != nil {
		return nil, err
	}
	topic := l.Router.DeadLetterTopic()
	if topic == "" {
		return nil, app.Usage(fmt.Errorf("lane %s has no dead letters: %w; it stops at an event that can never be published", l.Sink.Name, router.ErrNoDeadLetter))
	}
	x := &letters{cfg: cfg, lane: l.FromOutside()}
	if x.bus, err = x.lane.OpenFromOutside(ctx); err != nil {
		return nil, err
	}
	scanner, ok := x.bus.Sink.(sink.Scanner)
	if !ok {
		return nil, errors.Join(x.lane.CannotReadBack(), x.bus.Close())
	}
	x.index, err = deadletter.Read(ctx, scanner, topic, func(done float64, seen int) { p.show("reading the dead letters", done, seen) })
	if err != nil {
		return nil, errors.Join(x.lane.ExplainFromOutside(err), x.bus.Close())
	}
	p.finish()
	return x, nil
}

// letterRow is what `relay deadletter --json` prints of a dead letter.
type letterRow struct {
	EventID   string          `json:"event_id"`
	Type      string          `json:"type"`
	CreatedAt string          `json:"created_at"`
	Topic     string          `json:"topic"` // that the event was meant for
	Reason    string          `json:"reason"`
	Size      int             `json:"size"`
	SHA256    string          `json:"sha256"`
	Carries   bool            `json:"carries_event"`
	StoredAt  time.Time       `json:"stored_at"`
	Log       string          `json:"log"`
	Offset    int64           `json:"offset"`
	Replayed  *replayedRow    `json:"replayed"`
	Event     json.RawMessage `json:"event,omitempty"`
}

type replayedRow struct {
	Run   string    `json:"run"`
	At    time.Time `json:"at"`
	Topic string    `json:"topic"`
}

func rowOf(l *deadletter.Letter) letterRow {
	row := letterRow{
		EventID: l.EventID, Type: l.Type, CreatedAt: l.CreatedAt, Topic: l.Topic, Reason: l.Reason, Size: l.Size, SHA256: l.SHA256,
		Carries: l.Carries, StoredAt: l.Stored.UTC(), Log: l.Log, Offset: l.Offset,
	}
	if p := l.Replayed; p != nil {
		row.Replayed = &replayedRow{Run: p.Run, At: p.At, Topic: p.Topic}
	}
	return row
}

// openLetters reads the dead letters of a lane, for a command that can do without an API key. The
// caller closes the bus.
func (env *environment) openLetters(ctx context.Context, lane string) (*letters, error) {
	cfg, err := env.loadConfigWith(env.keyOptional)
	if err != nil {
		return nil, err
	}
	return env.readLetters(ctx, cfg, lane, newProgress(env.stderr))
}

type deadletterListCmd struct {
	laneFlag
	All  bool `help:"Also those whose events were published again."`
	JSON bool `help:"As a JSON array."`
}

// Run lists dead letters.
func (c *deadletterListCmd) Run(ctx context.Context, env *environment) (err error) {
	x, err := env.openLetters(ctx, c.Lane)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.bus.Close()) }()
	shown := x.index.Open()
	open := len(shown)
	if c.All {
		shown = x.index.Letters
	}
	if c.JSON {
		rows := make([]letterRow, len(shown))
		for i, l := range shown {
			rows[i] = rowOf(l)
		}
		return printJSON(env.stdout, rows)
	}
	return c.print(env.stdout, x, shown, open)
}

func (c *deadletterListCmd) print(out io.Writer, x *letters, shown []*deadletter.Letter, open int) error {
	if len(shown) > 0 {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "EVENT\tTYPE\tTOPIC\tCREATED\tPARKED\tREPLAYED\tREASON")
		for _, l := range shown {
			replayed := "-"
			if l.Replayed != nil {
				replayed = l.Replayed.At.UTC().Format(time.RFC3339)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", printable.Text(l.EventID), printable.Text(l.Type), printable.Text(l.Topic), orDash(printable.Text(l.CreatedAt)),
				l.Stored.UTC().Format(time.RFC3339), replayed, printable.Text(l.Reason))
		}
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	text := fmt.Sprintf("%s of lane %s", numbered(open, "dead letter", "dead letters"), x.lane.Sink.Name)
	if again := len(x.index.Letters) - open; again > 0 {
		text += fmt.Sprintf("; %s more were published again", thousands(again))
		if !c.All {
			text += " (--all shows them)"
		}
	}
	if x.index.Foreign > 0 {
		text += "; " + numbered(x.index.Foreign, "message", "messages") + " on the topic that relay did not write"
	}
	_, err := fmt.Fprintln(out, text)
	return err
}

type deadletterShowCmd struct {
	laneFlag
	ID   string `arg:"" help:"Id of the event."`
	JSON bool   `help:"As a JSON object."`
}

// showTime bounds how long `relay deadletter show` asks WorkOS for an event.
const showTime = 30 * time.Second

// Run prints one dead letter.
func (c *deadletterShowCmd) Run(ctx context.Context, env *environment) (err error) {
	x, err := env.openLetters(ctx, c.Lane)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.bus.Close()) }()
	found, err := x.named([]string{c.ID})
	if err != nil {
		return err
	}
	e, missing := c.event(ctx, env, x, found[0])
	row := rowOf(found[0])
	if e != nil {
		row.Event = e.Raw
	}
	if err := c.print(env.stdout, row); err != nil {
		return err
	}
	return missing
}

// event returns the event of a dead letter as a consumer may see it.
func (c *deadletterShowCmd) event(ctx context.Context, env *environment, x *letters, l *deadletter.Letter) (*source.Event, error) {
	contents, err := x.index.Load(ctx, []*deadletter.Letter{l})
	if err != nil {
		return nil, x.lane.ExplainFromOutside(err)
	}
	content := contents[l]
	e, route, err := content.EventOf(l, x.lane.Router, func() (*source.Event, error) {
		if _, err := env.loadConfig(); err != nil { // a key is required now
			return nil, err
		}
		client, err := app.NewClient(x.cfg)
		if err != nil {
			return nil, err
		}
		bounded, cancel := context.WithTimeoutCause(ctx, showTime, fmt.Errorf("no answer within %s", showTime))
		defer cancel()
		e, err := x.fetch(bounded, client, l)
		if err != nil {
			if bounded.Err() != nil {
				err = context.Cause(bounded)
			}
			return nil, fmt.Errorf("looking for event %s at WorkOS: %w", l.EventID, err)
		}
		return e, nil
	})
	if err != nil {
		return nil, err
	}
	if e = route.Redacted(e); len(e.Raw) == 0 {
		return nil, fmt.Errorf("event %s cannot be redacted, so it is not shown", e.ID)
	}
	return e, nil
}

func (c *deadletterShowCmd) print(out io.Writer, row letterRow) error {
	if c.JSON {
		return printJSON(out, row)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, value string) { fmt.Fprintf(w, "%s\t%s\n", name, printable.Text(value)) }
	line("event", row.EventID)
	line("type", row.Type)
	line("created", orDash(row.CreatedAt))
	line("topic", row.Topic)
	fmt.Fprintf(w, "reason\t%s\n", printable.Clip(row.Reason, 4<<10))
	line("size", counted(row.Size, "byte"))
	line("sha256", orDash(row.SHA256))
	line("parked", fmt.Sprintf("%s, %s at %d", row.StoredAt.Format(time.RFC3339), row.Log, row.Offset))
	replayed := "no"
	if p := row.Replayed; p != nil {
		replayed = fmt.Sprintf("%s, to %s, run %s", p.At.UTC().Format(time.RFC3339), p.Topic, p.Run)
	}
	line("replayed", replayed)
	if err := w.Flush(); err != nil {
		return err
	}
	if row.Event == nil {
		return nil
	}
	_, err := fmt.Fprintf(out, "\n%s\n", row.Event)
	return err
}

type deadletterReplayCmd struct {
	laneFlag
	IDs   []string `arg:"" optional:"" name:"id" help:"Ids of events."`
	All   bool     `help:"Every dead letter that relay deadletter list shows."`
	Again bool     `help:"With ids: also events that were published again before."`
	JSON  bool     `help:"As a JSON object."`
}

// replayReport is what `relay deadletter replay --json` prints.
type replayReport struct {
	Lane      string         `json:"lane"`
	Run       string         `json:"run"`
	Letters   int            `json:"letters"`   // that were chosen
	Published int            `json:"published"` // events
	Dropped   int            `json:"dropped"`   // events that a route drops now
	Failed    []failedReplay `json:"failed"`    // events that stay dead letters
}

type failedReplay struct {
	EventID string `json:"event_id"`
	Type    string `json:"type"`
	Reason  string `json:"reason"`
}

// Run publishes the events of dead letters again.
func (c *deadletterReplayCmd) Run(ctx context.Context, env *environment) (err error) {
	switch {
	case c.All && len(c.IDs) > 0:
		return app.Usage(errors.New("name ids or give --all, not both"))
	case !c.All && len(c.IDs) == 0:
		return app.Usage(errors.New("say which dead letters: name ids, or give --all; relay deadletter list shows them"))
	case c.All && c.Again:
		return app.Usage(errors.New("--again is for dead letters that are named by their ids"))
	}
	cfg, err := env.loadConfig()
	if err != nil {
		return err
	}
	p := newProgress(env.stderr)
	x, err := env.readLetters(ctx, cfg, c.Lane, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.bus.Close()) }()
	chosen := x.index.Open()
	if !c.All {
		if chosen, err = x.named(c.IDs); err != nil {
			return err
		}
		if err := c.refuseReplayed(chosen); err != nil {
			return err
		}
	}
	report := replayReport{Lane: x.lane.Sink.Name, Run: newRun(), Letters: len(chosen), Failed: []failedReplay{}}
	if len(chosen) > 0 {
		if err := x.bus.Prepare(ctx, x.lane.Topics); err != nil {
			return x.lane.ExplainFromOutside(err)
		}
	}
	client, err := app.NewClient(cfg)
	if err != nil {
		return err
	}
	run := &deadletter.Replay{
		Index: x.index, Router: x.lane.Router,
		Publisher: &republish.Publisher{
			Sink: x.bus, Mark: sink.Header{Key: router.HeaderReplay, Value: report.Run},
			ShutdownTimeout: cfg.ShutdownTimeout, Logger: x.lane.Log,
		},
		Carries: func(eventType string) bool {
			return slices.Contains(x.lane.Types, eventType) || cfg.Source.Unexpected == "relay"
		},
		Find: func(ctx context.Context, l *deadletter.Letter) (*source.Event, error) { return x.fetch(ctx, client, l) },
		Progress: func(done int) {
			p.show("published again", float64(done)/float64(len(chosen)), done)
		},
	}
	outcome, runErr := run.Run(ctx, chosen)
	p.finish()
	report.Published, report.Dropped = outcome.Published, outcome.Dropped
	for _, f := range outcome.Failed {
		report.Failed = append(report.Failed, failedReplay{f.Letter.EventID, f.Letter.Type, f.Err.Error()})
	}
	if err := c.print(env, &report); err != nil {
		return errors.Join(runErr, err)
	}
	switch {
	case runErr != nil && ctx.Err() != nil:
		return errors.New("stopped before the end; the same command goes on with the rest")
	case runErr != nil:
		return fmt.Errorf("replaying dead letters: %w\nWhen that is mended, the same command goes on with the rest", x.lane.ExplainFromOutside(runErr))
	default:
		return staysDead(outcome.Failed)
	}
}

// refuseReplayed refuses dead letters whose events were published again before, unless --again is
// given.
func (c *deadletterReplayCmd) refuseReplayed(chosen []*deadletter.Letter) error {
	for _, l := range chosen {
		if l.Replayed != nil && !c.Again {
			return app.Usage(fmt.Errorf("event %s was published again at %s by run %s; add --again to publish it once more",
				printable.Text(l.EventID), l.Replayed.At.UTC().Format(time.RFC3339), printable.Text(l.Replayed.Run)))
		}
	}
	return nil
}

func (c *deadletterReplayCmd) print(env *environment, r *replayReport) error {
	if c.JSON {
		return printJSON(env.stdout, r)
	}
	text := fmt.Sprintf("published %s again, marked %s: %s", counted(r.Published, "event"), router.HeaderReplay, r.Run)
	if r.Letters == 0 {
		text = fmt.Sprintf("lane %s has no dead letter that was not published again", r.Lane)
	}
	if r.Dropped > 0 {
		text += fmt.Sprintf("; the routes drop %s more, which stay dead letters", thousands(r.Dropped))
	}
	if _, err := fmt.Fprintln(env.stdout, text); err != nil {
		return err
	}
	for _, f := range r.Failed {
		if _, err := fmt.Fprintf(env.stdout, "stays a dead letter: event %s (%s): %s\n", printable.Text(f.EventID), printable.Text(f.Type), printable.Clip(f.Reason, 4<<10)); err != nil {
			return err
		}
	}
	return nil
}

// staysDead returns the error that the command ends with if events stay dead letters.
func staysDead(failed []deadletter.Failure) error {
	if len(failed) == 0 {
		return nil
	}
	refused, missing := false, false
	for _, f := range failed {
		if _, ok := errors.AsType[*deadletter.NotFoundError](f.Err); ok {
			missing = true
		} else {
			refused = true
		}
	}
	var actions []string
	if refused {
		actions = append(actions, "let the bus accept them: raise its limit or correct the routes, then run the command again")
	}
	if missing {
		actions = append(actions, "what WorkOS does not list any more does not come back: read its present state there, and correct the consumers by hand")
	}
	return operator.Require(errors.New(numbered(len(failed), "event stays a dead letter", "events stay dead letters")), strings.Join(actions, "; "))
}

// named returns the dead letters of events, in the order of the source and each once.
func (x *letters) named(ids []string) ([]*deadletter.Letter, error) {
	wanted := make(map[string]bool, len(ids))
	for _, id := range ids {
		if x.index.Find(id) == nil {
			return nil, app.Usage(fmt.Errorf("lane %s has no dead letter of event %s; relay deadletter list --all shows those that are there", x.lane.Sink.Name, printable.Text(id)))
		}
		wanted[id] = true
	}
	var out []*deadletter.Letter
	for _, l := range x.index.Letters {
		if wanted[l.EventID] {
			out = append(out, l)
		}
	}
	return out, nil
}

// fetch asks WorkOS for the event of a dead letter.
func (x *letters) fetch(ctx context.Context, client *source.Client, l *deadletter.Letter) (*source.Event, error) {
	e, err := x.lane.Event(ctx, client, l.EventID, l.Type, l.Created())
	if errors.Is(err, app.ErrNotListed) {
		return nil, &deadletter.NotFoundError{Err: err}
	}
	return e, err
}
