package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"

	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// inspectAll looks at each topic; spec says how those that are missing would be created.
func (a *topicAdmin) inspectAll(ctx context.Context, topics []string, spec Create) ([]sink.TopicStatus, error) {
	legal := slices.DeleteFunc(slices.Clone(topics), func(t string) bool { return illegalTopicName(t) != "" })
	a.cluster.Watch(legal)
	a.cluster.Refresh()
	answer, err := a.cluster.Describe(ctx, legal)
	if err != nil {
		return nil, a.explain(err)
	}
	shown := make(map[string]metadata.ResponseTopic, len(answer.Topics))
	var existing []string
	for _, t := range answer.Topics {
		shown[t.Name] = t
		if t.ErrorCode == 0 {
			existing = append(existing, t.Name)
		}
	}
	settings := make(map[string]client.TopicSettings)
	if len(existing) > 0 {
		if settings, err = a.cluster.Settings(ctx, existing, "max.message.bytes", "min.insync.replicas", "cleanup.policy"); err != nil {
			return nil, a.explain(err)
		}
	}
	access, err := a.access(ctx, existing)
	if err != nil {
		return nil, a.explain(err)
	}
	collide := collisions(topics)
	status := make([]sink.TopicStatus, 0, len(topics))
	for _, t := range topics {
		st := sink.TopicStatus{Topic: t}
		if reason := illegalTopicName(t); reason != "" {
			st.Problems = append(st.Problems, "the name "+reason)
		} else {
			a.inspect(&st, shown[t], settings[t], access[t], a.cfg.creationOf(t, spec), len(answer.Brokers))
		}
		if other := collide[t]; other != "" && !st.Exists {
			st.Problems = append(st.Problems, fmt.Sprintf("differs from %s only by '.' and '_', and Kafka does not keep two such topics apart", other))
			st.Creates = false
		}
		status = append(status, st)
	}
	return status, a.inspectCreation(ctx, status, spec)
}

// inspectCreation adds to the status of topics that are to be created why the cluster would not.
func (a *topicAdmin) inspectCreation(ctx context.Context, status []sink.TopicStatus, spec Create) error {
	var creates []string
	for i := range status {
		if status[i].Creates {
			creates = append(creates, status[i].Topic)
		}
	}
	refused, err := a.tryCreation(ctx, creates, spec)
	if err != nil {
		return a.explain(err)
	}
	for reason, topics := range refused.topics {
		for i := range status {
			if slices.Contains(topics, status[i].Topic) {
				status[i].Problems, status[i].Creates = append(status[i].Problems, reason), false
			}
		}
	}
	return nil
}

// inspect says what is known of one topic with a legal name.
func (a *topicAdmin) inspect(st *sink.TopicStatus, t metadata.ResponseTopic, settings client.TopicSettings, access access, create Create, brokers int) {
	switch err := kafkago.Error(t.ErrorCode); err {
	case 0:
		a.inspectExisting(st, t, settings, access)
	case kafkago.UnknownTopicOrPartition:
		if !create.Enabled {
			st.Problems = append(st.Problems, "does not exist, and create.enabled is false")
			return
		}
		st.Creates = true
		st.MaxMessage = create.maxMessage()
		st.Detail = fmt.Sprintf("to be created: %s, replication %s", count(create.Partitions, "partition"), replication(create.ReplicationFactor))
		if a.cfg.isState(st.Topic) {
			st.Detail += ", " + cleanupPolicy + " " + compact
		}
		if create.ReplicationFactor > brokers {
			st.Creates = false
			st.Problems = append(st.Problems, fmt.Sprintf("create.replication_factor is %d, but only %s up", create.ReplicationFactor, count(brokers, "broker")))
		}
		a.weigh(st, create.ReplicationFactor, create.Config["min.insync.replicas"])
	default:
		st.Problems = append(st.Problems, a.explainTopic(err, st.Topic).Error())
	}
}

// maxMessage returns the largest message of a topic that is created.
func (c Create) maxMessage() int {
	if n, err := strconv.Atoi(c.Config["max.message.bytes"]); err == nil {
		return n
	}
	return client.DefaultMessageBytes
}

