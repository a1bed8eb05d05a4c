package app

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"workos-relay/checkpoint"
	"workos-relay/conf/livefile"
	"workos-relay/conf/secret"
	"workos-relay/internal/admin"
	"workos-relay/internal/buildinfo"
	"workos-relay/internal/config"
	"workos-relay/pipeline"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/source"
)

// Lane is one sink of a configuration with everything that belongs to it, before it runs. It does
// not change after NewLanes.
type Lane struct {
	Config *config.Config
	Sink   *config.Sink
	Types  []string // event types asked of the source
	Router *router.Router
	Topics []string // every topic it can publish to, those of dead letters and of state included
	// EventTopics are those of Topics that events and dead letters go to, without those of state.
	EventTopics []string
	Log         *zap.Logger
	Inside      *sink.EmbeddedServer // its server, if that is inside another process, the running relay: see FromOutside

	where  *whereFailures
	outlet admin.Outlet
	asks   *source.Hooks // of requests for which nobody names others; nil for none
}

// NewLanes returns the lanes of a configuration: what each carries, and its destination. It
// connects to nothing. Errors are of type *UsageError.
func NewLanes(cfg *config.Config, log *zap.Logger) ([]*Lane, error) {
	lanes := make([]*Lane, 0, len(cfg.Sinks))
	for i := range cfg.Sinks {
		s := &cfg.Sinks[i]
		l := &Lane{Config: cfg, Sink: s, Log: log.With(zap.String("lane", s.Name))}
		l.where = &whereFailures{log: l.Log}
		var err error
		if l.Types, err = cfg.EventTypes(s); err != nil {
			return nil, Usage(err)
		}
		routing := cfg.RouterConfig(s)
		routing.WhereFailed = l.where.note
		if l.Router, err = router.New(routing); err != nil {
			return nil, Usage(fmt.Errorf("routes, for sink %s: %w", s.Name, err))
		}
		l.Topics = l.Router.Topics(l.Types)
		l.outlet = l.describe()
		if dead := l.Router.DeadLetterTopic(); dead != "" && !slices.Contains(l.Topics, dead) {
			l.Topics = append(l.Topics, dead)
		}
		l.EventTopics = slices.Clip(l.Topics)
		for _, s := range l.Router.StateTopics() {
			l.Topics = append(l.Topics, s.Topic)
		}
		lanes = append(lanes, l)
	}
	return lanes, nil
}

// NewClient returns the client of a process. All lanes share it, its rate limit and its budget of
// early polls, since they share the API key. Its key, proxy, authorities and client certificate
// follow their files. It connects to nothing. Errors are of type *UsageError: files that cannot be
// used.
func NewClient(cfg *config.Config) (*source.Client, error) {
	tls, err := cfg.Source.TLS.Section().Open(cfg.Files, "source.")
	if err != nil {
		return nil, Usage(err)
	}
	proxy, err := cfg.Proxy()
	if err != nil {
		return nil, Usage(err)
	}
	if proxy == nil {
		if err := proxyEnvironment(os.LookupEnv); err != nil {
			return nil, Usage(err)
		}
	}
	return &source.Client{
		APIKey:      cfg.Source.APIKey.Reveal(),
		Key:         apiKey(cfg),
		Roots:       tls.Roots,
		Certificate: tls.Certificate,
		Proxy:       proxy,
		Endpoint:    cfg.Source.Endpoint,
		EventList:   cfg.Source.EventList,
		MaxResponse: int64(cfg.Source.MaxResponse),
		Limiter:     rate.NewLimiter(rate.Limit(cfg.Source.RateLimit), burst(cfg.Source.RateLimit)),
		Polls:       &source.PollBudget{},
		UserAgent:   "workos-relay/" + buildinfo.Version(),
	}, nil
}

// proxyEnvironment returns an error if a variable that names a proxy cannot be used. The library
// would ignore it without a word, and relay would pass the proxy by.
func proxyEnvironment(env func(string) (string, bool)) error {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"} {
		text, _ := env(name)
		if text == "" {
			continue
		}
		u, err := url.Parse(text)
		if err != nil || u.Scheme == "" || u.Host == "" {
			u, err = url.Parse("http://" + text)
		}
		if err != nil || u.Hostname() == "" || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) {
			return fmt.Errorf("the environment variable %s is not the URL of a proxy: write http://host:port, https://host:port or socks5://host:port, or unset it", name)
		}
	}
	return nil
}

