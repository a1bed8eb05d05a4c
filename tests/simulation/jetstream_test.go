//go:build unix

package simulation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"workos-relay/checkpoint"
	"workos-relay/router"
	"workos-relay/sink"
)

// jetStream is a stream of JetStream with what relay needs of it: atomic batches whose last message
// is the position, compared by its sequence, and single messages that are recognized by their id
// for a while. The lock of the world guards it.
type jetStream struct {
	w       *world
	created bool
	bound   map[string]bool // topics
	log     []stored        // message n has sequence n+1
	latest  int             // index in log of the position; -1 for none
	ids     map[string]kept
}

// stored is a message in a log.
type stored struct {
	sink.Message
	position bool
	document []byte // of a position
}

// kept is an id by which a second copy is recognized.
type kept struct {
	sequence uint64
	at       time.Time
}

const (
	jetStreamWindow = 2 * time.Minute // in which ids are kept
	ackTimeout      = 5 * time.Second
	mostBytes       = 1 << 20 // of a message
)

func newJetStream(w *world) *jetStream {
	return &jetStream{w: w, bound: map[string]bool{}, latest: -1, ids: map[string]kept{}}
}

func (s *jetStream) binding() router.Binding { return router.NATS }

func (s *jetStream) open(p *process) (sink.Sink, sink.Ledger) {
	b := &jetSink{s: s, p: p, closed: make(chan struct{}), create: true}
	return b, &jetLedger{jetSink: b, id: identityOn(b.Identity())}
}

// restart loses nothing that is stored. Batches that are not complete were never stored.
func (s *jetStream) restart() {}

func (s *jetStream) purge() { s.latest = -1 }

// errWrongLast is the refusal of a message that is to follow another one than it does.
var errWrongLast = errors.New("wrong last sequence")

// commit stores a batch and the position behind it, if the position before has the sequence
// expected.
func (s *jetStream) commit(batch []sink.Message, expected uint64, document []byte) (uint64, error) {
	if uint64(s.latest+1) != expected && !s.w.mutated("compare") {
		return 0, errWrongLast
	}
	for _, m := range batch {
		s.log = append(s.log, stored{Message: m})
	}
	s.log = append(s.log, stored{position: true, document: document})
	s.latest = len(s.log) - 1
	s.w.judge.commits(uint64(len(s.log)), batch, document)
	return uint64(len(s.log)), nil
}

func (s *jetStream) publish(m sink.Message, withID bool) uint64 {
	if withID && m.ID != "" {
		if k, ok := s.ids[m.ID]; ok && time.Since(k.at) < jetStreamWindow {
			return k.sequence
		}
	}
	s.log = append(s.log, stored{Message: m})
	n := uint64(len(s.log))
	if withID && m.ID != "" {
		s.ids[m.ID] = kept{n, time.Now()}
	}
	return n
}

// read shows everything to a consumer, partition by partition.
func (s *jetStream) read(see func(partition string, place uint64, m *sink.Message)) {
	for i := range s.log {
		if !s.log[i].position {
			see("stream", uint64(i+1), &s.log[i].Message)
		}
	}
}

// positions returns every position that was ever current, with its place.
func (s *jetStream) positions(see func(place uint64, document []byte)) {
	for i := range s.log {
		if s.log[i].position {
			see(uint64(i+1), s.log[i].document)
		}
	}
}

func (s *jetStream) samePlaces() bool { return true }

// jetSink is the part of sink/nats that speaks to the server, as far as its answers matter to a
// lane: nats.Sink and, with jetLedger, nats.Ledger.
type jetSink struct {
	s      *jetStream
	p      *process
	create bool
	closed chan struct{}

	lastSeq uint64          // of the last durable event
	ahead   map[string]bool // ids that may be stored before a predecessor of theirs
}

var errClosed = errors.New("the sink is closed")

func (b *jetSink) Identity() string { return "nats stream WORKOS" }