func (a *topicAdmin) inspectExisting(st *sink.TopicStatus, t metadata.ResponseTopic, settings client.TopicSettings, access access) {
	replicas, inSync, without := replicaCounts(t)
	minInSync := settings.Values["min.insync.replicas"]
	st.MaxMessage, _ = strconv.Atoi(settings.Values["max.message.bytes"])
	detail := []string{count(len(t.Partitions), "partition"), fmt.Sprintf("replication %d", replicas)}
	for _, name := range []string{minInSyncReplicas, "max.message.bytes"} {
		if value, shown := settings.Values[name]; shown {
			detail = append(detail, name+" "+value)
		}
	}
	switch {
	case access.err != nil:
		st.Problems = append(st.Problems, a.explainTopic(access.err, st.Topic).Error())
	case access.known:
		detail = append(detail, "relay may write")
	default:
		detail = append(detail, "write permission unknown")
	}
	st.Detail = strings.Join(detail, ", ")
	if without > 0 {
		st.Problems = append(st.Problems, count(without, "partition")+" without a leader: brokers are down")
	}
	if n, err := strconv.Atoi(minInSync); err == nil {
		if n > replicas {
			st.Problems = append(st.Problems, fmt.Sprintf("min.insync.replicas %d is more than the %d replicas there are, so nothing can be published", n, replicas))
		} else if inSync < n {
			st.Problems = append(st.Problems, fmt.Sprintf("a partition has only %d replicas in sync, and min.insync.replicas is %d: brokers are down or behind", inSync, n))
		}
	}
	switch policy, shown := settings.Values[cleanupPolicy]; {
	case a.cfg.isState(st.Topic):
		a.inspectState(st, policy, shown)
	case strings.Contains(policy, compact):
		st.Warnings = append(st.Warnings, "cleanup.policy has compact: Kafka will keep only the last event of each key")
	}
	a.weigh(st, replicas, minInSync)
	st.Exists = len(st.Problems) == 0
}

// cannotBeCreated says that a missing topic is one that the cluster lets nobody create over its
// protocol.
func cannotBeCreated(err error) string {
	return fmt.Sprintf("does not exist, and relay cannot create it: %v; create it with the tools of the cluster", err)
}

// existing returns those of topics that exist.
func (a *topicAdmin) existing(ctx context.Context, topics []string) ([]string, error) {
	legal := slices.DeleteFunc(slices.Clone(topics), func(t string) bool { return illegalTopicName(t) != "" })
	answer, err := a.cluster.Describe(ctx, legal)
	if err != nil {
		return nil, err
	}
	var existing []string
	for _, t := range answer.Topics {
		if t.ErrorCode == 0 {
			existing = append(existing, t.Name)
		}
	}
	return existing, nil
}

// weigh warns if an acknowledgement by all in-sync replicas is one by a single broker.
func (a *topicAdmin) weigh(st *sink.TopicStatus, replicas int, minInSync string) {
	switch {
	case replicas == 1:
		st.Warnings = append(st.Warnings, "one replica: acknowledged events are lost with its broker's disk")
	case minInSync == "1":
		st.Warnings = append(st.Warnings, "min.insync.replicas 1: while the other replicas are behind, one broker alone acknowledges; 2 is safer")
	}
}

