package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

// Why a stream cannot take exactly-once delivery although it may well take at-least-once. Prepare
// returns them within a *sink.FatalError; the error itself says what to do.
var (
	// ErrNoAtomicPublish: the server is older than 2.12 and knows no atomic batches.
	ErrNoAtomicPublish = errors.New("no atomic batches")
	// ErrStreamUnfit: the stream is of a kind that can hold no position, or lacks settings that
	// relay may not change.
	ErrStreamUnfit = errors.New("not fit for exactly_once")
)

// Ledger is a stream that stores the events of a lane and its position in one atomic batch
// (nats-server 2.12 and later). The position is the only message on its subject,
// relay.position.<relay id>.<sink>: each takes the place of the one before it, and names the
// sequence of that one, which the server compares. So a batch that comes late, or from a relay that
// was overtaken, is refused as a whole, however stale the checkpoint is that it was made with.
//
// A Ledger shares the connection of its Sink and ends with it. Its methods are safe for concurrent
// use; commits wait for each other, and for Publish.
type Ledger struct {
	sink      *Sink
	position  *positionReader
	committer *committer
}

var (
	_ sink.Ledger       = (*Ledger)(nil)
	_ sink.Configurable = (*Ledger)(nil)
)

// Subject returns the subject of the position.
func (l *Ledger) Subject() string { return l.position.subject }

// Identity implements sink.Destination.
func (l *Ledger) Identity() string { return l.sink.Identity() }

// Holds implements sink.Destination.
func (l *Ledger) Holds(ctx context.Context, topics []string) (bool, error) {
	return l.sink.Holds(ctx, topics)
}

// Fence does nothing: every commit moves the position to another sequence, which fences all who
// have seen an earlier one only.
func (l *Ledger) Fence(context.Context) error { return nil }

// Load reads the position through the leader of the stream, never from a replica, which may lag. A
// leader that was deposed and does not know it yet may still answer with an earlier position; a
// commit made with that is refused. Besides the errors of checkpoint.Store.Load it returns
// checkpoint.ErrLost if a position that this Ledger has seen is gone.
func (l *Ledger) Load(ctx context.Context) (checkpoint.Checkpoint, error) {
	return l.position.load(ctx)
}

// LoadForReplace reads the current position, also one of another relay, and makes Commit replace
// it.
func (l *Ledger) LoadForReplace(ctx context.Context) (checkpoint.Checkpoint, error) {
	return l.position.loadForReplace(ctx)
}

// Forget makes the ledger one that has seen no position: an operator has decided that what was
// there does not matter.
func (l *Ledger) Forget() { l.position.saw(0) }

// MaxBatch is how many messages Commit takes: a server takes 1,000 in an atomic batch, and the last
// is the position.
const MaxBatch = 999

// Commit stores batch, which may be empty, and replaces prev by next, in one atomic act. The
// revision of the checkpoint that it returns is the sequence of the position in the stream. Nothing
// is sent twice inside, and no message carries an id to be recognised by: a second copy anywhere in
// a batch would have all of it refused.
//
// If a message can never be stored nothing is, and the error is a *sink.PublishError with its
// index and a *sink.RejectedError (or a *sink.FatalError if the stream does not bind its topic).
// checkpoint.ErrConflict means that the current position is not prev. After any other error either
// prev or next is in effect; Load tells, and a commit that is late finds that out itself.
func (l *Ledger) Commit(ctx context.Context, batch []sink.Message, prev, next checkpoint.Checkpoint) (checkpoint.Checkpoint, error) {
	return l.committer.commit(ctx, batch, prev, next)
}

