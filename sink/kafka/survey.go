package kafka

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

// A topic that is missing, or that ends earlier than before, is looked at so often before that is
// believed: a broker that has just started may not know of it yet, and a new leader may not know
// its end.
const (
	surveyLooks  = 8
	shorterLooks = 20
	surveyPause  = 500 * time.Millisecond
)

var (
	_ sink.Surveyor = (*Sink)(nil)
	_ sink.Surveyor = (*Ledger)(nil)
)

// Survey implements sink.Surveyor: a part is a topic. Brokers since Kafka 2.8 tell the id of a
// topic.
func (s *Sink) Survey(ctx context.Context, topics []string, known []checkpoint.Part) ([]checkpoint.Part, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	topics = slices.Compact(slices.Sorted(slices.Values(slices.DeleteFunc(slices.Clone(topics), func(t string) bool { return illegalTopicName(t) != "" }))))
	for look := 1; ; look++ {
		var parts []checkpoint.Part
		err := s.settle(ctx, func(ctx context.Context) (err error) {
			parts, err = s.surveyNow(ctx, topics)
			return err
		})
		if err != nil {
			return nil, s.prepareError(ctx, err)
		}
		back, missing := goneBack(known, topics, parts)
		if !back || missing && look >= surveyLooks || look >= shorterLooks {
			return parts, nil
		}
		s.cluster.refresh()
		if !pause(ctx, surveyPause) {
			return nil, context.Cause(ctx)
		}
	}
}

// goneBack reports whether a known part on one of the topics is missing, was made again, or ends
// earlier than it did; missing that it is not the last alone.
func goneBack(known []checkpoint.Part, topics []string, now []checkpoint.Part) (back, missing bool) {
	for _, k := range known {
		if !k.Used || !slices.Contains(topics, k.Topic) {
			continue
		}
		at := slices.IndexFunc(now, func(p checkpoint.Part) bool { return p.Topic == k.Topic })
		switch {
		case at < 0, k.ID != "" && now[at].ID != "" && k.ID != now[at].ID, now[at].Ends != nil && len(now[at].Ends) < len(k.Ends):
			back, missing = true, true
		case now[at].Ends == nil: // not known
		default:
			for i, end := range k.Ends {
				back = back || now[at].Ends[i] < end
			}
		}
	}
	return back, missing
}

func (s *Sink) surveyNow(ctx context.Context, topics []string) ([]checkpoint.Part, error) {
	answer, err := s.cluster.describe(ctx, topics)
	if err != nil {
		return nil, err
	}
	ids, gone, err := s.cluster.topicIDs(ctx, topics)
	if err != nil {
		return nil, err
	}
	var parts []checkpoint.Part
	byLeader := make(map[int32][]partitionID)
	for _, t := range answer.Topics {
		part := checkpoint.Part{Name: "kafka topic " + t.Name, Topic: t.Name, ID: ids[t.Name]}
		switch err := kafkago.Error(t.ErrorCode); {
		case err == kafkago.UnknownTopicOrPartition, err == kafkago.InvalidTopic, gone[t.Name]:
			continue
		case err == kafkago.TopicAuthorizationFailed: // Prepare says so
			parts = append(parts, part)
			continue
		case err != 0:
			return nil, s.explainTopic(err, t.Name)
		}
		part.Ends = make([]int64, len(t.Partitions))
		parts = append(parts, part)
		for _, p := range t.Partitions {
			byLeader[p.LeaderID] = append(byLeader[p.LeaderID], partitionID{t.Name, p.PartitionIndex})
		}
	}
	slices.SortFunc(parts, func(a, b checkpoint.Part) int { return strings.Compare(a.Name, b.Name) })
	for _, partitions := range byLeader {
		earliest, err := s.offsets(ctx, partitions, earliestOffset)
		if err != nil {
			return nil, err
		}
		latest, err := s.offsets(ctx, partitions, latestOffset)
		if err != nil {
			return nil, err
		}
		for at, end := range latest {
			i := slices.IndexFunc(parts, func(p checkpoint.Part) bool { return p.Topic == at.topic })
			if int(at.number) < len(parts[i].Ends) {
				parts[i].Ends[at.number] = end
				parts[i].Events += uint64(max(end-earliest[at], 0)) //nolint:gosec // not negative
			}
		}
	}
	return parts, nil
}

// Survey implements sink.Surveyor. The topic of the position is one more part.
func (l *Ledger) Survey(ctx context.Context, topics []string, known []checkpoint.Part) ([]checkpoint.Part, error) {
	parts, err := l.sink.Survey(ctx, slices.Concat(topics, []string{l.topic}), known)
	for i := range parts {
		if parts[i].Topic == l.topic {
			parts[i].Position, parts[i].Events = true, 0
		}
	}
	return parts, err
}

// topicIDs returns the ids of those topics that exist, in hexadecimal, and those that do not. It
// returns nothing if the brokers know no
// ids.
func (c *cluster) topicIDs(ctx context.Context, topics []string) (ids map[string]string, gone map[string]bool, err error) {
	known, err := c.knowsTopicIDs(ctx)
	if err != nil || !known {
		return nil, nil, err
	}
	res, err := c.roundTrip(ctx, &metadataWithIDs{clientID: c.clientID, topics: topics})
	if err != nil {
		return nil, nil, fmt.Errorf("asking the cluster for the ids of topics: %w", err)
	}
	m := res.(*metadataWithIDs)
	return m.ids, m.gone, nil
}

// knowsTopicIDs asks a broker, once it has answered no more.
func (c *cluster) knowsTopicIDs(ctx context.Context) (bool, error) {
	c.mu.Lock()
	known := c.topicIDsKnown
	c.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	res, err := c.roundTrip(ctx, &apiversions.Request{})
	if err != nil {
		return false, fmt.Errorf("asking the cluster what it can do: %w", err)
	}
	can := false
	for _, k := range res.(*apiversions.Response).ApiKeys {
		can = can || protocol.ApiKey(k.ApiKey) == protocol.Metadata && k.MinVersion <= metadataVersion && k.MaxVersion >= metadataVersion
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.topicIDsKnown = &can
	return can, nil
}

// metadataVersion is the first version of Metadata whose answer has the ids of topics.
const metadataVersion = 10

// metadataWithIDs is a Metadata request of a version that kafka-go does not know. It never creates
// topics. It is its own answer.
type metadataWithIDs struct {
	clientID string
	topics   []string
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
	b = binary.AppendUvarint(b, uint64(len(m.topics))+1)
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
