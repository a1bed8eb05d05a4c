package app

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/retry"
	"workos-relay/pipeline"
	"workos-relay/sink"
)

const (
	// settingsTimeout bounds one comparison of the configuration with the bus, including the
	// changes.
	settingsTimeout = time.Minute
	// settingsPause is the shortest time between two comparisons, however often a lane acquires its
	// lease.
	settingsPause = 10 * time.Second
	// settingsEvery is how often relay compares again while something differs, so that its status
	// stays true.
	settingsEvery = time.Minute
	// settingsRarely is how often relay compares if nothing differed.
	settingsRarely = 10 * time.Minute
)

// Settings compares the settings of the destination with the configuration; see sink.Configurable.
// mode decides whether the destination includes the topic of the position.
func (b *Bus) Settings(ctx context.Context, l *Lane, mode checkpoint.Mode, apply bool) ([]sink.Setting, error) {
	var at any = b.Sink
	if mode != checkpoint.AtLeastOnce && b.Ledger != nil {
		at = b.Ledger
	}
	c, ok := at.(sink.Configurable)
	if !ok {
		return nil, nil
	}
	return c.Settings(ctx, l.Topics, apply)
}

// settingsKeeper applies the configured settings to the destination of a lane once the lane holds
// its lease, and knows what still differs. A lane never waits for it: the bus works with the
// settings that it has. It is safe for concurrent use.
type settingsKeeper struct {
	look  func(ctx context.Context, apply bool) ([]sink.Setting, error)
	log   *zap.Logger
	wake  chan struct{} // capacity 1
	every time.Duration // settingsEvery
	rare  time.Duration // settingsRarely
	pause time.Duration // settingsPause

	mu    sync.Mutex
	found []sink.Setting
}

func newSettingsKeeper(log *zap.Logger, look func(ctx context.Context, apply bool) ([]sink.Setting, error)) *settingsKeeper {
	return &settingsKeeper{look: look, log: log, wake: make(chan struct{}, 1), every: settingsEvery, rare: settingsRarely, pause: settingsPause}
}

// Acquired tells the keeper that the lane holds its lease, so that this process may change
// settings. It does not block.
func (k *settingsKeeper) Acquired() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// observe returns an observer that tells the keeper of each acquisition, and next of everything.
func (k *settingsKeeper) observe(next pipeline.Observer) pipeline.Observer {
	return &settingsObserver{next, k}
}

type settingsObserver struct {
	pipeline.Observer // the next one

	keeper *settingsKeeper
}

// Acquired implements pipeline.Observer.
func (o *settingsObserver) Acquired() {
	o.keeper.Acquired()
	o.Observer.Acquired()
}

// Found returns what differed and what was changed at the last comparison.
func (k *settingsKeeper) Found() []sink.Setting {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.found
}

// run compares and changes settings until ctx ends. It does nothing before the first Acquired.
func (k *settingsKeeper) run(ctx context.Context) {
	next := time.NewTimer(0)
	defer next.Stop()
	<-next.C
	unanswered := false
	for {
		var apply bool
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
			apply = true
		case <-next.C:
			apply = unanswered || k.waits()
		}
		unanswered = !k.once(ctx, apply) && apply
		after := k.rare
		if unanswered || slices.ContainsFunc(k.Found(), differs) {
			after = k.every
		}
		if retry.Sleep(ctx, k.pause) != nil {
			return
		}
		next.Reset(max(0, after-k.pause))
	}
}

func differs(s sink.Setting) bool { return s.Outcome != sink.Changed }

// waits reports whether there is something that relay could not change yet.
func (k *settingsKeeper) waits() bool {
	return slices.ContainsFunc(k.Found(), func(s sink.Setting) bool { return s.Outcome == sink.Waits || s.Outcome == sink.Changes })
}

// once compares, and reports whether the bus has answered. It warns of each difference once.
func (k *settingsKeeper) once(ctx context.Context, apply bool) bool {
	ctx, cancel := context.WithTimeout(ctx, settingsTimeout)
	defer cancel()
	found, err := k.look(ctx, apply)
	if err != nil {
		k.log.Debug("the settings of the destination cannot be compared with the configuration now", zap.Error(err))
		return false
	}
	k.mu.Lock()
	before := k.found
	for _, s := range before { // what was changed is said until something else is known of it
		if !differs(s) && !slices.ContainsFunc(found, func(f sink.Setting) bool { return f.Of == s.Of && f.Key == s.Key }) {
			found = append(found, s)
		}
	}
	k.found = found
	k.mu.Unlock()
	for _, s := range found {
		if differs(s) && !slices.Contains(before, s) {
			k.log.Warn("a setting of the destination differs from the configuration", zap.String("setting", s.String()))
		}
	}
	return true
}

// lookTime bounds how long `relay status` looks at the settings of a bus, which are not its main
// subject.
const lookTime = 3 * time.Second

// Settings returns the settings of the destination that differ from the configuration. It returns
// none if the bus does not answer soon: the position shows that.
func (l *Lane) Settings(ctx context.Context) []sink.Setting {
	none := []sink.Setting{}
	if !l.MayBeOnBus() || l.Embedded() != nil && !l.EmbeddedRuns(ctx) {
		return none
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	b, err := l.reach(ctx)
	if err != nil {
		return none
	}
	defer func() { _ = b.Close() }() // it was only to look
	found, err := b.Settings(ctx, l, checkpoint.Mode(l.Sink.Delivery), false)
	if err != nil {
		return none
	}
	return append(none, found...)
}
