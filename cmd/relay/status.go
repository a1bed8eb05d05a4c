package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/internal/app"
	"workos-relay/internal/config"
	"workos-relay/internal/hint"
	"workos-relay/internal/manual"
	"workos-relay/internal/operator"
	"workos-relay/internal/printable"
	"workos-relay/internal/retry"
	"workos-relay/pipeline"
	"workos-relay/sink"
)

type statusCmd struct {
	Lane     string        `help:"Show this lane alone, and take its health for that of the whole." placeholder:"SINK" predictor:"lane"`
	JSON     bool          `help:"As a JSON object; with --watch one per line."`
	Watch    bool          `help:"Repeat until interrupted."`
	Interval time.Duration `help:"Interval of --watch." default:"2s"`
	Timeout  time.Duration `help:"How long to wait for the relay, and for a bus that keeps positions." default:"10s"`
}

// Run shows each lane as the running relay reports it, or as its position tells it if no relay
// answers. It claims nothing.
func (c *statusCmd) Run(ctx context.Context, env *environment) error {
	cfg, err := env.loadConfigWith(env.keyOptional)
	if err != nil {
		return err
	}
	if c.Interval <= 0 {
		return app.Usage(errors.New("--interval must be positive"))
	}
	if c.Watch {
		var cancel context.CancelFunc
		ctx, cancel = env.whileRead(ctx)
		defer cancel()
	}
	for {
		seen, err := c.look(ctx, env, cfg)
		if ctx.Err() != nil && c.Watch {
			return nil
		}
		if err != nil {
			return err
		}
		if err := c.show(env.stdout, &seen); err != nil {
			return err
		}
		switch {
		case c.Watch:
		case seen.Health == admin.ActionNeeded:
			return operator.Require(errors.New("action needed"), seen.required())
		case seen.Health == admin.Degraded:
			return errors.New("not every lane is healthy")
		default:
			return nil
		}
		if retry.Sleep(ctx, c.Interval) != nil {
			return nil //nolint:nilerr // it was interrupted
		}
	}
}

// overview is what `relay status` shows.
type overview struct {
	Source string `json:"source"` // the address that answered; empty if the positions were read instead
	Note   string `json:"note"`   // why they were
	admin.Status
}

// required says what an operator has to do so that every lane gets on.
func (o *overview) required() string {
	var actions []string
	for i := range o.Lanes {
		if l := &o.Lanes[i]; l.Health == admin.ActionNeeded {
			actions = append(actions, "lane "+l.Name+": "+manual.Mark(l.Action, l.Code))
		}
	}
	return strings.Join(actions, "; ")
}

func (c *statusCmd) look(ctx context.Context, env *environment, cfg *config.Config) (overview, error) {
	asking, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	client, status, err := app.AskRunning(asking, cfg)
	if err == nil {
		err = c.narrow(&status)
		return overview{Source: client.Addr(), Status: status}, err
	}
	var unreachable *admin.UnreachableError
	if !errors.As(err, &unreachable) && !errors.Is(err, app.ErrNoAdmin) {
		return overview{}, err
	}
	seen, readErr := c.read(ctx, env, cfg)
	seen.Note = err.Error() + "; this is what the positions tell"
	return seen, readErr
}

// narrow leaves the lane of --lane alone in status, whose health is that of the lane then.
func (c *statusCmd) narrow(status *admin.Status) error {
	if c.Lane == "" {
		return nil
	}
	var names []string
	for _, l := range status.Lanes {
		if l.Name == c.Lane {
			status.Lanes = []admin.LaneStatus{l}
			status.Ready, status.Health, status.Reasons = l.Ready, l.Health, []string{}
			for _, reason := range l.Reasons {
				status.Reasons = append(status.Reasons, "lane "+l.Name+": "+reason)
			}
			return nil
		}
		names = append(names, l.Name)
	}
	return app.Usage(fmt.Errorf("--lane: the relay has no lane %q; it has %s", c.Lane, either(names, " and ")))
}

