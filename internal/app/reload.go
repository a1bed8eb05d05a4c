package app

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/internal/config"
	"workos-relay/internal/contain"
	"workos-relay/sink"
	"workos-relay/source"
)

// effect is what the change of a configuration key means for a running relay.
type effect int

const (
	needsRestart effect = iota // it takes effect at a restart only
	everyLane                  // every lane is restarted
	oneLane                    // the lane that the key names is restarted
	someLanes                  // lanes whose event types change are restarted
	noLane                     // it takes effect without a restart of lanes, or has no effect by itself
)

// effects gives the effect of a key by its prefix. The first prefix that matches decides. Every
// other key needs a restart, which is always safe.
var effects = []struct {
	prefix string
	effect effect
}{
	{"source.webhook.listen", needsRestart},
	{"source.webhook", noLane},
	{"source.rate_limit", noLane},
	{"source.events", someLanes},
	{"source", everyLane},
	{"sinks", oneLane},
	{"routes", everyLane},
	{"redaction", everyLane},
	{"encoding", everyLane},
	{"headers", everyLane},
	{"delivery", noLane}, // the sinks have it
	{"takeover_after", everyLane},
	{"verify", noLane},
	{"dead_letter", everyLane},
	{"shutdown_timeout", everyLane},
	{"on_stop", noLane},
	{"log.level", noLane},
	{"admin.token", noLane},
	{"admin.open_metrics", noLane},
	{"admin.tls", noLane}, // whether there is TLS at all is judged by the server
}

func effectOf(key string) effect {
	for _, e := range effects {
		if rest, ok := strings.CutPrefix(key, e.prefix); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return e.effect
		}
	}
	return needsRestart
}

// compareTime bounds how long a reload waits for a bus that does not answer.
const compareTime = 5 * time.Second

// plan is a reload that was checked completely. Nothing in it can fail any more, except for the
// bus, which a lane waits for.
type plan struct {
	cfg     *config.Config
	client  *source.Client // of the lanes that are new or restarted
	changes []config.Change
	lanes   []planned // of the new configuration, in its order
	removed []*member
}

// planned is a lane of the new configuration.
type planned struct {
	lane  *Lane
	old   *member          // the one that it replaces; nil if it is new
	stays bool             // old keeps running
	bus   *Bus             // opened for it; nil if the bus of old stays open
	store *checkpoint.File // opened for it; nil if there is an old one

	settings []sink.Setting // of its destination that differ from the new configuration
}

// close closes what was opened for a plan that is not carried out.
func (p *plan) close() error {
	var errs []error
	for _, l := range p.lanes {
		if l.bus != nil {
			errs = append(errs, l.bus.Close())
		}
		if l.store != nil {
			errs = append(errs, l.store.Close())
		}
	}
	return errors.Join(errs...)
}

// Reload implements admin.Control. It does everything that can fail before it changes anything, and
// logs the outcome. A second reload waits for the first.
func (r *Relay) Reload(ctx context.Context) (admin.Reloaded, error) {
	done, err := r.reload(ctx)
	if err != nil {
		r.log.Error("reload rejected: nothing has changed", zap.String("by", admin.Caller(ctx)), zap.String("error", r.hide(err.Error())))
	}
	return done, err
}

func (r *Relay) reload(ctx context.Context) (_ admin.Reloaded, err error) {
	if err := r.reloading.enter(ctx); err != nil {
		return admin.Reloaded{}, &admin.Refusal{Code: http.StatusConflict, Err: fmt.Errorf("another reload is in progress: try again: %w", err)}
	}
	defer r.reloading.leave()
	r.mu.RLock()
	running := r.running
	r.mu.RUnlock()
	if !running {
		return admin.Reloaded{}, errNotServing
	}
	defer func() { r.metrics.Reloaded(err) }()
	defer r.followFiles()
	defer func() {
		if v := recover(); v != nil {
			err = r.brokenReload(v)
		}
	}()
	p, err := r.plan(ctx)
	if err == nil {
		if err = r.secure(p.cfg); err != nil {
			err = errors.Join(err, p.close())
		}
	}
	if err != nil {
		err = fmt.Errorf("the configuration is rejected, and the running one stays in effect: %w", err)
		return admin.Reloaded{}, &admin.Refusal{Code: http.StatusUnprocessableEntity, Err: err}
	}
	return r.carryOut(ctx, p), nil
}

