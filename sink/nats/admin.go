package nats

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"workos-relay/sink"
)

// admin creates the stream of a sink, changes it, and says what speaks against it. It changes no
// stream that relay did not create.
type admin struct {
	cfg     *Config
	conn    *connection
	stream  *stream
	account account
	buckets *buckets
}

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

// prepare implements Sink.Prepare.
func (a *admin) prepare(ctx context.Context, topics []string) error {
	if err := refuseIllegal(topics); err != nil {
		return err
	}
	l, err := a.conn.connected(ctx)
	if err != nil {
		return err
	}
	subjects := a.cfg.bound(topics)
	info, err := a.findOrCreate(ctx, l, subjects)
	if err != nil {
		return err
	}
	if err := a.unfitForState(l, info.Config); err != nil {
		return &sink.FatalError{Err: err}
	}
	if info, err = a.adapt(ctx, l, info, demand{subjects: subjects, state: len(a.cfg.State) > 0}); err != nil {
		return err
	}
	if err := a.stream.rememberDomain(ctx, l); err != nil {
		return err
	}
	if err := a.buckets.prepare(ctx, l, info); err != nil {
		return err
	}
	a.cfg.Logger.Info("stream is ready", zap.String("stream", a.cfg.Stream), zap.Int("replicas", info.Config.Replicas),
		zap.Duration("duplicate_window", info.Config.Duplicates), zap.Uint64("messages", info.State.Msgs))
	return nil
}

func refuseIllegal(topics []string) error {
	var faults []string
	for _, t := range topics {
		if reason := illegalTopic(t); reason != "" {
			faults = append(faults, fmt.Sprintf("%q is not a legal subject: %s", t, reason))
		}
	}
	if faults != nil {
		return &sink.FatalError{Err: errors.New(strings.Join(faults, "; "))}
	}
	return nil
}

func (a *admin) findOrCreate(ctx context.Context, l *link, topics []string) (*jetstream.StreamInfo, error) {
	info, err := a.stream.info(ctx, l)
	switch {
	case err == nil:
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, err
	case !a.cfg.Create.Enabled:
		return nil, &sink.FatalError{Err: fmt.Errorf("stream %s does not exist, so nothing binds %s: create it with these subjects, or set create.enabled",
			a.cfg.Stream, strings.Join(topics, ", "))}
	default:
		if info, err = a.create(ctx, l, topics); err != nil {
			return nil, err
		}
	}
	return info, a.checkStream(info.Config)
}

// checkStream returns why the stream cannot be used, nil if it can.
func (a *admin) checkStream(conf jetstream.StreamConfig) error {
	if problems := refusals(conf); problems != nil {
		return &sink.FatalError{Err: fmt.Errorf("stream %s cannot be used: %s", a.cfg.Stream, strings.Join(problems, "; "))}
	}
	return nil
}

// create makes the stream, ready for a later change to exactly-once delivery. Servers before 2.12
// ignore what they do not know.
func (a *admin) create(ctx context.Context, l *link, topics []string) (*jetstream.StreamInfo, error) {
	conf := a.planned(topics)
	ctx, cancel := context.WithTimeout(ctx, a.cfg.AckTimeout)
	defer cancel()
	stream, err := l.js.CreateStream(ctx, conf)
	if isCode(err, codeInvalidJSON) { // an older server that is strict
		conf.AllowMsgTTL, conf.AllowAtomicPublish = false, false
		stream, err = l.js.CreateStream(ctx, conf)
	}
	switch {
	case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse): // by another relay, a moment ago
		return a.stream.info(ctx, l)
	case isCode(err, codeSubjectOverlap):
		return nil, a.explainOverlap(ctx, l, topics)
	case err != nil:
		var problems []string
		if a.account.refusalAdvice(err) != "" {
			problems = a.account.problems(ctx, l)
		}
		return nil, a.account.explainUnmade(l, "creating stream "+a.cfg.Stream, err, problems)
	}
	a.cfg.Logger.Info("created stream", zap.String("stream", a.cfg.Stream), zap.Int("replicas", conf.Replicas), zap.Strings("subjects", topics))
	return a.stream.noted(stream.CachedInfo()), nil
}

