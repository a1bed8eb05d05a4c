package client

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/segmentio/kafka-go/compress"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"workos-relay/sink/kafka/internal/batchtest"
)

// encodedMessage returns a message of version 0 or 1.
func encodedMessage(version byte, offset int64, codec compress.Codec, key, value []byte) []byte {
	attributes := byte(0)
	if codec != nil {
		attributes = byte(codec.Code())
		var packed bytes.Buffer
		w := codec.NewWriter(&packed)
		_, _ = w.Write(value) // a buffer takes everything
		_ = w.Close()
		value = packed.Bytes()
	}
	body := []byte{version, attributes}
	if version == 1 {
		body = binary.BigEndian.AppendUint64(body, 1_700_000_000_000)
	}
	for _, b := range [][]byte{key, value} {
		if b == nil {
			body = binary.BigEndian.AppendUint32(body, math.MaxUint32)
			continue
		}
		body = binary.BigEndian.AppendUint32(body, uint32(len(b)))
		body = append(body, b...)
	}
	m := binary.BigEndian.AppendUint64(nil, uint64(offset))
	m = binary.BigEndian.AppendUint32(m, uint32(len(body)+4))
	m = binary.BigEndian.AppendUint32(m, crc32.ChecksumIEEE(body))
	return append(m, body...)
}

// TestWalkReadsEveryFormat reads records of each codec, and messages of the formats before Kafka
// 0.11, alone and compressed.
func TestWalkReadsEveryFormat(t *testing.T) {
	type seen struct {
		offset     int64
		key, value string
	}
	read := func(set []byte, from int64) (all []seen, next int64) {
		next, err := Walk(&Fetched{Records: set}, from, MessageBounds, func(e Record) error {
			all = append(all, seen{e.Offset, string(e.Key), string(e.Value)})
			return nil
		})
		require.NoError(t, err)
		return all, next
	}
	long := strings.Repeat("long ", 50_000)
	for _, codec := range append([]compress.Codec{nil, &lz4Codec{}}, compress.Codecs[1:]...) {
		t.Run(CodecName(codec), func(t *testing.T) {
			all, next := read(batchtest.Batch(batchtest.Header{Base: 7, LastDelta: 2, Codec: codec},
				kmsg.Record{Key: []byte("k"), Value: []byte("one"), Headers: []kmsg.Header{{Key: "h", Value: []byte("v")}}},
				kmsg.Record{OffsetDelta: 2, Value: []byte(long)}), 0)
			require.Equal(t, []seen{{7, "k", "one"}, {9, "", long}}, all)
			require.EqualValues(t, 10, next)

			inner := append(encodedMessage(1, 0, nil, []byte("a"), []byte("1")), encodedMessage(1, 2, nil, nil, []byte(long))...)
			all, next = read(encodedMessage(1, 22, codec, nil, inner), 20)
			if codec != nil {
				require.Equal(t, []seen{{20, "a", "1"}, {22, "", long}}, all)
			}
			require.EqualValues(t, 23, next)

			inner = append(encodedMessage(0, 20, nil, []byte("a"), []byte("1")), encodedMessage(0, 22, nil, nil, []byte(long))...)
			all, next = read(encodedMessage(0, 22, codec, nil, inner), 21)
			if codec != nil {
				require.Equal(t, []seen{{22, "", long}}, all)
			}
			require.EqualValues(t, 23, next)
		})
	}
	all, next := read(append(encodedMessage(0, 3, nil, []byte("k"), nil), batchtest.Batch(batchtest.Header{Base: 4}, kmsg.Record{Value: []byte("x")})...), 0)
	require.Equal(t, []seen{{3, "k", ""}, {4, "", "x"}}, all)
	require.EqualValues(t, 5, next)
}

// bomb returns what expands to so many megabytes of zeros behind a prefix.
func bomb(codec compress.Codec, megabytes int, prefix []byte) []byte {
	var out bytes.Buffer
	w := codec.NewWriter(&out)
	_, _ = w.Write(prefix) // a buffer takes everything
	zeros := make([]byte, 1<<20)
	for range megabytes {
		_, _ = w.Write(zeros) // a buffer takes everything
	}
	_ = w.Close()
	return out.Bytes()
}

