package kafka

import (
	"fmt"

	"github.com/segmentio/kafka-go/compress"
	"go.uber.org/zap"

	"workos-relay/sink/kafka/internal/client"
)

// fallBack makes the sink use the next codec after one that the cluster has refused with err. It
// reports false if there is none.
func (s *Sink) fallBack(refused compress.Codec, err error) bool {
	if client.CodecName(s.codec) != client.CodecName(refused) {
		return true // somebody else's batch was refused before
	}
	if len(s.codecs) < 2 {
		return false
	}
	s.codecs = s.codecs[1:]
	s.codec = s.codecs[0]
	s.log.Warn(fmt.Sprintf("the cluster refuses compression %s; relay goes on with %s", client.CodecName(refused), client.CodecName(s.codec)),
		zap.NamedError("reason", err))
	return true
}

// codecRefused says what to do about a codec that the cluster refuses.
func codecRefused(codec compress.Codec) string {
	if client.CodecName(codec) == "gzip" {
		return "the cluster refuses compression gzip; set compression: none, or auto"
	}
	return fmt.Sprintf("the cluster refuses compression %s; set compression: gzip or none, or auto", client.CodecName(codec))
}
