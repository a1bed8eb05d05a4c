package app

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/internal/contain"
	"workos-relay/internal/republish"
	"workos-relay/internal/retry"
	"workos-relay/internal/snapshot"
	"workos-relay/internal/telemetry"
	"workos-relay/internal/verify"
	"workos-relay/pipeline"
	"workos-relay/sink"
	"workos-relay/source"
)

// The times of a verification.
const (
	// verifyFirst is how long after a start the first run comes, if verify.every is not shorter.
	verifyFirst = time.Hour
	// verifyOverlap is how much of what a run has compared the next one compares again.
	verifyOverlap = time.Hour
	// verifyRetry is how long after a run that was not finished the next attempt comes.
	verifyRetry = 30 * time.Minute
	// verifyCursor is how old the event at which the lane took up its work may be so that a run
	// begins at it. Later it begins by time, since WorkOS forgets events.
	verifyCursor = 14 * 24 * time.Hour
	// verifyKeep is how long runs begin at the first event that was missing, so that a loss is
	// reported until it is mended.
	verifyKeep = 7 * 24 * time.Hour
	// verifyDisorder is by how much an event may be older than one before it in the source.
	verifyDisorder = time.Minute
	// verifyLasts is how long a difference of the state must last to count.
	verifyLasts = 20 * time.Second
	// verifyTick is how often a verifier looks whether something is due, or must end.
	verifyTick = time.Second
	// verifyExamples is how many faults of each kind the log names.
	verifyExamples = 3
)

// verifyLooks are the waits before a range in which faults were found is compared again. Only what
// the last comparison finds counts: an election, a transaction of another producer that is open, or
// a replica that lags behind may hide messages for that long.
var verifyLooks = []time.Duration{time.Minute, 15 * time.Minute}

// testHour is how long an hour of these times and of verify.every lasts, as time.ParseDuration
// takes it. Tests set it, by the linker.
var testHour string

// scaled is d, or in tests what d lasts there.
func scaled(d time.Duration) time.Duration {
	hour, err := time.ParseDuration(testHour)
	if err != nil {
		return d
	}
	return time.Duration(float64(d) * float64(hour) / float64(time.Hour))
}

const (
	// verifyShare is the part of source.rate_limit that a verification may take.
	verifyShare = 10
	// verifyMessages and verifyBytes bound what it reads from the bus in a second.
	verifyMessages = 5000
	verifyBytes    = 8 << 20
	// verifyBehind is how far behind a lane may be while it counts as current.
	verifyBehind = 10 * time.Second
)

// verifier compares, every verify.every, what a running lane has published with what WorkOS has. It
// changes nothing.
//
// A run compares only what this process has published since it took the lane up, with the routes
// that it has now, and without a move of the position by an operator in between. For everything
// else nothing tells which routes held, or what an operator skipped and repeated on purpose. What
// was known that far is a tenure.
type verifier struct {
	relay   *Relay
	member  *member
	metrics *telemetry.LaneMetrics
	log     *zap.Logger

	mu     sync.Mutex
	tenure tenure
	status admin.VerifyStatus
	cancel context.CancelCauseFunc // of the run under way; nil if there is none
}

// tenure is the time in which everything that the lane published is comparable.
type tenure struct {
	number int  // rises with each
	held   bool // the lane holds its lease, as far as is known
	// from is when it began. Unless it is the first start of the lane, events may come again until
	// the lane has caught up after that.
	from   time.Time
	begun  bool
	begin  checkpoint.Position // what follows it is comparable, once begun is set
	since  checkpoint.Position // where the next run begins, if it is not begin
	next   time.Time           // when the next run is due; zero if that is not known
	lost   time.Time           // when events were found missing that still are; zero if none are
	routes string              // identifies everything that decides on the messages of the lane
}

func newVerifier(r *Relay, m *member, metrics *telemetry.LaneMetrics) *verifier {
	v := &verifier{relay: r, member: m, metrics: metrics, log: m.lane.Log}
	v.tenure.routes = m.lane.fingerprint()
	return v
}

