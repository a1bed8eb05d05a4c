package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/internal/config"
	"workos-relay/internal/hint"
	"workos-relay/internal/journal"
	"workos-relay/internal/snapshot"
	"workos-relay/internal/telemetry"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
	"workos-relay/source/webhook"
)

// Relay is everything that runs in a process: the lanes, the admin server and the webhook server.
// It implements admin.Control and is safe for concurrent use.
type Relay struct {
	metrics *telemetry.Metrics
	past    *journal.Journal
	traces  *telemetry.Traces // nil if they are off
	log     *zap.Logger
	limiter *rate.Limiter      // of every lane, as they share the key
	polls   *source.PollBudget // of every lane, too
	group   *pipeline.Group

	Options
	admin    *admin.Server // nil without one
	webhooks *webhooks     // nil without any
	unasked  unrequestedTypes

	// A reload holds the gate reloading. A goroutine that stops, moves or replaces a lane holds the
	// gate of that lane. A reload takes gates of lanes while it holds reloading, never the other
	// way round. Nothing else waits for another lane or for a reload.
	reloading gate
	verifying gate // of the lane that compares what it has published: one at a time

	mu      sync.RWMutex // guards what follows, only for moments; slices are replaced, never changed in place
	running bool         // from start to close
	leave   func()       // ends the wait for an operator once no lane runs; nil if relay then ends
	leaving bool         // relay is being stopped
	cfg     *config.Config
	members []*member
	gates   map[string]gate  // of lanes, by name; a lane that was removed leaves its gate
	hidden  []*config.Config // those before cfg, whose secrets are not shown either
}

// maxHidden bounds how many earlier configurations are kept to hide their secrets.
const maxHidden = 3

// member is a running lane with all its parts. It does not change, apart from restarting: a reload
// or a move replaces it.
type member struct {
	restarting atomic.Bool // a reload stops it and puts another in its place

	lane   *Lane
	bus    *Bus
	store  *checkpoint.File
	target *pipeline.Delivery
	run    *pipeline.Lane
	waker  *webhook.Waker
	stop   func() // stops the waker, the keeper and the verifier

	settings  *settingsKeeper
	verifier  *verifier
	snapshots *snapshot.Engine // nil if the lane keeps no state
}

func (m *member) close() error {
	m.stop()
	return errors.Join(m.bus.Close(), m.store.Close())
}

// assemble opens every sink and store and assembles the lanes. They run from start until ctx ends.
// The caller must close the Relay.
func assemble(ctx context.Context, cfg *config.Config, metrics *telemetry.Metrics, past *journal.Journal, traces *telemetry.Traces, log *zap.Logger, o Options) (*Relay, error) {
	lanes, err := NewLanes(cfg, log)
	if err != nil {
		return nil, err
	}
	client, err := NewClient(cfg)
	if err != nil {
		return nil, err
	}
	r := &Relay{
		metrics: metrics, past: past, traces: traces, log: log, limiter: client.Limiter, polls: client.Polls, cfg: cfg, Options: o,
		reloading: newGate(), verifying: newGate(), gates: map[string]gate{},
	}
	r.share(client)
	r.unasked = unrequestedTypes{asked: r.asked, count: metrics.WebhookUnasked, log: log, now: time.Now}
	r.group = pipeline.NewGroup(ctx, r.tellStopped)
	for _, l := range lanes {
		m, err := r.openMember(ctx, l, client)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("sink %s: %w", l.Sink.Name, err), r.closeMembers())
		}
		r.members = append(r.members, m)
	}
	return r, nil
}

// openMember opens the store and the bus of a lane. The store comes first: its lock keeps a second
// relay from starting an embedded server on the same directory.
func (r *Relay) openMember(ctx context.Context, l *Lane, client *source.Client) (*member, error) {
	store, err := checkpoint.OpenFile(l.Config.Checkpoint.Dir, l.Identity())
	if err != nil {
		return nil, err
	}
	b, err := l.Open(ctx)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return r.join(ctx, l, client, b, store), nil
}

// join makes a member of an open bus and store. Its lane does not run yet.
func (r *Relay) join(ctx context.Context, l *Lane, client *source.Client, b *Bus, store *checkpoint.File) *member {
	m := &member{lane: l, bus: b, store: store, waker: &webhook.Waker{}}
	waking, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { m.waker.Run(waking) })
	m.settings = newSettingsKeeper(l.Log, func(ctx context.Context, apply bool) ([]sink.Setting, error) {
		return b.Settings(ctx, l, m.target.Mode(), apply)
	})
	wg.Go(func() { m.settings.run(waking) })
	m.stop = func() {
		stop()
		wg.Wait()
	}
	m.assemble(client, r) //nolint:contextcheck // a span of a request begins a trace
	wg.Go(func() { m.verifier.run(waking) })
	return m
}

