package client

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/protocol"
	"github.com/stretchr/testify/require"
)

// givenRecord is a record of a test.
type givenRecord struct {
	key, value []byte
	headers    [][2]string
	at         time.Time
	tombstone  bool
}

func (r *givenRecord) Key() []byte   { return r.key }
func (r *givenRecord) Value() []byte { return r.value }
func (r *givenRecord) Headers() int  { return len(r.headers) }

func (r *givenRecord) Tombstone() bool { return r.tombstone }

func (r *givenRecord) Time() time.Time { return r.at }

func (r *givenRecord) Header(n int) (key, value string) { return r.headers[n][0], r.headers[n][1] }

func TestEncodeBatch(t *testing.T) {
	t.Parallel()
	batch := make([]givenRecord, 6)
	for i := range batch {
		headers := [][2]string{{"id", fmt.Sprintf("event_%d", i)}, {"", ""}}
		batch[i] = givenRecord{key: fmt.Appendf(nil, "key-%d", i), value: bytes.Repeat([]byte("value "), i+1), headers: headers}
	}
	batch[1].key, batch[2].key = nil, []byte{}
	batch[3].value, batch[3].headers = nil, nil
	batch[5].value, batch[5].tombstone = nil, true
	at := func(n int) ProducerRecord { return &batch[n] }
	for _, name := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run(name, func(t *testing.T) {
			codec, err := codecOf(name)
			require.NoError(t, err)
			published := time.UnixMilli(1_700_000_000_123)
			set, err := EncodeBatch(BatchSpec{Session: Session{ID: 4711, Epoch: 3}, Sequence: 99, Codec: codec, Time: published, Transactional: name == "gzip"},
				len(batch), at)
			require.NoError(t, err)
			var read protocol.RecordSet // checks the checksum
			_, err = read.ReadFrom(bytes.NewReader(set))
			require.NoError(t, err)
			require.Equal(t, name == "gzip", read.Attributes.Transactional())
			rb := read.Records.(*protocol.RecordStream).Records[0].(*protocol.RecordBatch)
			require.EqualValues(t, 4711, rb.ProducerID)
			require.EqualValues(t, 3, rb.ProducerEpoch)
			require.EqualValues(t, 99, rb.BaseSequence)
			for i, m := range batch {
				r, err := rb.ReadRecord()
				require.NoError(t, err)
				require.EqualValues(t, i, r.Offset)
				require.True(t, published.Equal(r.Time))
				require.Equal(t, m.key == nil, r.Key == nil)
				if m.tombstone {
					require.Nil(t, r.Value)
					continue
				}
				require.NotNil(t, r.Value, "null is a tombstone")
				value, err := protocol.ReadAll(r.Value)
				require.NoError(t, err)
				require.Equal(t, string(m.value), string(value))
				require.Len(t, r.Headers, len(m.headers))
				for j, h := range m.headers {
					require.Equal(t, h[0], r.Headers[j].Key)
					require.Equal(t, h[1], string(r.Headers[j].Value))
				}
			}
			if codec == nil {
				size := setSizeBytes + BatchHeaderBytes
				for i := range batch {
					size += RecordSize(at(i), i)
				}
				require.Len(t, set, size)
			}
		})
	}
}

// TestTimesOfRecords: records have different times, in any order, and the batch has the first
// and the latest of them.
func TestTimesOfRecords(t *testing.T) {
	t.Parallel()
	published := time.UnixMilli(1_800_000_000_000)
	times := []time.Time{published.Add(-90 * 24 * time.Hour), published.Add(-100 * 24 * time.Hour), {}, published.Add(-time.Hour)}
	at := func(n int) ProducerRecord { return &givenRecord{value: []byte("value"), at: times[n]} }
	for _, name := range []string{"none", "lz4"} {
		codec, err := codecOf(name)
		require.NoError(t, err)
		set, err := EncodeBatch(BatchSpec{Session: NoSession, Codec: codec, Time: published}, len(times), at)
		require.NoError(t, err)
		size := setSizeBytes + BatchHeaderBytes
		for n := range times {
			size += RecordSize(at(n), n) + TimestampRoom
		}
		require.LessOrEqual(t, len(set), size)
		require.EqualValues(t, published.UnixMilli(), binary.BigEndian.Uint64(set[setSizeBytes+offsetMaxTimestamp:]))
		var read protocol.RecordSet
		_, err = read.ReadFrom(bytes.NewReader(set))
		require.NoError(t, err)
		rb := read.Records.(*protocol.RecordStream).Records[0].(*protocol.RecordBatch)
		for n, want := range times {
			if want.IsZero() {
				want = published
			}
			r, err := rb.ReadRecord()
			require.NoError(t, err)
			require.True(t, want.Equal(r.Time), "%d: %s, not %s", n, r.Time, want)
		}
	}
}

func TestVarintSize(t *testing.T) {
	t.Parallel()
	for _, v := range []int64{0, 1, -1, 63, 64, -64, -65, 8191, 8192, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64} {
		require.Len(t, appendVarint(v), varintSize(v), "%d", v)
	}
}

func appendVarint(v int64) []byte {
	var b []byte
	for u := uint64(v<<1) ^ uint64(v>>63); ; u >>= 7 {
		if u < 0x80 {
			return append(b, byte(u))
		}
		b = append(b, byte(u)|0x80)
	}
}
