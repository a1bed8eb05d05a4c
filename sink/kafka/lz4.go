package kafka

import (
	"io"
	"sync"

	"github.com/pierrec/lz4/v4"
	kafkalz4 "github.com/segmentio/kafka-go/compress/lz4"
)

// lz4Codec is kafka-go's but for what it writes: blocks of 64 KiB, as Kafka's Java client does, in
// place of 4 MiB, each of which would hold a buffer of that size; and no checksum of the content,
// since a record batch has one of its own.
type lz4Codec struct{ kafkalz4.Codec }

// NewWriter implements compress.Codec.
func (*lz4Codec) NewWriter(w io.Writer) io.WriteCloser {
	z := lz4Writers.Get().(*lz4Writer)
	z.Reset(w)
	return z
}

var lz4Writers = sync.Pool{New: func() any {
	w := &lz4Writer{lz4.NewWriter(nil)}
	if err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false)); err != nil {
		panic(err) // the options are constants
	}
	return w
}}

// lz4Writer goes back to where it came from when it is closed, and is not to be used after that.
type lz4Writer struct{ *lz4.Writer }

// Close writes the end.
func (w *lz4Writer) Close() error {
	err := w.Writer.Close()
	w.Reset(nil)
	lz4Writers.Put(w)
	return err
}