// planned is the configuration of a stream that relay creates.
func (a *admin) planned(topics []string) jetstream.StreamConfig {
	conf := jetstream.StreamConfig{
		Name:        a.cfg.Stream,
		Description: "WorkOS events, in the order of the Events API",
		Subjects:    topics,
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		Replicas:    a.cfg.Create.Replicas,
		MaxAge:      a.cfg.Create.MaxAge,
		MaxBytes:    int64(a.cfg.Create.MaxBytes),
		MaxMsgs:     -1,
		Duplicates:  a.cfg.DuplicateWindow,
		AllowDirect: true,
		Placement:   a.cfg.Create.placement(),
		Compression: a.cfg.Create.compression(),
		Metadata:    a.metadata(),

		AllowRollup:        true,
		AllowMsgTTL:        true,
		AllowAtomicPublish: true,
	}
	if conf.MaxBytes == 0 {
		conf.MaxBytes = -1
	}
	return conf
}

// metadata is that of a stream that relay creates.
func (a *admin) metadata() map[string]string {
	all := map[string]string{}
	maps.Copy(all, a.cfg.Create.Metadata)
	all[metadataCreator], all[metadataRelay] = creator, a.cfg.RelayID
	return all
}

func (c Create) placement() *jetstream.Placement {
	if c.Placement.isZero() {
		return nil
	}
	return &jetstream.Placement{Cluster: c.Placement.Cluster, Tags: c.Placement.Tags}
}

func (c Create) compression() jetstream.StoreCompression {
	if c.Compression == compressionS2 {
		return jetstream.S2Compression
	}
	return jetstream.NoCompression
}

// adapt changes the stream until nothing is lacking any more, if it is relay's own.
func (a *admin) adapt(ctx context.Context, l *link, info *jetstream.StreamInfo, want demand) (*jetstream.StreamInfo, error) {
	for range updateAttempts {
		lacks := want.lacking(info.Config)
		if lacks.nothing() {
			return info, nil
		}
		if !a.mayChange(info.Config) {
			return nil, a.refuseToChange(info.Config, lacks)
		}
		if err := a.change(ctx, l, info.Config, lacks); err != nil {
			return nil, err
		}
		if err := sleepAbout(ctx, updateSettle); err != nil {
			return nil, err
		}
		var err error
		if info, err = a.stream.info(ctx, l); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("changing stream %s: another program keeps changing it back", a.cfg.Stream)
}

func (a *admin) change(ctx context.Context, l *link, conf jetstream.StreamConfig, lacks demand) error {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.AckTimeout)
	defer cancel()
	_, err := l.js.UpdateStream(ctx, lacks.added(conf))
	switch {
	case isCode(err, codeSubjectOverlap):
		return a.explainOverlap(ctx, l, lacks.subjects)
	case err != nil:
		return a.account.explainUnmade(l, "changing stream "+a.cfg.Stream, err, nil)
	}
	a.cfg.Logger.Info("changed stream", zap.String("stream", a.cfg.Stream), zap.Strings("added_subjects", lacks.subjects), zap.Bool("atomic_batches", lacks.atomic))
	return nil
}

func (a *admin) mayChange(conf jetstream.StreamConfig) bool {
	return a.cfg.Create.Enabled && conf.Metadata[metadataCreator] == creator
}

// refuseToChange is the error if something is lacking in a stream that relay leaves alone. The
// topics may be routed elsewhere; what exactly-once delivery needs takes a change of the stream, so
// the command for it is named.
func (a *admin) refuseToChange(conf jetstream.StreamConfig, lacks demand) error {
	var err error
	switch {
	case !lacks.atomic && !lacks.state && !lacks.includesPosition():
		err = fmt.Errorf("stream %s does not bind %s: %s", a.cfg.Stream, strings.Join(lacks.subjects, ", "), a.howToChange(conf))
	case !lacks.atomic && !lacks.includesPosition():
		err = fmt.Errorf("stream %s lacks %s: %s, with\n  %s", a.cfg.Stream, lacks, a.howToChange(conf), lacks.command(conf))
	default:
		err = fmt.Errorf("%w: stream %s lacks %s: %s, with\n  %s", ErrStreamUnfit, a.cfg.Stream, lacks, a.howToChange(conf), lacks.command(conf))
	}
	return &sink.FatalError{Err: err}
}

