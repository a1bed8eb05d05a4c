package nats

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

func TestTail(t *testing.T) {
	t.Parallel()
	s, _ := prepared(t, Config{})
	topics := []string{topic, "user.created", "relay.position.workos.nats"}
	require.NoError(t, s.Prepare(t.Context(), topics))
	batch := numbered(7)
	batch[1].Topic, batch[4].Topic = topics[1], topics[1]
	batch[2].Topic = topics[2]
	require.NoError(t, s.Publish(t.Context(), batch[:5]))

	enough := errors.New("enough")
	read := func(opts TailOptions, n int) []Stored {
		t.Helper()
		var seen []Stored
		err := s.Tail(t.Context(), opts, func(m Stored) error {
			if seen = append(seen, m); len(seen) == n {
				return enough
			}
			return nil
		})
		require.ErrorIs(t, err, enough)
		return seen
	}
	ids := func(all []Stored) (ids []string) {
		for _, m := range all {
			ids = append(ids, m.ID)
		}
		return ids
	}
	all := read(TailOptions{FromStart: true}, 4)
	require.Equal(t, []string{"e0", "e1", "e3", "e4"}, ids(all), "positions are left out")
	require.Equal(t, []sink.Header{{Key: "event-id", Value: "e1"}}, all[1].Headers)
	require.Equal(t, topics[1], all[1].Topic)
	require.Equal(t, "e1", string(all[1].Body))
	require.EqualValues(t, 2, all[1].Sequence)
	require.False(t, all[1].Time.IsZero())
	require.Equal(t, []string{"e1", "e4"}, ids(read(TailOptions{FromStart: true, Subjects: []string{"user.>"}}, 2)))

	reading, seen := context.WithCancel(t.Context())
	defer seen()
	published := make(chan error, 1)
	go func() { // until the reader is there and has seen one
		var err error
		for err == nil && reading.Err() == nil {
			m := numbered(1)
			m[0].ID = ""
			err = s.Publish(t.Context(), m)
		}
		published <- err
	}()
	next := read(TailOptions{}, 1)
	seen()
	require.NoError(t, <-published)
	require.Greater(t, next[0].Sequence, uint64(5))
}

func TestTailEnds(t *testing.T) {
	t.Parallel()
	s, _ := prepared(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Tail(ctx, TailOptions{}, func(Stored) error { return nil }) }()
	cancel()
	require.NoError(t, <-done)

	missing := open(t, Config{URL: s.cfg.URL, Stream: "MISSING"})
	require.ErrorContains(t, missing.Tail(t.Context(), TailOptions{}, nil), "reading stream MISSING")
}
