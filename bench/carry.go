package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// carried is one run of something that goes through all events.
type carried struct {
	events int
	rate   float64       // events/s, from the first event seen stored to the last; 0 where they were all seen at once
	first  time.Duration // from the start of the process until the first event is stored; 0 if not measured
	total  time.Duration // from the start of the process until as many events are stored as were to be
	usage
	bus usage
}

// cpuPerEvent is the CPU time of the whole process, its start included, shared among the events.
func (c carried) cpuPerEvent() time.Duration { return c.cpu / time.Duration(c.events) }

func (c carried) busCPUPerEvent() time.Duration { return c.bus.cpu / time.Duration(c.events) }

// rival is one of those that are measured against each other.
type rival struct {
	name string
	run  func(ctx context.Context, api string, events int) (carried, error)
}

func carryToNATS(ctx context.Context, l *lab) error {
	jetStream := func(delivery string, syncAlways bool) func(context.Context) (bus, error) {
		return func(ctx context.Context) (bus, error) { return l.newJetStream(ctx, delivery, syncAlways) }
	}
	return l.carryAll(ctx, "Events API to NATS JetStream",
		"The NATS server stores in files and is a process of its own; with sync_always it writes each message to the disk before it "+
			"acknowledges, and one in fifty of the events is carried. Without exactly_once the checkpoint is a file.",
		rival{"bare loop: fetches and discards", bareLoop},
		l.relayInto("relay to JetStream", 1, jetStream(atLeastOnce, false)),
		l.relayInto("relay to JetStream, sync_always", 50, jetStream(atLeastOnce, true)),
		l.relayInto("relay to JetStream, exactly_once", 1, jetStream(exactlyOnce, false)),
		l.relayInto("relay to JetStream, exactly_once, sync_always", 50, jetStream(exactlyOnce, true)),
	)
}

func carryToKafka(ctx context.Context, l *lab) error {
	rivals := []rival{
		{"bare loop: fetches and discards", bareLoop},
		l.relayInto("relay to kfake", 1, func(ctx context.Context) (bus, error) { return newKfake(ctx) }),
	}
	if len(l.brokers) > 0 {
		rivals = append(rivals, l.relayInto("relay to Apache Kafka", 1, func(ctx context.Context) (bus, error) { return l.realKafka(ctx) }))
	}
	return l.carryAll(ctx, "Events API to Kafka",
		"One topic for each event type, six partitions each, compression lz4, acknowledged by all in-sync replicas. kfake, a process of its own, keeps everything in memory.",
		rivals...)
}

// carryAll measures the rivals in turn, several times, for each latency, and reports them against the first.
func (l *lab) carryAll(ctx context.Context, title, note string, rivals ...rival) error {
	for _, latency := range l.latencies {
		events := l.events
		if latency > 0 {
			const longest = 10 * time.Second
			events = min(events, 100*int(longest/latency))
		}
		results, err := l.round(ctx, events, latency, rivals)
		if err != nil {
			return err
		}
		t := l.report.table(fmt.Sprintf("%s, %d events, API latency %s", title, events, latency), note,
			"", "events/s", "of the bare loop", "CPU µs/event", "and of the bus", "peak memory", "of it program file", "first event stored", "all stored")
		bare := middle(results[0], func(c carried) float64 { return c.rate })
		for i, r := range rivals {
			t.row(r.name, carriedCells(results[i], bare)...)
		}
	}
	return nil
}

// round runs every rival so often, each in turn so that whatever else the machine does meets all alike, after a warm-up of the API.
func (l *lab) round(ctx context.Context, events int, latency time.Duration, rivals []rival) (results [][]carried, err error) {
	var api string
	server, err := startRole(ctx, &api, "api", "-events", strconv.Itoa(events), "-latency", latency.String())
	if err != nil {
		return nil, err
	}
	defer func() {
		_, stopErr := server.stop()
		err = errors.Join(err, stopErr)
	}()
	if _, err := bareLoop(ctx, api, min(events, 10_000)); err != nil {
		return nil, err
	}
	results = make([][]carried, len(rivals))
	for range l.runs {
		for i, r := range rivals {
			c, err := r.run(ctx, api, events)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
			progress("%-40s latency %-5s %8.0f events/s  %5.1f µs/event  %5.1f MB, %.1f of it program file", r.name, latency, c.rate,
				float64(c.cpuPerEvent().Nanoseconds())/1e3, float64(c.peak)/1e6, float64(c.mapped)/1e6)
			results[i] = append(results[i], c)
		}
	}
	return results, nil
}

func bareLoop(ctx context.Context, api string, events int) (carried, error) {
	var done fetched
	p, err := startRole(ctx, &done, "fetch", "-api", api, "-events", strconv.Itoa(events))
	if err != nil {
		return carried{}, err
	}
	total := time.Since(p.started)
	u, err := p.stop()
	return carried{events: done.Events, rate: float64(done.Events) / done.Took.Seconds(), total: total, usage: u}, err
}

// relayInto is relay with its default settings into a bus that is made for the run. It is stopped once one in so many events is stored.
func (l *lab) relayInto(name string, oneIn int, open func(context.Context) (bus, error)) rival {
	return rival{name, func(ctx context.Context, api string, events int) (c carried, err error) {
		b, err := open(ctx)
		if err != nil {
			return c, err
		}
		defer func() {
			var closeErr error
			c.bus, closeErr = b.close()
			err = errors.Join(err, closeErr)
		}()
		dir, err := os.MkdirTemp(l.dir, "relay-")
		if err != nil {
			return c, err
		}
		// The limit of requests is WorkOS's, not the machine's; the admin address may be in use.
		config := fmt.Sprintf("source: {endpoint: %q, api_key: %s, rate_limit: 10000}\nsinks: [%s]\ncheckpoint: {dir: %q}\nadmin: {listen: \"\"}\n",
			api, apiKey, b.sink(), dir)
		file := filepath.Join(dir, "config.yaml")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			return c, err
		}
		p, err := startRelay(ctx, l.relay, file, l.relayEnv)
		if err != nil {
			return c, err
		}
		c, err = watch(ctx, p, b, events/oneIn)
		var stopErr error
		c.usage, stopErr = p.stop()
		if err = errors.Join(err, stopErr); err != nil {
			return c, err
		}
		c.events, err = b.stored(ctx) // a commit that was under way is finished
		if err == nil && c.events > events {
			err = fmt.Errorf("%d events are stored, of %d that there are", c.events, events)
		}
		return c, err
	}}
}

// watch looks at the bus until so many events are stored.
func watch(ctx context.Context, p *process, b bus, events int) (c carried, err error) {
	ticker := time.NewTicker(b.look())
	defer ticker.Stop()
	var firstAt time.Time
	firstCount := 0
	for {
		n, err := b.stored(ctx)
		now := time.Now()
		switch {
		case err != nil:
			return c, fmt.Errorf("looking at the bus: %w", err)
		case n > 0 && firstCount == 0:
			firstAt, firstCount = now, n
			c.first = now.Sub(p.started)
		}
		if n >= events {
			c.total = now.Sub(p.started)
			if n > firstCount {
				c.rate = float64(n-firstCount) / now.Sub(firstAt).Seconds()
			}
			return c, nil
		}
		select {
		case <-ticker.C:
		case <-p.exited:
			return c, errors.New("relay ended before the events were stored")
		case <-ctx.Done():
			return c, ctx.Err()
		}
	}
}
