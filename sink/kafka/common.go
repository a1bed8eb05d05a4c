package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"workos-relay/internal/retry"
	"workos-relay/sink/kafka/internal/client"
)

// common is what the parts of a sink share. It is safe for concurrent use.
type common struct {
	explainer // with cfg and cluster
	log       *zap.Logger

	lifetime context.Context // ends with Close
	end      context.CancelCauseFunc

	warning sync.Mutex      // guards warned
	warned  map[string]bool // what a weakness was logged about, so that it is logged once
}

var errClosed = errors.New("the kafka sink is closed")

// newCommon does not connect.
func newCommon(cfg Config) (*common, error) {
	files, err := cfg.TLS.Open(cfg.Files, cfg.key(""))
	if err != nil {
		return nil, err
	}
	mechanism, err := cfg.mechanism()
	if err != nil {
		return nil, fmt.Errorf("setting up sasl %s: %w", cfg.SASL.Mechanism, err)
	}
	log := cfg.Logger
	if log == nil {
		log = zap.NewNop()
	}
	lifetime, end := context.WithCancelCause(context.Background())
	cluster := client.NewCluster(lifetime, client.Config{
		Brokers: cfg.Brokers, ClientID: cfg.ClientID, RequestTimeout: cfg.RequestTimeout, TLS: files, SASL: mechanism,
	})
	return &common{
		explainer: explainer{cfg: cfg, cluster: cluster}, log: log, lifetime: lifetime, end: end, warned: make(map[string]bool),
	}, nil
}

// close ends what is under way and closes the connections.
func (c *common) close() {
	c.end(errClosed)
	c.cluster.Refresh()
}

// withLifetime returns a context that ends with ctx or with the sink, whichever comes first.
func (c *common) withLifetime(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if c.lifetime.Err() != nil {
		cancel(context.Cause(c.lifetime)) // at once, not when the function below gets its turn
	}
	stop := context.AfterFunc(c.lifetime, func() { cancel(context.Cause(c.lifetime)) })
	return ctx, func() { stop(); cancel(nil) }
}

// warnOnce logs a weakness of the cluster, unless one about the same was logged before.
func (c *common) warnOnce(about, text string) {
	c.warning.Lock()
	defer c.warning.Unlock()
	if c.warned[about] {
		return
	}
	c.warned[about] = true
	c.log.Warn(text)
}

// transientTimeout bounds how long a question is repeated whose answer changes by itself.
const transientTimeout = 10 * time.Second

// retryTransient repeats a question while its answer is an error that passes by itself, for as long
// as elections take.
func (c *common) retryTransient(ctx context.Context, ask func(ctx context.Context) error) error {
	deadline := time.Now().Add(transientTimeout)
	for try := 0; ; try++ {
		err := ask(ctx)
		if !client.IsPassing(err) || time.Now().After(deadline) {
			return err
		}
		c.cluster.Refresh()
		if retry.Sleep(ctx, client.Retries.After(min(try+1, 4))) != nil {
			return err
		}
	}
}
