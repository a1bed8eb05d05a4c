package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

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

// newClient returns the one client of the process: its limiter is shared by all lanes, as they share the key. The key follows
// its file.
func newClient(cfg *config.Config) *source.Client {
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

// apiKey returns the source of keys for a client, nil if the key does not change.
func apiKey(cfg *config.Config) func(refused bool) string {
	key, err := cfg.APIKey()
	if err != nil || !key.Follows() { // a file that has become unusable since the configuration was read leaves the key of then
		return nil
	}
	return func(refused bool) string {
		if refused {
			return key.Latest().Reveal()
		}
		return key.Get().Reveal()
	}
}

// burst is how many requests may go out at once, of so many a second.
func burst(perSecond float64) int { return max(1, int(perSecond/10)) }

// stream returns the lane's own reader. It reads page after page; add gives it more readers and lets webhooks wake it.
func (l *lane) stream(client *source.Client, hooks *source.Hooks) *source.Stream {
	return &source.Stream{
		Client:          client,
		Events:          l.types,
		OrganizationID:  l.cfg.Source.OrganizationID,
		RelayUnexpected: l.cfg.Source.Unexpected == "relay",
		PollInterval:    l.cfg.Source.PollInterval,
		Hooks:           hooks,
		Logger:          l.log,
	}
}

// ledger is what the commands need of a bus that keeps the position.
type ledger interface {
	pipeline.Ledger
	// Seize is Load, after Fence, for a person who has decided to replace the checkpoint whatever it is: one that is corrupt, foreign,
	// lost or not there is no error, and Commit takes what it returns as prev, which it refuses otherwise. Of a corrupt one that is the
	// Revision alone.
	Seize(ctx context.Context) (checkpoint.Checkpoint, error)
	// Forget makes the ledger one that has seen no position, so that Prepare may make again what is missing: an operator has decided to
	// go on without it.
	Forget()
}

// bus is the bus of a lane, open.
type bus struct {
	pipeline.Bus
	ledger ledger    // the same bus as one that keeps the position too; nil where it never can
	apart  io.Closer // what the ledger holds open by itself; may be nil
}

// Close closes all of it.
func (b *bus) Close() error {
	if b.apart == nil {
		return b.Bus.Close()
	}
	return errors.Join(b.apart.Close(), b.Bus.Close())
}

// Survey implements sink.Surveyor if the bus does; a bus that does not has no parts.
func (b *bus) Survey(ctx context.Context, topics []string, known []checkpoint.Part) ([]checkpoint.Part, error) {
	if s, ok := b.Bus.(sink.Surveyor); ok {
		return s.Survey(ctx, topics, known)
	}
	return nil, nil
}

// open makes the lane's bus. This and identity are where the kinds of sinks are told apart.
func (l *lane) open(ctx context.Context) (*bus, error) {
	switch s := l.sink; {
	case s.NATS != nil:
		c := *s.NATS
		if c.Embedded.Dir == "" {
			c.Embedded.Dir = filepath.Join(l.cfg.Checkpoint.Dir, "jetstream")
		}
		return l.openNATS(ctx, c)
	case s.Kafka != nil:
		return l.openKafka(*s.Kafka) //nolint:contextcheck // it connects only when it is used
	case s.Stdout != nil:
		return &bus{Bus: stdout.New(*s.Stdout, nil)}, nil
	default:
		return nil, fmt.Errorf("sink %s: no sink of type %q", s.Name, s.Type)
	}
}

func (l *lane) openNATS(ctx context.Context, c nats.Config) (_ *bus, err error) {
	c.Logger, c.RelayID, c.Lane, c.Files = l.log, l.cfg.ID, l.sink.Name, l.cfg.Files
	if c.Password, err = l.cfg.NATSPassword(l.sink.Name); err != nil {
		return nil, err
	}
	if c.Token, err = l.cfg.NATSToken(l.sink.Name); err != nil {
		return nil, err
	}
	s, err := nats.New(ctx, c)
	switch {
	case err != nil && c.URL == nats.Embedded:
		return nil, err
	case err != nil: // it does not connect here, so the settings are at fault, or files that they name
		return nil, &usageError{err}
	}
	return &bus{Bus: s, ledger: s.Ledger(l.identity())}, nil
}

func (l *lane) openKafka(c kafka.Config) (_ *bus, err error) {
	c.Logger, c.RelayID, c.Lane, c.Files = l.log, l.cfg.ID, l.sink.Name, l.cfg.Files
	c.OwnedFile = checkpoint.Path(l.cfg.Checkpoint.Dir, l.identity(), "topics")
	if c.Password, err = l.cfg.KafkaPassword(l.sink); err != nil {
		return nil, err
	}
	s, err := kafka.New(c)
	if err != nil { // it does not connect here, so the settings are at fault, or files that they name
		return nil, &usageError{err}
	}
	ledger, err := kafka.NewLedger(c, l.identity())
	if err != nil {
		return nil, errors.Join(&usageError{err}, s.Close())
	}
	return &bus{Bus: s, ledger: ledger, apart: ledger}, nil
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
// hooks may be nil.
func (l *lane) position(ctx context.Context, client *source.Client, hooks *source.Hooks, start config.Start) (checkpoint.Position, error) {
	if !start.Latest {
		return start.From, nil
	}
	now, err := l.stream(client, hooks).Now(ctx)
	if err != nil {
		return checkpoint.Position{}, fmt.Errorf("asking the Events API for its time: %w", err)
	}
	return checkpoint.Position{CreatedAt: now}, nil
}

// batches is how much one Append of the lane may carry, and how much is read ahead; zero leaves it to the pipeline.
func (l *lane) batches() (messages, prefetch int) {
	if l.sink.Kafka != nil {
		return kafka.BatchMessages, kafka.Prefetch
	}
	return 0, 0
}

// target puts together where the lane's events and its position go.
func (l *lane) target(b *bus, store *checkpoint.File, client *source.Client, hooks *source.Hooks) *pipeline.Delivery {
	owner := pipeline.Ownership{
		Topics:   l.topics,
		Identity: l.identity(),
		Holder:   store.Holder(),
		Events:   l.types,
		Origin: func(ctx context.Context) (checkpoint.Position, error) {
			return l.position(ctx, client, hooks, l.cfg.Source.Start)
		},
		Guard:  &pipeline.Guard{Store: store, Logger: l.log},
		Logger: l.log,
	}
	d := &pipeline.Delivery{
		Want:        checkpoint.Mode(l.sink.Delivery),
		AtLeastOnce: &pipeline.AtLeastOnce{Ownership: owner, Sink: b, Store: store},
		Incapable:   incapable,
	}
	if b.ledger != nil {
		d.ExactlyOnce = &pipeline.ExactlyOnce{Ownership: owner, Ledger: b.ledger, Patience: l.cfg.TakeoverAfter / 10}
	}
	return d
}

// incapable reports whether err says that a bus, as it is, cannot do exactly_once.
func incapable(err error) bool {
	return errors.Is(err, nats.ErrNoAtomicPublish) || errors.Is(err, nats.ErrStreamUnfit) || errors.Is(err, kafka.ErrNoTransactions) ||
		errors.Is(err, kafka.ErrNoPositionTopic)
}

// topicOf returns the topic of a type, empty where it is dropped, and whether the lane asks for it at all.
func (l *lane) topicOf(name string) (topic string, carries bool) {
	for _, t := range l.types {
		if t == name {
			topic, dropped := l.router.Resolve(name)
			if dropped {
				topic = ""
			}
			return topic, true
		}
	}
	return "", false
}

// choose returns the lane of a name. Without a name it returns the only lane.
func choose(lanes []*lane, name string) (*lane, error) {
	names := make([]string, len(lanes))
	for i, l := range lanes {
		if names[i] = l.sink.Name; l.sink.Name == name || name == "" && len(lanes) == 1 {
			return l, nil
		}
	}
	if name == "" {
		return nil, &usageError{fmt.Errorf("say which lane with --lane: one of %q", names)}
	}
	return nil, &usageError{fmt.Errorf("--lane: there is no sink %q, only %q", name, names)}
}
