package client

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
)

// The layout of a record batch of version 2: https://kafka.apache.org/documentation/#recordbatch
const (
	setSizeBytes     = 4 // size of the record set in a produce request, before the batch
	BatchHeaderBytes = 61

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

// acksAll makes a leader answer once all in-sync replicas have a record batch.
const acksAll = -1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// BatchSpec is what a record batch carries beside its records.
type BatchSpec struct {
	Session
	Sequence      int32 // of the first record
	Transactional bool
	Codec         compress.Codec // nil: not compressed
	Time          time.Time      // of the records whose Time is zero
}

// ProducerRecord is a record to be written. Its methods return the same at each call, and what they
// return is not changed.
type ProducerRecord interface {
	Key() []byte   // nil is written as null
	Value() []byte // nil is written as an empty value, unless Tombstone says otherwise
	// Tombstone makes the value null, which removes the key from a compacted topic.
	Tombstone() bool
	// Headers is the number of headers, of which Header returns one.
	Headers() int
	Header(n int) (key, value string)
	// Time is the time of the record; zero for that of the batch.
	Time() time.Time
}

// EncodeBatch writes the records at(0) to at(count-1) as one record batch and returns it as the
// record set of a produce request, size first. A compression that makes the batch larger is left
// out. A record that at returns is used until the next call of at only.
func EncodeBatch(spec BatchSpec, count int, at func(n int) ProducerRecord) ([]byte, error) {
	size := setSizeBytes + BatchHeaderBytes
	for n := range count {
		size += RecordSize(at(n), n)
	}
	span := spanOf(spec.Time, count, at)
	if span.last != span.first {
		size += count * TimestampRoom
	}
	var attributes int16
	if spec.Transactional {
		attributes |= attributeTransactional
	}
	if spec.Codec == nil {
		set := appendRecords(make([]byte, setSizeBytes+BatchHeaderBytes, size), span.first, spec.Time, count, at)
		finishBatch(set, spec, span, attributes, count)
		return set, nil
	}
	s := scratches.Get().(*scratch)
	defer s.giveBack()
	s.plain = appendRecords(slices.Grow(s.plain[:0], size)[:setSizeBytes+BatchHeaderBytes], span.first, spec.Time, count, at)
	s.packed.Reset()
	if err := pack(&s.packed, spec.Codec, s.plain); err != nil {
		return nil, err
	}
	set := s.plain
	if s.packed.Len() < len(s.plain) {
		attributes |= int16(spec.Codec.Code())
		set = s.packed.Bytes()
	}
	set = bytes.Clone(set)
	finishBatch(set, spec, span, attributes, count)
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

// TimestampRoom is the most that RecordSize leaves out of a record with another time than the first
// one of the batch has.
const TimestampRoom = 10

// timeSpan is the earliest and the latest time in a batch, in milliseconds since 1970.
type timeSpan struct{ first, last int64 }

func spanOf(otherwise time.Time, count int, at func(n int) ProducerRecord) timeSpan {
	s := timeSpan{otherwise.UnixMilli(), otherwise.UnixMilli()}
	for n := range count {
		t := timestampOf(at(n), otherwise)
		if n == 0 {
			s = timeSpan{t, t}
		}
		s.last = max(s.last, t)
	}
	return s
}

// timestampOf returns the time of r in milliseconds since 1970.
func timestampOf(r ProducerRecord, otherwise time.Time) int64 {
	if t := r.Time(); !t.IsZero() {
		return t.UnixMilli()
	}
	return otherwise.UnixMilli()
}

func appendRecords(b []byte, base int64, otherwise time.Time, count int, at func(n int) ProducerRecord) []byte {
	for n := range count {
		r := at(n)
		b = appendRecord(b, r, n, timestampOf(r, otherwise)-base)
	}
	return b
}

// pack writes plain to out with its records compressed; the header's place stays as it is.
func pack(out *bytes.Buffer, codec compress.Codec, plain []byte) error {
	out.Write(plain[:setSizeBytes+BatchHeaderBytes])
	w := codec.NewWriter(out)
	_, err := w.Write(plain[setSizeBytes+BatchHeaderBytes:])
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
func finishBatch(set []byte, spec BatchSpec, span timeSpan, attributes int16, records int) {
	put := binary.BigEndian
	put.PutUint32(set, uint32(len(set)-setSizeBytes))
	b := set[setSizeBytes:]
	clear(b[:offsetBatchLength]) // base offset: the broker's to set
	put.PutUint32(b[offsetBatchLength:], uint32(len(b)-offsetLeaderEpoch))
	put.PutUint32(b[offsetLeaderEpoch:], 0xffffffff) // -1: not known
	b[offsetMagic] = 2
	put.PutUint16(b[offsetAttributes:], uint16(attributes))
	put.PutUint32(b[offsetLastOffsetDelta:], uint32(records-1))
	put.PutUint64(b[offsetFirstTimestamp:], uint64(span.first))
	put.PutUint64(b[offsetMaxTimestamp:], uint64(span.last))
	put.PutUint64(b[offsetProducerID:], uint64(spec.ID))
	put.PutUint16(b[offsetProducerEpoch:], uint16(spec.Epoch))
	if !spec.Valid() {
		spec.Sequence = -1 // https://kafka.apache.org/documentation/#recordbatch: no producer, no sequence
	}
	put.PutUint32(b[offsetBaseSequence:], uint32(spec.Sequence))
	put.PutUint32(b[offsetRecordCount:], uint32(records))
	put.PutUint32(b[offsetCRC:], crc32.Checksum(b[offsetAttributes:], castagnoli))
}

// appendRecord writes r as record n of its batch, delta milliseconds after the first one.
func appendRecord(b []byte, r ProducerRecord, n int, delta int64) []byte {
	key, value := r.Key(), r.Value()
	b = binary.AppendVarint(b, int64(recordBodySize(r, n)+varintSize(delta)-varintSize(0)))
	b = append(b, 0) // attributes: none are defined
	b = binary.AppendVarint(b, delta)
	b = binary.AppendVarint(b, int64(n))
	if key == nil {
		b = binary.AppendVarint(b, -1)
	} else {
		b = binary.AppendVarint(b, int64(len(key)))
		b = append(b, key...)
	}
	if r.Tombstone() {
		b = binary.AppendVarint(b, -1)
	} else {
		b = binary.AppendVarint(b, int64(len(value)))
		b = append(b, value...)
	}
	headers := r.Headers()
	b = binary.AppendVarint(b, int64(headers))
	for i := range headers {
		key, value := r.Header(i)
		b = binary.AppendVarint(b, int64(len(key)))
		b = append(b, key...)
		b = binary.AppendVarint(b, int64(len(value)))
		b = append(b, value...)
	}
	return b
}

// RecordSize returns the bytes that r takes as record n of a batch, before compression, if it has
// the time of the first record; otherwise it takes up to TimestampRoom more.
func RecordSize(r ProducerRecord, n int) int {
	body := recordBodySize(r, n)
	return varintSize(int64(body)) + body
}

func recordBodySize(r ProducerRecord, n int) int {
	key, value := r.Key(), r.Value()
	size := 1 + varintSize(0) + varintSize(int64(n))
	if key == nil {
		size += varintSize(-1)
	} else {
		size += varintSize(int64(len(key))) + len(key)
	}
	if r.Tombstone() {
		size += varintSize(-1)
	} else {
		size += varintSize(int64(len(value))) + len(value)
	}
	headers := r.Headers()
	size += varintSize(int64(headers))
	for i := range headers {
		key, value := r.Header(i)
		size += varintSize(int64(len(key))) + len(key) + varintSize(int64(len(value))) + len(value)
	}
	return size
}

func varintSize(v int64) int {
	zigzag := uint64(v<<1) ^ uint64(v>>63) //nolint:gosec // its bits, not its value
	return (bits.Len64(zigzag|1) + 6) / 7
}

// BatchBytes is the size that a broker holds against max.message.bytes: the batch without the size
// before it.
func BatchBytes(set []byte) int { return len(set) - setSizeBytes }

// CodecIn returns the number of the codec that set is compressed with, 0 for none.
func CodecIn(set []byte) byte { return set[setSizeBytes+offsetAttributes+1] & 7 }

// recordSet gives an encoded batch to kafka-go, which reads it once for each request.
func recordSet(set []byte) io.Reader { return bytes.NewReader(set) }

// brokenBatch returns a record batch of no records whose checksum is wrong.
func brokenBatch(codec compress.Codec) ([]byte, error) {
	plain := make([]byte, setSizeBytes+BatchHeaderBytes)
	set, attributes := plain, int16(0)
	if codec != nil {
		s := &scratch{}
		if err := pack(&s.packed, codec, plain); err != nil {
			return nil, err
		}
		set, attributes = s.packed.Bytes(), int16(codec.Code())
	}
	now := time.Now()
	finishBatch(set, BatchSpec{Session: NoSession}, timeSpan{now.UnixMilli(), now.UnixMilli()}, attributes, 0)
	set[setSizeBytes+offsetCRC] ^= 0xff
	return set, nil
}
