package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"workos-relay/sink/kafka/internal/client"
)

// Not every service that speaks Kafka's protocol can do everything that relay uses. relay goes on
// without what is missing, and names once what it cannot promise then: `relay check` before the
// start, and the log of a running relay in the same words.

// shortcoming is something that the cluster cannot do, or does not let relay do.
type shortcoming struct {
	about string // what is missing; one is named once
	text  string // with the promise that it costs
}

// name logs a shortcoming, unless one about the same was logged before.
func (c *common) name(s shortcoming) { c.warnOnce(s.about, s.text) }

func withoutProducerID(err error) shortcoming {
	return shortcoming{"producer id", fmt.Sprintf("the cluster gives relay no producer id, so it does not recognise what is sent twice: after a fault, what was in flight may be stored twice: %v", err)}
}

func (a *topicAdmin) withoutSettings(err error) shortcoming {
	text := "relay cannot see the settings of topics, so an event that is too large for its topic is found only once the broker refuses it"
	if a.position != "" {
		text += fmt.Sprintf(", and that topic %s does not keep the position is found only once the position is gone: then relay stops and asks where to go on", a.position)
	}
	if client.IsDenied(err) {
		text += "; let relay see them by " + a.topicACL("<topic>", "DescribeConfigs")
	}
	return shortcoming{"settings", text + ": " + err.Error()}
}

func withoutCreation(err error) shortcoming {
	return shortcoming{"creation", fmt.Sprintf("relay cannot create topics on this cluster, so the topics of all event types must exist before relay starts: %v", err)}
}

// otherCodec says that the cluster refuses a codec and relay uses the next one. No promise depends
// on the codec.
func otherCodec(refused, next string, err error) shortcoming {
	return shortcoming{"codec " + refused, fmt.Sprintf("the cluster refuses compression %s, so relay uses compression: %s, which costs no promise: %v", refused, next, err)}
}

// requestsLimited is a limit that relay has learnt: the connection was closed on requests of so
// many bytes.
func requestsLimited(size int) shortcoming {
	return shortcoming{"request size", fmt.Sprintf("connections are closed on requests of %d bytes, so relay sends smaller ones; an event that needs such a request goes to dead_letter, or the lane stops at it; set max_request_bytes to the limit if you know it", size)}
}

// requestsBounded is a limit by max_request_bytes that is less than what a topic takes.
func requestsBounded(most, topic int) shortcoming {
	return shortcoming{"request size", fmt.Sprintf("topics take messages of up to %d bytes, but max_request_bytes is %d: an event that needs a larger request goes to dead_letter, or the lane stops at it", topic, most)}
}

// nameShortcomings logs what the cluster lacks, each of it once. All topics exist.
func (a *topicAdmin) nameShortcomings(ctx context.Context, topics []string) error {
	found, err := a.shortcomings(ctx, topics)
	for _, s := range found {
		a.name(s)
	}
	return err
}

// shortcomings returns what the cluster lacks, as far as a start finds that out. topics are those
// that exist.
func (a *topicAdmin) shortcomings(ctx context.Context, topics []string) (found []shortcoming, err error) {
	for _, ask := range []struct {
		key  protocol.ApiKey
		says func(error) shortcoming
	}{{protocol.InitProducerId, withoutProducerID}, {protocol.CreateTopics, withoutCreation}} {
		err := a.cluster.Offers(ctx, ask.key)
		switch {
		case ask.key == protocol.CreateTopics && !a.cfg.Create.Enabled:
		case client.IsNoRequest(err):
			found = append(found, ask.says(err))
		case err != nil:
			return found, err
		}
	}
	unseen, largest, err := a.unseenSettings(ctx, topics)
	if err != nil {
		return found, err
	}
	if unseen != nil {
		found = append(found, a.withoutSettings(unseen))
	}
	if most := int(a.cfg.MaxRequestBytes); most > 0 && most < largest {
		found = append(found, requestsBounded(most, largest))
	}
	return found, nil
}

// unseenSettings returns why relay cannot read the settings of topics that it needs, for the first
// one of which it cannot; nil if it can. largest is what the topics of events take, as far as it is
// known.
func (a *topicAdmin) unseenSettings(ctx context.Context, topics []string) (unseen error, largest int, err error) {
	if err := a.cluster.Offers(ctx, protocol.DescribeConfigs); client.IsNoRequest(err) || len(topics) == 0 {
		return err, 0, nil
	}
	l, err := a.cluster.Locate(ctx, topics, time.Time{})
	if err != nil {
		return nil, 0, err
	}
	for _, t := range topics {
		limit := l.Topics[t].Limit
		if limit.Err != nil {
			return limit.Err, 0, nil
		}
		if t != a.position {
			largest = max(largest, limit.Bytes)
		}
	}
	if a.position == "" {
		return nil, largest, nil
	}
	asked := topics[0] // a cluster shows the same settings of all topics
	if slices.Contains(topics, a.position) {
		asked = a.position
	}
	settings, err := a.cluster.Settings(ctx, []string{asked}, cleanupPolicy)
	if err != nil {
		return nil, largest, err
	}
	if _, shown := settings[asked].Values[cleanupPolicy]; !shown && settings[asked].Err == nil {
		return client.NotShown(cleanupPolicy), largest, nil
	}
	return settings[asked].Err, largest, nil
}

// askProducerID returns why the cluster gives no producer id; nil if it gives one, or if that is
// not known now.
func (a *topicAdmin) askProducerID(ctx context.Context) error {
	for try := 1; ; try++ {
		_, err := a.cluster.OpenSession(ctx)
		if err == nil || ctx.Err() != nil {
			return nil //nolint:nilerr // the caller's time is over
		}
		if isNoProducerID(err, try, a.cluster) {
			return err
		}
		if !client.IsSilence(err) || try == mutesUntilUnnumbered {
			return nil //nolint:nilerr // it may pass
		}
		a.cluster.Refresh()
	}
}

// mutesUntilUnnumbered is how often a request for a producer id is not answered, although others
// are, until relay does without.
const mutesUntilUnnumbered = 2

// isNoProducerID reports whether err, with which a request for a producer id has failed, means that
// the cluster gives none. mutes is how many such requests got no answer, this one included.
func isNoProducerID(err error, mutes int, cluster *client.Cluster) bool {
	switch {
	case client.IsUnsupported(err), client.IsRequestRefused(err):
		return true
	case client.IsSilence(err):
		return cluster.HasAnswered("") && mutes >= mutesUntilUnnumbered
	}
	return false
}

// creationRefusedError is a topic that the cluster lets nobody create over its protocol.
type creationRefusedError struct{ err error }

func (e *creationRefusedError) Error() string { return e.err.Error() }
func (e *creationRefusedError) Unwrap() error { return e.err }

// isCreationRefused reports whether err says that the cluster lets nobody create topics, or none
// like the one that was asked for.
func isCreationRefused(err error) bool {
	var refused *creationRefusedError
	return client.IsNoRequest(err) || errors.As(err, &refused) || errors.Is(err, kafkago.InvalidConfiguration)
}