func (b *jetSink) Close() error {
	b.p.w.mu.Lock()
	defer b.p.w.mu.Unlock()
	if !isClosed(b.closed) {
		close(b.closed)
	}
	return nil
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func illegalTopic(t string) bool {
	return t == "" || strings.ContainsAny(t, "*> \t") || strings.Contains("."+t+".", "..")
}

func (b *jetSink) Prepare(ctx context.Context, topics []string) error {
	return prepare(ctx, b.p, "prepare", b.create, topics, illegalTopic, b.s.bound, func() { b.s.created = true })
}

// prepare creates topics in made.
func prepare(ctx context.Context, p *process, what string, create bool, topics []string, illegal func(string) bool, made map[string]bool, done func()) error {
	var wrong []string
	for _, t := range topics {
		if illegal(t) {
			wrong = append(wrong, t)
		}
	}
	if len(wrong) > 0 {
		return &sink.FatalError{Err: fmt.Errorf("illegal topics: %s", strings.Join(wrong, ", "))}
	}
	_, err := call(ctx, p, request{what: what, patience: ackTimeout}, func(*fate) (struct{}, error) {
		var missing []string
		for _, t := range topics {
			if !made[t] {
				missing = append(missing, t)
			}
		}
		if len(missing) > 0 && !create {
			return struct{}{}, &sink.FatalError{Err: fmt.Errorf("missing topics: %s", strings.Join(missing, ", "))}
		}
		for _, t := range missing {
			made[t] = true
		}
		done()
		return struct{}{}, nil
	})
	return err
}

func (b *jetSink) Holds(ctx context.Context, topics []string) (bool, error) {
	return call(ctx, b.p, request{what: "holds", patience: ackTimeout}, func(*fate) (bool, error) {
		return !b.p.w.mutated("first start") && slices.ContainsFunc(b.s.log, func(m stored) bool { return !m.position && slices.Contains(topics, m.Topic) }), nil
	})
}

func (b *jetSink) Inspect(ctx context.Context, topics []string) ([]sink.TopicStatus, error) {
	return inspect(ctx, b.p, topics, b.create, b.s.bound)
}

func inspect(ctx context.Context, p *process, topics []string, create bool, made map[string]bool) ([]sink.TopicStatus, error) {
	return call(ctx, p, request{what: "inspect", patience: ackTimeout}, func(*fate) ([]sink.TopicStatus, error) {
		var all []sink.TopicStatus
		for _, t := range topics {
			st := sink.TopicStatus{Topic: t, Exists: made[t], Creates: !made[t] && create, Detail: "simulated"}
			if !st.Exists && !st.Creates {
				st.Problems = []string{"it does not exist"}
			}
			all = append(all, st)
		}
		return all, nil
	})
}

// survey shows the stream as one part.
func (b *jetSink) survey(ctx context.Context, position bool) ([]checkpoint.Part, error) {
	return call(ctx, b.p, request{what: "survey", patience: ackTimeout}, func(*fate) ([]checkpoint.Part, error) {
		if !b.s.created {
			return nil, nil
		}
		n := len(b.s.log)
		return []checkpoint.Part{{Name: "stream WORKOS", ID: "1", Ends: []int64{int64(n + 1)}, Position: position, Events: uint64(n)}}, nil
	})
}

func (b *jetSink) Survey(ctx context.Context, _ []string, _ []checkpoint.Part) ([]checkpoint.Part, error) {
	return b.survey(ctx, false)
}

func (b *jetSink) Ping(ctx context.Context) error {
	_, err := call(ctx, b.p, request{what: "ping", patience: ackTimeout}, func(*fate) (struct{}, error) { return struct{}{}, nil })
	return err
}

// rejects returns why a message can never be published.
func rejects(m *sink.Message, illegal func(string) bool) *sink.RejectedError {
	size := len(m.Body)
	for _, h := range m.Headers {
		size += len(h.Key) + len(h.Value) + 4
	}
	switch {
	case illegal(m.Topic):
		return &sink.RejectedError{Topic: m.Topic, Reason: "it is not a legal topic"}
	case size > mostBytes:
		return &sink.RejectedError{Topic: m.Topic, Size: size, Limit: mostBytes, Reason: fmt.Sprintf("%d bytes are more than %d", size, mostBytes)}
	}
	return nil
}

// own returns a copy of messages that shares nothing with the caller.
func own(batch []sink.Message) []sink.Message {
	batch = slices.Clone(batch)
	for i := range batch {
		m := &batch[i]
		m.Headers, m.Body, m.Key = slices.Clone(m.Headers), slices.Clone(m.Body), slices.Clone(m.Key)
	}
	return batch
}

// aliveUntil bounds ctx by the life of a sink, which ends when closed is closed.
func aliveUntil(ctx context.Context, closed chan struct{}) (context.Context, func(), error) {
	ctx, cancel := context.WithCancelCause(ctx)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-closed:
			cancel(errClosed)
		case <-done:
		}
	}()
	stop := func() { close(done); <-ended; cancel(nil) }
	if isClosed(closed) {
		stop()
		return ctx, func() {}, errClosed
	}
	return ctx, stop, nil
}

