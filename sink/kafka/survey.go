package kafka

import (
	"context"
	"slices"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"workos-relay/checkpoint"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
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
		s.cluster.Refresh()
		if !client.Wait(ctx, surveyPause) {
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
	answer, err := s.cluster.Describe(ctx, topics)
	if err != nil {
		return nil, err
	}
	ids, gone, err := s.cluster.TopicIDs(ctx, topics)
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
			return nil, s.explainTopic(err, t.Name)
		}
		part.Ends = make([]int64, len(t.Partitions))
		parts = append(parts, part)
		for _, p := range t.Partitions {
			byLeader[p.LeaderID] = append(byLeader[p.LeaderID], client.Partition{Topic: t.Name, Number: p.PartitionIndex})
		}
	}
	slices.SortFunc(parts, func(a, b checkpoint.Part) int { return strings.Compare(a.Name, b.Name) })
	for _, partitions := range byLeader {
		earliest, err := s.offsets(ctx, partitions, client.EarliestOffset)
		if err != nil {
			return nil, err
		}
		latest, err := s.offsets(ctx, partitions, client.LatestOffset)
		if err != nil {
			return nil, err
		}
		for at, end := range latest {
			i := slices.IndexFunc(parts, func(p checkpoint.Part) bool { return p.Topic == at.Topic })
			if int(at.Number) < len(parts[i].Ends) {
				parts[i].Ends[at.Number] = end
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