// Prepare makes the stream ready for batches on these topics with the position among them: it
// creates it, or changes one that relay created, if the configuration says so. Besides those of
// sink.Destination its errors are ErrNoAtomicPublish and ErrStreamUnfit, and checkpoint.ErrLost
// if a stream that held a position before is gone.
func (l *Ledger) Prepare(ctx context.Context, topics []string) error {
	if err := errors.Join(refuseIllegal(topics), takesNoEvents(topics)); err != nil {
		return err
	}
	lk, err := l.sink.conn.connected(ctx)
	if err != nil {
		return err
	}
	all := slices.Concat(l.sink.cfg.bound(topics), []string{l.position.subject})
	info, err := l.findOrCreate(ctx, lk, all)
	if err != nil {
		return err
	}
	if err := l.sink.admin.unfit(lk, info.Config); err != nil {
		return &sink.FatalError{Err: err}
	}
	if info, err = l.sink.admin.adapt(ctx, lk, info, demand{subjects: all, atomic: true}); err != nil {
		return err
	}
	if err := l.sink.stream.rememberDomain(ctx, lk); err != nil {
		return err
	}
	if err := l.sink.admin.buckets.prepare(ctx, lk, info); err != nil {
		return err
	}
	l.sink.cfg.Logger.Info("stream is ready for exactly-once delivery", zap.String("stream", l.sink.cfg.Stream), zap.String("position", l.position.subject),
		zap.Int("replicas", info.Config.Replicas), zap.Uint64("messages", info.State.Msgs))
	return nil
}

// findOrCreate makes no second stream in the place of one that held a position: the lane would
// start over in it.
func (l *Ledger) findOrCreate(ctx context.Context, lk *link, subjects []string) (*jetstream.StreamInfo, error) {
	seen := l.position.seen()
	if seen == 0 {
		return l.sink.admin.findOrCreate(ctx, lk, subjects)
	}
	info, err := l.sink.stream.lookAgain(ctx, lk)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, fmt.Errorf("%w: stream %s is not there any more, which held sequence %d on %s: it was deleted, or the server lost its store. "+
			"Restore it, or say where to go on", checkpoint.ErrLost, l.sink.cfg.Stream, seen, l.position.subject)
	case err != nil:
		return nil, err
	}
	return info, l.sink.admin.checkStream(info.Config)
}

// Inspect implements sink.Destination. One line more than topics tells of the position.
func (l *Ledger) Inspect(ctx context.Context, topics []string) ([]sink.TopicStatus, error) {
	lk, err := l.sink.conn.connected(ctx)
	if err != nil {
		return nil, err
	}
	info, err := l.sink.stream.info(ctx, lk)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, err
	}
	status, err2 := l.sink.Inspect(ctx, slices.Concat(topics, []string{l.position.subject}))
	if err2 != nil {
		return nil, err2
	}
	position := &status[len(topics)]
	position.Detail = strings.TrimSuffix("the position; "+position.Detail, "; ")
	if err != nil {
		return status, nil //nolint:nilerr // a missing stream is told in each line
	}
	if unfit := l.sink.admin.unfit(lk, info.Config); unfit != nil {
		position.Unfit = unfit
	} else if lacks := (demand{atomic: true}).lacking(info.Config); !lacks.nothing() && !l.sink.admin.mayChange(info.Config) {
		position.Unfit = l.sink.admin.refuseToChange(info.Config, lacks)
	}
	if position.Unfit != nil {
		position.Problems = append(position.Problems, position.Unfit.Error())
	}
	position.Exists = position.Exists && len(position.Problems) == 0 && takesPositions(info.Config)
	position.Creates = !position.Exists && len(position.Problems) == 0
	return status, nil
}

// Settings implements sink.Configurable.
func (l *Ledger) Settings(ctx context.Context, topics []string, apply bool) ([]sink.Setting, error) {
	return l.sink.Settings(ctx, topics, apply)
}

// Ping implements sink.Destination.
func (l *Ledger) Ping(ctx context.Context) error { return l.sink.Ping(ctx) }

// Survey implements sink.Destination. The stream holds the position, too.
func (l *Ledger) Survey(ctx context.Context, topics []string, known []checkpoint.Part) ([]checkpoint.Part, error) {
	parts, err := l.sink.Survey(ctx, topics, known)
	for i := range parts {
		parts[i].Position = true
		parts[i].Events -= min(parts[i].Events, 1) // the position
	}
	return parts, err
}
