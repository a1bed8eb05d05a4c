package kafka

import (
	"context"
	"fmt"
	"slices"
	"time"

	"workos-relay/sink"
)

const (
	// deniedGrace is how long a refused permission is tried again before it counts as final:
	// authorizers that are restarted or read their rules late refuse for a moment.
	deniedGrace = 20 * time.Second
	// complainAfter and complainEvery keep the log quiet about faults that pass by themselves, such
	// as an election.
	complainAfter = 2 * time.Second
	complainEvery = 10 * time.Second
)

// bounds are how long a Publish goes on.
type bounds struct {
	begin time.Duration // until no further request is sent
	idle  time.Duration // the same, if nothing was stored for so long
	quit  time.Duration // until what is under way is not waited for any more, if nothing was stored for so long
	away  time.Duration // idle, if nothing was stored during the last Publish either
}

// boundsOf returns the bounds for a request_timeout. A Publish that meets brokers that are away
// shows it within ten seconds with the default of ten.
func boundsOf(requestTimeout time.Duration) bounds {
	d := max(requestTimeout, 10*time.Second)
	return bounds{begin: d, idle: d / 2, quit: d * 4 / 5, away: min(d/2, 2*time.Second)}
}

// longestPause is for how long a Publish waits for leaders that throttle relay.
const longestPause = 30 * time.Second

// delivery is one Publish, or one transaction of a Commit: it lets its parts do what is due, waits
// for answers, and ends at its bounds. No goroutine of it is left when run returns.
type delivery struct {
	*course
	placer *placer
	sender *sender
}

func newDelivery(ctx context.Context, p *publisher, batch []sink.Message) *delivery {
	c := newCourse(ctx, p, batch)
	s := &sender{course: c, busy: make(map[int32]int)}
	return &delivery{course: c, sender: s, placer: &placer{course: c, out: s, waiting: make(map[string]*topicQueue)}}
}

func (d *delivery) run() error {
	defer d.cancel()
	if d.txn == nil {
		for _, at := range d.p.left.expire(d.started) {
			d.p.restart(d.p.placeIn(at))
		}
		d.p.left.takeOver(d.batchState)
	}
	d.placer.sort()
	for !d.finished() && d.ctx.Err() == nil && !d.over(time.Now()) {
		now := time.Now()
		d.placer.assignPartitions()
		d.launch(now)
		d.wait(now)
	}
	return d.stop()
}

// launch starts everything that is due.
func (d *delivery) launch(now time.Time) {
	if d.closing {
		return
	}
	if d.txn != nil {
		d.enlist(now)
	}
	for _, r := range d.sender.ready(now) {
		d.sender.produce(r)
	}
	if e := &d.locating; e.due(now) { // a leader may have been found missing just now
		d.locate(d.topics())
	}
	if e := &d.sender.opening; e.due(now) {
		d.sender.requestSession()
	}
}

// topics returns the topics of the batch, sorted.
func (d *delivery) topics() []string {
	topics := make([]string, 0, len(d.placer.waiting))
	for t := range d.placer.waiting {
		topics = append(topics, t)
	}
	for _, q := range d.sender.queues {
		topics = append(topics, q.topic)
	}
	slices.Sort(topics)
	return slices.Compact(topics)
}

// finished reports whether every message that can be published is, and nothing is under way.
func (d *delivery) finished() bool {
	if d.txn != nil && d.failure != nil { // a part of a transaction is of no use
		return len(d.sender.busy) == 0
	}
	return d.allDurable() && len(d.sender.busy) == 0
}

// over reports whether the delivery has gone on for long enough, and stops it from sending more
// before that. The time of a transaction is bounded by its context.
func (d *delivery) over(now time.Time) bool {
	if d.txn != nil {
		return false
	}
	begin, idle, quit := d.closeAt()
	if !now.Before(begin) || !now.Before(idle) {
		d.closing = true
	}
	return d.closing && d.running == 0 || !now.Before(quit)
}

