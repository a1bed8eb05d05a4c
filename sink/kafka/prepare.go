package kafka

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/createtopics"
	"go.uber.org/zap"

	"workos-relay/internal/retry"
	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// topicAdmin makes topics ready and says how they are. It stores nothing.
type topicAdmin struct {
	*common
	memory   *topicMemory // what relay has created
	position string       // the topic of the position, if there is one
}

// leaderWait bounds how long Prepare waits for created topics to have leaders everywhere.
const leaderWait = 10 * time.Second

// prepare makes the topics ready; spec says how those that are missing are created.
func (a *topicAdmin) prepare(ctx context.Context, topics []string, spec Create) error {
	found := newFaults()
	for _, t := range topics {
		if reason := illegalTopicName(t); reason != "" {
			found.add(t, reason)
		}
	}
	if found.any() {
		return found.fatal()
	}
	a.cluster.Watch(topics)
	a.cluster.Refresh()
	if err := a.checkCodec(ctx); err != nil {
		return err
	}
	missing, err := a.missing(ctx, topics, found)
	if err != nil {
		return err
	}
	a.memory.remember(ctx, nil) // what an attempt before this one had no time for
	if len(missing) > 0 {
		if err := a.create(ctx, missing, topics, spec, found); err != nil {
			return err
		}
	}
	if err := a.checkState(ctx, topics, found); err != nil {
		return err
	}
	if found.any() {
		return found.fatal()
	}
	if err := a.awaitLeaders(ctx, topics); err != nil {
		return err
	}
	access, err := a.access(ctx, topics)
	if err != nil {
		return err
	}
	for t, may := range access {
		if may.err != nil {
			found.add(t, a.explainTopic(may.err, t).Error())
		}
	}
	return found.fatal()
}

// checkCodec returns a *sink.FatalError if the brokers cannot know the codec.
func (a *topicAdmin) checkCodec(ctx context.Context) error {
	codecs, err := client.CodecsOf(a.cfg.Compression)
	if err != nil {
		return err
	}
	if err := a.codecTooNew(ctx, codecs[0]); err != nil {
		return &sink.FatalError{Err: explained(codecRefused(codecs[0]), err)}
	}
	return nil
}

// faults holds why topics cannot be used, by reason, so that a hundred topics with one reason make
// one sentence.
type faults struct {
	topics map[string][]string // by reason
	causes []error             // that a caller may tell apart; their text is that of a reason
}

func newFaults() *faults { return &faults{topics: make(map[string][]string)} }

func (f *faults) any() bool { return len(f.topics) > 0 }

func (f *faults) add(topic, reason string) { f.topics[reason] = append(f.topics[reason], topic) }

// addCause is add for an error that the error of fatal is to match.
func (f *faults) addCause(topic, reason string, cause error) {
	f.add(topic, reason)
	f.causes = append(f.causes, cause)
}

// faultsError lists topics that cannot be used.
type faultsError struct {
	text   string
	causes []error
}

func (e *faultsError) Error() string { return e.text }

func (e *faultsError) Unwrap() []error { return e.causes }

// of returns the faults of one topic as a *sink.FatalError, nil if it has none.
func (f *faults) of(topic string) error {
	one := &faults{topics: make(map[string][]string), causes: f.causes}
	for reason, topics := range f.topics {
		if slices.Contains(topics, topic) {
			one.add(topic, reason)
		}
	}
	return one.fatal()
}

// fatal returns the faults as one *sink.FatalError, nil if there are none.
func (f *faults) fatal() error {
	if !f.any() {
		return nil
	}
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(f.topics)) {
		topics := slices.Sorted(slices.Values(f.topics[reason]))
		parts = append(parts, fmt.Sprintf("%s: %s", strings.Join(topics, ", "), reason))
	}
	return &sink.FatalError{Err: &faultsError{"kafka topics that cannot be used: " + strings.Join(parts, "; "), f.causes}}
}

