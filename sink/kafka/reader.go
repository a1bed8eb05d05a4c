package kafka

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/metadata"

	"workos-relay/checkpoint"
	"workos-relay/internal/retry"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// topicReader reads what topics hold. It changes nothing. It is safe for concurrent use.
type topicReader struct{ *common }

// holds is Sink.Holds.
func (r *topicReader) holds(ctx context.Context, topics []string) (holds bool, err error) {
	r.cluster.Watch(topics)
	r.cluster.Refresh()
	// A leader that was only just elected may not know of it yet, and is asked again.
	err = r.retryTransient(ctx, func(ctx context.Context) error {
		holds, err = r.holdsNow(ctx, topics)
		return err
	})
	return holds, err
}

func (r *topicReader) holdsNow(ctx context.Context, topics []string) (bool, error) {
	answer, err := r.cluster.Describe(ctx, topics)
	if err != nil {
		return false, r.explain(err)
	}
	byLeader := make(map[int32][]client.Partition)
	for _, t := range answer.Topics {
		if err := r.visible(t); err != nil {
			return false, err
		}
		for _, p := range t.Partitions {
			byLeader[p.LeaderID] = append(byLeader[p.LeaderID], client.Partition{Topic: t.Name, Number: p.PartitionIndex})
		}
	}
	for _, partitions := range byLeader {
		earliest, err := r.offsets(ctx, partitions, client.EarliestOffset)
		if err != nil {
			return false, err
		}
		latest, err := r.offsets(ctx, partitions, client.LatestOffset)
		if err != nil {
			return false, err
		}
		for p, end := range latest {
			if earliest[p] < end {
				return true, nil
			}
		}
	}
	return false, nil
}

// visible returns why it cannot be said what the topic holds. A missing one holds nothing.
func (r *topicReader) visible(t metadata.ResponseTopic) error {
	switch err := kafkago.Error(t.ErrorCode); err {
	case 0, kafkago.UnknownTopicOrPartition, kafkago.InvalidTopic:
		return nil
	default:
		return r.explainTopic(err, t.Name)
	}
}

// offsets asks the one leader of the partitions for their offsets at a timestamp.
func (r *topicReader) offsets(ctx context.Context, partitions []client.Partition, timestamp int64) (map[client.Partition]int64, error) {
	return r.offsetsSeenBy(ctx, client.ReadUncommitted, partitions, timestamp)
}

// offsetsSeenBy is offsets for a consumer of the isolation level.
func (r *topicReader) offsetsSeenBy(ctx context.Context, isolation int8, partitions []client.Partition, timestamp int64) (map[client.Partition]int64, error) {
	found, err := r.cluster.Offsets(ctx, isolation, partitions, timestamp)
	var of *client.TopicError
	switch {
	case errors.As(err, &of):
		return nil, r.explainTopic(of.Err, of.Topic)
	case err != nil:
		return nil, r.explain(err)
	}
	return found, nil
}

// A topic that is missing, or that ends earlier than before, is looked at so often before that is
// believed: a broker that has just started may not know of it yet, and a new leader may not know
// its end.
const (
	surveyLooks  = 8
	shorterLooks = 20
	surveyPause  = 500 * time.Millisecond
)

// survey is Sink.Survey.
func (r *topicReader) survey(ctx context.Context, topics []string, known []checkpoint.Part) ([]checkpoint.Part, error) {
	topics = slices.DeleteFunc(slices.Clone(topics), func(t string) bool { return !sink.IsPattern(t) && illegalTopicName(t) != "" })
	for look := 1; ; look++ {
		var parts []checkpoint.Part
		err := r.retryTransient(ctx, func(ctx context.Context) (err error) {
			now, err := r.surveyed(ctx, topics, known)
			if err == nil {
				parts, err = r.surveyNow(ctx, now)
			}
			return err
		})
		if err != nil {
			return nil, r.prepareError(ctx, err)
		}
		back, missing := goneBack(known, topics, parts)
		if !back || missing && look >= surveyLooks || look >= shorterLooks {
			return parts, nil
		}
		r.cluster.Refresh()
		if retry.Sleep(ctx, surveyPause) != nil {
			return nil, context.Cause(ctx)
		}
	}
}

// surveyed returns the topics that a survey looks at: in place of each pattern those that exist,
// and those that did.
func (r *topicReader) surveyed(ctx context.Context, topics []string, known []checkpoint.Part) ([]string, error) {
	patterns, now := divide(topics)
	if len(patterns) > 0 {
		names, err := r.names(ctx)
		if err != nil {
			return nil, err
		}
		now = append(now, matching(patterns, names)...)
		for _, k := range known {
			if k.Topic != "" && sink.HasTopic(patterns, k.Topic) {
				now = append(now, k.Topic)
			}
		}
	}
	slices.Sort(now)
	return slices.Compact(now), nil
}

// goneBack reports whether a known part on one of the topics is missing, was made again, or ends
// earlier than it did; missing that it is not the last alone.
func goneBack(known []checkpoint.Part, topics []string, now []checkpoint.Part) (back, missing bool) {
	of := byTopic(now)
	for _, k := range known {
		if !k.Used || !sink.HasTopic(topics, k.Topic) {
			continue
		}
		at, exists := of[k.Topic]
		switch {
		case !exists, k.ID != "" && now[at].ID != "" && k.ID != now[at].ID, now[at].Ends != nil && len(now[at].Ends) < len(k.Ends):
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

// byTopic returns where the part of each topic is.
func byTopic(parts []checkpoint.Part) map[string]int {
	of := make(map[string]int, len(parts))
	for i, p := range parts {
		of[p.Topic] = i
	}
	return of
}

func (r *topicReader) surveyNow(ctx context.Context, topics []string) ([]checkpoint.Part, error) {
	answer, err := r.cluster.Describe(ctx, topics)
	if err != nil {
		return nil, err
	}
	ids, gone, err := r.cluster.TopicIDs(ctx, topics)
	if err != nil {
		return nil, err
	}
	var parts []checkpoint.Part
	byLeader := make(map[int32][]client.Partition)
	for _, t := range answer.Topics {
		part := checkpoint.Part{Name: "kafka topic " + t.Name, Topic: t.Name, ID: ids[t.Name]}
		switch err := kafkago.Error(t.ErrorCode); {
		case err == kafkago.UnknownTopicOrPartition, err == kafkago.InvalidTopic, gone[t.Name]:
			continue
		case err == kafkago.TopicAuthorizationFailed: // Prepare says so
			parts = append(parts, part)
			continue
		case err != 0:
			return nil, r.explainTopic(err, t.Name)
		}
		part.Ends = make([]int64, len(t.Partitions))
		parts = append(parts, part)
		for _, p := range t.Partitions {
			byLeader[p.LeaderID] = append(byLeader[p.LeaderID], client.Partition{Topic: t.Name, Number: p.PartitionIndex})
		}
	}
	slices.SortFunc(parts, func(a, b checkpoint.Part) int { return strings.Compare(a.Name, b.Name) })
	of := byTopic(parts)
	for _, partitions := range byLeader {
		earliest, err := r.offsets(ctx, partitions, client.EarliestOffset)
		if err != nil {
			return nil, err
		}
		latest, err := r.offsets(ctx, partitions, client.LatestOffset)
		if err != nil {
			return nil, err
		}
		for at, end := range latest {
			i := of[at.Topic]
			if int(at.Number) < len(parts[i].Ends) {
				parts[i].Ends[at.Number] = end
				parts[i].Events += uint64(max(end-earliest[at], 0)) //nolint:gosec // not negative
			}
		}
	}
	return parts, nil
}
