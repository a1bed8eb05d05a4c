package sinktest

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

func (k *kit) emptyBatch() {
	topics := k.topics(1)
	s := k.preparedSink(topics)
	require.NoError(k, s.Publish(k.ctx, nil))
	require.NoError(k, s.Publish(k.ctx, []sink.Message{}))
	require.Empty(k, k.Read(k.T, topics))
}

func (k *kit) orderOverBatches() {
	topics := k.topics(3)
	s := k.preparedSink(topics)
	var sent []sink.Message
	for _, n := range []int{1, 2, 999, 100, 1, 700, 1000, 37} {
		batch := k.batch(topics, n)
		k.store(s, batch)
		sent = append(sent, batch...)
	}
	k.requireExactly(topics, sent)
}

// fidelity sends what encoders like to spoil.
func (k *kit) fidelity() {
	topics := k.topics(1)
	s := k.preparedSink(topics)
	bodies := [][]byte{
		[]byte(`{"name":"Zoë Ångström 🦊 漢字 \ud83e\udd8a","rtl":"שלום"}`),
		[]byte(`{"big":12345678901234567890123456789,"float":1.0000000000000000001,"exp":1E400,"negative":-0}`),
		[]byte("{\"b\":1,\t\"a\" : 2,\r\n\"unknown\":{\"deep\":[[[]]]},\"a\":3}\n"),
		{},
		[]byte("\x00\x01\xff\xfe not UTF-8 \r\n\r\n NATS/1.0 PUB x 3"),
		[]byte(strings.Repeat("long ", 20_000)),
		incompressible(200_000),
	}
	if k.Features.JSONBodies {
		bodies = slices.DeleteFunc(bodies, func(body []byte) bool { return !json.Valid(body) })
	}
	batch := k.batch(topics, len(bodies))
	for i := range batch {
		batch[i].Body = bodies[i]
		batch[i].Headers = append(batch[i].Headers,
			sink.Header{Key: "organization-id", Value: "org_01É漢🦊"},
			sink.Header{Key: "ce_Type", Value: "com.workos.dsync.user.created"},
			sink.Header{Key: "empty", Value: ""},
			sink.Header{Key: "punctuation", Value: `a:b;c="d", %20 \ {e}`})
	}
	batch[0].Key = []byte("org_é漢🦊")
	batch[1].Key = []byte{0, 1, 0xff}
	k.store(s, batch)
	k.requireExactly(topics, batch)
}

// inputUntouched checks that Publish modifies neither the batch nor what it points to.
func (k *kit) inputUntouched() {
	topics := k.topics(2)
	s := k.preparedSink(topics)
	batch := k.batch(topics, 50)
	before := make([]sink.Message, len(batch))
	for i, m := range batch {
		before[i] = m
		before[i].Key, before[i].Body, before[i].Headers = slices.Clone(m.Key), slices.Clone(m.Body), slices.Clone(m.Headers)
	}
	k.store(s, batch)
	require.Equal(k, before, batch)
}

func (k *kit) dedupe() {
	topics := k.topics(2)
	s := k.preparedSink(topics)
	batch := k.batch(topics, 120)
	k.store(s, batch[:100])
	k.store(s, batch[40:]) // as after a crash before the commit
	k.requireExactly(topics, batch)

	other := k.preparedSink(topics) // and as a new process
	k.store(other, batch)
	k.requireExactly(topics, batch)
}

// noIDNoDedupe checks that messages without an ID, as a replay sends them, are all stored.
func (k *kit) noIDNoDedupe() {
	topics := k.topics(1)
	s := k.preparedSink(topics)
	batch := k.batch(topics, 20)
	for i := range batch {
		batch[i].ID = ""
	}
	k.store(s, batch)
	k.store(s, batch)
	stored := len(k.Read(k.T, topics))
	require.True(k, stored == 40 || k.again && stored > 40, "%d messages are stored", stored)
}

func (k *kit) poisonTooLarge() {
	require.Positive(k, k.MaxMessage, "Harness.MaxMessage")
	k.poison(func(m *sink.Message) { m.Body = incompressible(k.MaxMessage + 4096) })
}

func (k *kit) poisonTopic() {
	require.NotEmpty(k, k.IllegalTopics, "Harness.IllegalTopics")
	k.poison(func(m *sink.Message) { m.Topic = k.IllegalTopics[0] })
}

// poison puts one message that can never be published at the beginning, the middle and the end of a
// batch: exactly what comes before it is durable, and the rest can be published afterwards.
func (k *kit) poison(spoil func(*sink.Message)) {
	outer := k.T
	for _, c := range []struct {
		name string
		at   int
	}{{"first", 0}, {"middle", 57}, {"last", 119}} {
		outer.Run(c.name, func(t *testing.T) {
			k := &kit{T: t, Harness: k.Harness, ctx: k.ctx, scope: k.scope + "-" + c.name}
			topics := k.topics(2)
			s := k.preparedSink(topics)
			batch := k.batch(topics, 120)
			sendable := slices.Concat(batch[:c.at], batch[c.at+1:])
			spoil(&batch[c.at])

			durable, err := k.attempt(s, batch)
			k.checkError(err, len(batch))
			var rejected *sink.RejectedError
			require.ErrorAs(k, err, &rejected)
			require.Equal(k, batch[c.at].Topic, rejected.Topic)
			require.NotEmpty(k, rejected.Reason)
			require.Equal(k, c.at, durable)
			k.requireHas(topics, batch[:c.at])
			if k.Features.AtomicPrefix {
				k.requireExactly(topics, batch[:c.at])
			}

			if rest := batch[c.at+1:]; len(rest) > 0 {
				k.store(s, rest)
			}
			if k.Features.AtomicPrefix {
				k.requireExactly(topics, sendable)
			} else {
				k.requireInOrder(topics, sendable)
			}
		})
	}
}
