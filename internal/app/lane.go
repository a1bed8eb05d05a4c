package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"workos-relay/checkpoint"
	"workos-relay/conf/tlsconf"
	"workos-relay/internal/buildinfo"
	"workos-relay/internal/config"
	"workos-relay/pipeline"
	"workos-relay/router"
	"workos-relay/sink"
	"workos-relay/sink/kafka"
	"workos-relay/sink/nats"
	"workos-relay/sink/stdout"
	"workos-relay/source"
)

// Lane is one sink of a configuration with everything that belongs to it, before it runs. It does
// not change after NewLanes.
type Lane struct {
	Config *config.Config
	Sink   *config.Sink
	Types  []string // event types asked of the source
	Router *router.Router
	Topics []string // every topic it can publish to, the dead letter included
	Log    *zap.Logger
	Inside bool // its server is inside another process, the running relay: see beside
}

// NewLanes returns the lanes of a configuration: what each carries, and where it goes. It connects
// to nothing. Errors are of type *UsageError.
func NewLanes(cfg *config.Config, log *zap.Logger) ([]*Lane, error) {
	lanes := make([]*Lane, 0, len(cfg.Sinks))
	for i := range cfg.Sinks {
		s := &cfg.Sinks[i]
		l := &Lane{Config: cfg, Sink: s, Log: log.With(zap.String("lane", s.Name))}
		var err error
		if l.Types, err = cfg.EventTypes(s); err != nil {
			return nil, Usage(err)
		}
		if l.Router, err = router.New(cfg.RouterConfig(s)); err != nil {
			return nil, Usage(fmt.Errorf("routes, for sink %s: %w", s.Name, err))
		}
		l.Topics = l.Router.Topics(l.Types)
		if dead := l.Router.DeadLetterTopic(); dead != "" && !slices.Contains(l.Topics, dead) {
			l.Topics = append(l.Topics, dead)
		}
		lanes = append(lanes, l)
	}
	return lanes, nil
}

// NewClient returns the client of a process. All lanes share it and its rate limit, since they
// share the API key. The key follows its file.
func NewClient(cfg *config.Config) *source.Client {
	return &source.Client{
		APIKey:      cfg.Source.APIKey.Reveal(),
		Key:         apiKey(cfg),
		Roots:       tlsconf.SystemRoots(cfg.Files).Pool,
		Endpoint:    cfg.Source.Endpoint,
		EventList:   cfg.Source.EventList,
		MaxResponse: int64(cfg.Source.MaxResponse),
		Limiter:     rate.NewLimiter(rate.Limit(cfg.Source.RateLimit), burst(cfg.Source.RateLimit)),
		UserAgent:   "workos-relay/" + buildinfo.Version(),
	}
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
	return &source.Stream{
		Client:          client,
		Events:          l.Types,
		OrganizationID:  l.Config.Source.OrganizationID,
		RelayUnexpected: l.Config.Source.Unexpected == "relay",
		PollInterval:    l.Config.Source.PollInterval,
		Hooks:           hooks,
		Logger:          l.Log,
	}
}

// Ledger is a bus that keeps the position, with what a move by an operator needs besides.
type Ledger interface {
	pipeline.Ledger
	// Seize is like Load for an operator who has decided to replace the position, after Fence. A
	// corrupt, foreign, lost or missing position is not an error. Commit accepts the result as
	// prev, which it would refuse otherwise. If the position is corrupt, only its Revision is
	// returned.
	Seize(ctx context.Context) (checkpoint.Checkpoint, error)
	// Forget makes the ledger forget that it has seen a position, so that Prepare may create what
	// is missing: an operator has decided to continue without it.
	Forget()
}

// Bus is the open bus of a lane.
type Bus struct {
	pipeline.Bus
	Ledger Ledger    // the same bus, if it can keep the position; else nil
	apart  io.Closer // what the ledger holds open by itself; may be nil
}

// Close closes the bus and its ledger.
func (b *Bus) Close() error {
	if b.apart == nil {
		return b.Bus.Close()
	}
	return errors.Join(b.apart.Close(), b.Bus.Close())
}

// Survey implements sink.Surveyor. It returns no parts if the bus does not implement it.
func (b *Bus) Survey(ctx context.Context, topics []string, known []checkpoint.Part) ([]checkpoint.Part, error) {
	if s, ok := b.Bus.(sink.Surveyor); ok {
		return s.Survey(ctx, topics, known)
	}
	return nil, nil
}

// Open opens the bus of the lane. Open and Identity know which kinds of bus there are.
func (l *Lane) Open(ctx context.Context) (*Bus, error) {
	switch s := l.Sink; {
	case s.NATS != nil:
		c := *s.NATS
		if c.Embedded.Dir == "" {
			c.Embedded.Dir = filepath.Join(l.Config.Checkpoint.Dir, "jetstream")
		}
		return l.openNATS(ctx, c)
	case s.Kafka != nil:
		return l.openKafka(*s.Kafka) //nolint:contextcheck // it connects only when it is used
	case s.Stdout != nil:
		return &Bus{Bus: stdout.New(*s.Stdout, nil)}, nil
	default:
		return nil, fmt.Errorf("sink %s: no sink of type %q", s.Name, s.Type)
	}
}

