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

	"workos-relay/sink"
)

// buckets keeps a key-value bucket for each topic of state messages: a stream that the server fills
// from the stream of the events, and that binds no subject, so that nobody can publish to it.
// What a bucket lacks after it was deleted, the server copies again, for the stream of the events
// has the newest version of each object. Methods may be called from any goroutine.
type buckets struct {
	cfg     *Config
	conn    *connection
	account account

	mu     sync.Mutex
	origin string    // createdText of the stream of the events, since prepare
	next   time.Time // when restore looks again
	// reported is why a bucket cannot be restored, by its topic, as the log says it.
	reported map[string]string
}

// restoreEvery is how often a lane at the tip looks whether each bucket is there.
const restoreEvery = 30 * time.Second

const (
	bucketStream  = "KV_"  // begins the name of the stream of a bucket
	bucketSubject = "$KV." // begins the subjects of a bucket
	bucketWord    = "STATE_"
	stateWord     = "state."
	// metadataOrigin says of a bucket which stream it copies: when that was created.
	metadataOrigin = "relay.origin"
)

// BucketOf returns the name of the bucket that holds the objects of a topic of state messages:
// STATE_user, or acme_STATE_user for the topic prefix "acme.".
func BucketOf(t sink.StateTopic) string {
	prefix := strings.TrimRight(strings.TrimSuffix(t.Topic, stateWord+t.Entity), ".")
	if prefix != "" {
		prefix = strings.ReplaceAll(prefix, ".", "_") + "_"
	}
	return prefix + bucketWord + t.Entity
}

// transformOf returns how subjects of the stream of the events become keys of a bucket.
func transformOf(t sink.StateTopic) jetstream.SubjectTransformConfig {
	return jetstream.SubjectTransformConfig{Source: t.Topic + ".>", Destination: bucketSubject + BucketOf(t) + ".>"}
}

// planned is the configuration of the stream of a bucket that relay creates.
func (b *buckets) planned(t sink.StateTopic) jetstream.StreamConfig {
	metadata := map[string]string{}
	maps.Copy(metadata, b.cfg.Create.Metadata)
	metadata[metadataCreator], metadata[metadataRelay] = creator, b.cfg.RelayID
	b.mu.Lock()
	metadata[metadataOrigin] = b.origin
	b.mu.Unlock()
	return jetstream.StreamConfig{
		Name:              bucketStream + BucketOf(t),
		Description:       "Current state of each " + t.Entity + " of WorkOS",
		Storage:           jetstream.FileStorage,
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardNew,
		Replicas:          max(b.cfg.Create.Replicas, 1),
		MaxMsgs:           -1,
		MaxBytes:          -1,
		MaxMsgsPerSubject: 1,
		AllowDirect:       true,
		AllowMsgTTL:       true, // so that markers of removed objects expire
		DenyDelete:        true,
		Placement:         b.cfg.Create.placement(),
		Compression:       b.cfg.Create.compression(),
		Metadata:          metadata,
		Sources: []*jetstream.StreamSource{{
			Name: b.cfg.Stream, SubjectTransforms: []jetstream.SubjectTransformConfig{transformOf(t)},
		}},
	}
}

// prepare creates each bucket that is missing, and returns an error if one cannot be used. info is
// of the stream of the events.
func (b *buckets) prepare(ctx context.Context, l *link, info *jetstream.StreamInfo) error {
	b.mu.Lock()
	b.origin = createdText(info)
	b.mu.Unlock()
	for _, t := range b.cfg.State {
		if err := b.prepareOne(ctx, l, t); err != nil {
			return err
		}
	}
	return nil
}

func (b *buckets) prepareOne(ctx context.Context, l *link, t sink.StateTopic) error {
	info, err := b.info(ctx, l, t)
	switch {
	case err == nil:
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return err
	case !b.cfg.Create.Enabled:
		return &sink.FatalError{Err: fmt.Errorf("%s: create it, or set create.enabled", b.missing(t))}
	default:
		return b.create(ctx, l, t)
	}
	if problems := b.refusals(t, info.Config); problems != nil {
		return &sink.FatalError{Err: fmt.Errorf("bucket %s cannot be used: %s", BucketOf(t), strings.Join(problems, "; "))}
	}
	return b.adapt(ctx, l, t, info.Config)
}

