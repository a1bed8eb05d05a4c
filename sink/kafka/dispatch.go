package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

const (
	// requestBytes is where a request is full, before compression; a record batch that is larger
	// goes alone.
	requestBytes = 256 << 10
	// requestsPerLeader bounds the requests side by side to one broker, each on a connection of its
	// own.
	requestsPerLeader = 4

	// In a transaction a broker asks the coordinator, before it takes the first records of a
	// partition, whether the partition belongs to it (KIP-890). It has only one such question under
	// way for a transaction and refuses a second produce request meanwhile, so much goes in one
	// request to a leader, and the next one follows the answer. More than a megabyte is what
	// proxies and services refuse: Kafka's Java client sends no more unless it is told to
	// (max.request.size).
	transactionRequestBytes     = 1_000_000
	transactionRequestsByLeader = 1
)

// launch starts whatever is due.
func (d *delivery) launch(now time.Time) {
	if d.closing {
		return
	}
	if d.txn != nil {
		d.enlist(now)
	}
	for _, r := range d.ready(now) {
		d.produce(r)
	}
	if e := &d.locating; e.due(now) { // a leader may have been found missing just now
		d.locate()
	}
	if e := &d.opening; e.due(now) {
		d.open()
	}
}

func (e *errand) due(now time.Time) bool { return e.wanted && !e.busy && !e.notBefore.After(now) }

// failed spaces the next try.
func (b *backoff) failed() {
	b.failures++
	b.notBefore = time.Now().Add(client.Retries.After(b.failures))
}

func (b *backoff) worked() { *b = backoff{} }

// denied reports whether a refused permission is final by now.
func (b *backoff) denied(grace time.Duration) bool {
	if b.deniedSince.IsZero() {
		b.deniedSince = time.Now()
	}
	return time.Since(b.deniedSince) >= grace
}

// request is the heads of some queues with the same leader.
type request struct {
	leader int32
	queues []*partitionQueue
	size   int // before compression
	sent   time.Time
	beside int // bytes under way when it was sent, its own included
}

// isPaused reports whether the leader throttles relay. A position alone does not wait: it keeps the
// lease.
func (d *delivery) isPaused(leader int32, now time.Time) bool {
	return d.p.pace.Paused[leader].After(now) && (d.txn == nil || len(d.batch) > 1)
}

// ready groups the queues that have something to send into requests to leaders that take more, and
// says what is missing for the others. A leader gets its share in a few requests side by side, each
// with other partitions, so that it works on one while the next is still encoded.
func (d *delivery) ready(now time.Time) []*request {
	var ready []*request
	open := make(map[int32]*request) // by leader: the one that takes more
	full, most := requestBytes, requestsPerLeader
	if d.txn != nil {
		full, most = transactionRequestBytes, transactionRequestsByLeader
	}
	full = d.p.pace.Request(full, now)
	for _, q := range d.queues {
		if q.busy || len(q.index) == 0 || q.index[0] >= d.sendable() || q.notBefore.After(now) {
			continue
		}
		leader, ok := d.leader(q)
		if !ok || d.isPaused(leader, now) || !d.enrolled(q) {
			continue
		}
		records, size := d.next(q, full)
		if d.underWay > 0 && d.underWay+size > d.p.pace.Window {
			continue
		}
		r := open[leader]
		if r != nil && r.size+size > full {
			r = nil
		}
		if r == nil {
			if d.busy[leader] == most {
				continue
			}
			d.busy[leader]++
			r = &request{leader: leader, sent: now}
			open[leader] = r
			ready = append(ready, r)
		}
		if q.pending == nil {
			session, sequence := q.place.Take()
			q.pending = &recordBatch{session: session, sequence: sequence, records: records, codec: d.p.codec}
		}
		q.busy = true
		r.size += size
		d.underWay += size
		r.queues = append(r.queues, q)
	}
	for _, r := range ready {
		r.beside = d.underWay
	}
	return ready
}

// leader returns the broker that leads the queue's partition, and asks for a fresh layout where
// none is known.
func (d *delivery) leader(q *partitionQueue) (int32, bool) {
	leaders := d.layout.Topics[q.topic].Leaders
	if len(leaders) > 0 && int(q.partition) >= len(leaders) {
		d.fail(q.index[0], fmt.Errorf("kafka topic %s has no partition %d any more: it was made anew with %d partitions", q.topic, q.partition, len(leaders)))
		return 0, false
	}
	if len(leaders) == 0 || leaders[q.partition] < 0 {
		err := fmt.Errorf("partition %d of kafka topic %s has no leader: a broker is down, or an election is under way", q.partition, q.topic)
		d.complain(err, q.topic, q.partition)
		d.relocate()
		return 0, false
	}
	return leaders[q.partition], true
}

