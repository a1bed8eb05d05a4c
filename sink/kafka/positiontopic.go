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

	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

const (
	cleanupPolicy = "cleanup.policy"
	compact       = "compact"
	// positionSegment lets compaction begin before a lane's positions take a gigabyte, the size of
	// Kafka's default.
	positionSegment = "104857600"
)

// Prepare is that of the Sink, and makes the position's topic ready as well: one partition, kept by
// compaction alone, and refused otherwise, since a topic cleaned by time or size would lose the
// position. Before it creates anything it returns an error that matches ErrNoTransactions if the
// cluster cannot do what exactly_once needs: see Transactions.
func (l *Ledger) Prepare(ctx context.Context, topics []string) error {
	if err := l.Transactions(ctx); err != nil {
		return err
	}
	if err := l.sink.Prepare(ctx, topics); err != nil {
		return err
	}
	ctx, cancel := l.sink.withLifetime(ctx)
	defer cancel()
	err := l.preparePosition(ctx)
	if err == nil {
		err = l.sink.admin.nameShortcomings(ctx, append(slices.Clone(topics), l.topic))
	}
	return l.sink.prepareError(ctx, err)
}

func (l *Ledger) preparePosition(ctx context.Context) error {
	err := l.sink.admin.prepare(ctx, []string{l.topic}, l.creation())
	if isCreationRefused(err) {
		// Services let their users set few things.
		err = l.sink.admin.prepare(ctx, []string{l.topic}, l.leastCreation())
	}
	switch {
	case isCreationRefused(err):
		return noPositionTopic(err)
	case err != nil:
		return err
	}
	problems, err := l.positionProblems(ctx)
	if err != nil {
		return err
	}
	return l.refusal(problems)
}

// ErrNoPositionTopic means that the cluster cannot have a topic that keeps a position, so that
// delivery can only be at_least_once there.
var ErrNoPositionTopic = errors.New("the kafka cluster cannot keep a position")

func noPositionTopic(err error) error {
	return &sink.FatalError{Err: fmt.Errorf("%w, so exactly_once is not possible there: set delivery at_least_once: %w", ErrNoPositionTopic, err)}
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

// leastCreation is creation with the one setting that the position's topic must have.
func (l *Ledger) leastCreation() Create {
	spec := l.creation()
	spec.Config = map[string]string{cleanupPolicy: compact}
	return spec
}

// refusal returns the problems of the position's topic as a *sink.FatalError, nil if there are
// none.
func (l *Ledger) refusal(problems []string) error {
	if len(problems) == 0 {
		return nil
	}
	return &sink.FatalError{Err: fmt.Errorf("kafka topic %s cannot keep relay's position: %s", l.topic, strings.Join(problems, "; "))}
}

// positionProblems returns why the position's topic, which is there, cannot hold one safely. A
// cleanup.policy that relay cannot see is none of these: a position that is lost stops relay with a
// question.
func (l *Ledger) positionProblems(ctx context.Context) (problems []string, err error) {
	answer, err := l.sink.cluster.Describe(ctx, []string{l.topic})
	if err != nil {
		return nil, err
	}
	if code := kafkago.Error(answer.Topics[0].ErrorCode); code != 0 && code != kafkago.LeaderNotAvailable {
		return nil, l.sink.explainTopic(code, l.topic)
	}
	if n := len(answer.Topics[0].Partitions); n != 1 {
		problems = append(problems, fmt.Sprintf("it has %d partitions, and must have one", n))
	}
	settings, err := l.sink.cluster.Settings(ctx, []string{l.topic}, cleanupPolicy)
	if err != nil {
		return nil, err
	}
	if policy, shown := settings[l.topic].Values[cleanupPolicy]; shown && policy != compact {
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
	ctx, cancel := l.sink.withLifetime(ctx)
	defer cancel()
	own, err := l.sink.admin.inspectAll(ctx, []string{l.topic}, l.creation())
	if err == nil && !own[0].Exists && !own[0].Creates {
		own, err = l.sink.admin.inspectAll(ctx, []string{l.topic}, l.leastCreation())
	}
	if err != nil {
		return nil, err
	}
	st := own[0]
	st.Warnings = slices.DeleteFunc(st.Warnings, func(w string) bool { return strings.HasPrefix(w, cleanupPolicy) })
	if err := l.Transactions(ctx); err != nil {
		var fatal *sink.FatalError
		if !errors.As(err, &fatal) {
			return nil, err
		}
		st.Problems = append(st.Problems, err.Error())
		st.Unfit = err
	}
	if st.Unfit == nil {
		if err := l.inspectPosition(ctx, &st); err != nil {
			return nil, err
		}
	}
	if len(st.Problems) > 0 {
		st.Exists, st.Creates = false, false
	}
	return append(status, st), nil
}

// inspectPosition adds to st what is wrong with the position's topic.
func (l *Ledger) inspectPosition(ctx context.Context, st *sink.TopicStatus) error {
	if !st.Exists && !st.Creates && l.sink.cfg.Create.Enabled {
		refused, err := l.sink.admin.tryCreation(ctx, []string{l.topic}, l.leastCreation())
		if err != nil {
			return l.sink.explain(err)
		}
		if found := refused.fatal(); isCreationRefused(found) {
			st.Unfit = noPositionTopic(found)
		}
	}
	if !st.Exists {
		return nil
	}
	problems, err := l.positionProblems(ctx)
	if err != nil {
		return err
	}
	st.Problems = append(st.Problems, problems...)
	st.Unfit = l.refusal(problems)
	return nil
}

// Advice implements sink.Adviser: that of the Sink, for a lane in exactly_once.
func (l *Ledger) Advice(ctx context.Context, topics []string) (sink.Advice, error) {
	return l.sink.Advice(ctx, append(slices.Clone(topics), l.topic))
}

// transactionRequests are those without which there is no transaction.
var transactionRequests = []protocol.ApiKey{protocol.InitProducerId, protocol.FindCoordinator, protocol.AddPartitionsToTxn, protocol.EndTxn}

// Transactions finds out, without touching any, whether relay can do transactions on the cluster.
// `relay check` and a start decide by it. It returns nil if relay can, a *sink.FatalError that
// matches ErrNoTransactions if the cluster has none, another *sink.FatalError if relay may not, and
// any other error if that could not be found out now.
func (l *Ledger) Transactions(ctx context.Context) error {
	ctx, cancel := l.sink.withLifetime(ctx)
	defer cancel()
	missing, err := l.sink.cluster.MissingRequests(ctx, transactionRequests...)
	if err != nil {
		return l.sink.prepareError(ctx, fmt.Errorf("asking the cluster what it can do: %w", err))
	}
	if len(missing) > 0 {
		return noTransactions(fmt.Errorf("it does not know the request %s", strings.Join(missing, ", ")))
	}
	if err := l.sink.admin.askProducerID(ctx); err != nil {
		return noTransactions(err)
	}
	silent, err := l.coordinator.Probe(ctx, transientTimeout, client.Partition{Topic: l.topic, Number: 0})
	if silent {
		return noTransactions(fmt.Errorf("it answers other requests, but none about transactions: %w", err))
	}
	if err != nil {
		return l.transactionError(err)
	}
	return nil
}
