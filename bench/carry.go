package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// carried is one run of something that goes through all events.
type carried struct {
	events int
	rate   float64       // events/s, from the first event seen stored to the last; 0 if they were all seen at once
	first  time.Duration // from the start of the process until the first event is stored; 0 if not measured
	total  time.Duration // from the start of the process until as many events are stored as were to be
	allocs float64       // objects allocated for an event; 0 if not known
	usage
	bus usage
}

// cpuPerEvent is the CPU time of the whole process, its start included, shared among the events.
func (c carried) cpuPerEvent() time.Duration { return c.cpu / time.Duration(max(c.events, 1)) }

func (c carried) busCPUPerEvent() time.Duration { return c.bus.cpu / time.Duration(max(c.events, 1)) }

// rival is one of those that are measured against each other.
type rival struct {
	name    string
	share   func(events int, latency time.Duration) int // how many of the events it is to carry; 0 if it is left out
	run     func(ctx context.Context, api string, events int) (carried, error)
	ceiling string // name of the raw publisher that it is compared to; empty if there is none
}

// few is for what takes long: one in fifty.
func few(events int, _ time.Duration) int { return max(events/50, 1) }

// longer gives several readers enough to do; a single reader needs only few events.
const longer = 5

// baseline is how many of the events something without several readers carries: no more than ten
// seconds of one cursor.
func baseline(events int, latency time.Duration) int {
	if latency == 0 {
		return events
	}
	const longest = 10 * time.Second
	return min(events, 100*int(longest/latency))
}

func several(events int, latency time.Duration) int {
	if latency == 0 {
		return events
	}
	return min(events, longer*baseline(events, latency))
}

func carryToNATS(ctx context.Context, l *lab) error {
	jetStream := func(delivery string, syncAlways bool) func(context.Context) (bus, error) {
		return func(ctx context.Context) (bus, error) { return l.newJetStream(ctx, delivery, syncAlways) }
	}
	raw := func(ctx context.Context, delivery string) (bus, error) { return l.newJetStream(ctx, delivery, false) }
	return l.carryAll(ctx, "nats", "Events API to NATS JetStream",
		"The NATS server stores in files and is a separate process; with sync_always it writes each message to the disk before it "+
			"acknowledges, and one in fifty of the events is carried. Without exactly_once the checkpoint is a file, synced. "+
			"The raw publishers send the same messages from memory: up to 4,000 unacknowledged at a time, or atomic batches of 1,000 one after another.",
		rival{name: bareName, share: baseline, run: bareLoop},
		l.watermill("Watermill's NATS publisher", jetStream(atLeastOnce, false)),
		l.raw(rawAsync, atLeastOnce, raw),
		l.raw(rawBatches, exactlyOnce, raw),
		l.relayInto("relay, at_least_once", several, jetStream(atLeastOnce, false)).below(rawAsync),
		l.relayInto("relay, exactly_once", several, jetStream(exactlyOnce, false)).below(rawBatches),
		l.relayInto("relay, at_least_once, sync_always", few, jetStream(atLeastOnce, true)),
		l.relayInto("relay, exactly_once, sync_always", few, jetStream(exactlyOnce, true)),
	)
}

func carryToKafka(ctx context.Context, l *lab) error {
	on := func(where string, open func(context.Context, string) (*kafkaCluster, error)) []rival {
		with := func(delivery string) func(context.Context) (bus, error) {
			return func(ctx context.Context) (bus, error) { return open(ctx, delivery) }
		}
		raw := func(ctx context.Context, delivery string) (bus, error) { return open(ctx, delivery) }
		return []rival{
			l.raw(rawProducer+where, atLeastOnce, raw),
			l.raw(rawTransactions+where, exactlyOnce, raw),
			l.watermill("Watermill's Kafka publisher, "+where, with(atLeastOnce)),
			l.relayInto("relay, at_least_once, "+where, several, with(atLeastOnce)).below(rawProducer + where),
			l.relayInto("relay, exactly_once, "+where, several, with(exactlyOnce)).below(rawTransactions + where),
		}
	}
	rivals := append([]rival{{name: bareName, share: baseline, run: bareLoop}}, on("kfake", newKfake)...)
	if len(l.brokers) > 0 {
		rivals = append(rivals, on("Apache Kafka", l.realKafka)...)
	}
	return l.carryAll(ctx, "kafka", "Events API to Kafka",
		"One topic for each event type, six partitions each, compression lz4 (Watermill's: none, its default), acknowledged by all in-sync replicas. "+
			"The raw producers are franz-go: as fast as it is acknowledged, or transactions of 3,000 records one after another. kfake, a separate process, keeps everything in memory. With exactly_once progress is what relay says it has committed, and what was committed is counted by reading it at the end.",
		rivals...)
}

// Names of the raw publishers; those of Kafka end with that of the broker.
const (
	rawAsync        = "raw publisher, asynchronous"
	rawBatches      = "raw publisher, atomic batches"
	rawProducer     = "raw producer, idempotent, "
	rawTransactions = "raw producer, transactions, "
)

// below returns r with the raw publisher that it cannot be faster than.
func (r rival) below(ceiling string) rival {
	r.ceiling = ceiling
	return r
}

// bareName is the first of the rivals, to which the others are compared.
const bareName = "bare loop: fetches and discards"

