package nats

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

// laggingConsumer reads a replica that has only the messages before a sequence, until it catches
// up, and says that there are no more.
type laggingConsumer struct {
	jetstream.MessagesContext

	has      uint64
	catchUp  <-chan struct{}
	overhang jetstream.Msg
}

type laggingMsg struct{ jetstream.Msg }

func (m laggingMsg) Metadata() (*jetstream.MsgMetadata, error) {
	meta, err := m.Msg.Metadata()
	if err == nil {
		changed := *meta
		changed.NumPending = 0
		meta = &changed
	}
	return meta, err
}

// Next takes one option, that of a context.
func (c *laggingConsumer) next(ctx context.Context) (jetstream.Msg, error) {
	if c.overhang == nil {
		msg, err := c.MessagesContext.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, err
		}
		c.overhang = msg
	}
	meta, err := c.overhang.Metadata()
	if err != nil {
		return nil, err
	}
	if meta.Sequence.Stream >= c.has {
		select {
		case <-c.catchUp:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	msg := c.overhang
	c.overhang = nil
	return laggingMsg{msg}, nil
}

func (c *laggingConsumer) Next(...jetstream.NextOpt) (jetstream.Msg, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond) // that of a scan in these tests
	defer cancel()
	return c.next(ctx)
}

// lagging is a scan of a stream with the events e0 to e9. open is what it reads through.
func lagging(t *testing.T, change, silence time.Duration, wrap func(n int, m jetstream.MessagesContext) jetstream.MessagesContext) (scan *scan, read func() ([]string, error)) {
	t.Helper()
	s, _ := prepared(t, Config{})
	require.NoError(t, s.Publish(t.Context(), numbered(10)))
	logs, err := s.Logs(t.Context(), nil, time.Time{})
	require.NoError(t, err)
	l, err := s.conn.connected(t.Context())
	require.NoError(t, err)
	sc := scanOf(s.reader, l, logs[0])
	sc.look, sc.change, sc.silence = 50*time.Millisecond, change, silence
	consume, opened := sc.open, 0
	sc.open = func(ctx context.Context) (jetstream.MessagesContext, error) {
		m, err := consume(ctx)
		if err != nil {
			return nil, err
		}
		opened++
		return wrap(opened, m), nil
	}
	return sc, func() ([]string, error) {
		var ids []string
		err := sc.run(t.Context(), func(m *sink.Stored) error {
			ids = append(ids, m.Header("event-id"))
			return nil
		})
		return ids, err
	}
}

var tenEvents = []string{"e0", "e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8", "e9"}

func TestScanWaitsForAReplicaThatLags(t *testing.T) {
	t.Parallel()
	for name, has := range map[string]uint64{"some": 5, "nothing": 0, "all but one": 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			catchUp := make(chan struct{})
			_, read := lagging(t, patient, patient, func(_ int, m jetstream.MessagesContext) jetstream.MessagesContext {
				return &laggingConsumer{MessagesContext: m, has: has, catchUp: catchUp}
			})
			time.AfterFunc(500*time.Millisecond, func() { close(catchUp) })
			ids, err := read()
			require.NoError(t, err)
			require.Equal(t, tenEvents, ids)
		})
	}
}

func TestScanReadsThroughAnotherReplica(t *testing.T) {
	t.Parallel()
	_, read := lagging(t, 200*time.Millisecond, patient, func(n int, m jetstream.MessagesContext) jetstream.MessagesContext {
		if n < 3 {
			return &laggingConsumer{MessagesContext: m, has: uint64(3 * n)} //nolint:gosec // small
		}
		return m
	})
	ids, err := read()
	require.NoError(t, err)
	require.Equal(t, tenEvents, ids)
}

func TestScanNamesAReplicaThatNeverCatchesUp(t *testing.T) {
	t.Parallel()
	_, read := lagging(t, 100*time.Millisecond, 5*time.Second, func(_ int, m jetstream.MessagesContext) jetstream.MessagesContext {
		return &laggingConsumer{MessagesContext: m, has: 4}
	})
	ids, err := read()
	require.ErrorIs(t, err, errSilent)
	require.ErrorContains(t, err, "the next being sequence 4")
	require.Equal(t, tenEvents[:3], ids, "sequences begin at 1")
}

// TestScanWaitsForTheEnd takes the end of the log from a leader that knew more than the one that
// answers now.
func TestScanWaitsForTheEnd(t *testing.T) {
	t.Parallel()
	s, _ := prepared(t, Config{})
	require.NoError(t, s.Publish(t.Context(), numbered(3)))
	logs, err := s.Logs(t.Context(), nil, time.Time{})
	require.NoError(t, err)
	logs[0].End = 6
	l, err := s.conn.connected(t.Context())
	require.NoError(t, err)
	sc := scanOf(s.reader, l, logs[0])
	sc.look = 50 * time.Millisecond
	var ids []string
	late := make(chan error, 1)
	time.AfterFunc(500*time.Millisecond, func() { late <- s.Publish(t.Context(), numbered(5)[3:]) })
	require.NoError(t, sc.run(t.Context(), func(m *sink.Stored) error {
		ids = append(ids, m.Header("event-id"))
		return nil
	}))
	require.NoError(t, <-late)
	require.Equal(t, []string{"e0", "e1", "e2", "e3", "e4"}, ids)

	sc = scanOf(s.reader, l, logs[0])
	sc.look, sc.silence, sc.log.End, sc.end = 50*time.Millisecond, 500*time.Millisecond, 100, 100
	err = sc.run(t.Context(), func(*sink.Stored) error { return nil })
	require.ErrorContains(t, err, "it ends at sequence 5 and has held 99")
}
