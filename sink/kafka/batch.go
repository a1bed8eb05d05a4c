package kafka

import (
	"sort"
	"time"

	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// batchState is one batch of messages, and how far it is published.
type batchState struct {
	batch   []sink.Message
	acked   []bool
	durable int   // batch[:durable] is acknowledged
	behind  []int // bytes of batch[:i]; nil until they are needed
	cut     int   // batch[cut:] is not to be sent any more, because of failure
	held    int   // batch[held:] is not to be sent until the layout is there: batch[held] may be too large
	failure error // why batch[cut] cannot be published; nil while cut is the whole batch

	keys []messageKey // of batch; nil until they are needed
}

func newBatchState(batch []sink.Message) *batchState {
	return &batchState{batch: batch, acked: make([]bool, len(batch)), cut: len(batch), held: len(batch)}
}

// fail notes that batch[i] cannot be published. What comes before it still is; what comes after it
// is not begun any more.
func (m *batchState) fail(i int, err error) {
	if i < m.cut {
		m.cut, m.failure = i, err
	}
}

// allDurable reports whether every message that can be published is.
func (m *batchState) allDurable() bool {
	for m.durable < len(m.acked) && m.acked[m.durable] {
		m.durable++
	}
	return m.durable >= m.cut
}

// horizon returns where the messages end that may be sent before those in front of them are
// durable. The less may be under way, the nearer it is, so that what is stored is a long prefix of
// the batch and not a little of everything.
func (m *batchState) horizon(window int) int {
	if window >= client.WindowMost {
		return len(m.batch)
	}
	if m.behind == nil {
		m.behind = make([]int, len(m.batch))
		size := 0
		for i := range m.batch {
			m.behind[i] = size
			size += messageSize(&m.batch[i], 0)
		}
	}
	from := min(m.durable, len(m.batch)-1)
	return max(from+1, sort.SearchInts(m.behind, m.behind[from]+2*window))
}

// messageKey identifies a message over several calls of Publish: it is the nth of its event to its
// topic.
type messageKey struct {
	topic, event string
	nth          int
}

// key returns the key of batch[i].
func (m *batchState) key(i int) messageKey {
	if m.keys == nil {
		m.keys = keysOf(m.batch)
	}
	return m.keys[i]
}

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

// record is a message as a record of its topic, with the time of the batch. It is one pointer, so
// that neither the message is copied nor memory allocated when it becomes a client.ProducerRecord.
type record struct{ m *sink.Message }

// Time is zero, for that of the batch.
func (record) Time() time.Time { return time.Time{} }

// Key is the key of the record; nil if it has none.
func (r record) Key() []byte { return r.m.Key }

// Value is the body of the message.
func (r record) Value() []byte { return r.m.Body }

// Tombstone reports whether the message removes the object of its key.
func (r record) Tombstone() bool { return r.m.Removes() }

// Headers is the number of headers.
func (r record) Headers() int { return len(r.m.Headers) }

// Header returns one header.
func (r record) Header(n int) (key, value string) {
	h := &r.m.Headers[n]
	return h.Key, h.Value
}

// timedRecord is a record that has another time than its batch.
type timedRecord struct {
	record
	at time.Time
}

// Time is the time of the record; zero for that of the batch.
func (r *timedRecord) Time() time.Time { return r.at }

// messageSize is the size of m as record n of a record batch, before compression.
func messageSize(m *sink.Message, n int) int { return client.RecordSize(record{m}, n) }

// encodeMessages writes the messages batch[i], for each i of index and in that order, as one record
// batch: see encodeBatch.
func (c *common) encodeMessages(spec client.BatchSpec, batch []sink.Message, index []int) ([]byte, error) {
	r := new(timedRecord) // for all of them: EncodeBatch uses one at a time
	return client.EncodeBatch(spec, len(index), func(n int) client.ProducerRecord {
		m := &batch[index[n]]
		*r = timedRecord{record{m}, c.cfg.stamp(m, spec.Time)}
		return r
	})
}