// acquired is told of each acquisition of the lease, before the lane reads anything: which
// checkpoint the lane has seen before, nil if it has not looked, and the one that it continues
// from.
func (v *verifier) acquired(seen *checkpoint.Checkpoint, now checkpoint.Checkpoint) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if seen != nil && v.tenure.held && seen.Holder == v.member.run.Holder {
		return // it goes on after a failure
	}
	v.beginAnew()
	v.tenure.held = true
	if seen != nil && seen.Generation == 0 { // nothing was published before
		v.begins(now.Position)
	}
}

// moved is told that an operator has moved the position.
func (v *verifier) moved() {
	v.mu.Lock()
	defer v.mu.Unlock()
	held := v.tenure.held
	v.beginAnew()
	v.tenure.held = held
}

// inherit takes over from the verifier of the lane that this one replaces, unless the messages of
// the two may differ.
func (v *verifier) inherit(old *verifier) {
	old.mu.Lock()
	tenure, status := old.tenure, old.status
	old.mu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	if tenure.routes != v.tenure.routes || !tenure.held {
		v.metrics.VerifyForget()
		return
	}
	status.Running, status.Waits = false, ""
	v.tenure, v.status = tenure, status
}

// beginAnew ends the tenure and forgets what was found in it. The caller holds v.mu.
func (v *verifier) beginAnew() {
	if v.cancel != nil {
		v.cancel(errTenure)
	}
	v.tenure = tenure{number: v.tenure.number + 1, from: time.Now(), routes: v.tenure.routes}
	v.status = admin.VerifyStatus{Running: v.status.Running}
	v.metrics.VerifyForget()
}

// begins begins the tenure at a position. The caller holds v.mu.
func (v *verifier) begins(at checkpoint.Position) {
	v.tenure.begun, v.tenure.begin = true, at
}

// errTenure ends a run whose range is not comparable any more.
var errTenure = errors.New("the position was moved, or another relay had the lane")

// pauseError ends a run that is to begin again when the lane does its work again.
type pauseError struct{ why string }

func (e *pauseError) Error() string { return e.why }

// every is verify.every, 0 if the lane does not verify itself.
func (v *verifier) every() time.Duration {
	if !v.member.lane.Sink.Kind.ReadsBack {
		return 0
	}
	return scaled(v.relay.config().Verify.Every)
}