func (a *admin) howToChange(conf jetstream.StreamConfig) string {
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
func (a *admin) explainOverlap(ctx context.Context, l *link, topics []string) error {
	owners := a.owners(ctx, l, topics)
	var taken []string
	for _, t := range topics {
		if owner := owners[t]; owner != "" {
			taken = append(taken, t+" by stream "+owner)
		}
	}
	if taken == nil {
		taken = []string{"a stream that binds one of " + strings.Join(topics, ", ")}
	}
	return &sink.FatalError{Err: fmt.Errorf("subjects of stream %s are taken already: %s. %s", a.cfg.Stream, strings.Join(taken, ", "), insteadOf(topics...))}
}

// insteadOf says what to do about topics that another stream binds.
func insteadOf(topics ...string) string {
	instead := "Set `stream` to that stream, or topic_prefix to another name space"
	if (demand{subjects: topics}).includesPosition() {
		instead += "; a position stays with its stream until that is deleted or no longer binds it"
	}
	return instead
}

// owners returns for each topic that another stream binds the name of that stream.
func (a *admin) owners(ctx context.Context, l *link, topics []string) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.AckTimeout)
	defer cancel()
	owners := map[string]string{}
	for _, t := range topics {
		if name, err := l.js.StreamNameBySubject(ctx, t); err == nil && name != a.cfg.Stream {
			owners[t] = name
		}
	}
	return owners
}

// demand is what a stream must have, or what it lacks of that.
type demand struct {
	subjects []string // bound
	atomic   bool     // takes atomic batches with a position in them
	state    bool     // keeps the newest version of each object, for ever
}

// lacking is the part of d that a stream of this configuration does not meet.
func (d demand) lacking(conf jetstream.StreamConfig) demand {
	return demand{
		subjects: unbound(conf.Subjects, d.subjects), atomic: d.atomic && !takesPositions(conf), state: d.state && !takesState(conf),
	}
}

// takesPositions reports whether the stream allows what a position needs: batches, the roll-up that
// replaces the position before it, and the TTL that keeps it from expiring.
func takesPositions(conf jetstream.StreamConfig) bool {
	return conf.AllowAtomicPublish && conf.AllowRollup && conf.AllowMsgTTL
}

// takesState reports whether the stream allows what state messages need: the roll-up that replaces
// the version before, and the TTL that keeps it from expiring.
func takesState(conf jetstream.StreamConfig) bool { return conf.AllowRollup && conf.AllowMsgTTL }

func (d demand) nothing() bool { return len(d.subjects) == 0 && !d.atomic && !d.state }

// includesPosition reports whether the subject of a position is in d.
func (d demand) includesPosition() bool {
	return slices.ContainsFunc(d.subjects, func(s string) bool { return sink.Matches(positionSubjects, s) })
}

// added is conf with what d says.
func (d demand) added(conf jetstream.StreamConfig) jetstream.StreamConfig {
	conf.Subjects = d.with(conf.Subjects)
	if d.state {
		conf.AllowRollup, conf.AllowMsgTTL = true, true
	}
	if d.atomic {
		conf.AllowAtomicPublish, conf.AllowRollup, conf.AllowMsgTTL = true, true, true
	}
	return conf
}

// with returns the subjects of a stream with those of d, which take the place of the ones that they
// stand for: no two subjects of a stream may overlap.
func (d demand) with(subjects []string) []string {
	kept := slices.DeleteFunc(slices.Clone(subjects), func(s string) bool { return binds(d.subjects, s) })
	return slices.Concat(kept, d.subjects)
}

// String is for people.
func (d demand) String() string {
	var parts []string
	if len(d.subjects) > 0 {
		parts = append(parts, "the subjects "+strings.Join(d.subjects, ", "))
	}
	if d.atomic {
		parts = append(parts, "allow_atomic, allow_rollup_hdrs and allow_msg_ttl")
	} else if d.state {
		parts = append(parts, "allow_rollup_hdrs and allow_msg_ttl")
	}
	return strings.Join(parts, ", and ")
}

// command adds what d says to the stream with the nats tool, whose --subjects replaces the list.
func (d demand) command(conf jetstream.StreamConfig) string {
	c := "nats stream edit " + conf.Name
	if d.atomic {
		c += " --allow-batch --allow-rollup --allow-msg-ttl"
	} else if d.state {
		c += " --allow-rollup --allow-msg-ttl"
	}
	if len(d.subjects) > 0 {
		c += " --subjects='" + strings.Join(d.with(conf.Subjects), ",") + "'"
	}
	return c
}

