package sinktest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"

	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

// keys is how many partition keys the made messages spread over.
const keys = 5

// idHeader distinguishes the generated messages in what a reader sees.
const idHeader = "event-id"

// batch makes the next n messages, spread over topics and keys, each with its own id.
func (k *kit) batch(topics []string, n int) []sink.Message {
	batch := make([]sink.Message, n)
	for i := range batch {
		number := k.sent
		k.sent++
		id := fmt.Sprintf("%s_%06d", k.scope, number)
		topic := topics[number%len(topics)]
		batch[i] = sink.Message{
			Topic:    topic,
			Key:      fmt.Appendf(nil, "key-%d", number%keys),
			ID:       id,
			Headers:  []sink.Header{{Key: idHeader, Value: id}, {Key: "event-type", Value: topic}},
			Body:     fmt.Appendf(nil, `{"id":%q,"number":%d,"filler":%q}`, id, number, filler[:number%len(filler)]),
			Position: checkpoint.Position{EventID: id},
		}
	}
	return batch
}

var filler = string(bytes.Repeat([]byte("relay "), 200))

// incompressible returns n bytes that no codec makes smaller, the same for the same n.
func incompressible(n int) []byte {
	random := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	b := make([]byte, n)
	_, _ = random.Read(b)
	return b
}

func header(m sink.Message, key string) (string, bool) {
	i := slices.IndexFunc(m.Headers, func(h sink.Header) bool { return h.Key == key })
	if i < 0 {
		return "", false
	}
	return m.Headers[i].Value, true
}

func idOf(m sink.Message) string {
	id, _ := header(m, idHeader)
	return id
}

func ids(messages []sink.Message) []string {
	ids := make([]string, len(messages))
	for i, m := range messages {
		ids[i] = idOf(m)
	}
	return ids
}

// lanes splits messages into the sequences whose order the bus promises: all of them, or those of
// one topic and key.
func (k *kit) lanes(messages []sink.Message) map[string][]string {
	lanes := map[string][]string{}
	for _, m := range messages {
		lane := "all"
		if k.Features.Partitions {
			lane = m.Topic + " " + strconv.Quote(string(m.Key))
		}
		lanes[lane] = append(lanes[lane], idOf(m))
	}
	return lanes
}

// requireExactly checks that the topics hold sent, each once, in order; at least once if an attempt
// was repeated.
func (k *kit) requireExactly(topics []string, sent []sink.Message) {
	k.Helper()
	if k.again {
		k.requireInOrder(topics, sent)
		return
	}
	stored := k.Read(k.T, topics)
	require.Equal(k, len(sent), len(stored), "number of messages stored") //nolint:testifylint // Len would print them all
	have := k.lanes(stored)
	for lane, want := range k.lanes(sent) {
		require.Equal(k, want, have[lane], "order of %s", lane)
	}
	k.requireSame(sent, stored)
}

// requireInOrder checks that the topics hold sent at least once and in order: sent is a
// subsequence of what is stored. Nothing but messages of sent may be there. It
// returns how many copies are too many.
func (k *kit) requireInOrder(topics []string, sent []sink.Message) (extra int) {
	k.Helper()
	stored := k.Read(k.T, topics)
	known := map[string]bool{}
	for _, m := range sent {
		known[idOf(m)] = true
	}
	for _, m := range stored {
		if !known[idOf(m)] {
			require.Fail(k, "a message that was never sent", idOf(m))
		}
	}
	have := k.lanes(stored)
	for lane, want := range k.lanes(sent) {
		rest := have[lane]
		for i, id := range want {
			at := slices.Index(rest, id)
			if at < 0 {
				require.Fail(k, "lost, or out of order", "%s: %s (number %d of %d) is not stored after its predecessor", lane, id, i, len(want))
			}
			rest = rest[at+1:]
		}
	}
	k.requireSame(sent, stored)
	return len(stored) - len(sent)
}

// requireHas checks that the topics hold each of sent.
func (k *kit) requireHas(topics []string, sent []sink.Message) {
	k.Helper()
	have := map[string]bool{}
	for _, id := range ids(k.Read(k.T, topics)) {
		have[id] = true
	}
	for _, id := range ids(sent) {
		if !have[id] {
			require.Fail(k, "reported durable and not stored", id)
		}
	}
}

// requireSame compares every stored message with the one sent: topic, body, headers, and key if the
// bus stores it.
func (k *kit) requireSame(sent, stored []sink.Message) {
	k.Helper()
	byID := map[string]sink.Message{}
	for _, m := range sent {
		byID[idOf(m)] = m
	}
	for _, got := range stored {
		want, ok := byID[idOf(got)]
		if !ok {
			continue
		}
		if want.Topic != got.Topic {
			require.Equal(k, want.Topic, got.Topic, "topic of %s", idOf(want))
		}
		if k.Features.JSONBodies {
			want.Body, got.Body = k.compact(want.Body), k.compact(got.Body)
		}
		if !bytes.Equal(want.Body, got.Body) {
			require.Equal(k, want.Body, got.Body, "body of %s", idOf(want))
		}
		if k.Features.Partitions && !bytes.Equal(want.Key, got.Key) {
			require.Fail(k, "wrong key", "key of %s: %q, stored %q", idOf(want), want.Key, got.Key)
		}
		for _, h := range want.Headers {
			if value, ok := header(got, h.Key); !ok || value != h.Value {
				require.Fail(k, "wrong header", "%s of %s: %q, stored %q (there: %v)", h.Key, idOf(want), h.Value, value, ok)
			}
		}
	}
}

func (k *kit) compact(body []byte) []byte {
	k.Helper()
	var b bytes.Buffer
	require.NoError(k, json.Compact(&b, body))
	return b.Bytes()
}
