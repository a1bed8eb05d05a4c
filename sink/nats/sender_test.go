package nats

import (
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

func TestEncodeLeavesNothingOfTheMessageBefore(t *testing.T) {
	t.Parallel()
	var e encoder
	first := sink.Message{Topic: "a", ID: "event_1", Body: []byte("1"), Headers: []sink.Header{{Key: "event-id", Value: "event_1"},
		{Key: "twice", Value: "x"}, {Key: "twice", Value: "y"}, {Key: "only-first", Value: "z"}}}
	msg := e.encode(&first, "reply.1", true)
	require.Equal(t, &nats.Msg{Subject: "a", Reply: "reply.1", Data: []byte("1"), Header: nats.Header{
		"event-id": {"event_1"}, "twice": {"x", "y"}, "only-first": {"z"}, msgIDHeader: {"event_1"}}}, msg)

	second := sink.Message{Topic: "b", ID: "event_2", Body: []byte("2"), Headers: []sink.Header{{Key: "event-id", Value: "event_2"}}}
	require.Equal(t, &nats.Msg{Subject: "b", Data: []byte("2"), Header: nats.Header{"event-id": {"event_2"}}}, e.encode(&second, "", false))

	bare := sink.Message{Topic: "c", Body: []byte("3")}
	require.Empty(t, e.encode(&bare, "", true).Header)

	c := newCommit(nil, 1, []sink.Message{second}, 0, bare)
	require.Equal(t, nats.Header{"event-id": {"event_2"}, batchIDHeader: {c.id}, batchSequenceHeader: {"1"}}, e.encodeInBatch(c, 0, "").Header)
	require.Equal(t, nats.Header{batchIDHeader: {c.id}, batchSequenceHeader: {"2"}, batchCommitHeader: {"1"}}, e.encodeInBatch(c, 1, "").Header)
}

func TestEncodingCopiesNothing(t *testing.T) {
	var e encoder
	batch := benchMessages()[:10]
	number(batch, 0)
	e.encode(&batch[0], "", true)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		for i := range batch {
			e.encode(&batch[i], "reply", true)
		}
	}))
}
