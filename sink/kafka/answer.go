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

// send encodes the heads of the queues if that is still to be done and sends them. The queues
// belong to it until it returns.
func (s *sender) send(ctx context.Context, queues []*partitionQueue) (*client.Produced, error) {
	transactionalID := ""
	if s.txn != nil {
		transactionalID = s.txn.coordinator.ID
	}
	batches := make([]client.Batch, 0, len(queues))
	for _, q := range queues {
		if err := s.encode(q); err != nil {
			q.pending.err = err
			continue
		}
		batches = append(batches, client.Batch{Partition: q.id(), Set: q.pending.set})
	}
	return s.p.cluster.Produce(ctx, transactionalID, batches)
}

func (s *sender) encode(q *partitionQueue) error {
	p := q.pending
	if p.set != nil {
		return nil
	}
	spec := client.BatchSpec{Session: p.session, Sequence: p.sequence, Transactional: s.txn != nil, Codec: p.codec, Time: time.Now()}
	set, err := s.p.encodeMessages(spec, s.batch, q.index[:p.records])
	p.set = set
	return err
}

// answered follows what the leader says about the head of q.
func (s *sender) answered(q *partitionQueue, a client.Acknowledgement) {
	if a.Verdict == client.Stored {
		if s.txn != nil {
			s.txn.recordPosition(q, a)
		}
		s.acknowledge(q)
		return
	}
	if s.blamesCodec(q, a) && s.recode(q, a.Err) {
		return
	}
	inDoubt := q.pending.doubt // by an earlier try: this answer is about the present one
	q.pending.doubt = inDoubt || a.Doubt
	switch a.Verdict {
	case client.Elsewhere:
		s.relocate()
		s.retry(q, a.Err)
		q.failures = min(q.failures, patience) // leaders may move faster than a long backoff could follow
	case client.Again:
		s.retry(q, a.Err)
	case client.Denied:
		if q.denied(s.p.grace) {
			s.fail(q.index[0], &sink.FatalError{Err: s.p.explainTopic(a.Err, q.topic)})
			return
		}
		s.retry(q, a.Err)
	case client.Unordered:
		s.reorder(q, a.Err, inDoubt)
	case client.TooLarge:
		s.p.cluster.ForgetLimit(q.topic)
		s.narrow(q, a.Err, inDoubt, -1)
	case client.Invalid:
		s.narrow(q, a.Err, inDoubt, a.Culprit)
	default:
		s.hopeless(q, a.Err)
	}
}

// failuresUntilMistrust is how often in a row a record batch fails for a reason that may be its
// codec until another codec is used.
const failuresUntilMistrust = 3

// blamesCodec reports whether the answer about the head of q may mean that the cluster does not
// take its codec, although it does not say so.
func (s *sender) blamesCodec(q *partitionQueue, a client.Acknowledgement) bool {
	if a.Verdict == client.Invalid {
		return a.Culprit < 0 // a broker that names the record has read it
	}
	return a.Verdict == client.Again && client.IsCodecDoubted(a.Err) && q.failures+1 >= failuresUntilMistrust
}

// recode makes the head of q go out with another codec, after it has failed with err. It reports
// false if the codec is not at fault, or there is no other.
func (s *sender) recode(q *partitionQueue, err error) bool {
	if p := q.pending; client.CodecIn(p.set) == 0 || !s.p.mistrust(p.codec, err) {
		return false
	}
	s.repack(q)
	return true
}

// repack makes the head of q go out with the present codec. Its sequence numbers stay.
func (s *sender) repack(q *partitionQueue) {
	p := q.pending
	if p.codec, p.set = s.p.codec, nil; !p.doubt {
		q.pending = nil
	}
}

// hopeless deals with an answer that every batch like this one gets: relay sends another kind if it
// can.
func (s *sender) hopeless(q *partitionQueue, err error) {
	p := q.pending
	packed := client.CodecIn(p.set) != 0
	switch {
	case client.IsCodecRefused(err) && packed && s.p.fallBack(p.codec, err):
		s.repack(q)
		return
	case client.IsCodecRefused(err) && packed:
		err = explained(codecRefused(p.codec), err)
	case errors.Is(err, kafkago.UnsupportedForMessageFormat) && s.txn != nil:
		err = s.txn.refused(err)
	case errors.Is(err, kafkago.UnsupportedForMessageFormat) && p.session.Valid() && s.p.doesWithout(err):
		q.place.Adopt(client.NoSession)
		q.pending = nil
		return
	}
	s.fail(q.index[0], &sink.FatalError{Err: s.p.explainTopic(err, q.topic)})
}

