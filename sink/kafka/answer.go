package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"go.uber.org/zap"

	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

const (
	// patience is how many failures in a row lengthen the wait for a leader that has moved: up to
	// 400 ms.
	patience = 3
)

// send encodes the heads of the queues if that is still to be done and sends them. The queues belong
// to it until it returns.
func (d *delivery) send(ctx context.Context, queues []*partitionQueue) (*client.Produced, error) {
	transactionalID := ""
	if d.txn != nil {
		transactionalID = d.txn.coordinator.ID
	}
	batches := make([]client.Batch, 0, len(queues))
	for _, q := range queues {
		if err := d.encode(q); err != nil {
			q.pending.err = err
			continue
		}
		batches = append(batches, client.Batch{Partition: q.id(), Set: q.pending.set})
	}
	return d.p.cluster.Produce(ctx, transactionalID, batches)
}

func (d *delivery) encode(q *partitionQueue) error {
	p := q.pending
	if p.set != nil {
		return nil
	}
	spec := client.BatchSpec{Session: p.session, Sequence: p.sequence, Transactional: d.txn != nil, Codec: p.codec, Time: time.Now()}
	set, err := encodeMessages(spec, d.batch, q.index[:p.records])
	p.set = set
	return err
}

// answered follows what the leader says about the head of q.
func (d *delivery) answered(q *partitionQueue, a client.Acknowledgement) {
	if a.Verdict == client.Stored {
		if d.txn != nil {
			d.txn.stored(q, a)
		}
		d.acknowledge(q)
		return
	}
	inDoubt := q.pending.doubt // by an earlier try: this answer is about the present one
	q.pending.doubt = inDoubt || a.Doubt
	switch a.Verdict {
	case client.Elsewhere:
		d.relocate()
		d.retry(q, a.Err)
		q.failures = min(q.failures, patience) // leaders may move faster than a long backoff could follow
	case client.Again:
		d.retry(q, a.Err)
	case client.Denied:
		if q.denied(d.p.grace) {
			d.fail(q.index[0], &sink.FatalError{Err: d.p.explainTopic(a.Err, q.topic)})
			return
		}
		d.retry(q, a.Err)
	case client.Unordered:
		d.reorder(q, a.Err, inDoubt)
	case client.TooLarge:
		d.p.cluster.ForgetLimit(q.topic)
		d.narrow(q, a.Err, inDoubt, -1)
	case client.Invalid:
		d.narrow(q, a.Err, inDoubt, a.Culprit)
	default:
		d.hopeless(q, a.Err)
	}
}

// hopeless deals with an answer that every batch like this one gets: relay sends another kind if it
// can.
func (d *delivery) hopeless(q *partitionQueue, err error) {
	p := q.pending
	packed := client.CodecIn(p.set) != 0
	switch {
	case client.IsCodecRefused(err) && packed && d.p.fallBack(p.codec, err):
		p.codec, p.set = d.p.codec, nil // the sequence numbers stay
		if !p.doubt {
			q.pending = nil
		}
		return
	case client.IsCodecRefused(err) && packed:
		err = explained(codecRefused(p.codec), err)
	case errors.Is(err, kafkago.UnsupportedForMessageFormat) && d.txn != nil:
		err = d.txn.refused(err)
	case errors.Is(err, kafkago.UnsupportedForMessageFormat) && p.session.Valid() && d.p.doesWithout(err):
		q.place.Adopt(client.NoSession)
		q.pending = nil
		return
	}
	d.fail(q.index[0], &sink.FatalError{Err: d.p.explainTopic(err, q.topic)})
}

// acknowledge takes the head off q: it is durable.
func (d *delivery) acknowledge(q *partitionQueue) {
	q.place.Advance(q.pending.records)
	n := min(q.pending.records, len(q.index)) // of an earlier Publish it may hold more
	for _, i := range q.index[:n] {
		d.acked[i] = true
	}
	now := time.Now()
	for _, key := range q.pending.keys[min(n, len(q.pending.keys)):] {
		d.p.left.stored[key] = now
	}
	q.index, q.pending = q.index[n:], nil
	q.worked()
	d.progress, d.progressed = now, true
	d.locating.failures = 0
	if d.trouble != nil && !slices.ContainsFunc(d.queues, func(q *partitionQueue) bool { return q.failures > 0 }) {
		d.trouble, d.troubled = nil, time.Time{}
	}
}

// reorder deals with a leader that does not accept the sequence number or the session. It no longer
// knows what this producer stored before: the topic was made again, or acknowledged records were
// lost by an election of a replica that was not in sync.
//
// Where the head is in no doubt, it is not stored, and it goes on in a new session. Otherwise
// nobody can tell whether an earlier try of it is stored: the error says so, and what the caller
// publishes again may be a duplicate of this one record batch.
func (d *delivery) reorder(q *partitionQueue, err error, inDoubt bool) {
	if d.txn != nil {
		d.fail(q.index[0], d.txn.refused(err))
		return
	}
	err = fmt.Errorf("partition %d of kafka topic %s has lost count of what relay stored in it (topic made anew, or records lost by an unclean election): %w", q.partition, q.topic, err)
	if inDoubt {
		q.pending.refused = true
		d.fail(q.index[0], err)
		return
	}
	d.p.log.Warn("a kafka partition does not know relay's earlier messages, going on in a new producer session",
		zap.String("topic", q.topic), zap.Int32("partition", q.partition), zap.Error(err))
	if q.place.ID == d.p.session.ID { // in whatever epoch
		d.p.session = client.NoSession
	}
	q.place.Adopt(client.NoSession)
	d.retry(q, err)
}

// narrow looks for the record that the leader refuses: in ever smaller batches, or at once where
// the leader names it (culprit is its place in the batch, else -1). The batch in which it is was
// not stored, so its sequence numbers are free.
func (d *delivery) narrow(q *partitionQueue, err error, inDoubt bool, culprit int) {
	p := q.pending
	switch {
	case inDoubt:
		p.refused = true
		d.fail(q.index[0], fmt.Errorf("kafka topic %s refuses a record batch that it may have stored before: %w", q.topic, d.p.explainTopic(err, q.topic)))
		return
	case p.records == 1:
		d.fail(q.index[0], d.refused(q, err))
	case culprit > 0 && culprit < p.records:
		q.most = culprit // up to it first, so that it is the head then
	case culprit == 0:
		q.most = 1
	default:
		q.most = p.records / 2
	}
	d.trouble = err
	q.pending = nil
}

// refused is the verdict on the head of q, which the leader refuses in its own batch.
func (d *delivery) refused(q *partitionQueue, err error) *sink.RejectedError {
	r := &sink.RejectedError{Topic: q.topic}
	if errors.Is(err, kafkago.MessageSizeTooLarge) || errors.Is(err, kafkago.RecordListTooLarge) {
		r.Size = client.BatchBytes(q.pending.set)
		if q.limit.Known {
			r.Limit = q.limit.Bytes
		}
		r.Reason = fmt.Sprintf("its record batch of %d bytes (key, headers and body, compressed %s) is larger than the topic takes: %v", r.Size, d.p.cfg.Compression, err)
		return r
	}
	r.Reason = fmt.Sprintf("the broker refuses the record as it is: %v", err)
	return r
}
