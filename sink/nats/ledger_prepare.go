package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"workos-relay/checkpoint"
	"workos-relay/sink"
)

// Prepare makes the stream ready for batches on these topics with the position among them: it
// creates it, or changes one that relay created, where the configuration says so. Besides those of
// sink.Destination its errors are ErrNoAtomicPublish and ErrStreamUnfit, and checkpoint.ErrLost
// if a stream that held a position before is gone.
func (l *Ledger) Prepare(ctx context.Context, topics []string) error {
	if err := errors.Join(refuseIllegal(topics), takesNoEvents(topics)); err != nil {
		return err
	}
	lk, err := l.s.connected(ctx)
	if err != nil {
		return err
	}
	all := slices.Concat(topics, []string{l.subject})
	info, err := l.findOrCreate(ctx, lk, all)
	if err != nil {
		return err
	}
	if err := l.s.unfit(lk, info.Config); err != nil {
		return &sink.FatalError{Err: err}
	}
	if info, err = l.s.adapt(ctx, lk, info, demand{subjects: all, atomic: true}); err != nil {
		return err
	}
	if err := l.s.settleIn(ctx, lk); err != nil {
		return err
	}
	l.s.log.Info("stream is ready for exactly-once delivery", zap.String("stream", l.s.cfg.Stream), zap.String("position", l.subject),
		zap.Int("replicas", info.Config.Replicas), zap.Uint64("messages", info.State.Msgs))
	return nil
}

// findOrCreate makes no second stream in the place of one that held a position: the lane would
// start over in it.
func (l *Ledger) findOrCreate(ctx context.Context, lk *link, subjects []string) (*jetstream.StreamInfo, error) {
	seen := l.seen()
	if seen == 0 {
		return l.s.findOrCreate(ctx, lk, subjects)
	}
	info, err := l.s.lookAgain(ctx, lk)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, fmt.Errorf("%w: stream %s is not there any more, which held sequence %d on %s: it was deleted, or the server lost its store. "+
			"Restore it, or say where to go on", checkpoint.ErrLost, l.s.cfg.Stream, seen, l.subject)
	case err != nil:
		return nil, err
	}
	return info, l.s.refuse(info.Config)
}

// Inspect implements sink.Destination. One line more than topics tells of the position.
func (l *Ledger) Inspect(ctx context.Context, topics []string) ([]sink.TopicStatus, error) {
	lk, err := l.s.connected(ctx)
	if err != nil {
		return nil, err
	}
	info, err := l.s.streamInfo(ctx, lk)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, err
	}
	status, err2 := l.s.Inspect(ctx, slices.Concat(topics, []string{l.subject}))
	if err2 != nil {
		return nil, err2
	}
	position := &status[len(topics)]
	position.Detail = strings.TrimSuffix("the position; "+position.Detail, "; ")
	if err != nil {
		return status, nil //nolint:nilerr // a missing stream is told in each line
	}
	if unfit := l.s.unfit(lk, info.Config); unfit != nil {
		position.Unfit = unfit
	} else if lacks := (demand{atomic: true}).lacking(info.Config); !lacks.nothing() && !l.s.mayChange(info.Config) {
		position.Unfit = l.s.refuseToChange(info.Config, lacks)
	}
	if position.Unfit != nil {
		position.Problems = append(position.Problems, position.Unfit.Error())
	}
	position.Exists = position.Exists && len(position.Problems) == 0 && takesPositions(info.Config)
	position.Creates = !position.Exists && len(position.Problems) == 0
	return status, nil
}

// unfit says why a stream that takes events can take no atomic batches with a position; nil where
// it can, once it is changed.
func (s *Sink) unfit(l *link, conf jetstream.StreamConfig) error {
	if !conf.AllowAtomicPublish {
		if version := serverVersion(l, conf); !knowsAtomicPublish(version) {
			return fmt.Errorf("%w: NATS server %s has none, 2.12 was the first: update it, or set `delivery: at_least_once`", ErrNoAtomicPublish, version)
		}
	}
	var problems []string
	refuse := func(when bool, why string) {
		if when {
			problems = append(problems, why)
		}
	}
	refuse(conf.DenyPurge, "it denies purging (deny_purge, which cannot be undone), so no position could take the place of the one before it")
	refuse(conf.DiscardNewPerSubject, "it refuses what exceeds max_msgs_per_subject (discard_new_per_subject), so one full subject would hold up all: switch that off")
	refuse(conf.PersistMode == jetstream.AsyncPersistMode, "its persist_mode is async (which cannot be undone), for which the server takes no atomic batches")
	if problems != nil {
		return fmt.Errorf("%w: stream %s: %s; use another stream, or `delivery: at_least_once`", ErrStreamUnfit, s.cfg.Stream, strings.Join(problems, "; "))
	}
	return nil
}

// serverVersion is the version of the server that leads the stream, as far as that is told, else of
// the one connected to.
func serverVersion(l *link, conf jetstream.StreamConfig) string {
	if v := conf.Metadata["_nats.ver"]; v != "" { // from 2.11 on, of the server that answered
		return v
	}
	return l.nc.ConnectedServerVersion()
}

// knowsAtomicPublish holds for versions from 2.12 on, and for those that cannot be read.
func knowsAtomicPublish(version string) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return true
	}
	major, err1 := strconv.Atoi(strings.TrimPrefix(parts[0], "v"))
	minor, err2 := strconv.Atoi(parts[1])
	return err1 != nil || err2 != nil || major > 2 || major == 2 && minor >= 12
}
