package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"workos-relay/internal/config"
	"workos-relay/internal/telemetry"
	"workos-relay/source/webhook"
)

// webhooks is the server that WorkOS's webhooks reach.
type webhooks struct {
	wake    func()
	named   func(eventType string) // is told of each accepted webhook
	metrics *telemetry.Metrics
	handler atomic.Pointer[http.ServeMux]
	server  *http.Server
	done    chan struct{}
}

// listenForWebhooks starts the server, each of whose webhooks calls wake. The caller closes it.
func listenForWebhooks(ctx context.Context, cfg *config.Config, wake func(), named func(eventType string), metrics *telemetry.Metrics, log *zap.Logger) (*webhooks, error) {
	var lc net.ListenConfig
	listen := cfg.Source.Webhook.Listen
	w := &webhooks{wake: wake, named: named, metrics: metrics, done: make(chan struct{})}
	set, err := w.prepare(cfg)
	if err != nil {
		return nil, &usageError{err}
	}
	set()
	l, err := lc.Listen(ctx, "tcp", listen)
	if err != nil {
		return nil, &usageError{fmt.Errorf("source.webhook.listen: cannot listen on %s; is it in use?: %w", listen, err)}
	}
	w.server = &http.Server{
		Handler:           http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) { w.handler.Load().ServeHTTP(out, r) }),
		ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
	}
	go func() {
		defer close(w.done)
		if err := w.server.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Error("the webhook server stopped; relay goes on by polling", zap.Error(err))
		}
	}()
	log.Info("waiting for webhooks", zap.Stringer("address", l.Addr()), zap.String("path", cfg.Source.Webhook.Path))
	return w, nil
}

// prepare returns a function that puts the path and the secrets of cfg into effect. The secrets follow their files.
func (w *webhooks) prepare(cfg *config.Config) (set func(), err error) {
	secrets, err := cfg.WebhookSecrets()
	if err != nil {
		return nil, err
	}
	handler := webhook.NewHandler("", 0, nil, w.wake)
	handler.Secrets, handler.OnResult, handler.OnEvent = secrets, w.metrics.Webhook, w.named
	mux := http.NewServeMux()
	mux.Handle(cfg.Source.Webhook.Path, handler)
	return func() { w.handler.Store(mux) }, nil
}

func (w *webhooks) close() error {
	err := w.server.Close()
	<-w.done
	return err
}
