package kafka

import (
	"errors"
	"fmt"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"
	"go.uber.org/zap"
)

// compressionAuto takes the codec that costs the least, and another one if the cluster refuses it.
const compressionAuto = "auto"

// autoCodecs are the codecs of compressionAuto, best first. Every service that takes any compressed
// batch takes gzip.
var autoCodecs = []string{"lz4", "gzip", "none"}

// codecsOf returns the codecs of a compression as the configuration names it, best first. A nil
// codec stands for none.
func codecsOf(name string) ([]compress.Codec, error) {
	names := []string{name}
	if name == compressionAuto {
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

func codecName(c compress.Codec) string {
	if c == nil {
		return "none"
	}
	return c.Name()
}

// refusesCodec reports whether an answer may mean that the cluster does not take the codec of a
// record batch.
func refusesCodec(err error) bool {
	return errors.Is(err, kafkago.UnsupportedForMessageFormat) || errors.Is(err, kafkago.UnsupportedCompressionType)
}

// fallBack makes the sink use the next codec after one that the cluster has refused with err. It
// reports false if there is none.
func (s *Sink) fallBack(refused compress.Codec, err error) bool {
	if codecName(s.codec) != codecName(refused) {
		return true // somebody else's batch was refused before
	}
	if len(s.codecs) < 2 {
		return false
	}
	s.codecs = s.codecs[1:]
	s.codec = s.codecs[0]
	s.log.Warn(fmt.Sprintf("the cluster refuses compression %s; relay goes on with %s", codecName(refused), codecName(s.codec)),
		zap.NamedError("reason", err))
	return true
}

// codecRefused says what to do about a codec that the cluster refuses.
func codecRefused(codec compress.Codec) string {
	if codecName(codec) == "gzip" {
		return "the cluster refuses compression gzip; set compression: none, or auto"
	}
	return fmt.Sprintf("the cluster refuses compression %s; set compression: gzip or none, or auto", codecName(codec))
}
