package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// TopicIDs returns the ids of those topics that exist, in hexadecimal, and those that do not. It
// returns nothing if the brokers know no ids.
func (c *Cluster) TopicIDs(ctx context.Context, topics []string) (ids map[string]string, gone map[string]bool, err error) {
	known, err := c.knowsTopicIDs(ctx)
	if err != nil || !known {
		return nil, nil, err
	}
	res, err := c.RoundTrip(ctx, &metadataWithIDs{clientID: c.ClientID, topics: topics})
	if err != nil {
		return nil, nil, fmt.Errorf("asking the cluster for the ids of topics: %w", err)
	}
	m := res.(*metadataWithIDs)
	return m.ids, m.gone, nil
}

// knowsTopicIDs reports whether the brokers know the ids of topics, as one of them has said. One
// that does not may be upgraded: it says so again with each connection. One that does is believed
// for good, also while the others are not upgraded yet.
func (c *Cluster) knowsTopicIDs(ctx context.Context) (bool, error) {
	c.mu.Lock()
	known := c.topicIDsKnown
	c.mu.Unlock()
	if known {
		return true, nil
	}
	requests, err := c.KnownRequests(ctx)
	if err != nil {
		return false, fmt.Errorf("asking the cluster what it can do: %w", err)
	}
	v, ok := requests[protocol.Metadata]
	known = ok && v.Least <= metadataVersion && v.Most >= metadataVersion
	c.mu.Lock()
	defer c.mu.Unlock()
	c.topicIDsKnown = c.topicIDsKnown || known
	return known, nil
}

// metadataVersion is the first version of Metadata whose answer has the ids of topics.
const metadataVersion = 10

// metadataWithIDs is a Metadata request of a version that kafka-go does not know. It never creates
// topics. It is its own answer.
type metadataWithIDs struct {
	clientID string
	topics   []string
	every    bool // of the cluster, as far as the client may see them, in place of topics
	ids      map[string]string
	gone     map[string]bool
}

var (
	_ protocol.Message      = (*metadataWithIDs)(nil)
	_ protocol.RawExchanger = (*metadataWithIDs)(nil)
)

// ApiKey implements protocol.Message.
func (*metadataWithIDs) ApiKey() protocol.ApiKey { return protocol.Metadata } //nolint:revive // kafka-go's name

// Required implements protocol.RawExchanger.
func (*metadataWithIDs) Required(map[protocol.ApiKey]int16) bool { return true }

// RawExchange implements protocol.RawExchanger. https://kafka.apache.org/protocol: Metadata,
// version 10.
func (m *metadataWithIDs) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	var b []byte
	b = binary.BigEndian.AppendUint16(b, uint16(protocol.Metadata))
	b = binary.BigEndian.AppendUint16(b, metadataVersion)
	b = binary.BigEndian.AppendUint32(b, ownCorrelation)
	b = binary.BigEndian.AppendUint16(b, uint16(len(m.clientID))) //nolint:gosec // validated
	b = append(b, m.clientID...)
	b = append(b, 0) // tagged fields
	if m.every {
		b = append(b, 0) // null
	} else {
		b = binary.AppendUvarint(b, uint64(len(m.topics))+1)
	}
	for _, t := range m.topics {
		b = append(b, make([]byte, 16)...) // no id
		b = binary.AppendUvarint(b, uint64(len(t))+1)
		b = append(b, t...)
		b = append(b, 0)
	}
	b = append(b, 0, 0, 0, 0)                                                                             // no creation, no authorized operations, tagged fields
	if _, err := rw.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil { //nolint:gosec // small
		return nil, err
	}
	answer, err := readOwnAnswer(rw, largestAnswer, largestSmallAnswer)
	if err != nil {
		return nil, err
	}
	d := &wireReader{data: answer}
	d.tags()
	m.decode(d)
	if d.short {
		return nil, badAnswer(rw, protocol.Metadata, errors.New("it is cut short, or claims what is not there"))
	}
	return m, nil
}

func (m *metadataWithIDs) decode(d *wireReader) {
	d.int32()               // throttle time
	d.compactArray(func() { // brokers
		d.int32()
		d.compactString()
		d.int32()
		d.compactString()
		d.tags()
	})
	d.compactString() // cluster id
	d.int32()         // controller
	m.ids, m.gone = make(map[string]string, len(m.topics)), make(map[string]bool)
	d.compactArray(func() {
		code := d.int16()
		name := d.compactString()
		id := d.take(16)
		d.take(1)               // internal
		d.compactArray(func() { // partitions
			d.int16()
			d.int32()
			d.int32()
			d.int32()
			for range 3 {
				d.compactArray(func() { d.int32() })
			}
			d.tags()
		})
		d.int32() // authorized operations
		d.tags()
		m.gone[name] = kafkago.Error(code) == kafkago.UnknownTopicOrPartition
		if code == 0 && !bytes.Equal(id, make([]byte, 16)) {
			m.ids[name] = hex.EncodeToString(id)
		}
	})
}
