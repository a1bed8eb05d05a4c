package pipeline

import (
	"sync"
	"sync/atomic"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/internal/printable"
	"workos-relay/sink"
	"workos-relay/source"
)

// State is what a lane is doing.
type State string

// The states of a lane.
const (
	Starting State = "starting" // has not acquired its position yet
	Running  State = "running"
	Standby  State = "standby"  // another holder is at work; this one takes over when that falls silent
	Retrying State = "retrying" // the Events API, the bus or the store fails; nothing is lost, nothing moves
	Paused   State = "paused"   // by hand: it reads nothing and takes nothing over, and keeps what it holds
	Stopped  State = "stopped"
)

// States returns every State.
func States() []State { return []State{Starting, Running, Standby, Retrying, Paused, Stopped} }

// Status is a snapshot of a lane.
type Status struct {
	Lane       string
	Type       string // as Lane.Type
	Holder     string // as Lane.Holder: this process, as Checkpoint.Holder names it if it holds the position
	State      State
	Since      time.Time // of State
	Reason     string    // of Retrying and Stopped: the last error; of Standby and Paused: who is active, if another is
	Failing    string    // of Retrying: what fails, one of Activities
	Failures   int       // of Retrying: how often it has failed since Since
	Action     string    // of Retrying and Stopped: what an operator has to do about Reason; empty if nothing
	Checkpoint checkpoint.Checkpoint
	Read       checkpoint.Position // how far it has read ahead
	LastPoll   time.Time           // last good answer of the API, by the local clock
	TipAt      time.Time           // when everything there was had been committed, by the local clock; zero if never
	AtTip      bool                // the last committed page was the last there was
	SourceNow  time.Time           // the API's clock at LastPoll
	Unacked    time.Time           // since when the oldest event that is read and not committed waits; zero if none does
	UnackedAt  time.Time           // that event's created_at; of a lane that was paused at the tip, the API's clock then
	// Waiting is since when, by the local clock, events wait while the committed position does not
	// move, under any holder of the lease. It is zero if no event is known to wait. A takeover and
	// a restart of the lane do not change it. A restart of the process resets it, unless another
	// holder has recorded it.
	Waiting time.Time
	// MovedAt is when, by the local clock, the committed position was last seen to move; zero if
	// never.
	MovedAt    time.Time
	Events     uint64         // committed by this process
	Prefetched int            // bytes of responses that are read and not committed; at most Lane.Prefetch and a page
	At         time.Time      // of the snapshot, by the local clock
	Rate       float64        // events committed a second, over the last minute
	Settings   []sink.Setting // of the destination: what differs from the configuration, or did; the Lane itself leaves it empty
	// SnapshotRequested is set while a snapshot that an operator has asked for has not begun. The
	// Lane itself leaves it false.
	SnapshotRequested bool
	// Unread are the entities whose state topics may lack objects that no event has told of. The
	// Lane itself leaves it empty.
	Unread []UnreadEntity
}

// UnreadEntity is an entity that no snapshot has read as a whole.
type UnreadEntity struct {
	Entity string
	Reason string // why WorkOS refuses a list of it; empty if no snapshot was to read it
}

// Lag returns how far the lane is behind the clock of the API, which advances between two answers:
// the age of the oldest event that is read and not committed, else of the committed position. It is
// zero if the lane is at the tip, or if nothing is known.
func (s *Status) Lag() time.Duration {
	oldest := s.UnackedAt
	if oldest.IsZero() {
		oldest = s.Checkpoint.CreatedAt
	}
	if s.AtTip || s.SourceNow.IsZero() || oldest.IsZero() {
		return 0
	}
	return max(0, s.SourceNow.Add(max(0, s.At.Sub(s.LastPoll))).Sub(oldest))
}

// LagKnown reports whether Lag tells how far the lane is behind. It is not known before the first
// answer of the API, while the lane stands by or once it has stopped, and of a lane that was at the
// tip while the API does not answer.
func (s *Status) LagKnown() bool {
	blind := s.AtTip && s.State == Retrying && s.Failing == Reading
	return !s.SourceNow.IsZero() && s.State != Stopped && !blind
}

type unreadPage struct{ came, createdAt time.Time }

// tracker collects the status of a lane.
type tracker struct {
	mu       sync.Mutex
	s        Status
	everHeld bool
	idle     bool         // paused, and nothing is under way
	refused  bool         // the last batch was refused
	held     atomic.Int64 // Status.Prefetched
	rate     rate
	unread   []unreadPage // pages that are read and not delivered; the oldest first
	reading  readFailure  // of the request to the API that is repeated
}

// readFailure is a request to the API that has failed and is repeated.
type readFailure struct {
	text, action string    // as Lane.Explain tells them
	since        time.Time // zero if the last request succeeded
	count        int       // of failures since then
	lasts        bool      // it is a state of the lane
}

