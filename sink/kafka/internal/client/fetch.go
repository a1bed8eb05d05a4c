package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"
)

const (
	fetchBytes = 4 << 20 // of one fetch; a record batch that is larger comes alone
	fetchWait  = 500     // milliseconds that a broker may wait for something to send
)

// Isolation levels of consumers: https://kafka.apache.org/protocol
const (
	ReadUncommitted int8 = 0
	ReadCommitted   int8 = 1
)

// Fetched is what a broker sends of one partition.
type Fetched struct {
	Broker  string                      // its address
	Aborted []fetch.ResponseTransaction // by first offset
	Records []byte                      // a record set, for Walk
}

// Fetch reads from the leader of a partition, beginning at or before offset, which must lie before
// the partition's end.
func (c *Cluster) Fetch(ctx context.Context, p Partition, isolation int8, offset int64) (*Fetched, error) {
	c.Watch([]string{p.Topic})
	req := fetch.Request{
		ReplicaID: -1, MaxWaitTime: fetchWait, MinBytes: 1, MaxBytes: fetchBytes, IsolationLevel: isolation,
		SessionID: 0, SessionEpoch: -1, // no session: https://kafka.apache.org/protocol, KIP-227
		Topics: []fetch.RequestTopic{{Topic: p.Topic, Partitions: []fetch.RequestPartition{{
			Partition: p.Number, CurrentLeaderEpoch: -1, FetchOffset: offset, LogStartOffset: -1, PartitionMaxBytes: fetchBytes,
		}}}},
	}
	r, err := c.fetchAll(ctx, req)
	if err != nil {
		return nil, err
	}
	if r.code != 0 {
		return nil, kafkago.Error(r.code)
	}
	if len(r.partitions) != 1 || r.partitions[0].Partition != p {
		return nil, errors.New("the broker's answer leaves the partition out")
	}
	answer := &r.partitions[0]
	if answer.code != 0 {
		return nil, kafkago.Error(answer.code)
	}
	if len(answer.Records) == 0 { // a leader that was only just elected may not know yet how far the partition goes
		return nil, fmt.Errorf("the broker sends nothing, although the partition goes on there: %w", kafkago.OffsetNotAvailable)
	}
	return &answer.Fetched, nil
}

// throttledTries is how often a fetch is sent again because the broker throttles the client.
const throttledTries = 10

// fetchAll sends a fetch until its answer has records: a broker that throttles the client sends
// none.
func (c *Cluster) fetchAll(ctx context.Context, req fetch.Request) (*fetchAnswer, error) {
	for try := 1; ; try++ {
		res, err := c.RoundTrip(ctx, &fetchRequest{Request: req, clientID: c.ClientID})
		if err != nil {
			return nil, err
		}
		r := res.(*fetchAnswer)
		if len(r.partitions) > 0 || r.throttle <= 0 || r.code != 0 {
			return r, nil
		}
		if try == throttledTries {
			return nil, &ThrottledError{r.throttle}
		}
	}
}

const (
	leastFetchVersion = 4 // the first one that knows transactions
	mostFetchVersion  = 11
)

// fetchRequest is kafka-go's fetch.Request with an answer that this package reads.
type fetchRequest struct {
	fetch.Request
	clientID string
	version  int16
}

var (
	_ protocol.BrokerMessage = (*fetchRequest)(nil)
	_ protocol.RawExchanger  = (*fetchRequest)(nil)
)

// Required implements protocol.RawExchanger.
func (r *fetchRequest) Required(versions map[protocol.ApiKey]int16) bool {
	r.version = versions[protocol.Fetch] // the newest that kafka-go and the broker know
	return true
}

// RawExchange implements protocol.RawExchanger.
func (r *fetchRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if r.version < leastFetchVersion || r.version > mostFetchVersion {
		return nil, fmt.Errorf("the broker knows the request Fetch in version %d, and relay needs one of %d to %d", r.version, leastFetchVersion, mostFetchVersion)
	}
	if err := protocol.WriteRequest(rw, r.version, ownCorrelation, r.clientID, &r.Request); err != nil {
		return nil, err
	}
	answer, err := readOwnAnswer(rw, LargestFetch, fetchBytes+64<<10)
	if err != nil {
		return nil, err
	}
	a := &fetchAnswer{}
	if err := a.decode(&wireReader{data: answer}, r.version); err != nil {
		return nil, badAnswer(rw, protocol.Fetch, err)
	}
	for i := range a.partitions {
		a.partitions[i].Broker = nameOf(rw)
	}
	return a, nil
}

// fetchAnswer is the answer to a fetchRequest.
type fetchAnswer struct {
	throttle   time.Duration
	code       int16
	partitions []fetchedPartition
}

type fetchedPartition struct {
	Partition
	Fetched
	code int16
}

// ApiKey implements protocol.Message.
func (*fetchAnswer) ApiKey() protocol.ApiKey { return protocol.Fetch } //nolint:revive // kafka-go's name

// decode reads an answer of the versions 4 to 11: https://kafka.apache.org/protocol
func (a *fetchAnswer) decode(d *wireReader, version int16) error {
	a.throttle = time.Duration(d.int32()) * time.Millisecond
	if version >= 7 {
		a.code = d.int16()
		d.int32() // session
	}
	d.array(func() {
		topic := d.string()
		d.array(func() {
			p := fetchedPartition{Partition: Partition{topic, d.int32()}, code: d.int16()}
			d.int64() // high watermark
			d.int64() // last stable offset
			if version >= 5 {
				d.int64() // start of the log
			}
			d.array(func() {
				p.Aborted = append(p.Aborted, fetch.ResponseTransaction{ProducerID: d.int64(), FirstOffset: d.int64()})
			})
			if version >= 11 {
				d.int32() // preferred replica
			}
			p.Records = d.bytes()
			if len(a.partitions) > 0 { // the client asks for one
				d.fail()
				return
			}
			slices.SortFunc(p.Aborted, func(a, b fetch.ResponseTransaction) int { return cmp.Compare(a.FirstOffset, b.FirstOffset) })
			a.partitions = append(a.partitions, p)
		})
	})
	if d.short {
		return errors.New("it is cut short, or claims what is not there")
	}
	return nil
}