// inspect implements Sink.Inspect.
func (a *admin) inspect(ctx context.Context, topics []string) ([]sink.TopicStatus, error) {
	l, err := a.conn.connected(ctx)
	if err != nil {
		return nil, err
	}
	info, err := a.stream.info(ctx, l)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, err
	}
	var conf *jetstream.StreamConfig
	var patterns []string
	if err == nil {
		conf, patterns = &info.Config, info.Config.Subjects
	}
	subjects := a.cfg.bound(topics)
	missing := unbound(patterns, subjects)
	owners := a.owners(ctx, l, missing)
	may, known := a.publishing(ctx, l)
	status := make([]sink.TopicStatus, len(topics))
	for i, t := range topics {
		status[i] = a.inspectTopic(t, conf, owners[subjects[i]])
		if err := may.forbids(subjects[i]); known && err != nil {
			status[i].Exists, status[i].Creates = false, false
			status[i].Problems = append(status[i].Problems, err.Error())
		}
		if at := slices.IndexFunc(a.cfg.State, func(s sink.StateTopic) bool { return s.Topic == t }); at >= 0 {
			if err := a.inspectState(ctx, l, a.cfg.State[at], conf, &status[i]); err != nil {
				return nil, err
			}
		}
	}
	if len(status) == 0 {
		return status, nil
	}
	first := &status[0] // what is about the stream is said once
	switch {
	case conf == nil && a.cfg.Create.Enabled:
		for _, p := range a.uncreatable(ctx, l) {
			first.Creates = false
			first.Problems = append(first.Problems, fmt.Sprintf("stream %s cannot be created: %s", a.cfg.Stream, p))
		}
	case conf != nil && len(missing) > 0 && a.mayChange(*conf):
		if err := a.forbidden(ctx, l, "STREAM.UPDATE."+a.cfg.Stream, "changing stream "+a.cfg.Stream); err != nil {
			first.Exists, first.Creates = false, false
			first.Problems = append(first.Problems, err.Error())
		}
	}
	return status, nil
}

// largest returns how many bytes of a message the server and the stream take; 0 if that is not
// known.
func (a *admin) largest(conf *jetstream.StreamConfig) int {
	l, err := a.conn.usableLink()
	if err != nil {
		return 0
	}
	n := int(l.nc.MaxPayload())
	if conf != nil && conf.MaxMsgSize > 0 && (n == 0 || int(conf.MaxMsgSize) < n) {
		n = int(conf.MaxMsgSize)
	}
	return n
}

// inspectTopic looks at one topic. conf is nil if the stream does not exist; owner is another
// stream that binds the topic.
func (a *admin) inspectTopic(topic string, conf *jetstream.StreamConfig, owner string) sink.TopicStatus {
	st := sink.TopicStatus{Topic: topic, MaxMessage: a.largest(conf)}
	problem := func(format string, args ...any) { st.Problems = append(st.Problems, fmt.Sprintf(format, args...)) }
	if reason := illegalTopic(topic); reason != "" {
		problem("not a legal subject: %s", reason)
		return st
	}
	switch {
	case conf == nil && a.cfg.Create.Enabled:
		st.Detail = "to be created: " + describe(a.planned([]string{topic}))
	case conf != nil:
		st.Detail = describe(*conf)
		st.Problems, st.Warnings = refusals(*conf), warnings(*conf)
		st.Exists = len(st.Problems) == 0 && len(unbound(conf.Subjects, a.cfg.bound([]string{topic}))) == 0
	}
	if conf == nil && a.placementIdle() {
		st.Warnings = append(st.Warnings, "create.placement has no effect: the NATS server is not part of a cluster")
	}
	switch {
	case st.Exists || len(st.Problems) > 0:
	case owner != "":
		problem("stream %s binds it already, so stream %s cannot. %s", owner, a.cfg.Stream, insteadOf(topic))
	case conf == nil && !a.cfg.Create.Enabled:
		problem("stream %s does not exist: create it, or set create.enabled", a.cfg.Stream)
	case conf != nil && !a.mayChange(*conf):
		problem("stream %s does not bind it: %s", a.cfg.Stream, a.howToChange(*conf))
	default:
		st.Creates = true
	}
	return st
}

// inspectState completes the line of a topic of state messages. conf is nil if the stream does not
// exist.
func (a *admin) inspectState(ctx context.Context, l *link, t sink.StateTopic, conf *jetstream.StreamConfig, st *sink.TopicStatus) error {
	if conf != nil {
		st.Warnings = append(st.Warnings, stateWarnings(*conf)...)
		if err := a.unfitForState(l, *conf); err != nil {
			st.Problems = append(st.Problems, err.Error())
		} else if lacks := (demand{state: true}).lacking(*conf); !lacks.nothing() {
			st.Exists = false
			if !a.mayChange(*conf) {
				st.Problems = append(st.Problems, a.refuseToChange(*conf, lacks).Error())
			}
		}
	}
	return a.buckets.inspect(ctx, l, t, st)
}

