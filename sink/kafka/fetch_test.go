package kafka

import (
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"workos-relay/checkpoint"
	"workos-relay/checkpoint/checkpointtest"
)

// TestWalk goes through what compaction may leave: batches that lack records, at either end or
// altogether.
func TestWalk(t *testing.T) {
	t.Parallel()
	batch := func(base int64, offsets ...int64) []byte {
		var records []kmsg.Record
		last := base
		for _, o := range offsets {
			records = append(records, kmsg.Record{OffsetDelta: int32(o - base)})
			last = o
		}
		return encodedBatch(batchHeader{base: base, lastDelta: int32(last - base)}, records...)
	}
	for name, tt := range map[string]struct {
		batches [][]byte
		from    int64
		seen    []int64
		next    int64
	}{
		"whole":                      {[][]byte{batch(4, 4, 5), batch(6, 6)}, 4, []int64{4, 5, 6}, 7},
		"begun before":               {[][]byte{batch(4, 4, 5, 6)}, 5, []int64{5, 6}, 7},
		"gaps":                       {[][]byte{batch(4, 6), batch(9, 11)}, 4, []int64{6, 11}, 12},
		"the asked for is gone":      {[][]byte{batch(4, 4, 5)}, 6, nil, 7},
		"emptied":                    {[][]byte{batch(4)}, 4, nil, 5},
		"emptied, behind a gap":      {[][]byte{batch(40)}, 4, nil, 41},
		"emptied, between the whole": {[][]byte{batch(4, 4), batch(5), batch(6, 6)}, 4, []int64{4, 6}, 7},
		"cut by the broker":          {[][]byte{batch(4, 4), batch(5, 5)[:65]}, 4, []int64{4}, 5},
	} {
		t.Run(name, func(t *testing.T) {
			var seen []int64
			next, err := walk(&fetched{records: slices.Concat(tt.batches...)}, tt.from, messageBounds, func(e entry) error {
				seen = append(seen, e.offset)
				return nil
			})
			require.NoError(t, err)
			require.Equal(t, tt.seen, seen)
			require.Equal(t, tt.next, next)
		})
	}
}

// TestPositionTopicBecomesShorter: an election of a replica that was behind takes away the end that
// the old leader named. The position is looked for again, and not waited for if nothing will
// come.
func TestPositionTopicBecomesShorter(t *testing.T) {
	t.Parallel()
	c := fake(t)
	cfg := uniqueLane(t, c.ListenAddrs())
	l := fenced(t, cfg)
	_, err := l.Commit(t.Context(), nil, checkpoint.Checkpoint{}, checkpointtest.Full(1))
	require.NoError(t, err)
	var told atomic.Bool
	c.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		asked := req.(*kmsg.ListOffsetsRequest)
		if asked.Topics[0].Partitions[0].Timestamp != latestOffset || told.Swap(true) {
			return nil, nil, false
		}
		res := asked.ResponseKind().(*kmsg.ListOffsetsResponse)
		p := kmsg.NewListOffsetsResponseTopicPartition()
		p.Offset = 10
		topic := kmsg.NewListOffsetsResponseTopic()
		topic.Topic, topic.Partitions = l.topic, []kmsg.ListOffsetsResponseTopicPartition{p}
		res.Topics = append(res.Topics, topic)
		return res, nil, true
	})
	have, err := openLedger(t, cfg, checkpointtest.Identity()).Load(within(t, patient))
	require.NoError(t, err)
	require.True(t, told.Load())
	checkpointtest.RequireEqual(t, checkpointtest.Full(1), have)
}
