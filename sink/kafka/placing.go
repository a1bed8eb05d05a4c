package kafka

import (
	"errors"
	"fmt"
	"math"

	kafkago "github.com/segmentio/kafka-go"

	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// place moves the messages of every topic whose partitions are known to the queues of their
// partitions.
func (d *delivery) place() {
	if d.layout == nil {
		return
	}
	for _, t := range d.waiting {
		if t.index[0] >= d.cut {
			continue
		}
		tl, ok := d.layout.Topics[t.topic]
		switch {
		case ok && tl.Err == nil && len(tl.Leaders) > 0:
			if d.sized(t, tl.Limit) {
				d.distribute(t, tl)
			}
		case d.locating.wanted || d.locating.busy: // the answer is under way
		default:
			d.missing(t, tl.Err)
		}
	}
}

// missing deals with a topic that the cluster does not show: it is looked for again, since somebody
// may create it.
func (d *delivery) missing(t *topicQueue, err error) {
	if err == nil {
		err = kafkago.UnknownTopicOrPartition
	}
	explained := d.p.explainTopic(err, t.topic)
	switch {
	case errors.Is(err, kafkago.InvalidTopic):
		d.fail(t.index[0], &sink.RejectedError{Topic: t.topic, Reason: explained.Error()})
		return
	case client.IsDenied(err) && t.denied(d.p.grace):
		d.fail(t.index[0], &sink.FatalError{Err: explained})
		return
	}
	d.complain(explained, t.topic, -1)
	d.relocate()
}

// sized holds each message against the topic's limit, and fails the first one that is too large. It
// reports false where the limit must be read afresh first: a limit that was raised meanwhile must
// not cost an event.
func (d *delivery) sized(t *topicQueue, lim client.Limit) bool {
	for n, i := range t.index {
		if i >= d.cut {
			t.index = t.index[:n]
			break
		}
		size := client.BatchHeaderBytes + messageSize(&d.batch[i], 0)
		if size <= lim.Bytes && size <= client.MaxMessageBytes {
			continue
		}
		if lim.At.Before(d.started) {
			d.limitsSince, d.held = d.started, min(d.held, i)
			d.locating.wanted = true
			return false
		}
		if r := d.oversize(i, size, lim); r != nil {
			d.fail(i, r)
			t.index = t.index[:n]
			break
		}
	}
	return true
}

// oversize returns why batch[i], a record batch of size bytes before compression, can never be
// published; nil where compression makes it fit, or where the limit may not be read and the broker
// must judge.
func (d *delivery) oversize(i, size int, lim client.Limit) *sink.RejectedError {
	m := &d.batch[i]
	if size > client.MaxMessageBytes {
		return &sink.RejectedError{Topic: m.Topic, Size: size, Limit: client.MaxMessageBytes,
			Reason: fmt.Sprintf("key, headers and body make a record batch of %d bytes; relay sends at most %d in one request to Kafka", size, client.MaxMessageBytes)}
	}
	if !lim.Known {
		return nil
	}
	set, err := encodeMessages(client.BatchSpec{Session: client.NoSession, Codec: d.p.codec, Time: d.started}, d.batch, []int{i})
	if err == nil && client.BatchBytes(set) <= lim.Bytes {
		return nil
	}
	r := &sink.RejectedError{Topic: m.Topic, Size: size, Limit: lim.Bytes}
	if err == nil {
		r.Size = client.BatchBytes(set)
	}
	r.Reason = fmt.Sprintf("key, headers and body make a record batch of %d bytes, %d with compression %s; max.message.bytes of the topic is %d", size, r.Size, d.p.cfg.Compression, lim.Bytes)
	return r
}

// distribute gives each message of t to the queue of its partition.
func (d *delivery) distribute(t *topicQueue, tl client.TopicLayout) {
	delete(d.waiting, t.topic)
	d.p.counted(t.topic, len(tl.Leaders))
	queues := make([]*partitionQueue, len(tl.Leaders))
	numbers := partitionNumbers(len(queues))
	unkeyed := int32(-1)
	var begun []*partitionQueue
	for _, i := range t.index {
		p := unkeyed
		switch key := d.batch[i].Key; {
		case key != nil:
			p = partitionOf(key, numbers)
		case d.wasIn(i, len(queues), &p):
		case p < 0:
			// Messages without a key ask for no order: one partition for those of the batch, the
			// next one for the next batch.
			unkeyed = int32(d.p.unkeyed % len(queues)) //nolint:gosec // a partition number
			d.p.unkeyed++
			p = unkeyed
		}
		q := queues[p]
		if q == nil {
			q = &partitionQueue{topic: t.topic, partition: p, place: d.p.placeIn(client.Partition{Topic: t.topic, Number: p}), limit: tl.Limit, most: math.MaxInt}
			queues[p] = q
			d.queues = append(d.queues, q)
			begun = append(begun, q)
		}
		q.index = append(q.index, i)
	}
	if d.txn == nil {
		for _, q := range begun {
			d.resume(q)
		}
	}
}

// wasIn reports whether an earlier Publish has left batch[i] in doubt in a partition, and sets p to
// that.
func (d *delivery) wasIn(i, partitions int, p *int32) bool {
	if len(d.doubtIn) == 0 {
		return false
	}
	at, ok := d.doubtIn[d.key(i)]
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
