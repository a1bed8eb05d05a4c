package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"go.uber.org/zap"

	"workos-relay/conf/livefile"
	"workos-relay/conf/secret"
	"workos-relay/internal/app"
	"workos-relay/internal/config"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/sink/stdout"
	"workos-relay/source"
)

type tailCmd struct {
	Events   []string `help:"Event types or patterns, such as dsync.*; with --from-sink names or patterns of topics. Default: what the configuration asks for." sep:"," predictor:"event"`
	Since    string   `help:"Where to begin: earliest, latest, an event id, or a time: ${time}." default:"latest" predictor:"start"`
	FromSink bool     `help:"Read the stream or the topics that relay writes to, instead of WorkOS: in Kafka what is committed, without a consumer group. Needs no API key; --since is earliest or latest."`
	Server   string   `help:"With --from-sink: address of the NATS server or of Kafka brokers, instead of the configured one." placeholder:"URL"`
	Sink     string   `help:"With --from-sink: the name of the sink. Default: the first that can be read. --lane means the same." aliases:"lane" predictor:"lane"`
	Envelope bool     `help:"Print {topic, key, headers, body} instead of the body alone."`
}

// Run prints events until ctx ends or the reader of the output is gone. On a terminal it escapes
// what could control the terminal.
func (c *tailCmd) Run(ctx context.Context, env *environment) error {
	var start config.Start
	if err := start.UnmarshalText([]byte(c.Since)); err != nil {
		return app.Usage(fmt.Errorf("--since: %q %w", c.Since, err))
	}
	ctx, cancel := env.whileRead(ctx)
	defer cancel()
	out := stdout.New(stdout.Config{Envelope: c.Envelope}, eventsTo(env.stdout))
	if c.FromSink {
		return c.fromSink(ctx, env, start, out)
	}
	return c.fromSource(ctx, env, start, out)
}

func (c *tailCmd) fromSource(ctx context.Context, env *environment, start config.Start, out sink.Sink) error {
	cfg, err := env.loadConfig()
	if err != nil {
		return err
	}
	if len(c.Events) > 0 {
		if _, err := source.Expand(c.Events); err != nil {
			return app.Usage(fmt.Errorf("--events: %w", err))
		}
		cfg.Source.Events = c.Events
	}
	lanes, err := app.NewLanes(cfg, env.log)
	if err != nil {
		return err
	}
	l := lanes[0]
	if l.Types, err = source.Expand(cfg.Source.Events); err != nil {
		return app.Usage(err)
	}
	client, err := app.NewClient(cfg)
	if err != nil {
		return err
	}
	from, err := l.Position(ctx, client, nil, start)
	if err != nil {
		return err
	}
	for page, err := range l.Stream(client, nil).Pages(ctx, from) {
		if err != nil {
			return unlessDone(ctx, err)
		}
		for i := range page.Events {
			e := &page.Events[i]
			messages, err := l.Router.Route(e)
			if rejected := (*sink.RejectedError)(nil); errors.As(err, &rejected) {
				env.log.Warn("an event has no topic; a lane would park it or stop there", zap.String("event", e.ID), zap.String("type", e.Event), zap.Error(err))
				continue
			}
			if err != nil {
				return err
			}
			if err := out.Publish(ctx, messages); err != nil {
				return unlessDone(ctx, err)
			}
		}
	}
	return nil
}

func (c *tailCmd) fromSink(ctx context.Context, env *environment, start config.Start, out sink.Sink) error {
	cfg, err := env.loadConfigWith(env.keyOptional)
	if err != nil {
		return err
	}
	if start != (config.Start{}) && !start.Latest {
		return app.Usage(errors.New("--since: with --from-sink it is earliest or latest"))
	}
	lanes, err := app.NewLanes(cfg, env.log)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(lanes, func(l *app.Lane) bool {
		_, followable := l.Sink.Settings.(sink.Followable)
		return followable && (c.Sink == "" || l.Sink.Name == c.Sink)
	})
	if i < 0 {
		return app.Usage(c.notFollowable(cfg.Sinks, env.format.Kinds()))
	}
	s := lanes[i].Sink
	topics := lanes[i].EveryTopic()
	for _, t := range lanes[i].Router.StateTopics() {
		// State is shown if it is asked for: beside the events it says the same again.
		if slices.ContainsFunc(c.Events, func(p string) bool { return strings.HasPrefix(p, router.StatePrefix) }) {
			topics = append(topics, t.Topic)
		}
	}
	err = s.Settings.(sink.Followable).Follow(ctx, sink.FollowOptions{ //nolint:forcetypeassert // chosen by it
		Address: c.Server, Topics: topics, Patterns: c.Events, FromStart: !start.Latest,
		OpenOptions: sink.OpenOptions{
			RelayID: cfg.ID, Lane: "tail", Logger: env.log, State: lanes[i].Router.StateTopics(),
			Secret: func(key string, value secret.String, check func(string) error) (*livefile.Current, error) {
				return cfg.SinkSecret(s.Name, key, value, check)
			},
		},
	}, func(m sink.Message) error { return out.Publish(ctx, []sink.Message{m}) })
	var wrong *sink.SettingsError
	switch {
	case errors.Is(err, syscall.EPIPE): // nobody reads the output any more
		return nil
	case errors.As(err, &wrong):
		return app.Usage(fmt.Errorf("sink %s: %w", s.Name, err))
	}
	return err
}

// notFollowable returns the error of --from-sink if there is no such sink, or none that can be
// read.
func (c *tailCmd) notFollowable(sinks []config.Sink, kinds []*sink.Kind) error {
	var types, names []string
	for _, k := range kinds {
		if _, followable := k.New().(sink.Followable); followable {
			types = append(types, k.Name)
		}
	}
	readable := either(types, " or ")
	for _, s := range sinks {
		if s.Name == c.Sink {
			return fmt.Errorf("--sink: %s is of type %s, which keeps nothing that could be read back; name a sink of type %s", s.Name, s.Type, readable)
		}
		names = append(names, s.Name)
	}
	if c.Sink != "" {
		return fmt.Errorf("--sink: there is no sink %q; the configuration has %s", c.Sink, either(names, " and "))
	}
	return fmt.Errorf("--from-sink: no sink of the configuration can be read back; it reads one of type %s", readable)
}

// unlessDone returns err, or nil if ctx has ended or nobody reads the output any more. Both are
// orderly ends.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() == nil && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	return nil
}
