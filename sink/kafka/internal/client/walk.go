package client

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/protocol"
)

// Record sets are read here and not by kafka-go, which allocates what a record batch claims to
// hold, and decompresses all of it before it looks at the first record. Here one record is in
// memory at a time, and nothing is allocated before the bytes for it are there.

// ReadBounds bounds what reading a record set may take.
type ReadBounds struct {
	Record int // bytes of one record
	Batch  int // bytes of a record batch, decompressed
}

const (
	largestBatch  = 1 << 30
	largestChunk  = MaxMessageBytes // of snappy
	largestWindow = 64 << 20        // of zstd; its own tools use up to 8 MiB unless told otherwise
)

// MessageBounds hold for topics of messages: the client publishes none that is larger.
var MessageBounds = ReadBounds{Record: MaxMessageBytes + 1<<20, Batch: largestBatch}

// Record is a record, and what its record batch says of it. It is valid until the function returns
// that it is given to.
type Record struct {
	Offset        int64
	Time          time.Time
	Key, Value    []byte // nil for null
	Headers       []RecordHeader
	Producer      int64 // id; -1 if there is none
	Transactional bool
	Control       bool // it ends the transaction of producer, and is not a message
}

// RecordHeader is a header of a Record.
type RecordHeader struct {
	Key   string
	Value []byte
}

// Walk calls fn for each record of an answer from an offset on, and returns the offset to go on
// from. That is at least one more: compaction leaves record batches without a record. It returns
// the errors of fn as they are, and a *BadAnswerError if the records are not valid.
func Walk(answer *Fetched, from int64, bounds ReadBounds, fn func(Record) error) (next int64, err error) {
	w := recordWalker{bounds: bounds, next: from, fn: fn}
	rest := answer.Records
	for whole := 0; len(rest) > 0; whole++ {
		batch, err := nextBatch(rest)
		switch {
		case err == nil && batch == nil && whole == 0:
			err = errors.New("its first record batch is cut short")
		case err == nil && batch == nil: // brokers cut the last one
			return max(w.next, from+1), nil
		case err == nil:
			err = w.batch(batch)
		}
		if err != nil && w.refused == nil {
			err = &BadAnswerError{Address: answer.Broker, key: protocol.Fetch, err: fmt.Errorf("record batch at offset %d: %w", batchOffset(rest), err)}
		}
		if err != nil {
			return w.next, err
		}
		rest = rest[len(batch):]
	}
	return max(w.next, from+1), nil
}

// batchPrefix is the size of what all versions of a record batch begin with: offset, length, 4
// bytes, version.
const batchPrefix = offsetMagic + 1

func batchOffset(b []byte) int64 {
	if len(b) < offsetBatchLength {
		return -1
	}
	return int64(binary.BigEndian.Uint64(b)) //nolint:gosec // as it is encoded
}

// nextBatch returns the record batch, or the message of an older version, that b begins with; nil
// if it is not all there.
func nextBatch(b []byte) ([]byte, error) {
	if len(b) < batchPrefix {
		return nil, nil
	}
	length := int(int32(binary.BigEndian.Uint32(b[offsetBatchLength:]))) //nolint:gosec // its bits
	least := BatchHeaderBytes - offsetLeaderEpoch
	if b[offsetMagic] < 2 {
		least = messageLeast
	}
	if length < least {
		return nil, fmt.Errorf("its length is given as %d", length)
	}
	if length > len(b)-offsetLeaderEpoch {
		return nil, nil
	}
	return b[:offsetLeaderEpoch+length], nil
}

// recordWalker hands the records of record batches to fn.
type recordWalker struct {
	bounds  ReadBounds
	next    int64
	fn      func(Record) error
	refused error  // what fn returned
	buffer  []byte // for records that were compressed
}

func (w *recordWalker) batch(b []byte) error {
	if batchOffset(b) < 0 {
		return errors.New("its offset is negative")
	}
	switch version := b[offsetMagic]; version {
	case 0, 1:
		return w.message(b, nil)
	case 2:
		return w.batch2(b)
	default:
		return fmt.Errorf("its version %d is not known", version)
	}
}

func (w *recordWalker) hand(e Record) error {
	if e.Offset < w.next {
		return nil
	}
	if w.refused = w.fn(e); w.refused != nil {
		return w.refused
	}
	w.next = max(w.next, e.Offset+1)
	return nil
}

