// Package toybus is a kind of bus for tests: boards in the memory of this process, on which
// messages are pinned. It shows what a bus has to bring along, since relay itself does not know it:
// a test that configures a board adds [Kind] to the list of kinds.
package toybus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/conf/livefile"
	"workos-relay/conf/secret"
	"workos-relay/sink"
)

// Kind describes boards as a bus.
var Kind = &sink.Kind{
	Name:           "board",
	New:            func() sink.Settings { return &Config{} },
	KeepsPositions: true,
	Incapable:      []error{errNoPositions},
	Starters: []sink.Starter{{
		Name: "board", About: "a board on the wall", Address: "hall",
		Entry: func(address, _ string) string {
			return fmt.Sprintf("  - {name: wall, type: board, board: %q}\n", address)
		},
	}},
	AsyncAPI: &sink.AsyncAPI{
		Binding: "board",
		Channel: func(topic string) map[string]any { return map[string]any{"corner": topic} },
	},
}

// Config is the configuration of a sink of type board.
type Config struct {
	Board       string        `yaml:"board" required:"true" doc:"Name of the board."`
	TopicPrefix string        `yaml:"topic_prefix" example:"acme." doc:"Put before each routed topic."`
	PIN         secret.String `yaml:"pin" doc:"Number that opens the board."`
	Pins        Pins          `yaml:"pins" doc:"The pins that messages are fastened with."`
}

// Pins is a section of Config.
type Pins struct {
	Color  string `yaml:"color" default:"red" enum:"red,green" doc:"Color of the pins."`
	AtOnce int    `yaml:"at_once" default:"100" min:"1" max:"1000" doc:"Most messages that are pinned at once."`
}

// errNoPositions is why a board that has only green pins cannot do exactly_once.
var errNoPositions = errors.New("positions need red pins")

// fault is an error of Validate.
type fault struct{ key, text string }

func (f *fault) Error() string { return f.text }

// Key returns the key at fault.
func (f *fault) Key() string { return f.key }

// Validate checks what the tags cannot say.
func (c Config) Validate() error {
	if strings.ContainsAny(c.Board, " \n") {
		return &fault{"board", fmt.Sprintf("%q is not one word", c.Board)}
	}
	return nil
}

// Identity implements sink.Settings.
func (c Config) Identity() string { return "board " + c.Board }

// Prefix implements sink.Settings.
func (c Config) Prefix() string { return c.TopicPrefix }

// Limits implements sink.Settings.
func (c Config) Limits() sink.Limits {
	return sink.Limits{BatchMessages: c.Pins.AtOnce, Memory: 1 << 20}
}

// Open implements sink.Settings.
func (c Config) Open(_ context.Context, o sink.OpenOptions) (*sink.Opened, error) {
	if c.Board == "burnt" {
		return nil, &sink.SettingsError{Err: errors.New("the board has burnt: name another one in board")}
	}
	pin, err := o.Secret("pin", c.PIN, nil)
	if err != nil {
		return nil, err
	}
	b := &bus{cfg: c, id: o.Identity, pin: pin, board: Board(c.Board), closed: make(chan struct{})}
	return &sink.Opened{Bus: b, Ledger: ledger{b}}, nil
}

