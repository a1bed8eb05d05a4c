package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"workos-relay/sink"
	"workos-relay/source"
)

type checkCmd struct {
	Timeout time.Duration `help:"How long to wait for the API and for each sink." default:"15s"`
}

// Run looks at everything and changes nothing.
func (c *checkCmd) Run(ctx context.Context, a *app) error {
	cfg, err := a.loadConfig()
	if err != nil {
		return err
	}
	lanes, err := newLanes(cfg, a.log)
	if err != nil {
		return err
	}
	report := &report{app: a}
	client := newClient(cfg)
	for _, l := range lanes {
		report.source(ctx, c.Timeout, client, l)
		report.lane(ctx, c.Timeout, l)
	}
	if report.faults > 0 {
		return fmt.Errorf("%d faults found", report.faults)
	}
	fmt.Fprintln(a.stdout, "\nNo fault found.")
	return nil
}

// report prints findings and counts faults.
type report struct {
	app    *app
	faults int
	asked  []string // what the source was already asked, so that lanes with the same filter ask once
}

func (r *report) printf(format string, args ...any) {
	fmt.Fprintf(r.app.stdout, format+"\n", args...)
}

func (r *report) fault(format string, args ...any) {
	r.faults++
	r.printf("  FAULT    "+format, args...)
}

func (r *report) source(ctx context.Context, timeout time.Duration, client *source.Client, l *lane) {
	key := strings.Join(l.types, ",")
	if slices.Contains(r.asked, key) {
		return
	}
	r.asked = append(r.asked, key)
	r.printf("source %s, %d event types", l.cfg.Source.Endpoint, len(l.types))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := client.Reach(ctx, l.types, l.cfg.Source.OrganizationID)
	var refused *source.RefusedTypesError
	switch {
	case err == nil:
		r.printf("  ok       reached, the key is good, every type is accepted")
	case errors.As(err, &refused):
		for _, t := range refused.Types {
			r.printf("  warning  the API refuses the type %s; relay leaves it out and asks again daily", t)
		}
	default:
		r.fault("%v", err)
	}
}

func (r *report) lane(ctx context.Context, timeout time.Duration, l *lane) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r.printf("\nsink %s (%s)", l.sink.Name, l.sink.Type)
	if l.embedded() {
		r.printf("  ok       embedded NATS server, started by `relay run`; its stream is created there")
		return
	}
	bus, err := l.open(ctx)
	if err != nil {
		r.fault("%v", err)
		return
	}
	defer func() {
		if err := bus.Close(); err != nil {
			r.fault("closing: %v", err)
		}
	}()
	topics, err := bus.Inspect(ctx, l.topics)
	if err != nil {
		r.fault("%v", err)
		return
	}
	byTopic := map[string][]string{}
	for _, t := range l.types {
		if topic, dropped := l.router.Resolve(t); !dropped {
			byTopic[topic] = append(byTopic[topic], t)
		}
	}
	for _, t := range topics {
		r.topic(t, byTopic[t.Topic])
	}
}

func (r *report) topic(t sink.TopicStatus, types []string) {
	from := strings.Join(types, ", ")
	if from == "" {
		from = "dead letters"
	}
	state := "ok     "
	switch {
	case len(t.Problems) > 0:
		state = "FAULT  "
	case t.Creates:
		state = "creates"
	}
	r.printf("  %s  %s  <- %s  %s", state, t.Topic, from, t.Detail)
	for _, p := range t.Problems {
		r.fault("%s: %s", t.Topic, p)
	}
	for _, w := range t.Warnings {
		r.printf("  warning  %s: %s", t.Topic, w)
	}
}
