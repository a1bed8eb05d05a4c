package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"workos-relay/conf/livefile"
	"workos-relay/conf/secret"
	"workos-relay/internal/app"
	"workos-relay/internal/config"
	"workos-relay/sink"
	"workos-relay/sink/stdout"
	"workos-relay/source"
)

type tailCmd struct {
	Events   []string `help:"Event types or patterns, such as dsync.*; with --from-sink also NATS subjects. Default: what the configuration asks for." sep:"," predictor:"event"`
	Since    string   `help:"Where to begin: earliest, latest, an event id, or a time: ${time}." default:"latest" predictor:"start"`
	FromSink bool     `help:"Read the NATS stream that relay writes to, instead of WorkOS. Needs no API key; --since is earliest or latest."`
	Server   string   `help:"With --from-sink: address of the NATS server, instead of the configured one." placeholder:"URL"`
	Sink     string   `help:"With --from-sink: the name of the sink. Default: the first of type nats." predictor:"lane"`
	Envelope bool     `help:"Print {topic, key, headers, body} instead of the body alone."`
}

// Run prints events until ctx ends or the reader of the output is gone. On a terminal it escapes
// what could control the terminal.
func (c *tailCmd) Run(ctx context.Context, env *environment) error {
	var start config.Start
	if err := start.UnmarshalText([]byte(c.Since)); err != nil {
		return app.Usage(fmt.Errorf("--since: %q %w", c.Since, err))
	}
	out := stdout.New(stdout.Config{Envelope: c.Envelope}, beneath(env.stdout))
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
		cfg.Source.Events = c.Events
	}
	lanes, err := app.NewLanes(cfg, env.log)
	if err != nil {
		return err
	}
	l := lanes[0]
	if l.Types, err = source.Expand(cfg.Source.Events); err != nil {
		return app.Usage(fmt.Errorf("--events: %w", err))
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
			messages, err := l.Router.Route(&page.Events[i])
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
	i := slices.IndexFunc(cfg.Sinks, func(s config.Sink) bool {
		_, followable := s.Settings.(sink.Followable)
		return followable && (c.Sink == "" || s.Name == c.Sink)
	})
	if i < 0 {
		return app.Usage(notFollowable(env.format.Kinds()))
	}
	err = cfg.Sinks[i].Settings.(sink.Followable).Follow(ctx, sink.FollowOptions{ //nolint:forcetypeassert // chosen by it
		Address: c.Server, Patterns: c.Events, FromStart: !start.Latest,
		OpenOptions: sink.OpenOptions{
			RelayID: cfg.ID, Lane: "tail", Logger: env.log,
			Secret: func(key string, value secret.String, check func(string) error) (*livefile.Current, error) {
				return cfg.SinkSecret(cfg.Sinks[i].Name, key, value, check)
			},
		},
	}, func(m sink.Message) error { return out.Publish(ctx, []sink.Message{m}) })
	if errors.Is(err, syscall.EPIPE) { // nobody reads the output any more
		return nil
	}
	return err
}

// notFollowable returns the error of --from-sink if no sink can be read.
func notFollowable(kinds []*sink.Kind) error {
	var types, readers []string
	for _, k := range kinds {
		if _, followable := k.New().(sink.Followable); followable {
			types = append(types, k.Name)
		} else if k.Readers != "" {
			readers = append(readers, k.Readers)
		}
	}
	text := "--from-sink reads a sink of type " + either(types, " or ") + ", and the configuration has none of that name"
	return errors.New(strings.Join(append([]string{text}, readers...), "; "))
}

// unlessDone returns err, or nil if ctx has ended or nobody reads the output any more. Both are
// orderly ends.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() == nil && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	return nil
}
