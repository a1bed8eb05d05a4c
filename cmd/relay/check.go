package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
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
	b, err := l.open(ctx)
	if err != nil {
		r.fault("%v", err)
		return
	}
	defer func() {
		if err := b.Close(); err != nil {
			r.fault("closing: %v", err)
		}
	}()
	topics, err := r.inspect(ctx, l, b)
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
		from := strings.Join(byTopic[t.Topic], ", ")
		switch {
		case from != "":
		case slices.Contains(l.topics, t.Topic):
			from = "dead letters"
		default:
			from = "the position"
		}
		r.topic(t, from)
	}
}

// inspect looks at the topics in the mode of delivery that the lane would run in, and says which that is.
func (r *report) inspect(ctx context.Context, l *lane, b *bus) ([]sink.TopicStatus, error) {
	want := checkpoint.Mode(l.sink.Delivery)
	if want == checkpoint.AtLeastOnce || b.ledger == nil {
		if want == checkpoint.ExactlyOnce {
			r.fault("delivery: a sink of type %s cannot do exactly_once", l.sink.Type)
		}
		r.printf("  ok       delivery: at_least_once")
		return b.Inspect(ctx, l.topics)
	}
	topics, err := b.ledger.Inspect(ctx, l.topics)
	if err == nil {
		err = unfit(topics, l.topics)
	} else if !incapable(err) {
		return nil, err
	}
	switch {
	case err == nil:
		r.printf("  ok       delivery: exactly_once")
		return topics, nil
	case want == pipeline.Auto:
		r.printf("  warning  delivery: at_least_once, since the bus cannot do exactly_once: %v", err)
	default:
		r.fault("delivery: exactly_once was asked for: %v", err)
	}
	return b.Inspect(ctx, l.topics)
}

// unfit returns what is wrong with the places of a ledger that are not topics: those of positions.
func unfit(status []sink.TopicStatus, topics []string) error {
	var faults []error
	for _, t := range status {
		if !slices.Contains(topics, t.Topic) {
			for _, problem := range t.Problems {
				faults = append(faults, errors.New(problem))
			}
		}
	}
	return errors.Join(faults...)
}

func (r *report) topic(t sink.TopicStatus, from string) {
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
