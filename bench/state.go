package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"workos-relay/internal/admin"
)

// keeping is a bus on which the lane keeps the state of its events.
type keeping struct {
	bus
	state string // the section `state` of the sink; empty if it keeps none
}

func (k keeping) sink() string {
	if k.state == "" {
		return k.bus.sink()
	}
	return strings.TrimSuffix(k.bus.sink(), "}") + ", state: " + k.state + "}"
}

// stateBus is a bus that can keep state.
type stateBus struct {
	name string
	open func(context.Context) (bus, error)
}

// stateBuses are the buses of the parts state and snapshot.
func (l *lab) stateBuses(delivery string) []stateBus {
	return []stateBus{
		{"JetStream", func(ctx context.Context) (bus, error) { return l.newJetStream(ctx, delivery, false) }},
		{"kfake", func(ctx context.Context) (bus, error) { return newKfake(ctx, delivery) }},
	}
}

// keepState measures what state topics cost a lane that is behind.
func keepState(ctx context.Context, l *lab) error {
	events := l.events / 2
	t := l.report.table("State topics",
		"The same lane with and without `state: {entities: [\"*\"], snapshot: never}`, in exactly_once, API latency 0. Most events change the state, so that there are nearly twice as many messages. "+
			"On JetStream the server also copies each change to a bucket. Events are what relay says it has committed.",
		"", "events", "events/s", "of those without state", "CPU µs/event", "and of the bus", "peak memory")
	var api string
	server, err := startRole(ctx, &api, "api", "-events", strconv.Itoa(events))
	if err != nil {
		return err
	}
	defer func() { _, _ = server.stop() }()
	for _, b := range l.stateBuses(exactlyOnce) {
		var results [2][]carried
		for range l.runs {
			for i, state := range []string{"", `{entities: ["*"], snapshot: never}`} {
				c, err := l.carryState(ctx, api, b, state, events)
				if err != nil {
					return fmt.Errorf("%s, state %q: %w", b.name, state, err)
				}
				progress("%-45s %8.0f events/s", b.name+", state "+state, c.rate)
				results[i] = append(results[i], c)
			}
		}
		rate := func(c carried) float64 { return c.rate }
		for i, name := range []string{", without state", ", with state"} {
			runs, of := results[i], "-"
			if i > 0 {
				of = percent(middle(runs, rate), middle(results[0], rate))
			}
			most := int64(0)
			for _, c := range runs {
				most = max(most, c.peak)
			}
			t.row(b.name+name, thousands(float64(events)), thousands(middle(runs, rate)), of,
				micros(middle(runs, carried.cpuPerEvent)), micros(middle(runs, carried.busCPUPerEvent)), megabytes(most))
		}
	}
	return nil
}

// carryState lets relay carry events until it says that so many are committed.
func (l *lab) carryState(ctx context.Context, api string, on stateBus, state string, events int) (c carried, err error) {
	opened, err := on.open(ctx)
	if err != nil {
		return c, err
	}
	b := keeping{opened, state}
	defer func() {
		var closeErr error
		c.bus, closeErr = b.close()
		err = errors.Join(err, closeErr)
	}()
	r, err := l.newRelay(ctx, relayConfig{id: b.id(), api: api, sink: b.sink()})
	if err != nil {
		return c, err
	}
	c, err = watch(ctx, r.process, r, forgetful{r}, events)
	var stopErr error
	c.usage, stopErr = r.stop()
	c.events = events
	return c, errors.Join(err, stopErr)
}

const (
	snapshotRate = 80  // requests/s, the default of source.rate_limit
	pageObjects  = 100 // of a list
)