// Follow implements sink.Followable. A pattern is a topic without the prefix.
func (c Config) Follow(ctx context.Context, o sink.FollowOptions, fn func(sink.Message) error) error {
	if o.Address != "" {
		c.Board = o.Address
	}
	next := 0
	if !o.FromStart {
		next = len(Board(c.Board).Messages())
	}
	for ctx.Err() == nil {
		for _, m := range Board(c.Board).Messages()[next:] {
			next++
			if len(o.Patterns) > 0 && !slices.Contains(o.Patterns, strings.TrimPrefix(m.Topic, c.TopicPrefix)) {
				continue
			}
			if err := fn(m); err != nil {
				return err
			}
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// AsyncAPIServer implements sink.Documented.
func (c Config) AsyncAPIServer() sink.AsyncAPIServer {
	return sink.AsyncAPIServer{Protocol: "board", Host: c.Board, Description: "Look at the board."}
}

// A Wall is what one board holds. It is safe for concurrent use.
type Wall struct {
	mu        sync.Mutex
	messages  []sink.Message
	positions map[[2]string]storedPosition
	largest   int // batch
	pins      []string
}

// storedPosition is a checkpoint as it stands on a board.
type storedPosition struct {
	document []byte // by checkpoint.Encode
	revision uint64
}

var (
	walls   = map[string]*Wall{}
	wallsMu sync.Mutex
)

// Board returns the board with that name, which is empty at first.
func Board(name string) *Wall {
	wallsMu.Lock()
	defer wallsMu.Unlock()
	if walls[name] == nil {
		walls[name] = &Wall{positions: map[[2]string]storedPosition{}}
	}
	return walls[name]
}

// Messages returns the messages on the board in their order.
func (w *Wall) Messages() []sink.Message {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.messages)
}

// LargestBatch returns the most messages that were pinned at once.
func (w *Wall) LargestBatch() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.largest
}

// PINs returns the numbers that opened the board, one for each batch.
func (w *Wall) PINs() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.pins)
}

// pin adds copies of the messages of a batch. The caller holds mu.
func (w *Wall) pin(batch []sink.Message, number string) {
	for _, m := range batch {
		m.Key, m.Body, m.Headers = slices.Clone(m.Key), slices.Clone(m.Body), slices.Clone(m.Headers)
		w.messages = append(w.messages, m)
	}
	w.largest = max(w.largest, len(batch))
	w.pins = append(w.pins, number)
}

// bus is an open board.
type bus struct {
	cfg       Config
	id        checkpoint.Identity
	pin       *livefile.Current
	board     *Wall
	once      sync.Once
	closed    chan struct{}
	replacing bool // the next Commit may replace any position; guarded by the lock of the board
}

var (
	_ sink.Sink    = (*bus)(nil)
	_ sink.Scanner = (*bus)(nil)
	_ sink.Ledger  = ledger{}
)

func (b *bus) usable(ctx context.Context) error {
	select {
	case <-b.closed:
		return errors.New("the board is closed")
	default:
		return ctx.Err()
	}
}

// Publish implements sink.Sink.
func (b *bus) Publish(ctx context.Context, batch []sink.Message) error {
	if err := b.usable(ctx); err != nil {
		return &sink.PublishError{Err: err}
	}
	b.board.mu.Lock()
	defer b.board.mu.Unlock()
	b.board.pin(batch, b.pin.Get().Reveal())
	return nil
}

// Close implements sink.Sink.
func (b *bus) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// Ping implements sink.Destination: a board in memory always answers.
func (*bus) Ping(context.Context) error { return nil }

// Survey implements sink.Destination. The bus cannot tell.
func (*bus) Survey(context.Context, []string, []checkpoint.Part) ([]checkpoint.Part, error) {
	return nil, nil
}

// Identity implements sink.Destination.
func (b *bus) Identity() string { return b.cfg.Identity() }

// Prepare implements sink.Destination.
func (b *bus) Prepare(ctx context.Context, _ []string) error { return b.usable(ctx) }

// Holds implements sink.Destination.
func (b *bus) Holds(ctx context.Context, topics []string) (bool, error) {
	holds := slices.ContainsFunc(b.board.Messages(), func(m sink.Message) bool { return slices.Contains(topics, m.Topic) })
	return holds, b.usable(ctx)
}

// Inspect implements sink.Destination.
func (b *bus) Inspect(ctx context.Context, topics []string) ([]sink.TopicStatus, error) {
	out := make([]sink.TopicStatus, len(topics))
	for i, topic := range topics {
		out[i] = sink.TopicStatus{Topic: topic, Exists: true, Detail: "board " + b.cfg.Board}
	}
	return out, b.usable(ctx)
}