// acknowledge takes the head off q: it is durable.
func (s *sender) acknowledge(q *partitionQueue) {
	if p := q.pending; client.CodecIn(p.set) != 0 && client.CodecName(p.codec) == client.CodecName(s.p.codec) {
		s.p.proven = true
	}
	q.place.Advance(q.pending.records)
	n := min(q.pending.records, len(q.index)) // of an earlier Publish it may hold more
	for _, i := range q.index[:n] {
		s.acked[i] = true
	}
	now := time.Now()
	for _, key := range q.pending.keys[min(n, len(q.pending.keys)):] {
		s.p.left.stored[key] = now
	}
	q.index, q.pending = q.index[n:], nil
	q.worked()
	s.progress, s.progressed = now, true
	s.locating.failures = 0
	if s.trouble != nil && !slices.ContainsFunc(s.queues, func(q *partitionQueue) bool { return q.failures > 0 }) {
		s.trouble, s.troubled = nil, time.Time{}
	}
}

// reorder deals with a leader that does not accept the sequence number or the session. It no longer
// knows what this producer stored before: the topic was made again, or acknowledged records were
// lost by an election of a replica that was not in sync.
//
// Where the head is in no doubt, it is not stored, and it goes on in a new session. Otherwise
// nobody can tell whether an earlier try of it is stored: the error says so, and what the caller
// publishes again may be a duplicate of this one record batch.
func (s *sender) reorder(q *partitionQueue, err error, inDoubt bool) {
	if s.txn != nil {
		s.fail(q.index[0], s.txn.refused(err))
		return
	}
	err = fmt.Errorf("partition %d of kafka topic %s has lost count of what relay stored in it (topic created again, or records lost by an unclean election): %w", q.partition, q.topic, err)
	if inDoubt {
		q.pending.refused = true
		s.fail(q.index[0], err)
		return
	}
	s.p.log.Warn("a kafka partition does not know relay's earlier messages, going on in a new producer session",
		zap.String("topic", q.topic), zap.Int32("partition", q.partition), zap.Error(err))
	if q.place.ID == s.p.session.ID { // in any epoch
		s.p.session = client.NoSession
	}
	q.place.Adopt(client.NoSession)
	s.retry(q, err)
}

// narrow looks for the record that the leader refuses: in ever smaller batches, or at once where
// the leader names it (culprit is its place in the batch, else -1). The batch in which it is was
// not stored, so its sequence numbers are free.
func (s *sender) narrow(q *partitionQueue, err error, inDoubt bool, culprit int) {
	p := q.pending
	switch {
	case inDoubt:
		p.refused = true
		s.fail(q.index[0], fmt.Errorf("kafka topic %s refuses a record batch that it may have stored before: %w", q.topic, s.p.explainTopic(err, q.topic)))
		return
	case p.records == 1:
		s.fail(q.index[0], s.refused(q, err))
	case culprit > 0 && culprit < p.records:
		q.most = culprit // up to it first, so that it is the head then
	case culprit == 0:
		q.most = 1
	default:
		q.most = p.records / 2
	}
	s.trouble = err
	q.pending = nil
}

// refused is the verdict on the head of q, which the leader refuses in its own batch.
func (s *sender) refused(q *partitionQueue, err error) *sink.RejectedError {
	r := &sink.RejectedError{Topic: q.topic}
	if errors.Is(err, kafkago.MessageSizeTooLarge) || errors.Is(err, kafkago.RecordListTooLarge) {
		r.Size = client.BatchBytes(q.pending.set)
		if q.limit.Known {
			r.Limit = q.limit.Bytes
		}
		r.Reason = fmt.Sprintf("its record batch of %d bytes (key, headers and body, compressed %s) is larger than the topic takes: %v", r.Size, s.p.cfg.Compression, err)
		return r
	}
	r.Reason = fmt.Sprintf("the broker refuses the record as it is: %v", err)
	if client.CodecIn(q.pending.set) != 0 && !s.p.proven {
		r.Reason += fmt.Sprintf("; if it refuses every record, it may not take compression %s: set compression: auto", s.p.cfg.Compression)
	}
	return r
}
