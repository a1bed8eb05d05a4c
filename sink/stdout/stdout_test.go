package stdout_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
	"workos-relay/sink/sinktest"
	"workos-relay/sink/stdout"
)

func TestConformance(t *testing.T) {
	var out syncBuffer
	sinktest.Run(t, sinktest.Harness{
		New:      func(testing.TB) sink.Sink { return stdout.New(stdout.Config{Envelope: true}, &out) },
		Read:     out.read,
		Features: sinktest.Features{JSONBodies: true, AtomicPrefix: true},
	})
}

// syncBuffer is the reader at the other end.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) read(t testing.TB, topics []string) []sink.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	var messages []sink.Message
	for line := range bytes.Lines(b.buf.Bytes()) {
		if !slices.ContainsFunc(topics, func(topic string) bool { return bytes.Contains(line, []byte(topic)) }) {
			continue // cheaper than to decode it
		}
		var got struct {
			Topic   string
			Key     string
			Headers []sink.Header
			Body    json.RawMessage
		}
		require.NoError(t, json.Unmarshal(line, &got))
		for _, topic := range topics {
			if topic == got.Topic {
				messages = append(messages, sink.Message{Topic: topic, Key: []byte(got.Key), Headers: got.Headers, Body: got.Body})
			}
		}
	}
	return messages
}

func TestBodiesAreLines(t *testing.T) {
	var out bytes.Buffer
	s := stdout.New(stdout.Config{}, &out)
	require.NoError(t, s.Publish(t.Context(), []sink.Message{
		{Topic: "a", Body: []byte(`{"id":"1", "big":12345678901234567890,"s":"é\u00e9"}`)},
		{Topic: "a", Body: []byte("{\n  \"id\": \"2\",\r\n  \"x\": 1.50\n}\n")},
		{Topic: "a", Body: []byte("plain text")},
	}))
	lines := []string{`{"id":"1", "big":12345678901234567890,"s":"é\u00e9"}`, `{"id":"2","x":1.50}`, "plain text", ""}
	require.Equal(t, lines, strings.Split(out.String(), "\n"))
}

func TestNotOneLine(t *testing.T) {
	var out bytes.Buffer
	s := stdout.New(stdout.Config{}, &out)
	err := s.Publish(t.Context(), []sink.Message{{Topic: "a", Body: []byte("1")}, {Topic: "b", Body: []byte("not\njson")}, {Topic: "c", Body: []byte("3")}})
	var rejected *sink.RejectedError
	require.ErrorAs(t, err, &rejected)
	require.Equal(t, "b", rejected.Topic)
	require.Equal(t, 1, sink.Durable(err, 3))
	require.Equal(t, "1\n", out.String())
}

// TestBrokenPipe writes into a pipe whose reader leaves: head -n 2.
func TestBrokenPipe(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer func() { _ = w.Close() }()
	s := stdout.New(stdout.Config{}, w)
	batch := []sink.Message{{Topic: "a", Body: []byte(`{"id":1}`)}, {Topic: "a", Body: []byte(`{"id":2}`)}}
	require.NoError(t, s.Publish(t.Context(), batch))
	require.NoError(t, r.Close())
	for range 2 {
		err = s.Publish(t.Context(), batch)
		var fatal *sink.FatalError
		require.ErrorAs(t, err, &fatal)
		require.ErrorContains(t, err, "reader of standard output is gone")
		require.Zero(t, sink.Durable(err, 2))
	}
}

// shortWriter takes so many bytes, then fails.
type shortWriter struct{ left int }

func (w *shortWriter) Write(p []byte) (int, error) {
	if len(p) <= w.left {
		w.left -= len(p)
		return len(p), nil
	}
	n := w.left
	w.left = 0
	return n, errors.New("no space left on device")
}

// TestFailedWrite counts the whole lines that went out before a write failed, within a chunk and
// over several.
func TestFailedWrite(t *testing.T) {
	batch := make([]sink.Message, 100)
	for i := range batch {
		batch[i] = sink.Message{Topic: "a", Body: []byte(strings.Repeat("x", 1999))} // lines of 2,000 bytes
	}
	for _, room := range []int{0, 1, 1999, 2000, 2001, 9999, 130_000, 199_999} {
		s := stdout.New(stdout.Config{}, &shortWriter{left: room})
		err := s.Publish(t.Context(), batch)
		require.ErrorContains(t, err, "no space left")
		require.Equal(t, room/2000, sink.Durable(err, 100), "room for %d bytes", room)
		require.Error(t, s.Publish(t.Context(), batch[:1]), "the place in the output is lost")
	}
	require.NoError(t, stdout.New(stdout.Config{}, &shortWriter{left: 200_000}).Publish(t.Context(), batch))
}

func TestInspect(t *testing.T) {
	s := stdout.New(stdout.Config{}, io.Discard)
	status, err := s.Inspect(context.Background(), []string{"a", "b"})
	require.NoError(t, err)
	require.Len(t, status, 2)
	require.True(t, status[1].Exists)
	held, err := s.Holds(context.Background(), []string{"a"})
	require.NoError(t, err)
	require.False(t, held)
	require.NoError(t, s.Prepare(context.Background(), nil))
}
