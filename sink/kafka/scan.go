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

	"workos-relay/sink"
)

const (
	scanBytes     = 4 << 20 // of one fetch; a record batch that is larger comes alone
	scanWait      = 500     // milliseconds that a broker may wait for something to send
	scanTries     = 8       // fetches in a row without an answer, until a scan gives up
	readCommitted = 1
)

var _ sink.Scanner = (*Sink)(nil)

// Logs implements sink.Scanner: a log for each partition that holds something, up to the first transaction that is still open.
func (s *Sink) Logs(ctx context.Context, topics []string, since time.Time) (logs []sink.Log, err error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	s.cluster.watch(topics)
	s.cluster.refresh()
	err = s.settle(ctx, func(ctx context.Context) error {
		logs, err = s.logsNow(ctx, topics, since)
		return err
	})
	return logs, err
}

func (s *Sink) logsNow(ctx context.Context, topics []string, since time.Time) ([]sink.Log, error) {
	answer, err := s.cluster.describe(ctx, topics)
	if err != nil {
		return nil, s.explain(err)
	}
	byLeader := make(map[int32][]partitionID)
	var all []partitionID
	for _, t := range answer.Topics {
		if err := s.visible(t); err != nil {
			return nil, err
		}
		for _, p := range t.Partitions {
			id := partitionID{t.Name, p.PartitionIndex}
			all = append(all, id)
			byLeader[p.LeaderID] = append(byLeader[p.LeaderID], id)
		}
	}
	bounds := make(map[partitionID]sink.Log, len(all))
	for _, partitions := range byLeader {
		if err := s.bounds(ctx, partitions, since, bounds); err != nil {
			return nil, err
		}
	}
	logs := make([]sink.Log, 0, len(all))
	for _, p := range all {
		if l := bounds[p]; l.From < l.End || l.Trimmed {
			logs = append(logs, l)
		}
	}
	return logs, nil
}

// bounds adds the logs of partitions with the same leader to found.
func (s *Sink) bounds(ctx context.Context, partitions []partitionID, since time.Time, found map[partitionID]sink.Log) error {
	earliest, err := s.offsets(ctx, partitions, earliestOffset)
	if err != nil {
		return err
	}
	end, err := s.offsetsSeenBy(ctx, readCommitted, partitions, latestOffset)
	if err != nil {
		return err
	}
	from := earliest
	if !since.IsZero() {
		if from, err = s.offsets(ctx, partitions, since.UnixMilli()); err != nil {
			return err
		}
	}
	for _, p := range partitions {
		l := sink.Log{Name: fmt.Sprintf("%s/%d", p.topic, p.number), Topic: p.topic, Partition: p.number, From: from[p], End: end[p], Since: since}
		if l.From < 0 { // nothing is as young
			l.From = max(l.End, earliest[p])
		}
		l.Trimmed = earliest[p] > 0 && l.From <= earliest[p]
		found[p] = l
	}
	return nil
}

// Scan implements sink.Scanner. Records of transactions that were aborted are left out.
func (s *Sink) Scan(ctx context.Context, log sink.Log, fn func(*sink.Stored) error) error {
	ctx, cancel := s.within(ctx)
	defer cancel()
	sc := partitionScan{log: log, next: log.From, fn: fn}
	for failures := 0; sc.next < log.End; {
		before := sc.next
		answer, err := s.fetch(ctx, log, sc.next)
		if err == nil {
			if err := sc.take(answer); err != nil {
				return fmt.Errorf("reading %s at offset %d: %w", log.Name, sc.next, err)
			}
			if sc.next > before {
				failures = 0
				continue
			}
			err = errors.New("the broker sends nothing, although the partition goes on there")
		}
		if errors.Is(err, kafkago.OffsetOutOfRange) {
			return fmt.Errorf("reading %s at offset %d: retention removed what was to be read next; start again: %w", log.Name, sc.next, err)
		}
		var code kafkago.Error
		if failures++; failures >= scanTries || errors.As(err, &code) && !isPassing(err) {
			return s.explainTopic(fmt.Errorf("reading %s at offset %d: %w", log.Name, sc.next, err), log.Topic)
		}
		s.cluster.refresh()
		if !pause(ctx, retryDelay(failures, 1)) {
			return context.Cause(ctx)
		}
	}
	return nil
}

