package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/fetch"

	"workos-relay/internal/retry"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

const scanTries = 8 // fetches in a row without an answer, until a scan gives up

// logs is Sink.Logs.
func (r *topicReader) logs(ctx context.Context, topics []string, since time.Time) (logs []sink.Log, err error) {
	r.cluster.Watch(topics)
	r.cluster.Refresh()
	err = r.retryTransient(ctx, func(ctx context.Context) error {
		logs, err = r.logsNow(ctx, topics, since)
		return err
	})
	return logs, err
}

func (r *topicReader) logsNow(ctx context.Context, topics []string, since time.Time) ([]sink.Log, error) {
	all, bounds, err := r.allBounds(ctx, topics, since)
	if err != nil {
		return nil, err
	}
	logs := make([]sink.Log, 0, len(all))
	for _, p := range all {
		if l := bounds[p]; l.From < l.End || l.Trimmed {
			logs = append(logs, l)
		}
	}
	r.notePolicies(ctx, logs)
	return logs, nil
}

// allBounds returns the partitions of the topics that exist, in the order of the topics, and the
// log of each.
func (r *topicReader) allBounds(ctx context.Context, topics []string, since time.Time) (all []client.Partition, bounds map[client.Partition]sink.Log, _ error) {
	answer, err := r.cluster.Describe(ctx, topics)
	if err != nil {
		return nil, nil, r.explain(err)
	}
	byLeader := make(map[int32][]client.Partition)
	for _, t := range answer.Topics {
		if err := r.visible(t); err != nil {
			return nil, nil, err
		}
		for _, p := range t.Partitions {
			id := client.Partition{Topic: t.Name, Number: p.PartitionIndex}
			all = append(all, id)
			byLeader[p.LeaderID] = append(byLeader[p.LeaderID], id)
		}
	}
	bounds = make(map[client.Partition]sink.Log, len(all))
	for _, partitions := range byLeader {
		if err := r.bounds(ctx, partitions, since, bounds); err != nil {
			return nil, nil, err
		}
	}
	return all, bounds, nil
}

// notePolicies adds to the logs whether their topics are compacted. That this cannot be read is no
// reason not to read the logs.
func (r *topicReader) notePolicies(ctx context.Context, logs []sink.Log) {
	var topics []string
	for _, l := range logs {
		topics = append(topics, l.Topic)
	}
	topics = slices.Compact(slices.Sorted(slices.Values(topics)))
	if len(topics) == 0 {
		return
	}
	settings, err := r.cluster.Settings(ctx, topics, cleanupPolicy)
	for i := range logs {
		l, read := &logs[i], settings[logs[i].Topic]
		switch policy := read.Values[cleanupPolicy]; {
		case err != nil:
			l.Unknown = fmt.Sprintf("the cluster does not tell its %s: %v", cleanupPolicy, err)
		case read.Err != nil:
			l.Unknown = fmt.Sprintf("relay may not read its %s; grant it by %s: %v", cleanupPolicy, r.topicACL(l.Topic, "DescribeConfigs"), read.Err)
		case policy == "":
			l.Unknown = fmt.Sprintf("the cluster does not tell its %s", cleanupPolicy)
		default:
			l.Compacted = strings.Contains(policy, compact)
		}
	}
}

// bounds adds the logs of partitions with the same leader to found.
func (r *topicReader) bounds(ctx context.Context, partitions []client.Partition, since time.Time, found map[client.Partition]sink.Log) error {
	earliest, err := r.offsets(ctx, partitions, client.EarliestOffset)
	if err != nil {
		return err
	}
	end, err := r.offsetsSeenBy(ctx, client.ReadCommitted, partitions, client.LatestOffset)
	if err != nil {
		return err
	}
	from := earliest
	if !since.IsZero() {
		if from, err = r.offsets(ctx, partitions, since.UnixMilli()); err != nil {
			return err
		}
	}
	for _, p := range partitions {
		l := sink.Log{Name: fmt.Sprintf("%s/%d", p.Topic, p.Number), Topic: p.Topic, Partition: p.Number, From: from[p], End: end[p], Since: since}
		if l.From < 0 { // nothing is as young
			l.From = max(l.End, earliest[p])
		}
		l.Trimmed = earliest[p] > 0 && l.From <= earliest[p]
		found[p] = l
	}
	return nil
}

// handOn gives a record of the log to fn, which may keep it.
func handOn(log sink.Log, e client.Record, fn func(*sink.Stored) error) error {
	m := sink.Stored{
		Topic: log.Topic, Key: bytes.Clone(e.Key), Offset: e.Offset, Time: e.Time, Body: bytes.Clone(e.Value),
		Headers: make([]sink.Header, len(e.Headers)),
	}
	for i, h := range e.Headers {
		m.Headers[i] = sink.Header{Key: h.Key, Value: string(h.Value)}
	}
	return fn(&m)
}

// abortedTransactions says which producers are within a transaction that was aborted, at the place
// reached. A broker names, beside the records, the transactions that were aborted and at which
// offset each began; a control record ends it.
type abortedTransactions struct {
	waiting []fetch.ResponseTransaction // by first offset
	open    map[int64]bool              // by producer id
}

// hides reports whether a consumer that reads committed does not see e. It is asked about one
// record after the other.
func (a *abortedTransactions) hides(e client.Record) bool {
	a.advance(e.Offset)
	if e.Control {
		delete(a.open, e.Producer)
		return true
	}
	return e.Transactional && a.open[e.Producer]
}

// advance opens the transactions that began at offset or before.
func (a *abortedTransactions) advance(offset int64) {
	for len(a.waiting) > 0 && a.waiting[0].FirstOffset <= offset {
		a.open[a.waiting[0].ProducerID] = true
		a.waiting = a.waiting[1:]
	}
}

// scan is Sink.Scan.
func (r *topicReader) scan(ctx context.Context, log sink.Log, fn func(*sink.Stored) error) error {
	next := log.From
	for failures := 0; next < log.End; {
		answer, err := r.cluster.Fetch(ctx, client.Partition{Topic: log.Topic, Number: log.Partition}, client.ReadCommitted, next)
		if err == nil {
			aborted := abortedTransactions{waiting: answer.Aborted, open: make(map[int64]bool)}
			next, err = client.Walk(answer, next, client.MessageBounds, func(e client.Record) error {
				if aborted.hides(e) || e.Offset >= log.End {
					return nil
				}
				return handOn(log, e, fn)
			})
			if err == nil {
				failures = 0
				continue
			}
			var bad *client.BadAnswerError
			if !errors.As(err, &bad) {
				return fmt.Errorf("reading %s at offset %d: %w", log.Name, next, err)
			}
		}
		if errors.Is(err, kafkago.OffsetOutOfRange) {
			return fmt.Errorf("reading %s at offset %d: retention removed what was to be read next; start again: %w", log.Name, next, err)
		}
		var code kafkago.Error
		if failures++; failures >= scanTries || errors.As(err, &code) && !client.IsPassing(err) {
			return r.explainTopic(fmt.Errorf("reading %s at offset %d: %w", log.Name, next, err), log.Topic)
		}
		r.cluster.Refresh()
		if retry.Sleep(ctx, client.Retries.Full(failures+1)) != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}
