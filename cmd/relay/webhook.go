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
	metrics *telemetry.Metrics
	handler atomic.Pointer[http.ServeMux]
	server  *http.Server
	done    chan struct{}
}

// listenForWebhooks starts the server, each of whose webhooks calls wake. The caller closes it.
func listenForWebhooks(ctx context.Context, cfg config.Webhook, wake func(), metrics *telemetry.Metrics, log *zap.Logger) (*webhooks, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, &usageError{fmt.Errorf("source.webhook.listen: cannot listen on %s; is it in use?: %w", cfg.Listen, err)}
	}
	w := &webhooks{wake: wake, metrics: metrics, done: make(chan struct{})}
	w.set(cfg)
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
	log.Info("waiting for webhooks", zap.Stringer("address", l.Addr()), zap.String("path", cfg.Path))
	return w, nil
}

// set puts another path and secret in force.
func (w *webhooks) set(cfg config.Webhook) {
	handler := webhook.NewHandler(cfg.Secret.Reveal(), 0, nil, w.wake)
	handler.OnResult = w.metrics.Webhook
	mux := http.NewServeMux()
	mux.Handle(cfg.Path, handler)
	w.handler.Store(mux)
}

func (w *webhooks) close() error {
	err := w.server.Close()
	<-w.done
	return err
}