// apiKey returns a function that returns the current key, or nil if the key cannot change.
func apiKey(cfg *config.Config) func(refused bool) string {
	key, err := cfg.APIKey()
	if err != nil || !key.Follows() { // if the file has become unusable meanwhile, the key stays as it was read
		return nil
	}
	return func(refused bool) string {
		if refused {
			return key.Latest().Reveal()
		}
		return key.Get().Reveal()
	}
}

// burst returns how many requests may go out at once if the limit is perSecond.
func burst(perSecond float64) int { return max(1, int(perSecond/10)) }

// Stream returns a reader of the events of the lane. It reads page after page with one reader and
// does not listen for webhooks: a running lane adds both.
func (l *Lane) Stream(client *source.Client, hooks *source.Hooks) *source.Stream {
	if hooks == nil {
		hooks = l.asks
	}
	return &source.Stream{
		Client:          client,
		Events:          l.Types,
		OrganizationID:  l.Config.Source.OrganizationID,
		RelayUnexpected: l.Config.Source.Unexpected == "relay",
		PollInterval:    l.Config.Source.PollInterval,
		FastestPoll:     l.Config.Source.FastestPoll(),
		Hooks:           hooks,
		Logger:          l.Log,
	}
}

// Bus is the open bus of a lane.
type Bus struct {
	sink.Sink
	Ledger       sink.Ledger // the same bus, if it can keep the position; else nil
	ledgerCloser io.Closer   // closes what the ledger holds open by itself; may be nil
}

// Close closes the bus and its ledger.
func (b *Bus) Close() error {
	if b.ledgerCloser == nil {
		return b.Sink.Close()
	}
	return errors.Join(b.ledgerCloser.Close(), b.Sink.Close())
}

// Open opens the bus of the lane. Errors of the settings are of type *UsageError.
func (l *Lane) Open(ctx context.Context) (*Bus, error) { return l.openBus(ctx, l.Sink.Settings) }

// openBus opens a bus with these settings for the lane.
func (l *Lane) openBus(ctx context.Context, settings sink.Settings) (*Bus, error) {
	o, err := settings.Open(ctx, l.openOptions())
	var wrong *sink.SettingsError
	switch {
	case errors.As(err, &wrong):
		return nil, Usage(err)
	case err != nil:
		return nil, err
	}
	return &Bus{Sink: o.Bus, Ledger: o.Ledger, ledgerCloser: o.LedgerCloser}, nil
}

// openOptions returns what a bus is told of the lane.
func (l *Lane) openOptions() sink.OpenOptions {
	return sink.OpenOptions{
		RelayID: l.Config.ID, Lane: l.Sink.Name, Identity: l.Identity(), Dir: l.Config.Checkpoint.Dir,
		Logger: l.Log, Files: l.Config.Files, DeadLetter: l.Router.DeadLetterTopic(), State: l.Router.StateTopics(),
		Secret: func(key string, value secret.String, check func(string) error) (*livefile.Current, error) {
			return l.Config.SinkSecret(l.Sink.Name, key, value, check)
		},
	}
}

// Identity returns whose position the position of the lane is. It needs no connection.
func (l *Lane) Identity() checkpoint.Identity {
	return checkpoint.Identity{
		Relay:        l.Config.ID,
		Lane:         l.Sink.Name,
		Endpoint:     l.Config.Source.Endpoint,
		Organization: l.Config.Source.OrganizationID,
		Destination:  l.Sink.Settings.Identity(),
	}
}

// started is when this process started.
var started = time.Now()

// Holder returns the name of this process among the holders of the lane, whose store is open.
func (l *Lane) Holder(store *checkpoint.File) string {
	instance := l.Config.Instance
	if instance == "" {
		instance, _ = os.Hostname() // without one the name says unknown, and is as unique
	}
	return checkpoint.HolderName(instance, os.Getpid(), started, store.Holder())
}

// Embedded returns the server of the bus that runs inside of relay, or nil if the bus has none.
func (l *Lane) Embedded() *sink.EmbeddedServer { return l.Sink.EmbeddedServer() }

// Position returns the position that `source.start`, or the argument of a command, means. It asks
// the API for its time if start is "latest" or a relative time. hooks may be nil.
func (l *Lane) Position(ctx context.Context, client *source.Client, hooks *source.Hooks, start config.Start) (checkpoint.Position, error) {
	if !start.NeedsTime() {
		return start.From, nil
	}
	now, err := l.Stream(client, hooks).Now(ctx)
	if err != nil {
		return checkpoint.Position{}, fmt.Errorf("asking the Events API for its time: %w", err)
	}
	return start.At(now), nil
}

