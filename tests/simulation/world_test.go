//go:build unix

package simulation

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/pipeline"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source/sourcetest"
)

var buses = []string{"jetstream", "kafka"}

// types are the event types of the world, sorted. Each is a topic.
var types = []string{"dsync.user.created", "organization.updated", "session.created", "user.created", "user.updated"}

var topics = types

var identity = checkpoint.Identity{Relay: "simulated", Lane: "lane", Endpoint: "http://api.invalid"}

func identityOn(destination string) checkpoint.Identity {
	id := identity
	id.Destination = destination
	return id
}

// bus is a simulated bus. The lock of the world guards it.
type bus interface {
	binding() router.Binding
	// open returns the bus as a process sees it, which asks it through call.
	open(p *process) (sink.Sink, sink.Ledger)
	restart()
	purge() // takes the position away
	// read shows what a consumer sees, partition by partition.
	read(see func(partition string, place uint64, m *sink.Message))
	// positions shows every position that was ever current.
	positions(see func(place uint64, document []byte))
	samePlaces() bool // places of positions and of events are of one count
}

// plan is what a seed decides before anything happens.
type plan struct {
	bus       string
	mode      checkpoint.Mode
	takeover  time.Duration
	relays    int
	backlog   int // events before relay starts
	faulty    time.Duration
	limit     int
	batch     int
	readers   int
	memory    int64
	weather   weather // while it is bad
	stormy    bool    // it is bad all the time, until the faults end
	apiStormy bool    // so is that of the API
	api       apiWeather
	skew      time.Duration // of the clock of the API
	holdBack  time.Duration
	// holes are messages that a stream loses from the middle of what is published at least once, in
	// an election. Relays are not restarted then: a new process does not know that what it finds
	// stored behind the position stands before it.
	holes bool
	// refuses has the API refuse an event type for a while. Its events come late, so that order
	// holds within a type only.
	refuses bool
	// purge takes the position away in the end. Every relay must stop and ask.
	purge       bool
	transaction int           // most messages of one transaction of Kafka; 0 for no limit
	stepBack    time.Duration // how much older an event may be than the one before it
}

// counts is what happened.
type counts struct {
	seeds, events, commits, requests, takeovers, kills, pauses, restarts, stops int
	lost, unanswered, late, twice, apiFaults, diskFaults, copies, refusals      int
}

func (c *counts) add(o counts) {
	c.seeds += o.seeds
	c.events += o.events
	c.commits += o.commits
	c.requests += o.requests
	c.takeovers += o.takeovers
	c.kills += o.kills
	c.pauses += o.pauses
	c.restarts += o.restarts
	c.stops += o.stops
	c.lost += o.lost
	c.unanswered += o.unanswered
	c.late += o.late
	c.twice += o.twice
	c.apiFaults += o.apiFaults
	c.diskFaults += o.diskFaults
	c.copies += o.copies
	c.refusals += o.refusals
}

func (c *counts) String() string {
	return fmt.Sprintf("%d seeds, %d events, %d commits, %d requests to the API; %d takeovers, %d kills, %d pauses, %d orderly stops, %d restarts of the bus; "+
		"%d lost requests, %d lost answers, %d late and %d repeated requests, %d faults of the API, %d refused event types, %d faults of the disk; %d copies in at_least_once",
		c.seeds, c.events, c.commits, c.requests, c.takeovers, c.kills, c.pauses, c.stops, c.restarts,
		c.lost, c.unanswered, c.late, c.twice, c.apiFaults, c.refusals, c.diskFaults, c.copies)
}

// world is one run: relays, the API, a bus, and what happens to them. Everything that it decides
// follows from its seed.
type world struct {
	seed     uint64
	plan     plan
	mutation *mutation
	rnd      *rand.Rand // of the schedule; only the goroutine of run uses it
	api      *sourcetest.Server
	asking   sync.Mutex // the API answers one request at a time
	began    time.Time
	tracing  bool
	judged   bool          // what happens on the bus is what relays do
	patience time.Duration // least time for which what nothing went wrong with is waited for

	relays  []*process
	lives   []int
	disks   []*disk
	broken  []bool // a fault of this relay is under way; only the goroutine of run uses it
	mending map[string]mend
	refused bool // a type was, once; only the goroutine of run uses it

	mu         sync.Mutex // guards what follows
	bus        bus
	judge      *judge
	busDown    bool
	weather    weather
	apiWeather apiWeather
	quiet      bool // nothing is wrong, and has not been for a while
	events     []string
	kind       []string       // of each event
	place      map[string]int // in events
	raw        map[string][]byte
	count      counts
	trace      []step
}