func (f *readFailure) fails() bool { return f.lasts }

const (
	// A failed request becomes a state of the lane if it has failed this often, or is repeated only
	// after this time.
	failingAttempts = 2
	failingWait     = 10 * time.Second
)

func (t *tracker) readRetrying(failure readFailure, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	failure.lasts = t.reading.lasts || failure.count >= failingAttempts || wait >= failingWait
	failure.count = max(failure.count, t.reading.count+1)
	failure.since = t.reading.since
	if failure.since.IsZero() {
		failure.since = time.Now()
	}
	t.reading = failure
}

func (t *tracker) snapshot() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.s
	if s.State == "" {
		s.State = Starting
	}
	if r := t.reading; r.fails() && (s.State == Running || s.State == Starting) {
		s.State, s.Since = Retrying, r.since
		s.Reason, s.Action = Reading+": "+r.text, r.action
		s.Failing, s.Failures = Reading, r.count
	}
	s.Prefetched = int(t.held.Load())
	s.Rate = t.rate.perSecond(time.Now())
	if len(t.unread) > 0 {
		s.Unacked, s.UnackedAt = t.unread[0].came, t.unread[0].createdAt
	}
	return s
}

// set changes the state. An idle paused lane stays paused.
func (t *tracker) set(state State, reason string) {
	if t.idle && state != Stopped {
		state = Paused
	}
	if t.s.State != state {
		t.s.State, t.s.Since = state, time.Now()
		t.s.Failing, t.s.Failures = "", 0
	}
	t.s.Reason, t.s.Action = reason, ""
}

func (t *tracker) acquired() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.everHeld
}

// fails reports whether something fails besides a request to the API.
func (t *tracker) fails() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.s.State == Retrying
}

// holds records that the lane has acquired its lease.
func (t *tracker) holds() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.everHeld = true
}

// at records the committed checkpoint. If its position has changed, no event is known to wait for
// it. The caller holds t.mu.
func (t *tracker) at(cp checkpoint.Checkpoint) {
	switch {
	case t.s.Checkpoint.Revision == 0:
	case !cp.Equal(t.s.Checkpoint.Position):
		t.s.Waiting, t.s.MovedAt = time.Time{}, time.Now()
	}
	if waited := time.Duration(min(cp.WaitedSeconds, maxWaited)) * time.Second; waited > 0 && cp.Revision != t.s.Checkpoint.Revision {
		if since := time.Now().Add(-waited); t.s.Waiting.IsZero() || since.Before(t.s.Waiting) {
			t.s.Waiting = since
		}
	}
	t.s.Checkpoint = cp
}

// maxWaited bounds Checkpoint.WaitedSeconds as it is read: a hundred years.
const maxWaited = 100 * 365 * 24 * 3600

// waited returns for how many seconds events have waited while the position did not move; 0 if none
// waits.
func (t *tracker) waited() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.s.Waiting.IsZero() {
		return 0
	}
	return uint64(max(time.Since(t.s.Waiting)/time.Second, 1))
}

// waits records that an event waits to be committed. The caller holds t.mu.
func (t *tracker) waits() {
	if t.s.Waiting.IsZero() {
		t.s.Waiting = time.Now()
	}
}

// claimed records that the lane holds the lease and starts to read from its position.
func (t *tracker) claimed(cp checkpoint.Checkpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at(cp)
	t.rate.start(time.Now())
	t.idle, t.refused, t.s.UnackedAt = false, false, time.Time{}
	t.s.Read, t.unread = cp.Position, nil
	t.reading = readFailure{}
	t.set(Running, "")
}

// setIdle records whether the lane is idle because it is paused.
func (t *tracker) setIdle(paused bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.idle = paused; paused {
		t.set(Paused, t.s.Reason)
	}
}

// pauses records that the lane is paused and holds the lease, with the position at cp.
func (t *tracker) pauses(cp checkpoint.Checkpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.idle = true
	t.at(cp)
	t.s.Read, t.unread = cp.Position, nil
	if t.s.AtTip { // events that have come since then wait
		t.s.AtTip, t.s.UnackedAt = false, t.s.SourceNow
	}
	t.set(Paused, "")
}

// standsBy records that another holder has the lease, with the position at cp.
func (t *tracker) standsBy(cp checkpoint.Checkpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cp.Revision != t.s.Checkpoint.Revision && cp.WaitedSeconds == 0 {
		t.s.Waiting = time.Time{} // the holder knows best
	}
	t.at(cp)
	t.unread = nil
	t.s.SourceNow, t.s.AtTip = time.Time{}, false // it does not read
	holder := printable.Text(cp.Holder)
	reason := "holder " + holder + " is active"
	if cp.Released {
		reason = "holder " + holder + " has stopped, and this one is paused"
	}
	t.set(Standby, reason)
}

