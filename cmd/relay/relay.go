package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/internal/config"
	"workos-relay/internal/journal"
	"workos-relay/internal/operator"
	"workos-relay/internal/telemetry"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/source/webhook"
)

// relay is everything that runs.
type relay struct {
	metrics *telemetry.Metrics
	past    *journal.Journal
	traces  *telemetry.Traces // nil where they are off
	log     *zap.Logger
	limiter *rate.Limiter // of every lane, as they share the key
	group   *pipeline.Group

	reread   func() (*config.Config, error) // reads the configuration again; nil where that cannot be
	inForce  func(*config.Config)           // is told of each configuration that is put in force; may be nil
	admin    *admin.Server                  // nil without one
	webhooks *webhooks                      // nil without any
	unasked  unasked

	changing sync.Mutex // held by whoever starts, stops or moves lanes
	running  bool       // between start and close; under changing

	mu      sync.RWMutex // guards what follows; it is replaced, never changed in place
	cfg     *config.Config
	members []*member
	hidden  []*config.Config // those before cfg, whose secrets are not shown either
}

// maxHidden bounds how many earlier configurations are remembered.
const maxHidden = 3

// member is a lane that runs, with all that is its own. It is not changed: another takes its place.
type member struct {
	lane   *lane
	bus    *bus
	store  *checkpoint.File
	target *pipeline.Delivery
	run    *pipeline.Lane
	waker  *webhook.Waker
	sleep  func() // ends the waker and the keeper

	settings *settingsKeeper
}

func (m *member) close() error {
	m.sleep()
	return errors.Join(m.bus.Close(), m.store.Close())
}

// assemble opens every sink and store and puts the lanes together, for start to let them run until ctx ends. Whatever it returns is
// closed by the caller.
func assemble(ctx context.Context, cfg *config.Config, metrics *telemetry.Metrics, past *journal.Journal, traces *telemetry.Traces, log *zap.Logger) (*relay, error) {
	lanes, err := newLanes(cfg, log)
	if err != nil {
		return nil, err
	}
	client := newClient(cfg)
	r := &relay{metrics: metrics, past: past, traces: traces, log: log, limiter: client.Limiter, cfg: cfg}
	r.unasked = unasked{asked: r.asked, count: metrics.WebhookUnasked, log: log, now: time.Now}
	r.group = pipeline.NewGroup(ctx, r.tellStopped)
	for _, l := range lanes {
		m, err := r.open(ctx, l, client)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("sink %s: %w", l.sink.Name, err), r.closeMembers())
		}
		r.members = append(r.members, m)
	}
	return r, nil
}

// open opens the store and the bus of a lane and puts it together. The store comes first: its lock keeps a second relay from
// starting an embedded server on the same directory.
func (r *relay) open(ctx context.Context, l *lane, client *source.Client) (*member, error) {
	store, err := checkpoint.OpenFile(l.cfg.Checkpoint.Dir, l.identity())
	if err != nil {
		return nil, err
	}
	b, err := l.open(ctx)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return r.join(ctx, l, client, b, store), nil
}

// join makes a member of what is open. Its lane is not running yet.
func (r *relay) join(ctx context.Context, l *lane, client *source.Client, b *bus, store *checkpoint.File) *member {
	m := &member{lane: l, bus: b, store: store, waker: &webhook.Waker{}}
	waking, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { m.waker.Run(waking) })
	m.settings = newSettingsKeeper(l.log, func(ctx context.Context, apply bool) ([]sink.Setting, error) {
		return b.settings(ctx, l, m.target.Mode(), apply)
	})
	wg.Go(func() { m.settings.run(waking) })
	m.sleep = func() {
		stop()
		wg.Wait()
	}
	m.assemble(client, r)
	return m
}

// assemble puts the lane together.
func (m *member) assemble(client *source.Client, r *relay) {
	l, metrics, past := m.lane, r.metrics.Lane(m.lane.sink.Name), r.past.Lane(m.lane.sink.Name)
	events := l.stream(client, past.Hooks(metrics.SourceHooks()))
	events.Readers, events.Memory = l.cfg.Source.Backfill.Readers, int64(l.cfg.Source.Backfill.Memory)
	events.Wake, _ = m.waker.Subscribe() // as long as the waker lives
	m.target = l.target(m.bus, m.store, client)
	m.target.Observe(metrics)
	m.target.Acquired(m.settings.Acquired)
	messages, prefetch := l.batches()
	m.run = &pipeline.Lane{
		Name:            l.sink.Name,
		BatchMessages:   messages,
		Prefetch:        prefetch,
		Type:            l.sink.Type,
		Source:          events,
		Router:          l.router,
		Target:          m.target,
		TakeoverAfter:   l.cfg.TakeoverAfter,
		Holder:          m.store.Holder(),
		Park:            l.cfg.DeadLetter != nil,
		ShutdownTimeout: l.cfg.ShutdownTimeout,
		Observer:        past.Observe(metrics),
		Tracer:          metrics.Trace(r.traces, l.sink.Type),
		Logger:          l.log,
	}
	r.metrics.Watch(m.run.Name, m.run.Status)
}

// start lets every lane run. Whoever calls it waits for r.group.
func (r *relay) start() {
	r.changing.Lock()
	defer r.changing.Unlock()
	r.running = true
	for _, m := range r.now() {
		r.group.Start(m.run)
	}
}

func (r *relay) tellStopped(e *pipeline.LaneError) {
	if len(r.now()) > 1 {
		r.log.Error("a lane has stopped; the others go on", zap.String("lane", e.Lane),
			zap.String("error", operator.Explain(e.Err.Error(), operator.Actions(e.Err)...)))
	}
}

// now returns the members of this moment, in the order of the configuration.
func (r *relay) now() []*member {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.members
}

// config returns the configuration in force.
func (r *relay) config() *config.Config {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.cfg
}

// hide puts placeholders for secrets, also for those that were in force before.
func (r *relay) hide(text string) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, cfg := range append(r.hidden[:len(r.hidden):len(r.hidden)], r.cfg) {
		text = cfg.Hide(text)
	}
	return text
}

func (r *relay) pollInterval() time.Duration { return r.config().Source.PollInterval }

// status returns how each lane is, for whoever reaches the admin address; /readyz asks nobody. Of a reason secrets are hidden.
func (r *relay) status() []pipeline.Status {
	members := r.now()
	out := make([]pipeline.Status, len(members))
	for i, m := range members {
		out[i] = m.run.Status()
		out[i].Reason, out[i].Action = r.hide(out[i].Reason), r.hide(out[i].Action)
		out[i].Settings = m.settings.Found()
	}
	return out
}

// asked returns the event types that some lane asks for.
func (r *relay) asked() []string {
	var types []string
	for _, m := range r.now() {
		types = append(types, m.lane.types...)
	}
	return types
}

// wake lets every lane poll at once.
func (r *relay) wake() {
	for _, m := range r.now() {
		m.waker.Wake()
	}
}

// replace puts another member in the place of one.
func (r *relay) replace(old, next *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members = slices.Clone(r.members)
	r.members[slices.Index(r.members, old)] = next
}

// close closes the sinks, and gives up the stores' locks. Nothing is started or moved after that. A lane that was started when nobody
// waited for the group any more is stopped before.
func (r *relay) close() error {
	r.changing.Lock()
	defer r.changing.Unlock()
	r.running = false
	for _, m := range r.now() {
		r.group.Stop(m.run)
	}
	return r.closeMembers()
}

func (r *relay) closeMembers() error {
	var errs []error
	for _, m := range r.now() {
		errs = append(errs, m.close())
	}
	return errors.Join(errs...)
}