// step is one thing that has happened.
type step struct {
	at   time.Duration // since the world began
	what string
}

func (s step) String() string { return fmt.Sprintf("%14.9f %s", s.at.Seconds(), s.what) }

// mend ends a fault.
type mend struct {
	at time.Time
	do func()
}

func newWorld(seed uint64, m *mutation, tracing bool) *world {
	w := &world{
		seed: seed, mutation: m, rnd: rand.New(rand.NewPCG(seed, 1)), began: time.Now(), tracing: tracing,
		mending: map[string]mend{}, place: map[string]int{}, raw: map[string][]byte{}, weather: fair, apiWeather: fairAPI,
	}
	w.plan = w.draw()
	if m != nil && m.plan != nil {
		m.plan(&w.plan)
	}
	w.judge, w.judged = &judge{w: w}, true
	if w.plan.bus == "kafka" {
		w.bus = newKafka(w)
	} else {
		w.bus = newJetStream(w)
	}
	w.api = sourcetest.New(sourcetest.WithLedger(0), sourcetest.WithHoldBack(w.plan.holdBack),
		sourcetest.WithClock(func() time.Time { return time.Now().Add(w.plan.skew) }))
	for range w.plan.relays {
		w.lives = append(w.lives, 0)
		w.broken = append(w.broken, false)
		w.disks = append(w.disks, &disk{w: w, digits: fmt.Sprintf("%012x", mix(seed*7+uint64(len(w.disks)))>>16)})
	}
	return w
}

// within returns how long something that takes most may take in this world.
func (w *world) within(most time.Duration) time.Duration { return max(most, w.patience) }

// upTo returns a duration from 1 ms to most, to the nanosecond, so that no two things happen at
// one time.
func (w *world) upTo(most time.Duration) time.Duration {
	return time.Millisecond + time.Duration(w.rnd.Int64N(int64(most)))
}

func (w *world) chance(p float64) bool { return w.rnd.Float64() < p }

// share is 0 as often as not, so that each kind of fault is missing in many seeds.
func (w *world) share(most float64) float64 {
	if w.chance(0.5) {
		return 0
	}
	return most * w.rnd.Float64()
}

// draw makes the plan of a seed.
func (w *world) draw() plan {
	p := plan{
		mode: pipeline.Auto, takeover: 3*time.Second + w.upTo(15*time.Second), relays: 2,
		backlog: w.rnd.IntN(60), faulty: 30*time.Second + w.upTo(90*time.Second), limit: 5 + w.rnd.IntN(30), batch: 5 + w.rnd.IntN(40), readers: 1,
		weather: weather{
			lost: w.share(0.2), unanswered: w.share(0.2), late: w.share(0.1), twice: w.share(0.1), broken: w.share(0.1),
			slow: 5*time.Millisecond + w.upTo(500*time.Millisecond), lateBy: longest,
		},
		api: apiWeather{
			hang: w.share(0.05), reset: w.share(0.1), fails: w.share(0.1), throttles: w.share(0.1), cut: w.share(0.1), stalls: w.share(0.05),
			repeats: w.share(0.1), slow: 5*time.Millisecond + w.upTo(500*time.Millisecond),
		},
	}
	switch w.rnd.IntN(4) {
	case 0:
		p.holdBack = w.upTo(5 * time.Second)
	case 1:
		p.stepBack = w.upTo(1900 * time.Millisecond) // more would look like a list that descends
	}
	p.bus = buses[w.rnd.IntN(len(buses))]
	if w.chance(0.3) {
		p.mode, p.relays = checkpoint.AtLeastOnce, 1
	}
	if w.chance(0.2) {
		p.readers, p.memory, p.limit, p.backlog = 2+w.rnd.IntN(5), 64<<10, 5+w.rnd.IntN(10), 150+w.rnd.IntN(250)
	}
	if w.chance(0.3) {
		p.transaction = 1 + w.rnd.IntN(10)
	}
	p.stormy, p.holes, p.purge = w.chance(0.2), w.chance(0.2), w.chance(0.05)
	if p.refuses = w.chance(0.15) && *refusalsFlag; p.refuses {
		p.purge, p.holes = false, false
	}
	if p.mode == checkpoint.AtLeastOnce {
		p.purge = false
	} else {
		p.holes = false
	}
	if w.chance(0.3) {
		p.skew = w.upTo(2*time.Hour) - time.Hour
	}
	return p
}