// enrolled reports whether the partition has a producer session, and asks for one if none is
// open.
func (d *delivery) enrolled(q *partitionQueue) bool {
	if q.place.Valid() || d.p.unnumbered && d.txn == nil {
		return true
	}
	if !d.p.session.Valid() {
		d.opening.wanted = true
		return false
	}
	q.place.Adopt(d.p.session)
	return true
}

// next returns how many records go into the next record batch of q, and their size before
// compression: at most full, but at least one.
func (d *delivery) next(q *partitionQueue, full int) (records, size int) {
	if q.pending != nil {
		return q.pending.records, len(q.pending.set)
	}
	budget := min(q.limit.Bytes/10*9, full) - client.BatchHeaderBytes
	for records < len(q.index) && records < q.most && q.index[records] < d.sendable() {
		n := messageSize(&d.batch[q.index[records]], records)
		if records > 0 && size+n > budget {
			break
		}
		size += n
		records++
	}
	return records, size
}

// relocate asks for a layout that does not come from the cache.
func (d *delivery) relocate() { d.locating.wanted, d.fresh = true, true }

// locate fetches the layout of all topics of the batch.
func (d *delivery) locate() {
	topics := make([]string, 0, len(d.waiting))
	for t := range d.waiting {
		topics = append(topics, t)
	}
	for _, q := range d.queues {
		topics = append(topics, q.topic)
	}
	slices.Sort(topics)
	topics = slices.Compact(topics)
	if d.fresh {
		d.p.cluster.Refresh()
	}
	d.locating.busy, d.locating.wanted, d.fresh = true, false, false
	since := d.limitsSince
	d.spawn(func(ctx context.Context) func() {
		l, err := d.p.cluster.Locate(ctx, topics, since)
		return func() { d.located(l, err) }
	})
}

func (d *delivery) located(l *client.Layout, err error) {
	d.locating.busy = false
	if err != nil {
		d.locating.failed()
		d.relocate()
		d.complain(d.p.explain(err), "", -1)
		return
	}
	d.layout = l
	d.limitsSince, d.held = time.Time{}, len(d.batch)
	// Whatever still misses its leader asks again, at the pace of its own failures.
	d.locating.failures++
	d.locating.notBefore = time.Now().Add(client.Retries.After(min(d.locating.failures, 6)))
}

// open asks for a producer session.
func (d *delivery) open() {
	d.opening.busy, d.opening.wanted = true, false
	d.spawn(func(ctx context.Context) func() {
		given, err := d.p.cluster.OpenSession(ctx)
		return func() { d.opened(given, err) }
	})
}

func (d *delivery) opened(given client.Session, err error) {
	d.opening.busy = false
	if err == nil {
		d.p.session, d.p.mute = given, 0
		d.opening.worked()
		return
	}
	if d.ctx.Err() == nil && d.p.doesWithout(err) {
		d.opening = errand{}
		return
	}
	d.opening.failed()
	d.opening.wanted = true
	if client.IsDenied(err) && d.opening.denied(d.p.grace) {
		d.fail(d.durable, &sink.FatalError{Err: d.p.explain(err)})
	}
	d.complain(d.p.explain(err), "", -1)
}

// mutesUntilUnnumbered is how often a request for a producer id is not answered, although others
// are, until relay does without.
const mutesUntilUnnumbered = 2

// unnumberedText says what it means that the cluster gives no producer ids.
func unnumberedText(err error) string {
	return fmt.Sprintf("the cluster gives relay no producer id, so it does not recognise what is sent twice: after a fault, what was in flight may be stored twice: %v", err)
}

// complain remembers a fault that is being retried, and logs it now and then once it does not pass
// by itself.
func (d *delivery) complain(err error, topic string, partition int32) {
	if d.ctx.Err() != nil {
		return // the fault is only that the context ended
	}
	now := time.Now()
	if d.trouble = err; d.troubled.IsZero() {
		d.troubled = now
	}
	if now.Sub(d.troubled) < complainAfter || now.Sub(d.complained) < complainEvery {
		return
	}
	d.complained = now
	fields := []zap.Field{zap.Error(err), zap.Duration("for", now.Sub(d.troubled).Round(time.Millisecond))}
	if topic != "" {
		fields = append(fields, zap.String("topic", topic))
	}
	if partition >= 0 {
		fields = append(fields, zap.Int32("partition", partition))
	}
	d.p.log.Warn("kafka does not take messages, trying again", fields...)
}

// produce sends the heads of the queues of r to their leader in one request.
func (d *delivery) produce(r *request) {
	d.spawn(func(ctx context.Context) func() {
		res, err := d.send(ctx, r.queues)
		return func() { d.produced(r, res, err) }
	})
}

