package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"

	"workos-relay/sink"
)

const (
	cleanupPolicy = "cleanup.policy"
	compact       = "compact"
	// positionSegment lets compaction begin before a lane's positions take a gigabyte, the size of Kafka's default.
	positionSegment = "104857600"
)

// Prepare is that of the Sink, and makes the position's topic ready as well: one partition, kept by compaction alone, and refused
// otherwise, since a topic cleaned by time or size would lose the position.
func (l *Ledger) Prepare(ctx context.Context, topics []string) error {
	if err := l.sink.Prepare(ctx, topics); err != nil {
		return err
	}
	ctx, cancel := l.sink.within(ctx)
	defer cancel()
	err := l.sink.prepare(ctx, []string{l.topic}, l.creation())
	if err == nil {
		err = l.checkPosition(ctx)
	}
	return l.sink.prepareError(ctx, err)
}

// creation says how the position's topic is created: as create says, but for what it must be.
func (l *Ledger) creation() Create {
	spec := l.sink.cfg.Create
	spec.Partitions = 1
	spec.Config = maps.Clone(spec.Config)
	if spec.Config == nil {
		spec.Config = make(map[string]string)
	}
	for _, timed := range []string{"retention.ms", "retention.bytes", "max.message.bytes"} { // meant for events
		delete(spec.Config, timed)
	}
	spec.Config[cleanupPolicy] = compact
	spec.Config["segment.bytes"] = positionSegment
	return spec
}

// checkPosition returns a *sink.FatalError where the position's topic, which is there, cannot hold one safely.
func (l *Ledger) checkPosition(ctx context.Context) error {
	problems, err := l.positionProblems(ctx)
	if err != nil || len(problems) == 0 {
		return err
	}
	return &sink.FatalError{Err: fmt.Errorf("kafka topic %s cannot keep relay's position: %s", l.topic, strings.Join(problems, "; "))}
}

func (l *Ledger) positionProblems(ctx context.Context) ([]string, error) {
	answer, err := l.sink.cluster.describe(ctx, []string{l.topic})
	if err != nil {
		return nil, err
	}
	if code := kafkago.Error(answer.Topics[0].ErrorCode); code != 0 && code != kafkago.LeaderNotAvailable {
		return nil, l.sink.explainTopic(code, l.topic)
	}
	var problems []string
	if n := len(answer.Topics[0].Partitions); n != 1 {
		problems = append(problems, fmt.Sprintf("it has %d partitions, and must have one", n))
	}
	settings, err := l.sink.cluster.settings(ctx, []string{l.topic}, cleanupPolicy)
	if err != nil {
		return nil, err
	}
	policy, err := settings[l.topic].values[cleanupPolicy], settings[l.topic].err
	switch {
	case isDenied(err):
		problems = append(problems, fmt.Sprintf("relay may not see whether its %s is %s; grant that by %s", cleanupPolicy, compact,
			l.sink.topicACL(l.topic, "DescribeConfigs")))
	case err != nil:
		return nil, err
	case policy != compact:
		problems = append(problems, fmt.Sprintf("its %s is %q, so the position would be deleted one day; set it by kafka-configs --bootstrap-server %s "+
			"--alter --entity-type topics --entity-name %s --add-config %s=%s", cleanupPolicy, policy, l.sink.cfg.Brokers[0], l.topic, cleanupPolicy, compact))
	}
	return problems, nil
}

// Inspect is that of the Sink, with the position's topic as the last line.
func (l *Ledger) Inspect(ctx context.Context, topics []string) ([]sink.TopicStatus, error) {
	status, err := l.sink.Inspect(ctx, topics)
	if err != nil {
		return nil, err
	}
	ctx, cancel := l.sink.within(ctx)
	defer cancel()
	own, err := l.sink.inspectAll(ctx, []string{l.topic}, l.creation())
	if err != nil {
		return nil, err
	}
	st := own[0]
	st.Warnings = slices.DeleteFunc(st.Warnings, func(w string) bool { return strings.HasPrefix(w, cleanupPolicy) })
	if st.Exists {
		problems, err := l.positionProblems(ctx)
		if err != nil {
			return nil, err
		}
		st.Problems = append(st.Problems, problems...)
	}
	if err := l.Transactions(ctx); err != nil {
		var fatal *sink.FatalError
		if !errors.As(err, &fatal) {
			return nil, err
		}
		st.Problems = append(st.Problems, err.Error())
	}
	if len(st.Problems) > 0 {
		st.Exists, st.Creates = false, false
	}
	return append(status, st), nil
}

// Transactions finds out, without touching any, whether relay can do transactions on the cluster. It returns nil where it can, a
// *sink.FatalError that matches ErrNoTransactions where the cluster has none, another *sink.FatalError where relay may not, and any
// other error where that could not be found out now.
func (l *Ledger) Transactions(ctx context.Context) error {
	ctx, cancel := l.sink.within(ctx)
	defer cancel()
	res, err := l.sink.cluster.roundTrip(ctx, &apiversions.Request{})
	if err != nil {
		return l.explain(fmt.Errorf("asking the cluster what it can do: %w", err))
	}
	r := res.(*apiversions.Response)
	if r.ErrorCode != 0 {
		return l.explain(fmt.Errorf("asking the cluster what it can do: %w", kafkago.Error(r.ErrorCode)))
	}
	for _, api := range []protocol.ApiKey{protocol.InitProducerId, protocol.AddPartitionsToTxn, protocol.EndTxn} {
		if !slices.ContainsFunc(r.ApiKeys, func(k apiversions.ApiKeyResponse) bool { return protocol.ApiKey(k.ApiKey) == api }) {
			return noTransactions(fmt.Errorf("it does not know the request %s", api))
		}
	}
	// A coordinator looks at the permission before it looks at the producer, which is none of its own here.
	ctx, stop := context.WithTimeout(ctx, settleWait)
	defer stop()
	q := l.coordinator.addition("asking the transaction coordinator", noSession, []partitionID{{l.topic, 0}})
	q.once = true // a topic that is not there yet is no reason to wait
	_, err = l.coordinator.ask(ctx, q)
	var code kafkago.Error
	if answered := errors.As(err, &code); answered && !isUnsupported(err) && code != kafkago.TransactionalIDAuthorizationFailed && !q.repeats(true, err) {
		return nil
	}
	return l.explain(err)
}