func (w *world) mutated(name string) bool { return w.mutation != nil && w.mutation.name == name }

func (w *world) add(n *int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*n++
}

func (w *world) note(format string, args ...any) {
	if !w.tracing {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noteLocked(format, args...)
}

func (w *world) noteLocked(format string, args ...any) {
	if w.tracing {
		w.trace = append(w.trace, step{time.Since(w.began), fmt.Sprintf(format, args...)})
	}
}

// What becomes of a commit to a directory.
const (
	succeeds = iota
	failsBefore
	failsAfter
)

func (w *world) diskFails(p *process) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p.fates.Float64() >= w.weather.lost/2 {
		return succeeds
	}
	w.count.diskFaults++
	return failsBefore + p.fates.IntN(2)
}

// sends judges what a process publishes at least once.
func (w *world) sends(batch []sink.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n, known := w.place[idOf(&batch[0])]; known && n < w.judge.reached && !w.plan.refuses {
		w.judge.fault("P7", "%s is published again, although the position has passed it", w.events[n])
	}
}

func (w *world) committedToDisk(p *process, cp checkpoint.Checkpoint) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noteLocked("%s has saved %s", p.name, cp.Position)
	w.judge.saved(cp)
}

// verdict is what came of a run.
type verdict struct {
	seed  uint64
	wrong []string
	count counts
	trace []step
}

// simulate runs a seed.
func simulate(t *testing.T, seed uint64, m *mutation, tracing bool) (v verdict) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		w := newWorld(seed, m, tracing)
		w.run()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.count.seeds, w.count.events = 1, len(w.events)
		// What goroutines do at one instant does not depend on each other, and has no order.
		slices.SortStableFunc(w.trace, func(a, b step) int { return cmp.Or(cmp.Compare(a.at, b.at), strings.Compare(a.what, b.what)) })
		v = verdict{seed, w.judge.wrong, w.count, w.trace}
	})
	return v
}

// run lets the faults loose, ends them, and waits until everything has arrived.
func (w *world) run() {
	start := w.began.Add(-2 * time.Hour).Add(w.plan.skew)
	w.appendEvents(w.plan.backlog, func(i int) time.Time { return start.Add(time.Duration(i) * 7 * time.Second) })
	time.Sleep(w.upTo(time.Second))
	for i := range w.plan.relays {
		w.relays = append(w.relays, w.startProcess(i))
		time.Sleep(w.upTo(3 * time.Second))
	}
	if w.plan.stormy {
		w.storm()
	}
	if w.plan.apiStormy {
		w.apiStorm()
	}
	for end := time.Now().Add(w.plan.faulty); time.Now().Before(end) && !w.lost(); {
		w.schedule()
	}
	w.mendAll()
	if w.plan.purge {
		time.Sleep(3 * time.Minute) // a request of the first start that is still under way would be one again
		w.purge()
		return
	}
	w.finish()
}

// purge takes the position away, and requires that every relay stops and asks, and that nothing is
// stored any more.
func (w *world) purge() {
	w.set(func() {
		w.noteLocked("the position is gone")
		w.bus.purge()
		w.judge.purged = true
	})
	w.live()
	time.Sleep(3*w.plan.takeover + 90*time.Second)
	for _, p := range w.relays {
		if err, ended := p.ended(); !ended || !errors.Is(err, checkpoint.ErrLost) {
			w.wrong("P3", "%s is %s (%v), although the position is gone", p.name, p.lane.Status().State, err)
		}
		_ = p.stop()
	}
	time.Sleep(2 * time.Minute)
}

