package nats

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

// scanned returns the ids of the messages that a scan hands on.
func scanned(t *testing.T, s *Sink, since time.Time) (log sink.Log, ids []string) {
	t.Helper()
	logs, err := s.Logs(t.Context(), nil, since)
	require.NoError(t, err)
	require.Len(t, logs, 1)
	require.NoError(t, s.Scan(t.Context(), logs[0], func(m *sink.Stored) error {
		ids = append(ids, m.Header("event-id"))
		return nil
	}))
	return logs[0], ids
}

func TestScan(t *testing.T) {
	t.Parallel()
	s, js := prepared(t, Config{})
	topics := []string{topic, "user.created", "relay.position.workos.nats"}
	require.NoError(t, s.Prepare(t.Context(), topics))
	log, ids := scanned(t, s, time.Time{})
	require.Empty(t, ids)
	require.False(t, log.Trimmed)

	batch := numbered(7)
	batch[1].Topic, batch[2].Topic, batch[6].Topic = topics[1], topics[2], topics[2]
	before := time.Now()
	require.NoError(t, s.Publish(t.Context(), batch))
	log, ids = scanned(t, s, time.Time{})
	require.Equal(t, []string{"e0", "e1", "e3", "e4", "e5"}, ids, "positions are left out")
	require.Equal(t, []int64{1, 8}, []int64{log.From, log.End})
	err := s.Scan(t.Context(), log, func(m *sink.Stored) error {
		require.Equal(t, []any{topic, int64(1), "e0"}, []any{m.Topic, m.Offset, string(m.Body)})
		require.WithinRange(t, m.Time, before, time.Now())
		return errClosed
	})
	require.ErrorIs(t, err, errClosed, "an error of the caller ends it")

	log.End = 4
	var first []string
	require.NoError(t, s.Scan(t.Context(), log, func(m *sink.Stored) error { first = append(first, m.Header("event-id")); return nil }))
	require.Equal(t, []string{"e0", "e1"}, first, "what came after the end was taken is not read")

	stream, err := js.Stream(t.Context(), s.cfg.Stream)
	require.NoError(t, err)
	t.Run("from a time", func(t *testing.T) {
		m, err := stream.GetMsg(t.Context(), 5)
		require.NoError(t, err)
		_, ids := scanned(t, s, m.Time)
		require.Equal(t, []string{"e4", "e5"}, ids)
		_, ids = scanned(t, s, time.Now().Add(time.Hour))
		require.Empty(t, ids)
	})
	t.Run("with the end deleted", func(t *testing.T) {
		require.NoError(t, stream.DeleteMsg(t.Context(), 7))
		require.NoError(t, stream.DeleteMsg(t.Context(), 6))
		_, ids := scanned(t, s, time.Time{})
		require.Equal(t, []string{"e0", "e1", "e3", "e4"}, ids)
	})
	t.Run("with the beginning gone", func(t *testing.T) {
		require.NoError(t, stream.Purge(t.Context(), jetstream.WithPurgeSequence(4)))
		log, ids := scanned(t, s, time.Time{})
		require.Equal(t, []string{"e3", "e4"}, ids)
		require.True(t, log.Trimmed)
		log, _ = scanned(t, s, time.Now())
		require.False(t, log.Trimmed, "what is gone is older than what was asked for")
		require.NoError(t, stream.Purge(t.Context()))
		log, ids = scanned(t, s, time.Time{})
		require.Empty(t, ids)
		require.True(t, log.Trimmed)
	})
}

func TestScanEnds(t *testing.T) {
	t.Parallel()
	s, _ := prepared(t, Config{})
	missing := open(t, Config{URL: s.cfg.URL, Stream: "MISSING"})
	logs, err := missing.Logs(t.Context(), nil, time.Time{})
	require.NoError(t, err)
	require.Empty(t, logs)

	require.NoError(t, s.Publish(t.Context(), numbered(100)))
	logs, err = s.Logs(t.Context(), nil, time.Time{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err = s.Scan(ctx, logs[0], func(*sink.Stored) error {
		n++
		cancel()
		return nil
	})
	require.True(t, errors.Is(err, context.Canceled) || n == 100, "%v after %d", err, n)
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Scan(t.Context(), logs[0], nil), errClosed)
}
