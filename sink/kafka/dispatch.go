package kafka

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/segmentio/kafka-go/protocol/produce"
	"go.uber.org/zap"

	"workos-relay/sink"
)

const (
	// requestBytes is where a request is full, before compression; a record batch that is larger goes alone.
	requestBytes = 256 << 10
	// requestsPerLeader bounds the requests side by side to one broker, each on a connection of its own.
	requestsPerLeader = 4

	// In a transaction a broker asks the coordinator, before it takes the first records of a partition, whether the partition belongs to
	// it (KIP-890). It has only one such question under way for a transaction and refuses a second produce request meanwhile, so
	// everything for a leader goes in one request, and the next one follows the answer.
	transactionRequestBytes     = 16 << 20
	transactionRequestsByLeader = 1
)

// launch starts whatever is due.
func (d *delivery) launch() {
	now := time.Now()
	if d.txn != nil {
		d.enlist(now)
	}
	for _, r := range d.ready(now) {
		d.produce(r.leader, r.queues)
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
	b.notBefore = time.Now().Add(retryDelay(b.failures, rand.Float64())) //nolint:gosec // jitter needs no secrecy
	b.failures++
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
}

// ready groups the queues that have something to send into requests to leaders that take more, and says what is missing for the
// others. A leader gets its share in a few requests side by side, each with other partitions, so that it works on one while the next
// is still encoded.
func (d *delivery) ready(now time.Time) []*request {
	var ready []*request
	open := make(map[int32]*request) // by leader: the one that takes more
	full, most := requestBytes, requestsPerLeader
	if d.txn != nil {
		full, most = transactionRequestBytes, transactionRequestsByLeader
	}
	for _, q := range d.queues {
		if q.busy || len(q.index) == 0 || q.index[0] >= d.sendable() || q.notBefore.After(now) {
			continue
		}
		leader, ok := d.leader(q)
		if !ok || d.paused[leader].After(now) || !d.enrolled(q) {
			continue
		}
		records, size := d.next(q)
		r := open[leader]
		if r != nil && r.size+size > full {
			r = nil
		}
		if r == nil {
			if d.busy[leader] == most {
				continue
			}
			d.busy[leader]++
			r = &request{leader: leader}
			open[leader] = r
			ready = append(ready, r)
		}
		if q.pending == nil {
			session, sequence := q.place.take()
			q.pending = &recordBatch{session: session, sequence: sequence, records: records}
		}
		q.busy = true
		r.size += size
		r.queues = append(r.queues, q)
	}
	return ready
}

// leader returns the broker that leads the queue's partition, and asks for a fresh layout where none is known.
func (d *delivery) leader(q *partitionQueue) (int32, bool) {
	leaders := d.layout.topics[q.topic].leaders
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

// enrolled reports whether the partition has a producer session, and asks for one where none is open.
func (d *delivery) enrolled(q *partitionQueue) bool {
	if q.place.valid() {
		return true
	}
	if !d.s.session.valid() {
		d.opening.wanted = true
		return false
	}
	q.place.adopt(d.s.session)
	return true
}

// next returns how many records go into the next record batch of q, and their size before compression.
func (d *delivery) next(q *partitionQueue) (records, size int) {
	if q.pending != nil {
		return q.pending.records, len(q.pending.set)
	}
	budget := q.limit.bytes/10*9 - batchHeaderBytes
	for records < len(q.index) && records < q.most && q.index[records] < d.sendable() {
		n := recordSize(&d.batch[q.index[records]], records)
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
		d.s.cluster.refresh()
	}
	d.locating.busy, d.locating.wanted, d.fresh = true, false, false
	since := d.limitsSince
	d.spawn(func(ctx context.Context) func() {
		l, err := d.s.cluster.locate(ctx, topics, since)
		return func() { d.located(l, err) }
	})
}

func (d *delivery) located(l *layout, err error) {
	d.locating.busy = false
	if err != nil {
		d.locating.failed()
		d.relocate()
		d.complain(d.s.explain(err), "", -1)
		return
	}
	d.layout = l
	d.limitsSince, d.held = time.Time{}, len(d.batch)
	// Whatever still misses its leader asks again, at the pace of its own failures.
	d.locating.notBefore = time.Now().Add(retryDelay(min(d.locating.failures, 5), rand.Float64())) //nolint:gosec // jitter needs no secrecy
	d.locating.failures++
}

// open asks for a producer session.
func (d *delivery) open() {
	d.opening.busy, d.opening.wanted = true, false
	d.spawn(func(ctx context.Context) func() {
		given, err := d.s.cluster.openSession(ctx)
		return func() { d.opened(given, err) }
	})
}

func (d *delivery) opened(given session, err error) {
	d.opening.busy = false
	if err == nil {
		d.s.session = given
		d.opening.worked()
		return
	}
	d.opening.failed()
	d.opening.wanted = true
	if isDenied(err) && d.opening.denied(d.s.grace) {
		d.fail(d.durable, &sink.FatalError{Err: d.s.explain(err)})
	}
	d.complain(d.s.explain(err), "", -1)
}

// complain remembers a fault that is being retried, and logs it now and then once it does not pass by itself.
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
	d.s.log.Warn("kafka does not take messages, trying again", fields...)
}

// produce sends the heads of the queues to their leader in one request.
func (d *delivery) produce(leader int32, queues []*partitionQueue) {
	d.spawn(func(ctx context.Context) func() {
		res, err := d.send(ctx, queues)
		return func() { d.produced(leader, queues, res, err) }
	})
}

func (d *delivery) produced(leader int32, queues []*partitionQueue, res *produce.Response, err error) {
	if d.busy[leader]--; d.busy[leader] == 0 {
		delete(d.busy, leader)
	}
	for _, q := range queues {
		q.busy = false
	}
	if err != nil {
		d.lost(queues, err)
		return
	}
	if res.ThrottleTimeMs > 0 {
		d.paused[leader] = time.Now().Add(min(time.Duration(res.ThrottleTimeMs)*time.Millisecond, d.s.cfg.RequestTimeout))
	}
	type key struct {
		topic     string
		partition int32
	}
	answers := make(map[key]*produce.ResponsePartition)
	for i := range res.Topics {
		t := &res.Topics[i]
		for j := range t.Partitions {
			answers[key{t.Topic, t.Partitions[j].Partition}] = &t.Partitions[j]
		}
	}
	for _, q := range queues {
		if q.pending.err != nil {
			d.fail(q.index[0], q.pending.err)
			q.pending = nil
			continue
		}
		a := answers[key{q.topic, q.partition}]
		if a == nil {
			d.lost([]*partitionQueue{q}, errors.New("the broker's answer leaves the partition out"))
			continue
		}
		d.answered(q, a)
	}
}

// lost deals with a request that got no answer.
func (d *delivery) lost(queues []*partitionQueue, err error) {
	for _, q := range queues {
		if !unsent(err) {
			q.pending.doubt = true
		}
		d.retry(q, err)
	}
	d.relocate()
}

// retry schedules the head of q anew: as it was where it is in doubt, else cut afresh.
func (d *delivery) retry(q *partitionQueue, err error) {
	q.failed()
	if !q.pending.doubt {
		q.pending = nil
	}
	d.complain(d.s.explainTopic(err, q.topic), q.topic, q.partition)
}
