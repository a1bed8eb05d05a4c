package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"workos-relay/internal/app"
	"workos-relay/internal/config"
	"workos-relay/internal/moment"
	"workos-relay/internal/republish"
	"workos-relay/sink"
	"workos-relay/source"
)

// spanFlags choose a lane and a range of events.
type spanFlags struct {
	laneFlag
	Since     string  `help:"Where to begin: earliest, an event id, to begin after it, or a time: ${time}." required:"" xor:"since" placeholder:"TIME" predictor:"start"`
	Until     string  `help:"Where to end: latest, or a time (inclusive), written as for --since." required:"" xor:"until" placeholder:"TIME" predictor:"end"`
	RateLimit float64 `help:"Maximum requests per second to WorkOS. A running relay has its own limit, and the key allows 100 for both. Default: source.rate_limit." placeholder:"N"`
}

// missing returns an error that names those flags of the range that are not given, and what may be
// given in place of them. Kong does not require a flag that may exclude another.
func (f spanFlags) missing(or string) error {
	var names []string
	if f.Since == "" {
		names = append(names, "--since=TIME")
	}
	if f.Until == "" {
		names = append(names, "--until=TIME")
	}
	if names == nil {
		return nil
	}
	return fmt.Errorf("missing flags: %s%s", strings.Join(names, ", "), or)
}

// chosen is the result of spanFlags, ready for use beside a running relay.
type chosen struct {
	lane   *app.Lane
	client *source.Client
	span   republish.Span
}

func (f spanFlags) choose(ctx context.Context, env *environment, p *progress) (chosen, error) {
	var since, until config.Start
	if err := since.UnmarshalText([]byte(f.Since)); err != nil || since.Latest {
		return chosen{}, app.Usage(fmt.Errorf("--since: %q is not a place to begin; write earliest, an event id, or a time: %s", f.Since, moment.Forms))
	}
	if err := until.UnmarshalText([]byte(f.Until)); err != nil || !until.NeedsTime() && until.From.CreatedAt.IsZero() {
		return chosen{}, app.Usage(fmt.Errorf("--until: %q is not a place to end; write latest, or a time: %s", f.Until, moment.Forms))
	}
	if !since.NeedsTime() && !until.NeedsTime() && until.From.CreatedAt.Before(since.From.CreatedAt) {
		return chosen{}, app.Usage(errUntilBeforeSince)
	}
	l, client, err := f.reach(env, p)
	if err != nil {
		return chosen{}, err
	}
	now := time.Time{}
	if since.NeedsTime() || until.NeedsTime() {
		latest, err := l.Position(ctx, client, nil, config.Start{Latest: true})
		if err != nil {
			return chosen{}, err
		}
		now = latest.CreatedAt.Truncate(time.Millisecond)
	}
	span := republish.Span{Since: since.At(now), Until: until.At(now).CreatedAt}
	if span.Until.Before(span.Since.CreatedAt) {
		return chosen{}, app.Usage(errUntilBeforeSince)
	}
	if !since.Ago.IsZero() || !until.Ago.IsZero() { // nobody has written the times
		fmt.Fprintf(env.stderr, "from %s to %s\n", span.Since, span.Until.Format(time.RFC3339Nano))
	}
	return chosen{lane: l.FromOutside(), client: client, span: span}, nil
}

// reach returns the lane that is meant, and a client that keeps to the rate limit.
func (f spanFlags) reach(env *environment, p *progress) (*app.Lane, *source.Client, error) {
	cfg, err := env.loadConfig()
	if err != nil {
		return nil, nil, err
	}
	if f.RateLimit < 0 {
		return nil, nil, app.Usage(errors.New("--rate-limit is negative"))
	}
	if f.RateLimit > 0 {
		cfg.Source.RateLimit = f.RateLimit
	}
	log, err := p.logger(env)
	if err != nil {
		return nil, nil, err
	}
	lanes, err := app.NewLanes(cfg, log)
	if err != nil {
		return nil, nil, err
	}
	l, err := f.laneFlag.choose(lanes)
	if err != nil {
		return nil, nil, err
	}
	client, err := app.NewClient(cfg)
	if err != nil {
		return nil, nil, err
	}
	return l, client, nil
}

var errUntilBeforeSince = errors.New("--until is before --since")

// publisher returns a publisher that marks each message with its own header.
func (c *chosen) publisher(bus sink.Sink, header, run string) *republish.Publisher {
	return &republish.Publisher{
		Sink: bus, Router: c.lane.Router, Mark: sink.Header{Key: header, Value: run},
		Park:            c.lane.Config.DeadLetter != nil,
		ShutdownTimeout: c.lane.Config.ShutdownTimeout,
		Logger:          c.lane.Log,
	}
}

// newRun returns a name for a run of a command: the time and a random part.
func newRun() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return time.Now().UTC().Format("20060102T150405Z") + "-" + hex.EncodeToString(b[:])
}