// onlyLane returns the lane with that name alone, and all lanes if name is empty.
func onlyLane(lanes []*app.Lane, name string) ([]*app.Lane, error) {
	if name == "" {
		return lanes, nil
	}
	l, err := app.ChooseLane(lanes, name)
	if err != nil {
		return nil, err
	}
	return []*app.Lane{l}, nil
}

// read finds out what the positions tell if no relay answers. It looks at all lanes at once, since
// that may take a while.
func (c *statusCmd) read(ctx context.Context, env *environment, cfg *config.Config) (overview, error) {
	lanes, err := app.NewLanes(cfg, env.log)
	if err != nil {
		return overview{}, err
	}
	if lanes, err = onlyLane(lanes, c.Lane); err != nil {
		return overview{}, err
	}
	out := overview{Status: admin.Status{ID: cfg.ID, Now: time.Now().UTC(), Health: admin.Healthy, Ready: true, Reasons: []string{}, Unasked: []admin.UnaskedType{}}}
	seen := make([]admin.LaneStatus, len(lanes))
	var wg sync.WaitGroup
	for i, l := range lanes {
		wg.Go(func() { seen[i] = c.readLane(ctx, l) })
	}
	wg.Wait()
	for _, s := range seen {
		for _, reason := range s.Reasons {
			out.Reasons = append(out.Reasons, "lane "+s.Name+": "+reason)
		}
		out.Ready, out.Health = out.Ready && s.Ready, out.Health.Worse(s.Health)
		out.Lanes = append(out.Lanes, s)
	}
	return out, nil
}

// The states of a lane of which only the position can be read.
const (
	activeState   pipeline.State = "active"   // a relay has moved the position while this command watched
	releasedState pipeline.State = "released" // the last relay has stopped in order
	unknownState  pipeline.State = "unknown"
	absentState   pipeline.State = "absent" // there is no position yet
)

// watchTime bounds how long `relay status` watches whether a position moves, if takeover_after is
// longer.
const watchTime = 30 * time.Second

func (c *statusCmd) readLane(parent context.Context, l *app.Lane) admin.LaneStatus {
	ctx, cancel := context.WithTimeout(parent, c.Timeout)
	defer cancel()
	out := admin.LaneStatus{Name: l.Sink.Name, Type: l.Sink.Type, Outlet: l.Outlet(), State: unknownState, Health: admin.Degraded, Reasons: []string{}, Settings: []sink.Setting{},
		RefusedTypes: []string{}, StateUnread: []admin.UnreadEntity{}}
	if server := l.Embedded(); server != nil && !l.EmbeddedRuns(ctx) { // looking is not a reason to start it
		out.Reason = "the " + server.Name + " inside relay does not run, so relay does not either"
		out.HealthReason, out.Reasons, out.Code = out.Reason, []string{out.Reason}, manual.Code(out.Reason)
		return out
	}
	out.Settings = l.Settings(ctx)
	cp, err := l.Committed(ctx)
	switch {
	case errors.Is(err, checkpoint.ErrNotFound):
		out.State, out.Reason = absentState, "it has never run"
	case err != nil:
		out.Reason, out.Action = hint.Text(l.Sink.Name, err), hint.Action(l.Sink.Name, err)
	case cp.Released:
		out.State, out.Reason = releasedState, "its relay has stopped, and no other is active"
	case cp.Mode == checkpoint.ExactlyOnce && l.Config.TakeoverAfter > 0:
		cp, err = c.watch(parent, l, &out)
	case cp.Mode == checkpoint.ExactlyOnce:
		out.Reason = "with takeover_after 0 an active relay does not renew its position, which therefore does not tell whether it runs"
	default:
		out.Reason = "a checkpoint file does not tell whether its relay runs"
	}
	if out.Action != "" { // what is required to use the position would stop the lane
		out.Health = admin.ActionNeeded
	}
	if !out.Ready {
		out.HealthReason = operator.Explain(out.Reason, operator.Actions(err)...)
		out.Code = manual.Code(out.HealthReason)
		out.Reasons = append(out.Reasons, out.HealthReason)
	}
	if err == nil {
		out.Mode, out.Holder, out.Position = cp.Mode, cp.Holder, admin.PlaceOf(cp.Position)
		moved := cp.UpdatedAt.UTC()
		out.MovedAt, out.Snapshot = &moved, admin.SnapshotOf(cp.Snapshot, time.Now())
		out.StateUnread = admin.UnreadOf(l.Unread(cp))
	}
	return out
}