// batch2 reads a record batch of version 2: https://kafka.apache.org/documentation/#recordbatch
func (w *recordWalker) batch2(b []byte) error {
	get := binary.BigEndian
	if sum := crc32.Checksum(b[offsetAttributes:], castagnoli); sum != get.Uint32(b[offsetCRC:]) {
		return errors.New("its checksum does not fit its content")
	}
	base, attributes := batchOffset(b), get.Uint16(b[offsetAttributes:])
	lastDelta, count := int32(get.Uint32(b[offsetLastOffsetDelta:])), int32(get.Uint32(b[offsetRecordCount:])) //nolint:gosec // as it is encoded
	if lastDelta < 0 || count < 0 || base > math.MaxInt64-math.MaxInt32-1 {
		return fmt.Errorf("it claims %d records up to %d offsets on", count, lastDelta)
	}
	e := Record{
		Producer:      int64(get.Uint64(b[offsetProducerID:])), //nolint:gosec // as it is encoded
		Transactional: attributes&attributeTransactional != 0,
		Control:       attributes&attributeControl != 0,
	}
	first := int64(get.Uint64(b[offsetFirstTimestamp:])) //nolint:gosec // as it is encoded
	src, done, err := w.decompressed(attributes&attributeCodec, b[BatchHeaderBytes:])
	if err != nil {
		return err
	}
	defer done()
	for ; count > 0; count-- {
		body, err := src.next(w.bounds.Record)
		if err != nil {
			return fmt.Errorf("%w, with %d records to come", err, count)
		}
		r := wireReader{data: body}
		r.int8() // attributes: none are defined
		e.Time = timeOf(first + r.varint())
		delta := r.varint()
		e.Offset = base + delta
		e.Key, e.Value = r.varbytes(), r.varbytes()
		e.Headers = e.Headers[:0]
		for n := r.varint(); n > 0 && !r.short; n-- {
			e.Headers = append(e.Headers, RecordHeader{string(r.varbytes()), r.varbytes()})
		}
		if r.short || delta < 0 || delta > math.MaxInt32 {
			return fmt.Errorf("a record is not valid, with %d records to come", count)
		}
		if err := w.hand(e); err != nil {
			return err
		}
	}
	w.next = max(w.next, base+int64(lastDelta)+1)
	return nil
}

func timeOf(milliseconds int64) time.Time { return time.UnixMilli(milliseconds) }

// messageLeast is what a message of version 0 or 1 takes behind its offset and length: checksum,
// version, attributes and two lengths.
const messageLeast = 14

// message reads a message of version 0 or 1: https://kafka.apache.org/documentation/#messageset. If
// it is compressed, it holds others. place gives the offset of one that lies within another; nil
// for one that does not.
func (w *recordWalker) message(b []byte, place func(int64) int64) error {
	if sum := crc32.ChecksumIEEE(b[offsetMagic:]); sum != binary.BigEndian.Uint32(b[offsetLeaderEpoch:]) {
		return errors.New("its checksum does not fit its content")
	}
	e := Record{Offset: batchOffset(b), Producer: -1}
	r := wireReader{data: b[batchPrefix:]}
	attributes := uint16(r.int8()) & attributeCodec //nolint:gosec // its bits
	if b[offsetMagic] == 1 {
		e.Time = timeOf(r.int64())
	}
	e.Key, e.Value = r.bytes(), r.bytes()
	if r.short {
		return errors.New("it is cut short")
	}
	if attributes == 0 {
		if place != nil {
			e.Offset = place(e.Offset)
		}
		return w.hand(e)
	}
	if place != nil {
		return errors.New("it holds compressed messages within compressed ones")
	}
	src, done, err := w.decompressed(attributes, e.Value)
	if err != nil {
		return err
	}
	defer done()
	inner, err := io.ReadAll(io.LimitReader(src.packed, int64(w.bounds.Record)+1))
	if err != nil {
		return err
	}
	if len(inner) > w.bounds.Record {
		return fmt.Errorf("its messages take more than %d bytes, and relay reads no more", w.bounds.Record)
	}
	return w.messagesWithin(inner, e.Offset, b[offsetMagic])
}

// messagesWithin reads the messages that were compressed in one at the offset. In version 1 their
// own offsets count from 0, and the outer one has that of the last.
func (w *recordWalker) messagesWithin(set []byte, offset int64, version byte) error {
	last := int64(0)
	var messages [][]byte
	for len(set) > 0 {
		m, err := nextBatch(set)
		if err == nil && (m == nil || m[offsetMagic] > 1) {
			err = errors.New("a message in it is cut short or has another version")
		}
		if err != nil {
			return err
		}
		last = batchOffset(m)
		messages, set = append(messages, m), set[len(m):]
	}
	for _, m := range messages {
		err := w.message(m, func(o int64) int64 {
			if version == 0 {
				return o
			}
			return offset - last + o
		})
		if err != nil {
			return err
		}
	}
	w.next = max(w.next, offset+1)
	return nil
}

// recordSource gives the records of a batch one by one.
type recordSource struct {
	plain  []byte        // what is left, if they are not compressed
	packed *bufio.Reader // nil if they are not
	buffer []byte        // of the record that was read from packed
}

