package kafka

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
	"slices"
	"sync"
	"time"

	"github.com/segmentio/kafka-go/compress"

	"workos-relay/sink"
)

// The layout of a record batch of version 2: https://kafka.apache.org/documentation/#recordbatch
const (
	setSizeBytes     = 4 // size of the record set in a produce request, before the batch
	batchHeaderBytes = 61

	offsetBatchLength     = 8
	offsetLeaderEpoch     = 12
	offsetMagic           = 16
	offsetCRC             = 17
	offsetAttributes      = 21
	offsetLastOffsetDelta = 23
	offsetFirstTimestamp  = 27
	offsetMaxTimestamp    = 35
	offsetProducerID      = 43
	offsetProducerEpoch   = 51
	offsetBaseSequence    = 53
	offsetRecordCount     = 57

	attributeCodec         = 7
	attributeTransactional = 1 << 4
	attributeControl       = 1 << 5
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// codecOf returns the codec of a compression as the configuration names it; nil stands for none.
func codecOf(name string) (compress.Codec, error) {
	if name == "" || name == "none" {
		return nil, nil
	}
	if name == "lz4" {
		return &lz4Codec{}, nil
	}
	for _, c := range compress.Codecs {
		if c != nil && c.Name() == name {
			return c, nil
		}
	}
	return nil, fmt.Errorf("compression %q is not known: use auto, none, gzip, snappy, lz4 or zstd", name)
}

// batchSpec is what a record batch carries beside its records.
type batchSpec struct {
	session
	sequence      int32 // of the first record
	transactional bool
	codec         compress.Codec // nil: not compressed
	time          time.Time      // of every record: when it was published, so that retention counts from then
}

// encodeBatch writes the messages batch[i], for each i of index, as one record batch and returns it
// as the record set of a produce request, size first. Messages keep their order. A compression that
// makes the batch larger is left out.
func encodeBatch(spec batchSpec, batch []sink.Message, index []int) ([]byte, error) {
	size := setSizeBytes + batchHeaderBytes
	for n, i := range index {
		size += recordSize(&batch[i], n)
	}
	var attributes int16
	if spec.transactional {
		attributes |= attributeTransactional
	}
	if spec.codec == nil {
		set := appendRecords(make([]byte, setSizeBytes+batchHeaderBytes, size), batch, index)
		finishBatch(set, spec, attributes, len(index))
		return set, nil
	}
	s := scratches.Get().(*scratch)
	defer s.giveBack()
	s.plain = appendRecords(slices.Grow(s.plain[:0], size)[:setSizeBytes+batchHeaderBytes], batch, index)
	s.packed.Reset()
	if err := pack(&s.packed, spec.codec, s.plain); err != nil {
		return nil, err
	}
	set := s.plain
	if s.packed.Len() < len(s.plain) {
		attributes |= int16(spec.codec.Code())
		set = s.packed.Bytes()
	}
	set = bytes.Clone(set)
	finishBatch(set, spec, attributes, len(index))
	return set, nil
}

// scratch is what a record batch is compressed in, before and after.
type scratch struct {
	plain  []byte
	packed bytes.Buffer
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// giveBack keeps s for another batch, unless a rare large one has grown it.
func (s *scratch) giveBack() {
	const most = 1 << 20
	if cap(s.plain) <= most && s.packed.Cap() <= most {
		scratches.Put(s)
	}
}

func appendRecords(b []byte, batch []sink.Message, index []int) []byte {
	for n, i := range index {
		b = appendRecord(b, &batch[i], n)
	}
	return b
}

// pack writes plain to out with its records compressed; the header's place stays as it is.
func pack(out *bytes.Buffer, codec compress.Codec, plain []byte) error {
	out.Write(plain[:setSizeBytes+batchHeaderBytes])
	w := codec.NewWriter(out)
	_, err := w.Write(plain[setSizeBytes+batchHeaderBytes:])
	if closeErr := w.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("compressing a record batch with %s: %w", codec.Name(), err)
	}
	return nil
}

// finishBatch fills in the size and the header of set, whose records stand already.
//
//nolint:gosec // the format's fields are the two's complement of signed numbers, and the sizes are below 2^31
func finishBatch(set []byte, spec batchSpec, attributes int16, records int) {
	put := binary.BigEndian
	put.PutUint32(set, uint32(len(set)-setSizeBytes))
	b := set[setSizeBytes:]
	clear(b[:offsetBatchLength]) // base offset: the broker's to set
	put.PutUint32(b[offsetBatchLength:], uint32(len(b)-offsetLeaderEpoch))
	put.PutUint32(b[offsetLeaderEpoch:], 0xffffffff) // -1: not known
	b[offsetMagic] = 2
	put.PutUint16(b[offsetAttributes:], uint16(attributes))
	put.PutUint32(b[offsetLastOffsetDelta:], uint32(records-1))
	put.PutUint64(b[offsetFirstTimestamp:], uint64(spec.time.UnixMilli()))
	put.PutUint64(b[offsetMaxTimestamp:], uint64(spec.time.UnixMilli()))
	put.PutUint64(b[offsetProducerID:], uint64(spec.id))
	put.PutUint16(b[offsetProducerEpoch:], uint16(spec.epoch))
	if !spec.valid() {
		spec.sequence = -1 // https://kafka.apache.org/documentation/#recordbatch: no producer, no sequence
	}
	put.PutUint32(b[offsetBaseSequence:], uint32(spec.sequence))
	put.PutUint32(b[offsetRecordCount:], uint32(records))
	put.PutUint32(b[offsetCRC:], crc32.Checksum(b[offsetAttributes:], castagnoli))
}

// appendRecord writes m as record n of its batch. A nil key is written as null, the body never:
// null would be a tombstone.
func appendRecord(b []byte, m *sink.Message, n int) []byte {
	b = binary.AppendVarint(b, int64(recordBodySize(m, n)))
	b = append(b, 0)              // attributes: none are defined
	b = binary.AppendVarint(b, 0) // timestamp delta
	b = binary.AppendVarint(b, int64(n))
	if m.Key == nil {
		b = binary.AppendVarint(b, -1)
	} else {
		b = binary.AppendVarint(b, int64(len(m.Key)))
		b = append(b, m.Key...)
	}
	b = binary.AppendVarint(b, int64(len(m.Body)))
	b = append(b, m.Body...)
	b = binary.AppendVarint(b, int64(len(m.Headers)))
	for _, h := range m.Headers {
		b = binary.AppendVarint(b, int64(len(h.Key)))
		b = append(b, h.Key...)
		b = binary.AppendVarint(b, int64(len(h.Value)))
		b = append(b, h.Value...)
	}
	return b
}

// recordSize returns the bytes that appendRecord writes for m as record n.
func recordSize(m *sink.Message, n int) int {
	body := recordBodySize(m, n)
	return varintSize(int64(body)) + body
}

func recordBodySize(m *sink.Message, n int) int {
	size := 1 + varintSize(0) + varintSize(int64(n))
	if m.Key == nil {
		size += varintSize(-1)
	} else {
		size += varintSize(int64(len(m.Key))) + len(m.Key)
	}
	size += varintSize(int64(len(m.Body))) + len(m.Body)
	size += varintSize(int64(len(m.Headers)))
	for _, h := range m.Headers {
		size += varintSize(int64(len(h.Key))) + len(h.Key) + varintSize(int64(len(h.Value))) + len(h.Value)
	}
	return size
}

func varintSize(v int64) int {
	zigzag := uint64(v<<1) ^ uint64(v>>63) //nolint:gosec // its bits, not its value
	return (bits.Len64(zigzag|1) + 6) / 7
}

// batchBytes is the size that a broker holds against max.message.bytes: the batch without the size
// before it.
func batchBytes(set []byte) int { return len(set) - setSizeBytes }

// codecIn returns the number of the codec that set is compressed with, 0 for none.
func codecIn(set []byte) byte { return set[setSizeBytes+offsetAttributes+1] & 7 }

// recordSet gives an encoded batch to kafka-go, which reads it once for each request.
func recordSet(set []byte) io.Reader { return bytes.NewReader(set) }