// watch looks whether the position moves. An active relay moves it three times within
// takeover_after. watch does not trust the time in the position, which is by the clock of another
// host. It returns the position as it was last read.
func (c *statusCmd) watch(ctx context.Context, l *app.Lane, out *admin.LaneStatus) (checkpoint.Checkpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, max(c.Timeout, min(l.Config.TakeoverAfter, watchTime)))
	defer cancel()
	cp, err := pipeline.AwaitSilence(ctx, l.Config.TakeoverAfter, "", l.Committed)
	switch {
	case errors.Is(err, pipeline.ErrActive):
		out.State, out.Ready, out.Health = activeState, true, admin.Healthy
		err = nil
	case err != nil:
		out.Reason, out.Action = hint.Text(l.Sink.Name, err), hint.Action(l.Sink.Name, err)
	case cp.Released:
		out.State, out.Reason = releasedState, "its relay has stopped, and no other is active"
	default:
		out.Reason = fmt.Sprintf("the position has not been moved or renewed for %s: its relay is dead or cannot reach the bus", l.Config.TakeoverAfter)
	}
	return cp, err
}

func (c *statusCmd) show(out io.Writer, seen *overview) error {
	switch {
	case c.JSON && c.Watch:
		return json.NewEncoder(out).Encode(seen)
	case c.JSON:
		return printJSON(out, seen)
	}
	if c.Watch && isTerminal(out) {
		control(out, "\x1b[H\x1b[2J") // from the top of an empty screen
	}
	return printStatus(out, seen)
}

