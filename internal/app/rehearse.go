package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/internal/admin"
	"workos-relay/internal/config"
	"workos-relay/internal/telemetry"
	"workos-relay/sink"
)

// Rehearsal is what Serve would find on this machine: files, directories, locks and addresses.
type Rehearsal struct {
	// Running says what is known of a running relay with this configuration. It is empty if none
	// does.
	Running string
	Facts   []string
	Faults  []error
	// Servers are the embedded servers that Serve would start, by lane.
	Servers map[*Lane]*sink.Rehearsal
}

// askTime is how long Rehearse waits at least for the answer of a running relay with this
// configuration. It waits longer if it has more than twice that time: a relay that is busy would
// otherwise be taken for another one.
const askTime = 3 * time.Second

// Rehearse finds what would end Serve before a lane runs, with the errors of Serve, and changes
// nothing. Addresses are bound for an instant. A running relay with this configuration is not a
// fault, and is not disturbed: what it holds itself is left out.
func Rehearse(ctx context.Context, cfg *config.Config, lanes []*Lane, log *zap.Logger) *Rehearsal {
	r := &Rehearsal{Servers: map[*Lane]*sink.Rehearsal{}}
	r.exports(ctx, cfg, log)
	var held []io.Closer // all at once, so that two keys with the same address show
	hold := func(c io.Closer, err error) {
		if err != nil {
			r.Faults = append(r.Faults, err)
		} else if c != nil {
			held = append(held, c)
		}
	}
	r.stores(ctx, cfg, lanes)
	for _, l := range lanes {
		s, ok := l.Sink.Settings.(sink.Rehearser)
		if !ok || l.Embedded() == nil || r.Running != "" {
			continue
		}
		server, err := s.Rehearse(ctx, l.openOptions())
		if err != nil {
			hold(nil, fmt.Errorf("sink %s: %w", l.Sink.Name, err))
			continue
		}
		held, r.Servers[l] = append(held, server), server
	}
	if cfg.Admin.Listen != "" {
		security, err := liveAdminSecurity(cfg)
		if err != nil {
			hold(nil, err)
		} else {
			hold(admin.Check(ctx, cfg.Admin.Listen, security, r.Running != ""))
		}
	}
	if cfg.Source.Webhook.Listen != "" {
		hold(checkWebhooks(ctx, cfg, r.Running != ""))
	}
	for _, c := range held {
		_ = c.Close() // nothing was sent to it
	}
	return r
}

func (r *Rehearsal) exports(ctx context.Context, cfg *config.Config, log *zap.Logger) {
	err := (&exporter{cfg, cfg.Hide, telemetry.NewMetrics(""), os.LookupEnv, log}).rehearse(ctx)
	if err != nil {
		r.Faults = append(r.Faults, err)
	}
}

// stores looks at the checkpoint directory. A lock that is held is a fault unless the relay that
// holds it runs with this configuration.
func (r *Rehearsal) stores(ctx context.Context, cfg *config.Config, lanes []*Lane) {
	var locked []error
	faults := 0
	for _, l := range lanes {
		err := checkpoint.CheckFile(cfg.Checkpoint.Dir, l.Identity())
		switch {
		case errors.Is(err, checkpoint.ErrLocked):
			locked = append(locked, fmt.Errorf("sink %s: %w", l.Sink.Name, err))
		case err != nil:
			faults++
			r.Faults = append(r.Faults, fmt.Errorf("sink %s: %w", l.Sink.Name, err))
		}
	}
	if len(locked) > 0 {
		r.Running = whoRuns(ctx, cfg)
	}
	if r.Running == "" {
		r.Faults = append(r.Faults, locked...)
		faults += len(locked)
	}
	if faults > 0 {
		return
	}
	text := "checkpoint.dir " + cfg.Checkpoint.Dir
	if there, _ := checkpoint.CanMakeDirectory(cfg.Checkpoint.Dir); !there {
		text += ", which `relay run` creates"
	}
	r.Facts = append(r.Facts, text)
}

// whoRuns returns what is known of the relay that holds the checkpoint directory of cfg, if it is
// one with this configuration: it answers on the admin address by the same id, or cannot be asked
// there.
func whoRuns(ctx context.Context, cfg *config.Config) string {
	wait := askTime
	if deadline, ok := ctx.Deadline(); ok {
		wait = max(wait, time.Until(deadline)/2)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	client, status, err := AskRunning(ctx, cfg)
	var unreachable *admin.UnreachableError
	var refused *admin.AnswerError
	_, port, _ := net.SplitHostPort(cfg.Admin.Listen)
	switch {
	case err == nil:
		return fmt.Sprintf("a relay is running with this configuration: %s, version %s, started %s", client.Addr(), status.Version, status.Started.Format(time.RFC3339))
	case errors.Is(err, ErrNoAdmin), errors.As(err, &refused), port == "0" && errors.As(err, &unreachable):
		return "a relay is running with this configuration, and cannot be asked: " + err.Error()
	}
	return ""
}
