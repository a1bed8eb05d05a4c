package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go/compress"
	"go.uber.org/zap"

	"workos-relay/sink"
	"workos-relay/sink/kafka/internal/client"
)

// publisher publishes batches, one at a time. It remembers from one to the next what the cluster
// takes, and what may be stored although it was not acknowledged.
type publisher struct {
	*common
	grace  time.Duration // how long a refused permission is tried again
	bounds bounds

	mu         sync.Mutex                            // held by a Publish; guards what follows
	codec      compress.Codec                        // of the next record batch; nil for none
	codecs     []compress.Codec                      // codec, and those to use if the cluster refuses it
	proven     bool                                  // a record batch with codec is stored
	pace       *client.Pace                          // how much is sent at once
	left       carryOver                             // by a Publish that did not end well
	away       bool                                  // no broker has stored anything during the last Publish
	acks       time.Duration                         // how long acknowledgements take lately, at most; request_timeout if none came although the cluster answers
	unnumbered bool                                  // the cluster gives no producer ids
	mute       int                                   // requests for one that were not answered, though others were
	session    client.Session                        // where partitions without one begin
	places     map[client.Partition]*client.Sequence // of the partitions that messages went to
	partitions map[string]int                        // how many a topic had when it was last looked at
	unkeyed    int                                   // rises with each batch and topic that has messages without a key
}

func newPublisher(c *common) (*publisher, error) {
	codecs, err := client.CodecsOf(c.cfg.Compression)
	if err != nil {
		return nil, err
	}
	return &publisher{
		common: c, grace: deniedGrace, bounds: boundsOf(c.cfg.RequestTimeout),
		codec: codecs[0], codecs: codecs, pace: client.NewPace(), left: newCarryOver(),
		session: client.NoSession, places: make(map[client.Partition]*client.Sequence), partitions: make(map[string]int),
	}, nil
}

// publish is Sink.Publish.
func (p *publisher) publish(ctx context.Context, batch []sink.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return newDelivery(ctx, p, batch).run()
}

// fallBack makes the sink use the next codec after one that the cluster has refused with err. It
// reports false if there is none.
func (p *publisher) fallBack(refused compress.Codec, err error) bool {
	if client.CodecName(p.codec) != client.CodecName(refused) {
		return true // somebody else's batch was refused before
	}
	if len(p.codecs) < 2 {
		return false
	}
	p.codecs = p.codecs[1:]
	p.codec = p.codecs[0]
	p.name(otherCodec(client.CodecName(refused), client.CodecName(p.codec), err))
	return true
}

// mistrust decides, after record batches with a codec have failed with err several times, whether
// the sink uses the next codec from now on. Not every cluster names the codec when it refuses it. A
// codec that the cluster has taken once is not at fault.
func (p *publisher) mistrust(used compress.Codec, err error) bool {
	if client.CodecName(p.codec) == client.CodecName(used) && p.proven {
		return false
	}
	return p.fallBack(used, err)
}

// codecRefused says what to do about a codec that the cluster refuses.
func codecRefused(codec compress.Codec) string {
	if client.CodecName(codec) == "gzip" {
		return "the cluster refuses compression gzip; set compression: none, or auto"
	}
	return fmt.Sprintf("the cluster refuses compression %s; set compression: gzip or none, or auto", client.CodecName(codec))
}

// counted notes how many partitions a topic has, and warns if the number has changed: keys go to
// other partitions than before.
func (p *publisher) counted(topic string, partitions int) {
	if known := p.partitions[topic]; known > 0 && known != partitions {
		p.log.Warn("the number of partitions has changed: the order of a key is not kept across the change, since it may go to another partition now",
			zap.String("topic", topic), zap.Int("before", known), zap.Int("now", partitions))
	}
	p.partitions[topic] = partitions
}

// placeIn returns the sequence of this producer in the partition. It is kept while the partition is
// out of sight, as when a broker answers with a layout that is out of date: a leader takes sequence
// numbers that start over for a second copy of what it has, and stores nothing.
func (p *publisher) placeIn(at client.Partition) *client.Sequence {
	place := p.places[at]
	if place == nil {
		place = &client.Sequence{Session: client.NoSession}
		p.places[at] = place
	}
	return place
}

// doesWithout decides, after a request for a producer id has failed, whether the sink goes on
// without one: if the cluster gives none, or answers everything but this request.
func (p *publisher) doesWithout(err error) bool {
	if p.unnumbered {
		return true
	}
	if client.IsSilence(err) && p.cluster.HasAnswered("") {
		p.mute++
	}
	if !isNoProducerID(err, p.mute, p.cluster) {
		return false
	}
	p.unnumbered = true
	p.name(withoutProducerID(err))
	return true
}

// restart leaves the epoch in which something is in doubt.
func (p *publisher) restart(place *client.Sequence) {
	if place.Restart(); !place.Valid() {
		p.session = client.NoSession
	}
}

// errThrottledLeader is the error of what was not sent because a leader throttles relay's records.
func errThrottledLeader(left time.Duration) error {
	return &sink.TimeoutError{Err: fmt.Errorf("the brokers take no records of relay for another %s, because it has used up its quota; "+
		"raise producer_byte_rate of relay's user or client id", left.Round(100*time.Millisecond))}
}

// tooSlow marks err as one that a smaller batch may not have.
func tooSlow(setting string, value time.Duration, err error) error {
	var already *sink.TimeoutError
	if errors.As(err, &already) {
		return err
	}
	return &sink.TimeoutError{Setting: setting, Value: value, Err: err}
}