// fetch reads from the leader of the log's partition, beginning at or before offset.
func (s *Sink) fetch(ctx context.Context, log sink.Log, offset int64) (*fetch.ResponsePartition, error) {
	s.cluster.watch([]string{log.Topic})
	res, err := s.cluster.roundTrip(ctx, &fetch.Request{
		ReplicaID: -1, MaxWaitTime: scanWait, MinBytes: 1, MaxBytes: scanBytes, IsolationLevel: readCommitted,
		SessionID: 0, SessionEpoch: -1, // no session: https://kafka.apache.org/protocol, KIP-227
		Topics: []fetch.RequestTopic{{Topic: log.Topic, Partitions: []fetch.RequestPartition{{
			Partition: log.Partition, CurrentLeaderEpoch: -1, FetchOffset: offset, LogStartOffset: -1, PartitionMaxBytes: scanBytes,
		}}}},
	})
	if err != nil {
		return nil, err
	}
	r := res.(*fetch.Response)
	if r.ErrorCode != 0 {
		return nil, kafkago.Error(r.ErrorCode)
	}
	if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
		return nil, errors.New("the broker's answer leaves the partition out")
	}
	p := &r.Topics[0].Partitions[0]
	if p.ErrorCode != 0 {
		return nil, kafkago.Error(p.ErrorCode)
	}
	return p, nil
}

// partitionScan is one pass over a partition.
type partitionScan struct {
	log  sink.Log
	next int64 // offset of the next record
	fn   func(*sink.Stored) error
}

// take hands the committed records of an answer on and moves next behind it. A broker names, beside the records, the transactions
// that were aborted and at which offset each began; a control record ends it.
func (sc *partitionScan) take(p *fetch.ResponsePartition) error {
	aborted := abortedTransactions{waiting: p.AbortedTransactions, open: make(map[int64]bool)}
	before := sc.next
	if stream, ok := p.RecordSet.Records.(*protocol.RecordStream); ok {
		for _, r := range stream.Records {
			if err := sc.batch(r, &aborted); err != nil {
				return err
			}
		}
	}
	if sc.next == before && p.RecordSet.Records != nil {
		sc.next++ // a record batch that compaction has emptied
	}
	return nil
}

// batch hands on the records of one record batch.
func (sc *partitionScan) batch(r protocol.RecordReader, aborted *abortedTransactions) error {
	skip, producer := false, int64(-1)
	control := false
	switch b := r.(type) {
	case *protocol.ControlBatch:
		control, producer = true, b.ProducerID
	case *protocol.RecordBatch:
		if b.Attributes.Transactional() {
			aborted.advance(b.BaseOffset)
			skip = aborted.open[b.ProducerID]
		}
	}
	for {
		rec, err := r.ReadRecord()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		err = sc.record(rec, skip || control)
		closeBytes(rec)
		if err != nil {
			return err
		}
		if control {
			aborted.advance(rec.Offset)
			delete(aborted.open, producer)
		}
	}
}

// record hands one record on, unless it is to be skipped or lies outside of what is read.
func (sc *partitionScan) record(rec *protocol.Record, skip bool) error {
	if rec.Offset < sc.next {
		return nil
	}
	sc.next = rec.Offset + 1
	if skip || rec.Offset >= sc.log.End {
		return nil
	}
	body, err := protocol.ReadAll(rec.Value)
	if err != nil {
		return err
	}
	m := sink.Stored{Topic: sc.log.Topic, Offset: rec.Offset, Time: rec.Time, Body: body, Headers: make([]sink.Header, len(rec.Headers))}
	for i, h := range rec.Headers {
		m.Headers[i] = sink.Header{Key: h.Key, Value: string(h.Value)}
	}
	return sc.fn(&m)
}

func closeBytes(rec *protocol.Record) {
	for _, b := range []protocol.Bytes{rec.Key, rec.Value} {
		if b != nil {
			_ = b.Close() // only gives memory back
		}
	}
}

// abortedTransactions says which producers are within a transaction that was aborted, at the place reached.
type abortedTransactions struct {
	waiting []fetch.ResponseTransaction
	open    map[int64]bool // by producer id
}

// advance opens the transactions that began at offset or before.
func (a *abortedTransactions) advance(offset int64) {
	rest := a.waiting[:0]
	for _, t := range a.waiting {
		if t.FirstOffset <= offset {
			a.open[t.ProducerID] = true
			continue
		}
		rest = append(rest, t)
	}
	a.waiting = rest
}