// Status returns how the lane verifies itself, nil if it does not.
func (v *verifier) Status() *admin.VerifyStatus {
	if v.every() == 0 {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.status
	s.EverySeconds = v.relay.config().Verify.Every.Seconds()
	if next := v.tenure.next.UTC(); !v.tenure.next.IsZero() {
		s.NextAt = &next
	}
	return &s
}

// run verifies until ctx ends.
func (v *verifier) run(ctx context.Context) {
	for retry.Sleep(ctx, min(verifyTick, scaled(time.Hour))) == nil {
		if number, due := v.due(); due {
			v.once(ctx, number)
		}
	}
}

// stands is why a lane in this state carries nothing; empty if it does.
func stands(s *pipeline.Status) string {
	switch {
	case s.State == pipeline.Standby, s.Checkpoint.Revision > 0 && s.Checkpoint.Holder != s.Holder:
		return "another relay carries the lane"
	case s.State == pipeline.Paused:
		return "the lane is paused"
	case s.State == pipeline.Stopped:
		return "the lane has stopped"
	case s.State == pipeline.Starting || s.Checkpoint.Revision == 0:
		return "the lane has not begun"
	default:
		return ""
	}
}

// due reports whether a run is due, and in which tenure.
func (v *verifier) due() (number int, due bool) {
	every, s := v.every(), v.member.status()
	v.mu.Lock()
	defer v.mu.Unlock()
	t := &v.tenure
	if every == 0 {
		if t.next = (time.Time{}); v.status.Last != nil || v.status.Failed != "" {
			v.status = admin.VerifyStatus{}
			v.metrics.VerifyForget()
		}
		return 0, false
	}
	if t.held && s.State == pipeline.Standby {
		v.beginAnew()
	}
	v.status.Waits = ""
	switch why := stands(&s); {
	case !t.held:
		return 0, false
	case why != "":
		v.status.Waits = why
		return 0, false
	case !t.begun && !s.TipAt.After(t.from):
		v.status.Waits = "the lane has not caught up since it was started or moved"
		return 0, false
	case !t.begun:
		v.begins(s.Checkpoint.Position)
	}
	now := time.Now()
	if latest := now.Add(every + every/jitter); t.next.IsZero() || t.next.After(latest) { // or the interval became shorter
		t.next = now.Add(jittered(min(every, scaled(verifyFirst))))
		if v.status.Last != nil {
			t.next = now.Add(jittered(every))
		}
	}
	switch {
	case now.Before(t.next):
		return 0, false
	case s.State != pipeline.Running:
		v.status.Waits = v.relay.hide("the lane tries again: " + s.Reason)
		return 0, false
	case snapshotGoesOn(&s):
		v.status.Waits = "the lane publishes a snapshot"
		return 0, false
	case s.Checkpoint.EventID != "" && s.Checkpoint.CreatedAt.IsZero():
		v.status.Waits = waitsForTime
		return 0, false
	}
	return t.number, true
}

// waitsForTime says why nothing is compared while the position has no time.
const waitsForTime = "the position of the lane has no time, so that it is not known which events are due; the next event gives it one"

// jitter is by which part of a wait it is at most shorter or longer.
const jitter = 10

// jittered is d with a random part, so that relays that were started together do not all read at
// the same time.
func jittered(d time.Duration) time.Duration {
	return d + time.Duration((2*rand.Float64()-1)*float64(d)/jitter) //nolint:gosec // no secret
}

// snapshotGoesOn reports whether a lane reads a snapshot, or was asked for one.
func snapshotGoesOn(s *pipeline.Status) bool {
	return s.SnapshotRequested || s.Checkpoint.Snapshot != nil && !s.Checkpoint.Snapshot.Finished()
}

// once makes a run in a tenure and notes what came of it.
func (v *verifier) once(ctx context.Context, number int) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	v.mu.Lock()
	if v.tenure.number != number {
		v.mu.Unlock()
		return
	}
	v.cancel, v.status.Running = cancel, true
	v.mu.Unlock()
	var watching sync.WaitGroup
	watching.Go(func() { v.watch(ctx, cancel) })
	r := verifying{verifier: v, number: number, started: time.Now()}
	err := contain.Do(func() error { return r.all(ctx) })
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	cancel(nil)
	watching.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cancel, v.status.Running, v.status.Waits = nil, false, ""
	if v.tenure.number != number || errors.Is(err, errTenure) || errors.Is(err, context.Canceled) {
		return
	}
	if paused := (*pauseError)(nil); errors.As(err, &paused) {
		v.status.Waits = paused.why
		return
	}
	v.noted(&r, err)
}

// noted notes what a run has found, and why it was not finished; err is nil if it was. The caller
// holds v.mu.
func (v *verifier) noted(r *verifying, err error) {
	if r.compared.events || r.compared.state && r.outcome.State != nil {
		v.finished(r, err == nil)
	}
	if err != nil {
		v.failed(err)
	}
}

// failed notes that a run was not finished. The caller holds v.mu.
func (v *verifier) failed(err error) {
	now := time.Now().UTC()
	v.status.Failed, v.status.FailedAt = v.relay.hide(err.Error()), &now
	v.tenure.next = now.Add(jittered(min(v.every(), scaled(verifyRetry))))
	v.metrics.VerifyFailed()
	v.log.Warn("the verification of the lane was not finished; relay tries again",
		zap.String("because", v.status.Failed), zap.Time("next", v.tenure.next))
}

