package nats

import (
	"testing"

	"github.com/stretchr/testify/require"

	"workos-relay/sink"
)

// TestWhatProvesABatch: the position counts only with its whole batch, behind the position before.
//
// P1: an acknowledgement of anything else moves nothing.
func TestWhatProvesABatch(t *testing.T) {
	t.Parallel()
	c := newCommit(nil, 1, make([]sink.Message, 2), 10, sink.Message{})
	require.NoError(t, c.proves(ack{Seq: 13, Batch: c.id, Count: 3}))
	require.NoError(t, c.proves(ack{Seq: 20, Batch: c.id, Count: 3}), "other messages may lie in between")
	for name, a := range map[string]ack{
		"no batch":               {Seq: 13},
		"another batch":          {Seq: 13, Batch: "another", Count: 3},
		"a part of the batch":    {Seq: 13, Batch: c.id, Count: 2},
		"more than the batch":    {Seq: 13, Batch: c.id, Count: 4},
		"before the position":    {Seq: 9, Batch: c.id, Count: 3},
		"no room for the batch":  {Seq: 12, Batch: c.id, Count: 3},
		"at the position itself": {Seq: 10, Batch: c.id, Count: 3},
		"without a sequence":     {Batch: c.id, Count: 3},
	} {
		require.Error(t, c.proves(a), name)
	}
	alone := newCommit(nil, 2, nil, 10, sink.Message{})
	require.NoError(t, alone.proves(ack{Seq: 11}), "the position alone needs no batch")
	require.Error(t, alone.proves(ack{Seq: 10}))
}