// ledger is a board with the position of a lane.
type ledger struct{ *bus }

// fit returns why the board cannot hold positions, or nil.
func (l ledger) fit() error {
	if l.cfg.Pins.Color == "green" {
		return &sink.FatalError{Err: fmt.Errorf("board %s: %w", l.cfg.Board, errNoPositions), Action: "set pins.color to red"}
	}
	return nil
}

// Prepare implements sink.Destination.
func (l ledger) Prepare(ctx context.Context, topics []string) error {
	if err := l.fit(); err != nil {
		return err
	}
	return l.bus.Prepare(ctx, topics)
}

// Inspect implements sink.Destination.
func (l ledger) Inspect(ctx context.Context, topics []string) ([]sink.TopicStatus, error) {
	found, err := l.bus.Inspect(ctx, topics)
	return append(found, sink.TopicStatus{Topic: "the corner", Exists: true, Unfit: l.fit()}), err
}

// Fence implements sink.Ledger: Commit shuts out earlier writers.
func (l ledger) Fence(ctx context.Context) error { return l.usable(ctx) }

// positionKey names the position of the lane on the board.
func (l ledger) positionKey() [2]string { return [2]string{l.id.Relay, l.id.Lane} }

// Load implements sink.Ledger.
func (l ledger) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	if err := l.usable(ctx); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	l.board.mu.Lock()
	defer l.board.mu.Unlock()
	return l.load()
}

// load is Load for a caller that holds the lock of the board.
func (l ledger) load() (checkpoint.Checkpoint, error) {
	p, ok := l.board.positions[l.positionKey()]
	if !ok {
		return checkpoint.Checkpoint{}, checkpoint.ErrNotFound
	}
	cp, err := checkpoint.Decode(p.document)
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	cp.Revision = p.revision
	return cp, l.id.Check(cp.Source)
}

// Commit implements sink.Ledger.
func (l ledger) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	if err := l.usable(ctx); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	if err := l.id.Check(next.Source); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	l.board.mu.Lock()
	defer l.board.mu.Unlock()
	if _, err := l.load(); err != nil && !errors.Is(err, checkpoint.ErrNotFound) && !l.replacing {
		return checkpoint.Checkpoint{}, err
	}
	p := l.board.positions[l.positionKey()]
	if p.revision != prev.Revision {
		return checkpoint.Checkpoint{}, checkpoint.ErrConflict
	}
	l.replacing = false
	if len(batch) > 0 {
		l.board.pin(batch, l.pin.Get().Reveal())
	}
	p = storedPosition{checkpoint.Encode(next), p.revision + 1}
	l.board.positions[l.positionKey()] = p
	return l.load()
}

// LoadForReplace implements sink.Ledger.
func (l ledger) LoadForReplace(ctx context.Context) (checkpoint.Checkpoint, error) {
	if err := l.usable(ctx); err != nil {
		return checkpoint.Checkpoint{}, err
	}
	l.board.mu.Lock()
	defer l.board.mu.Unlock()
	l.replacing = true
	cp, _ := l.load() // a position that cannot be used is about to be replaced
	cp.Revision = l.board.positions[l.positionKey()].revision
	return cp, nil
}

// Forget implements sink.Ledger: a bus does not remember what it has seen.
func (ledger) Forget() {}

// Logs implements sink.Scanner: a board is one log.
func (b *bus) Logs(context.Context, []string, time.Time) ([]sink.Log, error) {
	return []sink.Log{{Name: "board " + b.cfg.Board, End: int64(len(b.board.Messages()))}}, nil
}

// Scan implements sink.Scanner.
func (b *bus) Scan(_ context.Context, log sink.Log, fn func(*sink.Stored) error) error {
	for i, m := range b.board.Messages()[:log.End] {
		if err := fn(&sink.Stored{Topic: m.Topic, Key: m.Key, Offset: int64(i), Headers: m.Headers, Body: m.Body}); err != nil {
			return err
		}
	}
	return nil
}