func (b *buckets) info(ctx context.Context, l *link, t sink.StateTopic) (*jetstream.StreamInfo, error) {
	var stream jetstream.Stream
	err := b.conn.untilAnswered(ctx, func(ctx context.Context) (err error) {
		stream, err = l.js.Stream(ctx, bucketStream+BucketOf(t))
		return err
	})
	if err != nil {
		return nil, l.explainAPI("looking for bucket "+BucketOf(t), err)
	}
	return stream.CachedInfo(), nil
}

func (b *buckets) missing(t sink.StateTopic) string {
	return fmt.Sprintf("bucket %s does not exist, so nothing shows the current state that stream %s holds on %s.>", BucketOf(t), b.cfg.Stream, t.Topic)
}

func (b *buckets) create(ctx context.Context, l *link, t sink.StateTopic) error {
	conf := b.planned(t)
	ctx, cancel := context.WithTimeout(ctx, b.cfg.AckTimeout)
	defer cancel()
	_, err := l.js.CreateStream(ctx, conf)
	switch {
	case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse): // by another relay, a moment ago
		return nil
	case err != nil:
		return b.account.explainUnmade(l, "creating bucket "+BucketOf(t), err, nil)
	}
	b.cfg.Logger.Info("created bucket", zap.String("bucket", BucketOf(t)), zap.Int("replicas", conf.Replicas), zap.String("copies", t.Topic+".>"))
	return nil
}

// adapt changes a bucket that relay created. It raises the number of replicas to that of the
// configuration. If the stream of the events was deleted and created again, adapt makes the bucket
// copy it from its first message: servers before 2.15 would wait until the new stream reaches the
// last sequence of the old one.
func (b *buckets) adapt(ctx context.Context, l *link, t sink.StateTopic, conf jetstream.StreamConfig) error {
	if !b.cfg.Create.Enabled || conf.Metadata[metadataCreator] != creator {
		return nil
	}
	var changes []string
	if want := b.cfg.Create.Replicas; conf.Replicas < want && l.nc.ConnectedClusterName() != "" {
		changes = append(changes, "replicas "+strconv.Itoa(conf.Replicas)+" to "+strconv.Itoa(want))
		conf.Replicas = want
	}
	if origin := b.planned(t).Metadata[metadataOrigin]; conf.Metadata[metadataOrigin] != origin {
		changes = append(changes, "it copies the stream that was made again")
		conf.Metadata = maps.Clone(conf.Metadata)
		conf.Metadata[metadataOrigin] = origin
		// A source with other transforms is another one, which the server begins at the first
		// message.
		token := strings.NewReplacer(":", "", ".", "", "-", "").Replace(origin)
		conf.Sources = []*jetstream.StreamSource{{Name: b.cfg.Stream, SubjectTransforms: []jetstream.SubjectTransformConfig{
			transformOf(t), {Source: "relay.origin." + token, Destination: bucketSubject + BucketOf(t) + ".relay.origin." + token},
		}}}
	}
	if changes == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.AckTimeout)
	defer cancel()
	if _, err := l.js.UpdateStream(ctx, conf); err != nil {
		return b.account.explainUnmade(l, "changing bucket "+BucketOf(t), err, nil)
	}
	b.cfg.Logger.Info("changed bucket", zap.String("bucket", BucketOf(t)), zap.Strings("changes", changes))
	return nil
}

// refusals says why a bucket cannot be used; nil if it can.
func (b *buckets) refusals(t sink.StateTopic, conf jetstream.StreamConfig) []string {
	var problems []string
	refuse := func(when bool, why string) {
		if when {
			problems = append(problems, why)
		}
	}
	copies := slices.ContainsFunc(conf.Sources, func(s *jetstream.StreamSource) bool {
		return s.Name == b.cfg.Stream && slices.Contains(s.SubjectTransforms, transformOf(t))
	})
	refuse(!copies, fmt.Sprintf("it does not copy %s.> of stream %s: it belongs to another relay or program; set topic_prefix, which begins the names of "+
		"buckets, or delete the bucket", t.Topic, b.cfg.Stream))
	refuse(conf.MaxMsgsPerSubject < 1, "it keeps more than the newest version of each object (max_msgs_per_subject), so clients take it for no bucket: set that to 1")
	refuse(conf.MaxAge > 0, fmt.Sprintf("its max_age of %v forgets objects that do not change: take that away", conf.MaxAge))
	refuse(conf.Sealed, "it is sealed and takes no messages any more: delete it, and relay makes it again")
	return problems
}