// followFiles stops following the files that the running configuration does not name. It is called
// after every reload, rejected or not.
func (r *Relay) followFiles() {
	cfg := r.config()
	inUse := cfg.FilesInUse()
	cfg.Files.Retain(func(path string) bool { return inUse[path] })
}

// secure makes the admin server and the webhook server ask for the credentials of cfg. It is the
// last step of a reload that may fail.
func (r *Relay) secure(cfg *config.Config) error {
	security, err := liveAdminSecurity(cfg)
	if err != nil {
		return err
	}
	webhooks := func() {}
	if r.webhooks != nil {
		if webhooks, err = r.webhooks.prepare(cfg); err != nil {
			return err
		}
	}
	if r.admin != nil {
		if err := r.admin.Secure(security); err != nil {
			return err
		}
	}
	webhooks()
	return nil
}

// brokenReload turns a panic in a reload into an error, so that it does not end the process.
func (r *Relay) brokenReload(panicked any) error {
	fault := &contain.PanicError{Value: panicked, Stack: string(debug.Stack())}
	r.log.Error("the reload failed because of a fault of relay itself", zap.Error(fault), zap.String("stack", fault.Stack))
	return &admin.Refusal{Code: http.StatusInternalServerError, Err: fault}
}

// plan reads the configuration again and works out what changes.
func (r *Relay) plan(ctx context.Context) (*plan, error) {
	if r.Reread == nil {
		return nil, errors.New("this relay has none that could be read again")
	}
	cfg, err := r.Reread()
	if err != nil {
		return nil, err
	}
	p := &plan{cfg: cfg, changes: r.config().Diff(cfg)}
	if err := p.restartRequired(); err != nil {
		return nil, err
	}
	if p.client, err = NewClient(cfg); err != nil {
		return nil, err
	}
	lanes, err := NewLanes(cfg, r.log)
	if err != nil {
		return nil, err
	}
	for _, l := range lanes {
		p.lanes = append(p.lanes, r.planLane(p.changes, l))
	}
	for _, m := range r.now() {
		if !slices.ContainsFunc(lanes, func(l *Lane) bool { return l.Sink.Name == m.run.Name }) {
			p.removed = append(p.removed, m)
		}
	}
	for i := range p.lanes {
		if err := p.lanes[i].prepare(ctx, p.changes); err != nil {
			return nil, errors.Join(fmt.Errorf("sinks[%s]: %w", p.lanes[i].lane.Sink.Name, err), p.close())
		}
	}
	return p, nil
}

// restartRequired returns an error that names every changed key that needs a restart.
func (p *plan) restartRequired() error {
	var errs []error
	for _, c := range p.changes {
		if effectOf(c.Key) == needsRestart && !c.Content { // what files hold is followed without a reload
			errs = append(errs, fmt.Errorf("%s cannot change while relay runs: restart it", c.Key))
		}
	}
	return errors.Join(errs...)
}

// planLane decides whether a lane is new, stays as it is, or is restarted. A stopped lane is always
// restarted.
func (r *Relay) planLane(changes []config.Change, l *Lane) planned {
	p := planned{lane: l}
	for _, m := range r.now() {
		if m.run.Name == l.Sink.Name {
			p.old, p.stays = m, r.group.Runs(m.run)
		}
	}
	for _, c := range changes {
		switch effectOf(c.Key) {
		case everyLane:
			p.stays = false
		case oneLane:
			p.stays = p.stays && !isOf(c.Key, l.Sink.Name)
		case someLanes:
			p.stays = p.stays && slices.Equal(p.old.lane.Types, l.Types)
		default:
		}
	}
	return p
}

