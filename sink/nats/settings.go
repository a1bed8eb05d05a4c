package nats

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"workos-relay/conf/unit"
	"workos-relay/internal/printable"
	"workos-relay/sink"
)

// The keys of the configuration that relay applies to a stream it created.
const (
	keyReplicas   = "create.replicas"
	keyMaxAge     = "create.max_age"
	keyMaxBytes   = "create.max_bytes"
	keyDuplicates = "duplicate_window"

	keyPlacement   = "create.placement"
	keyCompression = "create.compression"
	keyMetadata    = "create.metadata"
)

// errContested: a setting does not stay as relay has set it.
var errContested = errors.New("relay has changed it already, and another program has changed it back, perhaps a relay with " +
	"another configuration; make them agree, then restart relay")

// settings compares the stream with what the configuration names, and changes a stream that relay
// created.
type settings struct {
	cfg     *Config
	conn    *connection
	stream  *stream
	account account
	asked   asked

	mu      sync.Mutex        // held by apply and guards applied
	applied map[string]string // what relay has set, by the key of the configuration
}

// tunable is a setting of the stream that the configuration names and that differs in the stream.
type tunable struct {
	sink.Setting

	set func(*jetstream.StreamConfig)
}

// compare implements sink.Configurable: what the configuration says of the stream, for any
// topics.
func (s *settings) compare(ctx context.Context, apply bool) ([]sink.Setting, error) {
	l, err := s.conn.connected(ctx)
	if err != nil {
		return nil, err
	}
	info, err := s.stream.info(ctx, l)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []sink.Setting
	differ := s.differences(info)
	s.account.checkChanges(ctx, l, info.Config, differ)
	for _, t := range differ {
		if apply && t.Outcome == sink.Changes {
			s.apply(ctx, l, &t)
		}
		found = append(found, t.Setting)
	}
	return found, nil
}

// differences compares the stream with what the configuration file names. The order is the one in
// which relay applies them: a longer duplicate window may need the longer max_age.
func (s *settings) differences(info *jetstream.StreamInfo) []tunable {
	conf, want := info.Config, s.asked
	var found []tunable
	differs := func(key, have, wanted, why string, outcome sink.Outcome, set func(*jetstream.StreamConfig)) {
		setting := sink.Setting{Of: "stream " + s.cfg.Stream, Key: key, Have: have, Want: wanted, Why: why, Outcome: outcome}
		if setting.Outcome == "" {
			setting.Outcome = sink.Changes
		}
		found = append(found, tunable{s.applyRules(conf, setting), set})
	}
	age := conf.MaxAge
	if want.maxAge != nil && *want.maxAge != conf.MaxAge {
		why, outcome := s.judgeAge(info, *want.maxAge)
		if outcome == "" {
			age = *want.maxAge
			if age > 0 && conf.Duplicates > age {
				why = strings.TrimPrefix(why+"; "+keyDuplicates+" becomes "+durationText(age)+" with it", "; ")
			}
		}
		differs(keyMaxAge, ageText(conf.MaxAge), ageText(*want.maxAge), why, outcome, func(c *jetstream.StreamConfig) {
			c.MaxAge = *want.maxAge
			if c.MaxAge > 0 { // the server refuses a longer one
				c.Duplicates = min(c.Duplicates, c.MaxAge)
			}
		})
	}
	if have := max(conf.MaxBytes, 0); want.maxBytes != nil && *want.maxBytes != have {
		why, outcome := s.judgeBytes(info, *want.maxBytes)
		differs(keyMaxBytes, bytesText(have), bytesText(*want.maxBytes), why, outcome, func(c *jetstream.StreamConfig) {
			c.MaxBytes = *want.maxBytes
			if c.MaxBytes == 0 {
				c.MaxBytes = -1
			}
		})
	}
	if want.duplicates != nil && *want.duplicates != conf.Duplicates {
		why, outcome := "", sink.Outcome("")
		if age > 0 && *want.duplicates > age {
			why, outcome = fmt.Sprintf("it cannot be longer than the max_age of the stream, which is %s: raise %s", ageText(age), keyMaxAge), sink.Unchanged
		}
		differs(keyDuplicates, durationText(conf.Duplicates), durationText(*want.duplicates), why, outcome, func(c *jetstream.StreamConfig) { c.Duplicates = *want.duplicates })
	}
	if want.replicas != nil && *want.replicas != conf.Replicas {
		why, outcome := s.judgeReplicas(info, *want.replicas)
		differs(keyReplicas, strconv.Itoa(conf.Replicas), strconv.Itoa(*want.replicas), why, outcome, func(c *jetstream.StreamConfig) { c.Replicas = *want.replicas })
	}
	if want.compression != nil && *want.compression != conf.Compression {
		differs(keyCompression, compressionText(conf.Compression), compressionText(*want.compression), "", "",
			func(c *jetstream.StreamConfig) { c.Compression = *want.compression })
	}
	if have := subset(conf.Metadata, want.metadata); !maps.Equal(have, want.metadata) {
		differs(keyMetadata, metadataText(have), metadataText(want.metadata), "", "", func(c *jetstream.StreamConfig) {
			c.Metadata = maps.Clone(c.Metadata)
			maps.Copy(c.Metadata, want.metadata)
		})
	}
	if want.placement != nil && placementText(conf.Placement) != placementText(*want.placement) {
		why, outcome := "", sink.Outcome("")
		if info.Cluster == nil || info.Cluster.Name == "" {
			why, outcome = "the NATS server is not part of a cluster, so there is nowhere else to store the stream", sink.Unchanged
		}
		differs(keyPlacement, placementText(conf.Placement), placementText(*want.placement), why, outcome,
			func(c *jetstream.StreamConfig) { c.Placement = *want.placement })
	}
	return found
}