// TestWalkRefusesWhatIsNotThere reads record sets that claim more than they hold, or expand to more
// than relay takes. Each is an error that names the broker, and none takes memory for what is not
// there.
func TestWalkRefusesWhatIsNotThere(t *testing.T) {
	bounds := ReadBounds{Record: 1 << 20, Batch: 8 << 20}
	varint := func(v int64, rest ...byte) []byte { return append(binary.AppendVarint(nil, v), rest...) }
	record := func(body ...[]byte) []byte {
		b := bytes.Join(body, nil)
		return append(varint(int64(len(b))), b...)
	}
	start := []byte{0, 0, 0} // attributes, time, offset
	changed := func(at int, value uint32) []byte {
		b := batchtest.Batch(batchtest.Header{Base: 1}, kmsg.Record{Value: []byte("x")})
		binary.BigEndian.PutUint32(b[at:], value)
		binary.BigEndian.PutUint32(b[offsetCRC:], crc32.Checksum(b[offsetAttributes:], castagnoli))
		return b
	}
	wide := func() []byte { // a frame of zstd with a window of 2 GiB
		return []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00}
	}
	gzip, snappy, lz4, zst := compress.Codecs[1], compress.Codecs[2], compress.Codecs[3], compress.Codecs[4]
	packedRaw := func(codec compress.Codec, payload []byte) []byte {
		return batchtest.Sealed(batchtest.Header{Base: 1, Count: 1, Flags: int16(codec.Code())}, payload)
	}
	for name, set := range map[string][]byte{
		"nothing but a size":           {0, 0, 0, 1},
		"a batch without its end":      changed(offsetBatchLength, 1<<20),
		"a negative length":            changed(offsetBatchLength, math.MaxUint32),
		"a length shorter than a head": changed(offsetBatchLength, 20),
		"a version to come":            append(bytes.Repeat([]byte{0}, 11), append([]byte{60, 0, 0, 0, 0, 9}, make([]byte, 80)...)...),
		"a wrong checksum":             func() []byte { b := changed(offsetRecordCount, 1); b[offsetCRC] ^= 1; return b }(),
		"a wrong checksum of a message": func() []byte {
			b := encodedMessage(1, 1, nil, nil, []byte("x"))
			b[offsetLeaderEpoch] ^= 1
			return b
		}(),
		"2^31-1 records":         changed(offsetRecordCount, math.MaxInt32),
		"a negative count":       changed(offsetRecordCount, math.MaxUint32),
		"a negative last offset": changed(offsetLastOffsetDelta, math.MaxUint32),
		"a negative offset":      batchtest.Batch(batchtest.Header{Base: -5}, kmsg.Record{}),
		"an offset at the end":   batchtest.Batch(batchtest.Header{Base: math.MaxInt64}, kmsg.Record{OffsetDelta: 1}),
		"a negative delta":       batchtest.Batch(batchtest.Header{Base: 5}, kmsg.Record{OffsetDelta: -1}),
		"a record of 4 GiB":      batchtest.Sealed(batchtest.Header{Count: 1}, varint(4<<30, 0, 0, 0)),
		"a negative record":      batchtest.Sealed(batchtest.Header{Count: 1}, varint(-9, 0, 0, 0)),
		"a key of 2^62":          batchtest.Sealed(batchtest.Header{Count: 1}, record(start, varint(1<<62))),
		"a value of 2^31":        batchtest.Sealed(batchtest.Header{Count: 1}, record(start, varint(-1), varint(1<<31))),
		"2^62 headers":           batchtest.Sealed(batchtest.Header{Count: 1}, record(start, varint(-1), varint(-1), varint(1<<62))),
		"a header's value":       batchtest.Sealed(batchtest.Header{Count: 1}, record(start, varint(-1), varint(-1), varint(1), varint(0), varint(1<<40))),
		"a varint without end":   batchtest.Sealed(batchtest.Header{Count: 1}, bytes.Repeat([]byte{0xff}, 40)),
		"a codec to come":        batchtest.Sealed(batchtest.Header{Count: 1, Flags: 7}, []byte{1}),
		"no gzip":                packedRaw(gzip, []byte("no gzip at all")),
		"no lz4":                 packedRaw(lz4, []byte("no lz4 at all, but long enough for a head")),
		"no zstd":                packedRaw(zst, []byte("no zstd at all")),
		"no snappy":              packedRaw(snappy, []byte{0x05, 0xff, 0xff, 0xff}),
		"4 GiB of snappy":        packedRaw(snappy, []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0}),
		"a chunk of 2 GiB":       packedRaw(snappy, append(bytes.Clone(xerialHeader), 0, 0, 0, 1, 0, 0, 0, 1, 0x7f, 0xff, 0xff, 0xff, 1)),
		"a chunk that grows":     packedRaw(snappy, append(bytes.Clone(xerialHeader), 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 6, 0xff, 0xff, 0xff, 0xff, 0x0f, 0)),
		"a window of 2 GiB":      packedRaw(zst, wide()),
		"gzip, one huge record":  packedRaw(gzip, bomb(gzip, 64, varint(60<<20))),
		"lz4, one huge record":   packedRaw(lz4, bomb(lz4, 64, varint(60<<20))),
		"zstd, one huge record":  packedRaw(zst, bomb(zst, 64, varint(60<<20))),
		"gzip, many records":     batchtest.Sealed(batchtest.Header{Count: math.MaxInt32, Flags: 1}, bomb(gzip, 64, nil)),
		"a compressed message":   encodedMessage(1, 1, gzip, nil, make([]byte, 16<<20)),
		"compressed within compressed": encodedMessage(1, 1, gzip, nil,
			encodedMessage(1, 0, gzip, nil, encodedMessage(1, 0, nil, nil, []byte("x")))),
		"a batch within a message": encodedMessage(1, 1, gzip, nil, batchtest.Batch(batchtest.Header{}, kmsg.Record{})),
		"a message's value":        append(encodedMessage(1, 1, nil, nil, []byte("x"))[:30], 0x7f, 0xff, 0xff, 0xff),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Walk(&Fetched{Broker: "kafka-1:9092", Records: set}, 0, bounds, func(Record) error { return nil })
			runtime.ReadMemStats(&after)
			var bad *BadAnswerError
			require.ErrorAs(t, err, &bad)
			require.ErrorContains(t, err, "the answer of kafka-1:9092 to Fetch is not valid: record batch at offset ")
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(32<<20))
		})
	}
}

