// Package batchtest encodes record batches as brokers send them, and batches as no broker should
// send them, for tests of what reads them. It does not use the code that it tests.
package batchtest

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	"github.com/segmentio/kafka-go/compress"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The flags of a Header: https://kafka.apache.org/documentation/#recordbatch
const (
	Transactional = 1 << 4
	Control       = 1 << 5
)

// Header is what a test says of a record batch.
type Header struct {
	Base      int64
	LastDelta int32
	Producer  int64
	Flags     int16 // of its attributes
	Codec     compress.Codec
	Count     int32 // 0: as many as there are
}

// Batch returns a record batch of version 2.
func Batch(h Header, records ...kmsg.Record) []byte {
	var plain []byte
	for i := range records {
		r := records[i]
		r.Length = int32(len(r.AppendTo(nil)) - 1) //nolint:gosec // small; for a length of 0, which takes 1 byte
		plain = r.AppendTo(plain)
	}
	if h.Count == 0 {
		h.Count = int32(len(records)) //nolint:gosec // few
	}
	return Sealed(h, plain)
}

// Sealed is Batch with records that are encoded, rightly or not.
//
//nolint:gosec // the format's fields are the two's complement of signed numbers
func Sealed(h Header, records []byte) []byte {
	if h.Codec != nil {
		var packed bytes.Buffer
		w := h.Codec.NewWriter(&packed)
		_, _ = w.Write(records) // a buffer takes everything
		_ = w.Close()
		records = packed.Bytes()
		h.Flags |= int16(h.Codec.Code())
	}
	b := append(make([]byte, 61), records...)
	put := binary.BigEndian
	put.PutUint64(b, uint64(h.Base))
	put.PutUint32(b[8:], uint32(len(b)-12))
	b[16] = 2
	put.PutUint16(b[21:], uint16(h.Flags))
	put.PutUint32(b[23:], uint32(h.LastDelta))
	put.PutUint64(b[43:], uint64(h.Producer))
	put.PutUint32(b[57:], uint32(h.Count))
	put.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}
