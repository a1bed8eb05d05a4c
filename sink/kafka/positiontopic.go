package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/createtopics"

	"workos-relay/sink"
)

const (
	cleanupPolicy = "cleanup.policy"
	compact       = "compact"
	// positionSegment lets compaction begin before a lane's positions take a gigabyte, the size of
	// Kafka's default.
	positionSegment = "104857600"
)

// positionAdmin creates and inspects the topic of the position. It is safe for concurrent use.
type positionAdmin struct {
	*common
	topics *topicAdmin
	topic  string // of the position
}

// prepare makes the position's topic ready.
func (a *positionAdmin) prepare(ctx context.Context) error {
	err := a.topics.prepare(ctx, []string{a.topic}, a.creation())
	if isCreationRefused(err) {
		// Services let their users set few things.
		err = a.topics.prepare(ctx, []string{a.topic}, a.leastCreation())
	}
	switch {
	case isCreationRefused(err):
		return noPositionTopic(err)
	case err != nil:
		return err
	}
	problems, err := a.problems(ctx)
	if err != nil {
		return err
	}
	return a.refusal(problems)
}

// controllerWait bounds how long exists waits for an answer: not longer than the looks for a topic
// that is not there take without it.
const controllerWait = 500 * time.Millisecond

// exists asks the controller of the cluster whether the position's topic exists, as a creation that
// creates nothing. Unlike the answer of a broker, which may have started just now, this is certain.
// It reports false for known if the cluster does not say it: if relay is not to create topics, may
// not, or could not with these settings.
func (a *positionAdmin) exists(ctx context.Context) (exists, known bool) {
	if !a.cfg.Create.Enabled {
		return false, false
	}
	ctx, cancel := context.WithTimeout(ctx, controllerWait)
	defer cancel()
	requests, err := a.cluster.KnownRequests(ctx)
	if v, ok := requests[protocol.CreateTopics]; err != nil || !ok || v.Most < validateVersion {
		return false, false
	}
	req := a.topics.creationRequest([]string{a.topic}, a.creation())
	req.ValidateOnly = true
	res, err := a.cluster.RoundTrip(ctx, req)
	if err != nil {
		return false, false
	}
	for _, t := range res.(*createtopics.Response).Topics {
		switch {
		case t.Name != a.topic:
		case t.ErrorCode == 0:
			return false, true
		case kafkago.Error(t.ErrorCode) == kafkago.TopicAlreadyExists:
			return true, true
		}
	}
	return false, false
}

// ErrNoPositionTopic means that the cluster cannot have a topic that keeps a position, so that
// delivery can only be at_least_once there.
var ErrNoPositionTopic = errors.New("the kafka cluster cannot keep a position")

func noPositionTopic(err error) error {
	return &sink.FatalError{Err: fmt.Errorf("%w, so exactly_once is not possible there: set delivery at_least_once: %w", ErrNoPositionTopic, err)}
}

// creation says how the position's topic is created: as create says, but for what it must be.
func (a *positionAdmin) creation() Create {
	spec := a.cfg.Create
	spec.Partitions = 1
	spec.Config = maps.Clone(spec.Config)
	if spec.Config == nil {
		spec.Config = make(map[string]string)
	}
	for _, name := range append(ofEvents[:len(ofEvents):len(ofEvents)], "max.message.bytes") {
		delete(spec.Config, name)
	}
	spec.Config[cleanupPolicy] = compact
	spec.Config["segment.bytes"] = positionSegment
	return spec
}

// leastCreation is creation with the one setting that the position's topic must have.
func (a *positionAdmin) leastCreation() Create {
	spec := a.creation()
	spec.Config = map[string]string{cleanupPolicy: compact}
	return spec
}

// refusal returns the problems of the position's topic as a *sink.FatalError, nil if there are
// none.
func (a *positionAdmin) refusal(problems []string) error {
	if len(problems) == 0 {
		return nil
	}
	return &sink.FatalError{Err: fmt.Errorf("kafka topic %s cannot keep relay's position: %s", a.topic, strings.Join(problems, "; "))}
}

// problems returns why the position's topic, which exists, cannot hold a position safely. A
// cleanup.policy that relay cannot see is none of these: a position that is lost stops relay with a
// question.
func (a *positionAdmin) problems(ctx context.Context) (problems []string, err error) {
	answer, err := a.cluster.Describe(ctx, []string{a.topic})
	if err != nil {
		return nil, err
	}
	if code := kafkago.Error(answer.Topics[0].ErrorCode); code != 0 && code != kafkago.LeaderNotAvailable {
		return nil, a.explainTopic(code, a.topic)
	}
	if n := len(answer.Topics[0].Partitions); n != 1 {
		problems = append(problems, fmt.Sprintf("it has %d partitions, and must have one", n))
	}
	settings, err := a.cluster.Settings(ctx, []string{a.topic}, cleanupPolicy)
	if err != nil {
		return nil, err
	}
	if policy, shown := settings[a.topic].Values[cleanupPolicy]; shown && policy != compact {
		problems = append(problems, fmt.Sprintf("its %s is %q, so the position would be deleted one day; set it by kafka-configs --bootstrap-server %s "+
			"--alter --entity-type topics --entity-name %s --add-config %s=%s", cleanupPolicy, policy, a.cfg.Brokers[0], a.topic, cleanupPolicy, compact))
	}
	return problems, nil
}

// inspect looks at the position's topic, or at what its creation would give.
func (a *positionAdmin) inspect(ctx context.Context) (sink.TopicStatus, error) {
	own, err := a.topics.inspectAll(ctx, []string{a.topic}, a.creation())
	if err == nil && !own[0].Exists && !own[0].Creates {
		own, err = a.topics.inspectAll(ctx, []string{a.topic}, a.leastCreation())
	}
	if err != nil {
		return sink.TopicStatus{}, err
	}
	st := own[0]
	st.Warnings = slices.DeleteFunc(st.Warnings, func(w string) bool { return strings.HasPrefix(w, cleanupPolicy) })
	return st, nil
}

// addProblems adds to st what is wrong with the position's topic.
func (a *positionAdmin) addProblems(ctx context.Context, st *sink.TopicStatus) error {
	if !st.Exists && !st.Creates && a.cfg.Create.Enabled {
		refused, err := a.topics.tryCreation(ctx, []string{a.topic}, a.leastCreation())
		if err != nil {
			return a.explain(err)
		}
		if found := refused.fatal(); isCreationRefused(found) {
			st.Unfit = noPositionTopic(found)
		}
	}
	if !st.Exists {
		return nil
	}
	problems, err := a.problems(ctx)
	if err != nil {
		return err
	}
	st.Problems = append(st.Problems, problems...)
	st.Unfit = a.refusal(problems)
	return nil
}