// TestWalkReturnsTheErrorOfTheCaller: it is not one of the answer.
func TestWalkReturnsTheErrorOfTheCaller(t *testing.T) {
	_, err := Walk(&Fetched{Records: batchtest.Batch(batchtest.Header{}, kmsg.Record{})}, 0, MessageBounds, func(Record) error { return io.ErrClosedPipe })
	require.Equal(t, io.ErrClosedPipe, err)
}

// TestPanicOfADecompressor stays in the answer.
func TestPanicOfADecompressor(t *testing.T) {
	g := &guarded{r: panics{}, left: 10, most: 10}
	_, err := g.Read(make([]byte, 4))
	require.ErrorContains(t, err, "decompressing it failed: oh")
}

type panics struct{}

func (panics) Read([]byte) (int, error) { panic("oh") }

// FuzzRecords walks record sets, with both the checksum as it is and one that fits.
func FuzzRecords(f *testing.F) {
	for _, codec := range append([]compress.Codec{nil}, compress.Codecs[1:]...) {
		f.Add(batchtest.Batch(batchtest.Header{Base: 1, LastDelta: 1, Codec: codec}, kmsg.Record{Value: []byte("x")}, kmsg.Record{OffsetDelta: 1, Key: []byte("position")}))
		f.Add(encodedMessage(1, 1, codec, nil, encodedMessage(1, 0, nil, nil, []byte("x"))))
	}
	z, err := zstd.NewWriter(nil, zstd.WithWindowSize(1<<20))
	require.NoError(f, err)
	f.Add(batchtest.Sealed(batchtest.Header{Count: 1, Flags: 4}, z.EncodeAll(make([]byte, 2<<20), nil)))
	bounds := ReadBounds{Record: 1 << 20, Batch: 4 << 20}
	f.Fuzz(func(t *testing.T, set []byte) {
		sealed := bytes.Clone(set)
		if len(sealed) > BatchHeaderBytes && sealed[offsetMagic] == 2 {
			binary.BigEndian.PutUint32(sealed[offsetBatchLength:], uint32(len(sealed)-offsetLeaderEpoch))
			binary.BigEndian.PutUint32(sealed[offsetCRC:], crc32.Checksum(sealed[offsetAttributes:], castagnoli))
		}
		for _, set := range [][]byte{set, sealed} {
			seen := int64(-1)
			next, err := Walk(&Fetched{Records: set}, 0, bounds, func(e Record) error {
				require.Greater(t, e.Offset, seen)
				require.LessOrEqual(t, len(e.Value)+len(e.Key), max(bounds.Record, len(set)))
				seen = e.Offset
				return nil
			})
			if err == nil {
				require.Greater(t, next, seen)
			}
		}
	})
}

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
		return batchtest.Batch(batchtest.Header{Base: base, LastDelta: int32(last - base)}, records...)
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
			next, err := Walk(&Fetched{Records: slices.Concat(tt.batches...)}, tt.from, MessageBounds, func(e Record) error {
				seen = append(seen, e.Offset)
				return nil
			})
			require.NoError(t, err)
			require.Equal(t, tt.seen, seen)
			require.Equal(t, tt.next, next)
		})
	}
}
