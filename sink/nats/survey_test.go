package nats

import (
	"encoding/json"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"workos-relay/checkpoint"
)

// TestSurveyOfAClusterThatStarts: a stream that seems to be gone, or to end earlier, for a moment
// is neither.
func TestSurveyOfAClusterThatStarts(t *testing.T) {
	t.Parallel()
	srv := newServer(t, noJetStream)
	nc := client(t, srv.url()).Conn()
	created := time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC)
	var asked, bad atomic.Int64
	var lower atomic.Bool
	_, err := nc.Subscribe("$JS.API.STREAM.INFO.WORKOS", func(m *nats.Msg) {
		body := map[string]any{"config": map[string]any{"name": "WORKOS"}, "created": created, "state": map[string]any{"last_seq": 17}}
		switch passing := asked.Add(1) <= bad.Load(); {
		case passing && lower.Load():
			body["state"] = map[string]any{"last_seq": 3}
		case passing:
			body = map[string]any{"error": map[string]any{"code": 404, "err_code": jetstream.JSErrCodeStreamNotFound, "description": "stream not found"}}
		}
		data, err := json.Marshal(body)
		if err == nil {
			err = m.Respond(data)
		}
		if err != nil {
			t.Error(err)
		}
	})
	require.NoError(t, err)
	require.NoError(t, nc.Flush())
	s := open(t, Config{URL: srv.url()})
	want := []checkpoint.Part{{Name: "stream WORKOS", ID: "2026-11-29T10:00:00Z", Ends: []int64{18}}}
	for _, c := range []struct {
		lower  bool
		bad    int64
		passes bool
	}{{false, 0, true}, {false, deletedLooks - 1, true}, {false, 1000, false}, {true, deletedLooks + 2, true}} {
		asked.Store(0)
		bad.Store(c.bad)
		lower.Store(c.lower)
		parts, err := s.Survey(t.Context(), nil, want)
		require.NoError(t, err)
		if c.passes {
			require.Equal(t, want, parts)
		} else {
			require.Empty(t, parts)
		}
	}
}
