package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"workos-relay/internal/app"
	"workos-relay/internal/config"
	"workos-relay/internal/republish"
	"workos-relay/router"
	"workos-relay/source"
)

type replayCmd struct {
	spanFlags
	Events []string `help:"Event types or patterns, such as dsync.*. Default: all that the lane carries." sep:"," predictor:"event"`
	DryRun bool     `help:"Publish nothing: print how many events each topic would get. Asks only WorkOS."`
}

// Validate is called by kong.
func (c *replayCmd) Validate() error { return c.missing("") }

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
	if c.DryRun {
		return c.tellCounts(ctx, env, p, &chosen)
	}
	bus, err := l.OpenFromOutside(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bus.Close()) }()
	if err := bus.Prepare(ctx, l.Topics); err != nil {
		return l.ExplainFromOutside(err)
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

// topicCount is how many events of a span a topic would get.
type topicCount struct {
	topic       string
	events      int
	first, last time.Time // when the first and the last of them were created
}

// tellCounts reads the span and prints how many events each topic would get. It asks no bus, so an
// event that the bus would refuse counts as published, on the dead letter topic if no topic can be
// found for it.
func (c *replayCmd) tellCounts(ctx context.Context, env *environment, p *progress, chosen *chosen) error {
	l := chosen.lane
	counts := map[string]*topicCount{}
	total, dropped := 0, 0
	var first time.Time
	for page, err := range chosen.span.Pages(ctx, l.Stream(chosen.client, nil)) {
		if err != nil {
			p.finish()
			return fmt.Errorf("reading the events: %w", err)
		}
		for i := range page.Events {
			e := &page.Events[i]
			if first.IsZero() {
				first = e.CreatedAt
			}
			topic, drop := l.Router.Destination(e)
			if drop {
				dropped++
				continue
			}
			n := counts[topic]
			if n == nil {
				n = &topicCount{topic: topic, first: e.CreatedAt}
				counts[topic] = n
			}
			total++
			n.events++
			n.last = e.CreatedAt
		}
		p.show("read", chosen.span.Fraction(first, page.Events[len(page.Events)-1].CreatedAt), total+dropped)
	}
	p.finish()
	w := tabwriter.NewWriter(env.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "EVENTS\tTOPIC\tFIRST\tLAST")
	for _, topic := range slices.Sorted(maps.Keys(counts)) {
		n := counts[topic]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", thousands(n.events), topic, n.first.UTC().Format(time.RFC3339), n.last.UTC().Format(time.RFC3339))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	text := fmt.Sprintf("would publish %s again to %s of lane %s", counted(total, "event"), counted(len(counts), "topic"), l.Sink.Name)
	if dropped > 0 {
		text += fmt.Sprintf("; the routes drop %s more", thousands(dropped))
	}
	_, err := fmt.Fprintf(env.stdout, "\n%s, from %s to %s\n", text, chosen.span.Since, chosen.span.Until.Format(time.RFC3339Nano))
	return err
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
	s := fmt.Sprintf("published %s again, marked %s: %s", counted(n.Messages, "event"), router.HeaderReplay, run)
	if n.Parked > 0 {
		s += fmt.Sprintf("; dead letters among them: %s", thousands(n.Parked))
	}
	if n.Dropped > 0 {
		s += fmt.Sprintf("; the routes drop %s more", thousands(n.Dropped))
	}
	return s
}

// goOn returns the command that publishes the rest.
func (c *replayCmd) goOn(last *source.Event, span republish.Span) string {
	since := config.Start{From: span.Since}.String()
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