// assemble creates the lane and its target.
func (m *member) assemble(client *source.Client, r *Relay) {
	l, metrics, past := m.lane, r.metrics.Lane(m.lane.Sink.Name), r.past.Lane(m.lane.Sink.Name)
	hooks := m.hooksOfLane(past.Hooks(metrics.SourceHooks()))
	events := l.Stream(client, hooks)
	events.Readers, events.Memory = l.Config.Source.Backfill.Readers, int64(l.Config.Source.Backfill.Memory)
	events.Wake, _ = m.waker.Subscribe() // as long as the waker lives
	past.Redact(l.redactions(), l.Router.Redacted)
	m.target = l.target(m.bus, m.store, client, hooks)
	metrics.Trace(r.traces, l.conventions())
	count := metrics.WhereFailed
	l.where.count.Store(&count)
	observer := m.settings.observe(past.Observe(metrics))
	if r.Observe != nil {
		observer = r.Observe(observer)
	}
	limits := l.Sink.Settings.Limits()
	m.run = &pipeline.Lane{
		Name:            l.Sink.Name,
		BatchMessages:   limits.BatchMessages,
		Prefetch:        limits.Prefetch,
		Type:            l.Sink.Type,
		Source:          events,
		Router:          l.Router,
		Target:          &acquisitions{m.target, func(seen *checkpoint.Checkpoint, now checkpoint.Checkpoint) { m.verifier.acquired(seen, now) }},
		TakeoverAfter:   l.Config.TakeoverAfter,
		Holder:          l.Holder(m.store),
		Park:            l.Config.DeadLetter != nil,
		ShutdownTimeout: l.Config.ShutdownTimeout,
		Observer:        observer,
		Explain: func(err error) (text, action string) {
			return hint.Text(l.Sink.Name, err), hint.Advice(l.Sink.Name, err)
		},
		Logger: l.Log,
	}
	m.verifier = newVerifier(r, m, metrics)
	if len(l.Router.StateTopics()) > 0 {
		m.run.State = l.Router
	}
	if m.snapshots = l.snapshots(client, hooks, m.bus.Sink); m.snapshots != nil {
		m.run.Snapshots = m.snapshots
	}
	r.metrics.Watch(m.run.Name, m.status)
}

// hooksOfLane returns hooks that also tell the lane of repeated requests.
func (m *member) hooksOfLane(hooks *source.Hooks) *source.Hooks {
	out, onRetry := *hooks, hooks.OnRetry
	out.OnRetry = func(i source.RetryInfo) {
		onRetry(i)
		m.run.ReadRetrying(i.Err, i.Attempt, i.Wait)
	}
	return &out
}

// start starts every lane. The caller waits for r.group.
func (r *Relay) start() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = true
	for _, m := range r.members {
		r.group.Start(m.run)
	}
}

// gate returns the gate of a lane.
func (r *Relay) gate(lane string) gate {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.gates[lane]
	if g == nil {
		g = newGate()
		r.gates[lane] = g
	}
	return g
}

func (r *Relay) tellStopped(e *pipeline.LaneError) {
	waits := r.config().WaitsOnStop()
	if len(r.now()) > 1 || waits {
		what := "a lane has stopped; the others go on"
		if waits {
			what = "a lane has stopped; relay goes on serving everything else"
		}
		if refusal := (*source.RefusalError)(nil); errors.As(e.Err, &refusal) {
			what += ", and starts it again in 5 minutes"
		}
		r.log.Error(what, zap.String("lane", e.Lane),
			zap.String("error", hint.Text(e.Lane, e.Err)))
	}
}

// stay keeps the group from ending while no lane runs, if cfg says so.
func (r *Relay) stay(cfg *config.Config) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch waits := cfg.WaitsOnStop(); {
	case r.leaving:
	case waits && r.leave == nil:
		r.leave = r.group.Hold()
	case !waits && r.leave != nil:
		r.leave()
		r.leave = nil
	}
}

// end lets the group end once no lane runs.
func (r *Relay) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leaving = true
	if r.leave != nil {
		r.leave()
	}
}

// now returns the current members, in the order of the configuration.
func (r *Relay) now() []*member {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.members
}

// config returns the running configuration.
func (r *Relay) config() *config.Config {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.cfg
}

// hide replaces the secrets of the running configuration, and of earlier ones, by placeholders.
func (r *Relay) hide(text string) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, cfg := range append(r.hidden[:len(r.hidden):len(r.hidden)], r.cfg) {
		text = cfg.Hide(text)
	}
	return text
}

func (r *Relay) pollInterval() time.Duration { return r.config().Source.PollInterval }

// status returns the status of the lane with what is known of its snapshots. A snapshot that the
// configuration has ended before its end is in none.
func (m *member) status() pipeline.Status {
	requested := m.snapshots != nil && m.snapshots.Requested() // before the checkpoint is read, which records what has begun
	s := m.run.Status()
	s.SnapshotRequested = requested
	if m.snapshots != nil && s.Checkpoint.Generation > 0 {
		s.Unread = m.snapshots.Unread(s.Checkpoint)
	}
	if m.snapshots == nil || !m.snapshots.Reads(s.Checkpoint) {
		s.Checkpoint.Snapshot = nil
	}
	return s
}