// polled records an answer of the API.
func (t *tracker) polled(p *source.Page, at time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.s.LastPoll, t.s.SourceNow = at, p.Now
	t.reading = readFailure{}
	if n := len(p.Events); n > 0 && p.Late == "" {
		t.s.Read = p.Events[n-1].Position()
		t.s.AtTip = false
		t.waits()
		t.unread = append(t.unread, unreadPage{came: at, createdAt: p.Events[0].CreatedAt})
	}
}

// committedSoFar returns how many events this process has committed.
func (t *tracker) committedSoFar() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.s.Events
}

// reloaded records the checkpoint that was found after a failure. The state does not change, since
// the failure is not over.
func (t *tracker) reloaded(cp checkpoint.Checkpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at(cp)
}

// renewed records that the lease was renewed. If the bus still refuses events, the lane stays
// Retrying.
func (t *tracker) renewed(cp checkpoint.Checkpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at(cp)
	if !t.refused {
		t.set(Running, "")
	}
}

// snapshotted records that the checkpoint is cp, after a part of a snapshot.
func (t *tracker) snapshotted(cp checkpoint.Checkpoint) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at(cp)
	t.refused, t.reading = false, readFailure{}
	t.set(Running, "")
}

// unreached records when the bus answered last, after retrying: it has failed since then.
func (t *tracker) unreached(since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.s.State == Retrying && t.s.Failing == Reaching && since.Before(t.s.Since) {
		t.s.Since = since
	}
}

// reached records that the bus answers.
func (t *tracker) reached() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.s.State == Retrying && t.s.Failing == Reaching {
		t.set(Running, "")
	}
}

// committed records that the checkpoint is cp, and how many more events are durable.
func (t *tracker) committed(cp checkpoint.Checkpoint, events int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at(cp)
	if len(t.unread) > 0 { // of these, or of later pages; see delivered
		t.waits()
	}
	t.s.Events += uint64(events) //nolint:gosec // a count
	t.rate.add(time.Now(), events)
	t.refused = false
	t.set(Running, "")
}

// delivered records that all of these pages are committed, and reports whether the lane is at the
// tip.
func (t *tracker) delivered(pages []source.Page) (atTip bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for i := range pages {
		if len(pages[i].Events) > 0 && pages[i].Late == "" {
			n++
		}
	}
	t.unread = t.unread[min(n, len(t.unread)):]
	tip := len(pages) > 0 && pages[len(pages)-1].Tip
	if len(t.unread) == 0 && (n > 0 || tip) {
		t.s.Waiting = time.Time{}
	}
	if tip && len(t.unread) == 0 {
		t.s.AtTip, t.s.TipAt = true, time.Now()
	}
	return t.s.AtTip
}

// position returns the checkpoint that is known to be committed.
func (t *tracker) position() checkpoint.Checkpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.s.Checkpoint
}

func (t *tracker) retrying(doing, why, action string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set(Retrying, doing+": "+why)
	t.s.Action = action
	if t.s.State == Retrying {
		t.s.Failing, t.s.Failures = doing, t.s.Failures+1
	}
	t.refused = t.refused || doing == Publishing
}

// stop records that the lane has stopped, and why; reason is empty if it stopped in order.
func (t *tracker) stop(reason, action string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set(Stopped, reason)
	t.s.Action = action
}

// rateSeconds is the time that Status.Rate covers.
const rateSeconds = 60

// rate counts events per second over the last rateSeconds.
type rate struct {
	started time.Time
	counts  [rateSeconds]int
	of      [rateSeconds]int64 // which second of the process's clock each count is of
}

// start sets when counting began. Only the first call has an effect.
func (r *rate) start(now time.Time) {
	if r.started.IsZero() {
		r.started = now
	}
}

func (r *rate) add(now time.Time, n int) {
	r.start(now)
	second := r.second(now)
	i := second % rateSeconds
	if r.of[i] != second {
		r.of[i], r.counts[i] = second, 0
	}
	r.counts[i] += n
}

// perSecond returns the mean over the last rateSeconds, or over the time since start if that is
// shorter.
func (r *rate) perSecond(now time.Time) float64 {
	if r.started.IsZero() {
		return 0
	}
	sum, second := 0, r.second(now)
	for i, n := range r.counts {
		if second-r.of[i] < rateSeconds {
			sum += n
		}
	}
	over := min(max(now.Sub(r.started), time.Second), rateSeconds*time.Second)
	return float64(sum) / over.Seconds()
}

// second returns the seconds since start by the monotonic clock, so that setting the clock has no
// effect.
func (r *rate) second(now time.Time) int64 { return int64(now.Sub(r.started) / time.Second) }