// next returns the next record without its length. It is valid until the next call. most bounds its
// size.
func (s *recordSource) next(most int) ([]byte, error) {
	if s.packed == nil {
		r := wireReader{data: s.plain}
		body := r.varbytes()
		s.plain = r.data
		if body == nil {
			return nil, errors.New("a record is cut short")
		}
		return body, nil
	}
	size, err := binary.ReadVarint(s.packed)
	if err != nil {
		return nil, cutShort(err)
	}
	if size < 0 || size > int64(most) {
		return nil, fmt.Errorf("a record of %d bytes, and relay reads up to %d", size, most)
	}
	s.buffer, err = appendFrom(s.buffer[:0], s.packed, int(size), recordStep)
	return s.buffer, cutShort(err)
}

// recordStep is how much memory is allocated for a record before more of it has come.
const recordStep = 64 << 10

// appendFrom appends the next n bytes of r. It allocates no more than step bytes beyond what has
// come.
func appendFrom(b []byte, r io.Reader, n, step int) ([]byte, error) {
	for n > 0 {
		piece := min(n, max(cap(b)-len(b), step))
		at := len(b)
		b = slices.Grow(b, piece)[:at+piece]
		if _, err := io.ReadFull(r, b[at:]); err != nil {
			return b[:at], err
		}
		n -= piece
	}
	return b, nil
}

func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("a record is cut short")
	}
	return err
}

// decompressed returns the records in payload, which is compressed with the codec of that number, 0
// for none. done gives back what that takes.
func (w *recordWalker) decompressed(codec uint16, payload []byte) (s *recordSource, done func(), err error) {
	if codec == 0 {
		return &recordSource{plain: payload}, func() {}, nil
	}
	r, err := decompress(codec, payload)
	if err != nil {
		return nil, nil, err
	}
	s = &recordSource{packed: bufio.NewReader(&guarded{r: r, left: w.bounds.Batch, most: w.bounds.Batch}), buffer: w.buffer}
	return s, func() {
		w.buffer = s.buffer
		_ = r.Close() // only gives memory back
	}, nil
}

// guarded reads from a decompressor up to a bound, and turns a panic of it into an error.
type guarded struct {
	r          io.Reader
	left, most int
}

// Read implements io.Reader.
func (g *guarded) Read(b []byte) (n int, err error) {
	defer func() {
		if p := recover(); p != nil {
			n, err = 0, fmt.Errorf("decompressing it failed: %v", p)
		}
	}()
	if n, err = g.r.Read(b); n > g.left {
		return 0, fmt.Errorf("its records take more than %d bytes decompressed, and relay reads no more", g.most)
	}
	g.left -= n
	return n, err
}

// decompress returns a reader of what payload holds. It takes little memory beside what it returns,
// but for a window of zstd and for a chunk of snappy, which are bounded here.
func decompress(codec uint16, payload []byte) (io.ReadCloser, error) {
	var c compress.Codec
	if int(codec) < len(compress.Codecs) {
		c = compress.Codecs[codec]
	}
	switch {
	case c == nil:
		return nil, fmt.Errorf("its codec %d is not known", codec)
	case compress.Compression(codec) == compress.Zstd: //nolint:gosec // 3 bits
		return decompressZstd(payload)
	case compress.Compression(codec) == compress.Snappy: //nolint:gosec // 3 bits
		if err := checkSnappy(payload); err != nil {
			return nil, err
		}
	}
	return c.NewReader(bytes.NewReader(payload)), nil
}

var zstdDecoders sync.Pool // of *zstd.Decoder

type zstdReader struct{ *zstd.Decoder }

// Close gives the decoder back.
func (z zstdReader) Close() error {
	err := z.Reset(nil)
	zstdDecoders.Put(z.Decoder)
	return err
}

func decompressZstd(payload []byte) (io.ReadCloser, error) {
	if d, _ := zstdDecoders.Get().(*zstd.Decoder); d != nil {
		return zstdReader{d}, d.Reset(bytes.NewReader(payload))
	}
	d, err := zstd.NewReader(bytes.NewReader(payload), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(largestWindow), zstd.WithDecodeBuffersBelow(0))
	return zstdReader{d}, err
}

// xerialHeader begins a payload of snappy that is a list of chunks, each with its size before it.
var xerialHeader = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

const xerialHeaderBytes = 16 // with versions behind it

// checkSnappy returns an error if a chunk of snappy is not all there, or claims to be larger than a
// record batch may be.
func checkSnappy(payload []byte) error {
	chunk := func(b []byte) error {
		if size, n := binary.Uvarint(b); n <= 0 || size > largestChunk {
			return fmt.Errorf("a chunk of snappy claims %d bytes, and relay reads up to %d", size, largestChunk)
		}
		return nil
	}
	if !bytes.HasPrefix(payload, xerialHeader) || len(payload) < xerialHeaderBytes {
		return chunk(payload)
	}
	for rest := payload[xerialHeaderBytes:]; len(rest) > 0; {
		r := wireReader{data: rest}
		b := r.bytes()
		if r.short || b == nil {
			return errors.New("a chunk of snappy is cut short")
		}
		if err := chunk(b); err != nil {
			return err
		}
		rest = r.data
	}
	return nil
}
