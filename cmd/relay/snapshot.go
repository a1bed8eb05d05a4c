package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
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

// snapshotGone bounds how long the command waits for a relay that does not answer.
const snapshotGone = 5 * time.Minute

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
	if err := askSnapshot(ctx, client, lane.Name, c.Entities); err != nil {
		return err
	}
	if !c.Wait {
		fmt.Fprintf(env.stdout, "lane %s reads a snapshot; `relay status` shows how far it is\n", lane.Name)
		return nil
	}
	f := follower{relay: client, out: env.stderr, lane: lane.Name, before: before, started: seen.Started}
	done, err := f.follow(ctx)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("stopped waiting; the snapshot of lane %s continues, and the events of the lane wait for it: relay status shows how far it is", lane.Name)
	case err != nil:
		return err
	}
	if c.JSON {
		return errors.Join(printJSON(env.stdout, done), refusedIn(done))
	}
	w := tabwriter.NewWriter(env.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ENTITY\tOBJECTS\tREMOVED\tDROPPED\tSKIPPED")
	for _, e := range done.Entities {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\n", e.Entity, e.Objects, e.Removed, e.Dropped, e.Skipped)
	}
	return errors.Join(w.Flush(), refusedIn(done))
}

// refusedIn returns an error if a snapshot has not read its entities as a whole.
func refusedIn(s *admin.SnapshotStatus) error {
	var refused, why []string
	for _, e := range s.Entities {
		if e.Refused != "" {
			refused, why = append(refused, e.Entity), append(why, e.Entity+": "+e.Refused)
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return fmt.Errorf("WorkOS refuses lists, so that their state topics may lack objects; let the API key read them, then run relay snapshot --entities %s: %s",
		strings.Join(refused, ","), strings.Join(why, "; "))
}

// askSnapshot has a lane of the running relay read a snapshot. The error is a *app.UsageError if
// the lane cannot have that snapshot at any time.
func askSnapshot(ctx context.Context, client *admin.Client, lane string, entities []string) error {
	err := client.Snapshot(ctx, lane, entities)
	var refused *admin.AnswerError
	if errors.As(err, &refused) && refused.Code == http.StatusBadRequest {
		return app.Usage(err)
	}
	return err
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

// statusReader asks a relay how it is. *admin.Client implements it.
type statusReader interface {
	Status(ctx context.Context) (admin.Status, error)
}

// follower waits for the snapshot that a lane was asked for.
type follower struct {
	relay  statusReader
	out    io.Writer // says every few seconds how far the snapshot is
	lane   string
	before string // the run of the lane's last snapshot before; empty if there was none

	shown   time.Time // when out was written to
	phase   string    // what the lane was doing then
	started time.Time // when the relay was started that answered first
	gone    time.Time // since when no relay answers; zero if one does
	idle    bool      // whether nothing told at the last look why the snapshot is not read
}

// follow waits until the lane has read another snapshot than before. A relay that is restarted, or
// that takes the lane over, continues a snapshot that has begun. The error says why nothing is to
// be waited for any more.
func (f *follower) follow(ctx context.Context) (*admin.SnapshotStatus, error) {
	for {
		seen, err := f.relay.Status(ctx)
		if err == nil {
			err = ctx.Err()
		}
		var done *admin.SnapshotStatus
		if gone := (*admin.UnreachableError)(nil); err != nil && (ctx.Err() != nil || !errors.As(err, &gone)) {
			return nil, err
		} else if err != nil {
			err = f.misses(err)
		} else {
			done, err = f.sees(&seen)
		}
		if done != nil || err != nil {
			return done, err
		}
		if err := retry.Sleep(ctx, snapshotLook); err != nil {
			return nil, err
		}
	}
}

// misses is told that no relay answers, and returns an error once that has lasted too long.
func (f *follower) misses(err error) error {
	now := time.Now()
	if f.gone.IsZero() {
		f.gone = now
	}
	if now.Sub(f.gone) >= snapshotGone {
		return fmt.Errorf("relay has not answered for %s; when it runs again it continues a snapshot that has begun: %w", snapshotGone, err)
	}
	f.say("gone", fmt.Sprintf("relay does not answer; waiting for it, at most %s", snapshotGone))
	return nil
}

// sees returns the snapshot if it is finished, or an error if the lane does not read it.
func (f *follower) sees(seen *admin.Status) (*admin.SnapshotStatus, error) {
	f.gone = time.Time{}
	if f.started.IsZero() {
		f.started = seen.Started
	}
	at := slices.IndexFunc(seen.Lanes, func(l admin.LaneStatus) bool { return l.Name == f.lane })
	if at < 0 {
		if len(seen.Lanes) == 0 { // it is about to start
			return nil, nil //nolint:nilnil // neither finished nor failed
		}
		return nil, fmt.Errorf("the relay has no lane %s any more, and does not read the snapshot", f.lane)
	}
	l := &seen.Lanes[at]
	begun := l.Snapshot != nil && l.Snapshot.Run != f.before
	idle := f.idle
	f.idle = false
	switch {
	case l.State == pipeline.Stopped:
		return nil, errors.New("the lane has stopped: " + operator.Explain(l.Reason, l.Action))
	case l.SnapshotRequested || l.Holder == "": // not begun, or nothing is known of the checkpoint yet
	case !begun && l.State == pipeline.Standby && l.Holder == l.Self: // who has taken the lane over is not known yet
	case begun && l.Snapshot.FinishedAt != nil:
		return l.Snapshot, nil
	case begun:
	case l.Holder != l.Self:
		return nil, fmt.Errorf("another relay, %s, has taken lane %s over before the snapshot began: ask that one for it", l.Holder, f.lane)
	case !seen.Started.Equal(f.started):
		return nil, errors.New("relay was restarted before the snapshot began: ask for it again")
	case !idle: // it may have begun to stand by just then
		f.idle = true
	default:
		return nil, fmt.Errorf("lane %s does not read the snapshot any more: its configuration was changed, or another relay had the lane meanwhile; see relay status, and ask for it again", f.lane)
	}
	if text := l.SnapshotText(seen.Now); text != "" {
		if l.State == pipeline.Retrying {
			text += "; retrying: " + l.Reason
		}
		f.say(fmt.Sprint(l.State, begun), text)
	}
	return nil, nil //nolint:nilnil // neither finished nor failed
}

// say prints a line, if the phase has changed or some seconds have passed since the last one.
func (f *follower) say(phase, line string) {
	if now := time.Now(); phase != f.phase || now.Sub(f.shown) >= lineEvery {
		f.shown, f.phase = now, phase
		fmt.Fprintln(f.out, line)
	}
}