// readSnapshots measures the first snapshot of a large environment.
func readSnapshots(ctx context.Context, l *lab) error {
	users, directories := 1_000_000, 100
	if l.quick {
		users, directories = 2_000, 2
	}
	least := time.Duration(users/pageObjects) * time.Second / snapshotRate
	t := l.report.table("A first snapshot",
		fmt.Sprintf("%s directory users of %d directories, made as they are asked for, in pages of %d, at the default of %d requests/s, API latency 100 ms, exactly_once. "+
			"At that rate the pages alone take %s. Time counts from the start of the process until the snapshot is finished. Memory is compared with the same relay on the same bus whose snapshot is switched off.",
			thousands(float64(users)), directories, pageObjects, snapshotRate, span(least)),
		"", "objects", "time", "of the least", "CPU µs/object", "peak memory", "without a snapshot", "difference")
	for _, b := range l.stateBuses(exactlyOnce) {
		idle, err := l.snapshot(ctx, b, directories, users, false)
		if err != nil {
			return fmt.Errorf("%s, without a snapshot: %w", b.name, err)
		}
		c, err := l.snapshot(ctx, b, directories, users, true)
		if err != nil {
			return fmt.Errorf("%s: %w", b.name, err)
		}
		progress("%-45s %s, %.2f times the least, %5.1f MB above %.1f MB", b.name, span(c.total), c.total.Seconds()/least.Seconds(), float64(c.peak-idle.peak)/1e6, float64(idle.peak)/1e6)
		t.row(b.name, thousands(float64(c.events)), span(c.total), fmt.Sprintf("%.2f", c.total.Seconds()/least.Seconds()),
			micros(c.cpuPerEvent()), megabytes(c.peak), megabytes(idle.peak), megabytes(c.peak-idle.peak))
	}
	return nil
}

// snapshot lets relay read a snapshot of so many users, or runs it for a while without one. The
// events of the result are the objects that it has published.
func (l *lab) snapshot(ctx context.Context, on stateBus, directories, users int, reads bool) (c carried, err error) {
	var api string
	server, err := startRole(ctx, &api, "api", "-latency", "100ms", "-directories", strconv.Itoa(directories), "-directory-users", strconv.Itoa(users))
	if err != nil {
		return c, err
	}
	defer func() {
		_, stopErr := server.stop()
		err = errors.Join(err, stopErr)
	}()
	opened, err := on.open(ctx)
	if err != nil {
		return c, err
	}
	b := keeping{opened, "{entities: [directory, directory_user]}"}
	if !reads {
		b.state = "{entities: [directory, directory_user], snapshot: never}"
	}
	defer func() {
		_, closeErr := b.close()
		err = errors.Join(err, closeErr)
	}()
	r, err := l.newRelay(ctx, relayConfig{id: b.id(), api: api, sink: b.sink(), source: fmt.Sprintf(", rate_limit: %d", snapshotRate)})
	if err != nil {
		return c, err
	}
	if reads {
		c.events, err = r.snapshotFinished(ctx)
		c.total = time.Since(r.started)
	} else {
		_, err = r.ready(ctx)
		time.Sleep(3 * time.Second) // it looks around
	}
	var stopErr error
	c.usage, stopErr = r.stop()
	if err == nil && reads && c.events < users {
		err = fmt.Errorf("%d objects were published, of %d", c.events, users)
	}
	return c, errors.Join(err, stopErr)
}

// snapshotFinished waits until relay has finished a snapshot, and returns how many objects it has
// published.
func (r *relayProcess) snapshotFinished(ctx context.Context) (objects int, err error) {
	const look = 50 * time.Millisecond
	for {
		if _, body, err := r.get(ctx, "/api/v1/status"); err == nil {
			var s admin.Status
			if err := json.Unmarshal(body, &s); err != nil {
				return 0, fmt.Errorf("the status of relay is %q: %w", body, err)
			}
			if len(s.Lanes) > 0 && s.Lanes[0].Snapshot != nil && s.Lanes[0].Snapshot.FinishedAt != nil {
				for _, e := range s.Lanes[0].Snapshot.Entities {
					objects += int(e.Objects) //nolint:gosec // as many as the bench has made
				}
				return objects, nil
			}
		}
		if err := r.alive(ctx); err != nil {
			return 0, err
		}
		time.Sleep(look)
	}
}