// finished notes the outcome of a run. If it is not complete, what it has not compared stays as it
// was known before. The caller holds v.mu.
func (v *verifier) finished(r *verifying, complete bool) {
	t := &v.tenure
	out := r.merged(v.status.Last)
	out.EndedAt = time.Now().UTC()
	out.DurationSeconds = out.EndedAt.Sub(r.started).Seconds()
	v.status.Last, v.status.Failed, v.status.FailedAt = &out, "", nil
	t.next = out.EndedAt.Add(jittered(v.every()))
	if r.compared.events {
		t.goOn(r, out.EndedAt)
	}
	v.metrics.Verified(&out, complete)
	v.tell(&out, r, complete)
}

// goOn sets where the next run begins, after one that has compared the events and ended at a time.
func (t *tenure) goOn(r *verifying, ended time.Time) {
	t.since = r.after(t.begin)
	switch first := r.missing; {
	case first.IsZero():
		t.lost = time.Time{}
	case t.lost.IsZero():
		t.lost = ended
	}
	if !t.lost.IsZero() && ended.Sub(t.lost) < verifyKeep {
		t.since = r.from(t.begin, r.missing.Add(-verifyDisorder)) // of another one
	}
}

// tell logs the outcome of a run.
func (v *verifier) tell(out *admin.Verified, r *verifying, complete bool) {
	fields := []zap.Field{
		zap.String("from", out.Since), zap.Time("until", out.Until), zap.Int("events", out.Events), zap.Duration("took", out.EndedAt.Sub(r.started)),
	}
	if out.Expired > 0 {
		fields = append(fields, zap.Int("no_longer_kept", out.Expired))
	}
	if out.State != nil {
		fields = append(fields, zap.Int("objects", out.State.Objects))
	}
	switch {
	case out.Faults > 0:
	case !complete: // failed tells
		return
	case out.Unknown:
		v.log.Warn("the verification of the lane says nothing of the events", append(fields, zap.String("because", out.Nothing()))...)
		return
	case out.Expired > 0:
		v.log.Info("verified: no fault in what the bus still keeps", fields...)
		return
	default:
		v.log.Info("verified: the bus holds what WorkOS has", fields...)
		return
	}
	fields = append(fields, zap.String("found", out.Found()), zap.Strings("for_example", r.examples), zap.Strings("see", out.Commands))
	v.log.Error("the verification of the lane found faults: the bus does not hold what WorkOS has", fields...)
}

// watch cancels a run once the lane does not do its work any more.
func (v *verifier) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	for retry.Sleep(ctx, min(verifyTick, scaled(time.Hour))) == nil {
		s := v.member.status()
		why := stands(&s)
		switch {
		case v.every() == 0:
			why = "verify.every was removed"
		case why == "" && snapshotGoesOn(&s):
			why = "the lane publishes a snapshot"
		}
		if why != "" {
			cancel(&pauseError{why})
		}
	}
}

// waits notes what the run waits for.
func (v *verifier) waits(why string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.status.Waits = why
}

// behind says which lane needs the requests to WorkOS for itself; empty if none does.
func (r *Relay) behind() string {
	for _, m := range r.now() {
		s := m.status()
		switch {
		case s.State != pipeline.Running:
		case s.LagKnown() && s.Lag() > verifyBehind:
			return "lane " + m.run.Name + " is behind"
		case snapshotGoesOn(&s):
			return "lane " + m.run.Name + " publishes a snapshot"
		}
	}
	return ""
}

// verifying is a run of a verifier.
type verifying struct {
	*verifier

	number  int // of the tenure
	started time.Time
	share   *rate.Limiter // of requests to WorkOS
	bytes   *rate.Limiter // of what is read from the bus
	count   *rate.Limiter // of messages that are read there

	lane     *Lane
	client   *source.Client
	bus      *Bus
	span     republish.Span
	compared struct{ events, state bool } // what was compared to the end
	missing  time.Time                    // created_at of the first event that is missing; zero if none is
	outcome  admin.Verified
	examples []string
}

