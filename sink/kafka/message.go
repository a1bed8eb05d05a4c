package kafka

import (
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// asRecord is a message as a record of its topic. It points to the message, so that none is copied.
type asRecord struct{ m *sink.Message }

// Key is the key of the record; nil if it has none.
func (r asRecord) Key() []byte { return r.m.Key }

// Value is the body of the message.
func (r asRecord) Value() []byte { return r.m.Body }

// Headers is the number of headers.
func (r asRecord) Headers() int { return len(r.m.Headers) }

// Header returns one header.
func (r asRecord) Header(n int) (key, value string) {
	h := &r.m.Headers[n]
	return h.Key, h.Value
}

// messageSize is the size of m as record n of a record batch, before compression.
func messageSize(m *sink.Message, n int) int { return client.RecordSize(asRecord{m}, n) }

// encodeMessages writes the messages batch[i], for each i of index and in that order, as one record
// batch: see encodeBatch.
func encodeMessages(spec client.BatchSpec, batch []sink.Message, index []int) ([]byte, error) {
	return client.EncodeBatch(spec, len(index), func(n int) client.ProducerRecord { return asRecord{&batch[index[n]]} })
}
