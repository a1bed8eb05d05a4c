package client

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/segmentio/kafka-go/protocol"

	"workos-relay/internal/retry"
)

// Brokers that hold the client to a quota answer at once, say for how long they will not read the
// next request of the connection (throttle_time_ms), and expect the client to wait. The client
// waits before it sends, so that no deadline counts meanwhile. A quota of bytes produced is kept by
// the delivery, for each leader by itself; what the brokers say of fetches holds for fetches;
// everything else holds for every request, since it comes from a quota of requests. The connections
// read the throttle times, since kafka-go does not hand all of them on, and asks for metadata by
// itself.

// quota is what a throttle time applies to.
type quota int

const (
	requestQuota quota = iota
	fetchQuota
	produceQuota
)

func quotaOf(key protocol.ApiKey) quota {
	switch key {
	case protocol.Produce:
		return produceQuota
	case protocol.Fetch:
		return fetchQuota
	default:
		return requestQuota
	}
}

// ThrottledError is a request that was not sent, because the brokers throttle the client for longer
// than the request may wait.
type ThrottledError struct{ left time.Duration }

func (e *ThrottledError) Error() string {
	return fmt.Sprintf("the brokers throttle relay for another %s; raise the quota of relay's user or client id "+
		"(request_percentage, controller_mutation_rate, producer_byte_rate or consumer_byte_rate)", e.left.Round(100*time.Millisecond))
}

// throttleQuota notes that brokers read no request under the quota for so long.
func (c *Cluster) throttleQuota(q quota, d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until := time.Now().Add(d); until.After(c.muted[q]) {
		c.muted[q] = until
	}
}

// throttled returns for how long brokers read no request under the quota.
func (c *Cluster) throttled(q quota) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	until := c.muted[requestQuota]
	if c.muted[q].After(until) {
		until = c.muted[q]
	}
	return max(time.Until(until), 0)
}

// awaitThrottle waits until brokers read requests again. The allowance of ctx is extended by the
// wait; if ctx has another deadline before that, it returns an *ThrottledError at once.
func (c *Cluster) awaitThrottle(ctx context.Context) error { return c.awaitQuota(ctx, requestQuota) }

func (c *Cluster) awaitQuota(ctx context.Context, q quota) error {
	wait := c.throttled(q)
	if wait <= 0 {
		return nil
	}
	if at, ok := ctx.Deadline(); ok && time.Until(at) < wait {
		return &ThrottledError{wait}
	}
	extend(ctx, wait)
	if retry.Sleep(ctx, wait) != nil {
		return fmt.Errorf("%w; %w", context.Cause(ctx), &ThrottledError{wait})
	}
	return nil
}

// throttleFields says from which version on the answers of a kind begin with a throttle time, and
// from which version on the header before it has tags: https://kafka.apache.org/protocol. Produce
// has its throttle time at the end.
var throttleFields = map[protocol.ApiKey]struct{ since, tagged int16 }{
	protocol.Fetch:                   {1, 12},
	protocol.ListOffsets:             {2, 6},
	protocol.Metadata:                {3, 9},
	protocol.FindCoordinator:         {1, 3},
	protocol.CreateTopics:            {2, 5},
	protocol.DeleteTopics:            {1, 4},
	protocol.InitProducerId:          {0, 2},
	protocol.AddPartitionsToTxn:      {0, 3},
	protocol.EndTxn:                  {0, 3},
	protocol.DescribeConfigs:         {0, 4},
	protocol.AlterConfigs:            {0, 2},
	protocol.CreatePartitions:        {0, 2},
	protocol.IncrementalAlterConfigs: {0, 1},
}

// throttleTime returns the throttle time in an answer, of which body is what follows the
// correlation id.
func throttleTime(key protocol.ApiKey, version int16, body []byte) time.Duration {
	f, ok := throttleFields[key]
	if !ok || version < f.since {
		return 0
	}
	if version >= f.tagged {
		if len(body) == 0 || body[0] != 0 {
			return 0 // no broker sends a tag there
		}
		body = body[1:]
	}
	if len(body) < 4 {
		return 0
	}
	return max(time.Duration(int32(binary.BigEndian.Uint32(body)))*time.Millisecond, 0) //nolint:gosec // its bits
}

// allowance bounds a context like a timeout, but is extended by the time for which brokers throttle
// the client.
type allowance struct {
	outer *allowance

	mu    sync.Mutex
	timer *time.Timer
	at    time.Time
}

type allowanceKey struct{}

// WithAllowance returns a context that ends after d, with cause, unless it is extended.
func WithAllowance(ctx context.Context, d time.Duration, cause error) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	p := &allowance{at: time.Now().Add(d)}
	p.outer, _ = ctx.Value(allowanceKey{}).(*allowance)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(d, func() {
		p.mu.Lock()
		over := !p.at.After(time.Now())
		p.mu.Unlock()
		if over {
			cancel(cause)
		}
	})
	return context.WithValue(ctx, allowanceKey{}, p), func() { p.timer.Stop(); cancel(nil) }
}

// extend gives every allowance that bounds ctx so much more time.
func extend(ctx context.Context, d time.Duration) {
	p, _ := ctx.Value(allowanceKey{}).(*allowance)
	for ; p != nil; p = p.outer {
		p.mu.Lock()
		p.at = p.at.Add(d)
		p.timer.Reset(time.Until(p.at))
		p.mu.Unlock()
	}
}

// AllowanceLeft returns how long the innermost allowance of ctx still lasts; ok is false if there
// is none.
func AllowanceLeft(ctx context.Context) (left time.Duration, ok bool) {
	p, _ := ctx.Value(allowanceKey{}).(*allowance)
	if p == nil {
		return 0, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Until(p.at), true
}