var errOutOfOrder = errors.New("stored out of order")

// Publish implements sink.Sink as nats.publisher does: in order, with ids, and once more without
// them from where the order is wrong.
func (b *jetSink) Publish(ctx context.Context, batch []sink.Message) error {
	if len(batch) == 0 {
		return nil
	}
	ctx, stop, err := aliveUntil(ctx, b.closed)
	if err != nil {
		return &sink.PublishError{Err: err}
	}
	defer stop()
	b.p.w.sends(batch)
	sendable, durable, withIDs := len(batch), 0, true
	var rejected error
	for i := range batch {
		if r := rejects(&batch[i], illegalTopic); r != nil {
			sendable, rejected = i, r
			break
		}
	}
	for durable < sendable {
		n, err := b.run(ctx, own(batch[durable:sendable]), withIDs)
		durable += n
		if errors.Is(err, errOutOfOrder) && withIDs {
			withIDs = false
			continue
		}
		if err != nil {
			return &sink.PublishError{Durable: durable, Err: err}
		}
	}
	if rejected != nil {
		return &sink.PublishError{Durable: durable, Err: rejected}
	}
	return nil
}

// run makes one attempt at batch and returns how long its durable prefix is.
func (b *jetSink) run(ctx context.Context, batch []sink.Message, withIDs bool) (int, error) {
	floor := uint64(0)
	if b.ahead[batch[0].ID] {
		floor = b.lastSeq
	}
	seqs, err := call(ctx, b.p, request{what: fmt.Sprintf("%d messages from %s", len(batch), batch[0].ID), patience: ackTimeout, divisible: true},
		func(f *fate) ([]uint64, error) {
			seqs := make([]uint64, len(batch))
			gap := int(f.gap * float64(len(batch)))
			for i := range int(f.cut * float64(len(batch))) {
				if f.gap >= 0 && i == gap {
					continue // an election, in which one message got lost
				}
				seqs[i] = b.s.publish(batch[i], withIDs)
			}
			b.p.w.judge.published()
			if f.ack < 1 {
				clear(seqs[int(f.ack*float64(len(batch))):])
			}
			return seqs, nil
		})
	if b.p.w.mutated("early") && err != nil && !b.p.isDead() && ctx.Err() == nil {
		return len(batch), nil // the answer is not waited for
	}
	if err == nil && slices.Contains(seqs, 0) {
		err = errNoAnswer
		if e := sleep(ctx, ackTimeout); e != nil {
			err = e
		}
	}
	prefix := 0
	for _, seq := range seqs {
		if seq == 0 {
			break
		}
		if seq <= floor {
			err = errOutOfOrder
			break
		}
		floor = seq
		prefix++
	}
	if prefix > 0 {
		b.lastSeq = floor
	}
	for i := range batch {
		switch {
		case i < prefix:
			delete(b.ahead, batch[i].ID)
		case i > prefix && withIDs && batch[i].ID != "":
			if b.ahead == nil {
				b.ahead = map[string]bool{}
			}
			b.ahead[batch[i].ID] = true
		}
	}
	return prefix, err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// jetLedger is nats.Ledger on the simulated stream.
type jetLedger struct {
	*jetSink
	id   checkpoint.Identity
	seen atomic.Uint64 // sequence of the last position seen
}

func (l *jetLedger) Fence(context.Context) error { return nil }
func (l *jetLedger) Forget()                     { l.seen.Store(0) }

func (l *jetLedger) Survey(ctx context.Context, _ []string, _ []checkpoint.Part) ([]checkpoint.Part, error) {
	return l.survey(ctx, true)
}

func (l *jetLedger) missing() error {
	if l.seen.Load() > 0 && !l.p.w.mutated("first start") {
		return fmt.Errorf("%w: sequence %d was there before", checkpoint.ErrLost, l.seen.Load())
	}
	return fmt.Errorf("%w: the stream holds none", checkpoint.ErrNotFound)
}

// position is the position in the stream.
type position struct {
	sequence uint64 // 0 if there is none
	document []byte
}

func (l *jetLedger) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	at, err := call(ctx, l.p, request{what: "load", patience: ackTimeout}, func(*fate) (position, error) {
		if l.s.latest < 0 {
			return position{}, nil
		}
		return position{uint64(l.s.latest + 1), l.s.log[l.s.latest].document}, nil
	})
	switch {
	case err != nil:
		return checkpoint.Checkpoint{}, err
	case at.sequence == 0:
		return checkpoint.Checkpoint{}, l.missing()
	}
	cp, err := checkpoint.Decode(at.document)
	cp.Revision = at.sequence
	if err == nil {
		err = l.id.Check(cp.Source)
	}
	if err == nil {
		l.seen.Store(at.sequence)
	}
	return cp, err
}