// all compares the events and the state.
func (r *verifying) all(ctx context.Context) (err error) {
	r.waits("another lane verifies itself")
	if err := r.relay.verifying.enter(ctx); err != nil { // one lane at a time
		return err
	}
	r.waits("")
	defer r.relay.verifying.leave()
	// A separate lane: the routes of the running one count what they meet, and are used by one
	// goroutine.
	lanes, err := NewLanes(r.member.lane.Config, zap.NewNop())
	if err != nil {
		return err
	}
	l, err := ChooseLane(lanes, r.member.run.Name)
	if err != nil {
		return err
	}
	r.lane = l.FromOutside()
	if r.client, err = r.relay.client(r.lane); err != nil {
		return err
	}
	defer r.client.CloseIdleConnections()
	r.share, r.bytes, r.count = rate.NewLimiter(1, 1), rate.NewLimiter(verifyBytes, verifyBytes), rate.NewLimiter(verifyMessages, verifyMessages/10)
	r.client.Pace = r.pace
	r.lane.asks = r.relay.metrics.RequestHooks()
	if r.bus, err = r.lane.OpenFromOutside(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.bus.Close()) }()
	dir := filepath.Join(r.lane.Config.Checkpoint.Dir, fmt.Sprintf("verify-%x", r.member.run.Name))
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil { // one that crashed may have left something
		return fmt.Errorf("make a directory for what is compared: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := r.lane.Answers(ctx, r.bus); err != nil {
		return err
	}
	// What one of them finds counts, also if the other one fails.
	failed := r.events(ctx, dir)
	if r.compared.events = failed == nil; !r.compared.events {
		failed = fmt.Errorf("compare the events: %w", failed)
	}
	if ctx.Err() != nil {
		return failed
	}
	if err := r.state(ctx, dir); err != nil {
		return errors.Join(failed, fmt.Errorf("compare the state: %w", err))
	}
	r.compared.state = true
	return failed
}

// stateCommand begins the command that shows the faults of the state.
const stateCommand = "relay verify --state"

// merged is the outcome of the run, with what it has not compared as the last outcome has it; last
// may be nil.
func (r *verifying) merged(last *admin.Verified) admin.Verified {
	out := r.outcome
	if last != nil && !r.compared.events {
		out = *last
		out.State = r.outcome.State
	}
	if last != nil && !r.compared.state {
		out.State = last.State
	}
	out.Commands, out.Faults = []string{}, 0
	for _, from := range []*admin.Verified{&r.outcome, last} {
		if from == nil {
			continue
		}
		for _, c := range from.Commands {
			compared := r.compared.events
			if strings.HasPrefix(c, stateCommand) {
				compared = r.compared.state
			}
			if compared == (from == &r.outcome) {
				out.Commands = append(out.Commands, c)
			}
		}
	}
	for _, f := range out.Findings() {
		out.Faults += f.Count
	}
	return out
}

// pace is source.Client.Pace: it lets a request through while no lane is behind, and at most a
// verifyShare of the rate limit.
func (r *verifying) pace(ctx context.Context) error {
	waited := false
	for {
		why := r.relay.behind()
		if why == "" {
			break
		}
		waited = true
		r.waits(why)
		if err := retry.Sleep(ctx, verifyTick); err != nil {
			return err
		}
	}
	if waited {
		r.waits("")
	}
	r.share.SetLimit(r.relay.limiter.Limit() / verifyShare)
	return r.share.Wait(ctx)
}

// gently waits as long as it takes so that a message of this size may be read from the bus.
func (r *verifying) gently(ctx context.Context, size int) error {
	if err := r.count.Wait(ctx); err != nil {
		return err
	}
	return r.bytes.WaitN(ctx, min(size, verifyBytes))
}

// rangeOf returns the range of events to compare: from the end of the last one, and some of it
// again, to the checkpoint.
func (r *verifying) rangeOf(cp checkpoint.Checkpoint) (republish.Span, Due) {
	r.mu.Lock()
	begin, since := r.tenure.begin, r.tenure.since
	r.mu.Unlock()
	if since.IsZero() {
		since = begin
	}
	if since.EventID != "" && !since.CreatedAt.IsZero() && time.Since(since.CreatedAt) > verifyCursor {
		since = checkpoint.Position{CreatedAt: since.CreatedAt.Add(time.Minute)}
	}
	span := republish.Span{Since: since, Until: time.Now().Add(24 * time.Hour)} // for any clock
	due := r.lane.Due(cp, nil, &span)
	return span, due
}