// subset returns the entries of all whose keys are in keys.
func subset(all, keys map[string]string) map[string]string {
	out := map[string]string{}
	for key := range keys {
		if value, ok := all[key]; ok {
			out[key] = value
		}
	}
	return out
}

// applyRules adds what holds for every setting: relay leaves a stream of others alone, and does not
// change a setting a second time.
func (s *settings) applyRules(conf jetstream.StreamConfig, setting sink.Setting) sink.Setting {
	switch {
	case conf.Metadata[metadataCreator] != creator:
		setting.Outcome, setting.Why = sink.Unchanged, "relay did not create the stream and leaves it as it is"
	case !s.cfg.Create.Enabled:
		setting.Outcome, setting.Why = sink.Unchanged, "create.enabled is false, so relay leaves the stream as it is"
	case setting.Outcome != sink.Changes:
	case s.applied[setting.Key] == setting.Want:
		setting.Outcome, setting.Why = sink.Unchanged, errContested.Error()
	}
	return setting
}

const confirm = "set create.allow_deletion: true to confirm it, then reload relay"

// judgeAge returns why relay does not set max_age to want as things are; an empty outcome means
// that it does. A first limit that no stored message exceeds deletes nothing. A lower limit always
// needs the confirmation, for it takes time away that consumers may count on.
func (s *settings) judgeAge(info *jetstream.StreamInfo, want time.Duration) (why string, _ sink.Outcome) {
	have := info.Config.MaxAge
	if want == 0 || have > 0 && want > have || info.State.Msgs == 0 {
		return "", ""
	}
	now := info.TimeStamp
	if now.IsZero() {
		now = time.Now()
	}
	oldest := now.Sub(info.State.FirstTime)
	switch {
	case have == 0 && oldest < want:
		return "", ""
	case s.cfg.Create.AllowDeletion:
		return "this deletes older messages, as create.allow_deletion allows", ""
	case oldest >= want:
		return fmt.Sprintf("this would delete stored messages, the oldest being %s old; %s", durationText(oldest.Truncate(time.Second)), confirm), sink.HeldBack
	default:
		return "this would delete stored messages earlier than now; " + confirm, sink.HeldBack
	}
}

// leastBytes is the smallest max_bytes of a stream that holds positions. Below that a position
// could be dropped with the events before it, and its lane would have to ask where to go on.
const leastBytes = 16 << 10

// judgeBytes is judgeAge for max_bytes.
func (s *settings) judgeBytes(info *jetstream.StreamInfo, want int64) (why string, outcome sink.Outcome) {
	why, outcome = s.judgeDeletion(info, want)
	position := slices.ContainsFunc(info.Config.Subjects, func(subject string) bool {
		return sink.Matches(positionSubjects, subject) || sink.Matches(subject, positionSubjects)
	})
	if outcome == "" && want > 0 && want < leastBytes && position {
		return fmt.Sprintf("so small a limit would delete relay's position; use at least %s", bytesText(leastBytes)), sink.Unchanged
	}
	return why, outcome
}

func (s *settings) judgeDeletion(info *jetstream.StreamInfo, want int64) (why string, _ sink.Outcome) {
	have, stored := max(info.Config.MaxBytes, 0), int64(min(info.State.Bytes, 1<<62)) //nolint:gosec // no stream is as large
	switch {
	case want == 0, have > 0 && want > have, info.State.Msgs == 0, have == 0 && stored <= want:
		return "", ""
	case s.cfg.Create.AllowDeletion:
		return "this deletes the oldest messages, as create.allow_deletion allows", ""
	case stored > want:
		return fmt.Sprintf("this would delete stored messages, which take %s; %s", bytesText(stored), confirm), sink.HeldBack
	default:
		return "this would delete stored messages earlier than now; " + confirm, sink.HeldBack
	}
}

func (s *settings) judgeReplicas(info *jetstream.StreamInfo, want int) (why string, _ sink.Outcome) {
	switch have := info.Config.Replicas; {
	case want > have && (info.Cluster == nil || info.Cluster.Name == ""): // a single server names itself as leader
		return "the NATS server is not part of a cluster, so there is one copy", sink.Unchanged
	case want > have || s.cfg.Create.AllowDeletion:
		return "", ""
	default:
		return fmt.Sprintf("this would delete %s; %s", copies(have-want), confirm), sink.HeldBack
	}
}