// unfitForState says why the stream can keep no state; nil if it can, once it is changed.
func (a *admin) unfitForState(l *link, conf jetstream.StreamConfig) error {
	switch {
	case len(a.cfg.State) == 0:
		return nil
	case conf.DenyPurge:
		return fmt.Errorf("stream %s denies purging (deny_purge, which cannot be undone), so no version of an object could take the place of the one before it; "+
			"use another stream, or take `state` out of the sink", a.cfg.Stream)
	case !conf.AllowMsgTTL && !knowsTTL(serverVersion(l, conf)):
		return fmt.Errorf("NATS server %s has no TTL of messages, which keeps the state of objects from expiring, 2.11 was the first: update it, "+
			"or take `state` out of the sink", serverVersion(l, conf))
	}
	return nil
}

// placementIdle reports whether a placement is configured and the server has no cluster to place
// the stream in.
func (a *admin) placementIdle() bool {
	l, err := a.conn.usableLink()
	return err == nil && !a.cfg.Create.Placement.isZero() && a.cfg.Domain == "" && a.cfg.APIPrefix == "" && l.nc.ConnectedClusterName() == ""
}

func describe(conf jetstream.StreamConfig) string {
	age := "for ever"
	if conf.MaxAge > 0 {
		age = "for " + conf.MaxAge.Round(time.Second).String()
	}
	return fmt.Sprintf("stream %s, replicas %d, kept %s, duplicate window %v", conf.Name, conf.Replicas, age, conf.Duplicates)
}

// refusals says why events cannot be kept in a stream of this kind; nil if they can.
func refusals(conf jetstream.StreamConfig) []string {
	var problems []string
	refuse := func(when bool, why string) {
		if when {
			problems = append(problems, why)
		}
	}
	refuse(conf.Retention == jetstream.InterestPolicy, "its retention is interest, so an event that no consumer waits for is dropped at once: use limits")
	refuse(conf.Retention == jetstream.WorkQueuePolicy, "its retention is workqueue, so the first consumer takes an event away from all others: use limits")
	refuse(conf.Mirror != nil, "it is a mirror, which takes no messages but those of its origin: use its origin")
	refuse(conf.Sealed, "it is sealed and takes no messages any more")
	refuse(conf.NoAck, "it does not acknowledge (no_ack), so nothing can be known to be stored")
	refuse(conf.SubjectTransform != nil, "it transforms subjects, so events would not be found under their topics")
	refuse(conf.AllowMsgCounter, "it is a stream of counters (allow_msg_counter), which takes no events")
	return problems
}

// warnings says what weakens the guarantees of a stream that can be used.
func warnings(conf jetstream.StreamConfig) []string {
	var found []string
	warn := func(when bool, what string) {
		if when {
			found = append(found, what)
		}
	}
	warn(conf.Storage == jetstream.MemoryStorage, "the stream is kept in memory: a restart of the server loses it")
	warn(conf.PersistMode == jetstream.AsyncPersistMode, "persist_mode is async: messages are acknowledged before they are written")
	warn(conf.Discard == jetstream.DiscardNew && (conf.MaxMsgs > 0 || conf.MaxBytes > 0), "discard is new: relay stands still once the stream is full")
	warn(conf.MaxMsgsPerSubject > 0, fmt.Sprintf("max_msgs_per_subject is %d: older events of a type are dropped", conf.MaxMsgsPerSubject))
	return found
}

// unfit says why a stream that takes events can take no atomic batches with a position; nil if it
// can, once it is changed.
func (a *admin) unfit(l *link, conf jetstream.StreamConfig) error {
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
		return fmt.Errorf("%w: stream %s: %s; use another stream, or `delivery: at_least_once`", ErrStreamUnfit, a.cfg.Stream, strings.Join(problems, "; "))
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
func knowsAtomicPublish(version string) bool { return isFrom(version, 12) }

// knowsTTL holds for versions from 2.11 on, and for those that cannot be read.
func knowsTTL(version string) bool { return isFrom(version, 11) }

// isFrom reports whether version is 2.minor or later. It holds for one that cannot be read.
func isFrom(version string, minor int) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return true
	}
	major, err1 := strconv.Atoi(strings.TrimPrefix(parts[0], "v"))
	have, err2 := strconv.Atoi(parts[1])
	return err1 != nil || err2 != nil || major > 2 || major == 2 && have >= minor
}
