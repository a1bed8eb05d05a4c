//go:build unix

package simulation

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/router"
	"workos-relay/source"
	"workos-relay/source/sourcetest"
)

// process is one life of a relay: the real lane with the real source and router. What it does to
// the world goes through call, roundTrip and disk, which hold it back while it is paused.
type process struct {
	w     *world
	relay int
	name  string
	start time.Time

	fates *rand.Rand // only the goroutine of the lane asks the bus

	mu      sync.Mutex
	resumed chan struct{} // closed when it runs again; nil while it runs
	killed  chan struct{}

	lane   *pipeline.Lane
	target pipeline.Target
	cancel context.CancelFunc
	done   chan error
}

// startProcess starts a relay on its disk.
func (w *world) startProcess(relay int) *process {
	w.lives[relay]++
	p := w.newProcess(relay)
	disk := w.disks[relay]
	disk.open(p)
	p.build(disk)
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	go func() { p.done <- p.lane.Run(ctx) }()
	return p
}

// newProcess returns a process that has nothing to do yet.
func (w *world) newProcess(relay int) *process {
	life := 0
	if relay < len(w.lives) {
		life = w.lives[relay]
	}
	return &process{
		w: w, relay: relay, name: fmt.Sprintf("relay%d.%d", relay, life), start: time.Now(),
		fates: rand.New(rand.NewPCG(w.seed, uint64(relay)<<32|uint64(life))), killed: make(chan struct{}), done: make(chan error, 1),
	}
}

// build assembles the lane as package internal/app does.
func (p *process) build(d *disk) {
	w := p.w
	holder := checkpoint.HolderName(fmt.Sprintf("relay%d", p.relay), w.lives[p.relay], p.start, d.digits)
	client := &source.Client{
		APIKey: sourcetest.DefaultAPIKey, Endpoint: "http://api.invalid", Timeout: 20 * time.Second, Polls: &source.PollBudget{},
		HTTPClient: &http.Client{Transport: &transport{p: p, seen: map[string]uint64{}}},
	}
	route, err := router.New(router.Config{Relay: identity.Relay, Binding: w.bus.binding()})
	if err != nil {
		panic(err)
	}
	destination, ledger := w.bus.open(p)
	id := identityOn(destination.Identity())
	guard := &pipeline.Guard{Store: d.of(p, id), Logger: zap.NewNop()}
	if w.mutated("first start") {
		guard = nil
	}
	own := pipeline.Ownership{
		Topics: topics, Identity: id, Holder: holder, Events: types,
		Origin: func(context.Context) (checkpoint.Position, error) { return checkpoint.Position{}, nil },
		Guard:  guard, Logger: zap.NewNop(),
	}
	delivery := &pipeline.Delivery{
		Want:        w.plan.mode,
		AtLeastOnce: &pipeline.AtLeastOnce{Ownership: own, Sink: destination, Store: d.of(p, id)},
		ExactlyOnce: &pipeline.ExactlyOnce{Ownership: own, Ledger: ledger, Patience: w.plan.takeover / 10},
	}
	p.target = delivery
	if w.mutation != nil && w.mutation.target != nil {
		p.target = w.mutation.target(w, p.target)
	}
	p.lane = &pipeline.Lane{
		Name: identity.Lane, Router: route, Target: p.target, TakeoverAfter: w.plan.takeover, Holder: holder,
		ShutdownTimeout: 10 * time.Second, BatchMessages: w.plan.batch,
		Source: &source.Stream{
			Client: client, Events: types, Limit: w.plan.limit, FastestPoll: 100 * time.Millisecond, Readers: w.plan.readers, Memory: w.plan.memory,
		},
	}
}

// fate draws what becomes of the next request to the bus.
func (p *process) fate() fate {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	return p.w.weather.draw(p.fates, p.w.plan.holes)
}

// pause stops the process as SIGSTOP does, until resume.
func (p *process) pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resumed = make(chan struct{})
}

func (p *process) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resumed != nil {
		close(p.resumed)
		p.resumed = nil
	}
}

// stand returns when the process runs or is dead, and reports whether it was stopped.
func (p *process) stand() (stood bool) {
	for {
		p.mu.Lock()
		stopped := p.resumed
		p.mu.Unlock()
		if stopped == nil || p.isDead() {
			return stood
		}
		stood = true
		select {
		case <-stopped:
		case <-p.killed:
		}
	}
}

func (p *process) isDead() bool {
	select {
	case <-p.killed:
		return true
	default:
		return false
	}
}

// kill ends the process as SIGKILL does. Nothing that its goroutines still do has an effect.
func (p *process) kill() {
	close(p.killed)
	p.cancel()
	if err := <-p.done; err != nil {
		p.w.note("%s ended with %v", p.name, err)
	}
	p.w.disks[p.relay].close(p)
}

// stop ends the process in order, and returns the error with which its lane ended.
func (p *process) stop() error {
	p.cancel()
	err := <-p.done
	close(p.killed)
	p.w.disks[p.relay].close(p)
	return err
}

// ended returns whether the lane has ended by itself, and why.
func (p *process) ended() (error, bool) { //nolint:revive // the error is the news
	select {
	case err := <-p.done:
		p.done <- err
		return err, true
	default:
		return nil, false
	}
}
