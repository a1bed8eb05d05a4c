package client

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/pierrec/lz4/v4"
	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"
	kafkalz4 "github.com/segmentio/kafka-go/compress/lz4"
)

// CompressionAuto takes the codec that costs the least, and another one if the cluster refuses it.
const CompressionAuto = "auto"

// autoCodecs are the codecs of CompressionAuto, best first. Every service that takes any compressed
// batch takes gzip.
var autoCodecs = []string{"lz4", "gzip", "none"}

// CodecsOf returns the codecs of a compression as the configuration names it, best first. A nil
// codec stands for none.
func CodecsOf(name string) ([]compress.Codec, error) {
	names := []string{name}
	if name == CompressionAuto {
		names = autoCodecs
	}
	codecs := make([]compress.Codec, len(names))
	for i, n := range names {
		codec, err := codecOf(n)
		if err != nil {
			return nil, err
		}
		codecs[i] = codec
	}
	return codecs, nil
}

// CodecName is the name of a codec as CodecsOf takes it.
func CodecName(c compress.Codec) string {
	if c == nil {
		return "none"
	}
	return c.Name()
}

// IsCodecRefused reports whether an answer may mean that the cluster does not take the codec of a
// record batch.
func IsCodecRefused(err error) bool {
	return errors.Is(err, kafkago.UnsupportedForMessageFormat) || errors.Is(err, kafkago.UnsupportedCompressionType)
}

// IsCodecDoubted reports whether an answer to a record batch, given again and again, may mean that
// the cluster cannot read its codec.
func IsCodecDoubted(err error) bool {
	return errors.Is(err, kafkago.InvalidMessage) || errors.Is(err, kafkago.InvalidRequest) || errors.Is(err, kafkago.Unknown)
}

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

// lz4Codec is kafka-go's but for what it writes: blocks of 64 KiB, as Kafka's Java client does, in
// place of 4 MiB, each of which would hold a buffer of that size; and no checksum of the content,
// since a record batch has its own.
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
