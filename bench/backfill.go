package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// ceiling is what one key of WorkOS allows: 100 requests/s of 100 events.
const ceiling = 10_000

// backlog is one row of the part backfill.
type backlog struct {
	latency time.Duration
	readers int
	events  int
}

// readBacklogs lets relay read a long backlog of uneven events at the rate of requests that WorkOS
// allows.
func readBacklogs(ctx context.Context, l *lab) error {
	rows := []backlog{
		{50 * time.Millisecond, 16, 1_000_000},
		{100 * time.Millisecond, 16, 1_000_000},
		{50 * time.Millisecond, 1, 60_000},
	}
	if l.quick {
		rows = []backlog{{50 * time.Millisecond, 16, 40_000}, {50 * time.Millisecond, 1, 4_000}}
	}
	t := l.report.table("A backlog of 1,000,000 uneven events over 60 days, 100 requests/s",
		"A fifth of the events within one minute, four days without any. Into JetStream, at_least_once, with the default `backfill.memory` of 64 MiB. "+
			"100 requests/s of 100 events are 10,000 events/s, the most that one key gets. One reader is the plain cursor. Events are counted from the start of the process.",
		"", "events", "events/s", "of 10,000", "CPU µs/event", "peak memory", "beyond 64 MiB")
	for _, row := range rows {
		c, err := l.readBacklog(ctx, row)
		if err != nil {
			return fmt.Errorf("%s, %d readers: %w", row.latency, row.readers, err)
		}
		rate := float64(row.events) / c.total.Seconds()
		name := fmt.Sprintf("%s a page, %d readers", row.latency, row.readers)
		progress("%-45s %8.0f events/s  %5.1f MB", name, rate, float64(c.peak)/1e6)
		beyond := "-"
		if row.readers > 1 {
			beyond = megabytes(max(0, c.peak-64<<20))
		}
		t.row(name, thousands(float64(row.events)), thousands(rate), percent(rate, ceiling), micros(c.cpuPerEvent()), megabytes(c.peak), beyond)
	}
	return nil
}

func (l *lab) readBacklog(ctx context.Context, row backlog) (c carried, err error) {
	const all = 1_000_000
	var api string
	server, err := startRole(ctx, &api, "api", "-events", strconv.Itoa(max(row.events, all)), "-uneven-days", "60", "-latency", row.latency.String())
	if err != nil {
		return c, err
	}
	defer func() {
		_, stopErr := server.stop()
		err = errors.Join(err, stopErr)
	}()
	open := func(ctx context.Context) (bus, error) { return l.newJetStream(ctx, atLeastOnce, false) }
	return l.into(ctx, open, row.events, func(b bus) (*process, *relayProcess, error) {
		r, err := l.newRelay(ctx, relayConfig{id: b.id(), api: api, sink: b.sink(), source: fmt.Sprintf(", rate_limit: 100, backfill: {readers: %d}", row.readers)})
		if err != nil {
			return nil, nil, err
		}
		return r.process, r, nil
	})
}