// lost reports whether something is wrong already.
func (w *world) lost() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.judge.wrong) > 0
}

// live appends a few events that happen now.
func (w *world) live() {
	now := time.Now().Add(w.plan.skew)
	back := time.Duration(0)
	if w.plan.stepBack > 0 {
		back = w.upTo(w.plan.stepBack)
	}
	w.appendEvents(1+w.rnd.IntN(20), func(int) time.Time { return now.Add(-back) })
}

// schedule does one thing and lets some time pass.
func (w *world) schedule() {
	switch w.rnd.IntN(12) {
	case 0, 1, 2, 3:
		w.live()
	case 4:
		if !w.plan.holes {
			w.killRelay()
		}
	case 5, 6:
		w.pauseRelay()
	case 7:
		w.restartBus()
	case 8:
		w.storm()
	case 9:
		w.apiStorm()
	case 11:
		w.refuseType()
	case 10:
		if !w.plan.holes {
			w.stopRelay()
		}
	}
	w.pass(w.upTo(8 * time.Second))
}

// breaks has do end a fault after d.
func (w *world) breaks(what string, d time.Duration, do func()) {
	w.mending[what] = mend{time.Now().Add(d), do}
}

func (w *world) isBroken(what string) bool {
	_, broken := w.mending[what]
	return broken
}

func (w *world) mendNow(what string) {
	if m, broken := w.mending[what]; broken {
		delete(w.mending, what)
		m.do()
	}
}

// faults are what can be broken, in an order.
var faults = []string{"relay0", "relay1", "bus", "weather", "api", "types"}

func (w *world) mendAll() {
	for _, what := range faults {
		w.mendNow(what)
		time.Sleep(w.upTo(10 * time.Millisecond))
	}
}

// pass lets time pass, and mends what is due.
func (w *world) pass(d time.Duration) {
	for end := time.Now().Add(d); ; {
		next, due := end, ""
		for _, what := range faults {
			if m, broken := w.mending[what]; broken && m.at.Before(next) {
				next, due = m.at, what
			}
		}
		time.Sleep(time.Until(next))
		if due == "" {
			return
		}
		w.mendNow(due)
	}
}

// choose returns a relay of which no fault is under way.
func (w *world) choose() (int, string, bool) {
	i := w.rnd.IntN(len(w.relays))
	what := fmt.Sprintf("relay%d", i)
	return i, what, !w.isBroken(what)
}

func (w *world) killRelay() {
	if i, what, ok := w.choose(); ok {
		down := w.upTo(2 * w.plan.takeover)
		w.note("kill %s for %v", w.relays[i].name, down)
		w.relays[i].kill()
		w.add(&w.count.kills)
		w.breaks(what, down, func() { w.relays[i] = w.startProcess(i) })
	}
}

func (w *world) stopRelay() {
	if i, what, ok := w.choose(); ok {
		down := w.upTo(w.plan.takeover)
		w.note("stop %s for %v", w.relays[i].name, down)
		w.requireAlive(i)
		if err := w.relays[i].stop(); err != nil {
			w.wrong("progress", "%s ends with %v", w.relays[i].name, err)
		}
		w.add(&w.count.stops)
		w.breaks(what, down, func() { w.relays[i] = w.startProcess(i) })
	}
}

// pauseRelay stops a relay for so long that the other one takes over, or for less.
func (w *world) pauseRelay() {
	if i, what, ok := w.choose(); ok {
		down := w.upTo(3 * w.plan.takeover)
		w.note("pause %s for %v", w.relays[i].name, down)
		w.relays[i].pause()
		w.add(&w.count.pauses)
		w.breaks(what, down, func() { w.relays[i].resume() })
	}
}