func (d *delivery) produced(r *request, res *client.Produced, err error) {
	leader, queues := r.leader, r.queues
	if d.busy[leader]--; d.busy[leader] == 0 {
		delete(d.busy, leader)
	}
	for _, q := range queues {
		q.busy = false
	}
	if d.ctx.Err() == nil || err == nil {
		d.underWay -= r.size
	}
	if err != nil {
		d.lost(r, err)
		return
	}
	now := time.Now()
	if res.Throttle > 0 {
		d.throttled(leader, res.Throttle, now)
	}
	d.p.pace.Answered(r.size, r.beside, now.Sub(r.sent), res.Throttle)
	for _, q := range queues {
		if q.pending.err != nil {
			d.fail(q.index[0], q.pending.err)
			q.pending = nil
			continue
		}
		a, ok := res.Of[q.id()]
		if !ok {
			q.pending.doubt = true
			d.retry(q, errors.New("the broker's answer leaves the partition out"))
			d.relocate()
			continue
		}
		d.answered(q, a)
	}
}

// throttled notes that a leader takes no records for a while. A transaction that would be open for
// too long is given up, before more of it has to be stored again.
func (d *delivery) throttled(leader int32, throttle time.Duration, now time.Time) {
	d.p.pace.Pause(leader, throttle, now)
	if d.txn == nil {
		return
	}
	left, bounded := client.AllowanceLeft(d.ctx)
	for _, q := range d.queues {
		if len(q.index) > 0 && !q.busy && bounded && throttle > left {
			d.fail(0, errThrottledLeader(throttle))
			return
		}
	}
}

// lost deals with a request that got no answer.
func (d *delivery) lost(r *request, err error) {
	now := time.Now()
	var hangUp *client.HungUpError
	large := errors.As(err, &hangUp) && hangUp.Answered && hangUp.Request >= client.SuspiciousRequest
	if d.ctx.Err() == nil {
		switch {
		case large:
			d.p.pace.HungUp(hangUp.Request, now)
		case errors.Is(err, context.DeadlineExceeded):
			d.late = true
			d.p.pace.Unanswered(r.size)
		}
	}
	for _, q := range r.queues {
		if !client.IsUnsent(err) {
			q.pending.doubt = true
		}
		if client.IsSilence(err) || d.ctx.Err() != nil && d.ended == nil {
			q.pending.silent++
		}
		d.retry(q, err)
	}
	if large && d.ctx.Err() == nil {
		d.tooLargeToSend(r, hangUp, now)
	}
	d.relocate()
}

// silentUntilCut is how often a record batch is sent as it is without an answer before it is cut
// into smaller ones.
const silentUntilCut = 3

// tooLargeToSend deals with a request on which the connection was closed, as something before the
// broker does if a request is too large for it. A request with several record batches is sent in
// several ones by itself.
func (d *delivery) tooLargeToSend(r *request, err *client.HungUpError, now time.Time) {
	if len(r.queues) != 1 {
		return
	}
	q := r.queues[0]
	if q.pending == nil {
		return
	}
	if q.pending.records == 1 {
		if d.p.pace.Suspect(d.key(q.index[0]), d.p.cluster.AnswerCount()) {
			q.pending.refused = true
			d.fail(q.index[0], &sink.RejectedError{Topic: q.topic, Size: err.Request, Reason: fmt.Sprintf("%s closes the connection on each request with this message, "+
				"of %d bytes: the broker or a proxy before it limits the size of a request (socket.request.max.bytes of an Apache Kafka, 1046528 bytes on Azure Event Hubs)", err.Address, err.Request)})
		}
		return
	}
	if full := d.p.pace.Request(transactionRequestBytes, now); len(q.pending.set) > full && d.txn != nil {
		d.fail(0, tooSlow("", 0, d.p.explain(err)))
	}
}

// retry schedules the head of q again: as it was if it is in doubt, else cut according to what fits
// now. What gets no answer although it was sent several times is cut, too: the leader then takes it
// in the next epoch, and may have stored it before.
func (d *delivery) retry(q *partitionQueue, err error) {
	q.failed()
	p := q.pending
	full := d.p.pace.Request(requestBytes, time.Now())
	switch {
	case !p.doubt:
		q.pending = nil
	case d.txn == nil && p.records > 1 && p.silent >= silentUntilCut && len(p.set) > full:
		d.p.log.Info("a kafka record batch gets no answer and is sent again in smaller ones; if it is stored already, its messages are stored twice",
			zap.String("topic", q.topic), zap.Int32("partition", q.partition), zap.Int("bytes", len(p.set)), zap.Int("messages", p.records))
		d.p.restart(q.place)
		q.pending = nil
	}
	d.complain(d.p.explainTopic(err, q.topic), q.topic, q.partition)
}