// replicaCounts returns the fewest replicas of a partition, the fewest in sync, and the partitions
// without a leader.
func replicaCounts(t metadata.ResponseTopic) (replicas, inSync, leaderless int) {
	for i, p := range t.Partitions {
		if i == 0 || len(p.ReplicaNodes) < replicas {
			replicas = len(p.ReplicaNodes)
		}
		if i == 0 || len(p.IsrNodes) < inSync {
			inSync = len(p.IsrNodes)
		}
		if p.LeaderID < 0 || p.ErrorCode == int16(kafkago.LeaderNotAvailable) {
			leaderless++
		}
	}
	return replicas, inSync, leaderless
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func replication(factor int) string {
	if factor < 0 {
		return "as the cluster sets it"
	}
	return strconv.Itoa(factor)
}

// access is whether relay may write to a topic.
type access struct {
	known bool
	err   error // why not
}

// access asks the leaders of the topics' first partitions whether relay may write there. It stores
// nothing.
func (a *topicAdmin) access(ctx context.Context, topics []string) (found map[string]access, err error) {
	if len(topics) == 0 {
		return nil, nil
	}
	err = a.retryTransient(ctx, func(ctx context.Context) error {
		found, err = a.accessNow(ctx, topics)
		return err
	})
	if client.IsPassing(err) {
		return found, nil // known of some topics
	}
	return found, err
}

// accessNow asks once. A leader that passes the question on is an error, beside what is known of
// the other topics.
func (a *topicAdmin) accessNow(ctx context.Context, topics []string) (map[string]access, error) {
	answers, err := a.cluster.ProbePermission(ctx, topics)
	if err != nil {
		return nil, err
	}
	found := make(map[string]access, len(answers))
	var passing error
	for topic, answer := range answers {
		found[topic] = accessOf(answer)
		if !found[topic].known && client.IsPassing(answer) {
			passing = a.explainTopic(answer, topic)
		}
	}
	return found, passing
}

func accessOf(err error) access {
	switch {
	case client.IsDenied(err):
		return access{known: true, err: err}
	case err == nil, errors.Is(err, kafkago.InvalidRecord), errors.Is(err, kafkago.InvalidMessage):
		return access{known: true}
	}
	return access{}
}

// advice is Sink.Advice.
func (a *topicAdmin) advice(ctx context.Context, topics []string) (said sink.Advice, err error) {
	every := topics
	topics, err = a.resolve(ctx, topics)
	if err != nil {
		return said, err
	}
	existing, err := a.existing(ctx, topics)
	if err != nil {
		return said, a.explain(err)
	}
	found, err := a.shortcomings(ctx, existing)
	if err != nil {
		return said, a.explain(err)
	}
	if a.cluster.Offers(ctx, protocol.InitProducerId) == nil {
		if err := a.askProducerID(ctx); err != nil {
			found = append(found, withoutProducerID(err))
		}
	}
	for _, s := range found {
		said.Warnings = append(said.Warnings, s.text)
	}
	times, err := a.timestamps(ctx, every, a.cfg.Create)
	if err != nil {
		return said, err
	}
	said.Warnings = append(said.Warnings, times...)
	codecs, err := client.CodecsOf(a.cfg.Compression)
	if err != nil {
		return said, err
	}
	var refused error
	for i, codec := range codecs {
		refusal, err := a.tryCodec(ctx, topics, codec)
		switch {
		case err != nil:
			return said, a.explain(err)
		case refusal == nil && i == 0:
			said.Facts = append(said.Facts, "compression: "+client.CodecName(codec))
			return said, nil
		case refusal == nil:
			said.Warnings = append(said.Warnings, otherCodec(client.CodecName(codecs[0]), client.CodecName(codec), refused).text)
			return said, nil
		case i == 0:
			refused = refusal
		}
	}
	said.Faults = append(said.Faults, explained(codecRefused(codecs[0]), refused).Error())
	return said, nil
}

// zstdVersion is the first version of Produce in which brokers take zstd (Kafka 2.1).
const zstdVersion = 7

// codecTooNew returns why the brokers cannot know a codec; nil if they may.
func (a *topicAdmin) codecTooNew(ctx context.Context, codec compress.Codec) error {
	known, err := a.cluster.KnownRequests(ctx)
	if err != nil || client.CodecName(codec) != "zstd" {
		return nil //nolint:nilerr // the next request meets the error again
	}
	if v, ok := known[protocol.Produce]; ok && v.Most < zstdVersion {
		return fmt.Errorf("the brokers are older than Kafka 2.1, the first that takes zstd: %w", kafkago.UnsupportedCompressionType)
	}
	return nil
}

// tryCodec returns why the cluster does not take a codec. It stores nothing.
func (a *topicAdmin) tryCodec(ctx context.Context, topics []string, codec compress.Codec) (refusal, err error) {
	if codec == nil {
		return nil, nil
	}
	if err := a.codecTooNew(ctx, codec); err != nil {
		return err, nil
	}
	legal := slices.DeleteFunc(slices.Clone(topics), func(t string) bool { return illegalTopicName(t) != "" })
	answers, err := a.cluster.ProbeCodec(ctx, legal, codec)
	if err != nil {
		return nil, err
	}
	for _, answer := range answers {
		if client.IsCodecRefused(answer) {
			return answer, nil
		}
	}
	plain, err := a.cluster.ProbeCodec(ctx, legal, nil)
	if err != nil {
		return nil, err
	}
	for topic, usual := range plain {
		answer, answered := answers[topic]
		doubted := client.IsCodecDoubted(answer) || errors.Is(answer, kafkago.InvalidRecord)
		switch {
		case !answered:
			return errors.New("it closes the connection on such a record batch"), nil
		case doubted && (usual == nil || usual.Error() != answer.Error()):
			return answer, nil
		}
	}
	return nil, nil
}