// Status returns the status of each lane for the admin server, without secrets.
func (r *Relay) Status() []pipeline.Status {
	members := r.now()
	out := make([]pipeline.Status, len(members))
	for i, m := range members {
		out[i] = m.status()
		if m.restarting.Load() && out[i].State == pipeline.Stopped { // what comes in its place is about to start
			out[i].State, out[i].Reason, out[i].Action = pipeline.Starting, "", ""
		}
		out[i].Reason, out[i].Action = r.hide(out[i].Reason), r.hide(out[i].Action)
		out[i].Settings = m.settings.Found()
	}
	return out
}

// outlet returns where the events of a lane go; the zero value if there is no such lane.
func (r *Relay) outlet(lane string) admin.Outlet {
	for _, m := range r.now() {
		if m.run.Name == lane {
			return m.lane.Outlet()
		}
	}
	return admin.Outlet{}
}

// activity returns what a lane has done of late, without secrets.
func (r *Relay) activity(lane string) admin.Activity {
	out := r.metrics.Lane(lane).Activity()
	if newest := out.DeadLetters.Newest; newest != nil {
		hidden := *newest
		hidden.Reason = r.hide(hidden.Reason)
		out.DeadLetters.Newest = &hidden
	}
	return out
}

// requests returns how much of the rate limit the lanes use.
func (r *Relay) requests() *admin.Requests {
	out := r.metrics.Requests()
	out.Limit = float64(r.limiter.Limit())
	return &out
}

// verifyStatus returns how a lane verifies itself; nil if it does not, or if there is no such lane.
func (r *Relay) verifyStatus(lane string) *admin.VerifyStatus {
	for _, m := range r.now() {
		if m.run.Name == lane {
			return m.verifier.Status()
		}
	}
	return nil
}

// EmbeddedURL returns the URL of the first embedded server. It is empty if there is none.
func (r *Relay) EmbeddedURL() string {
	for _, m := range r.now() {
		if url := m.embeddedURL(); url != "" {
			return url
		}
	}
	return ""
}

// embeddedURL returns the URL of the embedded server of the lane. It is empty if there is none.
func (m *member) embeddedURL() string {
	if bus, ok := m.bus.Sink.(sink.Addressed); ok && m.lane.Embedded() != nil {
		return bus.Address()
	}
	return ""
}

// asked returns the event types that at least one lane asks for.
func (r *Relay) asked() []string {
	var types []string
	for _, m := range r.now() {
		types = append(types, m.lane.Types...)
	}
	return types
}

// wake makes every lane poll at once.
func (r *Relay) wake() {
	for _, m := range r.now() {
		m.waker.Wake()
	}
}

// replace puts next in the place of old and starts it. next is paused if old is, and inherits the
// snapshot that was asked of old. The caller holds the gate of the lane. A pause or a request at
// the same time is not lost: it acts on old before the replacement or on next after it.
func (r *Relay) replace(old, next *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old.run.Paused() {
		next.run.Pause()
	}
	if next.snapshots != nil {
		next.snapshots.Inherit(old.snapshots)
	}
	r.members = slices.Clone(r.members)
	r.members[slices.Index(r.members, old)] = next
	r.group.Start(next.run)
}

// add adds a lane and starts it.
func (r *Relay) add(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members = append(slices.Clone(r.members), m)
	r.group.Start(m.run)
}

// remove removes a stopped lane.
func (r *Relay) remove(m *member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members = slices.DeleteFunc(slices.Clone(r.members), func(other *member) bool { return other == m })
}

// arrange sorts the lanes into the order of names.
func (r *Relay) arrange(names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.members = slices.Clone(r.members)
	slices.SortStableFunc(r.members, func(a, b *member) int {
		return cmp.Compare(slices.Index(names, a.run.Name), slices.Index(names, b.run.Name))
	})
}

// close closes the sinks and releases the locks of the stores. It waits for a reload and for moves
// that are in progress. Nothing is started or moved afterwards. It also stops a lane that was
// started when nobody waited for the group any more.
func (r *Relay) close() error {
	r.mu.Lock()
	r.running = false
	r.mu.Unlock()
	always := context.Background() // every holder of a gate is bounded
	_ = r.reloading.enter(always)
	defer r.reloading.leave()
	for _, m := range r.now() {
		g := r.gate(m.run.Name)
		_ = g.enter(always)
		defer g.leave()
	}
	for _, m := range r.now() { // a move may have replaced them meanwhile
		r.group.Stop(m.run)
	}
	return r.closeMembers()
}

func (r *Relay) closeMembers() error {
	var errs []error
	for _, m := range r.now() {
		errs = append(errs, m.close())
	}
	return errors.Join(errs...)
}
