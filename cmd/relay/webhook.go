package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"

	"workos-relay/internal/config"
	"workos-relay/internal/telemetry"
	"workos-relay/source/webhook"
)

// listenForWebhooks starts the server that WorkOS's webhooks reach, each of which calls wake. What it returns stops it.
func listenForWebhooks(ctx context.Context, cfg config.Webhook, wake func(), metrics *telemetry.Metrics, log *zap.Logger) (stop func() error, err error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, &usageError{fmt.Errorf("source.webhook.listen: cannot listen on %s; is it in use?: %w", cfg.Listen, err)}
	}
	handler := webhook.NewHandler(cfg.Secret.Reveal(), 0, nil, wake)
	handler.OnResult = metrics.Webhook
	mux := http.NewServeMux()
	mux.Handle(cfg.Path, handler)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute}

	done := make(chan struct{})
	go func() {
		if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			log.Error("the webhook server stopped; relay goes on by polling", zap.Error(err))
		}
		close(done)
	}()
	log.Info("waiting for webhooks", zap.Stringer("address", l.Addr()), zap.String("path", cfg.Path))
	return func() error {
		err := srv.Close()
		<-done
		return err
	}, nil
}
