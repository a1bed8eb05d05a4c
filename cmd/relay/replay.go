package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"workos-relay/internal/app"
	"workos-relay/internal/republish"
	"workos-relay/router"
	"workos-relay/source"
)

type replayCmd struct {
	spanFlags
	Events []string `help:"Event types or patterns, such as dsync.*. Default: all that the lane carries." sep:"," predictor:"event"`
}

// Run publishes the span again. It reads and moves no checkpoint, so it works beside a running
// relay.
func (c *replayCmd) Run(ctx context.Context, env *environment) (err error) {
	p := newProgress(env.stderr)
	chosen, err := c.choose(ctx, env, p)
	if err != nil {
		return err
	}
	l := chosen.lane
	if l.Types, err = carriedTypes(l, c.Events); err != nil {
		return err
	}
	bus, err := l.OpenBeside(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bus.Close()) }()
	if err := bus.Prepare(ctx, l.Topics); err != nil {
		return l.ExplainBeside(err)
	}
	run := newRun()
	publisher := chosen.publisher(bus, router.HeaderReplay, run)
	first := time.Time{}
	last, err := republish.Replay(ctx, l.Stream(chosen.client, nil), chosen.span, publisher, func(e *source.Event) {
		if first.IsZero() {
			first = e.CreatedAt
		}
		p.show("published again", chosen.span.Fraction(first, e.CreatedAt), publisher.Counts().Events)
	})
	p.finish()
	fmt.Fprintln(env.stderr, replaySummary(run, publisher.Counts())) // standard output may be the bus
	if err == nil {
		return nil
	}
	goOn := c.goOn(last, chosen.span)
	if ctx.Err() != nil {
		return fmt.Errorf("stopped before the end; go on with: %s", goOn)
	}
	return fmt.Errorf("replay: %w\nWhen that is mended, go on with: %s", err, goOn)
}

// carriedTypes returns the types that events name, or all types of the lane if events is empty. The
// lane must carry each of them, since the topics of others may not exist.
func carriedTypes(l *app.Lane, events []string) ([]string, error) {
	if len(events) == 0 {
		return l.Types, nil
	}
	asked, err := source.Expand(events)
	if err != nil {
		return nil, app.Usage(fmt.Errorf("--events: %w", err))
	}
	var types, missing []string
	for _, t := range asked {
		if slices.Contains(l.Types, t) {
			types = append(types, t)
		} else if slices.Contains(events, t) {
			missing = append(missing, t)
		}
	}
	switch {
	case len(missing) > 0:
		return nil, app.Usage(fmt.Errorf("--events: sink %s does not carry %s; add them to source.events and to the sink's events", l.Sink.Name, strings.Join(missing, ", ")))
	case len(types) == 0:
		return nil, app.Usage(fmt.Errorf("--events: sink %s carries none of %s", l.Sink.Name, strings.Join(events, ", ")))
	}
	return types, nil
}

func replaySummary(run string, n republish.Counts) string {
	s := fmt.Sprintf("published %s events again, marked %s: %s", thousands(n.Messages), router.HeaderReplay, run)
	if n.Parked > 0 {
		s += fmt.Sprintf("; %s of them are dead letters", thousands(n.Parked))
	}
	if n.Dropped > 0 {
		s += fmt.Sprintf("; %s more are dropped by the routes", thousands(n.Dropped))
	}
	return s
}

// goOn returns the command that publishes the rest.
func (c *replayCmd) goOn(last *source.Event, span republish.Span) string {
	since := c.Since
	if last != nil {
		since = last.ID
	}
	s := fmt.Sprintf("relay replay --since %s --until %s", since, span.Until.UTC().Format(time.RFC3339Nano))
	if len(c.Events) > 0 {
		s += " --events '" + strings.Join(c.Events, ",") + "'"
	}
	if c.Lane != "" {
		s += " --lane " + c.Lane
	}
	return s
}