func copies(n int) string {
	if n == 1 {
		return "a copy of each stored message"
	}
	return fmt.Sprintf("%d copies of each stored message", n)
}

// apply changes one setting and records how that went. It reads the stream again just before, since
// the server has no compare and swap for it.
func (s *settings) apply(ctx context.Context, l *link, t *tunable) {
	info, err := s.stream.info(ctx, l)
	if err == nil {
		conf := info.Config
		t.set(&conf)
		info, err = s.update(ctx, l, conf)
	}
	differs := func(other tunable) bool { return other.Key == t.Key }
	switch {
	case err != nil:
		t.Outcome, t.Why = sink.Unchanged, "the NATS server refuses the change: "+reason(err)
		if advice := s.account.refusalAdvice(err); advice != "" {
			t.Why += "; " + advice
		}
	case slices.ContainsFunc(s.differences(info), differs):
		t.Outcome, t.Why = sink.Unchanged, "the NATS server answered that it made the change, and did not: it is too old for this setting; update it"
	}
	if t.Outcome != sink.Changes {
		s.cfg.Logger.Warn("cannot change a setting of the stream", zap.String("stream", s.cfg.Stream), zap.String("setting", t.Key),
			zap.String("from", t.Have), zap.String("to", t.Want), zap.String("reason", t.Why))
		return
	}
	t.Outcome = sink.Changed
	s.applied[t.Key] = t.Want
	s.cfg.Logger.Info("changed a setting of the stream", zap.String("stream", s.cfg.Stream), zap.String("setting", t.Key),
		zap.String("from", t.Have), zap.String("to", t.Want))
}

func (s *settings) update(ctx context.Context, l *link, conf jetstream.StreamConfig) (*jetstream.StreamInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.AckTimeout)
	defer cancel()
	stream, err := l.js.UpdateStream(ctx, conf)
	if err != nil {
		return nil, l.explainAPI("changing stream "+s.cfg.Stream, err)
	}
	return s.stream.noted(stream.CachedInfo()), nil
}

// reason is the server's own words if it has refused a request, else the whole error.
func reason(err error) string {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return fmt.Sprintf("%s (error %d)", printable.Text(api.Description), api.ErrorCode)
	}
	return printable.Text(err.Error())
}

// asked is what the configuration names of the stream; nil for what it leaves to the stream.
type asked struct {
	replicas   *int
	maxAge     *time.Duration
	maxBytes   *int64
	duplicates *time.Duration

	placement   **jetstream.Placement // the inner pointer is nil for none
	compression *jetstream.StoreCompression
	metadata    map[string]string
}

// askedBy must be called before withDefaults, which sets what the configuration does not name.
func askedBy(c Config) asked {
	var a asked
	if c.Create.Has("replicas", c.Create.Replicas != 0) {
		n := max(c.Create.Replicas, 1)
		a.replicas = &n
	}
	if c.Create.Has("max_age", c.Create.MaxAge != 0) {
		a.maxAge = &c.Create.MaxAge
	}
	if c.Create.Has("max_bytes", c.Create.MaxBytes != 0) {
		n := int64(c.Create.MaxBytes)
		a.maxBytes = &n
	}
	if c.Create.Has("placement", !c.Create.Placement.isZero()) {
		p := c.Create.placement()
		a.placement = &p
	}
	if c.Create.Has("compression", c.Create.Compression != "") {
		compression := c.Create.compression()
		a.compression = &compression
	}
	a.metadata = c.Create.Metadata
	if c.Has("duplicate_window", c.DuplicateWindow != 0) {
		d := c.withDefaults().DuplicateWindow
		a.duplicates = &d
	}
	return a
}

// placementText is a placement: "cluster east, tags eu, ssd". Servers compare tags without regard
// to case, and their order does not matter.
func placementText(p *jetstream.Placement) string {
	var parts []string
	if p != nil && p.Cluster != "" {
		parts = append(parts, "cluster "+printable.Text(p.Cluster))
	}
	if p != nil && len(p.Tags) > 0 {
		var tags []string
		for _, tag := range p.Tags {
			tags = append(tags, printable.Text(strings.ToLower(tag)))
		}
		slices.Sort(tags)
		parts = append(parts, "tags "+strings.Join(slices.Compact(tags), ", "))
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func compressionText(c jetstream.StoreCompression) string {
	if c == jetstream.S2Compression {
		return compressionS2
	}
	return compressionNone
}

// metadataText is metadata: "env=prod, team=platform".
func metadataText(m map[string]string) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, printable.Text(key+"="+m[key]))
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// ageText is a max_age.
func ageText(d time.Duration) string {
	if d == 0 {
		return "0s (no limit)"
	}
	return durationText(d)
}

// durationText is d without units that are zero: 720h, not 720h0m0s.
func durationText(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// bytesText is a max_bytes or a size.
func bytesText(n int64) string {
	if n == 0 {
		return "0 (no limit)"
	}
	return unit.Bytes(n).String()
}
