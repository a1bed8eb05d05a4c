package client

import (
	"context"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/protocol/produce"
	"github.com/segmentio/kafka-go/protocol/rawproduce"
)

// Batch is a record set for one partition, as EncodeBatch returns it. It must not be changed once
// it was given to Produce, not even after Produce has returned: a request that was given up may
// read it a moment longer.
type Batch struct {
	Partition
	Set []byte
}

// Produced is what a leader answers to Produce.
type Produced struct {
	// Throttle is for how long the leader takes no more records from the client. It is for the
	// caller to keep: Produce does not wait for it. It does not hold for requests of other kinds.
	Throttle time.Duration
	// Of has the answer for each partition. A leader may leave one out.
	Of map[Partition]Acknowledgement
}

// Acknowledgement is the answer about one record batch. Of the fields behind Outcome, those that
// the leader does not tell are -1.
type Acknowledgement struct {
	Outcome
	Err        error // the error code with the words of the leader; nil if the batch is stored
	BaseOffset int64 // of the first record
	Culprit    int   // which record of a batch that is Invalid the leader refuses
}

// Produce sends record batches to partitions with the same leader in one request, for all in-sync
// replicas to acknowledge. transactionalID is empty outside of a transaction. An error means that
// there was no answer, and says by IsUnsent whether the batches may be stored.
func (c *Cluster) Produce(ctx context.Context, transactionalID string, batches []Batch) (*Produced, error) {
	// The broker is to answer before the connection is given up.
	timeout := c.RequestTimeout / 10 * 9
	req := &rawproduce.Request{TransactionalID: transactionalID, Acks: acksAll, Timeout: int32(timeout.Milliseconds())} //nolint:gosec // at most minutes
	place := make(map[string]int)
	for i := range batches {
		b := &batches[i]
		at, ok := place[b.Topic]
		if !ok {
			at = len(req.Topics)
			place[b.Topic] = at
			req.Topics = append(req.Topics, rawproduce.RequestTopic{Topic: b.Topic})
		}
		p := rawproduce.RequestPartition{Partition: b.Number}
		p.RecordSet.Reader = recordSet(b.Set)
		req.Topics[at].Partitions = append(req.Topics[at].Partitions, p)
	}
	if len(req.Topics) == 0 {
		return &Produced{}, nil
	}
	res, err := c.RoundTrip(ctx, req)
	if err != nil {
		return nil, err
	}
	answer := res.(*produce.Response)
	out := &Produced{Throttle: time.Duration(answer.ThrottleTimeMs) * time.Millisecond, Of: make(map[Partition]Acknowledgement, len(batches))}
	if out.Throttle > 0 {
		c.separateProducing()
	}
	for i := range answer.Topics {
		t := &answer.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			out.Of[Partition{Topic: t.Topic, Number: p.Partition}] = acknowledgementOf(p)
		}
	}
	return out, nil
}

func acknowledgementOf(p *produce.ResponsePartition) Acknowledgement {
	a := Acknowledgement{Outcome: Judge(kafkago.Error(p.ErrorCode)), BaseOffset: p.BaseOffset, Culprit: -1}
	if a.Verdict == Stored {
		return a
	}
	a.Err = BrokerError(p.ErrorCode, p.ErrorMessage)
	if a.Verdict == Invalid && len(p.RecordErrors) > 0 {
		a.Culprit = int(p.RecordErrors[0].BatchIndex)
		a.Err = BrokerError(p.ErrorCode, p.RecordErrors[0].BatchIndexErrorMessage)
	}
	return a
}

// probeTimeout is how long a leader may take to answer a probe, in milliseconds.
const probeTimeout = 1000

// ProbePermission asks the leaders of the topics' first partitions whether the client may write
// there, by a produce request without a record: a broker checks the permission first, and then
// refuses the request for having none, so nothing is stored. It returns the answers by topic.
// Topics without a leader, and those whose leader does not answer, are left out.
func (c *Cluster) ProbePermission(ctx context.Context, topics []string) (map[string]error, error) {
	return c.probe(ctx, topics, make([]byte, setSizeBytes))
}

// ProbeCodec asks the leaders of the topics' first partitions whether they take a codec, by a
// record batch without a record and with a wrong checksum, which no broker stores: one that takes
// the codec refuses it as corrupt. A nil codec asks about batches that are not compressed. It
// returns what ProbePermission does.
func (c *Cluster) ProbeCodec(ctx context.Context, topics []string, codec compress.Codec) (map[string]error, error) {
	set, err := brokenBatch(codec)
	if err != nil {
		return nil, err
	}
	return c.probe(ctx, topics, set)
}

func (c *Cluster) probe(ctx context.Context, topics []string, set []byte) (map[string]error, error) {
	l, err := c.Locate(ctx, topics, time.Time{})
	if err != nil {
		return nil, err
	}
	byLeader := make(map[int32]*rawproduce.Request)
	for _, t := range topics {
		leaders := l.Topics[t].Leaders
		if len(leaders) == 0 || leaders[0] < 0 {
			continue
		}
		req := byLeader[leaders[0]]
		if req == nil {
			req = &rawproduce.Request{Acks: acksAll, Timeout: probeTimeout}
			byLeader[leaders[0]] = req
		}
		p := rawproduce.RequestPartition{Partition: 0}
		p.RecordSet.Reader = recordSet(set)
		req.Topics = append(req.Topics, rawproduce.RequestTopic{Topic: t, Partitions: []rawproduce.RequestPartition{p}})
	}
	found := make(map[string]error, len(topics))
	for _, req := range byLeader {
		res, err := c.RoundTrip(ctx, req)
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			continue // a broker that hangs up on such a request leaves the question open
		}
		answer := res.(*produce.Response)
		if answer.ThrottleTimeMs > 0 {
			c.separateProducing()
			c.throttleQuota(produceQuota, time.Duration(answer.ThrottleTimeMs)*time.Millisecond)
		}
		for _, t := range answer.Topics {
			for _, p := range t.Partitions {
				found[t.Topic] = nil
				if p.ErrorCode != 0 {
					found[t.Topic] = BrokerError(p.ErrorCode, p.ErrorMessage)
				}
			}
		}
	}
	return found, nil
}
