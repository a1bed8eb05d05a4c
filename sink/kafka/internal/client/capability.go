package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/metadata"

	"workos-relay/internal/retry"
)

// NoRequestError is a request that the cluster does not carry out for any client. It was not
// sent if the brokers say that they do not know it. It matches UNSUPPORTED_VERSION.
type NoRequestError struct {
	key    protocol.ApiKey
	known  *Versions // that the brokers know; nil if they know none
	refuse error     // what comes in place of a useful answer, if the brokers say that they know it
}

func (e *NoRequestError) Error() string {
	switch {
	case IsHangUp(e.refuse):
		return fmt.Sprintf("the cluster answers other requests, and closes the connection on %s", e.key)
	case IsSilence(e.refuse):
		return fmt.Sprintf("the cluster answers other requests, but not %s", e.key)
	case e.refuse != nil:
		return fmt.Sprintf("the cluster does not carry out the request %s: %v", e.key, e.refuse)
	case e.known == nil:
		return fmt.Sprintf("the cluster does not know the request %s", e.key)
	}
	return fmt.Sprintf("the cluster knows the request %s in versions %d to %d only, and relay needs one of %d to %d",
		e.key, e.known.Least, e.known.Most, e.key.MinVersion(), e.key.MaxVersion())
}

// Is makes the error match UNSUPPORTED_VERSION, which a broker may answer instead.
func (*NoRequestError) Is(target error) bool { return target == kafkago.UnsupportedVersion }

// Unwrap returns what came in place of a useful answer, if the request was sent.
func (e *NoRequestError) Unwrap() error { return e.refuse }

// IsRequestRefused reports whether the answer err to a request means that the cluster carries out
// none of its kind.
func IsRequestRefused(err error) bool {
	return errors.Is(err, kafkago.UnsupportedVersion) || errors.Is(err, kafkago.InvalidRequest)
}

// RefusedRequest returns the *NoRequestError of a request to which every answer is err.
func RefusedRequest(key protocol.ApiKey, err error) error {
	return &NoRequestError{key: key, refuse: err}
}

// A cluster that answers other requests, but not this one, counts as one that does not carry it out
// once the request was sent so often.
const (
	hangUpTries  = 3 // if the connection is closed
	overdueTries = 2 // if no answer comes within request_timeout: once may be a process that stood still
)

// isMute reports whether err, with which the request has failed for the nth time, means that the
// cluster does not answer it.
func isMute(try int, err error) bool {
	return try >= hangUpTries || try >= overdueTries && errors.Is(err, context.DeadlineExceeded)
}

// AskOrMissing is RoundTrip for a request that may be repeated and that the caller can do without.
// If the cluster leaves it without an answer time and again, although it answers other requests, it
// returns a *NoRequestError.
func (c *Cluster) AskOrMissing(ctx context.Context, req protocol.Message) (protocol.Message, error) {
	for try := 1; ; try++ {
		res, err := c.RoundTrip(ctx, req)
		if err == nil || IsNoRequest(err) || ctx.Err() != nil || !IsSilence(err) {
			return res, err
		}
		c.Refresh()
		if _, other := c.Describe(ctx, nil); other != nil {
			return nil, err
		}
		if isMute(try, err) {
			return nil, RefusedRequest(req.ApiKey(), err)
		}
		if retry.Sleep(ctx, Retries.Full(try+1)) != nil {
			return nil, err
		}
	}
}

// IsNoRequest reports whether err is a *NoRequestError.
func IsNoRequest(err error) bool {
	var missing *NoRequestError
	return errors.As(err, &missing)
}

// noteRequests notes which requests a broker says that it knows.
func (c *Cluster) noteRequests(body []byte) {
	known := parseRequests(body)
	if known == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = known
}

// noteAnswer notes that a broker has answered a request for which a client must be let in.
func (c *Cluster) noteAnswer(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered[address] = true
	c.answers++
}

// HasAnswered reports whether the broker at the address, or any if it is empty, has ever answered a
// request.
func (c *Cluster) HasAnswered(address string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if address == "" {
		return len(c.answered) > 0
	}
	return c.answered[address]
}

// AnswerCount rises with each answer of a broker.
func (c *Cluster) AnswerCount() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answers
}

// Offers returns a *NoRequestError if the brokers do not know a request that the client could send.
// Most of them just close the connection on one that they do not know.
func (c *Cluster) Offers(ctx context.Context, key protocol.ApiKey) error {
	known, err := c.KnownRequests(ctx)
	if err != nil || known == nil {
		return err
	}
	v, ok := known[key]
	switch {
	case !ok:
		return &NoRequestError{key: key}
	case v.Most < key.MinVersion() || v.Least > key.MaxVersion():
		return &NoRequestError{key: key, known: &v}
	}
	return nil
}

// KnownRequests returns the requests that the brokers say they know, after the first connection if
// there was none yet; nil if they did not say it in a way that the client understands.
func (c *Cluster) KnownRequests(ctx context.Context) (map[protocol.ApiKey]Versions, error) {
	c.mu.Lock()
	known := c.requests
	c.mu.Unlock()
	if known != nil {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.RequestTimeout)
	defer cancel()
	if _, err := c.current().RoundTrip(ctx, c.addr, &metadata.Request{TopicNames: []string{}}); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests, nil
}

// MissingRequests returns the names of those of keys that the brokers do not know.
func (c *Cluster) MissingRequests(ctx context.Context, keys ...protocol.ApiKey) ([]string, error) {
	missing := make(map[string]bool)
	for _, key := range keys {
		err := c.Offers(ctx, key)
		if IsNoRequest(err) {
			missing[key.String()] = true
		} else if err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(missing)), nil
}
