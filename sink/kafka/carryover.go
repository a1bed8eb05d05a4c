package kafka

import (
	"time"

	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// What a Publish leaves behind that did not end well, so that the next one, which begins after the
// durable prefix, stores nothing twice and nothing out of order. It holds no memory of the caller
// but strings.

// carryOverForget is when what was left behind is given up because nobody has come back to it.
const carryOverForget = 10 * time.Minute

// messageKey identifies a message over several calls of Publish: it is the nth of its event to its
// topic.
type messageKey struct {
	topic, event string
	nth          int
}

// carryOver is kept by Sink.
type carryOver struct {
	stored map[messageKey]time.Time          // acknowledged, though behind the durable prefix
	doubt  map[client.Partition]*recordBatch // may be stored: sent again as they are, the broker recognises them
}

func newCarryOver() carryOver {
	return carryOver{stored: make(map[messageKey]time.Time), doubt: make(map[client.Partition]*recordBatch)}
}

func (c *carryOver) empty() bool { return len(c.stored) == 0 && len(c.doubt) == 0 }

// keysOf returns the keys of the messages of a batch, in its order.
func keysOf(batch []sink.Message) []messageKey {
	keys := make([]messageKey, len(batch))
	var nth map[messageKey]int // of topics that an event goes to more than once
	begin := 0                 // of the messages of this event, which are adjacent
	for i := range batch {
		if i > 0 && batch[i].Position.EventID != batch[i-1].Position.EventID {
			begin, nth = i, nil
		}
		key := messageKey{topic: batch[i].Topic, event: batch[i].Position.EventID}
		if i > begin {
			if nth == nil {
				nth = make(map[messageKey]int)
				for _, k := range keys[begin:i] {
					nth[messageKey{topic: k.topic, event: k.event}]++
				}
			}
			n := nth[key]
			nth[key]++
			key.nth = n
		}
		keys[i] = key
	}
	return keys
}

// takeOver prepares the delivery for what earlier ones have left behind: messages that are stored
// are not sent again.
func (d *delivery) takeOver() {
	left := &d.p.left
	for key, at := range left.stored {
		if d.started.Sub(at) > carryOverForget {
			delete(left.stored, key)
		}
	}
	for p, b := range left.doubt {
		if d.started.Sub(b.left) > carryOverForget {
			delete(left.doubt, p)
			d.p.restart(d.p.placeIn(p))
		}
	}
	if left.empty() {
		return
	}
	d.keys = keysOf(d.batch)
	for i, key := range d.keys {
		if _, ok := left.stored[key]; ok {
			d.acked[i] = true
			delete(left.stored, key)
		}
	}
	d.doubtIn = make(map[messageKey]int32)
	for p, b := range left.doubt {
		for _, key := range b.keys {
			d.doubtIn[key] = p.Number
		}
	}
}

// resume makes what is in doubt in the partition of q the head of q. If q does not begin with the
// same messages, the caller goes on from elsewhere, and the next epoch shuts the old ones out.
func (d *delivery) resume(q *partitionQueue) {
	p := q.id()
	b := d.p.left.doubt[p]
	if b == nil {
		return
	}
	delete(d.p.left.doubt, p)
	for n, i := range q.index {
		if n == len(b.keys) {
			break
		}
		if d.keys[i] != b.keys[n] {
			d.p.restart(q.place)
			return
		}
	}
	q.pending = b
}

// leave keeps what the next Publish has to know.
func (d *delivery) leave() {
	now := time.Now()
	for i := d.durable; i < len(d.batch); i++ {
		if d.acked[i] && d.batch[i].Position.EventID != "" {
			d.p.left.stored[d.key(i)] = now
		}
	}
	for _, q := range d.queues {
		p := q.pending
		if p == nil || !p.doubt {
			continue
		}
		if !p.refused && d.keep(q) {
			p.left = now
			d.p.left.doubt[q.id()] = p
			continue
		}
		// The messages may yet arrive at the broker, and the caller may publish them again. The
		// next epoch shuts the late ones out as soon as the partition has taken a message of it; it
		// cannot tell whether they are stored already.
		d.p.restart(q.place)
	}
}

// keep notes which messages the head of q has, and reports whether they can be recognised.
func (d *delivery) keep(q *partitionQueue) bool {
	p := q.pending
	if p.keys == nil {
		for _, i := range q.index[:p.records] {
			p.keys = append(p.keys, d.key(i))
		}
	}
	for _, key := range p.keys {
		if key.event == "" {
			return false
		}
	}
	return true
}

// key returns the key of batch[i].
func (d *delivery) key(i int) messageKey {
	if d.keys == nil {
		d.keys = keysOf(d.batch)
	}
	return d.keys[i]
}
