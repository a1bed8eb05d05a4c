package kafka

import (
	"context"
	"fmt"
	"sort"
	"time"

	"github.com/segmentio/kafka-go/compress"

	"workos-relay/internal/contain"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
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

// delivery is one Publish. Its state belongs to the goroutine that calls run; what waits for
// brokers runs in its own goroutines, which report by a function on done, and none is left when
// run returns.
type delivery struct {
	p       *publisher
	ctx     context.Context
	cancel  context.CancelFunc
	started time.Time
	batch   []sink.Message
	txn     *transaction // nil: what is acknowledged is durable; else it is once the transaction is committed

	acked   []bool
	durable int   // batch[:durable] is acknowledged
	behind  []int // bytes of batch[:i]; nil until they are needed
	cut     int   // batch[cut:] is not to be sent any more, because of failure
	held    int   // batch[held:] is not to be sent until the layout is there: batch[held] may be too large
	failure error // why batch[cut] cannot be published; nil while cut is the whole batch

	waiting map[string]*topicQueue // topics whose partitions are not known yet
	queues  []*partitionQueue
	layout  *client.Layout

	keys    []messageKey         // of batch; nil until they are needed
	doubtIn map[messageKey]int32 // partitions of the messages that an earlier Publish has left in doubt

	done     chan func()
	running  int
	busy     map[int32]int // requests under way, by leader
	underWay int           // their bytes
	progress time.Time     // when something was stored last, or began to be possible
	progressed,
	closing bool // no further request is sent
	late  bool  // an answer did not come in time
	ended error // why the context ended before the delivery did

	locating, opening errand // the layout; a producer session
	fresh             bool   // the layout must not come from the cache
	limitsSince       time.Time

	trouble    error     // the last fault that was tried again
	troubled   time.Time // since when there are such faults
	complained time.Time
}

// errand is something that the delivery needs from the cluster as a whole.
type errand struct {
	wanted, busy bool
	backoff
}

// backoff spaces the tries at one thing.
type backoff struct {
	failures    int
	notBefore   time.Time
	deniedSince time.Time
}

// topicQueue holds the messages of a topic until its partitions are known.
type topicQueue struct {
	topic string
	index []int
	backoff
}

// partitionQueue holds the messages for one partition that are not acknowledged, in order.
type partitionQueue struct {
	topic     string
	partition int32
	place     *client.Sequence
	limit     client.Limit
	index     []int // of the messages in the batch
	most      int   // records in the next record batch at most; shrinks while a culprit is looked for
	pending   *recordBatch
	busy      bool
	backoff
}

func (q *partitionQueue) id() client.Partition {
	return client.Partition{Topic: q.topic, Number: q.partition}
}

// recordBatch is the head of a partition's queue as it was sent, or is about to be. While it is in
// doubt it is sent again as it is.
type recordBatch struct {
	session  client.Session
	sequence int32
	records  int
	set      []byte // encoded; nil until then
	codec    compress.Codec
	doubt    bool  // it may be stored without relay knowing
	refused  bool  // although it is in doubt, sending it again as it is cannot help
	silent   int   // how often it was sent and not answered
	err      error // it could not be encoded

	keys []messageKey // of its messages, if it has outlived its delivery
	left time.Time    // when that was
}

func newDelivery(ctx context.Context, p *publisher, batch []sink.Message) *delivery {
	d := &delivery{
		p: p, started: time.Now(), batch: batch,
		acked: make([]bool, len(batch)), cut: len(batch), held: len(batch),
		waiting: make(map[string]*topicQueue),
		busy:    make(map[int32]int),
		done:    make(chan func()),
	}
	d.progress = d.started
	d.ctx, d.cancel = context.WithCancel(ctx)
	d.locating.wanted = true
	return d
}

func (d *delivery) run() error {
	defer d.cancel()
	if d.txn == nil {
		d.takeOver()
	}
	d.sort()
	for !d.finished() && d.ctx.Err() == nil && !d.over(time.Now()) {
		now := time.Now()
		d.place()
		d.launch(now)
		d.wait(now)
	}
	return d.stop()
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

// sort puts the messages in the queues of their topics, as far as their topics are legal names.
func (d *delivery) sort() {
	for i := range d.batch {
		if d.acked[i] {
			continue
		}
		topic := d.batch[i].Topic
		q := d.waiting[topic]
		if q == nil {
			if reason := illegalTopicName(topic); reason != "" {
				d.fail(i, &sink.RejectedError{Topic: topic, Reason: fmt.Sprintf("the topic name %q %s", topic, reason)})
				return
			}
			q = &topicQueue{topic: topic}
			d.waiting[topic] = q
		}
		q.index = append(q.index, i)
	}
}

// finished reports whether every message that can be published is, and nothing is under way.
func (d *delivery) finished() bool {
	if d.txn != nil && d.failure != nil { // a part of a transaction is of no use
		return len(d.busy) == 0
	}
	for d.durable < len(d.acked) && d.acked[d.durable] {
		d.durable++
	}
	return d.durable >= d.cut && len(d.busy) == 0
}

// fail notes that batch[i] cannot be published. What comes before it still is; what comes after it
// is not begun any more.
func (d *delivery) fail(i int, err error) {
	if i < d.cut {
		d.cut, d.failure = i, err
	}
}

// sendable returns where the messages end that may be sent now. A transaction sends none until all
// of them are known to fit, and none any more once one has failed.
func (d *delivery) sendable() int {
	if d.txn != nil && (!d.txn.enlisted || d.failure != nil) || d.closing {
		return 0
	}
	return min(d.cut, d.held, d.horizon())
}

// horizon returns where the messages end that may be sent before those in front of them are
// durable. The less may be under way, the nearer it is, so that what is stored is a long prefix of
// the batch and not a little of everything.
func (d *delivery) horizon() int {
	window := d.p.pace.Window
	if d.txn != nil || window >= client.WindowMost {
		return len(d.batch)
	}
	if d.behind == nil {
		d.behind = make([]int, len(d.batch))
		size := 0
		for i := range d.batch {
			d.behind[i] = size
			size += messageSize(&d.batch[i], 0)
		}
	}
	from := min(d.durable, len(d.batch)-1)
	return max(from+1, sort.SearchInts(d.behind, d.behind[from]+2*window))
}

// spawn runs work in a goroutine; the function that it returns runs in the delivery's own. A panic
// of work is raised there too.
func (d *delivery) spawn(work func(ctx context.Context) func()) {
	d.running++
	go func() {
		var report func()
		if err := contain.Do(func() error { report = work(d.ctx); return nil }); err != nil {
			report = func() { panic(err) }
		}
		d.done <- report
	}()
}

// wait returns when something has changed since now, the time of the last launch: an answer came, a
// pause is over, or the context has
// ended.
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
	consider(d.opening.notBefore)
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
	for _, q := range d.queues {
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
	if d.underWay > 0 && !d.progressed {
		d.late = true
		d.p.pace.Unanswered(d.underWay)
	}
	if d.txn != nil {
		return d.stopTransaction()
	}
	d.p.away = !d.progressed
	d.leave()
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
