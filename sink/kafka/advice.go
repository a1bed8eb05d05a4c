package kafka

import (
	"context"
	"fmt"
	"slices"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/protocol"

	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// advice is Sink.Advice.
func (a *topicAdmin) advice(ctx context.Context, topics []string) (said sink.Advice, err error) {
	if err := a.cluster.Offers(ctx, protocol.InitProducerId); client.IsNoRequest(err) {
		said.Warnings = append(said.Warnings, unnumberedText(err))
	} else if err != nil {
		return said, a.explain(err)
	}
	if err := a.cluster.Offers(ctx, protocol.DescribeConfigs); client.IsNoRequest(err) {
		said.Warnings = append(said.Warnings, fmt.Sprintf("relay cannot see the settings of topics, so it takes Kafka's defaults for their limits, and the broker decides about large messages: %v", err))
	}
	codecs, err := client.CodecsOf(a.cfg.Compression)
	if err != nil {
		return said, err
	}
	var refused error
	for i, codec := range codecs {
		refusal, err := a.tryCodec(ctx, topics, codec)
		switch {
		case err != nil:
			return said, a.explain(err)
		case refusal == nil && i == 0:
			said.Facts = append(said.Facts, "compression: "+client.CodecName(codec))
			return said, nil
		case refusal == nil:
			said.Warnings = append(said.Warnings, fmt.Sprintf("compression: %s, since the cluster refuses %s: %v", client.CodecName(codec), client.CodecName(codecs[0]), refused))
			return said, nil
		case i == 0:
			refused = refusal
		}
	}
	said.Faults = append(said.Faults, explained(codecRefused(codecs[0]), refused).Error())
	return said, nil
}

// zstdVersion is the first version of Produce in which brokers take zstd (Kafka 2.1).
const zstdVersion = 7

// codecTooNew returns why the brokers cannot know a codec; nil if they may.
func (a *topicAdmin) codecTooNew(ctx context.Context, codec compress.Codec) error {
	known, err := a.cluster.KnownRequests(ctx)
	if err != nil || client.CodecName(codec) != "zstd" {
		return nil //nolint:nilerr // whoever asks next sees it
	}
	if v, ok := known[protocol.Produce]; ok && v.Most < zstdVersion {
		return fmt.Errorf("the brokers are older than Kafka 2.1, the first that takes zstd: %w", kafkago.UnsupportedCompressionType)
	}
	return nil
}

// tryCodec returns why the cluster does not take a codec. It stores nothing.
func (a *topicAdmin) tryCodec(ctx context.Context, topics []string, codec compress.Codec) (refusal, err error) {
	if codec == nil {
		return nil, nil
	}
	if err := a.codecTooNew(ctx, codec); err != nil {
		return err, nil
	}
	legal := slices.DeleteFunc(slices.Clone(topics), func(t string) bool { return illegalTopicName(t) != "" })
	answers, err := a.cluster.ProbeCodec(ctx, legal, codec)
	if err != nil {
		return nil, err
	}
	for topic, answer := range answers {
		if client.IsCodecRefused(answer) {
			return fmt.Errorf("kafka topic %s: %w", topic, answer), nil
		}
	}
	return nil, nil
}
