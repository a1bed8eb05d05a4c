package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"workos-relay/checkpoint"
	"workos-relay/internal/config"
	"workos-relay/internal/telemetry"
	"workos-relay/pipeline"
	"workos-relay/router"
	"workos-relay/sink/kafka"
	"workos-relay/sink/nats"
	"workos-relay/sink/stdout"
	"workos-relay/source"
)

// lane is one sink of the configuration with everything around it, before it runs.
type lane struct {
	cfg    *config.Config
	sink   *config.Sink
	types  []string // event types asked of the source
	router *router.Router
	topics []string // every topic it can publish to, the dead letter included
	log    *zap.Logger
	inside bool // its server is inside another process, the relay that runs: see beside
}

// newLanes works out what each sink carries and where it goes. It connects to nothing.
func newLanes(cfg *config.Config, log *zap.Logger) ([]*lane, error) {
	lanes := make([]*lane, 0, len(cfg.Sinks))
	for i := range cfg.Sinks {
		s := &cfg.Sinks[i]
		l := &lane{cfg: cfg, sink: s, log: log.With(zap.String("lane", s.Name))}
		var err error
		if l.types, err = cfg.EventTypes(s); err != nil {
			return nil, &usageError{err}
		}
		if l.router, err = router.New(cfg.RouterConfig(s)); err != nil {
			return nil, &usageError{fmt.Errorf("routes, for sink %s: %w", s.Name, err)}
		}
		l.topics = l.router.Topics(l.types)
		if dead := l.router.DeadLetterTopic(); dead != "" && !slices.Contains(l.topics, dead) {
			l.topics = append(l.topics, dead)
		}
		lanes = append(lanes, l)
	}
	return lanes, nil
}

// newClient returns the one client of the process: its limiter is shared by all lanes, as they share the key.
func newClient(cfg *config.Config) *source.Client {
	return &source.Client{
		APIKey:      cfg.Source.APIKey.Reveal(),
		Endpoint:    cfg.Source.Endpoint,
		EventList:   cfg.Source.EventList,
		MaxResponse: int64(cfg.Source.MaxResponse),
		Limiter:     rate.NewLimiter(rate.Limit(cfg.Source.RateLimit), max(1, int(cfg.Source.RateLimit/10))),
		UserAgent:   "workos-relay/" + version(),
	}
}

// stream returns the lane's own reader.
func (l *lane) stream(client *source.Client, hooks *source.Hooks) *source.Stream {
	return &source.Stream{
		Client:         client,
		Events:         l.types,
		OrganizationID: l.cfg.Source.OrganizationID,
		PollInterval:   l.cfg.Source.PollInterval,
		Hooks:          hooks,
		Logger:         l.log,
	}
}

// open makes the lane's bus. This and identity are where the kinds of sinks are told apart.
func (l *lane) open(ctx context.Context) (pipeline.Bus, error) {
	switch s := l.sink; {
	case s.NATS != nil:
		c := *s.NATS
		c.Logger, c.RelayID, c.Lane = l.log, l.cfg.ID, s.Name
		if c.Embedded.Dir == "" {
			c.Embedded.Dir = filepath.Join(l.cfg.Checkpoint.Dir, "jetstream")
		}
		return nats.New(ctx, c)
	case s.Kafka != nil:
		c := *s.Kafka
		c.Logger, c.RelayID, c.Lane = l.log, l.cfg.ID, s.Name
		return kafka.New(c) //nolint:contextcheck // it connects only when it is used
	case s.Stdout != nil:
		return stdout.New(*s.Stdout, nil), nil
	default:
		return nil, fmt.Errorf("sink %s: no sink of type %q", s.Name, s.Type)
	}
}

// identity is whose the lane's position is. It needs no connection.
func (l *lane) identity() checkpoint.Identity {
	var destination string
	switch s := l.sink; {
	case s.NATS != nil:
		destination = s.NATS.Identity()
	case s.Kafka != nil:
		destination = s.Kafka.Identity()
	case s.Stdout != nil:
		destination = s.Stdout.Identity()
	}
	return checkpoint.Identity{
		Relay:        l.cfg.ID,
		Lane:         l.sink.Name,
		Endpoint:     l.cfg.Source.Endpoint,
		Organization: l.cfg.Source.OrganizationID,
		Destination:  destination,
	}
}

// embedded reports whether the lane's server is inside the relay that runs.
func (l *lane) embedded() bool { return l.sink.NATS != nil && l.sink.NATS.URL == nats.Embedded }

// position works out where `start`, or the argument of a command, begins. Only "latest" asks the API.
func (l *lane) position(ctx context.Context, client *source.Client, start config.Start) (checkpoint.Position, error) {
	if !start.Latest {
		return start.From, nil
	}
	now, err := l.stream(client, nil).Now(ctx)
	if err != nil {
		return checkpoint.Position{}, fmt.Errorf("asking the Events API for its time: %w", err)
	}
	return checkpoint.Position{CreatedAt: now}, nil
}

// relay is everything that runs.
type relay struct {
	lanes  []*pipeline.Lane
	buses  []pipeline.Bus
	stores []*checkpoint.File
}

// assemble opens every sink and store and puts the lanes together. Whatever it returns is closed by the caller.
func assemble(ctx context.Context, cfg *config.Config, metrics *telemetry.Metrics, log *zap.Logger) (*relay, error) {
	lanes, err := newLanes(cfg, log)
	if err != nil {
		return nil, err
	}
	client := newClient(cfg)
	r := &relay{}
	for _, l := range lanes {
		if err := r.add(ctx, l, client, metrics.Lane(l.sink.Name)); err != nil {
			return nil, errors.Join(fmt.Errorf("sink %s: %w", l.sink.Name, err), r.close())
		}
	}
	for _, l := range r.lanes {
		metrics.Watch(l.Name, l.Status)
	}
	return r, nil
}

func (r *relay) add(ctx context.Context, l *lane, client *source.Client, metrics *telemetry.LaneMetrics) error {
	bus, err := l.open(ctx)
	if err != nil {
		return err
	}
	r.buses = append(r.buses, bus)
	store, err := checkpoint.OpenFile(l.cfg.Checkpoint.Dir, l.identity())
	if err != nil {
		return err
	}
	r.stores = append(r.stores, store)
	if l.sink.Delivery == "auto" {
		l.log.Info("delivery: auto means at_least_once in this version: nothing is lost, and after a crash what was in flight may come twice")
	}
	r.lanes = append(r.lanes, &pipeline.Lane{
		Name:   l.sink.Name,
		Source: l.stream(client, metrics.SourceHooks()),
		Router: l.router,
		Target: &pipeline.AtLeastOnce{
			Sink:  bus,
			Store: store,
			Ownership: pipeline.Ownership{
				Topics:   l.topics,
				Identity: l.identity(),
				Holder:   store.Holder(),
				Events:   l.types,
				Origin: func(ctx context.Context) (checkpoint.Position, error) {
					return l.position(ctx, client, l.cfg.Source.Start)
				},
				Logger: l.log,
			},
		},
		Park:            l.cfg.DeadLetter != nil,
		ShutdownTimeout: l.cfg.ShutdownTimeout,
		Observer:        metrics,
		Logger:          l.log,
	})
	return nil
}

func (r *relay) status() []pipeline.Status {
	out := make([]pipeline.Status, len(r.lanes))
	for i, l := range r.lanes {
		out[i] = l.Status()
	}
	return out
}

// close closes the sinks, then gives up the stores' locks.
func (r *relay) close() error {
	var errs []error
	for _, b := range r.buses {
		errs = append(errs, b.Close())
	}
	for _, s := range r.stores {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
