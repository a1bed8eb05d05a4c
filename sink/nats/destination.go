package nats

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"workos-relay/internal/printable"
	"workos-relay/sink"
)

// Metadata of a stream that relay created, by which it knows that it may add subjects.
const (
	metadataCreator = "relay.created-by"
	metadataRelay   = "relay.id"
	creator         = "relay"
)

// JetStream changes a stream without compare and swap, so two relays that add subjects at the same
// moment can undo each other's change. Each looks again after a pause, and adds what is missing.
const (
	updateAttempts = 8
	updateSettle   = 100 * time.Millisecond
)

// Prepare implements sink.Destination: the stream is there and binds every topic when it returns
// nil.
func (s *Sink) Prepare(ctx context.Context, topics []string) error {
	if err := refuseIllegal(topics); err != nil {
		return err
	}
	l, err := s.connected(ctx)
	if err != nil {
		return err
	}
	info, err := s.findOrCreate(ctx, l, topics)
	if err != nil {
		return err
	}
	if info, err = s.adapt(ctx, l, info, demand{subjects: topics}); err != nil {
		return err
	}
	if err := s.settleIn(ctx, l); err != nil {
		return err
	}
	s.log.Info("stream is ready", zap.String("stream", s.cfg.Stream), zap.Int("replicas", info.Config.Replicas),
		zap.Duration("duplicate_window", info.Config.Duplicates), zap.Uint64("messages", info.State.Msgs))
	return nil
}

func refuseIllegal(topics []string) error {
	var faults []string
	for _, t := range topics {
		if reason := illegalSubject(t); reason != "" {
			faults = append(faults, fmt.Sprintf("%q is not a legal subject: %s", t, reason))
		}
	}
	if faults != nil {
		return &sink.FatalError{Err: errors.New(strings.Join(faults, "; "))}
	}
	return nil
}

// streamInfo asks the leader of the stream. What Publish and Commit check before they send is taken
// from the answer.
func (s *Sink) streamInfo(ctx context.Context, l *link) (*jetstream.StreamInfo, error) {
	var stream jetstream.Stream
	err := s.ask(ctx, func(ctx context.Context) (err error) {
		stream, err = l.js.Stream(ctx, s.cfg.Stream)
		return err
	})
	if err != nil {
		return nil, s.explainAPI(l, "looking for stream "+s.cfg.Stream, err)
	}
	return s.noted(stream.CachedInfo()), nil
}

func (s *Sink) noted(info *jetstream.StreamInfo) *jetstream.StreamInfo {
	s.maxMsg.Store(int64(info.Config.MaxMsgSize))
	s.binding.Store(&info.Config.Subjects)
	return info
}

// explainAPI says what an error of the JetStream API most likely means. What callers test for stays
// in it.
func (s *Sink) explainAPI(l *link, doing string, err error) error {
	err = printable.Error(err)
	if denied := l.permissionDenied(); denied != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders)) {
		return fmt.Errorf("%s: the NATS user lacks a permission for the JetStream API: %w", doing, printable.Error(denied))
	}
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%s: nothing answers for JetStream; it is not enabled on the server, domain or api_prefix is wrong, or the cluster has no leader yet: %w", doing, err)
	case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return fmt.Errorf("%s: JetStream is not enabled for the account of this user: %w", doing, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: JetStream did not answer in time; the cluster may have no leader: %w", doing, err)
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
}

func (s *Sink) findOrCreate(ctx context.Context, l *link, topics []string) (*jetstream.StreamInfo, error) {
	info, err := s.streamInfo(ctx, l)
	switch {
	case err == nil:
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, err
	case !s.cfg.Create.Enabled:
		return nil, &sink.FatalError{Err: fmt.Errorf("stream %s does not exist, so nothing binds %s: create it with these subjects, or set create.enabled",
			s.cfg.Stream, strings.Join(topics, ", "))}
	default:
		if info, err = s.create(ctx, l, topics); err != nil {
			return nil, err
		}
	}
	return info, s.refuse(info.Config)
}

// refuse returns why the stream cannot be used, nil if it can.
func (s *Sink) refuse(conf jetstream.StreamConfig) error {
	if problems := refusals(conf); problems != nil {
		return &sink.FatalError{Err: fmt.Errorf("stream %s cannot be used: %s", s.cfg.Stream, strings.Join(problems, "; "))}
	}
	return nil
}