// isOf reports whether a key belongs to a sink.
func isOf(key, sink string) bool { return strings.HasPrefix(key, "sinks["+sink+"]") }

// prepare opens what a lane needs. It fails if the change would stop the lane with a question to an
// operator.
func (p *planned) prepare(ctx context.Context, changes []config.Change) (err error) {
	if p.stays {
		return nil
	}
	if p.old != nil {
		if err := p.old.lane.Identity().Check(p.lane.Identity()); err != nil {
			var foreign *checkpoint.ForeignError
			if errors.As(err, &foreign) {
				return fmt.Errorf("its %s would be %q instead of %q, for which its position does not hold: give the sink another name, or restart relay and say where to go on with `relay checkpoint set`",
					foreign.Field, foreign.Have, foreign.Want)
			}
			return err
		}
		if want, have := checkpoint.Mode(p.lane.Sink.Delivery), p.old.target.Mode(); IsMode(want) && IsMode(have) && want != have {
			return fmt.Errorf("delivery cannot change from %s to %s while relay runs: stop it, and take the position along with `relay checkpoint set --lane %s --from %s`",
				have, want, p.lane.Sink.Name, placeOf(have))
		}
		if !p.needsBus(changes) {
			return nil
		}
		if p.old.lane.Embedded() != nil {
			return errors.New("an embedded server cannot change while relay runs: restart it")
		}
	}
	if p.bus, err = p.lane.Open(ctx); err != nil {
		return err
	}
	p.compare(ctx)
	if p.old != nil {
		return nil
	}
	p.store, err = checkpoint.OpenFile(p.lane.Config.Checkpoint.Dir, p.lane.Identity())
	return err
}

// compare finds the settings of the destination that differ from the configuration. A bus that does
// not answer now does not fail the reload: the lane compares again once it holds its position.
func (p *planned) compare(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, compareTime)
	defer cancel()
	mode := checkpoint.Mode(p.lane.Sink.Delivery)
	if p.old != nil {
		mode = p.old.target.Mode()
	}
	var err error
	if p.settings, err = p.bus.Settings(ctx, p.lane, mode, false); err != nil {
		p.lane.Log.Warn("the settings of the destination cannot be compared with the configuration now; relay tries again while it runs", zap.Error(err))
	}
}

// IsMode reports whether m is a mode of delivery, and not a request to find one.
func IsMode(m checkpoint.Mode) bool {
	return m == checkpoint.AtLeastOnce || m == checkpoint.ExactlyOnce
}

// placeOf returns where the position of a mode is kept.
func placeOf(m checkpoint.Mode) string {
	if m == checkpoint.AtLeastOnce {
		return InFile
	}
	return OnBus
}

// needsBus reports whether a change of the sink affects its bus.
func (p *planned) needsBus(changes []config.Change) bool {
	name := p.lane.Sink.Name
	// The bus was told of them when it was opened. Events and routes decide on them too.
	if p.old != nil && !slices.Equal(p.old.lane.Router.StateTopics(), p.lane.Router.StateTopics()) {
		return true
	}
	return slices.ContainsFunc(changes, func(c config.Change) bool {
		return isOf(c.Key, name) && c.Key != "sinks["+name+"].events" && c.Key != "sinks["+name+"].delivery"
	})
}