// closeAt returns when the bounds of the delivery are reached: see bounds. A leader that throttles
// relay is waited for.
func (d *delivery) closeAt() (begin, idle, quit time.Time) {
	b := d.p.bounds
	if d.p.away && !d.progressed {
		b.idle = b.away
	}
	if d.p.acks > b.idle/2 { // a cluster that is slow, and not away
		b.idle = min(2*d.p.acks, max(d.p.cfg.RequestTimeout, b.idle))
		b.quit = max(b.quit, b.idle+time.Second)
	}
	since := d.progress
	if wait := d.p.pace.PausedFor(since); wait > 0 && wait <= longestPause {
		since = since.Add(wait)
	}
	begin = d.started.Add(b.begin)
	if !d.progressed && since.After(begin) {
		begin = since.Add(time.Second) // a throttled leader is to store something
	}
	return begin, since.Add(b.idle), since.Add(b.quit)
}

// wait returns when something has changed since now, the time of the last launch: an answer came, a
// pause is over, or the context has ended.
func (d *delivery) wait(now time.Time) {
	if d.finished() {
		return
	}
	var timer <-chan time.Time
	if at, ok := d.nextTry(now); ok {
		t := time.NewTimer(time.Until(at))
		defer t.Stop()
		timer = t.C
	}
	select {
	case report := <-d.done:
		d.running--
		report()
	case <-timer:
	case <-d.ctx.Done():
	}
}

// nextTry returns when the first of the pauses ends that are not over at now, or when the delivery
// must end. now is the time at which the delivery looked last at what is due: a pause that has
// ended since is over.
func (d *delivery) nextTry(now time.Time) (time.Time, bool) {
	var first time.Time
	consider := func(t time.Time) {
		if t.After(now) && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	consider(d.locating.notBefore)
	consider(d.sender.opening.notBefore)
	if d.txn != nil {
		consider(d.txn.enlisting.notBefore)
	} else {
		begin, idle, quit := d.closeAt()
		if !d.closing {
			consider(begin)
			consider(idle)
		}
		consider(quit)
	}
	for _, q := range d.sender.queues {
		consider(q.notBefore)
	}
	for _, t := range d.p.pace.Paused {
		consider(t)
	}
	return first, !first.IsZero()
}

// stop waits for what is under way, which ends at once with the context, and says what is durable.
func (d *delivery) stop() error {
	if d.ctx.Err() != nil {
		d.ended = context.Cause(d.ctx)
	}
	d.cancel()
	for ; d.running > 0; d.running-- {
		(<-d.done)()
	}
	d.finished()
	if d.sender.underWay > 0 && !d.progressed {
		d.late = true
		d.p.pace.Unanswered(d.sender.underWay)
	}
	if d.txn != nil {
		return d.stopTransaction()
	}
	d.p.away = !d.progressed
	if d.late && d.p.cluster.AnswerCount() > d.answers {
		d.p.acks = d.p.cfg.RequestTimeout
	}
	for _, q := range d.p.left.keepUnfinished(d.batchState, d.sender.queues) {
		d.p.restart(q.place)
	}
	if d.durable == len(d.batch) {
		return nil
	}
	err := d.failure
	if d.durable < d.cut || err == nil {
		err = d.stopped()
	}
	return &sink.PublishError{Durable: d.durable, Err: err}
}

// stopped is the error of a delivery that ended before batch[durable] was acknowledged.
func (d *delivery) stopped() error {
	if d.ended == nil {
		return d.outOfTime()
	}
	err := fmt.Errorf("publishing to kafka topic %s was stopped: %w", d.batch[d.durable].Topic, d.ended)
	if d.trouble != nil {
		err = fmt.Errorf("%w; before that: %w", err, d.trouble)
	}
	return err
}

// outOfTime is the error of a delivery that has come to its bounds.
func (d *delivery) outOfTime() error {
	now := time.Now()
	if left := d.p.pace.PausedFor(now); left > 0 && !d.progressed {
		return errThrottledLeader(left)
	}
	err := fmt.Errorf("kafka topic %s did not take the next message within %s", d.batch[d.durable].Topic, now.Sub(d.started).Round(100*time.Millisecond))
	if d.trouble != nil {
		err = fmt.Errorf("%w: %w", err, d.trouble)
	}
	if d.progressed || d.late {
		return tooSlow("request_timeout", d.p.cfg.RequestTimeout, err)
	}
	return err
}