func (l *jetLedger) LoadForReplace(ctx context.Context) (checkpoint.Checkpoint, error) {
	cp, err := l.Load(ctx)
	switch {
	case errors.Is(err, checkpoint.ErrCorrupt), errors.Is(err, checkpoint.ErrForeign):
		l.seen.Store(cp.Revision)
		return cp, nil
	case errors.Is(err, checkpoint.ErrNotFound), errors.Is(err, checkpoint.ErrLost):
		return checkpoint.Checkpoint{}, nil
	}
	return cp, err
}

func (l *jetLedger) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	none := checkpoint.Checkpoint{}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if err := l.id.Check(next.Source); err != nil {
		return none, fmt.Errorf("refused to commit for another: %w", err)
	}
	next.Revision = 0
	document := checkpoint.Encode(next)
	stays, err := checkpoint.Decode(document)
	if err != nil {
		return none, err
	}
	for i := range batch {
		if r := rejects(&batch[i], illegalTopic); r != nil {
			return none, &sink.PublishError{Durable: i, Err: r}
		}
	}
	if prev.Revision != 0 && prev.Revision != l.seen.Load() {
		if err := l.compare(ctx, prev.Revision); err != nil {
			return none, err
		}
	}
	batch = own(batch)
	sequence, err := call(ctx, l.p, request{what: fmt.Sprintf("commit of %d messages over %d", len(batch), prev.Revision), patience: ackTimeout},
		func(*fate) (uint64, error) { return l.s.commit(batch, prev.Revision, document) })
	if l.p.w.mutated("guess") && errors.Is(err, errNoAnswer) {
		sequence, err = prev.Revision+uint64(len(batch))+1, nil
	}
	if errors.Is(err, errWrongLast) {
		if err := l.compare(ctx, prev.Revision); err != nil {
			return none, err
		}
	}
	if err != nil {
		return none, err
	}
	l.seen.Store(sequence)
	stays.Revision = sequence
	return stays, nil
}

// compare returns checkpoint.ErrConflict unless the current position has the sequence expected.
func (l *jetLedger) compare(ctx context.Context, expected uint64) error {
	have, err := l.Load(ctx)
	switch {
	case errors.Is(err, checkpoint.ErrNotFound) && expected == 0:
		return nil
	case errors.Is(err, checkpoint.ErrNotFound):
		return fmt.Errorf("%w: there is none", checkpoint.ErrConflict)
	case err != nil:
		return err
	case have.Revision != expected:
		return fmt.Errorf("%w: sequence %d is current, not %d", checkpoint.ErrConflict, have.Revision, expected)
	}
	return nil
}
