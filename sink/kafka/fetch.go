package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	readUncommitted int8 = 0
	readCommitted   int8 = 1
)

// fetch reads from the leader of a partition, beginning at or before offset, which must lie before the partition's end.
func (s *Sink) fetch(ctx context.Context, p partitionID, isolation int8, offset int64) (*fetch.ResponsePartition, error) {
	s.cluster.watch([]string{p.topic})
	req := &fetch.Request{
		ReplicaID: -1, MaxWaitTime: fetchWait, MinBytes: 1, MaxBytes: fetchBytes, IsolationLevel: isolation,
		SessionID: 0, SessionEpoch: -1, // no session: https://kafka.apache.org/protocol, KIP-227
		Topics: []fetch.RequestTopic{{Topic: p.topic, Partitions: []fetch.RequestPartition{{
			Partition: p.number, CurrentLeaderEpoch: -1, FetchOffset: offset, LogStartOffset: -1, PartitionMaxBytes: fetchBytes,
		}}}},
	}
	r, err := s.fetchAll(ctx, req)
	if err != nil {
		return nil, err
	}
	if r.ErrorCode != 0 {
		return nil, kafkago.Error(r.ErrorCode)
	}
	if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
		return nil, errors.New("the broker's answer leaves the partition out")
	}
	answer := &r.Topics[0].Partitions[0]
	if answer.ErrorCode != 0 {
		return nil, kafkago.Error(answer.ErrorCode)
	}
	if answer.RecordSet.Records == nil { // a leader that was only just elected may not know yet how far the partition goes
		return nil, fmt.Errorf("the broker sends nothing, although the partition goes on there: %w", kafkago.OffsetNotAvailable)
	}
	return answer, nil
}

// throttledTries is how often a fetch is sent again because the broker throttles relay.
const throttledTries = 10

// fetchAll sends a fetch until its answer has records: a broker that throttles relay sends none.
func (s *Sink) fetchAll(ctx context.Context, req *fetch.Request) (*fetch.Response, error) {
	for try := 1; ; try++ {
		res, err := s.cluster.roundTrip(ctx, req)
		if err != nil {
			return nil, err
		}
		r := res.(*fetch.Response)
		if len(r.Topics) > 0 || r.ThrottleTimeMs <= 0 || r.ErrorCode != 0 {
			return r, nil
		}
		if try == throttledTries {
			return nil, &errThrottled{time.Duration(r.ThrottleTimeMs) * time.Millisecond}
		}
	}
}

// entry is a record, and what its record batch says of it. It is valid until the function returns that it is given to.
type entry struct {
	*protocol.Record
	producer      int64 // id; -1 where there is none
	transactional bool
	control       bool // it ends the transaction of producer, and is no message
}

// walk calls fn for each record of an answer of fetch from an offset on, and returns the offset to go on from. That is at least one more:
// compaction leaves record batches without a record.
func walk(answer *fetch.ResponsePartition, from int64, fn func(entry) error) (next int64, err error) {
	next = from
	stream, _ := answer.RecordSet.Records.(*protocol.RecordStream)
	if stream == nil {
		return next, fmt.Errorf("a record batch of unknown kind %T", answer.RecordSet.Records)
	}
	for _, batch := range stream.Records {
		e := entry{producer: -1}
		base := int64(-1)
		switch b := batch.(type) {
		case *protocol.ControlBatch:
			e.control, e.producer, base = true, b.ProducerID, b.BaseOffset
		case *protocol.RecordBatch:
			e.transactional, e.producer, base = b.Attributes.Transactional(), b.ProducerID, b.BaseOffset
		}
		for {
			if e.Record, err = batch.ReadRecord(); errors.Is(err, io.EOF) {
				break
			}
			if err == nil && e.Offset >= next {
				err = fn(e)
			}
			if err != nil {
				return next, err
			}
			closeBytes(e.Record)
			next = max(next, e.Offset+1)
		}
		next = max(next, base+1)
	}
	return max(next, from+1), nil
}

func closeBytes(r *protocol.Record) {
	for _, b := range []protocol.Bytes{r.Key, r.Value} {
		if b != nil {
			_ = b.Close() // only gives memory back
		}
	}
}