// carryAll measures the rivals in turn, several times, for each latency, and reports them against
// the first.
func (l *lab) carryAll(ctx context.Context, chart, title, note string, rivals ...rival) error {
	for _, latency := range l.latencies {
		runs, these := l.runs, rivals
		if latency > 0 { // the latency decides, not the machine
			runs, these = 1, without(rivals, few)
		}
		results, err := l.round(ctx, runs, latency, these)
		if err != nil {
			return err
		}
		t := l.report.table(fmt.Sprintf("%s, API latency %s", title, latency), note,
			"", "events", "events/s", "of the bare loop", "of the raw publisher", "CPU µs/event", "and of the bus", "allocations/event", "peak memory", "of it program file", "first event stored", "all stored")
		bare := middle(results[0], func(c carried) float64 { return c.rate })
		for i, r := range these {
			if len(results[i]) == 0 {
				continue
			}
			t.row(r.name, carriedCells(results[i], bare, rateOf(r.ceiling, these, results))...)
			l.report.point(chart, r.name, latency, middle(results[i], func(c carried) float64 { return c.rate }))
		}
	}
	return nil
}

// rateOf returns the rate of one of the rivals, or 0 if it was not measured.
func rateOf(name string, rivals []rival, results [][]carried) float64 {
	for i, r := range rivals {
		if r.name == name && len(results[i]) > 0 {
			return middle(results[i], func(c carried) float64 { return c.rate })
		}
	}
	return 0
}

// without leaves out those that carry a few of the events only: their disk is what counts.
func without(rivals []rival, share func(int, time.Duration) int) []rival {
	var out []rival
	for _, r := range rivals {
		if r.share(1000, 0) != share(1000, 0) {
			out = append(out, r)
		}
	}
	return out
}

// round runs every rival so often, each in turn so that other load on the machine meets all
// alike, after a warm-up of the API.
func (l *lab) round(ctx context.Context, runs int, latency time.Duration, rivals []rival) (results [][]carried, err error) {
	all := several(l.events, latency)
	var api string
	server, err := startRole(ctx, &api, "api", "-events", strconv.Itoa(all), "-latency", latency.String())
	if err != nil {
		return nil, err
	}
	defer func() {
		_, stopErr := server.stop()
		err = errors.Join(err, stopErr)
	}()
	if _, err := bareLoop(ctx, api, min(all, 10_000, 100*max(1, int(time.Second/max(latency, time.Millisecond))))); err != nil {
		return nil, err
	}
	results = make([][]carried, len(rivals))
	for range runs {
		for i, r := range rivals {
			share := r.share(l.events, latency)
			if share == 0 {
				continue
			}
			c, err := r.run(ctx, api, share)
			if errors.Is(err, errNotBuilt) {
				l.report.remark(err.Error())
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
			progress("%-45s latency %-5s %8.0f events/s  %5.1f µs and %4.1f allocations/event  %5.1f MB, %.1f of it program file", r.name, latency, c.rate,
				float64(c.cpuPerEvent().Nanoseconds())/1e3, c.allocs, float64(c.peak)/1e6, float64(c.mapped)/1e6)
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

// relayInto is relay with its default settings into a bus that is made for the run.
func (l *lab) relayInto(name string, share func(int, time.Duration) int, open func(context.Context) (bus, error)) rival {
	return rival{name: name, share: share, run: func(ctx context.Context, api string, events int) (carried, error) {
		return l.into(ctx, open, events, func(b bus) (*process, *relayProcess, error) {
			r, err := l.newRelay(ctx, relayConfig{id: b.id(), api: api, sink: b.sink()})
			if err != nil {
				return nil, nil, err
			}
			return r.process, r, nil
		})
	}}
}

// into lets a process carry events into a bus that is made for it, until so many are stored.
func (l *lab) into(ctx context.Context, open func(context.Context) (bus, error), events int, start func(bus) (*process, *relayProcess, error)) (c carried, err error) {
	b, err := open(ctx)
	if err != nil {
		return c, err
	}
	defer func() {
		var closeErr error
		c.bus, closeErr = b.close()
		err = errors.Join(err, closeErr)
	}()
	p, r, err := start(b)
	if err != nil {
		return c, err
	}
	c, err = watch(ctx, p, r, b, events)
	var stopErr error
	c.usage, stopErr = p.stop()
	if err = errors.Join(err, stopErr); err != nil {
		return c, err
	}
	c.events, err = b.stored(ctx) // a commit that was under way is finished
	if err == nil && c.events < events {
		err = fmt.Errorf("%d events are stored, of %d that were said to be", c.events, events)
	}
	return c, err
}

// watch looks until so many events are stored. r is nil where the process is not relay.
func watch(ctx context.Context, p *process, r *relayProcess, b bus, events int) (c carried, err error) {
	count := b.stored
	if !b.countable() {
		count = r.committed
	}
	ticker := time.NewTicker(b.look())
	defer ticker.Stop()
	var firstAt time.Time
	var firstAllocs uint64
	firstCount := 0
	for {
		n, err := count(ctx)
		now := time.Now()
		switch {
		case err != nil:
			return c, fmt.Errorf("looking how many events are stored: %w", err)
		case n > 0 && firstCount == 0:
			firstAt, firstCount = now, n
			c.first = now.Sub(p.started)
			if r != nil {
				firstAllocs = r.allocations(ctx)
			}
		}
		if n >= events {
			c.total = now.Sub(p.started)
			if n > firstCount {
				c.rate = float64(n-firstCount) / now.Sub(firstAt).Seconds()
			}
			if r != nil && n > firstCount {
				c.allocs = float64(r.allocations(ctx)-firstAllocs) / float64(n-firstCount)
			}
			return c, nil
		}
		select {
		case <-ticker.C:
		case <-p.exited:
			return c, errors.Join(errors.New("it ended before the events were stored"), p.err)
		case <-ctx.Done():
			return c, ctx.Err()
		}
	}
}