// create makes the stream, ready for a later change to exactly-once delivery. Servers before 2.12
// ignore what they do not know.
func (s *Sink) create(ctx context.Context, l *link, topics []string) (*jetstream.StreamInfo, error) {
	conf := jetstream.StreamConfig{
		Name:        s.cfg.Stream,
		Description: "WorkOS events, in the order of the Events API",
		Subjects:    topics,
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		Replicas:    s.cfg.Create.Replicas,
		MaxAge:      s.cfg.Create.MaxAge,
		MaxBytes:    int64(s.cfg.Create.MaxBytes),
		MaxMsgs:     -1,
		Duplicates:  s.cfg.DuplicateWindow,
		AllowDirect: true,
		Metadata:    map[string]string{metadataCreator: creator, metadataRelay: s.cfg.RelayID},

		AllowRollup:        true,
		AllowMsgTTL:        true,
		AllowAtomicPublish: true,
	}
	if conf.MaxBytes == 0 {
		conf.MaxBytes = -1
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.AckTimeout)
	defer cancel()
	stream, err := l.js.CreateStream(ctx, conf)
	if isCode(err, codeInvalidJSON) { // an older server that is strict
		conf.AllowMsgTTL, conf.AllowAtomicPublish = false, false
		stream, err = l.js.CreateStream(ctx, conf)
	}
	switch {
	case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse): // by another relay, a moment ago
		return s.streamInfo(ctx, l)
	case isCode(err, codeSubjectOverlap):
		return nil, s.explainOverlap(ctx, l, topics)
	case err != nil:
		var problems []string
		if s.refusalAdvice(err) != "" {
			problems = s.accountProblems(ctx, l)
		}
		return nil, s.explainUnmade(l, "creating stream "+s.cfg.Stream, err, problems)
	}
	s.log.Info("created stream", zap.String("stream", s.cfg.Stream), zap.Int("replicas", conf.Replicas), zap.Strings("subjects", topics))
	return s.noted(stream.CachedInfo()), nil
}

func isCode(err error, code jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == code
}

// adapt changes the stream until nothing is lacking any more, if it is relay's own.
func (s *Sink) adapt(ctx context.Context, l *link, info *jetstream.StreamInfo, want demand) (*jetstream.StreamInfo, error) {
	for range updateAttempts {
		lacks := want.lacking(info.Config)
		if lacks.nothing() {
			return info, nil
		}
		if !s.mayChange(info.Config) {
			return nil, s.refuseToChange(info.Config, lacks)
		}
		if err := s.change(ctx, l, info.Config, lacks); err != nil {
			return nil, err
		}
		if err := pause(ctx, updateSettle); err != nil {
			return nil, err
		}
		var err error
		if info, err = s.streamInfo(ctx, l); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("changing stream %s: another program keeps changing it back", s.cfg.Stream)
}

// pause waits for about d, a random part of it more.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d + rand.N(d)): //nolint:gosec // jitter
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Sink) change(ctx context.Context, l *link, conf jetstream.StreamConfig, lacks demand) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.AckTimeout)
	defer cancel()
	_, err := l.js.UpdateStream(ctx, lacks.added(conf))
	switch {
	case isCode(err, codeSubjectOverlap):
		return s.explainOverlap(ctx, l, lacks.subjects)
	case err != nil:
		return s.explainUnmade(l, "changing stream "+s.cfg.Stream, err, nil)
	}
	s.log.Info("changed stream", zap.String("stream", s.cfg.Stream), zap.Strings("added_subjects", lacks.subjects), zap.Bool("atomic_batches", lacks.atomic))
	return nil
}

func (s *Sink) mayChange(conf jetstream.StreamConfig) bool {
	return s.cfg.Create.Enabled && conf.Metadata[metadataCreator] == creator
}

// refuseToChange is the error if something is lacking in a stream that relay leaves alone. The
// topics may be routed elsewhere; what exactly-once delivery needs takes a change of the stream, so
// the command for it is named.
func (s *Sink) refuseToChange(conf jetstream.StreamConfig, lacks demand) error {
	var err error
	if !lacks.atomic && !lacks.position() {
		err = fmt.Errorf("stream %s does not bind %s: %s", s.cfg.Stream, strings.Join(lacks.subjects, ", "), s.howToChange(conf))
	} else {
		err = fmt.Errorf("%w: stream %s lacks %s: %s, with\n  %s", ErrStreamUnfit, s.cfg.Stream, lacks, s.howToChange(conf), lacks.command(conf))
	}
	return &sink.FatalError{Err: err}
}

func (s *Sink) howToChange(conf jetstream.StreamConfig) string {
	if conf.Metadata[metadataCreator] == creator {
		return "add that to it, or set create.enabled"
	}
	return "relay did not create the stream and leaves it alone: add that to it, or use another stream"
}

func unbound(patterns, topics []string) []string {
	var missing []string
	for _, t := range topics {
		if !binds(patterns, t) && !slices.Contains(missing, t) {
			missing = append(missing, t)
		}
	}
	return missing
}

// explainOverlap names the streams that hold the subjects already.
func (s *Sink) explainOverlap(ctx context.Context, l *link, topics []string) error {
	owners := s.owners(ctx, l, topics)
	var taken []string
	for _, t := range topics {
		if owner := owners[t]; owner != "" {
			taken = append(taken, t+" by stream "+owner)
		}
	}
	if taken == nil {
		taken = []string{"a stream that binds one of " + strings.Join(topics, ", ")}
	}
	instead := "topic_prefix to another name space"
	if (demand{subjects: topics}).position() {
		instead += "; a position stays with its stream until that is deleted or no longer binds it"
	}
	return &sink.FatalError{Err: fmt.Errorf("subjects of stream %s are taken already: %s. Set `stream` to that stream, or %s",
		s.cfg.Stream, strings.Join(taken, ", "), instead)}
}

// owners returns for each topic that another stream binds the name of that stream.
func (s *Sink) owners(ctx context.Context, l *link, topics []string) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.AckTimeout)
	defer cancel()
	owners := map[string]string{}
	for _, t := range topics {
		if name, err := l.js.StreamNameBySubject(ctx, t); err == nil && name != s.cfg.Stream {
			owners[t] = name
		}
	}
	return owners
}
