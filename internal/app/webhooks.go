package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"

	"go.uber.org/zap"

	"workos-relay/internal/config"
	"workos-relay/internal/listener"
	"workos-relay/internal/telemetry"
	"workos-relay/source/webhook"
)

// webhooks is the server that receives webhooks of WorkOS.
type webhooks struct {
	wake    func()
	named   func(eventType string) // is told of each accepted webhook
	metrics *telemetry.Metrics
	replays webhook.Replays // outlives a reload
	handler atomic.Pointer[webhookPath]
	server  *http.Server
	done    chan struct{}
}

// listenForWebhooks starts the server. It calls wake for accepted webhooks. The caller must close
// it.
func listenForWebhooks(ctx context.Context, cfg *config.Config, wake func(), named func(eventType string), metrics *telemetry.Metrics, log *zap.Logger) (*webhooks, error) {
	w := &webhooks{wake: wake, named: named, metrics: metrics, done: make(chan struct{})}
	set, err := w.prepare(cfg)
	if err != nil {
		return nil, Usage(err)
	}
	set()
	l, err := bindWebhooks(ctx, cfg.Source.Webhook.Listen)
	if err != nil {
		return nil, err
	}
	if w.server, err = listener.New(http.HandlerFunc(w.ServeHTTP), listener.Webhooks, log.Named("webhooks")); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	go func() {
		defer close(w.done)
		if err := w.server.Serve(listener.Bound(l, listener.Webhooks)); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Error("the webhook server stopped; relay goes on by polling", zap.Error(err))
		}
	}()
	log.Info("waiting for webhooks", zap.Stringer("address", l.Addr()), zap.String("path", cfg.Source.Webhook.Path))
	return w, nil
}

func bindWebhooks(ctx context.Context, listen string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", listen)
	if err != nil {
		return nil, Usage(fmt.Errorf("source.webhook.listen: cannot listen on %s: %w; %s", listen, err, listener.Advice(err, "set source.webhook.listen to another address")))
	}
	return l, nil
}

// checkWebhooks returns the error of listenForWebhooks and serves nothing. It holds the address
// until the returned Closer is closed. If inUse is set, a running relay holds the address, and
// there is no Closer.
func checkWebhooks(ctx context.Context, cfg *config.Config, inUse bool) (io.Closer, error) {
	if _, err := cfg.WebhookSecrets(); err != nil {
		return nil, Usage(err)
	}
	if inUse {
		return nil, nil //nolint:nilnil // see above
	}
	return bindWebhooks(ctx, cfg.Source.Webhook.Listen)
}

// prepare returns a function that applies the path and the secrets of cfg. The secrets follow their
// files.
func (w *webhooks) prepare(cfg *config.Config) (set func(), err error) {
	secrets, err := cfg.WebhookSecrets()
	if err != nil {
		return nil, err
	}
	handler := webhook.NewHandler("", 0, nil, w.wake)
	handler.Secrets, handler.OnResult, handler.OnEvent, handler.Replays = secrets, w.metrics.Webhook, w.named, &w.replays
	to := &webhookPath{path: cfg.Source.Webhook.Path, handler: handler}
	return func() { w.handler.Store(to) }, nil
}

// webhookPath is the only path that accepts webhooks.
type webhookPath struct {
	path    string
	handler http.Handler
}

// ServeHTTP passes requests to the current path to its handler. It compares the path literally; it
// is not a pattern.
func (w *webhooks) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	to := w.handler.Load()
	if r.URL.Path != to.path {
		http.NotFound(out, r)
		return
	}
	to.handler.ServeHTTP(out, r)
}

func (w *webhooks) close() error {
	err := w.server.Close()
	<-w.done
	return err
}