// after returns where the next run begins, in a tenure that begins at begin.
func (r *verifying) after(begin checkpoint.Position) checkpoint.Position {
	until := checkpoint.Position{EventID: r.span.Through, CreatedAt: r.span.Until}
	if begin.CreatedAt.IsZero() && begin.EventID != "" { // when that was is not known
		return until
	}
	return r.from(begin, until.CreatedAt.Add(-scaled(verifyOverlap)))
}

// from is begin or, if it is later, the time at. The times of events do not follow their order
// strictly.
func (r *verifying) from(begin checkpoint.Position, at time.Time) checkpoint.Position {
	if known := !begin.CreatedAt.IsZero() || begin.EventID == ""; known && at.After(begin.CreatedAt.Add(time.Minute)) {
		return checkpoint.Position{CreatedAt: at}
	}
	return begin
}

// events compares the events of the range with the bus.
func (r *verifying) events(ctx context.Context, dir string) error {
	s := r.member.status()
	span, due := r.rangeOf(s.Checkpoint)
	if !due.Known {
		return &pauseError{waitsForTime}
	}
	r.span = span
	check, err := r.lane.EventCheck(r.client, r.bus, span, &due)
	if err != nil {
		return err
	}
	check.Dir, check.Examples = dir, verifyExamples
	check.Bus = &gentleScanner{check.Bus, r}
	var report verify.Report
	for look := 0; ; {
		result, err := check.Run(ctx)
		if since := r.span.Since; errors.Is(err, source.ErrCursorLost) && since.EventID != "" && !since.CreatedAt.IsZero() { // WorkOS has forgotten it
			r.span.Since = checkpoint.Position{CreatedAt: since.CreatedAt.Add(time.Minute)}
			check.Span = r.span
			continue
		}
		if err != nil {
			return r.lane.ExplainFromOutside(err)
		}
		report = result.Report
		if err := result.Close(); err != nil {
			return err
		}
		if report.Total == 0 || look == len(verifyLooks) {
			break
		}
		r.waits("faults were found, and are looked at again")
		if err := retry.Sleep(ctx, scaled(verifyLooks[look])); err != nil {
			return err
		}
		r.waits("")
		look++
	}
	if report.Missing.Count > 0 && len(report.UnknownPolicies) > 0 {
		u := report.UnknownPolicies[0]
		return fmt.Errorf("whether topic %s is compacted is not known, so events may be missing because a newer one has their key: %s", u.Topic, u.Why)
	}
	if first := report.Missing.Examples; len(first) > 0 {
		r.missing = first[0].CreatedAt
	}
	r.note(&report)
	return nil
}

// note adds what the comparison of events found to the outcome.
func (r *verifying) note(report *verify.Report) {
	o := &r.outcome
	o.Commands = []string{}
	o.Since, o.Until = argumentOf(r.span.Since), r.span.Until.UTC()
	o.Events, o.Expired, o.Unknown = report.Events, report.Expired, report.Unknown()
	o.Missing, o.Misrouted, o.Altered = report.Missing.Count, report.Misrouted.Count, report.Altered.Count
	o.Duplicate = report.Duplicate.Count - report.AllowedCopies
	o.OutOfOrder = report.OutOfOrder.Count - report.AllowedEarly
	if o.Faults = report.Total; o.Faults == 0 {
		return
	}
	o.Commands = append(o.Commands, fmt.Sprintf("relay verify --lane %s --since %s --until %s", r.member.run.Name, o.Since, o.Until.Format(time.RFC3339Nano)))
	for _, f := range []struct {
		name  string
		found verify.Finding
		count int
	}{
		{"missing", report.Missing, o.Missing}, {"duplicate", report.Duplicate, o.Duplicate}, {"misrouted", report.Misrouted, o.Misrouted},
		{"altered", report.Altered, o.Altered}, {"out of order", report.OutOfOrder, o.OutOfOrder},
	} {
		for i := range f.found.Examples[:min(f.count, len(f.found.Examples))] {
			e := &f.found.Examples[i]
			r.examples = append(r.examples, fmt.Sprintf("%s: %s of %s on %s", f.name, e.EventID, e.CreatedAt.Format(time.RFC3339Nano), e.Topic))
		}
	}
}

