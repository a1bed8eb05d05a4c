package kafka

import (
	"context"
	"fmt"
	"time"

	"workos-relay/sink"

	"workos-relay/internal/contain"
)

const (
	// deniedGrace is how long a refused permission is tried again before it counts as final: authorizers that are restarted or read
	// their rules late refuse for a moment.
	deniedGrace = 20 * time.Second
	// complainAfter and complainEvery keep the log quiet about faults that pass by themselves, such as an election.
	complainAfter = 2 * time.Second
	complainEvery = 10 * time.Second
)

// delivery is one Publish. Its state belongs to the goroutine that calls run; what waits for brokers runs in goroutines of its
// own, which report by a function on done, and none is left when run returns.
type delivery struct {
	s       *Sink
	ctx     context.Context
	cancel  context.CancelFunc
	started time.Time
	batch   []sink.Message
	txn     *transaction // nil: what is acknowledged is durable; else it is once the transaction is committed

	acked   []bool
	durable int   // batch[:durable] is acknowledged
	cut     int   // batch[cut:] is not to be sent any more, because of failure
	held    int   // batch[held:] is not to be sent until the layout is there: batch[held] may be too large
	failure error // why batch[cut] cannot be published; nil while cut is the whole batch

	waiting map[string]*topicQueue // topics whose partitions are not known yet
	queues  []*partitionQueue
	layout  *layout

	done    chan func()
	running int
	busy    map[int32]int       // requests under way, by leader
	paused  map[int32]time.Time // leaders that asked for a pause

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
	place     *sequence
	limit     limit
	index     []int // of the messages in the batch
	most      int   // records in the next record batch at most; shrinks while a culprit is looked for
	pending   *recordBatch
	busy      bool
	backoff
}

// recordBatch is the head of a partition's queue as it was sent, or is about to be. While it is in doubt it is sent again as it is.
type recordBatch struct {
	session  session
	sequence int32
	records  int
	set      []byte // encoded; nil until then
	doubt    bool   // it may be stored without relay knowing
	err      error  // it could not be encoded
}

func newDelivery(ctx context.Context, s *Sink, batch []sink.Message) *delivery {
	d := &delivery{
		s: s, started: time.Now(), batch: batch,
		acked: make([]bool, len(batch)), cut: len(batch), held: len(batch),
		waiting: make(map[string]*topicQueue),
		busy:    make(map[int32]int), paused: make(map[int32]time.Time),
		done: make(chan func()),
	}
	d.ctx, d.cancel = context.WithCancel(ctx)
	d.locating.wanted = true
	return d
}

func (d *delivery) run() error {
	defer d.cancel()
	d.sort()
	for !d.finished() && d.ctx.Err() == nil {
		d.place()
		d.launch()
		d.wait()
	}
	return d.stop()
}

// sort puts the messages in the queues of their topics, as far as their topics are legal names.
func (d *delivery) sort() {
	for i := range d.batch {
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

// fail notes that batch[i] cannot be published. What comes before it still is; what comes after it is not begun any more.
func (d *delivery) fail(i int, err error) {
	if i < d.cut {
		d.cut, d.failure = i, err
	}
}

// sendable returns where the messages end that may be sent now. A transaction sends none until all of them are known to fit, and none
// any more once one has failed.
func (d *delivery) sendable() int {
	if d.txn != nil && (!d.txn.enlisted || d.failure != nil) {
		return 0
	}
	return min(d.cut, d.held)
}

// spawn runs work in a goroutine; the function that it returns runs in the delivery's own. A panic of work is raised there too.
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

// wait returns when something has changed: an answer came, a pause is over, or the context has ended.
func (d *delivery) wait() {
	if d.finished() {
		return
	}
	var timer <-chan time.Time
	if at, ok := d.nextTry(); ok {
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

// nextTry returns when the first of the pauses ends.
func (d *delivery) nextTry() (time.Time, bool) {
	now := time.Now()
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
	}
	for _, q := range d.queues {
		consider(q.notBefore)
	}
	for _, t := range d.paused {
		consider(t)
	}
	if first.IsZero() && d.running == 0 {
		return now.Add(time.Millisecond), true // a pause ended since it was looked at
	}
	return first, !first.IsZero()
}

// stop waits for what is under way, which ends at once with the context, and says what is durable.
func (d *delivery) stop() error {
	d.cancel()
	for ; d.running > 0; d.running-- {
		(<-d.done)()
	}
	d.finished()
	if d.txn != nil {
		return d.stopTransaction()
	}
	for _, q := range d.queues {
		if q.pending != nil && q.pending.doubt {
			// The messages may yet arrive at the broker, and the caller may publish them again. The next epoch shuts the late ones out as
			// soon as the partition has taken a message of it; it cannot tell whether they are stored already.
			d.s.restart(q.place)
		}
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

// stopped is the error of a delivery whose context ended before batch[durable] was acknowledged.
func (d *delivery) stopped() error {
	err := fmt.Errorf("publishing to kafka topic %s was stopped: %w", d.batch[d.durable].Topic, context.Cause(d.ctx))
	if d.trouble != nil {
		err = fmt.Errorf("%w; before that: %w", err, d.trouble)
	}
	return err
}

// restart leaves the epoch in which something is in doubt.
func (s *Sink) restart(place *sequence) {
	if place.restart(); !place.valid() {
		s.session = noSession
	}
}
