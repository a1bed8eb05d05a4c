package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// holdMemory shows that memory does not grow with the length of a backlog.
func holdMemory(ctx context.Context, l *lab) error {
	t := l.report.table("Memory and the length of a backlog",
		"Events made as they are asked for, API latency 0, 16 readers with 64 MiB, into a sink that forgets (stdout into /dev/null).",
		"events", "events/s", "CPU µs/event", "allocations/event", "peak memory", "beyond 64 MiB")
	for events := 10_000; events <= l.most; events *= 10 {
		c, err := l.readAndForget(ctx, events)
		if err != nil {
			return fmt.Errorf("%d events: %w", events, err)
		}
		progress("%-45s %8.0f events/s  %5.1f MB", thousands(float64(events))+" events", c.rate, float64(c.peak)/1e6)
		t.row(thousands(float64(events)), thousands(c.rate), micros(c.cpuPerEvent()), tenths(c.allocs), megabytes(c.peak), megabytes(max(0, c.peak-64<<20)))
	}
	return nil
}

func (l *lab) readAndForget(ctx context.Context, events int) (c carried, err error) {
	var api string
	server, err := startRole(ctx, &api, "api", "-events", strconv.Itoa(events), "-uneven-days", "60")
	if err != nil {
		return c, err
	}
	defer func() {
		_, stopErr := server.stop()
		err = errors.Join(err, stopErr)
	}()
	r, err := l.newRelay(ctx, relayConfig{id: "bench", api: api, sink: "{name: bus, type: stdout}"})
	if err != nil {
		return c, err
	}
	c, err = watch(ctx, r.process, r, forgetful{r}, events)
	var stopErr error
	c.usage, stopErr = r.stop()
	c.events = events
	return c, errors.Join(err, stopErr)
}

// forgetful is a bus that keeps nothing: what relay has committed counts.
type forgetful struct{ r *relayProcess }

func (forgetful) id() string                                { return "" }
func (forgetful) sink() string                              { return "" }
func (forgetful) flags() []string                           { return nil }
func (f forgetful) stored(ctx context.Context) (int, error) { return f.r.committed(ctx) }
func (forgetful) countable() bool                           { return false }
func (forgetful) look() time.Duration                       { return 20 * time.Millisecond }
func (forgetful) close() (usage, error)                     { return usage{}, nil }