func (l *Lane) openNATS(ctx context.Context, c nats.Config) (_ *Bus, err error) {
	c.Logger, c.RelayID, c.Lane, c.Files = l.Log, l.Config.ID, l.Sink.Name, l.Config.Files
	if c.Password, err = l.Config.NATSPassword(l.Sink.Name); err != nil {
		return nil, err
	}
	if c.Token, err = l.Config.NATSToken(l.Sink.Name); err != nil {
		return nil, err
	}
	s, err := nats.New(ctx, c)
	switch {
	case err != nil && c.URL == nats.Embedded:
		return nil, err
	case err != nil: // it does not connect here, so the settings are at fault, or files that they name
		return nil, Usage(err)
	}
	return &Bus{Bus: s, Ledger: s.Ledger(l.Identity())}, nil
}

func (l *Lane) openKafka(c kafka.Config) (_ *Bus, err error) {
	c.Logger, c.RelayID, c.Lane, c.Files = l.Log, l.Config.ID, l.Sink.Name, l.Config.Files
	c.OwnedFile = checkpoint.Path(l.Config.Checkpoint.Dir, l.Identity(), "topics")
	if c.Password, err = l.Config.KafkaPassword(l.Sink); err != nil {
		return nil, err
	}
	s, err := kafka.New(c)
	if err != nil { // it does not connect here, so the settings are at fault, or files that they name
		return nil, Usage(err)
	}
	ledger, err := kafka.NewLedger(c, l.Identity())
	if err != nil {
		return nil, errors.Join(Usage(err), s.Close())
	}
	return &Bus{Bus: s, Ledger: ledger, apart: ledger}, nil
}

// Identity returns whose position the position of the lane is. It needs no connection.
func (l *Lane) Identity() checkpoint.Identity {
	var destination string
	switch s := l.Sink; {
	case s.NATS != nil:
		destination = s.NATS.Identity()
	case s.Kafka != nil:
		destination = s.Kafka.Identity()
	case s.Stdout != nil:
		destination = s.Stdout.Identity()
	}
	return checkpoint.Identity{
		Relay:        l.Config.ID,
		Lane:         l.Sink.Name,
		Endpoint:     l.Config.Source.Endpoint,
		Organization: l.Config.Source.OrganizationID,
		Destination:  destination,
	}
}

// Embedded reports whether the NATS server of the lane runs inside of relay.
func (l *Lane) Embedded() bool { return l.Sink.NATS != nil && l.Sink.NATS.URL == nats.Embedded }

// Position returns the position that `source.start`, or the argument of a command, means. Only
// "latest" asks the API. hooks may be nil.
func (l *Lane) Position(ctx context.Context, client *source.Client, hooks *source.Hooks, start config.Start) (checkpoint.Position, error) {
	if !start.Latest {
		return start.From, nil
	}
	now, err := l.Stream(client, hooks).Now(ctx)
	if err != nil {
		return checkpoint.Position{}, fmt.Errorf("asking the Events API for its time: %w", err)
	}
	return checkpoint.Position{CreatedAt: now}, nil
}

// batches returns how many messages one Append may carry, and how many events are read ahead. 0
// leaves it to package pipeline.
func (l *Lane) batches() (messages, prefetch int) {
	if l.Sink.Kafka != nil {
		return kafka.BatchMessages, kafka.Prefetch
	}
	return 0, 0
}

// target returns where the events and the position of the lane go.
func (l *Lane) target(b *Bus, store *checkpoint.File, client *source.Client, hooks *source.Hooks) *pipeline.Delivery {
	owner := pipeline.Ownership{
		Topics:   l.Topics,
		Identity: l.Identity(),
		Holder:   store.Holder(),
		Events:   l.Types,
		Origin: func(ctx context.Context) (checkpoint.Position, error) {
			return l.Position(ctx, client, hooks, l.Config.Source.Start)
		},
		Guard:  &pipeline.Guard{Store: store, Logger: l.Log},
		Logger: l.Log,
	}
	d := &pipeline.Delivery{
		Want:        checkpoint.Mode(l.Sink.Delivery),
		AtLeastOnce: &pipeline.AtLeastOnce{Ownership: owner, Sink: b, Store: store},
		Incapable:   Incapable,
	}
	if b.Ledger != nil {
		d.ExactlyOnce = &pipeline.ExactlyOnce{Ownership: owner, Ledger: b.Ledger, Patience: l.Config.TakeoverAfter / 10}
	}
	return d
}

// Incapable reports whether err says that a bus cannot do exactly_once as it is.
func Incapable(err error) bool {
	return errors.Is(err, nats.ErrNoAtomicPublish) || errors.Is(err, nats.ErrStreamUnfit) || errors.Is(err, kafka.ErrNoTransactions) ||
		errors.Is(err, kafka.ErrNoPositionTopic)
}

// TopicOf returns the topic of an event type, and whether the lane carries the type. The topic is
// empty if the routes drop the type.
func (l *Lane) TopicOf(name string) (topic string, carries bool) {
	for _, t := range l.Types {
		if t == name {
			topic, dropped := l.Router.Resolve(name)
			if dropped {
				topic = ""
			}
			return topic, true
		}
	}
	return "", false
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
		return nil, Usage(fmt.Errorf("say which lane with --lane: one of %q", names))
	}
	return nil, Usage(fmt.Errorf("--lane: there is no sink %q, only %q", name, names))
}

// redactions identifies what the routes take out of events.
func (l *Lane) redactions() string {
	var rules []string
	for _, r := range l.Config.Routes {
		rules = append(rules, fmt.Sprintf("%q %q %q", r.Events, r.Redact, r.Pseudonymize))
	}
	return strings.Join(rules, "\n")
}
