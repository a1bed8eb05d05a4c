package sinktest

import (
	"strconv"
	"strings"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

func (k *kit) identity() {
	s := k.New(k.T)
	defer func() { _ = s.Close() }()
	require.NotEmpty(k, s.Identity(), "without a connection")
	other := k.New(k.T)
	defer func() { _ = other.Close() }()
	require.Equal(k, s.Identity(), other.Identity(), "of two sinks on the same destination")
}

func (k *kit) prepareTwice() {
	topics := k.topics(2)
	s := k.preparedSink(topics)
	batch := k.batch(topics, 10)
	k.store(s, batch[:5])
	require.NoError(k, k.untilAnswered("Prepare", func() error { return s.Prepare(k.ctx, topics) }))
	k.store(s, batch[5:])
	k.requireExactly(topics, batch)
}

// prepareMoreTopics adds topics to a destination that is in use, as a new route does.
func (k *kit) prepareMoreTopics() {
	topics := k.topics(4)
	s := k.preparedSink(topics[:2])
	first := k.batch(topics[:2], 10)
	k.store(s, first)
	require.NoError(k, k.untilAnswered("Prepare", func() error { return s.Prepare(k.ctx, topics) }))
	second := k.batch(topics, 20)
	k.store(s, second)
	k.requireExactly(topics, append(first, second...))
}

func (k *kit) illegalTopicsInPrepare() {
	s := k.New(k.T)
	defer func() { _ = s.Close() }()
	for _, topic := range k.IllegalTopics {
		err := s.Prepare(k.ctx, append(k.topics(1), topic))
		var fatal *sink.FatalError
		require.ErrorAs(k, err, &fatal, "topic %q", topic)
		named := strings.Contains(err.Error(), topic) || strings.Contains(err.Error(), strconv.Quote(topic))
		require.True(k, named, "the error does not name %q: %v", topic, err)
	}
}

// missingTopicsRefused checks that a sink which may create nothing names every missing topic in one
// error, and creates none.
func (k *kit) missingTopicsRefused() {
	topics := k.topics(3)
	k.preparedSink(topics[:1])
	s := k.NewStrict(k.T)
	defer func() { _ = s.Close() }()
	for range 2 {
		err := k.untilAnswered("Prepare", func() error { return s.Prepare(k.ctx, topics) })
		var fatal *sink.FatalError
		require.ErrorAs(k, err, &fatal)
		require.ErrorContains(k, err, topics[1])
		require.ErrorContains(k, err, topics[2])
	}
	require.NoError(k, k.untilAnswered("Prepare", func() error { return s.Prepare(k.ctx, topics[:1]) }))
}

func (k *kit) holds() {
	topics := k.topics(3)
	s := k.New(k.T)
	defer func() { _ = s.Close() }()
	k.requireHolds(s, topics, false, "nothing prepared")
	k.prepare(s, topics[:2])
	k.requireHolds(s, topics, false, "prepared, nothing published")
	k.store(s, k.batch(topics[1:2], 1))
	k.requireHolds(s, topics, true, "a message on one of the topics")
	k.requireHolds(s, topics[1:2], true, "a message on the topic")
	k.requireHolds(s, topics[:1], false, "another topic's message")
	k.requireHolds(s, nil, false, "no topics")

	other := k.New(k.T) // as after a restart
	defer func() { _ = other.Close() }()
	k.requireHolds(other, topics, true, "seen by another sink")
}

func (k *kit) requireHolds(s sink.Sink, topics []string, want bool, when string) {
	k.Helper()
	var have bool
	err := k.untilAnswered("Holds", func() (err error) {
		have, err = s.Holds(k.ctx, topics)
		return err
	})
	require.NoError(k, err, when)
	require.Equal(k, want, have, when)
}

// inspect looks before and after Prepare. Looking creates nothing.
func (k *kit) inspect() {
	topics := k.topics(2)
	s := k.New(k.T)
	defer func() { _ = s.Close() }()
	for range 2 {
		status := k.status(s, topics)
		require.Len(k, status, len(topics))
		for i, st := range status {
			require.Equal(k, topics[i], st.Topic)
			require.False(k, st.Exists)
			require.True(k, st.Creates)
			require.Empty(k, st.Problems)
		}
	}
	k.prepare(s, topics[:1])
	status := k.status(s, topics)
	require.True(k, status[0].Exists)
	require.False(k, status[0].Creates)
	require.NotEmpty(k, status[0].Detail)
	require.Empty(k, status[0].Problems)
	require.False(k, status[1].Exists)
	require.True(k, status[1].Creates)

	if k.NewStrict == nil {
		return
	}
	strict := k.NewStrict(k.T)
	defer func() { _ = strict.Close() }()
	status = k.status(strict, topics)
	require.True(k, status[0].Exists)
	require.False(k, status[1].Exists)
	require.False(k, status[1].Creates)
	require.NotEmpty(k, status[1].Problems)
}

// status is what Inspect says of topics.
func (k *kit) status(s sink.Sink, topics []string) (status []sink.TopicStatus) {
	k.Helper()
	err := k.untilAnswered("Inspect", func() (err error) {
		status, err = s.Inspect(k.ctx, topics)
		return err
	})
	require.NoError(k, err)
	return status
}
