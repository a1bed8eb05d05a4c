package kafka

import (
	"context"
	"fmt"
	"maps"
	"slices"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"
)

// errNoRequest is a request that was not sent, because the brokers do not know it. It matches
// UNSUPPORTED_VERSION.
type errNoRequest struct {
	key   protocol.ApiKey
	known *versions // that the brokers know; nil if they know none
}

func (e *errNoRequest) Error() string {
	if e.known == nil {
		return fmt.Sprintf("the cluster does not know the request %s", e.key)
	}
	return fmt.Sprintf("the cluster knows the request %s in versions %d to %d only, and relay needs one of %d to %d",
		e.key, e.known.least, e.known.most, e.key.MinVersion(), e.key.MaxVersion())
}

// Is makes the error match UNSUPPORTED_VERSION, which a broker may answer instead.
func (*errNoRequest) Is(target error) bool { return target == kafkago.UnsupportedVersion }

// noteRequests notes which requests a broker says that it knows.
func (c *cluster) noteRequests(body []byte) {
	known := parseRequests(body)
	if known == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = known
}

// noteAnswer notes that a broker has answered a request for which a client must be let in.
func (c *cluster) noteAnswer(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered[address] = true
	c.answers++
}

// hasAnswered reports whether the broker at the address, or any if it is empty, has ever answered a
// request.
func (c *cluster) hasAnswered(address string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if address == "" {
		return len(c.answered) > 0
	}
	return c.answered[address]
}

// answerCount rises with each answer of a broker.
func (c *cluster) answerCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answers
}

// offers returns an *errNoRequest if the brokers do not know a request that relay could send. Most
// of them just close the connection on one that they do not know.
func (c *cluster) offers(ctx context.Context, key protocol.ApiKey) error {
	known, err := c.known(ctx)
	if err != nil || known == nil {
		return err
	}
	v, ok := known[key]
	switch {
	case !ok:
		return &errNoRequest{key: key}
	case v.most < key.MinVersion() || v.least > key.MaxVersion():
		return &errNoRequest{key: key, known: &v}
	}
	return nil
}

// known returns the requests that the brokers say they know, after the first connection if there
// was none yet; nil if they did not say it in a way that relay understands.
func (c *cluster) known(ctx context.Context) (map[protocol.ApiKey]versions, error) {
	c.mu.Lock()
	known := c.requests
	c.mu.Unlock()
	if known != nil {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.requestTimeout)
	defer cancel()
	if _, err := c.current().RoundTrip(ctx, c.addr, &metadata.Request{TopicNames: []string{}}); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests, nil
}

// missingRequests returns the names of those of keys that the brokers do not know.
func (c *cluster) missingRequests(ctx context.Context, keys ...protocol.ApiKey) ([]string, error) {
	missing := make(map[string]bool)
	for _, key := range keys {
		err := c.offers(ctx, key)
		if isNoRequest(err) {
			missing[key.String()] = true
		} else if err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(missing)), nil
}
