package nats

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"workos-relay/sink"
)

// A state message is stored in the stream of the events, on a subject of its key below the topic of
// its entity. It rolls up that subject, so the stream holds the newest version of each object and
// no other, and it never expires, so max_age does not forget an object that does not change. A
// bucket is a copy that the server makes of one topic; see buckets.

// removedTTL is how long the stream and a bucket hold the marker of an object that was removed: as
// long as the Events API reaches back. A marker that never expired would keep a subject for each
// session that ever was.
const removedTTL = "2160h"

const (
	ttlHeader       = "Nats-TTL"
	operationHeader = "KV-Operation" // by which clients of a bucket know a key that was deleted
	operationDelete = "DEL"
)

// isState reports whether topic is one of state messages.
func (c *Config) isState(topic string) bool {
	return slices.ContainsFunc(c.State, func(s sink.StateTopic) bool { return s.Topic == topic })
}

// bound returns the subjects that the stream binds for topics: a pattern for a topic of state
// messages, whose subjects end in a key.
func (c *Config) bound(topics []string) []string {
	out := slices.Clone(topics)
	for i, t := range out {
		if c.isState(t) {
			out[i] = t + ".>"
		}
	}
	return out
}

// topicOf returns the topic of m in its stored form.
func (c *Config) topicOf(m *sink.Message) string {
	if m.Entity != "" {
		for _, s := range c.State {
			if s.Entity == m.Entity {
				return s.Topic
			}
		}
	}
	return m.Topic
}

// onState reports whether subject is that of a state message.
func (c *Config) onState(subject string) bool {
	return slices.ContainsFunc(c.State, func(s sink.StateTopic) bool {
		rest, below := strings.CutPrefix(subject, s.Topic)
		return below && strings.HasPrefix(rest, ".")
	})
}

const upperHex = "0123456789ABCDEF"

// bucketKey returns the form of a key that subjects and buckets take. Letters, digits, "_", "-" and
// "/" stand for themselves, and so does a dot between other characters. Any other byte becomes "="
// and two hexadecimal digits, so no two keys have the same form.
func bucketKey(key []byte) string {
	var b strings.Builder
	b.Grow(len(key))
	for i, c := range key {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '/':
			b.WriteByte(c)
		case c == '.' && i > 0 && i < len(key)-1 && key[i-1] != '.':
			b.WriteByte(c)
		default:
			b.WriteByte('=')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&0xf])
		}
	}
	return b.String()
}

// stored is a batch as it goes to the stream.
type stored struct {
	messages []sink.Message
	given    []sink.Message // the batch of the caller
	index    []int          // of each message in the batch of the caller; nil if they are the same
}

// at returns the index in the batch of the caller of a message, or the length of that batch for the
// one behind the last.
func (s *stored) at(index int) int {
	switch {
	case s.index == nil:
		return index
	case index >= len(s.index):
		return len(s.given)
	}
	return s.index[index]
}

// explain makes err speak of the batch of the caller: its counts, and its topics instead of the
// subjects of state.
func (s *stored) explain(err error) error {
	var publish *sink.PublishError
	if errors.As(err, &publish) {
		at := publish.Durable
		publish.Durable = s.at(at)
		var rejected *sink.RejectedError
		if errors.As(publish.Err, &rejected) && at < len(s.messages) {
			rejected.Topic = s.given[publish.Durable].Topic
		}
	}
	var timeout *sink.TimeoutError
	if errors.As(err, &timeout) && timeout.Taken > 0 {
		timeout.Taken = s.at(timeout.Taken-1) + 1
	}
	return err
}

// storedForm returns the form of batch. State messages have their subject as Topic, and the headers
// of state messages. If the batch is atomic, of several that change one object only the last is
// left: a batch can roll up a subject once. It does not change batch.
func (c *Config) storedForm(batch []sink.Message, atomic bool) *stored {
	s := &stored{messages: batch, given: batch}
	if !slices.ContainsFunc(batch, isStateMessage) {
		return s
	}
	newest := map[string]int{} // by subject
	subjects := make([]string, len(batch))
	for i := range batch {
		if isStateMessage(batch[i]) {
			subjects[i] = batch[i].Topic + "." + bucketKey(batch[i].Key)
			newest[subjects[i]] = i
		}
	}
	s.messages, s.index = make([]sink.Message, 0, len(batch)), make([]int, 0, len(batch))
	for i := range batch {
		m := batch[i]
		if isStateMessage(m) {
			if atomic && newest[subjects[i]] != i {
				continue
			}
			m.Topic, m.Headers = subjects[i], append(slices.Clip(m.Headers), stateHeaders(&m)...)
		}
		s.messages, s.index = append(s.messages, m), append(s.index, i)
	}
	return s
}

func isStateMessage(m sink.Message) bool { return m.Entity != "" }

var (
	setHeaders = []sink.Header{
		{Key: jetstream.MsgRollup, Value: jetstream.MsgRollupSubject},
		{Key: ttlHeader, Value: "never"},
	}
	removeHeaders = []sink.Header{
		{Key: jetstream.MsgRollup, Value: jetstream.MsgRollupSubject},
		{Key: ttlHeader, Value: removedTTL},
		{Key: operationHeader, Value: operationDelete},
	}
)

// stateHeaders returns the headers by which the server and the clients of a bucket know what a
// state message does.
func stateHeaders(m *sink.Message) []sink.Header {
	if m.Removes() {
		return removeHeaders
	}
	return setHeaders
}

// ownHeaders returns the headers of m in its stored form without those of stateHeaders.
func ownHeaders(m *sink.Message) []sink.Header {
	if m.Entity == "" {
		return m.Headers
	}
	return m.Headers[:len(m.Headers)-len(stateHeaders(m))]
}

// illegalStateSubject returns why the subject of a state message cannot be published to, or "". Its
// topic was checked before, and its key has the form of bucketKey.
func illegalStateSubject(subject string) string {
	switch {
	case strings.HasSuffix(subject, "."):
		return "the object has no key"
	case len(subject) > maxSubject:
		return fmt.Sprintf("it is longer than %d characters", maxSubject)
	}
	return ""
}