func (w *world) restartBus() {
	if w.isBroken("bus") {
		return
	}
	down := w.upTo(10 * time.Second)
	w.note("the bus is down for %v", down)
	w.mu.Lock()
	w.busDown = true
	w.bus.restart()
	w.count.restarts++
	w.mu.Unlock()
	w.breaks("bus", down, func() { w.set(func() { w.busDown = false }) })
}

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *world) storm() {
	if w.isBroken("weather") {
		return
	}
	lasts := w.upTo(30 * time.Second)
	w.note("bad weather for %v", lasts)
	w.set(func() { w.weather = w.plan.weather })
	if w.plan.stormy {
		lasts = time.Hour
	}
	w.breaks("weather", lasts, func() { w.set(func() { w.weather = fair }) })
}

func (w *world) apiStorm() {
	if w.isBroken("api") {
		return
	}
	lasts := w.upTo(20 * time.Second)
	if w.plan.apiStormy {
		lasts = time.Hour
	}
	w.note("bad weather at the API for %v", lasts)
	w.set(func() { w.apiWeather = w.plan.api })
	w.breaks("api", lasts, func() { w.set(func() { w.apiWeather = fairAPI }) })
}

// refuseType has the API refuse an event type, once in a run.
func (w *world) refuseType() {
	if !w.plan.refuses || w.refused {
		return
	}
	w.refused = true
	w.add(&w.count.refusals)
	kind, lasts := types[w.rnd.IntN(len(types))], w.upTo(90*time.Second)
	w.note("the API refuses %s for %v", kind, lasts)
	w.api.RefuseTypes(kind)
	w.breaks("types", lasts, func() { w.api.AcceptTypes(kind) })
}

func (w *world) wrong(promise, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judge.fault(promise, format, args...)
}

func (w *world) requireAlive(i int) {
	if err, ended := w.relays[i].ended(); ended {
		w.wrong("progress", "%s has ended by itself: %v", w.relays[i].name, err)
	}
}

// arrived reports whether the position has passed every event.
func (w *world) arrived() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.judge.exists && (len(w.events) == 0 || w.judge.index(w.judge.now.Position) == len(w.events)) && len(w.judge.now.Refused) == 0
}

// finish waits until everything has arrived, then for a while in which nothing may happen, and
// judges what came of it.
func (w *world) finish() {
	w.live()
	bound := 3*w.plan.takeover + 90*time.Second // the longest pauses between two attempts, of the source and of the lane, and a takeover
	if w.plan.refuses {
		bound += 6 * time.Minute // a type that was refused is asked for again after 1, 2 and 4 minutes
	}
	calm := time.Now()
	for !w.arrived() && time.Since(calm) < bound && !w.lost() {
		time.Sleep(w.upTo(time.Second))
	}
	w.note("arrived %v after the faults", time.Since(calm))
	if !w.arrived() {
		w.wrong("progress", "not everything has arrived %v after the last fault; %s", bound, w.describe())
	}
	for i := range w.relays {
		w.requireAlive(i)
	}
	if !w.lost() {
		time.Sleep(bound - time.Since(calm)) // what is late has arrived by then, and all but one stand by
		w.set(func() { w.quiet = true })
		time.Sleep(2 * w.plan.takeover)
		w.requireOneRuns()
		w.set(func() { w.quiet = false })
	}
	for _, p := range w.relays {
		if err := p.stop(); err != nil {
			w.wrong("progress", "%s ends with %v", p.name, err)
		}
	}
	time.Sleep(2 * time.Minute) // what is under way arrives
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judge.finish()
}

// requireOneRuns requires that one relay is running and the others stand by.
func (w *world) requireOneRuns() {
	running := 0
	for _, p := range w.relays {
		switch s := p.lane.Status(); s.State {
		case pipeline.Running:
			running++
		case pipeline.Standby:
		default:
			w.wrong("progress", "%s is %s: %s", p.name, s.State, s.Reason)
		}
	}
	if running != 1 {
		w.wrong("P6", "%d relays are running; %s", running, w.describe())
	}
}

func (w *world) describe() string {
	var all []string
	for _, p := range w.relays {
		s := p.lane.Status()
		all = append(all, fmt.Sprintf("%s is %s at %s: %s", p.name, s.State, s.Checkpoint.Position, s.Reason))
	}
	return strings.Join(all, "; ")
}