// target returns where the events and the position of the lane go.
func (l *Lane) target(b *Bus, store *checkpoint.File, client *source.Client, hooks *source.Hooks) *pipeline.Delivery {
	owner := pipeline.Ownership{
		Topics:   l.Topics,
		Identity: l.Identity(),
		Holder:   l.Holder(store),
		Events:   l.Types,
		Origin: func(ctx context.Context) (checkpoint.Position, error) {
			return l.Position(ctx, client, hooks, l.Config.Source.Start)
		},
		StateFromStart: l.BeginsWithState(),

		Newest: func(ctx context.Context) *pipeline.FoundEvent { return l.newest(ctx, b) },
		Guard:  &pipeline.Guard{Store: store, Logger: l.Log},
		Logger: l.Log,
	}
	d := &pipeline.Delivery{
		Want:        checkpoint.Mode(l.Sink.Delivery),
		AtLeastOnce: &pipeline.AtLeastOnce{Ownership: owner, Sink: b, Store: store},
		Incapable:   l.Incapable,
	}
	if maker, ok := b.Sink.(sink.TopicMaker); ok {
		maker.OnTopics(d.AtLeastOnce.Made)
	}
	if b.Ledger != nil {
		d.ExactlyOnce = &pipeline.ExactlyOnce{Ownership: owner, Ledger: b.Ledger, Patience: l.Config.TakeoverAfter / 10}
		if maker, ok := b.Ledger.(sink.TopicMaker); ok {
			maker.OnTopics(d.ExactlyOnce.Made)
		}
	}
	return d
}

// Incapable reports whether err says that the bus of the lane cannot do exactly_once as it is.
func (l *Lane) Incapable(err error) bool {
	return slices.ContainsFunc(l.Sink.Kind.Incapable, func(incapable error) bool { return errors.Is(err, incapable) })
}

// TopicsOf returns the topics that events of a type can go to, as router.Router.Resolve does, and
// whether the lane carries the type.
func (l *Lane) TopicsOf(name string) (topics []string, dropped, carries bool) {
	if !slices.Contains(l.Types, name) {
		return nil, false, false
	}
	topics, dropped = l.Router.Resolve(name)
	return topics, dropped, true
}

// Outlet describes where the events of the lane go.
func (l *Lane) Outlet() admin.Outlet { return l.outlet }

// listedTopics is how many topics an Outlet names.
const listedTopics = 3

// describe returns the Outlet of a lane whose Topics are those of its events alone.
func (l *Lane) describe() admin.Outlet {
	names := make([]string, len(l.Topics))
	for i, t := range l.Topics {
		names[i] = l.Router.Text(t)
	}
	out := admin.Outlet{Destination: l.Sink.Settings.Identity(), Topics: len(names), DeadLetterTopic: l.Router.DeadLetterTopic()}
	if len(names) <= listedTopics {
		out.Topic = strings.Join(names, ", ")
		return out
	}
	start := names[0]
	for _, name := range names {
		for !strings.HasPrefix(name, start) {
			start = start[:len(start)-1]
		}
	}
	out.Topic = start[:strings.LastIndexAny(start, ".-_")+1] + "*"
	return out
}

// ChooseLane returns the lane with that name. If name is empty, it returns the only lane. Errors
// are of type *UsageError.
func ChooseLane(lanes []*Lane, name string) (*Lane, error) {
	names := make([]string, len(lanes))
	for i, l := range lanes {
		if names[i] = l.Sink.Name; l.Sink.Name == name || name == "" && len(lanes) == 1 {
			return l, nil
		}
	}
	if name == "" {
		return nil, Usage(fmt.Errorf("say which lane with --lane: one of %s", strings.Join(names, ", ")))
	}
	return nil, Usage(fmt.Errorf("--lane: there is no sink %q; the configuration has %s", name, strings.Join(names, ", ")))
}

// fingerprint identifies everything that decides on the messages of the lane.
func (l *Lane) fingerprint() string {
	c := l.Config
	routing := c.RouterConfig(l.Sink)
	key := routing.RedactionKey.Reveal()
	routing.WhereFailed = nil
	text := fmt.Sprintf("%q %+v %q %q %q %q %q %q", l.Types, routing, key, buildinfo.Version(), l.Identity(), c.Source.Unexpected, l.Sink.Settings.Prefix(), l.Sink.Delivery)
	return fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
}

// redactions identifies what the routes take out of events.
func (l *Lane) redactions() string {
	var rules []string
	for _, r := range l.Config.Routes {
		rules = append(rules, fmt.Sprintf("%q %q %q %q", r.Events, r.Where, r.Redact, r.Pseudonymize))
	}
	return strings.Join(rules, "\n")
}
