package client

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"

	"github.com/segmentio/kafka-go/protocol"
)

// wireReader reads the encodings of Kafka's protocol from bytes that a broker sent. If a value is
// not there, it sets short and returns zeros from then on. What it returns points into the data.
type wireReader struct {
	data  []byte
	short bool
}

func (r *wireReader) fail() { r.data, r.short = nil, true }

// take returns the next n bytes. After a failure it returns up to 16 zeros, so that every number
// can be read.
func (r *wireReader) take(n int) []byte {
	if n < 0 || n > len(r.data) {
		r.fail()
		return make([]byte, min(max(n, 0), 16))
	}
	b := r.data[:n:n]
	r.data = r.data[n:]
	return b
}

func (r *wireReader) int8() int8   { return int8(r.take(1)[0]) }                        //nolint:gosec // as it is encoded
func (r *wireReader) int16() int16 { return int16(binary.BigEndian.Uint16(r.take(2))) } //nolint:gosec // as it is encoded
func (r *wireReader) int32() int32 { return int32(binary.BigEndian.Uint32(r.take(4))) } //nolint:gosec // as it is encoded
func (r *wireReader) int64() int64 { return int64(binary.BigEndian.Uint64(r.take(8))) } //nolint:gosec // as it is encoded

// string reads a string; "" for null.
func (r *wireReader) string() string { return string(r.present(int(r.int16()))) }

// bytes reads a byte string; nil for null.
func (r *wireReader) bytes() []byte { return r.present(int(r.int32())) }

// present returns the next n bytes, nil if n is negative or more than there are.
func (r *wireReader) present(n int) []byte {
	if n < 0 {
		return nil
	}
	if n > len(r.data) {
		r.fail()
		return nil
	}
	return r.take(n)
}

// array calls fn for each element of an array.
func (r *wireReader) array(fn func()) {
	for n := r.int32(); n > 0 && !r.short; n-- {
		fn()
	}
}

// varint reads a signed number of variable length.
func (r *wireReader) varint() int64 {
	v, n := binary.Varint(r.data)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.data = r.data[n:]
	return v
}

// varbytes reads a byte string of a record; nil for null.
func (r *wireReader) varbytes() []byte {
	n := r.varint()
	if n > int64(len(r.data)) {
		r.fail()
		return nil
	}
	return r.present(int(n))
}

// uvarint reads the length of a value in the flexible encoding.
func (r *wireReader) uvarint() int {
	v, n := binary.Uvarint(r.data)
	if n <= 0 || v > uint64(len(r.data))+1 {
		r.fail()
		return 0
	}
	r.data = r.data[n:]
	return int(v) //nolint:gosec // at most len(r.data)+1
}

// compactString reads a string in the flexible encoding; "" for null.
func (r *wireReader) compactString() string { return string(r.present(r.uvarint() - 1)) }

// compactArray calls fn for each element of an array in the flexible encoding.
func (r *wireReader) compactArray(fn func()) {
	for n := r.uvarint() - 1; n > 0 && !r.short; n-- {
		fn()
	}
}

// tags skips tagged fields.
func (r *wireReader) tags() {
	for n := r.uvarint(); n > 0 && !r.short; n-- {
		if _, size := binary.Uvarint(r.data); size <= 0 { // the tag's number
			r.fail()
		} else {
			r.data = r.data[size:]
			r.present(r.uvarint())
		}
	}
}

// ownCorrelation is the correlation id of the requests whose answers this package reads itself.
const ownCorrelation = 0x72656c61

// readOwnAnswer reads an answer that is not for kafka-go's decoder, and returns what follows its
// correlation id. limit bounds its size. It allocates no more than usual bytes beyond what has
// come.
func readOwnAnswer(r io.Reader, limit, usual int) ([]byte, error) {
	var head [frameSizeBytes + 4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	left := int(int32(binary.BigEndian.Uint32(head[:]))) - 4 //nolint:gosec // its bits
	if left < 0 || left > limit {
		return nil, fmt.Errorf("its size is given as %d bytes, and relay takes up to %d", left, limit)
	}
	if id := binary.BigEndian.Uint32(head[frameSizeBytes:]); id != ownCorrelation {
		return nil, fmt.Errorf("it answers another request (correlation id %x)", id)
	}
	return appendFrom(nil, r, left, usual)
}

// badAnswer returns the error of an answer that was read from rw and is not valid.
func badAnswer(rw io.ReadWriter, key protocol.ApiKey, err error) *BadAnswerError {
	return &BadAnswerError{Address: nameOf(rw), key: key, err: err}
}

// nameOf returns the address of the broker at the other end of a connection; "" if rw is none.
func nameOf(rw io.ReadWriter) string {
	if conn, ok := rw.(net.Conn); ok {
		return conn.RemoteAddr().String()
	}
	return ""
}
