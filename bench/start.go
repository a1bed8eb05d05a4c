package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// startUp measures how long relay takes from the start of its process until it is ready.
func startUp(ctx context.Context, l *lab) error {
	starts := 5
	if l.quick {
		starts = 2
	}
	t := l.report.table("Start-up: from the start of the process until /readyz answers 200",
		fmt.Sprintf("An Events API with nothing but old events at 0 ms. The first start finds an empty bus and makes the stream, or 94 topics of six partitions; those after it, of which the median is shown of %d, go on from a position.", starts),
		"", "first start", "after that")
	type opened struct {
		name string
		open func(context.Context) (bus, error)
	}
	buses := []opened{
		{"JetStream, at_least_once", func(ctx context.Context) (bus, error) { return l.newJetStream(ctx, atLeastOnce, false) }},
		{"JetStream, exactly_once", func(ctx context.Context) (bus, error) { return l.newJetStream(ctx, exactlyOnce, false) }},
		{"kfake, at_least_once", func(ctx context.Context) (bus, error) { return newKfake(ctx, atLeastOnce) }},
		{"kfake, exactly_once", func(ctx context.Context) (bus, error) { return newKfake(ctx, exactlyOnce) }},
	}
	if len(l.brokers) > 0 {
		buses = append(buses,
			opened{"Apache Kafka, at_least_once", func(ctx context.Context) (bus, error) { return l.realKafka(ctx, atLeastOnce) }},
			opened{"Apache Kafka, exactly_once", func(ctx context.Context) (bus, error) { return l.realKafka(ctx, exactlyOnce) }},
		)
	}
	for _, b := range buses {
		first, after, err := l.startOn(ctx, b.open, starts)
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		progress("%-45s ready after %s at first, then %s", b.name, span(first), span(after))
		t.row(b.name, span(first), span(after))
	}
	return nil
}

func (l *lab) startOn(ctx context.Context, open func(context.Context) (bus, error), starts int) (first, after time.Duration, err error) {
	var api string
	server, err := startRole(ctx, &api, "api", "-events", "100")
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		_, stopErr := server.stop()
		err = errors.Join(err, stopErr)
	}()
	b, err := open(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		_, closeErr := b.close()
		err = errors.Join(err, closeErr)
	}()
	dir, err := os.MkdirTemp(l.dir, "relay-")
	if err != nil {
		return 0, 0, err
	}
	var took []time.Duration
	for range 1 + starts {
		r, err := l.newRelayIn(ctx, dir, relayConfig{id: b.id(), api: api, sink: b.sink()})
		if err != nil {
			return 0, 0, err
		}
		d, err := r.ready(ctx)
		if _, stopErr := r.stop(); err != nil || stopErr != nil {
			return 0, 0, errors.Join(err, stopErr)
		}
		took = append(took, d)
	}
	return took[0], middle(took[1:], func(d time.Duration) time.Duration { return d }), nil
}
