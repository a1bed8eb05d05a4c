package kafka

import (
	"errors"
	"fmt"
	"math"

	kafkago "github.com/segmentio/kafka-go"

	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// placer finds the partition of each message of a delivery, and holds messages against the limits
// of their topics. It fills the queues of a sender.
type placer struct {
	*course
	out     *sender
	waiting map[string]*topicQueue // topics whose partitions are not known yet
}

// topicQueue holds the messages of a topic until its partitions are known.
type topicQueue struct {
	topic string
	index []int
	backoff
}

// sort puts the messages in the queues of their topics, as far as their topics are legal names.
func (pl *placer) sort() {
	for i := range pl.batch {
		if pl.acked[i] {
			continue
		}
		topic := pl.batch[i].Topic
		q := pl.waiting[topic]
		if q == nil {
			if reason := illegalTopicName(topic); reason != "" {
				pl.fail(i, &sink.RejectedError{Topic: topic, Reason: fmt.Sprintf("the topic name %q %s", topic, reason)})
				return
			}
			q = &topicQueue{topic: topic}
			pl.waiting[topic] = q
		}
		q.index = append(q.index, i)
	}
}

// assignPartitions moves the messages of every topic whose partitions are known to the queues of
// their partitions.
func (pl *placer) assignPartitions() {
	if pl.layout == nil {
		return
	}
	for _, t := range pl.waiting {
		if t.index[0] >= pl.cut {
			continue
		}
		tl, ok := pl.layout.Topics[t.topic]
		switch {
		case ok && tl.Err == nil && len(tl.Leaders) > 0:
			if pl.sized(t, tl.Limit) {
				pl.distribute(t, tl)
			}
		case pl.locating.wanted || pl.locating.busy: // the answer is under way
		default:
			pl.lookAgain(t, tl.Err)
		}
	}
}

// lookAgain handles a topic that the cluster does not show: it is looked for again, since
// somebody may create it.
func (pl *placer) lookAgain(t *topicQueue, err error) {
	if err == nil {
		err = kafkago.UnknownTopicOrPartition
	}
	explained := pl.p.explainTopic(err, t.topic)
	switch {
	case errors.Is(err, kafkago.InvalidTopic):
		pl.fail(t.index[0], &sink.RejectedError{Topic: t.topic, Reason: explained.Error()})
		return
	case client.IsDenied(err) && t.denied(pl.p.grace):
		pl.fail(t.index[0], &sink.FatalError{Err: explained})
		return
	}
	pl.complain(explained, t.topic, -1)
	pl.relocate()
}

// sized holds each message against the topic's limit, and fails the first one that is too large. It
// reports false where the limit must be read afresh first: a limit that was raised meanwhile must
// not cost an event.
func (pl *placer) sized(t *topicQueue, lim client.Limit) bool {
	for n, i := range t.index {
		if i >= pl.cut {
			t.index = t.index[:n]
			break
		}
		size := client.BatchHeaderBytes + messageSize(&pl.batch[i], 0)
		if size <= lim.Bytes && size <= client.MaxMessageBytes {
			if r := pl.overRequest(i, size); r != nil {
				pl.fail(i, r)
				t.index = t.index[:n]
				break
			}
			continue
		}
		if lim.At.Before(pl.started) {
			pl.limitsSince, pl.held = pl.started, min(pl.held, i)
			pl.locating.wanted = true
			return false
		}
		if r := pl.oversize(i, size, lim); r != nil {
			pl.fail(i, r)
			t.index = t.index[:n]
			break
		}
	}
	return true
}

// oversize returns why batch[i], a record batch of size bytes before compression, can never be
// published; nil where compression makes it fit, or where the limit may not be read and the broker
// must judge.
func (pl *placer) oversize(i, size int, lim client.Limit) *sink.RejectedError {
	m := &pl.batch[i]
	if size > client.MaxMessageBytes {
		return &sink.RejectedError{Topic: m.Topic, Size: size, Limit: client.MaxMessageBytes,
			Reason: fmt.Sprintf("key, headers and body make a record batch of %d bytes; relay sends at most %d in one request to Kafka", size, client.MaxMessageBytes)}
	}
	if r := pl.overRequest(i, size); r != nil || !lim.Known {
		return r
	}
	set, err := pl.p.encodeMessages(client.BatchSpec{Session: client.NoSession, Codec: pl.p.codec, Time: pl.started}, pl.batch, []int{i})
	if err == nil && client.BatchBytes(set) <= lim.Bytes {
		return nil
	}
	r := &sink.RejectedError{Topic: m.Topic, Size: size, Limit: lim.Bytes}
	if err == nil {
		r.Size = client.BatchBytes(set)
	}
	r.Reason = fmt.Sprintf("key, headers and body make a record batch of %d bytes, %d with compression %s; max.message.bytes of the topic is %d", size, r.Size, pl.p.cfg.Compression, lim.Bytes)
	return r
}

// overRequest returns why batch[i], a record batch of size bytes before compression, needs a larger
// request than max_request_bytes allows; nil if it does not.
func (pl *placer) overRequest(i, size int) *sink.RejectedError {
	m, most := &pl.batch[i], int(pl.p.cfg.MaxRequestBytes)
	if most == 0 || size+frameBytes(m.Topic) <= pl.p.requestRoom(most) {
		return nil
	}
	packed := size
	set, err := pl.p.encodeMessages(client.BatchSpec{Session: client.NoSession, Codec: pl.p.codec, Time: pl.started}, pl.batch, []int{i})
	if err == nil {
		packed = client.BatchBytes(set)
	}
	if packed+frameBytes(m.Topic)-client.BatchHeaderBytes+pl.p.headBytes() <= most {
		return nil
	}
	return &sink.RejectedError{Topic: m.Topic, Size: packed, Limit: most, Reason: fmt.Sprintf("key, headers and body make a record batch of %d bytes, "+
		"%d with compression %s; max_request_bytes is %d", size, packed, client.CodecName(pl.p.codec), most)}
}

// distribute gives each message of t to the queue of its partition.
func (pl *placer) distribute(t *topicQueue, tl client.TopicLayout) {
	delete(pl.waiting, t.topic)
	pl.p.counted(t.topic, len(tl.Leaders))
	queues := make([]*partitionQueue, len(tl.Leaders))
	numbers := partitionNumbers(len(queues))
	unkeyed := int32(-1)
	var begun []*partitionQueue
	for _, i := range t.index {
		p := unkeyed
		switch key := pl.batch[i].Key; {
		case key != nil:
			p = partitionOf(key, numbers)
		case pl.inDoubt(i, len(queues), &p):
		case p < 0:
			// Messages without a key ask for no order: one partition for those of the batch, the
			// next one for the next batch.
			unkeyed = int32(pl.p.unkeyed % len(queues)) //nolint:gosec // a partition number
			pl.p.unkeyed++
			p = unkeyed
		}
		q := queues[p]
		if q == nil {
			q = &partitionQueue{topic: t.topic, partition: p, place: pl.p.placeIn(client.Partition{Topic: t.topic, Number: p}), limit: tl.Limit, most: math.MaxInt}
			queues[p] = q
			pl.out.queues = append(pl.out.queues, q)
			begun = append(begun, q)
		}
		q.index = append(q.index, i)
	}
	if pl.txn != nil {
		return
	}
	for _, q := range begun {
		if !pl.p.left.resume(q, pl.batchState) {
			pl.p.restart(q.place)
		}
	}
}

// inDoubt reports whether an earlier Publish has left batch[i] in doubt in one of the partitions,
// and sets p to that.
func (pl *placer) inDoubt(i, partitions int, p *int32) bool {
	at, ok := pl.p.left.wasIn(pl.batchState, i)
	if !ok || int(at) >= partitions {
		return false
	}
	*p = at
	return true
}

var javaPartitioner = kafkago.Murmur2Balancer{Consistent: true}

// partitionOf returns the partition that Kafka's Java client chooses for a key: murmur2, made
// positive, modulo the count. numbers are the partitions, 0 to n-1.
//
// P2: a key has one partition, which keeps its order.
func partitionOf(key []byte, numbers []int) int32 {
	return int32(javaPartitioner.Balance(kafkago.Message{Key: key}, numbers...)) //nolint:gosec // a partition number
}

func partitionNumbers(n int) []int {
	numbers := make([]int, n)
	for i := range numbers {
		numbers[i] = i
	}
	return numbers
}