// missing returns the topics that are not there, and adds those that relay may not see to found.
func (a *topicAdmin) missing(ctx context.Context, topics []string, found *faults) ([]string, error) {
	answer, err := a.cluster.Describe(ctx, topics)
	if err != nil {
		return nil, err
	}
	var missing []string
	for _, t := range answer.Topics {
		switch err := kafkago.Error(t.ErrorCode); err {
		case 0, kafkago.LeaderNotAvailable:
		case kafkago.UnknownTopicOrPartition:
			missing = append(missing, t.Name)
		case kafkago.TopicAuthorizationFailed:
			// A topic that relay may not see is answered like this whether it is there or not.
			found.add(t.Name, fmt.Sprintf("relay may not see it, whether it exists or not; grant relay access by %s", a.topicACL("<topic>", "Write", "Describe")))
		default:
			found.add(t.Name, a.explainTopic(err, t.Name).Error())
		}
	}
	return missing, nil
}

func (a *topicAdmin) create(ctx context.Context, missing, topics []string, spec Create, found *faults) error {
	collide := collisions(topics)
	if !spec.Enabled {
		for _, t := range missing {
			found.add(t, "does not exist, and create.enabled is false; create it or let relay do so")
		}
		return nil
	}
	var wanted []string
	for _, t := range missing {
		if other := collide[t]; other != "" {
			found.add(t, fmt.Sprintf("differs from %s only by '.' and '_', and Kafka does not keep two such topics apart; route one of them elsewhere", other))
			continue
		}
		wanted = append(wanted, t)
	}
	if len(wanted) == 0 {
		return nil
	}
	req := a.creationRequest(wanted, spec)
	res, err := a.cluster.AskOrMissing(ctx, req)
	if client.IsNoRequest(err) {
		for _, t := range req.Topics {
			found.addCause(t.Name, cannotBeCreated(err), err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("creating kafka topics: %w", err)
	}
	answer := res.(*createtopics.Response)
	answer.Topics = slices.DeleteFunc(answer.Topics, func(t createtopics.ResponseTopic) bool { return !slices.Contains(missing, t.Name) })
	return a.created(ctx, answer, spec, found)
}

// created sorts the answers: those that an operator must act on go to found, one that may pass is
// returned.
func (a *topicAdmin) created(ctx context.Context, res *createtopics.Response, spec Create, found *faults) error {
	var passing error
	var made []string
	for _, t := range res.Topics {
		err := client.BrokerError(t.ErrorCode, t.ErrorMessage)
		switch {
		case t.ErrorCode == 0:
			made = append(made, t.Name)
		case kafkago.Error(t.ErrorCode) == kafkago.TopicAlreadyExists: // somebody was faster
		case !a.refusedCreation(t, spec, found):
			passing = fmt.Errorf("creating kafka topic %s: %w", t.Name, err)
		}
	}
	if len(made) > 0 {
		a.log.Info("created kafka topics", zap.Strings("topics", made), zap.Int("partitions", spec.Partitions), zap.Int("replication_factor", spec.ReplicationFactor))
		a.memory.remember(ctx, made)
	}
	return passing
}

// refusedCreation adds to found why the cluster does not create a topic. It reports false if the
// answer does not refuse it, or may be another one later.
func (a *topicAdmin) refusedCreation(t createtopics.ResponseTopic, spec Create, found *faults) bool {
	err := client.BrokerError(t.ErrorCode, t.ErrorMessage)
	switch kafkago.Error(t.ErrorCode) {
	case kafkago.TopicAuthorizationFailed, kafkago.ClusterAuthorizationFailed:
		found.add(t.Name, fmt.Sprintf("does not exist, and relay may not create it; create it, or grant relay that by %s", a.topicACL("<topic>", "Create")))
	case kafkago.InvalidReplicationFactor:
		found.add(t.Name, fmt.Sprintf("cannot be created with create.replication_factor %d; it can be at most the number of brokers that are up: %v", spec.ReplicationFactor, err))
	case kafkago.InvalidPartitionNumber:
		found.add(t.Name, fmt.Sprintf("cannot be created with create.partitions %d: %v", spec.Partitions, err))
	case kafkago.InvalidConfiguration:
		found.addCause(t.Name, fmt.Sprintf("cannot be created with the settings of create.config: %v", err), err)
	case kafkago.PolicyViolation:
		found.add(t.Name, fmt.Sprintf("cannot be created: a policy of the cluster forbids it: %v; create it with the tools of the cluster", err))
	case kafkago.InvalidTopic:
		found.add(t.Name, a.explainTopic(err, t.Name).Error())
	case kafkago.UnsupportedVersion, kafkago.InvalidRequest:
		found.addCause(t.Name, cannotBeCreated(err), &creationRefusedError{err})
	default:
		return false
	}
	return true
}

// validateVersion is the first version of CreateTopics that can ask without creating (Kafka
// 0.10.2).
const validateVersion = 1

// tryCreation asks the cluster whether it would create the topics, and creates none. It returns why
// not. A cluster that cannot say it now leaves the question open.
func (a *topicAdmin) tryCreation(ctx context.Context, topics []string, spec Create) (*faults, error) {
	found := newFaults()
	if len(topics) == 0 {
		return found, nil
	}
	known, err := a.cluster.KnownRequests(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking whether kafka topics can be created: %w", err)
	}
	if v, ok := known[protocol.CreateTopics]; ok && v.Most < validateVersion {
		return found, nil // the cluster would create them
	}
	req := a.creationRequest(topics, spec)
	req.ValidateOnly = true
	res, err := a.cluster.AskOrMissing(ctx, req)
	if client.IsNoRequest(err) {
		for _, t := range topics {
			found.addCause(t, cannotBeCreated(err), err)
		}
		return found, nil
	}
	if err != nil {
		return nil, fmt.Errorf("asking whether kafka topics can be created: %w", err)
	}
	for _, t := range res.(*createtopics.Response).Topics {
		if t.ErrorCode != 0 {
			a.refusedCreation(t, spec, found)
		}
	}
	return found, nil
}

// creationRequest asks for topics as spec says, those of state as they must be.
func (a *topicAdmin) creationRequest(topics []string, spec Create) *createtopics.Request {
	req := &createtopics.Request{TimeoutMs: int32((a.cfg.RequestTimeout / 10 * 9).Milliseconds())} //nolint:gosec // at most minutes
	for _, t := range topics {
		spec := a.cfg.creationOf(t, spec)
		rt := createtopics.RequestTopic{
			Name:              t,
			NumPartitions:     int32(spec.Partitions),        //nolint:gosec // validated
			ReplicationFactor: int16(spec.ReplicationFactor), //nolint:gosec // validated
		}
		for _, k := range slices.Sorted(maps.Keys(spec.Config)) {
			rt.Configs = append(rt.Configs, createtopics.RequestConfig{Name: k, Value: spec.Config[k]})
		}
		req.Topics = append(req.Topics, rt)
	}
	return req
}

// awaitLeaders returns once every partition of the topics has a leader.
func (a *topicAdmin) awaitLeaders(ctx context.Context, topics []string) error {
	ctx, cancel := client.WithAllowance(ctx, leaderWait, context.DeadlineExceeded)
	defer cancel()
	for try := 0; ; try++ {
		l, err := a.cluster.Locate(ctx, topics, time.Time{})
		if err != nil {
			return err
		}
		leaderless := leaderless(l)
		if len(leaderless) == 0 {
			return nil
		}
		a.cluster.Refresh()
		if retry.Sleep(ctx, client.Retries.After(min(try+1, 4))) != nil {
			return fmt.Errorf("kafka topics have partitions without a leader, since brokers are down or the cluster is busy: %s", strings.Join(leaderless, ", "))
		}
	}
}

func leaderless(l *client.Layout) []string {
	var without []string
	for name, t := range l.Topics {
		if t.Err != nil || len(t.Leaders) == 0 || slices.Contains(t.Leaders, -1) {
			without = append(without, name)
		}
	}
	slices.Sort(without)
	return without
}