// warnings says what weakens a bucket that can be used.
func (b *buckets) warnings(conf jetstream.StreamConfig) []string {
	var found []string
	if conf.Storage == jetstream.MemoryStorage {
		found = append(found, "the bucket is kept in memory: a restart of the server empties it, and then fills it again")
	}
	if len(conf.Subjects) > 0 {
		found = append(found, "the bucket binds "+strings.Join(conf.Subjects, ", ")+", so others can write to it: take that away")
	}
	return found
}

// stateWarnings says what limits of the stream of the events mean for the state in it.
func stateWarnings(conf jetstream.StreamConfig) []string {
	if conf.MaxBytes <= 0 && conf.MaxMsgs <= 0 {
		return nil
	}
	return []string{"the stream has a limit of size (max_bytes or max_msgs), which also drops the state of objects that did not change for long: " +
		"a bucket keeps what it has copied, but one that is deleted is then filled only in part; after that run `relay snapshot`"}
}

// restore creates each bucket again that was deleted since prepare: a command that only reads
// creates none. It looks no more often than every restoreEvery. The lane needs no bucket, because
// the stream of the events has the state: if restore fails it logs why, once for each cause, and
// looks again later.
func (b *buckets) restore(ctx context.Context, l *link) {
	b.mu.Lock()
	due := b.origin != "" && len(b.cfg.State) > 0 && !time.Now().Before(b.next)
	if due {
		b.next = time.Now().Add(restoreEvery)
	}
	b.mu.Unlock()
	if !due {
		return
	}
	bounded := ctx
	if deadline, ok := ctx.Deadline(); ok { // what is left tells a bucket without an answer from a bus without one
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	for _, t := range b.cfg.State {
		err := b.restoreOne(bounded, l, t)
		if ctx.Err() != nil {
			return
		}
		b.report(t, err)
	}
}

func (b *buckets) restoreOne(ctx context.Context, l *link, t sink.StateTopic) error {
	_, err := b.info(ctx, l, t)
	switch {
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return err
	case !b.cfg.Create.Enabled:
		return fmt.Errorf("%s: create it, or set create.enabled", b.missing(t))
	}
	if err := b.create(ctx, l, t); err != nil {
		return err
	}
	b.cfg.Logger.Warn("a bucket was deleted; relay has created it again, and the server fills it from the stream", zap.String("bucket", BucketOf(t)))
	return nil
}

// report logs that a bucket cannot be restored, unless it has said so already.
func (b *buckets) report(t sink.StateTopic, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		delete(b.reported, t.Topic)
		return
	}
	if b.reported[t.Topic] == err.Error() {
		return
	}
	if b.reported == nil {
		b.reported = map[string]string{}
	}
	b.reported[t.Topic] = err.Error()
	b.cfg.Logger.Warn("cannot restore a bucket; the lane continues, and the stream holds the state", zap.String("bucket", BucketOf(t)), zap.Error(err))
}

// inspect completes what `relay check` says of a topic of state messages.
func (b *buckets) inspect(ctx context.Context, l *link, t sink.StateTopic, st *sink.TopicStatus) error {
	info, err := b.info(ctx, l, t)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		if !b.cfg.Create.Enabled {
			st.Problems = append(st.Problems, b.missing(t)+": create it, or set create.enabled")
		}
		st.Creates = b.cfg.Create.Enabled && len(st.Problems) == 0
		st.Exists = false
		st.Detail = strings.TrimSuffix("bucket "+BucketOf(t)+", to be created; "+st.Detail, "; ")
	case err != nil:
		return err
	default:
		st.Problems = append(st.Problems, b.refusals(t, info.Config)...)
		st.Warnings = append(st.Warnings, b.warnings(info.Config)...)
		detail := fmt.Sprintf("bucket %s, replicas %d", BucketOf(t), info.Config.Replicas)
		for _, s := range info.Sources {
			if s.Name == b.cfg.Stream && s.Lag > 0 {
				detail += fmt.Sprintf(", %d behind the stream", s.Lag)
			}
		}
		st.Detail = strings.TrimSuffix(detail+"; "+st.Detail, "; ")
	}
	if len(st.Problems) > 0 {
		st.Exists, st.Creates = false, false
	}
	return nil
}