// carryOut carries out a plan. Lanes that stay keep running. Every other lane is stopped in order
// and replaced on its own, so that a lane that stops slowly, or is being moved, delays no other
// lane.
func (r *Relay) carryOut(ctx context.Context, p *plan) admin.Reloaded {
	defer r.group.Hold()()
	ctx = context.WithoutCancel(ctx) // it must not end halfway
	out := admin.Reloaded{Changes: []string{}, Lanes: []string{}, Settings: []sink.Setting{}}
	for _, c := range p.changes {
		out.Changes = append(out.Changes, c.String())
	}
	r.limiter.SetLimit(rate.Limit(p.cfg.Source.RateLimit))
	r.limiter.SetBurst(burst(p.cfg.Source.RateLimit))
	if r.Applied != nil {
		r.Applied(p.cfg)
	}
	r.mu.Lock()
	r.hidden = append(r.hidden, r.cfg)[max(0, len(r.hidden)-maxHidden+1):]
	r.cfg = p.cfg
	r.mu.Unlock()
	r.stay(p.cfg)
	client := p.client
	r.share(client)
	var wg sync.WaitGroup
	var names []string
	for _, l := range p.lanes {
		name := l.lane.Sink.Name
		names = append(names, name)
		switch {
		case l.stays:
			continue
		case l.old == nil:
			r.add(r.join(ctx, l.lane, client, l.bus, l.store)) //nolint:contextcheck // the group was given a context
			out.Lanes = append(out.Lanes, name+" is new")
		default:
			wg.Go(func() { r.restart(ctx, l, client) })
			out.Lanes = append(out.Lanes, name+" was restarted from its position")
		}
		out.Settings = append(out.Settings, l.settings...)
	}
	for _, m := range p.removed {
		wg.Go(func() { r.retire(ctx, m.run.Name) })
		out.Lanes = append(out.Lanes, m.run.Name+" was stopped and released")
	}
	wg.Wait()
	r.arrange(names)
	r.log.Info("configuration reloaded", zap.String("by", admin.Caller(ctx)), zap.Strings("changes", out.Changes), zap.Strings("lanes", out.Lanes))
	return out
}

// restart stops a lane and puts the planned lane in its place, which keeps the lease.
func (r *Relay) restart(ctx context.Context, p planned, client *source.Client) {
	old, leave, err := r.enter(ctx, p.lane.Sink.Name)
	if err != nil { // relay stops
		r.abandon(p)
		return
	}
	defer leave()
	old.restarting.Store(true)
	old.run.KeepLease()
	r.group.Stop(old.run)
	b := old.bus
	if p.bus != nil {
		b = p.bus
		if err := old.bus.Close(); err != nil {
			r.log.Warn("closing the bus of a lane that was changed", zap.String("lane", p.lane.Sink.Name), zap.Error(err))
		}
	}
	r.replace(old, r.successor(ctx, old, p.lane, client, b)) //nolint:contextcheck // the group was given a context
}

// abandon closes what was opened for a lane that is not started.
func (r *Relay) abandon(p planned) {
	if p.bus == nil {
		return
	}
	if err := p.bus.Close(); err != nil {
		r.log.Warn("closing the bus of a lane that was not started", zap.String("lane", p.lane.Sink.Name), zap.Error(err))
	}
}

// retire stops a lane that the configuration no longer has, and closes it.
func (r *Relay) retire(ctx context.Context, lane string) {
	m, leave, err := r.enter(ctx, lane)
	if err != nil { // relay stops, and closes it
		return
	}
	defer leave()
	r.group.Stop(m.run)
	r.remove(m)
	r.metrics.Unwatch(m.run.Name)
	defer r.metrics.Lane(m.run.Name).VerifyForget()
	if err := m.close(); err != nil {
		r.log.Warn("closing a lane that was removed", zap.String("lane", m.run.Name), zap.Error(err))
	}
}

// successor returns the member that takes the place of old, which has stopped. It takes over the
// store of old.
func (r *Relay) successor(ctx context.Context, old *member, l *Lane, client *source.Client, b *Bus) *member {
	old.stop()
	next := r.join(ctx, l, client, b, old.store)
	next.run.Follows = true
	next.verifier.inherit(old.verifier)
	return next
}

// ReloadAtHangup reloads at each SIGHUP until the returned function is called.
func (r *Relay) ReloadAtHangup(ctx context.Context) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-hangups:
				_, _ = r.Reload(admin.WithCaller(ctx, "SIGHUP")) // it logs the outcome
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		signal.Stop(hangups)
		cancel()
		wg.Wait()
	}
}