// argumentOf writes a position as --since takes it.
func argumentOf(p checkpoint.Position) string { return Argument(admin.PlaceOf(p)) }

// state compares the state with the lists of WorkOS: the entities that a snapshot has read. The
// others need not be complete.
func (r *verifying) state(ctx context.Context, dir string) error {
	snap := r.member.status().Checkpoint.Snapshot
	var kept []string
	for _, e := range r.lane.Router.Entities() {
		if snap.Finished() && snap.Refusal(e.Name) == "" && (snap.Covers(e.Name) || slices.Contains(snap.Earlier, e.Name)) {
			kept = append(kept, e.Name)
		}
	}
	entities := snapshot.Listed(kept)
	if len(entities) == 0 {
		return nil
	}
	objects := r.lane.Objects(r.bus.Sink)
	if objects == nil {
		return nil
	}
	check := r.lane.StateCheck(r.client, objects, entities)
	check.Stored = &gentleStored{objects, r}
	check.Dir, check.Wait, check.Examples = dir, max(scaled(verifyLasts), time.Second), verifyExamples
	result, err := check.Run(ctx)
	if err != nil {
		return r.lane.ExplainFromOutside(err)
	}
	if err := r.lane.NoSnapshotGoesOn(ctx); err != nil {
		return &pauseError{"the lane publishes a snapshot"}
	}
	report := &result.Report
	found := &admin.VerifiedState{
		Entities: len(entities), Objects: report.Sum(func(c *verify.StateCount) int { return c.Listed }),
		Missing: report.Missing.Count, Stale: report.Stale.Count, Ghosts: report.Ghosts.Count,
	}
	r.outcome.State = found
	if report.Total == 0 {
		return nil
	}
	r.outcome.Faults += report.Total
	r.outcome.Commands = append(r.outcome.Commands, stateCommand+" --lane "+r.member.run.Name)
	for name, f := range map[string]verify.StateFinding{"missing": report.Missing, "stale": report.Stale, "ghost": report.Ghosts} {
		for _, e := range f.Examples[:min(verifyExamples, len(f.Examples))] {
			r.examples = append(r.examples, fmt.Sprintf("%s in the state: %s %s", name, e.Entity, e.Key))
		}
	}
	return nil
}

// gentleScanner reads a bus slowly.
type gentleScanner struct {
	sink.Scanner

	run *verifying
}

// Scan implements sink.Scanner.
func (s *gentleScanner) Scan(ctx context.Context, log sink.Log, fn func(*sink.Stored) error) error {
	return s.Scanner.Scan(ctx, log, func(m *sink.Stored) error {
		if err := s.run.gently(ctx, len(m.Body)); err != nil {
			return err
		}
		return fn(m)
	})
}

// gentleStored reads state topics slowly.
type gentleStored struct {
	verify.StateStored

	run *verifying
}

// Each implements verify.StateStored.
func (s *gentleStored) Each(ctx context.Context, entity string, fn func(key string, value []byte, headers []sink.Header) error) error {
	return s.StateStored.Each(ctx, entity, func(key string, value []byte, headers []sink.Header) error {
		if err := s.run.gently(ctx, len(value)); err != nil {
			return err
		}
		return fn(key, value, headers)
	})
}

// acquisitions tells of each acquisition of a target.
type acquisitions struct {
	*pipeline.Delivery

	acquired func(seen *checkpoint.Checkpoint, now checkpoint.Checkpoint)
}

// Acquire implements pipeline.Target.
func (t *acquisitions) Acquire(ctx context.Context, seen *checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	cp, err := t.Delivery.Acquire(ctx, seen)
	if err == nil {
		t.acquired(seen, cp)
	}
	return cp, err
}
