package kafka

import (
	"slices"
	"time"

	"workos-relay/sink/kafka/internal/client"
)

// What a Publish leaves behind that did not end well, so that the next one, which begins after the
// durable prefix, stores nothing twice and nothing out of order. It holds no memory of the caller
// but strings.

// carryOverForget is when what was left behind is given up because nobody has come back to it.
const carryOverForget = 10 * time.Minute

// carryOver is kept by a publisher.
type carryOver struct {
	stored  map[messageKey]time.Time          // acknowledged, though behind the durable prefix
	doubt   map[client.Partition]*recordBatch // may be stored: sent again as they are, the broker recognises them
	doubtIn map[messageKey]int32              // the partitions of the messages in doubt
}

func newCarryOver() carryOver {
	return carryOver{stored: make(map[messageKey]time.Time), doubt: make(map[client.Partition]*recordBatch)}
}

func (c *carryOver) empty() bool { return len(c.stored) == 0 && len(c.doubt) == 0 }

// expire gives up what was left behind long ago, and returns the partitions in which something was
// in doubt.
func (c *carryOver) expire(now time.Time) (given []client.Partition) {
	for key, at := range c.stored {
		if now.Sub(at) > carryOverForget {
			delete(c.stored, key)
		}
	}
	for p, b := range c.doubt {
		if now.Sub(b.left) > carryOverForget {
			delete(c.doubt, p)
			given = append(given, p)
		}
	}
	return given
}

// takeOver marks the messages as acknowledged that an earlier Publish has stored.
func (c *carryOver) takeOver(m *batchState) {
	c.doubtIn = nil
	if c.empty() {
		return
	}
	for i := range m.batch {
		key := m.key(i)
		if _, ok := c.stored[key]; ok {
			m.acked[i] = true
			delete(c.stored, key)
		}
	}
	c.doubtIn = make(map[messageKey]int32)
	for p, b := range c.doubt {
		for _, key := range b.keys {
			c.doubtIn[key] = p.Number
		}
	}
}

// wasIn returns the partition in which an earlier Publish has left batch[i] in doubt.
func (c *carryOver) wasIn(m *batchState, i int) (partition int32, ok bool) {
	if len(c.doubtIn) == 0 {
		return 0, false
	}
	partition, ok = c.doubtIn[m.key(i)]
	return partition, ok
}

// resume makes what is in doubt in the partition of q the head of q. It reports false if q does not
// begin with the same messages: the caller of Publish goes on from elsewhere, and the next epoch
// has to shut the old ones out.
func (c *carryOver) resume(q *partitionQueue, m *batchState) bool {
	p := q.id()
	b := c.doubt[p]
	if b == nil {
		return true
	}
	delete(c.doubt, p)
	for n, i := range q.index {
		if n == len(b.keys) {
			break
		}
		if m.key(i) != b.keys[n] {
			return false
		}
	}
	q.pending = b
	return true
}

// keepUnfinished keeps what the next Publish has to know, and returns the queues of which the head
// is in doubt and cannot be kept: its messages may yet arrive at the broker, and the caller may
// publish them again. The next epoch shuts the late ones out as soon as the partition has taken a
// message of it; it cannot tell whether they are stored already.
func (c *carryOver) keepUnfinished(m *batchState, queues []*partitionQueue) (lost []*partitionQueue) {
	now := time.Now()
	for i := m.durable; i < len(m.batch); i++ {
		if m.acked[i] && m.batch[i].Position.EventID != "" {
			c.stored[m.key(i)] = now
		}
	}
	for _, q := range queues {
		p := q.pending
		if p == nil || !p.doubt {
			continue
		}
		if p.refused || !c.recognizable(q, m) {
			lost = append(lost, q)
			continue
		}
		p.left = now
		c.doubt[q.id()] = p
	}
	return lost
}

// recognizable notes which messages the head of q has, and reports whether the next Publish can
// recognize them.
func (c *carryOver) recognizable(q *partitionQueue, m *batchState) bool {
	p := q.pending
	if p.keys == nil {
		for _, i := range q.index[:p.records] {
			p.keys = append(p.keys, m.key(i))
		}
	}
	return !slices.ContainsFunc(p.keys, func(k messageKey) bool { return k.event == "" })
}