func printStatus(out io.Writer, seen *overview) error {
	if seen.Source != "" {
		fmt.Fprintf(out, "relay %s, id %s, on %s, up %s\n\n", seen.Version, seen.ID, seen.Source, seen.Now.Sub(seen.Started).Truncate(time.Second))
	} else {
		fmt.Fprintf(out, "%s\n\n", seen.Note)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LANE\tTYPE\tHEALTH\tSTATE\tMODE\tLAG\tEVENTS/S\tEVENTS\tACTIVE\tPOSITION")
	for i := range seen.Lanes {
		l := &seen.Lanes[i]
		events, rate := "-", "-"
		if seen.Source != "" {
			events, rate = strconv.FormatUint(l.Events, 10), strconv.FormatFloat(l.Rate, 'f', 1, 64)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Name, l.Type, l.Health, l.State, orDash(string(l.Mode)), laneLag(l), rate, events, whoIsActive(l), placeText(l.Position))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := printOutlets(out, seen.Lanes); err != nil {
		return err
	}
	if text := requestsText(seen.Requests); text != "" {
		fmt.Fprintf(out, "\n%s\n", text)
	}
	for i := range seen.Lanes {
		if l := &seen.Lanes[i]; l.Health != admin.Healthy {
			fmt.Fprintf(out, "\n%s: lane %s: %s\n", l.Health, l.Name, manual.Mark(l.HealthReason, l.Code))
		}
	}
	if len(seen.Lanes) == 0 && seen.Health != admin.Healthy {
		fmt.Fprintf(out, "\n%s: %s\n", seen.Health, strings.Join(seen.Reasons, "; "))
	}
	for _, t := range seen.Unasked {
		fmt.Fprintf(out, "\nnot published: WorkOS sends webhooks of %s, which relay does not ask for; to add it, write source.events: [..., %s]\n", t.Type, t.Add)
	}
	for i := range seen.Lanes {
		if text := seen.Lanes[i].SnapshotText(seen.Now); text != "" {
			fmt.Fprintf(out, "\nlane %s: %s\n", seen.Lanes[i].Name, text)
		}
		if text := seen.Lanes[i].StateText(); text != "" {
			fmt.Fprintf(out, "\nlane %s: %s\n", seen.Lanes[i].Name, text)
		}
		if text := seen.Lanes[i].VerifyText(seen.Now); text != "" {
			fmt.Fprintf(out, "\nlane %s: %s\n", seen.Lanes[i].Name, manual.Mark(text, seen.Lanes[i].VerifyCode()))
		}
		if l := &seen.Lanes[i]; len(l.RefusedTypes) > 0 {
			fmt.Fprintf(out, "\nrefused by WorkOS: lane %s: %s; relay asks again, and then publishes what came meanwhile\n", l.Name, strings.Join(l.RefusedTypes, ", "))
		}
		if l := &seen.Lanes[i]; l.Health == admin.Healthy && l.State == pipeline.Retrying {
			fmt.Fprintf(out, "\nretrying: lane %s: %s\n", l.Name, manual.Mark(l.Reason, l.Code))
		}
		for _, s := range seen.Lanes[i].Settings {
			fmt.Fprintf(out, "\nsetting: lane %s: %s\n", seen.Lanes[i].Name, s)
		}
	}
	printDeadLetters(out, seen.Lanes)
	return nil
}

// printDeadLetters writes the newest dead letter of each lane that has any.
func printDeadLetters(out io.Writer, lanes []admin.LaneStatus) {
	before := "\n"
	for i := range lanes {
		if d := lanes[i].DeadLetters; d != nil && d.Newest != nil {
			fmt.Fprintf(out, "%snewest dead letter: lane %s: %s event %s at %s: %s\n", before, lanes[i].Name, d.Newest.Type, d.Newest.EventID, d.Newest.At.Format(time.RFC3339), d.Newest.Reason)
			before = ""
		}
	}
}

// printOutlets writes where the events of each lane go, how long they took lately, and how many
// became dead letters.
func printOutlets(out io.Writer, lanes []admin.LaneStatus) error {
	if len(lanes) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nLANE\tDELIVERY P50\tP99\tDEAD LETTERS\tDESTINATION")
	for i := range lanes {
		l := &lanes[i]
		p50, p99, dead, to := "-", "-", "-", l.Destination
		if d := l.Delivery; d != nil {
			p50, p99 = deliveryText(d.P50Seconds), deliveryText(d.P99Seconds)
		}
		if d := l.DeadLetters; d != nil {
			dead = strconv.FormatUint(d.Events, 10)
		}
		if topics := l.TopicsText(); topics != "" {
			to += ", " + topics
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", l.Name, p50, p99, dead, orDash(to))
	}
	return w.Flush()
}

// deliveryText writes how long an event took, with three digits.
func deliveryText(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Millisecond:
		return "<1ms"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < 10*time.Second:
		return d.Round(10 * time.Millisecond).String()
	default:
		return d.Round(time.Second).String()
	}
}

// requestsText says how much of the rate limit relay uses. It is empty if that is not known.
func requestsText(r *admin.Requests) string {
	if r == nil {
		return ""
	}
	text := fmt.Sprintf("requests to WorkOS: %.1f/s of at most %s/s", r.PerSecond, strconv.FormatFloat(r.Limit, 'f', -1, 64))
	if r.RateLimited > 0 {
		text += fmt.Sprintf("; %s 429 since relay started", printable.Count(r.RateLimited, "answer"))
		if r.RateLimitedAt != nil {
			text += ", the last at " + r.RateLimitedAt.Format(time.RFC3339)
		}
	}
	if r.WaitingUntil != nil {
		text += "; a lane waits until " + r.WaitingUntil.Format(time.RFC3339)
	}
	return text
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func laneLag(l *admin.LaneStatus) string {
	switch {
	case l.LagSeconds == nil && l.State == pipeline.Standby:
		return "-"
	case l.LagSeconds == nil:
		return "unknown"
	case *l.LagSeconds == 0:
		return "none"
	default:
		return time.Duration(*l.LagSeconds * float64(time.Second)).Round(time.Second / 10).String()
	}
}

// whoIsActive returns the name of the process that carries the events of the lane.
func whoIsActive(l *admin.LaneStatus) string {
	switch {
	case l.Active:
		return "this relay"
	case l.State == pipeline.Standby, l.State == pipeline.Paused, l.State == activeState:
		return orDash(l.Holder)
	default:
		return "-"
	}
}

// printJSON prints v as indented JSON.
func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
