package nats

import (
	"strconv"

	"github.com/nats-io/nats.go"

	"workos-relay/sink"
)

// encoder makes messages of the bus, one after the other. nats.go writes a message out before its
// PublishMsg returns, so that the next one can be made in the place of it.
type encoder struct {
	msg    nats.Msg
	header nats.Header
	values []string // of the headers, each in an array of one that lies in here
}

// encode returns m as a message of the bus, valid until the next call.
func (e *encoder) encode(m *sink.Message, reply string, withID bool) *nats.Msg {
	if e.header == nil {
		e.header = make(nats.Header, 8)
	}
	clear(e.header)
	e.values = e.values[:0]
	e.msg = nats.Msg{Subject: m.Topic, Reply: reply, Header: e.header, Data: m.Body}
	for _, h := range m.Headers {
		if have, ok := e.header[h.Key]; ok {
			e.header[h.Key] = append(have, h.Value)
			continue
		}
		e.set(h.Key, h.Value)
	}
	if withID && m.ID != "" {
		e.set(msgIDHeader, m.ID)
	}
	return &e.msg
}

// set sets a header of the message that was made last.
func (e *encoder) set(key, value string) {
	e.values = append(e.values, value)
	n := len(e.values)
	e.header[key] = e.values[n-1 : n : n]
}

// encodeInBatch returns the message of a commit at index.
func (e *encoder) encodeInBatch(c *commit, index int, reply string) *nats.Msg {
	msg := e.encode(c.at(index), reply, false)
	if len(c.batch) == 0 {
		return msg
	}
	e.set(batchIDHeader, c.id)
	e.set(batchSequenceHeader, strconv.Itoa(index+1))
	if index == len(c.batch) {
		e.set(batchCommitHeader, "1")
	}
	return msg
}
