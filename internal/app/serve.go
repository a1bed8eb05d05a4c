package app

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"

	"workos-relay/conf/livefile"
	"workos-relay/internal/admin"
	"workos-relay/internal/buildinfo"
	"workos-relay/internal/config"
	"workos-relay/internal/telemetry"
	"workos-relay/pipeline"
)

// Options are what a caller of Serve may set besides the configuration.
type Options struct {
	// Reread reads the configuration again for a reload. If it is nil, relay cannot be reloaded.
	Reread func() (*config.Config, error)
	// Applied is called with each configuration that a reload brings into effect. It may be nil.
	Applied func(*config.Config)
	// Observe wraps the observer of each lane. It may be nil.
	Observe func(pipeline.Observer) pipeline.Observer
	// Started is called before the first lane runs. The function that it returns is called after
	// the last lane has stopped. Started may be nil.
	Started func(*Relay) (stopped func())
}

// Serve runs the lanes, the admin server and the webhook server until ctx ends or no lane runs any
// more. It returns why lanes stopped, unless ctx ended. Errors of the configuration are of type
// *UsageError.
func Serve(ctx context.Context, cfg *config.Config, log *zap.Logger, o Options) (err error) {
	ctx, stop := announceStop(ctx, log)
	defer stop()
	metrics := telemetry.NewMetrics(buildinfo.Version())
	var r *Relay
	hide := func(text string) string { return r.hide(text) } // nothing is told before a lane runs
	past := newJournal(cfg, hide)
	defer followFiles(ctx, cfg.Files)()
	out, err := (&exporter{cfg, hide, metrics, os.LookupEnv, log}).start(ctx)
	if err != nil {
		return err
	}
	defer out.close(context.WithoutCancel(ctx))
	r, err = assemble(ctx, cfg, metrics, past, out.traces, log, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }() //nolint:contextcheck // it bounds itself, since ctx has ended by then
	metrics.JudgeBy(func(s pipeline.Status) (bool, string) {
		v := admin.Judge(s, time.Now(), r.pollInterval())
		return v.Ready, string(v.Health)
	}, healths())

	if cfg.Admin.Listen != "" {
		security, err := liveAdminSecurity(cfg)
		if err != nil {
			return Usage(err)
		}
		var listenErr error
		r.admin, listenErr = admin.Listen(ctx, admin.Config{
			Listen: cfg.Admin.Listen, ID: cfg.ID, Lanes: r.Status, Metrics: metrics.Handler(), Page: statusPage(past),
			Outlet: r.outlet, Activity: r.activity, Requests: r.requests, Verify: r.verifyStatus, PollInterval: r.pollInterval, Security: security, Control: r, Unasked: r.unasked.list, OnRefused: metrics.AdminRefused, Version: buildinfo.Version(), Logger: log,
		})
		if listenErr != nil {
			return Usage(listenErr)
		}
		defer func() { err = errors.Join(err, closeAdmin(context.WithoutCancel(ctx), r.admin)) }()
		defer recordStates(ctx, past, r.Status)()
	}
	if cfg.Source.Webhook.Listen != "" {
		var listenErr error
		r.webhooks, listenErr = listenForWebhooks(ctx, cfg, r.wake, r.unasked.note, metrics, log)
		if listenErr != nil {
			return listenErr
		}
		defer func() { err = errors.Join(err, r.webhooks.close()) }()
	}
	if o.Started != nil {
		defer o.Started(r)()
	}
	announce(cfg, r, log)
	r.stay(cfg)
	defer context.AfterFunc(ctx, r.end)()
	r.start() //nolint:contextcheck // the group was given ctx
	err = r.group.Wait()
	if ctx.Err() == nil {
		log.Info("relay is stopping", zap.String("because", "every lane has stopped"))
	}
	return err
}

// announceStop returns a context that ends with ctx, once the reason is logged: before any lane
// stops. The caller must call stop.
func announceStop(ctx context.Context, log *zap.Logger) (_ context.Context, stop func()) {
	running, end := context.WithCancelCause(context.WithoutCancel(ctx))
	unwatch := context.AfterFunc(ctx, func() {
		because := context.Cause(ctx)
		if errors.Is(because, context.DeadlineExceeded) {
			because = errors.New("time is up")
		}
		log.Info("relay is stopping", zap.String("because", because.Error()))
		end(because)
	})
	return running, func() {
		unwatch()
		end(context.Canceled)
	}
}

func healths() []string {
	var names []string
	for _, h := range admin.Healths() {
		names = append(names, string(h))
	}
	return names
}

// followFiles follows the files of the configuration until the returned function is called.
func followFiles(ctx context.Context, files *livefile.Set) (stop func()) {
	if files == nil { // of a configuration that came from no file
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { files.Run(ctx) })
	return func() {
		cancel()
		wg.Wait()
	}
}

func closeAdmin(ctx context.Context, srv *admin.Server) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return srv.Close(ctx)
}

// announce logs what runs and, for an embedded server, how to watch it.
func announce(cfg *config.Config, r *Relay, log *zap.Logger) {
	log.Info("relay is starting", zap.String("version", buildinfo.Version()), zap.String("id", cfg.ID), zap.String("source", cfg.Source.Endpoint),
		zap.Int("lanes", len(r.members)), zap.String("checkpoints", cfg.Checkpoint.Dir), zap.String("admin", cfg.Admin.Listen))
	for _, m := range r.members {
		if url := m.embeddedURL(); url != "" {
			server := m.lane.Embedded()
			log.Info("embedded "+server.Name+" is listening; "+server.Page+" shows how to consume from it",
				zap.String("lane", m.run.Name), zap.String("url", url), zap.String("watch", "relay tail --from-sink"))
		}
	}
}
